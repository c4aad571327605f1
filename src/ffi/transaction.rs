//! `broker_transaction_t`: commands that are executed together or not at all. Owns their bytes until they are
//! submitted; sends nothing.

use super::border::{Ended, Handle, Rule, Shell, enter, shield};
use super::codes::{BROKER_EAGAIN, BROKER_EINVAL, BROKER_EPANIC, BROKER_EUNSUPPORTED, BROKER_OK};
use super::text::words;
use crate::client::Block;
use std::ffi::{c_char, c_int};

/// Commands to be executed as one MULTI ... EXEC. broker_transaction_add() adds them; a submit or call function copies them,
/// any number of times. Plain memory, for one thread at a time; usable after a fork.
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

/// The block of `pointer`.
pub(super) fn read<R>(
    pointer: *const broker_transaction_t,
    body: impl FnOnce(&Block) -> R,
) -> Result<R, c_int> {
    let shell = Shell::of(pointer.cast::<Shell<Block>>())?;
    shell.check()?;
    shell.borrow_reading(body)
}

/// Creates an empty transaction. Free it with broker_transaction_free(). NULL only after an internal error.
#[unsafe(no_mangle)]
pub extern "C" fn broker_transaction_new() -> *mut broker_transaction_t {
    shield(std::ptr::null_mut(), || Shell::create(Block::default(), -1).cast())
}

/// Frees the transaction. NULL is BROKER_OK; BROKER_ESTATE the second time. Submitted copies are not affected.
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

/// Adds a command. The words are as in broker_client_submit(), and are copied.
///
/// BROKER_EINVAL for a NULL or an empty command; BROKER_EUNSUPPORTED for one that is not allowed in a transaction
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
