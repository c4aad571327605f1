//! The C interface, one file per object of `include/broker.h`, which build.rs makes from these files: their comments are
//! its contracts. Checks, converts, delegates, and never decides. The only room that may contain `unsafe`, each with its
//! reason. Every call crosses `border`; what has the requests of a client is found in `home`.
#![allow(unsafe_code)]
// They are exported under their C names and not reached by path.
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
mod errno;
mod follow;
mod fork;
mod head;
pub mod heap;
mod home;
mod log;
mod loops;
mod own;
mod posts;
mod reply;
#[cfg(feature = "sabotage")]
mod sabotage;
mod text;
mod transaction;
mod witness;
