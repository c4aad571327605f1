//! Reads settings from text: TOML and `key=value`. Reads no file, flag or environment variable itself; the caller
//! passes the text and the name to use in errors.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::client::{self, ClientSettings};
use super::endpoint::mask;
use super::table::{self, Field, KeyKind, Row, Settings, find};
use super::value::show;
use crate::base::error::{Error, Result};

/// Applies a TOML document to the settings of both sides; keys it does not name keep their values. `origin` is the
/// document's name in errors, usually a file name. On failure nothing has changed.
pub fn load_toml(broker: &mut Settings, client: &mut ClientSettings, text: &str, origin: &str) -> Result<()> {
    load_keys(broker, client, text, origin).map(drop)
}

/// The same; returns the keys that the document names.
pub(super) fn load_keys(
    broker: &mut Settings,
    client: &mut ClientSettings,
    text: &str,
    origin: &str,
) -> Result<Vec<String>> {
    let table = parse_document(text, origin)?;

    // In the order of the file, so that the first error is the topmost one.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut loaded = (broker.clone(), client.clone());
    let names = entries.iter().map(|(key, _)| key.get_ref().to_string()).collect();
    for (key, value) in entries {
        let (name, value) = (key.get_ref(), value.get_ref());
        // All keys of the library's clients begin like this, and no others.
        let taken = match name.starts_with("client_") {
            true => set_toml(client::FIELDS, &mut loaded.1, name, value),
            false => set_toml(table::FIELDS, &mut loaded.0, name, value),
        };
        taken.map_err(|error| refused(text, origin, Some(key.span()), &error.to_string()))?;
    }
    (*broker, *client) = loaded;
    Ok(names)
}

/// An error at a place of a document.
fn refused(text: &str, origin: &str, span: Option<Range<usize>>, message: &str) -> Error {
    let line = span.map_or_else(String::new, |span| format!(":{}", line_of(text, span.start)));
    Error::config(format!("{origin}{line}: {message}"))
}

fn parse_document<'t>(text: &'t str, origin: &str) -> Result<Spanned<DeTable<'t>>> {
    // Only the message: the parser's Display quotes the line, which may contain a password.
    DeTable::parse(text).map_err(|error| {
        let is_key = |word: &&str| find(table::FIELDS, word).is_ok() || find(client::FIELDS, word).is_ok();
        let key = error.span().and_then(|span| text.get(span)).filter(is_key);
        let named = key.map_or_else(String::new, |key| format!("{key}: "));
        refused(text, origin, error.span(), &format!("{named}{}", one_line(error.message())))
    })
}

impl Settings {
    /// Where a broker with this document listens, for whoever looks for it: `listen` and `admin_listen` alone. The others are
    /// not even looked at.
    pub fn places_in(text: &str, origin: &str) -> Result<Settings> {
        let document = parse_document(text, origin)?;
        let mut settings = Settings::default();
        for (key, value) in document.get_ref() {
            let name: &str = key.get_ref();
            if ["listen", "admin_listen"].contains(&name) {
                set_toml(table::FIELDS, &mut settings, name, value.get_ref())
                    .map_err(|error| refused(text, origin, Some(key.span()), &error.to_string()))?;
            }
        }
        Ok(settings)
    }

    /// Applies a TOML document that may also contain keys for the clients of the host: those are checked and
    /// otherwise ignored.
    pub fn load_toml(&mut self, text: &str, origin: &str) -> Result<()> {
        load_toml(self, &mut ClientSettings::default(), text, origin)
    }

    /// Applies `key=value`, as given to a flag.
    pub fn set_pair(&mut self, pair: &str) -> Result<()> {
        match pair.split_once('=') {
            Some((key, value)) => self.set(key.trim(), value.trim()),
            None => Err(Error::config(format!("{}: not of the form key=value", show(&mask(pair))))),
        }
    }
}

