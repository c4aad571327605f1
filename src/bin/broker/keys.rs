//! `broker config`: prints the table of configuration keys, as columns or as a file to start from.

use crate::cli::{ConfigArgs, KeysFormat};
use crate::shared::say;
use broker::base::error::Result;
use broker::config::table::KeyKind;
use broker::config::{Row, rows};

pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    say::text(&match args.format {
        KeysFormat::Text => as_text(rows()),
        KeysFormat::Toml => as_toml(rows()),
    });
    Ok(())
}

fn as_text(rows: &[Row]) -> String {
    let key_width = rows.iter().map(|row| row.key.len()).max().unwrap_or(0);
    let default_width = rows.iter().map(|row| row.default.len()).fold("DEFAULT".len(), usize::max);
    let line = |key: &str, default: &str, unit: &str, doc: &str| {
        format!("{key:<key_width$}  {default:<default_width$}  {unit:<5}  {doc}\n")
    };
    let mut text = line("KEY", "DEFAULT", "UNIT", "MEANING");
    for row in rows {
        text += &line(row.key, shown_default(row), row.unit, row.doc);
    }
    text
}

const HEAD: &str = "\
# Configuration of broker. Every key is shown with its default; take away the '#' to set one.
# Times are milliseconds or text such as \"5s\"; sizes are bytes or text such as \"64MiB\".
";

fn as_toml(rows: &[Row]) -> String {
    let mut text = HEAD.to_owned();
    for row in rows {
        text += &format!("\n# {}\n# Allowed: {}\n", row.doc, row.allowed());
        text += &format!("#{} = {}\n", row.key, toml_value(row));
    }
    text
}

fn toml_value(row: &Row) -> String {
    let is_number = !row.default.is_empty() && row.default.bytes().all(|byte| byte.is_ascii_digit());
    match row.kind {
        KeyKind::Listen | KeyKind::Uids => "[]".to_owned(),
        KeyKind::Count | KeyKind::Bytes | KeyKind::Milliseconds if is_number => row.default.to_owned(),
        // No default contains a character that TOML would have to escape.
        _ => format!("\"{}\"", row.default),
    }
}

fn shown_default(row: &Row) -> &str {
    if row.default.is_empty() { "-" } else { row.default }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::man::compare;
    use broker::config::Settings;

    /// What a service has to know.
    const DECIDED: [(&str, &str); 2] = [
        ("#upstream = \"\"\n", "upstream = \"redis://127.0.0.1:6379\"\n"),
        ("#listen = []\n", "listen = [\"unix:///run/broker/broker.sock\"]\n"),
    ];
    const SERVICE_HEAD: &str = "\
# Configuration of broker.service. What has to be decided is set: where Redis is (upstream), and where the processes of
# this host connect (listen), as members of the group broker. All else is shown with its default; take away the '#' to set
# it. Times are milliseconds or text such as \"5s\"; sizes are bytes or text such as \"64MiB\". `systemctl reload broker`
# applies what has been changed, or says why not.
";

    #[test]
    fn the_file_of_the_service_is_the_table_with_what_must_be_decided() {
        let mut text = as_toml(rows()).replacen(HEAD, SERVICE_HEAD, 1);
        for (default, decided) in DECIDED {
            assert_eq!(text.matches(default).count(), 1, "{default}");
            text = text.replacen(default, decided, 1);
        }
        compare("dist/systemd/broker.toml", &text);
        let mut settings = Settings::default();
        settings.load_toml(&text, "broker.toml").unwrap();
        settings.validate().unwrap();
        let set = rows().iter().filter(|row| settings.get_text(row.key).as_deref() != Some(row.default));
        assert_eq!(set.map(|row| row.key).collect::<Vec<_>>(), ["upstream", "listen"]);
    }

    #[test]
    fn the_printed_file_is_a_configuration_of_defaults() {
        let printed = as_toml(rows());
        let uncommented: String = printed
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
            .map(|line| format!("{line}\n"))
            .collect();
        for text in [&printed, &uncommented] {
            let mut settings = Settings::default();
            settings.load_toml(text, "printed").unwrap();
            for row in rows() {
                assert_eq!(settings.get_text(row.key).as_deref(), Some(row.default), "{}", row.key);
            }
        }
        assert_eq!(uncommented.lines().count(), rows().len());
    }

    #[test]
    fn the_table_is_aligned_and_names_every_key() {
        let text = as_text(rows());
        let at = text.find("MEANING").unwrap();
        for (line, row) in text.lines().skip(1).zip(rows()) {
            assert!(line.starts_with(row.key));
            assert_eq!(&line[at..], row.doc);
        }
    }
}
