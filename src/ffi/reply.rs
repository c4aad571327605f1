//! `broker_reply_t`: one value of a reply, and through it the whole reply. Owns what is handed out; reads
//! nothing by itself, since `crate::resp::tree` has.

use super::border::shield;
use super::codes::{BROKER_EINVAL, BROKER_OK};
use crate::resp::tree::{Kind, Tree};
use std::ffi::{c_char, c_int};
use std::sync::Arc;

/// Null, of any kind.
pub const BROKER_REPLY_NIL: c_int = 0;
/// A status such as "OK".
pub const BROKER_REPLY_STATUS: c_int = 1;
/// An error; its text begins with a code word.
pub const BROKER_REPLY_ERROR: c_int = 2;
/// A 64-bit integer.
pub const BROKER_REPLY_INTEGER: c_int = 3;
/// A floating point number (RESP3).
pub const BROKER_REPLY_DOUBLE: c_int = 4;
/// True or false (RESP3).
pub const BROKER_REPLY_BOOL: c_int = 5;
/// A string of any bytes.
pub const BROKER_REPLY_STRING: c_int = 6;
/// A string with a format (RESP3); the format is left out.
pub const BROKER_REPLY_VERBATIM: c_int = 7;
/// An integer of any size, as text (RESP3).
pub const BROKER_REPLY_BIGNUM: c_int = 8;
/// Values in order.
pub const BROKER_REPLY_ARRAY: c_int = 9;
/// Keys and values in turns (RESP3).
pub const BROKER_REPLY_MAP: c_int = 10;
/// Values in no order (RESP3).
pub const BROKER_REPLY_SET: c_int = 11;
/// What nobody asked for: a message, an invalidation (RESP3).
pub const BROKER_REPLY_PUSH: c_int = 12;

/// One value of a reply; immutable. The one that a callback gets is borrowed: it and everything reached through
/// it end when the callback returns, unless broker_reply_dup() has kept it. Kept ones, and those of the call
/// functions, are freed with broker_reply_free(), by any thread. Plain memory: usable after a fork.
///
/// Methods: broker_reply_type, _integer, _double, _string, _len, _at, _raw, _dup, _free.
#[allow(non_camel_case_types)]
#[derive(Debug)]
pub struct broker_reply_t {
    /// Lives for as long as this value, which it owns.
    whole: *const Whole,
    index: usize,
}

/// A reply and a `broker_reply_t` for each of its values.
#[derive(Debug)]
struct Whole {
    tree: Tree,
    values: Box<[broker_reply_t]>,
}

// SAFETY: immutable after `Owned::new`; the pointers in `values` point to the `Whole` itself, and `Tree` may be
// shared between threads.
unsafe impl Send for Whole {}
// SAFETY: as above.
unsafe impl Sync for Whole {}

/// A reply that the library holds for as long as a callback runs, or hands out.
#[derive(Debug)]
pub(super) struct Owned(Arc<Whole>);

impl Owned {
    pub(super) fn new(tree: Tree) -> Owned {
        let count = tree.values();
        Owned(Arc::new_cyclic(|weak| {
            let whole = weak.as_ptr();
            Whole { tree, values: (0..count).map(|index| broker_reply_t { whole, index }).collect() }
        }))
    }

    /// For a callback; valid while `self` is.
    pub(super) fn borrowed(&self) -> *const broker_reply_t {
        std::ptr::from_ref(&self.0.values[0])
    }

    /// Hands it out; whoever gets it frees it.
    pub(super) fn into_raw(self) -> *mut broker_reply_t {
        let value = self.borrowed();
        std::mem::forget(self);
        value.cast_mut()
    }
}

/// The tree and the place in it, if there is one.
fn at<'a>(reply: *const broker_reply_t) -> Option<(&'a Whole, usize)> {
    if reply.is_null() {
        return None;
    }
    // SAFETY: the header asks for a value that is borrowed or not yet freed; it lives inside its `Whole`.
    unsafe {
        let value = &*reply;
        Some((&*value.whole, value.index))
    }
}

/// One of BROKER_REPLY_*; BROKER_EINVAL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_type(reply: *const broker_reply_t) -> c_int {
    shield(BROKER_EINVAL, || {
        let Some((whole, index)) = at(reply) else { return BROKER_EINVAL };
        match whole.tree.kind(index) {
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
        }
    })
}

/// The number of an INTEGER, 1 or 0 for a BOOL; 0 for anything else and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_integer(reply: *const broker_reply_t) -> i64 {
    shield(0, || {
        let Some((whole, index)) = at(reply) else { return 0 };
        let text = whole.tree.text(index).unwrap_or_default();
        match whole.tree.kind(index) {
            Kind::Integer => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0),
            Kind::Bool => i64::from(text == b"t"),
            _ => 0,
        }
    })
}

