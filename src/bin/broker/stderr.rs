//! Standard error, written without ever blocking the loop, even if its reader has stopped. Owns the lines that it has not
//! accepted yet, up to a bound, and counts further ones. Never sets O_NONBLOCK on an open file shared with others, and does
//! not know how a line looks.

use broker::base::clock::Millis;
use broker::base::log_limit::{LogLine, count_dropped};
use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use rustix::net::{SendFlags, send};
use rustix::termios::tcgetsid;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

/// Bytes of lines that may be queued, so that a reader may pause for a while without losing lines.
const WAITING_MAX: usize = 256 * 1024;
/// A pipe that reports room accepts this many bytes at once: PIPE_BUF.
const PIPE_PIECE: usize = 4096;
/// A terminal that reports room may have room for only one byte.
const TERMINAL_PIECE: usize = 1;
/// While lines are queued, they are retried after this many milliseconds.
const RETRY: Millis = 100;
/// While standard error takes nothing, but may do so again, after this many: a full disk is seldom made room on quickly.
const RETRY_LOST: Millis = 1000;

#[derive(Debug)]
enum WriteMode {
    /// To an open file of our own, which is non-blocking.
    Own,
    /// With MSG_DONTWAIT.
    Socket,
    /// Directly: a regular file has no reader to wait for, and a full disk is an error. A disk that hangs is not seen.
    File,
    /// Another user's pipe or terminal, which cannot be opened again: it is polled for room first, and gets pieces of this
    /// many bytes. Another writer may take the room in between; then the kernel refuses the write. It blocks if the
    /// kernel is too old to refuse it, or if this is a terminal.
    Asking(usize),
}

/// A line, or the message about lost lines.
#[derive(Debug)]
struct WaitingLine {
    text: Vec<u8>,
    /// How many lines are lost if this one is: itself, or those it tells of.
    stands_for: u64,
    /// It tells of lines that are counted already.
    is_about_lost: bool,
}

pub(crate) struct Stderr {
    fd: OwnedFd,
    way: WriteMode,
    waiting: VecDeque<WaitingLine>,
    /// Bytes in `waiting`, and how many of the first entry have been written.
    bytes: usize,
    begun: usize,
    /// The last that was written is the beginning of a line that is lost.
    torn: bool,
    /// Not said yet.
    lost: u64,
    /// The last write failed for a reason that may pass without a sign.
    may_recover: bool,
}

impl Stderr {
    /// Writes to `fd`, a copy of standard error.
    pub(crate) fn new(fd: OwnedFd) -> Stderr {
        let (fd, way) = find_way(fd);
        let (waiting, torn, may_recover) = (VecDeque::new(), false, false);
        Stderr { fd, way, waiting, bytes: 0, begun: 0, torn, lost: 0, may_recover }
    }

    /// Writes a line, now or when there is room; the line is lost if too many are queued. `render` gives a line its form.
    pub(crate) fn put(&mut self, line: &LogLine, render: impl Fn(&LogLine) -> String) {
        self.flush();
        let text = render(line);
        if self.bytes + text.len() > WAITING_MAX {
            self.lost += 1;
            count_dropped(1);
            return;
        }
        self.mention_lost(render);
        self.push(text, 1, false);
        self.flush();
    }

    /// Writes as much as there is room for now.
    pub(crate) fn settle(&mut self, render: impl Fn(&LogLine) -> String) {
        self.flush();
        if self.waiting.is_empty() {
            self.mention_lost(render);
            self.flush();
        }
    }

    /// Whether lines wait for room.
    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// In how many milliseconds to settle; `None` if nothing waits, or what waits would wait for ever.
    pub(crate) fn retry(&self) -> Option<Millis> {
        let unsaid = self.lost > 0 && self.may_recover;
        self.is_behind().then_some(RETRY).or(unsaid.then_some(RETRY_LOST))
    }

