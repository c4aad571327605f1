//! The command line. Defines only its syntax: the module of a subcommand implements its flags.

use crate::shared::guard::WithParentArgs;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// One Redis connection pool per host, shared by every process on it.
#[derive(Debug, Parser)]
#[command(name = "broker", version, arg_required_else_help = false)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Serve Redis to the processes of this host through one pool
    Serve(ServeArgs),
    /// Print every configuration key with its default and meaning
    Config(ConfigArgs),
    /// Show what a running broker does, live, and what is wrong
    Top(TopArgs),
    /// Print once what a running broker does and what is wrong
    Status(StatusArgs),
    /// Have a running broker carry out a command of its console
    Ctl(CtlArgs),
    /// Have a running broker read its configuration again
    Reload(ReloadArgs),
    /// Have a running broker start its successor and hand everything over to it
    Upgrade(UpgradeArgs),
    /// Run a program that ends with its parent
    #[command(hide = true)]
    WithParent(WithParentArgs),
}

/// Flags of `broker serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "The configuration file is read first, then --set, then the other flags. The environment \
    variable BROKER_UPSTREAM_PASSWORD, when set, is the upstream's password and overrides every other one; it keeps \
    the password out of the process list, and so does the key upstream_password_file. \
    SIGTERM or SIGINT drains within drain_timeout; a second one, and SIGQUIT, closes at once. SIGHUP reads the \
    configuration file, and the files that it names, again: all that can change is applied, or nothing, and the log says \
    what. SIGUSR1 logs the statistics; SIGUSR2 and SIGPIPE are ignored."
)]
pub(crate) struct ServeArgs {
    /// Where children connect: unix:///path/broker.sock?mode=0660&group=g or tcp://host:port; may be repeated
    #[arg(long, value_name = "URL")]
    pub(crate) listen: Vec<String>,
    /// The upstream Redis: redis://[user[:pass]@]host[:port][/db] or unix:///path?db=n
    #[arg(long, value_name = "URL", conflicts_with = "dev")]
    pub(crate) upstream: Option<String>,
    /// Start a private in-memory redis-server as the upstream; it ends with the broker
    #[arg(long)]
    pub(crate) dev: bool,
    /// Configuration file (TOML); `broker config --format toml` prints one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one configuration key; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Perform the steps of a start that have no visible effect, then print ok
    #[arg(long)]
    pub(crate) check: bool,
    /// Take over from the running broker whose admin_listen is the same: listeners, children, connections
    #[arg(long, conflicts_with_all = ["dev", "check"])]
    pub(crate) takeover: bool,
    /// Die at the step of this number of a hand-over, to check that nothing is lost
    #[cfg(feature = "sabotage")]
    #[arg(long, allow_negative_numbers = true, hide = true, value_name = "STEP")]
    pub(crate) sabotage_handover: Option<i32>,
    /// Swap the replies of two children, to check that the demo detects it
    #[cfg(feature = "sabotage")]
    #[arg(long, hide = true)]
    pub(crate) sabotage: bool,
}

/// Flags of `broker config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t = KeysFormat::Text)]
    pub(crate) format: KeysFormat,
}

/// Output formats of `broker config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeysFormat {
    /// Aligned columns
    Text,
    /// A commented broker.toml with every default
    Toml,
}

/// Flags of `broker top`.
#[derive(Debug, Args)]
#[command(
    after_help = "It asks the broker's console, which answers root, the broker's own user and those of admin_uids. \
    Where the broker lets no further child in, it is asked over its admin socket. The key ? lists the keys. \
    The environment variable NO_COLOR, when set, keeps it from using colours."
)]
// Without the feature of that name they are parsed all the same, and refused as a whole.
#[cfg_attr(not(feature = "top"), allow(dead_code))]
pub(crate) struct TopArgs {
    /// Where the broker listens: a path, unix:///path or tcp://host:port [default: as broker serve without --listen]
    #[arg(long, value_name = "PATH|URL")]
    pub(crate) socket: Option<String>,
    /// Where its admin_listen is, for the keys that change something [default: the socket's path with .admin behind it]
    #[arg(long, value_name = "PATH|URL")]
    pub(crate) admin: Option<String>,
    /// Time between two looks, such as 500ms or 2s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// How long an answer is waited for
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// Flags of `broker status`.
#[derive(Debug, Args)]
#[command(
    after_help = "It asks as broker top does, and looks twice, a second apart, for what happens per second. \
    Exit code 0: all is well. 1: something is wrong, and printed as warning or critical. 2: the broker does not answer, \
    or does not answer this user, or the usage is wrong. With --json, fields keep their names and further ones may \
    come; without an answer there are only well, answers and error."
)]
pub(crate) struct StatusArgs {
    /// Where the broker listens: a path, unix:///path or tcp://host:port [default: as broker serve without --listen]
    #[arg(long, value_name = "PATH|URL")]
    pub(crate) socket: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// How long an answer is waited for
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// The broker that a verb is for, and how long it is waited for.
#[derive(Debug, Args)]
pub(crate) struct WhichBroker {
    /// The broker's configuration file, which says where its admin_listen is
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "admin"])]
    pub(crate) config: Option<PathBuf>,
    /// Where the broker listens: a path, unix:///path or tcp://host:port [default: as broker serve without --listen]
    #[arg(long, value_name = "PATH|URL")]
    pub(crate) socket: Option<String>,
    /// Where its admin_listen is [default: the socket's path with .admin behind it]
    #[arg(long, value_name = "PATH|URL")]
    pub(crate) admin: Option<String>,
    /// How long the broker may take to show that it answers
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// Flags of `broker upgrade`.
#[derive(Debug, Args)]
#[command(
    after_help = "The same as broker ctl UPGRADE. The broker starts its own program again, as it is on disk now, with its own \
    arguments, and hands everything over to it; if that one fails, it serves as before. Exit code 0: the new one accepts, and \
    children follow. 1: it does not, and why. 2: the broker does not answer, or the usage is wrong."
)]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    pub(crate) of: WhichBroker,
}

