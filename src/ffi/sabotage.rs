//! Panics on purpose, for the tests of the border. In no header and no release.

use super::border::enter;
use super::client::broker_client_t;
use super::embed::broker_loop_t;
use std::ffi::c_int;

/// Panics inside a client: BROKER_EPANIC, and the client can only be freed.
#[unsafe(no_mangle)]
pub extern "C" fn broker_sabotage_panic_client(client: *mut broker_client_t) -> c_int {
    enter(client, |_| panic!("provoked"))
}

/// Panics inside a loop: BROKER_EPANIC, and the loop can only be freed.
#[unsafe(no_mangle)]
pub extern "C" fn broker_sabotage_panic_loop(r#loop: *mut broker_loop_t) -> c_int {
    enter(r#loop, |_| panic!("provoked"))
}