    fn mention_lost(&mut self, render: impl Fn(&LogLine) -> String) {
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            let text = format!("{lost} lines lost: standard error accepted no more");
            self.push(render(&LogLine::plain(Level::Warn, module_path!(), text)), lost, true);
        }
    }

    fn push(&mut self, mut line: String, stands_for: u64, is_about_lost: bool) {
        // What follows the beginning of a line that was lost begins a line of its own.
        if self.torn && self.waiting.is_empty() {
            line.insert(0, '\n');
        }
        self.bytes += line.len();
        self.waiting.push_back(WaitingLine { text: line.into_bytes(), stands_for, is_about_lost });
    }

    fn flush(&mut self) {
        while let Some(entry) = self.waiting.front() {
            match self.write(&entry.text[self.begun..]) {
                Ok(count) => {
                    self.torn = false;
                    self.begun += count;
                    if self.begun >= entry.text.len() {
                        self.bytes -= entry.text.len();
                        self.begun = 0;
                        self.waiting.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => self.lose_all(error),
            }
        }
    }

    /// No reader or no space: what waits would hold up what can be written later.
    fn lose_all(&mut self, error: Errno) {
        self.may_recover = !matches!(error, Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::BADF);
        self.torn |= self.begun > 0;
        for entry in self.waiting.drain(..) {
            self.lost += entry.stands_for;
            count_dropped(if entry.is_about_lost { 0 } else { entry.stands_for });
        }
        (self.bytes, self.begun) = (0, 0);
    }

    /// One write that does not block.
    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self.way {
            WriteMode::File => rustix::io::write(&self.fd, bytes),
            // A line of ordinary length is written whole, not mixed with those of other writers.
            WriteMode::Own => rustix::io::write(&self.fd, &bytes[..bytes.len().min(PIPE_PIECE)]),
            WriteMode::Socket => send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            WriteMode::Asking(piece) => {
                let mut asked = [PollFd::new(&self.fd, PollFlags::OUT)];
                poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
                if asked[0].revents().is_empty() {
                    return Err(Errno::AGAIN);
                }
                let piece = &bytes[..bytes.len().min(piece)];
                match write_at_once(&self.fd, piece) {
                    Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => rustix::io::write(&self.fd, piece),
                    outcome => outcome,
                }
            }
        }
    }
}

/// A write that is refused where it would block, whatever the mode of the open file.
fn write_at_once(fd: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    // What has no position has that one.
    pwritev2(fd, &[IoSlice::new(bytes)], u64::MAX, ReadWriteFlags::NOWAIT)
}