fn set_toml<S>(fields: &'static [Field<S>], settings: &mut S, key: &str, value: &DeValue<'_>) -> Result<()> {
    let field = find(fields, key)?;
    let text = toml_text(&field.row, value).ok_or_else(|| {
        let found = value.type_str();
        Error::config(format!("{key}: not to be given as {found}; allowed {}", field.row.allowed()))
    })?;
    field.set(settings, &text)
}

/// The text of a value, if the row's kind accepts this TOML type.
fn toml_text(row: &Row, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number)
            if matches!(row.kind, KeyKind::Count | KeyKind::Bytes | KeyKind::Milliseconds) =>
        {
            // A number beyond i128 is out of every range, so any text that does not parse will do.
            let parsed = i128::from_str_radix(number.as_str(), number.radix());
            Some(parsed.map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()))
        }
        DeValue::Boolean(value) if row.choices.contains(&"true") => Some(value.to_string()),
        DeValue::Array(items)
            if matches!(row.kind, KeyKind::Listen | KeyKind::Commands | KeyKind::Areas | KeyKind::Hosts) =>
        {
            let texts = items.iter().map(|item| item.get_ref().as_str());
            texts.collect::<Option<Vec<_>>>().map(|texts| texts.join(","))
        }
        DeValue::Array(items) if row.kind == KeyKind::Uids => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str()),
                other => other.as_str(),
            });
            texts.collect::<Option<Vec<_>>>().map(|texts| texts.join(","))
        }
        _ => None,
    }
}

