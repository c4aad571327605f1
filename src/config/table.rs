//! The table of keys. One row here is one field of `Settings` with its default, its bounds and its documentation.
//! All code that prints, reads or documents settings uses `rows()`. Reads no file.

use std::path::PathBuf;

use super::endpoint::{ListenUrl, Secret, Upstream, mask, mask_list};
use super::value::{
    AdminListen, Auth, Integrity, LeakAction, LogAreas, LogFormat, LogLevel, OnSubscriberLoss,
    OnUpstreamLoss, Ping, Pubsub, SlowlogArgs, Transactions, UpstreamRole, Value, show,
};
use crate::base::error::{Error, Result};
use crate::base::log_area::LOG_AREAS;

/// The kind of text a key accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A plain number.
    Count,
    /// A size: a number of bytes, or text such as `64MiB`.
    Bytes,
    /// A duration: a number of milliseconds, or text such as `5s`.
    Milliseconds,
    /// One of the words in the row's `choices`.
    Choice,
    /// Free text; `min` and `max` bound its length in bytes.
    Text,
    /// Text that is never shown again.
    Password,
    /// The URL of a Redis server.
    Url,
    /// A list of URLs to listen on; `min` and `max` bound its length.
    Listen,
    /// A list of command names; `min` and `max` bound its length.
    Commands,
    /// A list of numeric user ids; `min` and `max` bound its length.
    Uids,
    /// A list of areas of the log, each with its level.
    Areas,
    /// A list of host names; `min` and `max` bound its length.
    Hosts,
}

/// All that is known about one key.
#[derive(Debug)]
pub struct Row {
    /// The key's only name.
    pub key: &'static str,
    /// The kind of text it accepts.
    pub kind: KeyKind,
    /// The default as text that `Settings::set` takes; empty for "not set".
    pub default: &'static str,
    /// `ms`, `bytes`, or empty.
    pub unit: &'static str,
    /// Whether a running loop accepts a new value (`reactor::Loop::reload`; the program applies the three keys of the log).
    pub reloadable: bool,
    /// The documentation, one line.
    pub doc: &'static str,
    /// Smallest value, in the unit.
    pub min: u64,
    /// Largest value, in the unit.
    pub max: u64,
    /// The words of a `KeyKind::Choice`, else empty.
    pub choices: &'static [&'static str],
}

/// A row and the field of `S` that it is about.
#[derive(Debug)]
pub(super) struct Field<S> {
    pub(super) row: Row,
    /// The error says what is wrong with the text.
    pub(super) write: fn(&mut S, &Row, &str) -> std::result::Result<(), String>,
    /// The field as text, without credentials.
    pub(super) read: fn(&S, &Row) -> String,
    /// Whether the field has the same value in both, credentials included.
    pub(super) same: fn(&S, &S) -> bool,
}

impl<S> Field<S> {
    pub(super) fn set(&self, settings: &mut S, value: &str) -> Result<()> {
        (self.write)(settings, &self.row, value).map_err(|why| self.row.refuse(value, &why))
    }
}

impl Row {
    /// The one line a user sees when a key refuses `value`.
    pub(super) fn refuse(&self, value: &str, why: &str) -> Error {
        let shown = match self.kind {
            KeyKind::Password => "***".to_owned(),
            KeyKind::Listen => show(&mask_list(value)),
            _ => show(&mask(value)),
        };
        Error::config(format!("{} = {shown}: {why}; allowed {}", self.key, self.allowed()))
    }

    /// The accepted values, for error messages and documentation.
    pub fn allowed(&self) -> String {
        let (min, max) = (self.min, self.max);
        match self.kind {
            KeyKind::Count => format!("{min} to {max}"),
            KeyKind::Bytes => format!("{min} to {max} bytes, or text such as \"512KiB\", \"64MiB\""),
            KeyKind::Milliseconds => format!("{min} to {max} ms, or text such as \"250ms\", \"5s\""),
            KeyKind::Choice => self.choices.join(", "),
            KeyKind::Text | KeyKind::Password => format!("text of at most {max} bytes"),
            KeyKind::Url => "redis[s]://[user:password@]host[:port][/db], \
                redis[s]+sentinel://[user:password@]host[:port],host[:port]/name[/db] or unix:///path[?db=n]"
                .to_owned(),
            KeyKind::Commands => format!("up to {max} names such as \"config|set\", separated by commas"),
            KeyKind::Uids => format!("up to {max} user ids such as \"33\", separated by commas"),
            KeyKind::Listen if max == 1 => "unix:///path[?mode=0600&user=name&group=name] or none".to_owned(),
            KeyKind::Areas => {
                let names = LOG_AREAS.iter().map(|area| area.name).collect::<Vec<_>>().join(", ");
                let levels = <LogLevel as Value>::CHOICES.join(", ");
                format!("area=level, separated by commas; areas: {names}; levels: {levels}")
            }
            KeyKind::Listen if self.key == "metrics_listen" => format!(
                "up to {max} of unix:///path[?mode=0660&user=name&group=name&label=text], \
                 tcp://host:port[?insecure=1&label=text]"
            ),
            KeyKind::Hosts => format!("up to {max} host names, separated by commas"),
            KeyKind::Listen => format!(
                "up to {max} of unix:///path[?mode=0660&user=name&group=name&label=text&read=replica], \
                 tcp://host:port[?insecure=1&label=text&read=replica], \
                 tls://host:port?cert=/path&key=/path[&client_ca=/path&insecure=1&label=text&read=replica]"
            ),
        }
    }
}

