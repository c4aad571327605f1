//! The C interface, one file per object of `include/broker.h`, which build.rs makes from these files: their
//! comments are its contracts. Checks, converts, delegates, and never decides. The only room that may contain `unsafe`,
//! each with its reason.
//!
//! `border` is crossed by every call, `head` is the common part of all handles, `claim` records who uses a handle, `fork`
//! detects forked copies, `follow` moves handles into a fork, `witness` tells whether a fork has a child, `cancel` says
//! where a thread may be cancelled, `posts` queues the functions other threads post, `text` and `calls` convert arguments
//! and callbacks, `home` finds where requests are kept, `own` drives a client with sockets, `loops` records which thread drives which loop. `codes`, `log`, `config`, `reply`, `transaction`, `embed`
//! and `client` are the header, in its order.
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
mod thread;
mod transaction;
mod witness;