/// Flags of `broker ctl`.
#[derive(Debug, Args)]
#[command(
    after_help = "The words are those behind BROKER in docs/console.md: broker ctl SHOW CHILDREN, broker ctl SET lanes 4, \
    broker ctl DRAIN. As the last word of SET or UPSTREAM, - reads it from standard input, where it is not in the process list. \
    RELOAD, SET, UNSET, PAUSE, RECONNECT, UPSTREAM, UPGRADE, DRAIN and SHUTDOWN take their time: once the broker has shown \
    that it answers, their end is waited for, and --timeout does not bound it. DRAIN and SHUTDOWN WAIT end when the broker \
    has let all others go. Exit code 0: done. 1: the broker refuses, and says why. 2: it does not answer, or the usage is \
    wrong."
)]
pub(crate) struct CtlArgs {
    /// Where the broker listens: a path, unix:///path or tcp://host:port [default: as broker serve without --listen]
    #[arg(long, value_name = "PATH|URL")]
    pub(crate) socket: Option<String>,
    /// Where its admin_listen is [default: the socket's path with .admin behind it]
    #[arg(long, value_name = "PATH|URL")]
    pub(crate) admin: Option<String>,
    /// How long an answer is waited for
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// The command and its arguments
    #[arg(value_name = "WORD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

/// Flags of `broker reload`.
#[derive(Debug, Args)]
#[command(
    after_help = "The same as broker ctl RELOAD. It prints what has changed, one line for each key; with exit code 1 nothing \
    has, and the broker says why. 2: it does not answer, or the usage is wrong."
)]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    pub(crate) of: WhichBroker,
}

/// A time as in the configuration: a plain number is milliseconds.
fn duration(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(50);
    const MOST: Duration = Duration::from_secs(3_600);
    let time = match text.parse() {
        Ok(ms) => Duration::from_millis(ms),
        Err(_) => humantime::parse_duration(text).map_err(|_| "not a time such as 500ms or 2s".to_owned())?,
    };
    if (LEAST..=MOST).contains(&time) { Ok(time) } else { Err("a time from 50ms to 1h".to_owned()) }
}

/// clap's refusal as one line, without its usage block and without what could be a password: whatever stands where
/// a flag was forgotten, or behind one that takes no value.
pub(crate) fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::MissingSubcommand {
        return "say what to do: serve, config, top, status, ctl, reload or upgrade".to_owned();
    }
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    match error.kind() {
        ErrorKind::UnknownArgument if !named(ContextKind::InvalidArg).starts_with('-') => {
            return "an argument without a flag before it; not shown, since it may contain a password"
                .to_owned();
        }
        ErrorKind::UnknownArgument if !plain(named(ContextKind::InvalidArg)) => {
            return "an unknown flag; not shown, since it may contain a password".to_owned();
        }
        ErrorKind::InvalidSubcommand if !plain(named(ContextKind::InvalidSubcommand)) => {
            return "say what to do first: serve, config, top, status or upgrade".to_owned();
        }
        ErrorKind::TooManyValues => {
            let flag = named(ContextKind::InvalidArg);
            return format!("{flag} takes no value; the value is not shown, since it may be a password");
        }
        _ => {}
    }
    let text = error.to_string();
    let is_refusal = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let refusal = text.lines().map(str::trim).take_while(is_refusal).filter(|line| !line.is_empty());
    let joined = refusal.collect::<Vec<_>>().join(" ");
    joined.strip_prefix("error: ").unwrap_or(&joined).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_shape_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_refusal_is_one_line() {
        let refusal = |argv: &[&str]| one_line(&Cli::try_parse_from(argv).unwrap_err());
        assert_eq!(refusal(&["broker", "serve", "--bogus"]), "unexpected argument '--bogus' found");
        assert_eq!(
            refusal(&["broker"]),
            "say what to do: serve, config, top, status, ctl, reload or upgrade"
        );
        assert!(refusal(&["broker", "nosuch"]).contains("'nosuch'"));
    }

    #[test]
    fn times_are_written_as_in_the_configuration() {
        assert_eq!(duration("250"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["0", "49ms", "61min", "soon", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_refusal_shows_what_may_be_a_password() {
        let refused = "serve redis://:s3cr3t@h; serve s3cr3t; serve --set upstream_password s3cr3t; \
             serve upstream_password=s3cr3t; serve --upsteam redis://:s3cr3t@h; \
             serve --upsteam=redis://:s3cr3t@h; serve --upsteam:redis://:s3cr3t@h; \
             serve --redis://:s3cr3t@h; serve -redis://:s3cr3t@h; serve -aredis://:s3cr3t@h; \
             serve --dev=redis://:s3cr3t@h; serve --check=s3cr3t; \
             serve --dev --upstream redis://:s3cr3t@h; \
             serve --upstream redis://:s3cr3t@h --upstream redis://:s3cr3t@h; \
             serve --upstream redis://:s3cr3t@h --bogus; redis://:s3cr3t@h; \
             --upstream redis://:s3cr3t@h; upstream_password=s3cr3t; config redis://:s3cr3t@h";
        for line in refused.split("; ") {
            let argv = ["broker"].into_iter().chain(line.split(' '));
            let refusal = one_line(&Cli::try_parse_from(argv).expect_err("refused"));
            assert!(!refusal.contains("s3cr3t") && !refusal.is_empty(), "{line}: {refusal}");
        }
    }
}
