//! Lines for systemd's journal in its own protocol: one datagram each, with fields that journalctl finds. Owns the socket
//! and the count of lines that the journal had no room for. Never waits for it.
//!
//! The crates that speak this protocol (`libsystemd`, `systemd-journal-logger`, `tracing-journald`) wait while the
//! journal's socket is full, so the few lines of it are here.

use broker::base::log_limit::{LogLine, count_dropped};
use log::Level;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where systemd's journal listens.
pub(crate) const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

pub(crate) struct Journal {
    path: PathBuf,
    /// Unconnected, so that a journal that starts again is found; not before the first line.
    socket: Option<UnixDatagram>,
    lost: u64,
    /// It had no room for the last line.
    full: bool,
}

/// What became of a datagram.
enum Sending {
    Taken,
    Full,
    /// Nobody listens there, or not to us.
    Absent,
}

impl Journal {
    pub(crate) fn new(path: impl AsRef<Path>) -> Journal {
        Journal { path: path.as_ref().to_owned(), socket: None, lost: 0, full: false }
    }

    /// Sends a line, or counts it as lost if the journal has no room; false if there is no journal.
    pub(crate) fn put(&mut self, line: &LogLine) -> bool {
        self.settle();
        let sent = if self.full { Sending::Full } else { self.send(line) };
        self.full = matches!(sent, Sending::Full);
        if self.full {
            self.lost += 1;
            count_dropped(1);
        }
        !matches!(sent, Sending::Absent)
    }

    /// Says how many lines were lost, if there is room for that now.
    pub(crate) fn settle(&mut self) {
        if self.lost == 0 {
            return;
        }
        let text = format!("{} lines lost: the journal accepted no more", self.lost);
        match self.send(&LogLine::plain(Level::Warn, module_path!(), text)) {
            Sending::Taken => (self.lost, self.full) = (0, false),
            Sending::Full => self.full = true,
            Sending::Absent => self.full = false,
        }
    }

    /// Whether something remains to be said as soon as there is room.
    pub(crate) fn is_behind(&self) -> bool {
        self.full
    }

    fn send(&mut self, line: &LogLine) -> Sending {
        if self.socket.is_none() {
            self.socket = open();
        }
        let Some(socket) = &self.socket else { return Sending::Absent };
        match socket.send_to(&datagram(line), &self.path) {
            Ok(_) => Sending::Taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Sending::Full,
            Err(_) => Sending::Absent,
        }
    }
}

/// Our own socket, so that it may be non-blocking.
fn open() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

/// syslog(3) priorities.
pub(crate) fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// The fields of a line. Its length is bounded by that of the text, far below what a datagram may have.
fn datagram(line: &LogLine) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(line.text.len() + 256);
    let mut field = |name: &str, value: &str| add_field(&mut bytes, name, value);
    field("MESSAGE", &line.text);
    field("PRIORITY", &priority(line.level).to_string());
    field("SYSLOG_IDENTIFIER", "broker");
    if !line.file.is_empty() {
        field("CODE_FILE", line.file);
        field("CODE_LINE", &line.line.to_string());
    }
    field("BROKER_AREA", line.area);
    let subject = &line.subject;
    let numbers = [
        ("BROKER_CHILD", subject.child.map(|child| child.to_string())),
        ("BROKER_PID", subject.pid.map(|pid| pid.to_string())),
        ("BROKER_UID", subject.uid.map(|uid| uid.to_string())),
        ("BROKER_PEER", subject.peer.clone()),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            field(name, &value);
        }
    }
    bytes
}

