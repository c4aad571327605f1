//! A client of the broker's console: one connection, one question at a time, each with a time limit for the whole of its
//! reply. Reads both forms of a table: maps (RESP3) and padded lines (RESP2). Never waits for a broker that hangs, and
//! never hands on a character that would move a terminal's cursor.

use broker::base::error::{Error, Result};
use broker::config::endpoint::default_listen;
use broker::config::value::AdminListen;
use broker::config::{ListenUrl, parse_listen};
use broker::resp::value::{parse, text};
use broker::resp::{ReplyScan, ReplyScanner, encode, reply};
use redis::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of one reply: more than any table with a LIMIT has.
const REPLY_MAX: usize = 64 * 1024 * 1024;
/// HELLO is answered by the broker alone, unless it has to ask a Redis that hangs.
const HELLO_PATIENCE: Duration = Duration::from_millis(500);
/// Where the broker does not know who asks, it is told again after a pause in which it forgets that it knew of late.
const WRITER_PAUSE: Duration = Duration::from_millis(150);
const ATTEMPTS: usize = 3;
/// Characters of one figure; no column is as wide.
const WORDS_MAX: usize = 1024;

/// Why there is no table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nobody is there, or does not answer in time.
    NoAnswer(String),
    /// The broker's own error text.
    Refused(String),
}

/// What comes of a question.
pub(crate) type ConsoleAnswer<T> = std::result::Result<T, Trouble>;

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Trouble::NoAnswer(text) | Trouble::Refused(text)) = self;
        f.write_str(text)
    }
}

/// One value of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Figure {
    Number(u64),
    Words(String),
    /// It does not apply, or is not known.
    Unknown,
}

/// One row of a table, by the names of its columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TableRow(Vec<(String, Figure)>);

impl TableRow {
    #[cfg(test)]
    pub(crate) fn of(cells: &[(&str, &str)]) -> TableRow {
        let figure = |word: &str| figure_of_word(word);
        TableRow(cells.iter().map(|(name, word)| ((*name).to_owned(), figure(word))).collect())
    }

    pub(crate) fn figure(&self, column: &str) -> &Figure {
        self.0.iter().find(|(name, _)| name == column).map_or(&Figure::Unknown, |(_, figure)| figure)
    }

    pub(crate) fn number(&self, column: &str) -> Option<u64> {
        match self.figure(column) {
            Figure::Number(number) => Some(*number),
            Figure::Words(_) | Figure::Unknown => None,
        }
    }

    /// The same; zero where it is not known.
    pub(crate) fn count(&self, column: &str) -> u64 {
        self.number(column).unwrap_or_default()
    }

    /// Its text; empty where it is not known.
    pub(crate) fn text(&self, column: &str) -> String {
        match self.figure(column) {
            Figure::Number(number) => number.to_string(),
            Figure::Words(words) => words.clone(),
            Figure::Unknown => String::new(),
        }
    }

    /// Its words, numbers left out.
    #[cfg(feature = "top")]
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|(_, figure)| match figure {
            Figure::Words(words) => Some(words.as_str()),
            Figure::Number(_) | Figure::Unknown => None,
        })
    }
}

/// Where the broker listens: what the option says, or the default of `broker serve`.
pub(crate) fn socket_of(option: Option<&str>) -> Result<ListenUrl> {
    match option {
        Some(path) if path.starts_with('/') => Ok(ListenUrl::unix(path)),
        Some(url) if url.contains("://") => parse_listen(url),
        // An address of another kind, with a password perhaps, is no path.
        Some(path) if !path.is_empty() && (path.starts_with("./") || !path.contains([':', '@'])) => {
            let whole = std::path::absolute(path).map_err(Error::attempting("cannot find this directory"))?;
            Ok(ListenUrl::unix(whole))
        }
        // It may be anything, so it is not repeated.
        Some(_) => Err(Error::config("--socket is neither a path nor a unix:// or tcp:// URL")),
        None => {
            let directory = std::env::var("XDG_RUNTIME_DIR").ok();
            let found = default_listen(rustix::process::geteuid().is_root(), directory.as_deref());
            found.map_err(|_| Error::config("no default socket for this user: say which with --socket"))
        }
    }
}