/// How to write to `fd`; the descriptor to use for it.
fn find_way(fd: OwnedFd) -> (OwnedFd, WriteMode) {
    let kind = fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let piece = match kind {
        Ok(FileType::RegularFile) => return (fd, WriteMode::File),
        Ok(FileType::Socket) => return (fd, WriteMode::Socket),
        Ok(FileType::Fifo) => PIPE_PIECE,
        _ => TERMINAL_PIECE,
    };
    let open = |name: &str| {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(name, flags, Mode::empty())
    };
    let own = open(&format!("/proc/self/fd/{}", fd.as_raw_fd()));
    // After `su`, the terminal belongs to another user; every process of its session may open it by this name.
    let own = own.or_else(|error| if tcgetsid(&fd).is_ok() { open("/dev/tty") } else { Err(error) });
    match own {
        Ok(own) => (own, WriteMode::Own),
        Err(_) => (fd, WriteMode::Asking(piece)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker::base::log_limit::log_lines_dropped;
    use rustix::fs::fcntl_getfl;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn put(stderr: &mut Stderr, text: &str) {
        stderr.put(&LogLine::plain(Level::Info, "", text.to_owned()), plainly);
    }

    fn plainly(line: &LogLine) -> String {
        format!("{}\n", line.text)
    }

    fn about_lost(lost: usize) -> String {
        format!("{lost} lines lost: standard error accepted no more")
    }

    /// Puts numbered lines until some are lost: every line comes in order, up to a gap that is told exactly; then a last one.
    fn check(mut reader: impl Read + AsFd, mut stderr: Stderr) {
        let (mut count, dropped) = (0, log_lines_dropped());
        while stderr.lost < 100 {
            put(&mut stderr, &format!("{count:0>63}"));
            count += 1;
        }
        // Other tests lose lines at the same time.
        assert!(log_lines_dropped() >= dropped + 100);
        let (mut text, mut ended, mut piece) = (Vec::new(), false, [0; 4096]);
        while !text.ends_with(b"end\n") && !text.ends_with(b"end\r\n") {
            // What a terminal has taken is readable a moment later, and so is its room writable.
            let mut asked = [PollFd::new(&reader, PollFlags::IN)];
            poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 })).unwrap();
            if asked[0].revents().contains(PollFlags::IN) {
                let length = reader.read(&mut piece).unwrap();
                text.extend_from_slice(&piece[..length]);
            }
            stderr.settle(plainly);
            if !ended && !stderr.is_behind() && stderr.lost == 0 {
                put(&mut stderr, "end");
                ended = true;
            }
        }
        let text = String::from_utf8(text).unwrap().replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        let (numbers, tail) = lines.split_at(lines.len() - 2);
        assert!(numbers.iter().enumerate().all(|(n, line)| line.parse() == Ok(n)));
        assert_eq!(tail, [about_lost(count - numbers.len()), "end".to_owned()]);
    }

    #[test]
    fn a_pipe_nobody_reads_holds_nobody_up_and_stays_as_it_was_for_others() {
        let (reader, writer) = std::io::pipe().unwrap();
        let shared = OwnedFd::from(writer.try_clone().unwrap());
        let stderr = Stderr::new(writer.into());
        assert!(matches!(stderr.way, WriteMode::Own));
        check(reader, stderr);
        assert!(!fcntl_getfl(&shared).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_pipe_that_cannot_be_opened_anew_is_asked_first() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut stderr = Stderr::new(writer.try_clone().unwrap().into());
        (stderr.fd, stderr.way) = (writer.into(), WriteMode::Asking(PIPE_PIECE));
        check(reader, stderr);
    }

    /// Another writer has taken the room.
    #[test]
    fn a_write_that_would_block_is_refused() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let mut others = Stderr::new(writer.try_clone().unwrap().into());
        while !others.is_behind() {
            put(&mut others, &"x".repeat(PIPE_PIECE - 1));
        }
        let refused = write_at_once(&writer.into(), b"x");
        assert!(matches!(refused, Err(Errno::AGAIN | Errno::OPNOTSUPP)), "{refused:?}");
    }

    #[test]
    fn a_socket_nobody_reads_holds_nobody_up() {
        let (reader, writer) = UnixStream::pair().unwrap();
        check(reader, Stderr::new(writer.into()));
    }

    #[test]
    fn a_terminal_nobody_reads_holds_nobody_up() {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let reader = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&reader).unwrap();
        unlockpt(&reader).unwrap();
        let name = ptsname(&reader, Vec::new()).unwrap();
        let writer = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let stderr = Stderr::new(writer);
        assert!(matches!(stderr.way, WriteMode::Own));
        check(File::from(reader), stderr);
    }

    #[test]
    fn a_file_is_appended_to_and_a_reader_that_went_loses_lines() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before\n").unwrap();
        let mut stderr = Stderr::new(file.try_clone().unwrap().into());
        put(&mut stderr, "after");
        std::io::Seek::rewind(&mut file).unwrap();
        assert_eq!(std::io::read_to_string(file).unwrap(), "before\nafter\n");

        let (reader, writer) = std::io::pipe().unwrap();
        let mut stderr = Stderr::new(writer.into());
        drop(reader);
        for _ in 0..3 {
            put(&mut stderr, "x");
        }
        assert_eq!((stderr.lost, stderr.is_behind(), stderr.retry()), (3, false, None));
    }

    /// Where there is no space for now, it is asked for; then what was lost is said, on a line of its own.
    #[test]
    fn a_full_disk_loses_lines_and_is_told_how_many() {
        let full = rustix::fs::open("/dev/full", OFlags::WRONLY, Mode::empty()).unwrap();
        let mut stderr = Stderr::new(full);
        put(&mut stderr, "x");
        assert_eq!((stderr.lost, stderr.retry()), (1, Some(RETRY_LOST)));
        // The beginning of a line was the last there was space for.
        stderr.push("torn".to_owned(), 1, false);
        stderr.begun = 2;
        stderr.flush();
        for _ in 0..2 {
            put(&mut stderr, "y");
            stderr.settle(plainly);
        }
        assert_eq!((stderr.lost, stderr.is_behind()), (4, false));
        let (mut reader, writer) = std::io::pipe().unwrap();
        stderr.fd = writer.into();
        stderr.settle(plainly);
        put(&mut stderr, "z");
        assert_eq!((stderr.lost, stderr.retry()), (0, None));
        drop(stderr);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("\n{}\nz\n", about_lost(4)));
    }
}
