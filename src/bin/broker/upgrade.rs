//! `broker upgrade`: asks the running broker to start its successor, and prints what has come of it.

use crate::cli::UpgradeArgs;
use crate::shared::say;
use crate::top::client::{ConsoleClient, Trouble, admin_of, socket_of};
use broker::base::error::{Error, Result};
use broker::resp::value;

pub(crate) fn run(args: &UpgradeArgs) -> Result<()> {
    let failed = |trouble: Trouble| Error::system(trouble.to_string());
    let place = admin_of(&socket_of(None)?, args.admin.as_deref())?;
    let place = place.ok_or_else(|| Error::config("say where admin_listen is, with --admin"))?;
    let mut client = ConsoleClient::connect(&place, args.timeout).map_err(failed)?;
    let frame = client.request(&["BROKER", "UPGRADE"]).map_err(failed)?;
    match value::parse(&frame) {
        Some(redis::Value::Array(lines)) => {
            lines.iter().filter_map(value::text).for_each(|line| say::line(&line));
        }
        _ => say::line("OK"),
    }
    Ok(())
}
