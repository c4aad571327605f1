//! Strings, arrays, results and descriptors that cross the border: checked, and copied where they are kept.

use super::codes::{BROKER_EINVAL, BROKER_FOREVER};
use std::ffi::{CStr, CString, c_char, c_int};
use std::os::fd::{FromRawFd, OwnedFd};

/// Most words a command may have, as in Redis.
const WORDS_MAX: usize = 1024 * 1024;

/// A NUL-terminated UTF-8 string; NULL is not allowed.
pub(super) fn required_str<'a>(text: *const c_char) -> Result<&'a str, c_int> {
    opt_str(text)?.ok_or(BROKER_EINVAL)
}

/// A NUL-terminated UTF-8 string, or NULL.
pub(super) fn opt_str<'a>(text: *const c_char) -> Result<Option<&'a str>, c_int> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the header requires a NUL-terminated string that outlives the call; no caller keeps it longer.
    unsafe { CStr::from_ptr(text) }.to_str().map(Some).map_err(|_| BROKER_EINVAL)
}

/// Bytes with a length; NULL only with length 0.
pub(super) fn bytes<'a>(start: *const c_char, len: usize) -> Result<&'a [u8], c_int> {
    match (start.is_null(), len) {
        (true, 0) => Ok(&[]),
        (true, _) => Err(BROKER_EINVAL),
        (false, len) if len > isize::MAX as usize => Err(BROKER_EINVAL),
        // SAFETY: the header requires `len` readable bytes that outlive the call.
        (false, len) => Ok(unsafe { std::slice::from_raw_parts(start.cast(), len) }),
    }
}

/// The words of a command. With a NULL `argvlen` each ends at its NUL.
pub(super) fn words<'a>(
    argc: usize,
    argv: *const *const c_char,
    argvlen: *const usize,
) -> Result<Vec<&'a [u8]>, c_int> {
    if argc == 0 || argc > WORDS_MAX || argv.is_null() {
        return Err(BROKER_EINVAL);
    }
    // SAFETY: the header requires `argc` pointers at `argv`, and as many lengths at `argvlen` or NULL.
    let (starts, lens) = unsafe {
        let lens = (!argvlen.is_null()).then(|| std::slice::from_raw_parts(argvlen, argc));
        (std::slice::from_raw_parts(argv, argc), lens)
    };
    let word = |(index, start): (usize, &*const c_char)| match lens {
        Some(lens) => bytes(*start, lens[index]),
        None if start.is_null() => Err(BROKER_EINVAL),
        // SAFETY: without lengths the words are NUL-terminated.
        None => Ok(unsafe { CStr::from_ptr(*start) }.to_bytes()),
    };
    starts.iter().enumerate().map(word).collect()
}

/// The time limit of a request: milliseconds, 0 for none.
pub(super) fn patience(timeout_ms: c_int) -> Result<u64, c_int> {
    match waiting_time(timeout_ms)? {
        Some(0) => Err(BROKER_EINVAL),
        limit => Ok(limit.unwrap_or(0)),
    }
}

/// How long to wait for an event; `None` means no limit.
pub(super) fn waiting_time(timeout_ms: c_int) -> Result<Option<u64>, c_int> {
    match timeout_ms {
        BROKER_FOREVER => Ok(None),
        0.. => Ok(Some(timeout_ms.unsigned_abs().into())),
        _ => Err(BROKER_EINVAL),
    }
}

/// Milliseconds for C; -1 for no limit.
pub(super) fn millis(timeout: Option<u64>) -> c_int {
    timeout.map_or(-1, |timeout| c_int::try_from(timeout).unwrap_or(c_int::MAX))
}

/// Copies like snprintf(); returns the whole length without the NUL.
pub(super) fn copy_out(text: &str, buf: *mut c_char, len: usize) -> c_int {
    if buf.is_null() && len > 0 {
        return BROKER_EINVAL;
    }
    if len > 0 {
        let count = text.len().min(len - 1);
        // SAFETY: the header requires `len` writable bytes at `buf`; `count` and the NUL fit.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buf, count);
            buf.add(count).write(0);
        }
    }
    c_int::try_from(text.len()).unwrap_or(c_int::MAX)
}

/// Stores a result, if the caller wants it.
pub(super) fn give<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the header requires NULL or a pointer to such a value.
        unsafe { to.write(value) };
    }
}

/// Sets the result of a constructor to NULL before it does anything else.
pub(super) fn give_none<T>(out: *mut *mut T) -> Result<(), c_int> {
    give(out, std::ptr::null_mut());
    if out.is_null() { Err(BROKER_EINVAL) } else { Ok(()) }
}

/// A descriptor that the caller gives away.
pub(super) fn own_fd(fd: c_int) -> Option<OwnedFd> {
    // SAFETY: fcntl only checks whether the number is an open descriptor.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return None;
    }
    // SAFETY: open, as just checked, and owned by the caller.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Text kept for a caller; a NUL inside it would hide the rest.
pub(super) fn own_words(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}
