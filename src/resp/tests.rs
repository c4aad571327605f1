//! Properties that both scanners keep for any bytes, cut anywhere.

use super::frame::ProtocolError;
use super::{FrameLimits, ReplyScan, ReplyScanner, Scan, Scanner, encode, inline};
use proptest::prelude::*;

/// A request as a client writes it.
pub(crate) fn encoded(argv: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::request(&mut out, &argv.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    out
}

/// The words of an inline request.
pub(crate) fn words_of(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let (mut text, mut args) = (Vec::new(), Vec::new());
    inline::split(line, &mut text, &mut args)?;
    Ok(args.iter().map(|&(start, end)| text[start as usize..end as usize].to_vec()).collect())
}

/// What a stream turned out to hold, in order.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    Request {
        bytes: Vec<u8>,
        args: Vec<Vec<u8>>,
    },
    Empty(usize),
    Reply {
        len: usize,
        kind: u8,
    },
    Failed(String),
    /// Bytes left that are no whole frame.
    Rest(usize),
}

/// Cuts `stream` at the given places, which may be anywhere, and in any order.
fn pieces<'a>(stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect()
}

fn requests(stream: &[u8], cuts: &[usize], limits: &FrameLimits) -> Vec<Event> {
    let mut scanner = Scanner::default();
    let (mut input, mut events) = (Vec::new(), Vec::new());
    for piece in pieces(stream, cuts) {
        input.extend_from_slice(piece);
        loop {
            let len = match scanner.scan(&input, limits) {
                Scan::NeedMore { at_least } => {
                    assert!(at_least > input.len());
                    break;
                }
                Scan::Empty { len } => {
                    events.push(Event::Empty(len));
                    len
                }
                Scan::Frame { len } => {
                    assert_eq!(scanner.scan(&input, limits), Scan::Frame { len });
                    let request = scanner.request(&input);
                    let args = request.args().map(<[u8]>::to_vec).collect();
                    events.push(Event::Request { bytes: request.bytes.to_vec(), args });
                    len
                }
                Scan::Error(error) => {
                    events.push(Event::Failed(format!("{error:?}")));
                    return events;
                }
            };
            input.drain(..len);
            scanner.reset();
        }
    }
    events.push(Event::Rest(input.len()));
    events
}

fn replies(stream: &[u8], cuts: &[usize]) -> Vec<Event> {
    let mut scanner = ReplyScanner::default();
    let (mut input, mut events) = (Vec::new(), Vec::new());
    for piece in pieces(stream, cuts) {
        input.extend_from_slice(piece);
        loop {
            match scanner.scan(&input) {
                ReplyScan::NeedMore { at_least } => {
                    assert!(at_least > input.len());
                    break;
                }
                ReplyScan::Frame { len, kind } => {
                    super::reply::text(&input[..len]);
                    super::reply::element(&input[..len], 1);
                    events.push(Event::Reply { len, kind });
                    input.drain(..len);
                }
                ReplyScan::Desync(reason) => {
                    events.push(Event::Failed(reason.to_owned()));
                    return events;
                }
            }
        }
    }
    events.push(Event::Rest(input.len()));
    events
}

/// Longer streams are not cut everywhere.
const CUT_EVERYWHERE: usize = 1500;

/// Requests are the same however they arrive, canonical, and within their bound.
pub(crate) fn check_requests(stream: &[u8], cuts: &[usize], limits: &FrameLimits) {
    let whole = requests(stream, &[], limits);
    assert_eq!(requests(stream, cuts, limits), whole, "cut at {cuts:?}");
    if stream.len() < CUT_EVERYWHERE {
        let everywhere: Vec<usize> = (0..stream.len()).collect();
        assert_eq!(requests(stream, &everywhere, limits), whole, "cut everywhere");
    }
    for event in whole {
        let Event::Request { bytes, args } = &event else { continue };
        assert_eq!(bytes, &encoded(args), "not canonical");
        assert!(bytes.len() <= limits.request_max);
        let again = requests(bytes, &[], &FrameLimits { request_max: usize::MAX, authenticated: true });
        assert_eq!(again, [event, Event::Rest(0)], "read otherwise the second time");
    }
}