/// Where its verbs are heard: what the option says, or beside its socket.
pub(crate) fn admin_of(socket: &ListenUrl, option: Option<&str>) -> Result<Option<ListenUrl>> {
    if option.is_some() {
        return socket_of(option).map(Some);
    }
    Ok(match AdminListen::beside(socket) {
        AdminListen::At(url) => Some(url),
        AdminListen::Default | AdminListen::None => None,
    })
}

#[derive(Debug)]
pub(crate) struct ConsoleClient {
    socket: Socket,
    scanner: ReplyScanner,
    unread: Vec<u8>,
    /// For the whole of a reply.
    patience: Duration,
}

impl ConsoleClient {
    pub(crate) fn connect(place: &ListenUrl, patience: Duration) -> ConsoleAnswer<Self> {
        let socket = match place {
            ListenUrl::Unix { path, .. } => connect_unix(path),
            ListenUrl::Tcp { tls: Some(_), .. } => {
                let why = "this program speaks no TLS: name a unix:// or tcp:// listener of the broker";
                return Err(Trouble::NoAnswer(format!("{}: {why}", shown(place))));
            }
            ListenUrl::Tcp { host, port, .. } => connect_tcp(host, *port, patience),
        };
        let socket =
            socket.map_err(|why| Trouble::NoAnswer(format!("cannot connect to {}: {why}", shown(place))))?;
        Ok(ConsoleClient { socket, scanner: ReplyScanner::default(), unread: Vec::new(), patience })
    }

    /// Asks for typed rows from now on. The broker needs to have heard of Redis for that, so whoever asks knows that it is
    /// up. An error means that the connection is of no use any more.
    pub(crate) fn speak_resp3(&mut self) -> ConsoleAnswer<()> {
        let patience = self.patience;
        self.patience = HELLO_PATIENCE.min(patience);
        let outcome = self.request(&["HELLO", "3"]);
        self.patience = patience;
        outcome.map(drop)
    }

    /// The rows of `BROKER SHOW` and these words.
    pub(crate) fn show(&mut self, words: &str) -> ConsoleAnswer<Vec<TableRow>> {
        self.show_all(&[words.to_owned()])?.pop().unwrap_or_else(|| Ok(Vec::new()))
    }

    /// The same of several tables, asked for in one piece: the broker finds out who asks once for each read, and on a busy
    /// connection not for each of them. The outer error ends the connection.
    pub(crate) fn show_all(&mut self, tables: &[String]) -> ConsoleAnswer<Vec<ConsoleAnswer<Vec<TableRow>>>> {
        for attempt in 1.. {
            let answers = self.show_all_once(tables)?;
            let is_unsure = answers.iter().any(
                |answer| matches!(answer, Err(Trouble::Refused(text)) if text.ends_with("send it again")),
            );
            if !is_unsure || attempt == ATTEMPTS {
                return Ok(answers);
            }
            std::thread::sleep(WRITER_PAUSE);
        }
        Ok(Vec::new())
    }

    fn show_all_once(&mut self, tables: &[String]) -> ConsoleAnswer<Vec<ConsoleAnswer<Vec<TableRow>>>> {
        let mut requests = Vec::new();
        for table in tables {
            let words: Vec<&[u8]> =
                ["BROKER", "SHOW"].into_iter().chain(table.split(' ')).map(str::as_bytes).collect();
            encode::request(&mut requests, &words);
        }
        self.send(&requests)?;
        let mut answers = Vec::with_capacity(tables.len());
        for _ in tables {
            let frame = self.read_frame(Instant::now() + self.patience)?;
            answers.push(match reply::error_text(&frame) {
                Some(text) => Err(Trouble::Refused(plain(&text))),
                None => Ok(rows_of(&frame)
                    .ok_or_else(|| Trouble::NoAnswer("what answers there is not a broker".to_owned()))?),
            });
        }
        Ok(answers)
    }