/// `NAME=value`; a value of several lines stands behind its length, so that no line of it can be taken for a field.
fn add_field(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker::base::log_limit::Subject;
    use std::collections::BTreeMap;

    /// A journal of our own, and its place.
    fn listen() -> (tempfile::TempDir, PathBuf, UnixDatagram) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (place, path, socket)
    }

    /// The fields of the next datagram, read as systemd describes them.
    fn receive(socket: &UnixDatagram) -> Option<BTreeMap<String, String>> {
        let mut buffer = vec![0; 64 * 1024];
        let length = socket.recv(&mut buffer).ok()?;
        let (mut rest, mut fields) = (&buffer[..length], BTreeMap::new());
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').expect("a field ends");
            let (head, behind) = (&rest[..end], &rest[end + 1..]);
            let (name, value, behind) = match head.iter().position(|byte| *byte == b'=') {
                Some(at) => (&head[..at], &head[at + 1..], behind),
                None => {
                    let (length, behind) = behind.split_at(8);
                    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
                    assert_eq!(behind[length], b'\n');
                    (head, &behind[..length], &behind[length + 1..])
                }
            };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert!(fields.insert(text(name), text(value)).is_none(), "one field of each name");
            rest = behind;
        }
        Some(fields)
    }

    fn line(text: &str) -> LogLine {
        LogLine::plain(Level::Info, "broker::serve", text.to_owned())
    }

    fn message(socket: &UnixDatagram) -> Option<String> {
        receive(socket)?.remove("MESSAGE")
    }

    #[test]
    fn every_field_arrives_and_no_text_forges_one() {
        let (_place, path, socket) = listen();
        let mut journal = Journal::new(&path);
        let forged = "named \"x\nPRIORITY=0\nBROKER_CHILD=1\n\"";
        let peer = Some("pid 7 uid 33".to_owned());
        let subject = Subject { child: Some(5), pid: Some(7), uid: Some(33), peer };
        let (file, at) = ("src/core/child/closing.rs", 33);
        let about = LogLine { level: Level::Warn, subject, file, line: at, ..line(forged) };
        assert!(journal.put(&about) && journal.put(&line("about nobody")));
        let fields = receive(&socket).unwrap();
        let wanted = [
            ("BROKER_AREA", "program"),
            ("BROKER_CHILD", "5"),
            ("BROKER_PEER", "pid 7 uid 33"),
            ("BROKER_PID", "7"),
            ("BROKER_UID", "33"),
            ("CODE_FILE", file),
            ("CODE_LINE", "33"),
            ("MESSAGE", forged),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "broker"),
        ];
        let found: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, wanted);
        let fields = receive(&socket).unwrap();
        let names: Vec<_> = fields.keys().map(String::as_str).collect();
        assert_eq!(names, ["BROKER_AREA", "MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"]);
        assert_eq!((fields["MESSAGE"].as_str(), fields["PRIORITY"].as_str()), ("about nobody", "6"));
    }

    #[test]
    fn a_journal_that_does_not_read_holds_nobody_up_and_is_told_what_it_missed() {
        let (_place, path, socket) = listen();
        let mut journal = Journal::new(&path);
        let mut put = 0;
        while journal.lost < 100 {
            assert!(journal.put(&line(&put.to_string())));
            put += 1;
        }
        assert!(journal.is_behind());
        let mut taken = 0;
        while let Some(text) = message(&socket) {
            assert_eq!(text, taken.to_string());
            taken += 1;
        }
        assert_eq!(taken + 100, put);
        journal.settle();
        assert!(!journal.is_behind());
        assert_eq!(message(&socket).unwrap(), "100 lines lost: the journal accepted no more");
        journal.put(&line("after"));
        assert_eq!(message(&socket).unwrap(), "after");
    }

    #[test]
    fn without_a_journal_it_says_so_and_finds_one_that_comes() {
        let (place, path, socket) = listen();
        drop(socket);
        std::fs::remove_file(&path).unwrap();
        let mut journal = Journal::new(&path);
        assert!(!journal.put(&line("nobody")) && !journal.is_behind());
        let socket = UnixDatagram::bind(&path).unwrap();
        assert!(journal.put(&line("somebody")));
        assert_eq!(message(&socket).unwrap(), "somebody");
        drop((place, socket));
        assert!(!journal.put(&line("nobody again")));
    }
}
