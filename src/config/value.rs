//! How each type of setting is read from text and printed again. The type of a field in the table selects its reader;
//! bounds come from the row. Errors give the reason, the row adds what is allowed. Knows no key.

use std::path::PathBuf;

use super::endpoint::{AccessOptions, ChildProfile, ListenUrl, SUN_PATH_MAX, Secret, Upstream};
use super::table::{KeyKind, Row};
use crate::base::log_area::{self, LOG_AREA_COUNT, LOG_AREAS};

pub(super) type ParseResult<T> = std::result::Result<T, String>;

/// A type a setting can have.
pub(super) trait Value: Sized {
    /// The words of a choice.
    const CHOICES: &'static [&'static str] = &[];
    /// Parses text; the error never contains it.
    fn parse(row: &Row, text: &str) -> ParseResult<Self>;
    /// Prints text that `parse` accepts, without credentials.
    fn text(&self, row: &Row) -> String;
}

/// Defines enums whose variants are words of the configuration.
macro_rules! choices {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$variant_doc:meta])* $variant:ident = $word:literal, )+ } )+) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[$variant_doc])* $variant, )+ }

        impl $name {
            /// Its word in the configuration.
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $word, )+ }
            }
        }

        impl Value for $name {
            const CHOICES: &'static [&'static str] = &[$($word),+];
            fn parse(_row: &Row, text: &str) -> ParseResult<Self> {
                match text {
                    $( $word => Ok($name::$variant), )+
                    _ => Err("not one of the choices".to_owned()),
                }
            }
            fn text(&self, _row: &Row) -> String {
                self.as_str().to_owned()
            }
        }
    )+ };
}

choices! {
    /// Who answers PING.
    Ping {
        /// The upstream, like any request.
        Upstream = "upstream",
        /// The broker, while it is connected.
        Local = "local",
    }

    /// Where a transaction runs.
    Transactions {
        /// Queued by the broker, then written whole to a shared lane.
        Shared = "shared",
        /// On a lane leased from MULTI to EXEC.
        Leased = "leased",
    }

    /// Where subscriptions are kept.
    Pubsub {
        /// One upstream subscription per channel, for all children of a user.
        Shared = "shared",
        /// On a lane leased from the first subscription to the last.
        Leased = "leased",
    }

    /// What happens to subscribers when the connection that carries their messages is lost.
    OnSubscriberLoss {
        /// They are closed, as a direct connection would be.
        Close = "close",
        /// The channels are subscribed again; messages published in between are missed without notice.
        Resubscribe = "resubscribe",
    }

    /// Which role the upstream must have.
    UpstreamRole {
        /// A server first greeted as a master must stay one; one first greeted as a replica is served as one.
        Auto = "auto",
        /// Whatever it is.
        Any = "any",
        /// A master.
        Master = "master",
    }

    /// What a child learns of a lost upstream. Programs of the library are always told.
    OnUpstreamLoss {
        /// It is closed, as Redis going away would close it.
        Close = "close",
        /// Each request that is lost, or finds no connection, is answered with an error of the broker's own.
        Error = "error",
    }

    /// Who authenticates children.
    Auth {
        /// No authentication: every child that can connect is served as the upstream's user.
        Broker = "broker",
        /// The broker, from `auth_file`.
        Users = "users",
        /// The upstream, with the child's own name and password.
        Passthrough = "passthrough",
    }

    /// How often a lane checks that its replies belong to its requests.
    Integrity {
        /// Never.
        Off = "off",
        /// Behind one request in `integrity_sample`.
        Sampled = "sampled",
        /// Behind every request; no reply is passed to a child before its canary has matched.
        Always = "always",
    }

    /// What the slow log shows of a request beside its command.
    SlowlogArgs {
        /// Nothing.
        None = "none",
        /// Its first argument.
        Key = "key",
        /// As much of it as was kept.
        All = "all",
    }

    /// What becomes of a child that is suspected of a leak.
    LeakAction {
        /// It is named in the log, in metrics and in the console.
        Report = "report",
        /// It is closed as well.
        Close = "close",
    }

    /// The lowest severity that is logged.
    LogLevel {
        /// Failures only.
        Error = "error",
        /// Also conditions that may become failures.
        Warn = "warn",
        /// Also events an operator wants to find afterwards.
        Info = "info",
        /// Also the life of every connection.
        Debug = "debug",
        /// Also every request.
        Trace = "trace",
    }

    /// The format of log lines.
    LogFormat {
        /// Plain text.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
        /// Fields for systemd's journal; where there is none, text with the priority prefixes that it reads from standard
        /// error.
        Journal = "journal",
    }
}

