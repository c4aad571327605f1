//! The demo's command line. Only its shape.

use crate::shared::guard::WithParentArgs;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Show the broker at work: a private Redis, a broker and self-checking client processes.
#[derive(Debug, Parser)]
#[command(
    name = "broker-demo",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct DemoCli {
    /// What its own processes do; the demo itself when `None`.
    #[command(subcommand)]
    pub(crate) verb: Option<DemoVerb>,
    /// Flags of the demo itself.
    #[command(flatten)]
    pub(crate) demo: DemoArgs,
}

/// What the demo's own processes do.
#[derive(Debug, Subcommand)]
pub(crate) enum DemoVerb {
    /// Run a program that ends with its parent
    #[command(hide = true)]
    WithParent(WithParentArgs),
    /// One working process
    #[command(hide = true)]
    Child(ChildArgs),
    /// One working process that drives redis-cli
    #[command(hide = true)]
    RedisCli(ChildArgs),
}

/// Flags of the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Client processes to start; redis-cli and the C examples are among them when they are there
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) children: u32,
    /// How long they work
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub(crate) seconds: u32,
    /// Do the same work straight against Redis, without a broker, for comparison
    #[arg(long)]
    pub(crate) direct: bool,
    /// Answer two children with each other's reply, to see that the demo notices
    #[cfg(feature = "sabotage")]
    #[arg(long, hide = true, conflicts_with = "direct")]
    pub(crate) sabotage: bool,
}

/// Arguments of the working processes.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    /// The unix socket to connect to.
    pub(crate) socket: PathBuf,
    /// How long to work.
    pub(crate) seconds: u32,
    /// This child's number, from 0.
    pub(crate) id: u32,
    /// How many children stand in the ring of blocking pops.
    pub(crate) ring: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_shape_is_sound() {
        DemoCli::command().debug_assert();
        let refusal = DemoCli::try_parse_from(["broker-demo", "--children", "0"]).unwrap_err().to_string();
        assert!(refusal.contains("0 is not in 1..=4096"), "{refusal}");
    }
}
