//! The request scanner against a real redis-server: each input is sent raw, and then as the scanner
//! understood it. The server must answer both alike, up to and including the protocol error. What the
//! scanner may not agree with is only how much of an endless line the server reads at once.

use broker::resp::{FrameLimits, ReplyScan, ReplyScanner, Scan, Scanner};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::redis::server_program;
use crate::support::wait_until;

/// A redis-server of the test's own, gone with it.
struct Redis {
    process: Child,
    dir: tempfile::TempDir,
}

impl Redis {
    fn start(options: &[&str]) -> Redis {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let process = Command::new(server_program())
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "redis.sock"])
            .args(options)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let redis = Redis { process, dir };
        let socket = redis.dir.path().join("redis.sock");
        wait_until("redis-server listens", || UnixStream::connect(&socket).is_ok());
        redis
    }

    /// Sends `input` and then the end of input; returns everything the server says until it closes.
    fn exchange(&self, input: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.dir.path().join("redis.sock")).expect("redis-server is up");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
        let mut writer = stream.try_clone().expect("a socket can be cloned");
        thread::scope(|scope| {
            // The server may close before it has read everything.
            scope.spawn(move || {
                let _ = writer.write_all(input);
                let _ = writer.shutdown(Shutdown::Write);
            });
            let mut output = Vec::new();
            match stream.read_to_end(&mut output) {
                Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
                _ => output,
            }
        })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the scanner made of an input.
#[derive(Default)]
struct Reading {
    /// The requests in canonical form, one behind the other.
    forwarded: Vec<u8>,
    requests: usize,
    /// What the child is told before it is closed.
    error: Vec<u8>,
}

fn read(mut input: &[u8], authenticated: bool) -> Reading {
    let limits = FrameLimits { request_max: 1 << 30, authenticated };
    let mut scanner = Scanner::default();
    let mut reading = Reading::default();
    loop {
        let len = match scanner.scan(input, &limits) {
            Scan::NeedMore { .. } => return reading,
            Scan::Empty { len } => len,
            Scan::Frame { len } => {
                reading.requests += 1;
                reading.forwarded.extend_from_slice(scanner.request(input).bytes);
                len
            }
            Scan::Error(error) => {
                reading.error = error.reply();
                return reading;
            }
        };
        scanner.reset();
        input = &input[len..];
    }
}

/// Splits what the server said into replies, to show that the reply scanner finds one per request.
fn count_replies(mut output: &[u8]) -> usize {
    let mut scanner = ReplyScanner::default();
    let mut count = 0;
    while !output.is_empty() {
        match scanner.scan(output) {
            ReplyScan::Frame { len, .. } => output = &output[len..],
            other => panic!("{other:?} in {}", output[..output.len().min(300)].escape_ascii()),
        }
        count += 1;
    }
    count
}

fn check(redis: &Redis, input: &[u8]) {
    let shown = || input[..input.len().min(300)].escape_ascii().to_string();
    let raw = redis.exchange(input);
    let reading = read(input, true);
    let mut through = redis.exchange(&reading.forwarded);
    assert_eq!(count_replies(&through), reading.requests, "{}", shown());
    through.extend_from_slice(&reading.error);
    assert_eq!(raw.escape_ascii().to_string(), through.escape_ascii().to_string(), "{}", shown());
}

/// Inputs that a scanner written from the protocol's documentation would get wrong.
const ODD: &[&[u8]] = &[
    b"",
    b"*1\r\n$4\r\nPING\r\n",
    b"*1\rX$4\rYPINGxx*1\r\n$4\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\n\n$2\r\n\r\n\r\n",
    b"*0\r\n*-1\r\n*-10\r\n\r\n\n  \t\r\nPING\r\n",
    b"*-9223372036854775808\r\nPING\r\n",
    b"*-9223372036854775809\r\nPING\r\n",
    b"*-99999999999999999999\r\n",
    b"PING\r\n*abc\r\nPING\r\n",
    b"* 1\r\n",
    b"*+1\r\n",
    b"*01\r\n",
    b"*-0\r\n",
    b"*-01\r\n",
    b"*\r\n",
    b"*-\r\n",
    b"*2147483647\r\n",
    b"*2147483648\r\n",
    b"*1048577\r\n$4\r\nPING\r\n",
    b"*99999999999999999999999999\r\n",
    b"*1\n$4\nPING\n",
    b"*1\n$4\r\nPING\r\n",
    b"*1\r\nPING\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n\r5",
    b"*1\r\n\n$4\r\n",
    b"*1\r\nx\n",
    b"*1\r\n\xff\r\n",
    b"*1\r\n\x004\r\nPING\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\n$ 4\r\nPING\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$9223372036854775808\r\n",
    b"*1\r\n$536870912\r\nPING",
    b"*1\r\n$4\0\r\nPING\r\n",
    b"*1\0\r\n$4\r\nPING\r\n",
    b"*1\r\n$0\r\n\r\n*2\r\n$0\r\n\r\n$1\r\na\r\n",
    b"*2\r\n$4\r\nECHO\r\n$3\r\na\0b\r\n*1\r\n$5\r\na\0b\r\n\r\n",
    b"PING\nPING\r\n ping \r\nping\r\rping\n",
    b"ECHO a\x0bb\nECHO \x0b\x0ca\nECHO\x0ba\nECHO\ra\r\n\x0b\x0c\n",
    b"ECHO a\r\rb\n\rPING\n",
    b" *1\r\n$4\r\n%1\r\n:1\r\n",
    b"\"\" a\r\n'' b\r\n\"\"\r\n",
    b"ECHO \"a b\"\r\nECHO 'a b'\r\nECHO \"\\x41\\n\\r\\t\\b\\a\\q\\\"\\\\\"\r\nECHO '\\n\\''\r\n",
    b"ECHO \"\\xZZ\\x4\"\r\nECHO \"\\x00\\xfF\"\r\nECHO a\"b c\"\r\nECHO a'b'\r\n",
    b"ECHO \"a\"\x0b\r\nECHO 'a'\x0c\r\n",
    b"PING\r\nECHO \"a\r\nPING\r\n",
    b"ECHO 'a\r\n",
    b"ECHO \"a\"b\r\n",
    b"ECHO 'a'b\r\n",
    b"ECHO \"\"\"\"\r\n",
    b"ECHO \"a\\\r\n",
    b"ECHO \"a\\\"\r\n",
    b"PING\0\r\nPING\r\n",
    b"PING\r\nECHO a \0 b\r\nPING\r\n",
    b"\0\r\nPING\r\n",
    b"ECHO \xa0\x85\xe9\r\n",
    b"PING",
    b"*1\r\n$4\r\nPING\r",
    b"*1\r",
    b"*1\r\n$4\r",
];