/// The number of a DOUBLE (infinities and NaN too) or an INTEGER; 0 for anything else and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_double(reply: *const broker_reply_t) -> f64 {
    shield(0.0, || {
        let Some((whole, index)) = at(reply) else { return 0.0 };
        let text = whole.tree.text(index).unwrap_or_default();
        match whole.tree.kind(index) {
            Kind::Double | Kind::Integer => {
                std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0)
            }
            _ => 0.0,
        }
    })
}

/// The bytes of a STATUS, ERROR, STRING, VERBATIM, or of a DOUBLE or BIGNUM as the server wrote it; NULL for
/// anything else and for NULL. A NUL follows that is not counted; there may be others inside. `len` may be NULL.
/// Lives as long as the reply.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_string(reply: *const broker_reply_t, len: *mut usize) -> *const c_char {
    shield(std::ptr::null(), || {
        let text = at(reply).and_then(|(whole, index)| match whole.tree.kind(index) {
            Kind::Integer | Kind::Bool => None,
            _ => whole.tree.text_with_nul(index),
        });
        give_len(len, text.map_or(0, |text| text.len() - 1));
        text.map_or(std::ptr::null(), |text| text.as_ptr().cast())
    })
}

/// How many elements an ARRAY, MAP, SET or PUSH has; keys and values of a map each count. 0 for anything else
/// and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_len(reply: *const broker_reply_t) -> usize {
    shield(0, || at(reply).map_or(0, |(whole, index)| whole.tree.elements(index).len()))
}

/// Element `i`, which lives as long as the reply and is not freed by itself. NULL beyond the last and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_at(reply: *const broker_reply_t, i: usize) -> *const broker_reply_t {
    shield(std::ptr::null(), || {
        let element = at(reply).and_then(|(whole, index)| {
            let index = whole.tree.elements(index).nth(i)?;
            whole.values.get(index)
        });
        element.map_or(std::ptr::null(), std::ptr::from_ref)
    })
}

/// The value as RESP, byte for byte as it came (RESP3 attributes left out): what redisReaderFeed() of hiredis
/// takes. Lives as long as the reply. NULL for NULL; `len` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_raw(reply: *const broker_reply_t, len: *mut usize) -> *const c_char {
    shield(std::ptr::null(), || {
        let raw = at(reply).map(|(whole, index)| whole.tree.raw(index));
        give_len(len, raw.map_or(0, <[u8]>::len));
        raw.map_or(std::ptr::null(), |raw| raw.as_ptr().cast())
    })
}

/// Keeps a reply beyond its callback, without a copy; of a part of one, the whole reply is kept. Free what it
/// returns. NULL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_dup(reply: *const broker_reply_t) -> *mut broker_reply_t {
    shield(std::ptr::null_mut(), || {
        let Some((whole, _)) = at(reply) else { return std::ptr::null_mut() };
        // SAFETY: every `Whole` is made inside an Arc by `Owned::new`, and somebody holds it now.
        unsafe { Arc::increment_strong_count(std::ptr::from_ref(whole)) };
        reply.cast_mut()
    })
}

/// Frees what broker_reply_dup() or a call function has handed out, once; never what a callback got. NULL is
/// allowed. [any thread]
#[unsafe(no_mangle)]
pub extern "C" fn broker_reply_free(reply: *mut broker_reply_t) {
    shield((), || {
        if let Some((whole, _)) = at(reply) {
            // SAFETY: the count was raised for this value by `dup` or left raised by `into_raw`.
            unsafe { Arc::decrement_strong_count(std::ptr::from_ref(whole)) };
        }
    });
}

fn give_len(to: *mut usize, len: usize) {
    if !to.is_null() {
        // SAFETY: the header asks for NULL or a place for a size_t.
        unsafe { to.write(len) };
    }
}

/// Before a call function does anything: what it hands out is nothing until it succeeds.
pub(super) fn hand_out_nothing(to: *mut *mut broker_reply_t) {
    if !to.is_null() {
        // SAFETY: the header asks for NULL or a place for a pointer.
        unsafe { to.write(std::ptr::null_mut()) };
    }
}

/// What a call function hands out; nothing if `to` is NULL.
pub(super) fn hand_out(owned: Owned, to: *mut *mut broker_reply_t) -> c_int {
    if !to.is_null() {
        // SAFETY: the header asks for NULL or a place for a pointer.
        unsafe { to.write(owned.into_raw()) };
    }
    BROKER_OK
}
