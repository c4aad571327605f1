//! `broker_reply_t`: one value of a reply, and through it the whole reply. Owns the replies that are handed out, and for a
//! while the freed ones, so that a second free is detected. Parses nothing: that is `crate::resp::tree`.

use super::border::{gate, shield};
use super::codes::*;
use super::text::give;
use crate::resp::tree::{Kind, Tree};
use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int};
use std::ptr;
use std::str::FromStr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// Null, of any kind.
pub const BROKER_REPLY_NIL: c_int = 0;
/// A status such as "OK".
pub const BROKER_REPLY_STATUS: c_int = 1;
/// An error; its text begins with its code, such as "WRONGTYPE".
pub const BROKER_REPLY_ERROR: c_int = 2;
/// A 64-bit integer.
pub const BROKER_REPLY_INTEGER: c_int = 3;
/// A floating point number (RESP3).
pub const BROKER_REPLY_DOUBLE: c_int = 4;
/// True or false (RESP3).
pub const BROKER_REPLY_BOOL: c_int = 5;
/// A string of any bytes.
pub const BROKER_REPLY_STRING: c_int = 6;
/// A string with a format (RESP3); the format is omitted.
pub const BROKER_REPLY_VERBATIM: c_int = 7;
/// An integer of any size, as text (RESP3).
pub const BROKER_REPLY_BIGNUM: c_int = 8;
/// An ordered list of values.
pub const BROKER_REPLY_ARRAY: c_int = 9;
/// Keys and values, alternating (RESP3).
pub const BROKER_REPLY_MAP: c_int = 10;
/// An unordered list of values (RESP3).
pub const BROKER_REPLY_SET: c_int = 11;
/// A value that is not the reply to a request: a message, an invalidation (RESP3).
pub const BROKER_REPLY_PUSH: c_int = 12;

/// One value of a reply; immutable. A callback borrows it: the reply and everything reached through it are valid until the
/// callback returns, unless broker_reply_dup() has kept it. The caller frees kept replies and those of the call
/// functions with broker_reply_free(), in any thread. Plain memory: usable after a fork.
///
/// Methods: broker_reply_type, _integer, _double, _string, _len, _at, _raw, _dup, _free.
#[allow(non_camel_case_types)]
pub struct broker_reply_t {
    /// The head that owns this value's tree: the one around this value, one it holds, or one that is held for it. Not
    /// unmapped before this value.
    whole: *const ReplyHead,
    index: u32,
    role: Role,
}

/// Who may free a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The whole reply: inside the head that owns the tree.
    Root,
    /// A part: valid as long as the whole.
    Part,
    /// A kept part: inside its own head, which holds the head with the tree.
    Kept,
}

/// What is handed out. When the last holder is gone, the tree is freed at once, but the head only after many others, so
/// that a stale pointer to it can be detected.
#[repr(C)]
struct ReplyHead {
    /// First, so that both have the same address.
    value: broker_reply_t,
    /// Upper half: the number of holders (the library, callers, kept parts). Lower half: how many of them have to be
    /// freed by a caller, plus one once there has been any.
    holders: AtomicU64,
    /// `None` in the head of a kept part, and when there are no holders.
    tree: UnsafeCell<Option<(Tree, Box<[broker_reply_t]>)>>,
}

const HOLDER: u64 = 1 << 32;
/// Values of the lower half: no caller ever had to free it; callers had to, and have.
const NEVER: u32 = 0;
const NO_MORE: u32 = 1;
/// A program that exceeds this keeps replies without end.
const HOLDERS_MAX: u32 = 1 << 30;

/// Heads without holders, and the index of the next. A head is freed after as many others have been.
static OVER: [AtomicPtr<ReplyHead>; 256] = [const { AtomicPtr::new(ptr::null_mut()) }; 256];
static NEXT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: immutable except the count, and `tree` when no holder is left to look at it; `Tree` may be shared between
// threads, and the pointers lead to the head itself.
unsafe impl Send for ReplyHead {}
// SAFETY: as above.
unsafe impl Sync for ReplyHead {}

impl ReplyHead {
    fn create(whole: *const ReplyHead, index: u32, role: Role, holders: u64) -> *mut ReplyHead {
        let value = broker_reply_t { whole, index, role };
        let head = ReplyHead { value, holders: AtomicU64::new(holders), tree: UnsafeCell::new(None) };
        Box::into_raw(Box::new(head))
    }

    /// Changes the count unless `change` returns `None`; returns the count before, or the present one if unchanged.
    fn count(&self, change: impl Fn(u64) -> Option<u64>) -> Result<u64, u64> {
        self.holders.fetch_update(Ordering::AcqRel, Ordering::Acquire, change)
    }

    fn is_over(&self) -> bool {
        self.holders.load(Ordering::Acquire) < HOLDER
    }
}

fn to_free(holders: u64) -> u32 {
    holders as u32
}

/// Adds a holder, counted by `by` among those that free; `None` if the reply has no holders any more.
fn one_more(holders: u64, by: u64) -> Option<u64> {
    let alive = holders >= HOLDER && holders >> 32 < u64::from(HOLDERS_MAX);
    alive.then_some(holders + HOLDER + by)
}

