//! The man pages in dist/man, generated from the command line and the table of keys, and how such files are compared, in
//! tests only: the tests compare the committed pages with the code. `BROKER_UPDATE_DOCS=1` rewrites them instead.

use std::path::Path;

use broker::config::{Row, rows};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::cli::Cli;

#[test]
fn the_page_of_the_command_is_the_command_line() {
    compare("dist/man/broker.1", &command_page());
}

#[test]
fn the_page_of_the_file_is_the_table() {
    compare("dist/man/broker.toml.5", &file_page());
}

/// One page for all subcommands: none is long enough for its own page.
fn command_page() -> String {
    let command = built_command();
    let verbs = || command.get_subcommands().filter(|verb| !verb.is_hide_set());
    let mut page = page("broker", "1", "User Commands");
    page.control("SH", ["NAME"]).text([roman("broker - one Redis connection pool per host")]);
    let mut text = page.render();

    text += ".SH SYNOPSIS\n";
    // clap_mangen leaves a space at the end of the line.
    let synopsis = |verb| format!("{}\n", body(verb, Man::render_synopsis_section).trim_end());
    text += &verbs().map(synopsis).collect::<Vec<_>>().join(".br\n");
    text += &plain(|page| {
        page.control("SH", ["DESCRIPTION"]).text([roman(
            "The broker serves one Redis to every process of a host. Processes connect to its unix socket or TCP \
             port with the Redis client they already use. Their requests share a few connections to Redis, and \
             each process gets its own replies, in the order of its requests.",
        )]);
    });
    for verb in verbs() {
        let name = verb.get_bin_name().expect("a built command has one").to_uppercase();
        text += &format!(".SH \"{name}\"\n");
        text += &format!("{}.\n", body(verb, Man::render_description_section).trim_end());
        // clap_mangen breaks the line before possible values twice, which renderers warn about.
        text += &body(verb, Man::render_options_section).replace(".br\n\n.br\n", ".br\n");
        if verb.get_after_help().is_some() {
            text += &format!(".PP\n{}", body(verb, Man::render_extra_section));
        }
    }
    text += &plain(end_of_command_page);
    text
}

/// The command line as clap completes it, without the parts that every page would repeat.
fn built_command() -> Command {
    let command = Cli::command().disable_help_subcommand(true);
    let mut command = command.mut_subcommands(|verb| verb.disable_help_flag(true));
    command.build();
    command
}

/// A section as clap_mangen makes it, without the two lines that open a document and its heading.
fn body(command: &Command, section: fn(&Man, &mut dyn std::io::Write) -> std::io::Result<()>) -> String {
    let mut bytes = Vec::new();
    section(&Man::new(command.clone()), &mut bytes).expect("a vector takes everything");
    let text = String::from_utf8(bytes).expect("text");
    text.splitn(4, '\n').nth(3).expect("a section has a heading").to_owned()
}

fn end_of_command_page(page: &mut Roff) {
    page.control("SH", ["EXIT STATUS"]);
    entry(page, "0", "Success.");
    entry(
        page,
        "1",
        "A system call failed. From broker status: something is wrong. From broker ctl and reload: the broker refuses.",
    );
    entry(
        page,
        "2",
        "The command line or the configuration is invalid; one line gives the reason. From broker status, \
         ctl and reload also: the broker does not answer.",
    );
    page.control("SH", ["SIGNALS"]);
    for (signals, meaning) in SIGNALS {
        entry(page, signals, meaning);
    }
    page.control("SH", ["ENVIRONMENT"]);
    entry(page, "BROKER_UPSTREAM_PASSWORD", "The upstream's password; overrides every other one.");
    entry(page, "NO_COLOR", "If it is set and not empty, broker top uses no colours.");
    entry(page, "XDG_RUNTIME_DIR", "The directory of the default socket, unless the user is root.");
    entry(
        page,
        "LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID",
        "Sockets of the service manager, each used where the settings ask for a listener at its address. Where they name \
         none, these sockets are the listeners; one called admin_listen or metrics_listen is for that.",
    );
    entry(
        page,
        "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID",
        "Where the service manager is told that the broker listens, reloads, ends and runs.",
    );
    entry(
        page,
        "FDSTORE",
        "So many descriptors the service manager keeps while the broker restarts: listeners, and children as far as there is room. 0: none.",
    );
    page.control("SH", ["FILES"]);
    entry(
        page,
        "/etc/broker/broker.toml, /etc/broker/NAME.toml",
        "The configuration of broker.service, and of broker@NAME.service.",
    );
    entry(page, "/run/broker/broker.sock", "The default socket when run by root.");
    entry(
        page,
        "/run/broker/broker.sock.admin",
        "Beside it, where broker ctl, reload and top change something.",
    );
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("broker.toml"), roman("(5), "), bold("redis-server"), roman("(1)")]);
}

