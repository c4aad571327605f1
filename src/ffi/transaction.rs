//! `broker_transaction_t`: commands that are executed together. Owns their bytes until submitted; sends nothing.

use super::border::{EndedHandles, Handle, Shell, enter, free, gate};
use super::codes::*;
use super::head::Number;
use super::text::words;
use crate::client::Block;
use std::ffi::{c_char, c_int};

/// Commands to be executed as one MULTI ... EXEC. broker_transaction_add() adds them; a submit or call function copies them,
/// any number of times. Plain memory, for one thread at a time; usable after a fork.
///
/// Methods: broker_transaction_new, _free, _add.
#[allow(non_camel_case_types)]
pub struct broker_transaction_t(
    #[expect(dead_code, reason = "reached through a cast pointer")] Shell<broker_transaction_t>,
);

impl Handle for broker_transaction_t {
    const SURVIVES_FORK: bool = true;
    type Inner = Block;
    type Beside = ();
    fn ended() -> &'static EndedHandles<Self> {
        static ENDED: EndedHandles<broker_transaction_t> = EndedHandles::new();
        &ENDED
    }
}

/// Creates an empty transaction. Free it with broker_transaction_free(). NULL only after an internal error.
#[unsafe(no_mangle)]
pub extern "C" fn broker_transaction_new() -> *mut broker_transaction_t {
    gate(|| Ok(Shell::create(Number::next(), Block::default(), -1, ()).pointer()))
}

/// Frees the transaction. NULL is BROKER_OK; BROKER_ESTATE the second time. Submitted copies are not affected.
#[unsafe(no_mangle)]
pub extern "C" fn broker_transaction_free(transaction: *mut broker_transaction_t) -> c_int {
    free(transaction, |shell| shell.end().map(drop))
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
    enter(transaction, |block| {
        let words = words(argc, argv, argvlen)?;
        if words[0].is_empty() {
            return Err(BROKER_EINVAL);
        }
        match block.add(&words) {
            Ok(true) => Ok(BROKER_OK),
            Ok(false) => Err(BROKER_EAGAIN),
            Err(_) => Err(BROKER_EUNSUPPORTED),
        }
    })
}
