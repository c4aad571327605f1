//! Children that have changed the connection their requests run on (CLIENT TRACKING, IMPORT-SOURCE, MONITOR): they
//! keep a leased lane until they have changed it back, RESET or go, and nobody has it after them. Knows what
//! changes; what it means for the keys is Redis' own affair.

use crate::command::Pin;
use crate::core::child::session::Session;

/// What a command will have changed once it is answered with OK.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pinning {
    pub(crate) pin: Pin,
    pub(crate) on: bool,
    /// The CLIENT ID that invalidations are redirected to, as the broker counts; 0 for none.
    pub(crate) redirect: u64,
}

impl Pinning {
    /// The upstream has said OK.
    pub(crate) fn apply(self, session: &mut Session) {
        match self.pin {
            Pin::Tracking => session.tracking = self.on.then_some(self.redirect),
            Pin::ImportSource => session.import_source = self.on,
            Pin::Monitor => session.monitoring = true,
        }
    }
}

/// Whether a frame is a line of MONITOR: a time, and where the command came from. It looks like a reply, but for that
/// no command answers so.
pub(crate) fn is_monitor_line(frame: &[u8]) -> bool {
    let Some(line) = frame.strip_prefix(b"+") else { return false };
    let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let seconds = digits(line);
    let Some(rest) = line[seconds..].strip_prefix(b".") else { return false };
    let fraction = digits(rest);
    seconds > 0 && fraction > 0 && rest[fraction..].starts_with(b" [")
}

#[cfg(test)]
mod tests {
    use super::is_monitor_line;

    #[test]
    pub(crate) fn lines_of_monitor_are_told_from_replies() {
        assert!(is_monitor_line(b"+1339518083.107412 [0 127.0.0.1:60866] \"keys\" \"*\"\r\n"));
        for frame in
            [&b"+OK\r\n"[..], b"+1.2\r\n", b"+.2 [0 x]\r\n", b"+1 [0 x]\r\n", b"$1\r\n1\r\n", b"+\r\n"]
        {
            assert!(!is_monitor_line(frame), "{frame:?}");
        }
    }
}