/// Line numbers start at 1, as in editors.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One file serves the whole host: the broker and the programs that use it.
    #[test]
    fn keys_of_clients_go_to_the_clients() {
        let (mut broker, mut client) = (Settings::default(), ClientSettings::default());
        let text = "lanes = 3\nclient_db = 5\nclient_name = 'web'\nclient_connect_timeout = '2s'\n";
        load_toml(&mut broker, &mut client, text, "x").unwrap();
        assert_eq!((broker.lanes, client.client_db, client.client_connect_timeout), (3, Some(5), 2000));
        assert_eq!(client.client_name.as_deref(), Some("web"));

        let former = (broker.clone(), client.clone());
        for (text, error) in [
            ("client_db = 7\nlanes = 0", "x:2: lanes = "),
            ("lanes = 7\nclient_protocol = 4", "x:2: client_protocol = \"4\": "),
            ("client_naem = 'x'", "x:1: unknown key \"client_naem\"; did you mean"),
            ("client_db = true", "x:1: client_db: not to be given as boolean"),
            ("client_db = 1\nclient_db = 2", "x:2: client_db: duplicate key"),
            ("client_password = 5", "x:1: client_password: not to be given as integer"),
        ] {
            let found = load_toml(&mut broker, &mut client, text, "x").unwrap_err().to_string();
            assert!(found.starts_with(error), "{text}: {found}");
            assert_eq!((&broker, &client), (&former.0, &former.1), "nothing has changed");
        }
        let settings = load("lanes = 3\nclient_db = 5").unwrap();
        assert_eq!(settings.lanes, 3, "checked and left out");
        assert!(load("client_db = 'x'").is_err());
    }

    fn load(text: &str) -> std::result::Result<Settings, String> {
        let mut settings = Settings::default();
        settings.load_toml(text, "broker.toml").map_err(|error| error.to_string())?;
        Ok(settings)
    }

    #[test]
    fn a_document_sets_what_it_names_and_nothing_else() {
        let settings = load(
            "# a comment\nupstream = \"redis://h:1/2\"\nlanes = 0x2\nqueue_timeout = '5s'\n\
             child_output_max = 1_000_000\nlisten = [\n\"unix:///a\", # one\n\"tcp://[::1]:7\"]\n",
        )
        .unwrap();
        assert_eq!(settings.upstream.as_ref().unwrap().to_string(), "redis://h:1/2");
        assert_eq!((settings.lanes, settings.queue_timeout), (2, 5000));
        assert_eq!(settings.child_output_max, 1_000_000);
        assert_eq!(settings.get_text("listen").unwrap(), "unix:///a,tcp://[::1]:7");
        assert_eq!(settings.drain_timeout, Settings::default().drain_timeout);
        assert_eq!(load("").unwrap(), Settings::default());
        assert!(load("scripts_trusted = true").unwrap().scripts_trusted);
        assert!(!load("scripts_trusted = 'false'").unwrap().scripts_trusted);
        assert_eq!(load("listen = 'unix:///a, unix:///b'").unwrap().listen.len(), 2);
    }

    #[test]
    fn who_looks_for_a_broker_needs_no_other_key_to_be_right() {
        let text = "lanes = 0\nunknown = 1\nlisten = ['unix:///a']\nadmin_listen = 'unix:///b'";
        let settings = Settings::places_in(text, "x").unwrap();
        let [listen, admin] = ["listen", "admin_listen"].map(|key| settings.get_text(key).unwrap());
        assert_eq!((listen.as_str(), admin.as_str()), ("unix:///a", "unix:///b"));
        for (text, error) in [("listen = 5", "x:1: listen: not to be given"), ("\nlisten = ", "x:2: ")] {
            let found = Settings::places_in(text, "x").unwrap_err().to_string();
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, error) in [
            ("\n\nqueue_timeout = 'soon'", "3: queue_timeout = \"soon\": not a duration; allowed"),
            ("quue_timeout = 1", "1: unknown key \"quue_timeout\"; did you mean"),
            ("lanes = -1", "1: lanes = \"-1\": not a whole number"),
            ("lanes = 99999999999999999999999999999999999999999999", "1: lanes = \"9"),
            ("lanes = true", "1: lanes: not to be given as boolean; allowed 1 to 1024"),
            ("auth = true", "1: auth: not to be given as boolean; allowed broker"),
            ("scripts_trusted = 1", "1: scripts_trusted: not to be given as integer; allowed false"),
            ("lanes = 1.5", "1: lanes: not to be given as float; allowed 1 to 1024"),
            ("upstream_password = 5", "1: upstream_password: not to be given as integer"),
            ("listen = ['unix:///a', 5]", "1: listen: not to be given as array"),
            ("[lanes]\nx = 1", "1: lanes: not to be given as table"),
            ("lanes = 1\nlanes = 2", "2: lanes: duplicate key"),
            ("lanes = ", "1: "),
            ("zzz = 1\nlanes = 0\nabc = 1", "1: unknown key \"zzz\""),
        ] {
            let found = load(text).unwrap_err();
            assert!(found.starts_with(&format!("broker.toml:{error}")), "{text}: {found}");
            assert!(!found.contains('\n'), "{found}");
        }
    }

    #[test]
    fn no_error_quotes_a_password() {
        for text in [
            "upstream_password = \"hunter2",
            "upstream_password = hunter2",
            "upstream_password = 'hunter2' 'hunter2'",
            "upstream_password = \"hunter2\\q\"",
            "upstream_passwrod = 'hunter2'",
            "upstream_password = ['hunter2']",
            "upstream = 'redis://:hunter2'",
            "upstream = 'rediss://:hunter2@h/x'",
            "listen = 'redis://:hunter2@h'",
        ] {
            let found = load(text).unwrap_err();
            assert!(!found.contains("hunter2") && !found.contains('\n'), "{text}: {found}");
        }
    }

    #[test]
    fn pairs_are_split_at_the_first_equals_sign() {
        let mut settings = Settings::default();
        settings.set_pair("listen = unix:///a?mode=0600").unwrap();
        assert_eq!(settings.get_text("listen").unwrap(), "unix:///a?mode=0600");
        let error = settings.set_pair("redis://:hunter2@h").unwrap_err().to_string();
        assert_eq!(error, "\"redis://***@h\": not of the form key=value");
    }
}