impl Value for bool {
    const CHOICES: &'static [&'static str] = &["false", "true"];
    fn parse(_row: &Row, text: &str) -> ParseResult<Self> {
        text.parse().map_err(|_| "neither true nor false".to_owned())
    }
    fn text(&self, _row: &Row) -> String {
        self.to_string()
    }
}

impl Value for u64 {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        let (units, noun): (Units, _) = match row.kind {
            KeyKind::Milliseconds => (TIME_UNITS, "a duration"),
            KeyKind::Bytes => (BYTE_UNITS, "a size"),
            _ => (&[], "a whole number"),
        };
        let number = scaled(text, units).ok_or_else(|| format!("not {noun}"))?;
        if number < row.min || number > row.max {
            return Err("out of range".to_owned());
        }
        Ok(number)
    }

    fn text(&self, row: &Row) -> String {
        if row.kind == KeyKind::Bytes && *self != 0 {
            for (name, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
                if self.is_multiple_of(factor) {
                    return format!("{}{name}", self / factor);
                }
            }
        }
        self.to_string()
    }
}

impl Value for usize {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        usize::try_from(u64::parse(row, text)?).map_err(|_| "out of range".to_owned())
    }

    fn text(&self, row: &Row) -> String {
        (*self as u64).text(row)
    }
}

/// Suffixes in lower case, and the number of base units of each.
type Units = &'static [(&'static str, u64)];
const TIME_UNITS: Units = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const BYTE_UNITS: Units = &[
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
];

/// A whole number with an optional suffix, in the base unit.
fn scaled(text: &str, units: Units) -> Option<u64> {
    let text = text.trim();
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let number: u64 = digits.parse().ok()?;
    if suffix.is_empty() {
        return Some(number);
    }
    let suffix = suffix.trim_start().to_ascii_lowercase();
    let (_, factor) = units.iter().find(|(name, _)| *name == suffix)?;
    number.checked_mul(*factor)
}

/// Text within the row's length and without NUL, or `None` when empty.
fn optional(row: &Row, text: &str) -> ParseResult<Option<String>> {
    if text.len() as u64 > row.max {
        return Err("too long".to_owned());
    }
    if text.contains('\0') {
        return Err("contains a NUL byte".to_owned());
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

impl Value for Option<String> {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        optional(row, text)
    }

    fn text(&self, _row: &Row) -> String {
        self.clone().unwrap_or_default()
    }
}

/// A plain number, or `None` when empty.
impl Value for Option<u32> {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        match text.trim() {
            "" => Ok(None),
            text => u32::try_from(u64::parse(row, text)?).map(Some).map_err(|_| "out of range".to_owned()),
        }
    }

    fn text(&self, _row: &Row) -> String {
        self.map(|number| number.to_string()).unwrap_or_default()
    }
}

impl Value for Option<PathBuf> {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        Ok(optional(row, text)?.map(PathBuf::from))
    }

    fn text(&self, _row: &Row) -> String {
        self.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

impl Value for Option<Secret> {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        Ok(optional(row, text)?.map(Secret::new))
    }

    fn text(&self, _row: &Row) -> String {
        self.as_ref().map(|_| "***".to_owned()).unwrap_or_default()
    }
}

impl Value for Option<Upstream> {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        optional(row, text.trim())?.map(|url| Upstream::parse(&url)).transpose()
    }

    fn text(&self, _row: &Row) -> String {
        self.as_ref().map(Upstream::to_string).unwrap_or_default()
    }
}

/// Names in lower case, separated by commas or blanks: of commands, a subcommand as `container|name`; or of hosts.
impl Value for Vec<String> {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        let words = text.split([',', ' ']).filter(|word| !word.is_empty());
        let list: Vec<String> = words.map(str::to_ascii_lowercase).collect();
        let of_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let (len_max, noun) = if row.kind == KeyKind::Hosts { (253, "host") } else { (128, "command") };
        let plain = |word: &String| {
            let fits = |byte: u8| if noun == "host" { of_host(byte) } else { byte.is_ascii_graphic() };
            word.bytes().all(fits) && word.len() <= len_max
        };
        match list.iter().all(plain) {
            _ if list.len() as u64 > row.max => Err("too many".to_owned()),
            true => Ok(list),
            false => Err(format!("not {noun} names")),
        }
    }

    fn text(&self, _row: &Row) -> String {
        self.join(",")
    }
}