    /// Waits as long as this for each reply from now on.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// A command of the console and the frame of its reply, unless that is an error. Asks again where the broker does not know
    /// who asks: nothing was done then.
    pub(crate) fn command(&mut self, words: &[&str]) -> ConsoleAnswer<Vec<u8>> {
        let whole: Vec<&str> = std::iter::once("BROKER").chain(words.iter().copied()).collect();
        for _ in 1..ATTEMPTS {
            match self.request(&whole) {
                Err(Trouble::Refused(text)) if text.ends_with("send it again") => {
                    std::thread::sleep(WRITER_PAUSE);
                }
                answer => return answer,
            }
        }
        self.request(&whole)
    }

    /// One request and the frame of its reply, unless that is an error.
    pub(crate) fn request(&mut self, words: &[&str]) -> ConsoleAnswer<Vec<u8>> {
        let (mut request, args) = (Vec::new(), words.iter().map(|word| word.as_bytes()));
        encode::request_of(&mut request, args);
        self.send(&request)?;
        let frame = self.read_frame(Instant::now() + self.patience)?;
        match reply::error_text(&frame) {
            Some(text) => Err(Trouble::Refused(plain(&text))),
            None => Ok(frame),
        }
    }

    /// Requests are shorter than any socket's buffer, so this does not wait for the broker to read.
    fn send(&mut self, bytes: &[u8]) -> ConsoleAnswer<()> {
        self.socket.set_write_timeout(Some(self.patience)).map_err(|why| self.lost(&why))?;
        (&self.socket).write_all(bytes).map_err(|why| self.lost(&why))
    }

    fn read_frame(&mut self, deadline: Instant) -> ConsoleAnswer<Vec<u8>> {
        let mut piece = vec![0; 64 * 1024];
        loop {
            match self.scanner.scan(&self.unread) {
                // An empty input has no type byte to look at.
                ReplyScan::Frame { len, .. } => return Ok(self.unread.drain(..len).collect()),
                ReplyScan::NeedMore { at_least } if at_least <= REPLY_MAX => {}
                ReplyScan::NeedMore { .. } => {
                    return Err(Trouble::NoAnswer("its reply is too long".to_owned()));
                }
                ReplyScan::Desync(why) => {
                    return Err(Trouble::NoAnswer(format!("what answers there is not a broker: {why}")));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.late());
            }
            self.socket.set_read_timeout(Some(left)).map_err(|why| self.lost(&why))?;
            match (&self.socket).read(&mut piece) {
                Ok(0) => return Err(Trouble::NoAnswer("the broker has closed the connection".to_owned())),
                Ok(len) => self.unread.extend_from_slice(&piece[..len]),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(self.lost(&why)),
            }
        }
    }

    fn late(&self) -> Trouble {
        Trouble::NoAnswer(format!("no answer within {} ms", self.patience.as_millis()))
    }

    fn lost(&self, why: &std::io::Error) -> Trouble {
        match why.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.late(),
            _ => Trouble::NoAnswer(why.to_string()),
        }
    }
}

/// The place without its options.
pub(crate) fn shown(place: &ListenUrl) -> String {
    match place {
        ListenUrl::Unix { path, .. } => path.display().to_string(),
        ListenUrl::Tcp { host, port, .. } => format!("{host}:{port}"),
    }
}

/// Where a queue of newcomers is full, a connect that may block waits for as long as the broker hangs.
fn connect_unix(path: &Path) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?).map_err(|why| match why.kind() {
        ErrorKind::WouldBlock => std::io::Error::other("too many wait to be let in"),
        _ => why,
    })?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}