pub(super) const fn unit(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Bytes => "bytes",
        KeyKind::Milliseconds => "ms",
        _ => "",
    }
}

/// Makes the struct, its defaults and the rows from one list:
/// `/// doc` then `key: field type = "default", KeyKind(min, max), RELOAD;`
macro_rules! settings {
    ($(#[$about:meta])* $name:ident
     $( $(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:literal, $kind:ident($min:expr, $max:expr), $reload:expr; )+) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                #[doc = ""]
                #[doc = concat!("Unit: ", stringify!($kind), ". Default: `\"", $default, "\"`.")]
                pub $key: $type,
            )+
        }

        #[allow(non_upper_case_globals, reason = "a row is named as its key")]
        mod row {
            use super::*;
            $(
                pub(super) const $key: Row = Row {
                    key: stringify!($key),
                    kind: KeyKind::$kind,
                    default: $default,
                    unit: unit(KeyKind::$kind),
                    reloadable: $reload,
                    doc: concat!($($doc),+).trim_ascii(),
                    min: $min,
                    max: $max,
                    choices: <$type as Value>::CHOICES,
                };
            )+
        }

        static ROWS: &[Row] = &[$(row::$key),+];
        pub(super) static FIELDS: &[Field<$name>] = &[$(Field {
            row: row::$key,
            write: |settings, row, text| {
                settings.$key = Value::parse(row, text)?;
                Ok(())
            },
            read: |settings, row| settings.$key.text(row),
            same: |one, other| one.$key == other.$key,
        }),+];

        impl $name {
            /// Sets one key from its textual form, as `--set key=value` does. The empty text unsets an optional
            /// key. On failure nothing has changed.
            pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
                find(FIELDS, key)?.set(self, value)
            }

            /// Sets one key back to its default.
            pub fn unset(&mut self, key: &str) -> Result<()> {
                let field = find(FIELDS, key)?;
                field.set(self, field.row.default)
            }

            /// The current value as text that `set` would take again, or `None` for an unknown key. Unset is the
            /// empty text; credentials are left out or masked.
            pub fn get_text(&self, key: &str) -> Option<String> {
                let field = find(FIELDS, key).ok()?;
                Some((field.read)(self, &field.row))
            }
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $( $key: default_of(&row::$key), )+ }
            }
        }
    };
}

pub(super) use settings;

const RELOAD: bool = true;
/// Read once, at the start of the broker or when a client is made.
pub(super) const FIXED: bool = false;
pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;
/// Largest timeout that can be set, ms.
pub(super) const DAY: u64 = 24 * 60 * 60 * 1000;
/// Largest connection age that can be set, ms.
const MONTH: u64 = 30 * DAY;