/// Removes a holder as `count` says; the last one frees the tree.
fn let_go(head: *const ReplyHead, before: u64) {
    if before >> 32 > 1 {
        return;
    }
    // SAFETY: the caller was the last holder, so nothing else reads the tree now or later: `is_over` tells.
    let tree = unsafe { (*(*head).tree.get()).take() };
    drop(tree);
    if to_free(before) == NEVER {
        // SAFETY: made by `create`; only borrowed, so no caller may free it or read it any more.
        drop(unsafe { Box::from_raw(head.cast_mut()) });
        return;
    }
    let place = NEXT.fetch_add(1, Ordering::Relaxed) % OVER.len();
    let oldest = OVER[place].swap(head.cast_mut(), Ordering::AcqRel);
    if !oldest.is_null() {
        // SAFETY: made by `create`, stored once when it had no holders, and removed by this swap alone.
        drop(unsafe { Box::from_raw(oldest) });
    }
}

/// A reply that the library holds while a callback runs, or until it hands it out.
pub(super) struct Owned(*const ReplyHead);

impl Owned {
    pub(super) fn new(tree: Tree) -> Owned {
        let head = ReplyHead::create(ptr::null(), 0, Role::Root, HOLDER);
        let count = u32::try_from(tree.values()).unwrap_or(u32::MAX);
        let part = |index| broker_reply_t { whole: head, index, role: Role::Part };
        let parts = (0..count).map(part).collect();
        // SAFETY: just created and not known elsewhere.
        unsafe {
            (*head).value.whole = head;
            (*head).tree = UnsafeCell::new(Some((tree, parts)));
        }
        Owned(head)
    }

    /// For a callback; valid as long as `self`.
    pub(super) fn borrowed(&self) -> *const broker_reply_t {
        self.0.cast()
    }

    /// Hands it out; the receiver frees it.
    pub(super) fn into_raw(self) -> *mut broker_reply_t {
        let value = self.borrowed();
        // SAFETY: held by `self`, whose hold passes to the caller.
        let head = unsafe { &*self.0 };
        let by = if to_free(head.holders.load(Ordering::Relaxed)) == NEVER { 2 } else { 1 };
        head.holders.fetch_add(by, Ordering::Relaxed);
        std::mem::forget(self);
        value.cast_mut()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: held by `self` until here.
        let before = unsafe { &*self.0 }.holders.fetch_sub(HOLDER, Ordering::AcqRel);
        let_go(self.0, before);
    }
}

fn head_of<'a>(value: *const broker_reply_t) -> &'a ReplyHead {
    // SAFETY: only such values get here. They are the first field of their head, which is readable for as long as the
    // header allows the pointer to be held, and for a while longer.
    unsafe { &*value.cast::<ReplyHead>() }
}

/// The tree with the values of its parts, and the index in it; `None` without one or after it was freed.
fn at<'a>(reply: *const broker_reply_t) -> Option<(&'a Tree, &'a [broker_reply_t], usize)> {
    if reply.is_null() {
        return None;
    }
    // SAFETY: the header requires a borrowed value or one not yet freed; recently freed ones are readable too.
    let value = unsafe { &*reply };
    if value.role == Role::Kept && head_of(reply).is_over() {
        return None;
    }
    // SAFETY: a part is inside its whole's tree, and a kept part holds that.
    let whole = unsafe { &*value.whole };
    if whole.is_over() {
        return None;
    }
    // SAFETY: it has a holder, so the tree is not freed.
    let (tree, parts) = unsafe { (*whole.tree.get()).as_ref()? };
    Some((tree, parts, value.index as usize))
}

/// What `body` says of a value; `none` where there is none.
fn look<R: Copy>(reply: *const broker_reply_t, none: R, body: impl FnOnce(&Tree, usize) -> R) -> R {
    shield(none, || at(reply).map_or(none, |(tree, _, index)| body(tree, index)))
}

/// One of BROKER_REPLY_*; BROKER_EINVAL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_type(reply: *const broker_reply_t) -> c_int {
    look(reply, BROKER_EINVAL, |tree, index| match tree.kind(index) {
        Kind::Nil => BROKER_REPLY_NIL,
        Kind::Status => BROKER_REPLY_STATUS,
        Kind::Error => BROKER_REPLY_ERROR,
        Kind::Integer => BROKER_REPLY_INTEGER,
        Kind::Double => BROKER_REPLY_DOUBLE,
        Kind::Bool => BROKER_REPLY_BOOL,
        Kind::String => BROKER_REPLY_STRING,
        Kind::Verbatim => BROKER_REPLY_VERBATIM,
        Kind::BigNumber => BROKER_REPLY_BIGNUM,
        Kind::Array => BROKER_REPLY_ARRAY,
        Kind::Map => BROKER_REPLY_MAP,
        Kind::Set => BROKER_REPLY_SET,
        Kind::Push => BROKER_REPLY_PUSH,
    })
}

