//! One Redis connection pool per host, shared by every process on it.
#![deny(unsafe_code)]

pub mod base;
pub mod command;
pub mod config;
pub mod core;
pub mod resp;
pub mod transport;
