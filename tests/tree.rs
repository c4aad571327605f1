//! The tree itself: the rooms of the crate, the rules of the tests, and the pages and the header that are made from the
//! code. No Redis and no broker is started, so it is quick to build and to run;
//! `BROKER_UPDATE_DOCS=1 cargo test --test tree` makes the pages anew.

mod circles;
mod docs;
mod header;
mod layers;
mod log_areas;
mod man;
mod mutants;
mod names;
mod operations;
mod rules;
