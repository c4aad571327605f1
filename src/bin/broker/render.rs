//! How a line of the log looks on standard error. Every format is one line, whatever a child has written into it.

use crate::journal::priority;
use broker::base::log_limit::LogLine;
use broker::config::value::LogFormat;
use humantime::format_rfc3339_millis;
use serde_json::{Map, Value};
use std::time::{SystemTime, UNIX_EPOCH};

/// The line as it is written now.
pub(crate) fn rendered(format: LogFormat, line: &LogLine) -> String {
    // `humantime` refuses a time before 1970, which a clock that was never set can show.
    render(format, SystemTime::now().max(UNIX_EPOCH), line)
}

fn render(format: LogFormat, now: SystemTime, line: &LogLine) -> String {
    let time = format_rfc3339_millis(now);
    match format {
        LogFormat::Text => format!("{time} {:<5} {}\n", level_name(line), one_line(&line.text)),
        LogFormat::Json => format!("{}\n", object(time.to_string(), line)),
        // Where there is no journal to send fields to, it may still read standard error.
        LogFormat::Journal => format!("<{}>{}\n", priority(line.level), one_line(&line.text)),
    }
}

fn level_name(line: &LogLine) -> String {
    line.level.as_str().to_ascii_lowercase()
}

/// Whom the line is about is there as far as it is known.
fn object(time: String, line: &LogLine) -> Value {
    let mut object = Map::new();
    let mut add = |key: &str, value: Value| object.insert(key.to_owned(), value);
    add("time", time.into());
    add("level", level_name(line).into());
    add("area", line.area.into());
    add("message", line.text.as_str().into());
    let subject = &line.subject;
    let known = [
        ("child", subject.child.map(Value::from)),
        ("pid", subject.pid.map(Value::from)),
        ("uid", subject.uid.map(Value::from)),
        ("peer", subject.peer.as_deref().map(Value::from)),
    ];
    for (key, value) in known {
        if let Some(value) = value {
            add(key, value);
        }
    }
    Value::Object(object)
}

/// Separators of lines and marks of direction, by which a name could show as something else.
fn is_for_layout(ch: char) -> bool {
    matches!(ch, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Control characters, which may come from a child (its name, for example), must not forge a line.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for ch in message.chars() {
        if ch.is_control() || is_for_layout(ch) { line.extend(ch.escape_default()) } else { line.push(ch) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker::base::log_limit::Subject;
    use log::Level;
    use std::time::Duration;

    fn line(level: Level, text: &str) -> LogLine {
        LogLine::plain(level, "broker::core::child", text.to_owned())
    }

    #[test]
    fn the_time_is_utc_in_milliseconds() {
        let now = UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
        let text = render(LogFormat::Text, now, &line(Level::Info, "a"));
        assert_eq!(text, "2024-02-29T12:34:56.789Z info  a\n");
    }

    #[test]
    fn a_message_stays_one_line_in_every_format() {
        let render = |format| render(format, UNIX_EPOCH, &line(Level::Warn, "a\nb\"c"));
        assert_eq!(render(LogFormat::Text), "1970-01-01T00:00:00.000Z warn  a\\nb\"c\n");
        assert_eq!(render(LogFormat::Journal), "<4>a\\nb\"c\n");
        let json = render(LogFormat::Json);
        assert_eq!(json.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["message"], "a\nb\"c");
    }

    #[test]
    fn json_says_whom_a_line_is_about_as_far_as_is_known() {
        let subject =
            Subject { child: Some(5), pid: Some(7), uid: Some(33), peer: Some("\"\u{1}".to_owned()) };
        let about = LogLine { subject, ..line(Level::Warn, "\u{7f}\r\\") };
        let json = render(LogFormat::Json, UNIX_EPOCH, &about);
        let wanted = serde_json::json!({
            "time": "1970-01-01T00:00:00.000Z", "level": "warn", "area": "child", "message": "\u{7f}\r\\",
            "child": 5, "pid": 7, "uid": 33, "peer": "\"\u{1}",
        });
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), wanted);
        let json = render(LogFormat::Json, UNIX_EPOCH, &line(Level::Info, "a"));
        let known = serde_json::from_str::<Map<String, Value>>(&json).unwrap();
        assert_eq!(known.keys().collect::<Vec<_>>(), ["area", "level", "message", "time"]);
    }
}
