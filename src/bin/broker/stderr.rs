//! Standard error, written without ever blocking the loop, even if its reader has stopped. Owns the lines that it has not
//! accepted yet, up to a bound, and counts further ones. Never sets O_NONBLOCK on an open file shared with others.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::termios::tcgetsid;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

/// Bytes of lines that may be queued, so that a reader may pause for a while without losing lines.
const WAITING_MAX: usize = 256 * 1024;
/// A pipe that reports room accepts this many bytes at once: PIPE_BUF.
const PIPE_PIECE: usize = 4096;
/// A terminal that reports room may have room for only one byte.
const TERMINAL_PIECE: usize = 1;

#[derive(Debug)]
enum WriteMode {
    /// To an open file of our own, which is non-blocking.
    Own,
    /// With MSG_DONTWAIT.
    Socket,
    /// Directly: a regular file never blocks.
    File,
    /// Another user's pipe or terminal, which cannot be opened again: it is polled for room first, and gets pieces of this
    /// many bytes. Another writer may take the room in between; then the write blocks.
    Asking(usize),
}

/// A line, or the message about lost lines.
#[derive(Debug)]
struct WaitingLine {
    text: Vec<u8>,
    /// How many lines are lost if this one is.
    stands_for: u64,
}

pub(crate) struct Stderr {
    fd: OwnedFd,
    way: WriteMode,
    waiting: VecDeque<WaitingLine>,
    /// Bytes in `waiting`, and how many of the first entry have been written.
    bytes: usize,
    begun: usize,
    lost: u64,
    about_lost: Box<dyn Fn(u64) -> String + Send>,
}

impl Stderr {
    /// Writes to `fd`, a copy of standard error. `about_lost` makes the line that reports the number of lost ones.
    pub(crate) fn new(fd: OwnedFd, about_lost: impl Fn(u64) -> String + Send + 'static) -> Stderr {
        let (fd, way) = find_way(fd);
        let about_lost = Box::new(about_lost);
        Stderr { fd, way, waiting: VecDeque::new(), bytes: 0, begun: 0, lost: 0, about_lost }
    }

    /// Writes a line, now or when there is room; the line is lost if too many are queued.
    pub(crate) fn put(&mut self, line: String) {
        self.flush();
        if self.bytes + line.len() > WAITING_MAX {
            self.lost += 1;
            return;
        }
        self.mention_lost();
        self.push(line, 1);
        self.flush();
    }

    /// Writes as much as there is room for now.
    pub(crate) fn settle(&mut self) {
        self.flush();
        if self.waiting.is_empty() {
            self.mention_lost();
            self.flush();
        }
    }

    pub(crate) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn mention_lost(&mut self) {
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            self.push((self.about_lost)(lost), lost);
        }
    }

    fn push(&mut self, line: String, stands_for: u64) {
        self.bytes += line.len();
        self.waiting.push_back(WaitingLine { text: line.into_bytes(), stands_for });
    }

    fn flush(&mut self) {
        while let Some(entry) = self.waiting.front() {
            match self.write(&entry.text[self.begun..]) {
                Ok(count) => {
                    self.begun += count;
                    if self.begun >= entry.text.len() {
                        self.bytes -= entry.text.len();
                        self.begun = 0;
                        self.waiting.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // No reader, no space: it can never be written.
                Err(_) => {
                    self.lost += self.waiting.drain(..).map(|entry| entry.stands_for).sum::<u64>();
                    (self.bytes, self.begun) = (0, 0);
                }
            }
        }
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
                rustix::io::write(&self.fd, &bytes[..bytes.len().min(piece)])
            }
        }
    }
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
    use rustix::fs::fcntl_getfl;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn about_lost(lost: u64) -> String {
        format!("{lost} lost\n")
    }

    /// Puts numbered lines until some are lost: every line comes in order, up to a gap that is told exactly; then a last one.
    fn check(mut reader: impl Read + AsFd, mut stderr: Stderr) {
        let mut put = 0;
        while stderr.lost < 100 {
            stderr.put(format!("{put:0>63}\n"));
            put += 1;
        }
        let (mut text, mut ended, mut piece) = (Vec::new(), false, [0; 4096]);
        while !text.ends_with(b"end\n") && !text.ends_with(b"end\r\n") {
            // What a terminal has taken is readable a moment later, and so is its room writable.
            let mut asked = [PollFd::new(&reader, PollFlags::IN)];
            poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 })).unwrap();
            if asked[0].revents().contains(PollFlags::IN) {
                let count = reader.read(&mut piece).unwrap();
                text.extend_from_slice(&piece[..count]);
            }
            stderr.settle();
            if !ended && !stderr.is_behind() && stderr.lost == 0 {
                stderr.put("end\n".to_owned());
                ended = true;
            }
        }
        let text = String::from_utf8(text).unwrap().replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        let (numbers, tail) = lines.split_at(lines.len() - 2);
        assert!(numbers.iter().enumerate().all(|(n, line)| line.parse() == Ok(n)));
        assert_eq!(tail, [format!("{} lost", put - numbers.len()), "end".to_owned()]);
    }

    #[test]
    fn a_pipe_nobody_reads_holds_nobody_up_and_stays_as_it_was_for_others() {
        let (reader, writer) = std::io::pipe().unwrap();
        let shared = OwnedFd::from(writer.try_clone().unwrap());
        let stderr = Stderr::new(writer.into(), about_lost);
        assert!(matches!(stderr.way, WriteMode::Own));
        check(reader, stderr);
        assert!(!fcntl_getfl(&shared).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_pipe_that_cannot_be_opened_anew_is_asked_first() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut stderr = Stderr::new(writer.try_clone().unwrap().into(), about_lost);
        (stderr.fd, stderr.way) = (writer.into(), WriteMode::Asking(PIPE_PIECE));
        check(reader, stderr);
    }

    #[test]
    fn a_socket_nobody_reads_holds_nobody_up() {
        let (reader, writer) = UnixStream::pair().unwrap();
        check(reader, Stderr::new(writer.into(), about_lost));
    }

    #[test]
    fn a_terminal_nobody_reads_holds_nobody_up() {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let reader = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&reader).unwrap();
        unlockpt(&reader).unwrap();
        let name = ptsname(&reader, Vec::new()).unwrap();
        let writer = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let stderr = Stderr::new(writer, about_lost);
        assert!(matches!(stderr.way, WriteMode::Own));
        check(File::from(reader), stderr);
    }

    #[test]
    fn a_file_is_appended_to_and_a_reader_that_went_loses_lines() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before\n").unwrap();
        let mut stderr = Stderr::new(file.try_clone().unwrap().into(), about_lost);
        stderr.put("after\n".to_owned());
        std::io::Seek::rewind(&mut file).unwrap();
        assert_eq!(std::io::read_to_string(file).unwrap(), "before\nafter\n");

        let (reader, writer) = std::io::pipe().unwrap();
        let mut stderr = Stderr::new(writer.into(), about_lost);
        drop(reader);
        for _ in 0..3 {
            stderr.put("x\n".to_owned());
        }
        assert_eq!((stderr.lost, stderr.is_behind()), (3, false));
    }
}