/// Levels of areas of the log, where they differ from `log_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogAreas([Option<LogLevel>; LOG_AREA_COUNT]);

impl LogAreas {
    /// The level of the area with this index in `LOG_AREAS`, if it has its own.
    pub fn level(&self, area: usize) -> Option<LogLevel> {
        self.0[area]
    }
}

/// `area=level`; separated by commas or blanks.
impl Value for LogAreas {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        let mut areas = LogAreas::default();
        for pair in text.split([',', ' ']).filter(|pair| !pair.is_empty()) {
            let (name, level) = pair.split_once('=').ok_or("not area=level")?;
            let area = log_area::find(name).ok_or("unknown area")?;
            let level = LogLevel::parse(row, level).map_err(|_| "unknown level")?;
            if areas.0[area].replace(level).is_some() {
                return Err("an area is named twice".to_owned());
            }
        }
        Ok(areas)
    }

    fn text(&self, _row: &Row) -> String {
        let own = LOG_AREAS.iter().zip(&self.0).filter_map(|(area, level)| Some((area.name, (*level)?)));
        own.map(|(name, level)| format!("{name}={}", level.as_str())).collect::<Vec<_>>().join(",")
    }
}

/// A list is separated by commas; a comma inside a path is written `%2C`.
impl Value for Vec<ListenUrl> {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let list = items.map(ListenUrl::parse).collect::<ParseResult<Vec<_>>>()?;
        if list.len() as u64 > row.max {
            return Err("too many".to_owned());
        }
        Ok(list)
    }

    fn text(&self, _row: &Row) -> String {
        self.iter().map(ListenUrl::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Where the verbs of the console are heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AdminListen {
    /// As the program decides; a loop in another program has none.
    #[default]
    Default,
    /// Nowhere.
    None,
    /// On a Unix socket.
    At(ListenUrl),
}

impl AdminListen {
    /// The socket beside a listener: its owner alone may connect.
    pub fn beside(first: &ListenUrl) -> Self {
        let ListenUrl::Unix { path, .. } = first else { return AdminListen::None };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".admin");
        if beside.len() > SUN_PATH_MAX {
            return AdminListen::None;
        }
        let access = AccessOptions { mode: Some(0o600), ..AccessOptions::default() };
        AdminListen::At(ListenUrl::Unix { path: beside.into(), access, profile: ChildProfile::default() })
    }
}

impl Value for AdminListen {
    fn parse(_row: &Row, text: &str) -> ParseResult<Self> {
        match text.trim() {
            "" => Ok(AdminListen::Default),
            "none" => Ok(AdminListen::None),
            text => match ListenUrl::parse(text)? {
                ListenUrl::Tcp { .. } => {
                    Err("the verbs of the console are heard on unix:// alone".to_owned())
                }
                url => Ok(AdminListen::At(url)),
            },
        }
    }

    fn text(&self, _row: &Row) -> String {
        match self {
            AdminListen::Default => String::new(),
            AdminListen::None => "none".to_owned(),
            AdminListen::At(url) => url.to_string(),
        }
    }
}

/// User ids, separated by commas or blanks.
impl Value for Vec<u32> {
    fn parse(row: &Row, text: &str) -> ParseResult<Self> {
        let words = text.split([',', ' ']).filter(|word| !word.is_empty());
        let list: Option<Vec<u32>> = words.map(|word| word.parse().ok()).collect();
        match list.ok_or("not user ids")? {
            list if list.len() as u64 > row.max => Err("too many".to_owned()),
            list => Ok(list),
        }
    }

    fn text(&self, _row: &Row) -> String {
        self.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }
}

/// A value in quotes, on one line and not too long for it.
pub(super) fn show(text: &str) -> String {
    const SHOWN_MAX: usize = 120;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, rows};

    fn set(key: &str, value: &str) -> std::result::Result<String, String> {
        let mut settings = Settings::default();
        settings.set(key, value).map_err(|error| error.to_string())?;
        Ok(settings.get_text(key).unwrap())
    }

    #[test]
    fn durations_take_numbers_and_suffixes() {
        for (text, ms) in [("7", "7"), ("250ms", "250"), ("5s", "5000"), ("1m", "60000"), ("1 H", "3600000")]
        {
            assert_eq!(set("queue_timeout", text).as_deref(), Ok(ms), "{text}");
        }
        for text in ["soon", "", "-1", "1.5s", "5 parsecs", "s", "0x10", "99999999999999999999", "5MiB"] {
            let allowed = "allowed 0 to 86400000 ms, or text such as \"250ms\", \"5s\"";
            let error = format!("queue_timeout = {text:?}: not a duration; {allowed}");
            assert_eq!(set("queue_timeout", text).unwrap_err(), error);
        }
        assert!(set("queue_timeout", "25h").unwrap_err().contains("out of range; allowed 0 to"));
        assert!(set("queue_timeout", "9999999999999999d").unwrap_err().contains("not a duration"));
    }

    #[test]
    fn sizes_take_numbers_and_suffixes() {
        let sizes = [("64MiB", "64MiB"), ("512KiB", "512KiB"), ("1gib", "1GiB"), ("64MB", "62500KiB")];
        for (text, size) in sizes.into_iter().chain([("100001", "100001")]) {
            assert_eq!(set("child_output_max", text).as_deref(), Ok(size), "{text}");
        }
        assert_eq!(set("subscriber_output_soft", "0").as_deref(), Ok("0"));
        assert!(set("memory_max", "5s").unwrap_err().contains("not a size"));
    }

    #[test]
    fn counts_and_choices_are_bounded() {
        assert_eq!(set("lanes", "4").as_deref(), Ok("4"));
        assert_eq!(set("lanes", "0").unwrap_err(), "lanes = \"0\": out of range; allowed 1 to 1024");
        assert!(set("lanes", "4k").unwrap_err().contains("not a whole number"));
        assert!(set("upstream_connections_max", "7").unwrap_err().contains("allowed 8 to"));
        assert_eq!(set("transactions", "leased").as_deref(), Ok("leased"));
        assert_eq!(
            set("log_level", "loud").unwrap_err(),
            "log_level = \"loud\": not one of the choices; allowed error, warn, info, debug, trace"
        );
    }

    #[test]
    fn areas_have_levels_of_their_own() {
        assert_eq!(set("log_areas", "").as_deref(), Ok(""));
        // In the order of the table, however it is given.
        let given = "upstream=trace, child=debug";
        assert_eq!(set("log_areas", given).as_deref(), Ok("child=debug,upstream=trace"));
        let refusals = [
            ("childs=debug", "unknown area"),
            ("child=loud", "unknown level"),
            ("child", "not area=level"),
            ("child=info,child=debug", "an area is named twice"),
        ];
        for (text, why) in refusals {
            let error = set("log_areas", text).unwrap_err();
            assert!(error.starts_with(&format!("log_areas = {text:?}: {why}; allowed ")), "{error}");
            assert!(error.contains("child, request") && error.contains("error, warn, info"), "{error}");
        }
    }

    #[test]
    fn names_of_hosts_are_names_alone() {
        assert_eq!(set("metrics_hosts", "Web-1.example, b").as_deref(), Ok("web-1.example,b"));
        for text in ["a:80", "http://a", "[::1]", "a/b", &"x".repeat(254)] {
            assert!(
                set("metrics_hosts", text).unwrap_err().contains("not host names; allowed up to 64"),
                "{text}"
            );
        }
        assert!(set("commands_deny", "é").unwrap_err().contains("not command names"));
    }

    #[test]
    fn a_failed_set_changes_nothing() {
        let mut settings = Settings::default();
        settings.set("listen", "unix:///a").unwrap();
        let before = settings.clone();
        settings.set("listen", "unix:///b,nonsense").unwrap_err();
        assert_eq!(settings, before);
    }

    #[test]
    fn passwords_are_never_shown() {
        assert_eq!(set("upstream_password", "hunter2").as_deref(), Ok("***"));
        assert_eq!(set("upstream_password", "").as_deref(), Ok(""));
        let error = set("upstream_password", "hunter2\0").unwrap_err();
        assert!(error.starts_with("upstream_password = ***: contains a NUL"), "{error}");
        assert_eq!(set("upstream", "redis://u:hunter2@h").as_deref(), Ok("redis://h:6379/0"));
    }

    #[test]
    fn every_error_is_one_line_naming_its_key() {
        for row in rows() {
            let text = "no\nsuch\0value ".repeat(40_000);
            let error = set(row.key, &text).unwrap_err();
            assert!(error.starts_with(&format!("{} = ", row.key)), "{error}");
            assert!(!error.contains('\n') && error.len() < 500, "{error}");
        }
    }
}
