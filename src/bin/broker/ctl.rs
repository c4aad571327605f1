//! `broker ctl`, `broker reload` and `broker upgrade`: one command of the console from the shell, its answer as text, and an exit code. Knows
//! no command: what the words mean is the broker's.

use crate::cli::{CtlArgs, ReloadArgs, UpgradeArgs, WhichBroker};
use crate::complain;
use crate::shared::say;
use crate::top::client::{ConsoleClient, Trouble, admin_of, harmless, lines_of, socket_of};
use broker::base::error::{Error, Result};
use broker::config::value::AdminListen;
use broker::config::{ListenUrl, Settings, read_document};
use broker::resp::value::{parse, text};
use redis::Value;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const EXIT_REFUSED: u8 = 1;
const EXIT_NO_ANSWER: u8 = 2;
/// What takes its time; the broker bounds each of them by itself, but for a drain.
const LONG: [&str; 9] =
    ["RELOAD", "SET", "UNSET", "PAUSE", "RECONNECT", "UPSTREAM", "UPGRADE", "DRAIN", "SHUTDOWN"];
/// Of those, what ends the broker.
const ENDING: [&str; 2] = ["DRAIN", "SHUTDOWN"];
const LONG_PATIENCE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Bytes of a value on standard input.
const VALUE_MAX: u64 = 64 * 1024;

pub(crate) fn run(args: &CtlArgs) -> Result<ExitCode> {
    let socket = socket_of(args.socket.as_deref())?;
    let place = admin_of(&socket, args.admin.as_deref())?.unwrap_or(socket);
    let mut words = args.words.clone();
    if is_read_from_input(&words)
        && let Some(value) = words.last_mut()
    {
        *value = read_value()?;
    }
    Ok(carry_out(&place, args.timeout, &words))
}

pub(crate) fn reload(args: &ReloadArgs) -> Result<ExitCode> {
    carry_out_at(&args.of, "RELOAD")
}

pub(crate) fn upgrade(args: &UpgradeArgs) -> Result<ExitCode> {
    carry_out_at(&args.of, "UPGRADE")
}

/// A verb of the broker that has this configuration, or these sockets.
fn carry_out_at(of: &WhichBroker, verb: &str) -> Result<ExitCode> {
    let (config, timeout) = (of.config.as_deref(), of.timeout);
    let (socket, admin) = (of.socket.as_deref(), of.admin.as_deref());
    let place = match config {
        Some(path) => match place_in(path) {
            Ok(place) => place,
            Err(error) => {
                // The broker would say the same of such a file.
                complain(&error.to_string());
                return Ok(ExitCode::from(EXIT_REFUSED));
            }
        },
        None => {
            let socket = socket_of(socket)?;
            admin_of(&socket, admin)?.unwrap_or(socket)
        }
    };
    Ok(carry_out(&place, timeout, &[verb.to_owned()]))
}

/// Where a broker with this configuration takes verbs.
fn place_in(path: &Path) -> Result<ListenUrl> {
    let settings = Settings::places_in(&read_document(path)?, &path.display().to_string())?;
    match &settings.admin_listen {
        AdminListen::At(url) => Ok(url.clone()),
        AdminListen::None => Err(Error::config("admin_listen = none: send SIGHUP instead")),
        AdminListen::Default => {
            let first = settings.listen.first().cloned().map_or_else(|| socket_of(None), Ok)?;
            admin_of(&first, None)?.ok_or_else(|| {
                Error::config(
                    "its first listener has no admin socket beside it: set admin_listen, or send SIGHUP",
                )
            })
        }
    }
}

/// `SET key -` and `UPSTREAM -`: the value is no affair of the process list.
fn is_read_from_input(words: &[String]) -> bool {
    let takes = |verb: &str, count: usize| words.len() == count && words[0].eq_ignore_ascii_case(verb);
    (takes("SET", 3) || takes("UPSTREAM", 2)) && words.last().is_some_and(|word| word == "-")
}

/// The first line of standard input.
fn read_value() -> Result<String> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().take(VALUE_MAX + 1).read_to_end(&mut bytes);
    read.map_err(Error::attempting("cannot read standard input"))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
    if line.len() as u64 > VALUE_MAX {
        return Err(Error::config("the value on standard input is longer than 64 KiB"));
    }
    String::from_utf8(line).map_err(|_| Error::config("the value on standard input is not UTF-8"))
}