#[test]
fn odd_inputs_read_as_redis_reads_them() {
    let redis = Redis::start(&[]);
    for input in ODD {
        check(&redis, input);
    }
}

#[test]
fn endless_lines_end_as_in_redis() {
    let redis = Redis::start(&[]);
    let long = |start: &str, byte: &str, len: usize| [start, &byte.repeat(len)].concat().into_bytes();
    for byte in ["a", "1", "\0"] {
        for start in ["PING\r\n", "*", "PING\r\n*", "*2\r\n$4\r\nECHO\r\n", "*2\r\n$4\r\nECHO\r\n$"] {
            check(&redis, &long(start, byte, 65_000));
            check(&redis, &long(start, byte, 200_000));
        }
    }
    for len in [65_534, 65_535, 65_536, 65_537, 65_538] {
        check(&redis, &long("", "a", len));
        check(&redis, &long("*", "1", len));
        check(&redis, &long("*1\r\n", "1", len));
    }
}

#[test]
fn big_arguments_with_odd_ends_arrive_whole() {
    let redis = Redis::start(&[]);
    for size in [16_384, 32_767, 32_768, 300_000] {
        let body = "x".repeat(size - 1) + "y";
        // Short answers only: the server drops what it cannot write at once to a peer that half-closed.
        let rest = "STRLEN k\r\nGETRANGE k -4 -1\r\n*x\r\n";
        let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${size}\r");
        check(&redis, format!("{set}\n{body}\r\n{rest}").as_bytes());
        check(&redis, format!("{set}?{body}??{rest}").as_bytes());
    }
}

#[test]
fn before_authentication_the_limits_are_those_of_redis() {
    let redis = Redis::start(&["--requirepass", "secret"]);
    let big = |size: usize| format!("*2\r\n$4\r\nECHO\r\n${size}\r\n{}\r\n", "x".repeat(size)).into_bytes();
    let inputs: [&[u8]; 8] = [
        &[&b"*10\r\n$3\r\nDEL\r\n"[..], &b"$1\r\na\r\n".repeat(9)].concat(),
        b"*11\r\n",
        b"*2147483648\r\n",
        b"DEL b c d e f g h i j k l m n\r\n",
        &[&b"echo "[..], &b"x".repeat(16_385), b"\r\n"].concat(),
        &big(16_384),
        &big(16_385),
        b"*1\r\n$536870913\r\n",
    ];
    for input in inputs {
        let reading = read(input, false);
        let expected =
            [b"-NOAUTH Authentication required.\r\n".repeat(reading.requests), reading.error].concat();
        let raw = redis.exchange(input);
        assert_eq!(raw.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }
}

/// Streams of harmless requests, some of them with a byte or two changed.
#[test]
fn damaged_streams_read_as_redis_reads_them() {
    const WHOLE: &[&[u8]] = &[
        b"*2\r\n$4\r\nECHO\r\n$3\r\nabc\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n",
        b"ECHO 'a b'\r\n",
        b"ECHO \"\\x41 \\\" \"\n",
        b"*0\r\n",
        b"\r\n",
    ];
    const BYTES: &[u8] = b"\r\n\0\t\x0b \"'\\*$-+0129ax\xff";
    let redis = Redis::start(&[]);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..1500 {
        let mut stream = Vec::new();
        for _ in 0..random.usize(1..6) {
            stream.extend_from_slice(WHOLE[random.usize(..WHOLE.len())]);
        }
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..stream.len());
            let byte = BYTES[random.usize(..BYTES.len())];
            match random.u8(..3) {
                0 => stream[at] = byte,
                1 => stream.insert(at, byte),
                _ if stream.len() > 1 => drop(stream.remove(at)),
                _ => {}
            }
        }
        check(&redis, &stream);
    }
}