/// Replies end at the same byte however they arrive.
pub(crate) fn check_replies(stream: &[u8], cuts: &[usize]) -> Vec<Event> {
    let whole = replies(stream, &[]);
    assert_eq!(replies(stream, cuts), whole, "cut at {cuts:?}");
    if stream.len() < CUT_EVERYWHERE {
        let everywhere: Vec<usize> = (0..stream.len()).collect();
        assert_eq!(replies(stream, &everywhere), whole, "cut everywhere");
    }
    whole
}

/// Parts of requests and replies, some broken.
const PARTS: &str = "*1\r\n *2\r\n *3\r\n *0\r\n *-1\r\n *1\rx *11\r\n *1048577\r\n $4\r\nPING\r\n $3\r\nGET\r\n $0\r\n\r\n \
     $2\r\nabxx $1\r\n $1\r\na\r\n $16385\r\n $536870913\r\n $-1\r\n a\r\n : + * $ - 0 1 \" ' \0 \r \n \r\n +OK\r\n :1\r\n _\r\n \
     #t\r\n ,1\r\n ,1.5\r\n (12\r\n %1\r\n ~2\r\n >2\r\n |1\r\n =5\r\ntxt:a\r\n !1\r\ne\r\n";

/// What has a blank in it, or ends like a line.
const LINES: &str = "PING\r\nPOST\r\nhost: x\r\nGET k\r\nSET k \"\\x00 a\"\r\nset 'a b' \"\\x41\"\n\
     XREAD BLOCK 5 STREAMS BLOCK $\r\nCLIENT REPLY OFF\r\n-ERR x\r\n-ERR a\rb\r\n";

/// Bytes that mean something to one scanner or the other, and some that do not.
pub(crate) fn words() -> Vec<Vec<u8>> {
    let words = PARTS.split(' ').chain(LINES.split_inclusive('\n'));
    words.map(|word| word.as_bytes().to_vec()).chain([vec![0xff]]).collect()
}

fn fragment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::sample::select(words()),
        3 => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 1..5).prop_map(|argv| encoded(&argv)),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(fragment(), 0..24).prop_map(|fragments| fragments.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn requests_do_not_depend_on_how_they_arrive(
        stream in stream(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        request_max in prop_oneof![Just(usize::MAX), 1..60usize],
        authenticated: bool,
    ) {
        let limits = FrameLimits { request_max, authenticated };
        check_requests(&stream, &cuts, &limits);
    }

    #[test]
    fn replies_do_not_depend_on_how_they_arrive(
        stream in stream(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        check_replies(&stream, &cuts);
    }

    #[test]
    fn the_encoders_write_what_the_scanners_read(
        text in ".{0,20}",
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        n: i64,
        proto in 2..=3u8,
    ) {
        let mut out = Vec::new();
        encode::array_header(&mut out, 7);
        encode::bulk(&mut out, &bytes);
        encode::int(&mut out, n);
        encode::error(&mut out, &text);
        encode::null(&mut out, proto);
        encode::null_array(&mut out, proto);
        encode::verbatim_txt(&mut out, &bytes, proto);
        encode::map_header(&mut out, 1, proto);
        encode::int(&mut out, n);
        encode::bulk(&mut out, &bytes);
        prop_assert_eq!(replies(&out, &[]), vec![Event::Reply { len: out.len(), kind: b'*' }, Event::Rest(0)]);
        let number = super::reply::element(&out, 1).and_then(|range| super::reply::text(&out[range]));
        prop_assert_eq!(number.map(<[u8]>::to_vec), Some(n.to_string().into_bytes()));
    }
}
