//! `broker top`: what a running broker does, live on a terminal. Where it is built without the feature `top`, what
//! `broker status` needs of it is here all the same. Changes nothing but by the console's own verbs.

pub(crate) mod client;
#[cfg(feature = "top")]
mod columns;
#[cfg(feature = "top")]
mod desk;
#[cfg(feature = "top")]
mod model;
pub(crate) mod sample;
#[cfg(feature = "top")]
mod screen;
#[cfg(feature = "top")]
mod view;
pub(crate) mod wrong;

#[cfg(feature = "top")]
pub(crate) use screen::run;

/// Says that there is no screen.
#[cfg(not(feature = "top"))]
pub(crate) fn run(_args: &crate::cli::TopArgs) -> broker::base::error::Result<std::process::ExitCode> {
    let why = "this program was built without the feature top; broker status prints the same once";
    Err(broker::base::error::Error::config(why))
}
