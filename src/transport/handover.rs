//! The channel between two brokers of one user, over which one gives the other its listeners and its children. Messages are
//! RESP arrays, a name with pairs behind it, so that a later version may add some; descriptors come with them (SCM_RIGHTS),
//! and long state as a sealed memory of its own. Never says what a message means.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use redis::Value;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use zeroize::Zeroizing;

use super::stream::Stream;
use crate::base::clock::Clock;
use crate::resp::{ReplyScan, ReplyScanner, encode, value};

/// Descriptors that the system takes with one message (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 253;
/// Bytes of one message; what is longer travels as a memory.
const MESSAGE_MAX: usize = 64 * 1024;
/// Bytes of one read.
const READ: usize = 16 * 1024;
/// Bytes of a memory that are read: more than any child may hold.
const MEMORY_MAX: u64 = 1 << 32;
/// The pair that says how many descriptors come with a message.
const DESCRIPTORS: &str = "descriptors";
/// What nobody can change any more, nor make longer or shorter.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A message: its name, pairs, descriptors.
#[derive(Debug, Default)]
pub struct Message {
    name: String,
    pairs: Vec<(String, Vec<u8>)>,
    descriptors: Vec<OwnedFd>,
}

impl Message {
    /// One without pairs.
    pub fn new(name: &str) -> Message {
        Message { name: name.to_owned(), ..Message::default() }
    }

    /// The same with a pair more.
    pub fn with(mut self, name: &str, text: impl ToString) -> Message {
        self.pairs.push((name.to_owned(), text.to_string().into_bytes()));
        self
    }

    /// The same with descriptors, at most [`DESCRIPTORS_MAX`].
    pub fn carrying(mut self, descriptors: Vec<OwnedFd>) -> Message {
        debug_assert!(descriptors.len() <= DESCRIPTORS_MAX, "more than the system takes");
        self.descriptors = descriptors;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of a pair; empty if there is none.
    pub fn text(&self, name: &str) -> String {
        let pair = self.pairs.iter().find(|(other, _)| other == name);
        pair.map_or_else(String::new, |(_, text)| String::from_utf8_lossy(text).into_owned())
    }

    /// The number of a pair; 0 if there is none.
    pub fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or_default()
    }

    /// The descriptors that have come with it.
    pub fn into_descriptors(self) -> Vec<OwnedFd> {
        self.descriptors
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode::array_header(&mut bytes, 3 + 2 * self.pairs.len());
        encode::bulk(&mut bytes, self.name.as_bytes());
        let count = self.descriptors.len().to_string().into_bytes();
        for (name, text) in std::iter::once((DESCRIPTORS, &count))
            .chain(self.pairs.iter().map(|(name, text)| (name.as_str(), text)))
        {
            encode::bulk(&mut bytes, name.as_bytes());
            encode::bulk(&mut bytes, text);
        }
        bytes
    }

    /// The message of a frame, and how many descriptors belong to it.
    fn decode(frame: &[u8]) -> Result<(Message, usize), String> {
        let words = match value::parse(frame) {
            Some(Value::Array(words)) => words,
            Some(Value::ServerError(_)) | None => {
                return Err(String::from_utf8_lossy(frame).trim_start_matches('-').trim_end().to_owned());
            }
            Some(_) => return Err("an answer that is none".to_owned()),
        };
        let mut words = words.into_iter().map(|word| match word {
            Value::BulkString(bytes) => Ok(bytes),
            _ => Err("a message that is none".to_owned()),
        });
        let name = words.next().ok_or("a message without a name")??;
        let mut message = Message::new(&String::from_utf8_lossy(&name));
        while let Some(name) = words.next() {
            let text = words.next().ok_or("half a pair")??;
            message.pairs.push((String::from_utf8_lossy(&name?).into_owned(), text));
        }
        let count = message.number(DESCRIPTORS) as usize;
        Ok((message, count))
    }
}

/// What a look at the channel has brought.
#[derive(Debug)]
pub enum ChannelEvent {
    /// A message.
    Message(Message),
    /// Nothing more for now.
    Nothing,
    /// The other side has closed it, and everything it has said was heard.
    Ended,
    /// What it says is no message, or an error in its words.
    Wrong(String),
}