/// The number of an INTEGER, 1 or 0 for a BOOL; 0 for anything else and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_integer(reply: *const broker_reply_t) -> i64 {
    look(reply, 0, |tree, index| match tree.kind(index) {
        Kind::Integer => number(tree, index),
        Kind::Bool => i64::from(tree.text(index) == Some(b"t")),
        _ => 0,
    })
}

/// The number of a DOUBLE (also infinity and NaN) or an INTEGER; 0 for anything else and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_double(reply: *const broker_reply_t) -> f64 {
    look(reply, 0.0, |tree, index| match tree.kind(index) {
        Kind::Double | Kind::Integer => number(tree, index),
        _ => 0.0,
    })
}

fn number<N: FromStr + Default>(tree: &Tree, index: usize) -> N {
    let text = tree.text(index).and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The bytes of a STATUS, ERROR, STRING or VERBATIM, and of a DOUBLE or BIGNUM as the server sent it. NULL for any other
/// type and for NULL, so check it before printing. The bytes are followed by a NUL that is not counted, and may contain
/// others. `len` may be NULL. Valid as long as the reply.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_string(reply: *const broker_reply_t, len: *mut usize) -> *const c_char {
    shield(ptr::null(), || {
        let text = at(reply).and_then(|(tree, _, index)| match tree.kind(index) {
            Kind::Integer | Kind::Bool => None,
            _ => tree.text_with_nul(index),
        });
        give(len, text.map_or(0, |text| text.len() - 1));
        text.map_or(ptr::null(), |text| text.as_ptr().cast())
    })
}

/// The number of elements of an ARRAY, MAP, SET or PUSH; each key and each value of a map counts as one. 0 for any other
/// type and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_len(reply: *const broker_reply_t) -> usize {
    look(reply, 0, |tree, index| tree.elements(index).len())
}

/// Element `i`, valid as long as the reply and not freed by itself. NULL beyond the last and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_at(reply: *const broker_reply_t, i: usize) -> *const broker_reply_t {
    shield(ptr::null(), || {
        let element = at(reply).and_then(|(tree, parts, index)| parts.get(tree.elements(index).nth(i)?));
        element.map_or(ptr::null(), ptr::from_ref)
    })
}

/// The value as RESP, byte for byte as received, without RESP3 attributes: the input of hiredis' redisReaderFeed().
/// Valid as long as the reply. NULL for NULL; `len` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_raw(reply: *const broker_reply_t, len: *mut usize) -> *const c_char {
    shield(ptr::null(), || {
        let raw = at(reply).map(|(tree, _, index)| tree.raw(index));
        give(len, raw.map_or(0, <[u8]>::len));
        raw.map_or(ptr::null(), |raw| raw.as_ptr().cast())
    })
}

/// Keeps a reply beyond its callback, without a copy; for a part, the whole reply is kept. Free the result once for each
/// call. NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_dup(reply: *const broker_reply_t) -> *mut broker_reply_t {
    shield(ptr::null_mut(), || {
        if at(reply).is_none() {
            return ptr::null_mut();
        }
        // SAFETY: as in `at`.
        let (whole, index, role) = unsafe { ((*reply).whole, (*reply).index, (*reply).role) };
        if role == Role::Part {
            // SAFETY: as in `at`.
            let held = unsafe { &*whole }.count(|holders| one_more(holders, 0));
            return match held {
                Ok(_) => ReplyHead::create(whole, index, Role::Kept, HOLDER + 2).cast(),
                Err(_) => ptr::null_mut(),
            };
        }
        let held = head_of(reply).count(|holders| {
            let by = if to_free(holders) == NEVER { 2 } else { 1 };
            one_more(holders, by)
        });
        held.map_or(ptr::null_mut(), |_| reply.cast_mut())
    })
}

/// Frees the result of broker_reply_dup() or of a call function, once for each time it was returned. NULL is BROKER_OK.
/// [any thread]
///
/// BROKER_ESTATE the second time, as long as fewer than some hundred other replies have been freed since; BROKER_EINVAL
/// for the reply of a callback and for a part of a reply, which are not freed.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_free(reply: *mut broker_reply_t) -> c_int {
    if reply.is_null() {
        return BROKER_OK;
    }
    gate(|| {
        // SAFETY: as in `at`.
        let (whole, role) = unsafe { ((*reply).whole, (*reply).role) };
        if role == Role::Part {
            return Err(BROKER_EINVAL);
        }
        let head = head_of(reply);
        let freed = head.count(|holders| (to_free(holders) > NO_MORE).then(|| holders - HOLDER - 1));
        match freed {
            Ok(before) => {
                let last = before >> 32 == 1;
                let_go(head, before);
                if role == Role::Kept && last {
                    // It was held by the kept part, which has just ended.
                    drop(Owned(whole));
                }
                Ok(BROKER_OK)
            }
            Err(holders) if to_free(holders) == NEVER => Err(BROKER_EINVAL),
            Err(_) => Err(BROKER_ESTATE),
        }
    })
}
