//! The error codes: one table of number, name and text. Numbers are never reused; new ones are added at the end. No code is
//! a negated errno or -1, which is BROKER_FOREVER.

use std::ffi::{CStr, c_char, c_int};

/// Success.
pub const BROKER_OK: c_int = 0;
/// An invalid argument: a NULL, an empty command, a malformed endpoint.
pub const BROKER_EINVAL: c_int = -201;
/// The handle is closed, the request is already complete, or the loop no longer serves.
pub const BROKER_ESTATE: c_int = -202;
/// Too much is queued. Nothing was queued by this call; wait for replies and try again.
pub const BROKER_EAGAIN: c_int = -203;
/// The handle is in use: by a function further up in this thread, or by another thread.
pub const BROKER_EREENTRANT: c_int = -204;
/// The request's own timeout passed, or the broker's `request_timeout`. If the request had been sent, it may have
/// been executed.
pub const BROKER_ETIMEDOUT: c_int = -205;
/// Canceled by broker_client_cancel(), or its handle was freed. If the request had been sent, it may have been
/// executed.
pub const BROKER_ECANCELED: c_int = -206;
/// No connection: the request was not sent, so it was not executed and is safe to repeat.
pub const BROKER_ECONN: c_int = -207;
/// The connection broke after the request, or a part of it, was sent: it was executed once or not at all.
pub const BROKER_ELOST: c_int = -208;
/// The peer sent bytes that are not RESP.
pub const BROKER_EPROTO: c_int = -209;
/// The peer refused the user, the password, the database or the name.
pub const BROKER_EAUTH: c_int = -210;
/// A limit of the broker was reached (its error BROKERLIMIT): not executed, safe to repeat later.
pub const BROKER_ELIMIT: c_int = -211;
/// The handle belongs to the process this one was forked from, or has followed a fork into another one. Free it, or
/// call broker_client_after_fork().
pub const BROKER_EFORKED: c_int = -212;
/// A configuration key or value is invalid; the object's last error names it and what is allowed.
pub const BROKER_ECONFIG: c_int = -213;
/// This function does not accept this command; broker_client_error() names the function that does.
pub const BROKER_EUNSUPPORTED: c_int = -214;
/// A system call failed: no descriptors, no permission, no such file. With this code, and only then, errno has the
/// reason; 0 if there is none.
pub const BROKER_ESYS: c_int = -215;
/// The library caught a bug of its own. The handle can only be freed.
pub const BROKER_EPANIC: c_int = -216;

/// The timeout that never passes.
pub const BROKER_FOREVER: c_int = -1;

/// Code, name and text.
const TABLE: &[(c_int, &CStr, &CStr)] = &[
    (BROKER_OK, c"BROKER_OK", c"success"),
    (BROKER_EINVAL, c"BROKER_EINVAL", c"invalid argument"),
    (BROKER_ESTATE, c"BROKER_ESTATE", c"the handle is closed, or the request is complete"),
    (BROKER_EAGAIN, c"BROKER_EAGAIN", c"too much is queued; try again later"),
    (BROKER_EREENTRANT, c"BROKER_EREENTRANT", c"the handle is in use"),
    (BROKER_ETIMEDOUT, c"BROKER_ETIMEDOUT", c"timed out; a request that was sent may have been executed"),
    (BROKER_ECANCELED, c"BROKER_ECANCELED", c"canceled; a request that was sent may have been executed"),
    (BROKER_ECONN, c"BROKER_ECONN", c"not connected; the request was not sent"),
    (BROKER_ELOST, c"BROKER_ELOST", c"connection lost; the request may have been executed"),
    (BROKER_EPROTO, c"BROKER_EPROTO", c"the peer does not speak the protocol"),
    (BROKER_EAUTH, c"BROKER_EAUTH", c"the peer refused the user, password, database or name"),
    (BROKER_ELIMIT, c"BROKER_ELIMIT", c"a limit of the broker was reached; not executed"),
    (BROKER_EFORKED, c"BROKER_EFORKED", c"the handle belongs to the parent process; see after_fork"),
    (BROKER_ECONFIG, c"BROKER_ECONFIG", c"invalid configuration"),
    (BROKER_EUNSUPPORTED, c"BROKER_EUNSUPPORTED", c"this function does not accept this command"),
    (BROKER_ESYS, c"BROKER_ESYS", c"a system call failed"),
    (BROKER_EPANIC, c"BROKER_EPANIC", c"internal error; the handle can only be freed"),
];

/// The text of a code. Static; never NULL, not even for an unknown code. [any thread, in callbacks,
/// after a fork]
#[unsafe(no_mangle)]
pub extern "C" fn broker_strerror(code: c_int) -> *const c_char {
    let found = TABLE.iter().find(|row| row.0 == code);
    found.map_or(c"unknown code", |row| row.2).as_ptr()
}

/// The name of a code, such as "BROKER_EAGAIN". Static; never NULL, not even for an unknown code. [any
/// thread, in callbacks, after a fork]
#[unsafe(no_mangle)]
pub extern "C" fn broker_err_name(code: c_int) -> *const c_char {
    let found = TABLE.iter().find(|row| row.0 == code);
    found.map_or(c"BROKER_UNKNOWN", |row| row.1).as_ptr()
}

/// The code of an outcome without a value.
pub(super) fn code(outcome: Result<(), c_int>) -> c_int {
    outcome.map_or_else(|code| code, |()| BROKER_OK)
}

/// The version of the library linked at run time: 0xMMmmpp00, like BROKER_VERSION_HEX of the header. [any thread, in
/// callbacks, after a fork]
#[unsafe(no_mangle)]
pub extern "C" fn broker_version() -> std::ffi::c_uint {
    VERSION
}

/// The number of forks between the first process and this one: a changed value means that this process is a copy.
/// Makes no system call. [any thread, in callbacks, after a fork; async-signal-safe]
#[unsafe(no_mangle)]
pub extern "C" fn broker_fork_count() -> std::ffi::c_uint {
    super::fork::count() as std::ffi::c_uint
}

const VERSION: std::ffi::c_uint = number(env!("CARGO_PKG_VERSION_MAJOR")) << 24
    | number(env!("CARGO_PKG_VERSION_MINOR")) << 16
    | number(env!("CARGO_PKG_VERSION_PATCH")) << 8;

/// A part of the version; Cargo has checked that it consists of digits.
const fn number(digits: &str) -> std::ffi::c_uint {
    match std::ffi::c_uint::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => panic!("not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No code is BROKER_FOREVER or a negated errno; codes are unique and in the order of the table.
    #[test]
    fn codes_are_numbers_of_their_own() {
        let codes: Vec<c_int> = TABLE.iter().map(|row| row.0).collect();
        assert_eq!(codes[0], BROKER_OK);
        assert!(codes[1..].iter().all(|code| (-299..=-201).contains(code)), "{codes:?}");
        assert!(codes.windows(2).all(|pair| pair[0] > pair[1]), "{codes:?}");
    }
}