/// One side of the channel.
#[derive(Debug)]
pub struct HandoverChannel {
    stream: Stream,
    input: Vec<u8>,
    scanner: Box<ReplyScanner>,
    /// Descriptors that have come and belong to messages that are not taken yet, in order.
    descriptors: VecDeque<OwnedFd>,
    ended: bool,
    /// What is to be sent: bytes, how many of them have left, descriptors that leave with the first of them.
    output: VecDeque<(Vec<u8>, usize, Vec<OwnedFd>)>,
}

impl HandoverChannel {
    /// Over this connection, which is non-blocking.
    pub fn new(stream: Stream) -> HandoverChannel {
        HandoverChannel {
            stream,
            input: Vec::new(),
            scanner: Box::default(),
            descriptors: VecDeque::new(),
            ended: false,
            output: VecDeque::new(),
        }
    }

    /// The connection.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Says these bytes before any message.
    pub fn say(&mut self, bytes: Vec<u8>) {
        self.output.push_back((bytes, 0, Vec::new()));
    }

    /// Puts a message in line.
    pub fn send(&mut self, message: Message) {
        self.output.push_back((message.encode(), 0, message.descriptors));
    }

    /// Whether everything has been handed to the system.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Hands to the system what it takes. It takes no more descriptors for now where too many are under way
    /// (ETOOMANYREFS): the rest waits, as it does behind bytes. An error means that nobody listens any more.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, sent, descriptors)) = self.output.front_mut() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            if *sent == 0 && !borrowed.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&borrowed));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.stream, &[IoSlice::new(&bytes[*sent..])], &mut control, flags) {
                Ok(count) => {
                    *sent += count;
                    descriptors.clear();
                    if *sent == bytes.len() {
                        self.output.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::TOOMANYREFS) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next message that has come.
    pub fn hear(&mut self) -> ChannelEvent {
        loop {
            match self.next_message() {
                Ok(Some(message)) => return ChannelEvent::Message(message),
                Err(why) => return ChannelEvent::Wrong(why),
                Ok(None) if self.ended => return ChannelEvent::Ended,
                Ok(None) => {}
            }
            match self.read() {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(Errno::AGAIN) => return ChannelEvent::Nothing,
                Err(Errno::INTR) => {}
                // What was said before has been heard.
                Err(_) => self.ended = true,
            }
        }
    }

    fn read(&mut self) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; READ];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let read = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.input.extend_from_slice(&bytes[..read.bytes]);
        Ok(read.bytes)
    }

    fn next_message(&mut self) -> Result<Option<Message>, String> {
        if self.input.is_empty() {
            return Ok(None);
        }
        match self.scanner.scan(&self.input) {
            ReplyScan::NeedMore { .. } if self.input.len() > MESSAGE_MAX => {
                Err("a message without an end".to_owned())
            }
            ReplyScan::NeedMore { .. } => Ok(None),
            ReplyScan::Desync(why) => Err(why.to_owned()),
            ReplyScan::Frame { len, .. } => {
                let frame: Vec<u8> = self.input.drain(..len).collect();
                let (message, count) = Message::decode(&frame)?;
                if count > self.descriptors.len() {
                    return Err(format!(
                        "{count} descriptors announced, {} have come",
                        self.descriptors.len()
                    ));
                }
                let descriptors = self.descriptors.drain(..count).collect();
                Ok(Some(Message { descriptors, ..message }))
            }
        }
    }

    /// Waits for the next message, for so many milliseconds at most. For a program that has nothing else to do yet.
    pub fn wait_for_message(&mut self, timeout_ms: u64) -> Result<Message, String> {
        let clock = Clock::new();
        loop {
            self.flush().map_err(|error| error.to_string())?;
            match self.hear() {
                ChannelEvent::Message(message) => return Ok(message),
                ChannelEvent::Ended => return Err("the broker has closed the connection".to_owned()),
                ChannelEvent::Wrong(why) => return Err(why),
                ChannelEvent::Nothing => {}
            }
            let left = timeout_ms.saturating_sub(clock.now());
            if left == 0 {
                return Err(format!("no answer within {timeout_ms} ms"));
            }
            let wanted = if self.is_flushed() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            let time = Timespec { tv_sec: (left / 1000) as i64, tv_nsec: (left % 1000 * 1_000_000) as i64 };
            match poll(&mut [PollFd::new(&self.stream, wanted)], Some(&time)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).to_string()),
            }
        }
    }
}

