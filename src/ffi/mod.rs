//! The C interface, one file per object of `include/broker.h`, which build.rs makes from these files: their
//! comments are its contracts. Checks, converts, delegates, and never decides. The only room besides shared
//! memory in which `unsafe` may stand, each with its reason.
//!
//! `border` is what every call crosses, `head` what all handles have alike, `claim` who is inside a handle, `fork` how a forked copy is noticed, `follow` which
//! handles move there, `witness` whether there is one at all, `cancel` where a thread may be cancelled, `posts` what other
//! threads leave for a handle, `text` and `calls` what arguments and callbacks are turned into, `loops` which thread drives
//! which; `codes`, `log`, `config`, `reply`, `transaction`, `embed` and `client` are the header, in its order.
#![allow(unsafe_code)]
// They are exported under their C names, not reached by their path.
#![allow(unreachable_pub)]

mod bell;
mod border;
mod calling;
mod calls;
mod cancel;
mod claim;
mod client;
mod codes;
mod config;
mod embed;
mod follow;
mod fork;
mod head;
pub mod heap;
mod home;
mod log;
mod loops;
mod posts;
mod reply;
#[cfg(feature = "sabotage")]
mod sabotage;
mod stats;
mod text;
mod thread;
mod transaction;
mod witness;
