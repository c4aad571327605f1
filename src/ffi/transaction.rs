//! `broker_transaction_t`: commands that are executed together or not at all. Owns their bytes until they are
//! submitted; sends nothing.

use super::border::{Ended, Handle, Rule, Shell, enter, shield};
use super::codes::{BROKER_EAGAIN, BROKER_EINVAL, BROKER_EPANIC, BROKER_EUNSUPPORTED, BROKER_OK};
use super::text::words;
use crate::client::Block;
use std::ffi::{c_char, c_int};

/// Commands to be executed as one MULTI ... EXEC. Filled with broker_transaction_add(), then given to a submit or
/// call function any number of times; they copy it. Plain memory: usable after a fork, by one thread at a time.
///
/// Methods: broker_transaction_new, _free, _add.
#[allow(non_camel_case_types)]
#[derive(Debug)]
pub struct broker_transaction_t(#[expect(dead_code, reason = "reached through a cast pointer")] Shell<Block>);

impl Handle for Block {
    type Post = ();
    fn ended() -> &'static Ended<Self> {
        static ENDED: Ended<Block> = Ended::new();
        &ENDED
    }
    const SURVIVES_FORK: bool = true;
    type Beside = ();
}

/// What `pointer` holds.
pub(super) fn read<R>(
    pointer: *const broker_transaction_t,
    body: impl FnOnce(&Block) -> R,
) -> Result<R, c_int> {
    let shell = Shell::of(pointer.cast::<Shell<Block>>())?;
    shell.check()?;
    shell.borrow_reading(body)
}

/// An empty transaction. Free it with broker_transaction_free(). NULL only after an internal error.
#[unsafe(no_mangle)]
pub extern "C" fn broker_transaction_new() -> *mut broker_transaction_t {
    shield(std::ptr::null_mut(), || Shell::create(Block::default(), -1).cast())
}

/// Frees it. NULL is BROKER_OK; a second time is BROKER_ESTATE. What was submitted goes on.
#[unsafe(no_mangle)]
pub extern "C" fn broker_transaction_free(transaction: *mut broker_transaction_t) -> c_int {
    if transaction.is_null() {
        return BROKER_OK;
    }
    shield(BROKER_EPANIC, || {
        match Shell::of(transaction.cast::<Shell<Block>>()).and_then(|shell| shell.end()) {
            Ok(_) => BROKER_OK,
            Err(code) => code,
        }
    })
}

/// Adds a command; argv as in broker_client_submit(), copied.
///
/// BROKER_EINVAL for a NULL or an empty command; BROKER_EUNSUPPORTED for one that may not stand in a transaction
/// (MULTI, EXEC, DISCARD, WATCH, subscriptions, session commands); BROKER_EAGAIN beyond 64 MiB.
#[unsafe(no_mangle)]
pub extern "C" fn broker_transaction_add(
    transaction: *mut broker_transaction_t,
    argc: usize,
    argv: *const *const c_char,
    argvlen: *const usize,
) -> c_int {
    enter(transaction.cast::<Shell<Block>>(), Rule::Anywhere, |block| {
        let words = match words(argc, argv, argvlen) {
            Ok(words) if words[0].is_empty() => return BROKER_EINVAL,
            Ok(words) => words,
            Err(code) => return code,
        };
        match block.add(&words) {
            Ok(true) => BROKER_OK,
            Ok(false) => BROKER_EAGAIN,
            Err(_) => BROKER_EUNSUPPORTED,
        }
    })
}