/// Bytes as a memory of their own, which nobody can change any more.
pub fn sealed_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = memfd_create("broker-children", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    let memory = OwnedFd::from(file);
    fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

/// The bytes of such a memory. One that could still be changed is refused.
pub fn read_memory(memory: OwnedFd) -> io::Result<Zeroizing<Vec<u8>>> {
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if !fcntl_get_seals(&memory).is_ok_and(|seals| seals.contains(SEALS)) {
        return refused("a memory that is not sealed");
    }
    let file = File::from(memory);
    let len = file.metadata()?.len();
    if len > MEMORY_MAX {
        return refused("a memory that is too long");
    }
    let mut bytes = Zeroizing::new(vec![0; len as usize]);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Another process, watched for its end.
#[derive(Debug)]
pub struct WatchedProcess(OwnedFd);

impl WatchedProcess {
    /// The process of this pid, which is there.
    pub fn of_pid(pid: i32) -> io::Result<WatchedProcess> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(WatchedProcess(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Whether it has ended. Its descriptors are closed by then.
    pub fn has_ended(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut asked = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(poll(&mut asked, Some(&now)), Ok(1..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::net::UnixStream;
    use std::io::Read;

    fn pair() -> (HandoverChannel, HandoverChannel) {
        let (one, other) = UnixStream::pair().unwrap();
        (HandoverChannel::new(Stream::Unix(one)), HandoverChannel::new(Stream::Unix(other)))
    }

    fn heard(channel: &mut HandoverChannel) -> Message {
        match channel.hear() {
            ChannelEvent::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let (mut one, mut other) = pair();
        let batch: Vec<(UnixStream, UnixStream)> = (0..300).map(|_| UnixStream::pair().unwrap()).collect();
        let (near, far): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let mut far: Vec<OwnedFd> = far.into_iter().map(OwnedFd::from).collect();
        let rest = far.split_off(DESCRIPTORS_MAX);
        one.send(Message::new("FIRST").with("number", 7).carrying(far));
        one.send(Message::new("PLAIN").with("text", "a\r\nb"));
        one.send(Message::new("SECOND").carrying(rest));
        one.flush().unwrap();
        assert!(one.is_flushed());
        let first = heard(&mut other);
        assert_eq!((first.name(), first.number("number"), first.text("none")), ("FIRST", 7, String::new()));
        let mut descriptors = first.into_descriptors();
        assert_eq!(heard(&mut other).text("text"), "a\r\nb");
        descriptors.extend(heard(&mut other).into_descriptors());
        for (mut near, far) in near.into_iter().zip(descriptors) {
            File::from(far).write_all(b"x").unwrap();
            assert_eq!(near.read(&mut [0; 2]).unwrap(), 1, "each is the one that it was");
        }
        assert!(matches!(other.hear(), ChannelEvent::Nothing));
        one.send(Message::new("LAST"));
        one.flush().unwrap();
        drop(one);
        assert_eq!(heard(&mut other).name(), "LAST");
        assert!(matches!(other.hear(), ChannelEvent::Ended));
    }

    #[test]
    fn what_is_no_message_is_said() {
        for (bytes, why) in [
            ("-ERR not now\r\n", "ERR not now"),
            ("*0\r\n", "a message without a name"),
            ("*2\r\n$1\r\na\r\n$1\r\nb\r\n", "half a pair"),
            ("*3\r\n$1\r\na\r\n$11\r\ndescriptors\r\n$1\r\n2\r\n", "2 descriptors announced, 0 have come"),
            ("*1\r\n:1\r\n", "a message that is none"),
            (":1\r\n", "an answer that is none"),
        ] {
            let (mut one, mut other) = pair();
            one.say(bytes.into());
            one.flush().unwrap();
            assert!(matches!(other.hear(), ChannelEvent::Wrong(text) if text == why), "{bytes}");
        }
        let (mut one, mut other) = pair();
        one.say([b"$9999999\r\n".as_slice(), &[b'x'; MESSAGE_MAX]].concat());
        let _ = one.flush();
        assert!(matches!(other.hear(), ChannelEvent::Wrong(why) if why == "a message without an end"));
    }

    #[test]
    fn a_memory_is_read_only_once_it_cannot_change() {
        let bytes = vec![7; 100_000];
        assert_eq!(*read_memory(sealed_memory(&bytes).unwrap()).unwrap(), bytes);
        let open = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(read_memory(open).is_err());
        let memory = sealed_memory(b"a").unwrap();
        assert!(File::from(memory).write_all(b"b").is_err());
    }

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let watched = WatchedProcess::of_pid(sleeper.id() as i32).unwrap();
        assert!(!watched.has_ended());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(watched.has_ended());
    }
}