settings! {
    /// Every setting of a broker, typed and each within its bounds. Times are milliseconds.
    Settings
    /// The Redis server this broker serves: a redis://, rediss:// (TLS) or unix:// URL; or the master that sentinels name: redis+sentinel://host:port,host:port/name.
    upstream: Option<Upstream> = "", Url(0, 4096), RELOAD;
    /// User name for the upstream, if not in its URL.
    upstream_username: Option<String> = "", Text(0, 4096), RELOAD;
    /// Password for the upstream, if not in its URL.
    upstream_password: Option<Secret> = "", Password(0, 64 * KIB), RELOAD;
    /// File whose first line is the password for the upstream.
    upstream_password_file: Option<PathBuf> = "", Text(0, 4096), RELOAD;
    /// Certificates in PEM of the CAs whose servers are trusted behind rediss://, or of the server itself; the system's CAs, if not set.
    tls_ca_file: Option<PathBuf> = "", Text(0, 4096), RELOAD;
    /// The broker's own certificate for the upstream, in PEM, with those that lead to its CA behind it.
    tls_cert_file: Option<PathBuf> = "", Text(0, 4096), RELOAD;
    /// The key of tls_cert_file, in PEM, not encrypted.
    tls_key_file: Option<PathBuf> = "", Text(0, 4096), RELOAD;
    /// The name that the upstream's certificate must have, and by which the upstream is called (SNI), if not the host of its URL.
    tls_server_name: Option<String> = "", Text(0, 255), RELOAD;
    /// true: the upstream's certificate is not checked at all. Whoever stands in between reads everything.
    tls_insecure: bool = "false", Choice(0, 0), RELOAD;
    /// User name at the sentinels, if they have one; that of the upstream is never sent to them.
    sentinel_username: Option<String> = "", Text(0, 4096), RELOAD;
    /// Password at the sentinels; it is sent to nobody else.
    sentinel_password: Option<Secret> = "", Password(0, 64 * KIB), RELOAD;
    /// File whose first line is the password at the sentinels.
    sentinel_password_file: Option<PathBuf> = "", Text(0, 4096), RELOAD;
    /// Where children connect: a list of unix://, tcp:// and tls:// URLs.
    listen: Vec<ListenUrl> = "", Listen(0, 64), RELOAD;
    /// Shared lanes per (user, db, protocol).
    lanes: usize = "1", Count(1, 1024), RELOAD;
    /// Leased lanes for blocking commands.
    leases_blocking_max: usize = "256", Count(0, 100_000), RELOAD;
    /// Leased lanes shared by all blocking commands that are equal but for the timeout.
    leases_per_group_max: usize = "4", Count(1, 1024), RELOAD;
    /// Leased lanes for WATCH and for MULTI that needs a dedicated connection.
    leases_transaction_max: usize = "64", Count(0, 100_000), RELOAD;
    /// Leased lanes for commands that change session state.
    leases_session_max: usize = "32", Count(0, 100_000), RELOAD;
    /// Idle leased lanes kept ready; further ones are closed after three idle seconds.
    leases_warm: usize = "1", Count(0, 1024), RELOAD;
    /// Hard cap on upstream connections of all kinds; never exceeded.
    upstream_connections_max: usize = "384", Count(8, 1_000_000), RELOAD;
    /// How long a command waits for a lease, then BROKERLIMIT; 0: not at all.
    lease_wait_timeout: u64 = "5000", Milliseconds(0, DAY), RELOAD;
    /// How long an upstream connection may take to become ready.
    connect_timeout: u64 = "1000", Milliseconds(1, DAY), RELOAD;
    /// Longest delay between two attempts to connect; delays start at 10 and are jittered.
    reconnect_backoff_max: u64 = "500", Milliseconds(10, DAY), RELOAD;
    /// How long an unwritten request waits for a lane, then BROKERDOWN; 0: not at all.
    queue_timeout: u64 = "1000", Milliseconds(0, DAY), RELOAD;
    /// How long a written request waits for its reply, then BROKERTIMEOUT; 0: off.
    request_timeout: u64 = "0", Milliseconds(0, DAY), RELOAD;
    /// A lane without any reply for this long is probed, then closed; 0: off.
    lane_stall_timeout: u64 = "10000", Milliseconds(0, DAY), RELOAD;
    /// Surplus upstream connections are closed after this idle time; 0: never.
    upstream_idle_timeout: u64 = "300000", Milliseconds(0, MONTH), RELOAD;
    /// Lanes are drained and replaced at this age; 0: never.
    upstream_lifetime: u64 = "0", Milliseconds(0, MONTH), RELOAD;
    /// Children connected at the same time; above it a new one gets an error and is closed.
    children_max: usize = "10000", Count(1, 1_000_000), RELOAD;
    /// Children of one process of this host; above it a new one gets an error and is closed; 0: off.
    children_per_process_max: usize = "0", Count(0, 1_000_000), RELOAD;
    /// Children of one user of this host; above it a new one gets an error and is closed; 0: off.
    children_per_uid_max: usize = "0", Count(0, 1_000_000), RELOAD;
    /// Leases for transactions and sessions of one process of this host, then BROKERLIMIT; 0: off.
    leases_per_process_max: usize = "0", Count(0, 100_000), RELOAD;
    /// Unanswered requests of one child; at the limit the child is not read.
    child_in_flight_max: usize = "1024", Count(1, 1_000_000), RELOAD;
    /// Bytes of one request, with 64KiB more for its length lines, and (64MiB at least) of all requests of a child that reads no replies; above it the child gets an error and is closed.
    child_input_max: usize = "512MiB", Bytes(64 * KIB, 64 * GIB), RELOAD;
    /// Bytes of unread replies of one child; above it the child is closed.
    child_output_max: usize = "64MiB", Bytes(64 * KIB, 64 * GIB), RELOAD;
    /// Bytes of unread messages of one subscriber; above it the subscriber is closed.
    subscriber_output_max: usize = "32MiB", Bytes(64 * KIB, 64 * GIB), RELOAD;
    /// As subscriber_output_max, if exceeded throughout subscriber_output_soft_time; 0: off.
    subscriber_output_soft: usize = "8MiB", Bytes(0, 64 * GIB), RELOAD;
    /// How long a subscriber may stay above subscriber_output_soft.
    subscriber_output_soft_time: u64 = "60000", Milliseconds(0, DAY), RELOAD;
    /// Bytes of all buffers together; at the cap the child that uses most is closed and named in the log. Requests that
    /// have been read in part hold half of it at most.
    memory_max: usize = "1GiB", Bytes(MIB, 1024 * GIB), RELOAD;
    /// A child without requests for this long is closed; 0: never.
    idle_child_timeout: u64 = "0", Milliseconds(0, MONTH), RELOAD;
    /// A child that leaves a MULTI or WATCH open this long is closed; 0: never.
    idle_transaction_timeout: u64 = "60000", Milliseconds(0, DAY), RELOAD;
    /// What stands unused for this long is reported as a suspected leak; 0: never.
    leak_threshold: u64 = "30000", Milliseconds(0, DAY), RELOAD;
    /// Suspected leaks: report them, or also close the children that have them.
    leak_action: LeakAction = "report", Choice(0, 0), RELOAD;
    /// Requests that take longer than this are kept in BROKER SHOW SLOWLOG; 0: none.
    slowlog_threshold: u64 = "10", Milliseconds(0, DAY), RELOAD;
    /// How many of them are kept.
    slowlog_max: usize = "128", Count(1, 10_000), RELOAD;
    /// What of them is shown beside the command: nothing, the first argument up to 64 bytes, or what of the first 96 bytes are arguments.
    slowlog_args: SlowlogArgs = "key", Choice(0, 0), RELOAD;
    /// Where the verbs of the console are heard, beside ordinary requests: a unix:// URL; none: nowhere. The program's
    /// default is a socket with mode 0600 beside its first listener, named like it with .admin at the end.
    admin_listen: AdminListen = "", Listen(0, 1), FIXED;
    /// User ids that may use the console beside root and the broker's own.
    admin_uids: Vec<u32> = "", Uids(0, 64), RELOAD;
    /// shared: MULTI is queued in the broker and written whole to a lane that transactions share; leased: it gets a leased lane.
    transactions: Transactions = "shared", Choice(0, 0), RELOAD;
    /// shared: one upstream subscription per channel; leased: each subscriber gets a leased lane.
    pubsub: Pubsub = "shared", Choice(0, 0), RELOAD;
    /// When messages may have been missed: close the subscribers, or subscribe again without telling them.
    on_subscriber_loss: OnSubscriberLoss = "close", Choice(0, 0), RELOAD;
    /// Children whose requests are lost with an upstream connection, or find none for queue_timeout: close them, as Redis going away would, or answer with an error (BROKERLOST, BROKERDOWN). Clients of libbroker always get the error.
    on_upstream_loss: OnUpstreamLoss = "close", Choice(0, 0), RELOAD;
    /// Which role Redis must have: auto (one first greeted as a master must stay one, one first greeted as a replica is served as one), master, any. Where a master is missed, no connection to a replica serves.
    upstream_role: UpstreamRole = "auto", Choice(0, 0), RELOAD;
    /// How long a server that is the master no more may answer what was written to it.
    failover_grace: u64 = "1000", Milliseconds(0, DAY), RELOAD;
    /// Who checks AUTH: broker (no AUTH needed), users (auth_file), passthrough (the upstream).
    auth: Auth = "broker", Choice(0, 0), FIXED;
    /// The users of auth = users: a TOML file.
    auth_file: Option<PathBuf> = "", Text(0, 4096), RELOAD;
    /// Commands to allow that are refused by default; a container name means all its subcommands.
    commands_allow: Vec<String> = "", Commands(0, 1024), RELOAD;
    /// Commands to refuse, even if commands_allow has them, and scripts that could call them (scripts_trusted); a container name means all its subcommands.
    commands_deny: Vec<String> = "", Commands(0, 1024), RELOAD;
    /// true: EVAL and FCALL are allowed although a script could call what commands_deny refuses.
    scripts_trusted: bool = "false", Choice(0, 0), RELOAD;
    /// Commands that keep a lane busy, for example of modules: each gets a leased lane until its reply.
    commands_lease: Vec<String> = "", Commands(0, 1024), RELOAD;
    /// upstream: Redis answers PING; local: the broker answers while connected, for servers billed per request.
    ping: Ping = "upstream", Choice(0, 0), RELOAD;
    /// Canaries on upstream lanes: off, sampled, or always (a reply is passed on only when the canary behind it matches).
    integrity: Integrity = "off", Choice(0, 0), RELOAD;
    /// With integrity = sampled: one canary per this many requests of a lane.
    integrity_sample: usize = "64", Count(1, 1_000_000), RELOAD;
    /// Bytes of one queued MULTI.
    transaction_max: usize = "64MiB", Bytes(KIB, 64 * GIB), RELOAD;
    /// How long BROKER PAUSE holds requests, and BROKER UPSTREAM may take to bring everything to rest; then the broker resumes by itself.
    pause_timeout: u64 = "30000", Milliseconds(1, DAY), RELOAD;
    /// On shutdown, how long requests in progress have to finish.
    drain_timeout: u64 = "5000", Milliseconds(0, DAY), RELOAD;
    /// How long a successor may take to be ready, and children that cannot move may stay with the broker it follows.
    upgrade_timeout: u64 = "60000", Milliseconds(1000, DAY), RELOAD;
    /// Where metrics, health and the status page are served over HTTP (docs/metrics.md): a list of unix:// and tcp:// URLs.
    metrics_listen: Vec<ListenUrl> = "", Listen(0, 8), RELOAD;
    /// Host names by which HTTP clients may call the broker, besides IP addresses and localhost.
    metrics_hosts: Vec<String> = "", Hosts(0, 64), RELOAD;
    /// Lowest severity to log.
    log_level: LogLevel = "info", Choice(0, 0), RELOAD;
    /// Lowest severity to log from some areas of the program, if not log_level.
    log_areas: LogAreas = "", Areas(0, 0), RELOAD;
    /// text and json: lines on standard error; journal: fields for systemd's journal, or text that it understands on standard error.
    log_format: LogFormat = "text", Choice(0, 0), RELOAD;
}