/// What a broker does at a signal; docs/operations.md has the same table.
const SIGNALS: [(&str, &str); 7] = [
    (
        "SIGTERM, SIGINT",
        "As BROKER SHUTDOWN WAIT: no further child, then it lets all others go and ends, within drain_timeout. A second one \
         ends at once.",
    ),
    ("SIGQUIT", "As BROKER SHUTDOWN: ends at once."),
    (
        "SIGHUP",
        "As BROKER RELOAD: reads the configuration again; the log says what has changed, or why nothing has.",
    ),
    ("SIGUSR1", "Logs every statistic in one line."),
    ("SIGUSR2", "Ignored, with a line in the log."),
    ("SIGPIPE", "Ignored."),
    ("SIGXFSZ", "Ignored: a log that may not grow further is a write that fails."),
];

fn file_page() -> String {
    let mut page = page("broker.toml", "5", "File Formats");
    page.control("SH", ["NAME"]).text([roman("broker.toml - configuration of the broker")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("broker serve --config"), roman(" "), italic("FILE")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "A TOML file with the keys below, all of them optional. Their names are the same in the file and in \
         --set KEY=VALUE. The file is read first, then each --set in the order given, then --listen and --upstream.",
    )]);
    page.control("PP", []).text([roman(
        "A plain number is milliseconds for a time and bytes for a size; text such as \"250ms\", \"5s\", \
         \"512KiB\" or \"64MiB\" is accepted too. For an unknown key, a wrong type or a value out of range, the \
         broker exits with code 2 and one line that names the key, the value and what is allowed.",
    )]);
    page.control("SH", ["KEYS"]);
    for row in rows() {
        entry(&mut page, row.key, row.doc);
        let values = format!("Default: {}. Allowed: {}.", default(row), row.allowed());
        page.control("br", []).text([roman(values)]);
    }
    page.control("SH", ["EXAMPLE"]).control("nf", []);
    page.text([roman(EXAMPLE)]).control("fi", []);
    page.control("SH", ["SEE ALSO"]).text([bold("broker"), roman("(1)")]);
    page.render()
}

const EXAMPLE: &str = "\
upstream = \"redis://redis.example:6379/0\"
upstream_password_file = \"/etc/broker/password\"
listen = [\"unix:///run/broker/broker.sock?mode=0660&group=www-data\"]
queue_timeout = \"500ms\"";

#[test]
fn the_example_is_a_configuration() {
    let mut settings = broker::config::Settings::default();
    settings.load_toml(EXAMPLE, "example").expect("acceptable");
    settings.validate().expect("keys that agree");
}

fn default(row: &Row) -> String {
    match (row.default, row.unit) {
        ("", _) => "not set".to_owned(),
        (number, "ms") if number != "0" => format!("{number} ms"),
        (text, _) => text.to_owned(),
    }
}

/// An undated page: a date would have to be maintained, and the version is more precise. Lines are not justified, since
/// URLs cannot be broken.
fn page(name: &str, section: &str, manual: &str) -> Roff {
    let mut page = Roff::new();
    let version = concat!("broker ", env!("CARGO_PKG_VERSION"));
    page.control("TH", [name, section, "\"\"", version, manual]).control("ad", ["l"]);
    page
}

/// A part of an open page.
fn plain(write: impl FnOnce(&mut Roff)) -> String {
    let mut part = Roff::new();
    write(&mut part);
    part.render().splitn(3, '\n').nth(2).expect("two lines open a document").to_owned()
}

fn entry(page: &mut Roff, name: &str, meaning: &str) {
    page.control("TP", []).text([bold(name)]).text([roman(meaning)]);
}

pub(crate) fn compare(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("BROKER_UPDATE_DOCS").is_some_and(|value| value == "1") {
        return std::fs::write(&path, made).expect("write the page");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == made, "{name} differs from the code: BROKER_UPDATE_DOCS=1 cargo test --bin broker");
}
