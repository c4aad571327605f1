//! Two equal Redis servers, one spoken to directly and one through the broker: the same bytes go to both and
//! what comes back is compared.

use std::time::Duration;

use super::raw::{End, Raw, request, show};
use super::{Broker, Redis};

/// Long enough for an answer that was due to arrive, short enough to assert that none was.
const QUIET: Duration = Duration::from_millis(250);
const SENTINEL: &[u8] = b"$12\r\nthe sentinel\r\n";

/// The two servers and the broker before the second.
pub(crate) struct Twin {
    // Order matters: the broker ends before the Redis behind it.
    pub(crate) broker: Broker,
    pub(crate) direct: Redis,
    pub(crate) behind: Redis,
}

impl Twin {
    /// Two empty servers with default settings.
    pub(crate) fn start() -> Twin {
        Twin::start_with(&[], &[])
    }

    /// Both servers with the same arguments, the broker with settings.
    pub(crate) fn start_with(redis_args: &[&str], settings: &[(&str, &str)]) -> Twin {
        let behind = Redis::start_with(redis_args);
        let broker = Broker::start(&behind, settings);
        Twin { broker, direct: Redis::start_with(redis_args), behind }
    }

    /// A fresh connection to each.
    pub(crate) fn pair(&self) -> Pair {
        Pair { direct: self.direct.connect_plain(), brokered: self.broker.connect() }
    }

    /// A fresh connection to each, both speaking RESP3.
    pub(crate) fn pair_resp3(&self) -> Pair {
        let mut pair = self.pair();
        pair.same_with("HELLO 3", without_id);
        pair
    }

    /// A case after which Redis closes: everything until the close must be equal.
    #[track_caller]
    pub(crate) fn same_until_closed(&self, case: &[u8]) -> Vec<u8> {
        self.pair().same_transcript(case, Expect::Closed)
    }

    /// A case after which the connection works on: everything up to a sentinel's reply must be equal.
    #[track_caller]
    pub(crate) fn same_and_open(&self, case: &[u8]) -> Vec<u8> {
        self.pair().same_transcript(case, Expect::Open)
    }

    /// A case Redis waits on for more: both stay open and say nothing.
    #[track_caller]
    pub(crate) fn same_silence(&self, case: &[u8]) {
        self.pair().same_transcript(case, Expect::Silent);
    }
}

/// How a case ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The peer closes.
    Closed,
    /// A sentinel sent afterwards is answered.
    Open,
    /// The peer waits for more.
    Silent,
}

/// The same session twice.
pub(crate) struct Pair {
    pub(crate) direct: Raw,
    pub(crate) brokered: Raw,
}

impl Pair {
    /// One request to both; the replies must be equal. Returns the reply.
    #[track_caller]
    pub(crate) fn same(&mut self, line: &str) -> String {
        self.same_with(line, |reply| reply.to_owned())
    }

    /// The same where only the order of the reply's lines is by chance.
    #[track_caller]
    pub(crate) fn same_sorted(&mut self, line: &str) -> String {
        self.same_with(line, |reply| {
            let mut lines: Vec<&str> = reply.split("\r\n").collect();
            lines.sort_unstable();
            lines.join("\r\n")
        })
    }

    /// The same after bringing each reply to a common form.
    #[track_caller]
    pub(crate) fn same_with(&mut self, line: &str, form: impl Fn(&str) -> String) -> String {
        self.direct.send(line);
        self.brokered.send(line);
        self.same_reply(line, form)
    }

    /// One request of any bytes to both.
    #[track_caller]
    pub(crate) fn same_call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Vec<u8> {
        let bytes = request(args);
        self.same_pipeline(&bytes, 1).remove(0)
    }

    /// Bytes to both in one write, then `count` replies compared in order.
    #[track_caller]
    pub(crate) fn same_pipeline(&mut self, bytes: &[u8], count: usize) -> Vec<Vec<u8>> {
        self.direct.write(bytes);
        self.brokered.write(bytes);
        self.same_replies(&show(bytes), count)
    }

    /// The next `count` frames of both.
    #[track_caller]
    pub(crate) fn same_replies(&mut self, what: &str, count: usize) -> Vec<Vec<u8>> {
        let mut replies = Vec::with_capacity(count);
        for index in 0..count {
            let wanted = self.direct.try_reply();
            let got = self.brokered.try_reply();
            let (Ok(wanted), Ok(got)) = (&wanted, &got) else {
                panic!("reply {index} of {what}: direct {}, broker {}", shown(&wanted), shown(&got));
            };
            assert!(wanted == got, "reply {index} of {what}: direct {}, broker {}", show(wanted), show(got));
            replies.push(got.clone());
        }
        replies
    }

    #[track_caller]
    fn same_reply(&mut self, line: &str, form: impl Fn(&str) -> String) -> String {
        let (wanted, got) = (self.direct.try_reply(), self.brokered.try_reply());
        let (Ok(wanted), Ok(got)) = (&wanted, &got) else {
            panic!("{line}: direct {}, broker {}", shown(&wanted), shown(&got));
        };
        let (wanted, got) = (String::from_utf8_lossy(wanted), String::from_utf8_lossy(got));
        assert_eq!(form(&got), form(&wanted), "broker (left) and Redis (right) on {line}");
        got.into_owned()
    }

    /// Bytes in one write; all that follows must be equal, and end as expected.
    #[track_caller]
    pub(crate) fn same_transcript(&mut self, case: &[u8], expect: Expect) -> Vec<u8> {
        let wanted = transcript(&mut self.direct, case, expect);
        let got = transcript(&mut self.brokered, case, expect);
        let (wanted, wanted_end) = wanted;
        assert_eq!(wanted_end, expect, "Redis on {}: {}", show(case), show(&wanted));
        let (got, got_end) = got;
        let same = got == wanted && got_end == wanted_end;
        assert!(
            same,
            "{}\n direct {wanted_end:?}: {}\n broker {got_end:?}: {}",
            show(case),
            show(&wanted),
            show(&got)
        );
        got
    }
}

fn transcript(raw: &mut Raw, case: &[u8], expect: Expect) -> (Vec<u8>, Expect) {
    // The peer may close before it has taken everything.
    let _ = raw.try_write(case);
    if expect == Expect::Open {
        let _ = raw.try_write(&request(&["ECHO", "the sentinel"]));
        let (bytes, end) = raw.read_past(SENTINEL);
        return (bytes, end.map_or(Expect::Open, ended));
    }
    if expect == Expect::Silent {
        raw.set_patience(QUIET);
    }
    let (bytes, end) = raw.read_all();
    (bytes, ended(end))
}

fn ended(end: End) -> Expect {
    match end {
        End::Closed => Expect::Closed,
        End::Silent => Expect::Silent,
    }
}

fn shown(reply: &Result<Vec<u8>, End>) -> String {
    match reply {
        Ok(bytes) => show(bytes),
        Err(end) => format!("{end:?}"),
    }
}

/// HELLO's reply without the connection's number.
pub(crate) fn without_id(reply: &str) -> String {
    let mut lines: Vec<&str> = reply.split("\r\n").collect();
    if let Some(at) = lines.iter().position(|line| *line == "id") {
        lines[at + 1] = ":id";
    }
    lines.join("\r\n")
}
