//! Standard output for people and scripts. A reader that has gone away is not an error: `broker config | head` ends
//! without a message.

use std::io::Write;

/// Writes `text` unchanged and flushes it.
pub(crate) fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

pub(crate) fn line(line: &str) {
    text(&format!("{line}\n"));
}