/// A default that its own row refuses is a bug in the table; a test finds it.
pub(super) fn default_of<T: Value>(row: &Row) -> T {
    Value::parse(row, row.default).unwrap_or_else(|why| panic!("default of {}: {why}", row.key))
}

/// Every key, in the order in which it is documented.
pub fn rows() -> &'static [Row] {
    ROWS
}

/// What is longer is compared with no key, bytes: the comparison takes time with the product of the lengths.
const KEY_LEN_MAX: usize = 64;

/// The field of `key`, or an error that names the nearest key.
pub(super) fn find<S>(fields: &'static [Field<S>], key: &str) -> Result<&'static Field<S>> {
    if let Some(field) = fields.iter().find(|field| field.row.key == key) {
        return Ok(field);
    }
    let names = fields.iter().map(|field| field.row.key).filter(|_| key.len() <= KEY_LEN_MAX);
    let nearest = names.map(|name| (strsim::levenshtein(key, name), name)).min();
    // A distance above a third of the length is another word, not a typing error.
    let hint = match nearest.filter(|(distance, name)| *distance <= name.len() / 3) {
        Some((_, name)) => format!("did you mean \"{name}\"?"),
        None => "the keys are listed in the configuration's documentation".to_owned(),
    };
    Err(Error::config(format!("unknown key {}; {hint}", show(&mask(key)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_answered_with_the_nearest_key() {
        let error = |key| find(FIELDS, key).unwrap_err().to_string();
        assert_eq!(error("quue_timeout"), "unknown key \"quue_timeout\"; did you mean \"queue_timeout\"?");
        assert!(error("lane").contains("did you mean \"lanes\"?"));
        assert!(!error("xyzzy").contains("did you mean"));
        assert!(!error("redis://:hunter2@h").contains("hunter2"));
        assert!(!error(&"long\n".repeat(100)).contains('\n'));
    }

    #[test]
    fn rows_are_unique_and_their_bounds_ordered() {
        for (index, row) in rows().iter().enumerate() {
            assert!(row.min <= row.max, "{}", row.key);
            assert!(rows()[..index].iter().all(|other| other.key != row.key), "{}", row.key);
            assert_eq!(row.kind == KeyKind::Choice, !row.choices.is_empty(), "{}", row.key);
        }
    }
}