fn connect_tcp(host: &str, port: u16, patience: Duration) -> std::io::Result<Socket> {
    let mut last = std::io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let address = SockAddr::from(address);
        let socket = Socket::new(address.domain(), Type::STREAM, None)?;
        match socket.connect_timeout(&address, patience) {
            Ok(()) => {
                socket.set_tcp_nodelay(true)?;
                return Ok(socket);
            }
            Err(why) => last = why,
        }
    }
    Err(last)
}

/// The lines of an answer that is an array of them; none of any other.
pub(crate) fn lines_of(frame: &[u8]) -> Vec<String> {
    match parse(frame) {
        Some(Value::Array(items)) => {
            items.iter().map(|item| harmless(&text(item).unwrap_or_default())).collect()
        }
        _ => Vec::new(),
    }
}

/// The rows of a reply in either form; `None` if it is no table.
fn rows_of(frame: &[u8]) -> Option<Vec<TableRow>> {
    let Some(Value::Array(items)) = parse(frame) else { return None };
    match items.first() {
        None => Some(Vec::new()),
        Some(Value::Map(_)) => {
            let rows: Option<Vec<TableRow>> = items.into_iter().map(row_of_map).collect();
            Some(rows?.into_iter().filter(|row| row.text("state") != "gone").collect())
        }
        Some(header) => {
            let header = text(header)?;
            let names: Vec<&str> = header.split_whitespace().collect();
            let lines: Option<Vec<String>> = items[1..].iter().map(text).collect();
            Some(lines?.iter().filter_map(|line| row_of_line(&names, line)).collect())
        }
    }
}

fn row_of_map(item: Value) -> Option<TableRow> {
    let Value::Map(pairs) = item else { return None };
    let cells = pairs.into_iter().map(|(name, value)| {
        let figure = match &value {
            Value::Int(number) => Figure::Number(u64::try_from(*number).unwrap_or_default()),
            other => text(other).map_or(Figure::Unknown, |words| Figure::Words(plain(&words))),
        };
        Some((text(&name)?, figure))
    });
    cells.collect::<Option<Vec<_>>>().map(TableRow)
}

/// Each cell is one word, but for the last, which may be a sentence. What has gone while the table was made has fewer.
fn row_of_line(names: &[&str], line: &str) -> Option<TableRow> {
    let (last, words) = names.split_last()?;
    let (mut cells, mut rest) = (Vec::with_capacity(names.len()), line.trim_start());
    for name in words {
        let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        if word.is_empty() {
            return None;
        }
        cells.push(((*name).to_owned(), figure_of_word(word)));
        rest = behind.trim_start();
    }
    if rest.is_empty() {
        return None;
    }
    cells.push(((*last).to_owned(), figure_of_word(rest)));
    Some(TableRow(cells))
}

fn figure_of_word(word: &str) -> Figure {
    match word.parse() {
        _ if word.is_empty() || word == "-" => Figure::Unknown,
        Ok(number) if word.bytes().all(|byte| byte.is_ascii_digit()) => Figure::Number(number),
        _ => Figure::Words(plain(word)),
    }
}

/// The same, cut to what a figure may have.
fn plain(text: &str) -> String {
    harmless(text).chars().take(WORDS_MAX).collect()
}

