//! Properties that both scanners keep for any bytes, cut anywhere.

use super::{FrameLimits, ReplyScan, ReplyScanner, Scan, Scanner, encode};
use proptest::prelude::*;

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

pub(crate) fn requests(stream: &[u8], cuts: &[usize], limits: &FrameLimits) -> Vec<Event> {
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

pub(crate) fn replies(stream: &[u8], cuts: &[usize]) -> Vec<Event> {
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

/// Bytes that mean something to one scanner or the other, and some that do not.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "*1\r\n",
        "*2\r\n",
        "*3\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*1\rx",
        "$4\r\nPING\r\n",
        "$0\r\n\r\n",
        "$2\r\nabxx",
        "$1\r\n",
        "a\r\n",
        "PING\r\n",
        "set 'a b' \"\\x41\"\n",
        "\"",
        "'",
        "\r",
        "\n",
        "\r\n",
        "\0",
        "*",
        "$",
        "1",
        "0",
        "-",
        "+OK\r\n",
        ":1\r\n",
        "$-1\r\n",
        "_\r\n",
        "#t\r\n",
        "%1\r\n",
        "~2\r\n",
        ">2\r\n",
        "|1\r\n",
        "=5\r\ntxt:a\r\n",
        "!1\r\ne\r\n",
        ",1\r\n",
        "(12\r\n",
        "-ERR a\rb\r\n",
        "$16385\r\n",
        "*11\r\n",
    ]);
    prop_oneof![
        8 => words.prop_map(|word| word.as_bytes().to_vec()),
        3 => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 1..5).prop_map(|argv| {
            let mut out = Vec::new();
            encode::request(&mut out, &argv.iter().map(Vec::as_slice).collect::<Vec<_>>());
            out
        }),
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
        let whole = requests(&stream, &[], &limits);
        prop_assert_eq!(&requests(&stream, &cuts, &limits), &whole);
        let bytewise: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(&requests(&stream, &bytewise, &limits), &whole);
        for event in whole {
            if let Event::Request { bytes, args } = event {
                let mut canonical = Vec::new();
                encode::request(&mut canonical, &args.iter().map(Vec::as_slice).collect::<Vec<_>>());
                prop_assert_eq!(&bytes, &canonical);
                prop_assert!(bytes.len() <= request_max);
            }
        }
    }

    #[test]
    fn replies_do_not_depend_on_how_they_arrive(
        stream in stream(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let whole = replies(&stream, &[]);
        prop_assert_eq!(&replies(&stream, &cuts), &whole);
        let bytewise: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(&replies(&stream, &bytewise), &whole);
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
