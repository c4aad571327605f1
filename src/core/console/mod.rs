//! The console: `BROKER SHOW ...` for whoever operates the broker, from any client. Owns the words, the tables and their
//! columns; every figure is somebody else's. Never looks at a key or a value of Redis.

pub(crate) mod cell;
pub(crate) mod parse;
pub(crate) mod run;
pub(crate) mod showing;
pub(crate) mod tables;
