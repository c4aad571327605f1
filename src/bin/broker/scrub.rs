//! Passwords on the command line, which every user of the host can read in the process list. The broker warns, moves the
//! password into its environment, which only its own user can read, and executes itself again with the other arguments.

use crate::shared::{PASSWORD_VARIABLE, guard};
use broker::base::error::{Error, Result};
use redis::IntoConnectionInfo;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Executes this process again if its arguments contain a password; returns if they contain
/// none, or one that cannot be taken out.
pub(crate) fn hide_password() -> Result<()> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let Some((args, password)) = without_password(&args) else { return Ok(()) };
    eprintln!(
        "broker: warning: a password on the command line can be read in the process list: \
         use {PASSWORD_VARIABLE} or upstream_password_file"
    );
    // What could not be taken out now could not be the next time either.
    if without_password(&args).is_some() {
        return Ok(());
    }
    let mut command = Command::new(guard::own_binary()?);
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    let error = command.env(PASSWORD_VARIABLE, password).exec();
    Err(Error::refused("cannot restart without the password", &error))
}

/// The arguments without their password, and the password: that of a URL before that of `--set upstream_password`.
fn without_password(args: &[OsString]) -> Option<(Vec<OsString>, String)> {
    let (mut url_password, mut key_password) = (None, None);
    let mut kept: Vec<OsString> = Vec::with_capacity(args.len());
    for arg in args {
        let Some(text) = arg.to_str().map(str::trim_end) else {
            kept.push(arg.clone());
            continue;
        };
        let value = text.strip_prefix("--upstream=").or_else(|| text.strip_prefix("--set=")).unwrap_or(text);
        let (key, key_value) = value.split_once('=').unwrap_or_default();
        let value = if key.trim() == "upstream" { key_value.trim() } else { value };
        if key.trim() == "upstream_password" {
            key_password = Some(key_value.trim().to_owned());
            if kept.last().is_some_and(|last| last == "--set") {
                kept.pop();
            }
        } else if let Some((url, password)) = split_url(value) {
            url_password = Some(password);
            kept.push(format!("{}{url}", &text[..text.len() - value.len()]).into());
        } else {
            kept.push(arg.clone());
        }
    }
    Some((kept, url_password.or(key_password)?))
}

/// A Redis URL without its password, and the password as the `redis` crate reads it. `None` for anything else; the
/// configuration refuses a URL that does not parse.
fn split_url(text: &str) -> Option<(String, String)> {
    let password = text.into_connection_info().ok()?.redis_settings().password()?.to_owned();
    let mut url = redis::parse_redis_url(text)?;
    // Refused where there is no host, and so no password before it.
    let _ = url.set_password(None);
    // `unix:` URLs carry the password as the parameter `pass`, a name that may be percent-encoded.
    let pairs = url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let kept = pairs.zip(url.query_pairs()).filter(|(_, (name, _))| name != "pass").map(|(pair, _)| pair);
    let kept = kept.collect::<Vec<_>>().join("&");
    url.set_query(Some(&*kept).filter(|query| !query.is_empty()));
    Some((url.into(), password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(args: &[&str]) -> Option<(Vec<String>, String)> {
        let args: Vec<OsString> = args.iter().map(Into::into).collect();
        let (args, password) = without_password(&args)?;
        Some((args.into_iter().map(|arg| arg.into_string().unwrap()).collect(), password))
    }

    #[test]
    fn arguments_without_a_password_are_left_alone() {
        assert_eq!(scrubbed(&["serve", "--upstream", "redis://user@host/1", "--set", "lanes=2"]), None);
        assert_eq!(scrubbed(&["serve", "--listen", "tcp://127.0.0.1:0", "--upstream=nonsense"]), None);
    }

    #[test]
    fn every_way_to_give_a_password_is_taken_out() {
        let cases: &[(&[&str], &[&str], &str)] = &[
            (&["--upstream", "redis://:p%40ss@host:1/2"], &["--upstream", "redis://host:1/2"], "p@ss"),
            (&["--upstream=redis://me:secret@host"], &["--upstream=redis://me@host"], "secret"),
            (
                &["--set", "upstream=unix:///r.sock?pass=x&db=3&user=u"],
                &["--set", "upstream=unix:///r.sock?db=3&user=u"],
                "x",
            ),
            (&["--set=upstream=unix:///r.sock?pass=x "], &["--set=upstream=unix:///r.sock"], "x"),
            (&["--upstream=unix:///r?&p%61ss=x&d%62=3"], &["--upstream=unix:///r?d%62=3"], "x"),
            (&["--set", "upstream_password=y", "--check"], &["--check"], "y"),
            (&["--set=upstream_password = y"], &[], "y"),
            (
                &["--upstream", "redis://:a@host", "--set", "upstream_password=b"],
                &["--upstream", "redis://host"],
                "a",
            ),
        ];
        for (given, kept, password) in cases {
            let (args, found) = scrubbed(given).unwrap();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            assert_eq!((&args[..], found.as_str()), (*kept, *password));
            assert_eq!(scrubbed(&args), None);
        }
    }
}