fn carry_out(place: &ListenUrl, timeout: Duration, words: &[String]) -> ExitCode {
    let verb = words.first().map(|word| word.to_ascii_uppercase()).unwrap_or_default();
    match ask(place, timeout, &verb, words) {
        Ok(frame) => {
            say::text(&as_text(&frame, verb == "SHOW"));
            ExitCode::SUCCESS
        }
        Err(Trouble::Refused(why)) => {
            complain(why.strip_prefix("ERR ").unwrap_or(&why));
            ExitCode::from(EXIT_REFUSED)
        }
        // Somebody else has ended it meanwhile.
        Err(Trouble::NoAnswer(_))
            if ENDING.contains(&verb.as_str()) && ConsoleClient::connect(place, timeout).is_err() =>
        {
            say::line("the broker has ended");
            ExitCode::SUCCESS
        }
        Err(Trouble::NoAnswer(why)) => {
            complain(&why);
            ExitCode::from(EXIT_NO_ANSWER)
        }
    }
}

fn ask(
    place: &ListenUrl,
    timeout: Duration,
    verb: &str,
    words: &[String],
) -> std::result::Result<Vec<u8>, Trouble> {
    let mut client = ConsoleClient::connect(place, timeout)?;
    if LONG.contains(&verb) {
        // Whoever does not answer this will not carry anything out.
        client.command(&["HELP"])?;
        client.set_patience(LONG_PATIENCE);
    }
    client.command(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A reply as lines of text, of which none obeys anything but the terminal's line end.
fn as_text(frame: &[u8], is_table: bool) -> String {
    let lines = match parse(frame) {
        Some(Value::Array(_)) => lines_of(frame),
        Some(Value::Int(number)) => vec![number.to_string()],
        Some(value) => vec![harmless(&text(&value).unwrap_or_else(|| "OK".to_owned()))],
        None => Vec::new(),
    };
    let lines = if is_table { aligned(&lines) } else { lines };
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Columns as wide as their widest cell, numbers at the right. Each cell is a word, but for the last, which is the rest.
fn aligned(lines: &[String]) -> Vec<String> {
    let columns = lines.first().map_or(0, |header| header.split_whitespace().count());
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| cells(line, columns)).collect();
    let of_column = |at: usize| rows.iter().filter_map(move |row| row.get(at).copied());
    let is_number = |word: &str| word == "-" || word.bytes().all(|byte| byte.is_ascii_digit());
    let shape = |at| {
        let width = of_column(at).map(|cell| cell.chars().count()).max().unwrap_or_default();
        (width, of_column(at).skip(1).all(is_number) && rows.len() > 1)
    };
    let shapes: Vec<(usize, bool)> = (0..columns).map(shape).collect();
    let pad = |(cell, (width, at_right)): (&&str, &(usize, bool))| match at_right {
        true => format!("{cell:>width$}"),
        false => format!("{cell:<width$}"),
    };
    rows.iter().map(|row| row.iter().zip(&shapes).map(pad).collect::<Vec<_>>().join(" ")).collect()
}

fn cells(line: &str, columns: usize) -> Vec<&str> {
    let (mut cells, mut rest) = (Vec::with_capacity(columns), line.trim());
    while cells.len() + 1 < columns && !rest.is_empty() {
        let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        cells.push(word);
        rest = behind.trim_start();
    }
    if !rest.is_empty() {
        cells.push(rest);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_other_replies_are_lines() {
        let table = b"*3\r\n$20\r\n  id name   meaning \r\n\r\n".to_vec();
        assert_eq!(as_text(&table, true), "", "half a reply is none");
        let lines =
            ["   id name     meaning", "    7 averylongname what it says", "12345 -"].map(str::to_owned);
        let expected =
            ["   id name          meaning", "    7 averylongname what it says", "12345 -            "];
        assert_eq!(aligned(&lines).iter().map(|line| line.trim_end()).collect::<Vec<_>>(), {
            expected.map(str::trim_end)
        });
        assert_eq!(as_text(b"+OK\r\n", false), "OK\n");
        assert_eq!(as_text(b":3\r\n", false), "3\n");
        assert_eq!(as_text(b"*2\r\n$1\r\na\r\n$5\r\nb\x1b[2J\r\n", false), "a\nb?[2J\n");
        assert!(aligned(&[]).is_empty());
    }

    #[test]
    fn a_password_may_come_from_standard_input_alone_where_it_is_one_value() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_read_from_input(&words("set upstream_password -")));
        assert!(is_read_from_input(&words("UPSTREAM -")) && !is_read_from_input(&words("PAUSE -")));
        assert!(!is_read_from_input(&words("SHOW CHILDREN -")) && !is_read_from_input(&words("SET a b")));
    }
}