/// The text without what a terminal obeys: control characters, and those that turn the direction of writing or have no
/// width.
pub(crate) fn harmless(text: &str) -> String {
    let is_unseen = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if is_unseen(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn frame(lines: &[&str]) -> Vec<u8> {
        let mut frame = Vec::new();
        encode::array_header(&mut frame, lines.len());
        lines.iter().for_each(|line| encode::bulk(&mut frame, line.as_bytes()));
        frame
    }

    #[test]
    fn padded_lines_are_rows_and_the_last_cell_may_be_a_sentence() {
        let rows = rows_of(&frame(&[
            "id       pid     refusal",
            "      12 -       the last one was refused",
            "      13 gone",
            "       7 44      -",
        ]))
        .unwrap();
        assert_eq!(rows.len(), 2, "what has gone is left out");
        assert_eq!((rows[0].number("id"), rows[0].figure("pid")), (Some(12), &Figure::Unknown));
        assert_eq!(rows[0].text("refusal"), "the last one was refused");
        assert_eq!((rows[1].count("pid"), rows[1].text("refusal")), (44, String::new()));
        let gone = b"*1\r\n%2\r\n$2\r\nid\r\n:5\r\n$5\r\nstate\r\n$4\r\ngone\r\n";
        assert_eq!(rows_of(gone), Some(Vec::new()));
    }

    #[test]
    fn maps_are_rows_and_nothing_in_them_moves_a_cursor() {
        let map = b"*1\r\n%3\r\n$2\r\nid\r\n:5\r\n$4\r\nname\r\n$6\r\na\x1b[2Jb\r\n$3\r\npid\r\n_\r\n";
        let rows = rows_of(map).unwrap();
        assert_eq!((rows[0].count("id"), rows[0].text("name")), (5, "a?[2Jb".to_owned()));
        assert_eq!(rows[0].figure("pid"), &Figure::Unknown);
        assert_eq!(plain("a\u{202e}b\u{9b}c\u{e4}"), "a?b?c\u{e4}");
        assert_eq!(rows_of(b"*0\r\n"), Some(Vec::new()));
        assert_eq!(rows_of(b"+OK\r\n"), None);
    }

    #[test]
    fn sockets_have_three_forms_and_a_wrong_one_is_not_repeated() {
        assert_eq!(socket_of(Some("/a/b.sock")).unwrap(), ListenUrl::unix("/a/b.sock"));
        assert_eq!(socket_of(Some("unix:///a/b.sock")).unwrap(), ListenUrl::unix("/a/b.sock"));
        assert!(matches!(socket_of(Some("tcp://h:1")).unwrap(), ListenUrl::Tcp { port: 1, .. }));
        for path in ["b.sock", "./b.sock", "run/b.sock"] {
            let whole = std::path::absolute(path).unwrap();
            assert_eq!(socket_of(Some(path)).unwrap(), ListenUrl::unix(&whole));
        }
        assert_eq!(socket_of(Some("./a:b")).unwrap(), ListenUrl::unix(std::path::absolute("a:b").unwrap()));
        for wrong in ["", "s3cr3t@h", "h:s3cr3t", "redis://:s3cr3t@h", "tcp://s3cr3t@h:1"] {
            let error = socket_of(Some(wrong)).unwrap_err().to_string();
            assert!(!error.contains("s3cr3t"), "{error}");
        }
        let admin = |socket, option| admin_of(&socket_of(Some(socket)).unwrap(), option).unwrap();
        assert_eq!(admin("/a/b.sock", None).map(|url| shown(&url)), Some("/a/b.sock.admin".to_owned()));
        assert_eq!(admin("tcp://h:1", None), None);
        assert_eq!(admin("tcp://h:1", Some("/c")), Some(ListenUrl::unix("/c")));
    }

    #[test]
    fn a_peer_that_says_nothing_is_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let patience = Duration::from_millis(30);
        let mut client = ConsoleClient::connect(&ListenUrl::unix(&path), patience).unwrap();
        let begun = Instant::now();
        let trouble = client.show("VERSION").unwrap_err();
        assert_eq!(trouble, Trouble::NoAnswer("no answer within 30 ms".to_owned()));
        assert!(begun.elapsed() >= patience);
        let nobody = ConsoleClient::connect(&ListenUrl::unix(place.path().join("none")), patience);
        assert!(nobody.unwrap_err().to_string().contains("/none: "));
    }

    /// A queue of newcomers that is full keeps a connect that may block for as long as nobody accepts.
    #[test]
    fn a_full_queue_of_newcomers_is_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("s");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let connect = || ConsoleClient::connect(&ListenUrl::unix(&path), Duration::from_millis(30));
        let clients: Vec<_> = (0..4).map(|_| connect()).collect();
        let refused = clients.iter().find_map(|client| client.as_ref().err()).expect("one finds no room");
        assert!(refused.to_string().contains("too many wait"), "{refused}");
    }
}
