//! What a child may send that is not a plain request: protocol errors, inline lines, half-closed sockets.
//! Each case goes to a real Redis and through the broker, and every byte that comes back must be equal.

use crate::support::raw::pipeline;
use crate::support::twin::Expect;
use crate::support::{End, Twin, request, show};

/// Headers Redis refuses: the reply, then the close, and nothing of what follows is looked at.
#[test]
fn bad_multibulk_lengths_close() {
    let twin = Twin::start();
    let counts = [
        "abc",
        " 1",
        "+1",
        "01",
        "",
        "2147483648",
        "9223372036854775808",
        "-",
        "1a",
        "1 ",
        "--1",
        "1.0",
        "0x1",
    ];
    for count in counts {
        let reply = twin.same_until_closed(format!("*{count}\r\n").as_bytes());
        assert_eq!(show(&reply), "-ERR Protocol error: invalid multibulk length\\r\\n", "*{count}");
    }
}

#[test]
fn bad_bulk_lengths_close() {
    let twin = Twin::start();
    for length in ["abc", "-1", " 4", "+4", "04", "536870913", "", "9223372036854775808", "4a"] {
        let reply = twin.same_until_closed(format!("*1\r\n${length}\r\nPING\r\n").as_bytes());
        assert_eq!(show(&reply), "-ERR Protocol error: invalid bulk length\\r\\n", "${length}");
    }
}

/// The offending byte is shown; CR and LF as a space, and a NUL ends the text.
#[test]
fn a_wrong_type_byte_is_named() {
    let twin = Twin::start();
    let cases: [&[u8]; 10] = [
        b"*1\r\nc\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n\r\n",
        b"*1\r\n\n\r\n",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        b"*1\r\n:5\r\n",
        b"*2\r\n$4\r\nECHO\r\n+x\r\n",
        b"*1\r\n\xff\r\n",
        b"*1\r\n'\r\n",
        b"*1\r\n \r\n",
    ];
    for case in cases {
        let reply = twin.same_until_closed(case);
        assert!(reply.starts_with(b"-ERR Protocol error: expected '$', got '"), "{}", show(&reply));
    }
}

/// Redis looks for the end of a line as C does for the end of a string, so a NUL hides what follows.
#[test]
fn a_nul_hides_the_rest_of_its_line() {
    let twin = Twin::start();
    for case in [&b"*1\0\r\n"[..], b"*1\r\n\0\r\n", b"*1\r\n$4\0\r\nPING\r\n", b"PING a\0b\r\n", b"\0\r\n"] {
        twin.same_silence(case);
    }
}

#[test]
fn lines_without_an_end_are_too_big() {
    let twin = Twin::start();
    let long = |head: &str, fill: char| format!("{head}{}", fill.to_string().repeat(100_000)).into_bytes();
    for (case, text) in [
        (long("*", '1'), "too big mbulk count string"),
        (long("*1\r\n$", '1'), "too big bulk count string"),
        (long("", 'a'), "too big inline request"),
        (long("PING ", 'a'), "too big inline request"),
    ] {
        let reply = twin.same_until_closed(&case);
        assert_eq!(show(&reply), format!("-ERR Protocol error: {text}\\r\\n"));
    }
}

#[test]
fn unbalanced_quotes_close() {
    let twin = Twin::start();
    for line in ["GET \"a", "SET 'a", "GET \"a\"b", "GET 'a'b", "\"", "GET \"a\\", "'a'\"b\"", "GET a\"b"] {
        let reply = twin.same_until_closed(format!("{line}\r\n").as_bytes());
        assert_eq!(show(&reply), "-ERR Protocol error: unbalanced quotes in request\\r\\n", "{line}");
    }
}

/// Replies to what came before an error are sent first, in order; what comes after it is ignored.
#[test]
fn an_error_comes_after_earlier_replies_and_ends_all() {
    let twin = Twin::start();
    let mut case = pipeline(&["SET k v", "PING", "GET k", "INCR n", "ECHO e", "GET k"]);
    case.extend_from_slice(b"*abc\r\n");
    case.extend(pipeline(&["INCR n", "PING"]));
    let reply = twin.same_until_closed(&case);
    assert!(reply.ends_with(b"e\r\n$1\r\nv\r\n-ERR Protocol error: invalid multibulk length\r\n"));
    let mut pair = twin.pair();
    assert_eq!(pair.same("GET n"), "$1\r\n1\r\n", "nothing after the error was executed");
}

#[test]
fn an_error_inside_a_transaction_drops_it() {
    let twin = Twin::start();
    let mut case = pipeline(&["MULTI", "SET t 1"]);
    case.extend_from_slice(b"*1\r\n:1\r\n");
    twin.same_until_closed(&case);
    twin.pair().same("EXISTS t");
}

/// `POST` and `host:` are how a browser gives itself away: the connection ends without a word, and replies
/// not yet sent are lost with it.
#[test]
fn names_of_http_close_in_silence() {
    let twin = Twin::start();
    let cases: [&[u8]; 10] = [
        b"POST\r\n",
        b"post / HTTP/1.1\r\n",
        b"host:\r\n",
        b"Host: localhost\r\n",
        b"*1\r\n$4\r\nPOST\r\n",
        b"*2\r\n$5\r\nHOST:\r\n$1\r\na\r\n",
        b"PING\r\nPING\r\nPING\r\nPOST\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"MULTI\r\nPOST\r\n",
        b"PING\r\nhost:\r\nPING\r\n",
    ];
    for case in cases {
        assert_eq!(show(&twin.same_until_closed(case)), "", "{}", show(case));
    }
    let reply = twin.same_and_open(b"GET / HTTP/1.1\r\n");
    assert!(reply.starts_with(b"-ERR wrong number of arguments for 'get' command\r\n"));
}

/// A closed connection is the child's own affair: others on the same lane go on.
#[test]
fn http_names_inside_scripts_are_harmless() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    pair.same_call(&["EVAL", "return redis.pcall('POST').err ~= nil and 1 or 0", "0"]);
    pair.same("PING");
}

#[test]
fn empty_requests_are_skipped() {
    let twin = Twin::start();
    for case in
        [&b"*0\r\n"[..], b"*-1\r\n", b"*-10\r\n", b"\r\n", b"\n", b"   \r\n", b"*0\r\n*0\r\nPING\r\n\r\n"]
    {
        twin.same_and_open(case);
    }
}

#[test]
fn what_redis_waits_on_is_waited_on() {
    let twin = Twin::start();
    let cases: [&[u8]; 8] = [
        b"*1\n$4\nPING\n",
        b"*1",
        b"*1\r\n$4\r\nPIN",
        b"*2\r\n$4\r\nECHO\r\n",
        b"*1000000\r\n",
        b"PING",
        b"*1\r\n$4\r\nPING",
        b"*1\r\n$10\r\nPING\r\n",
    ];
    for case in cases {
        twin.same_silence(case);
    }
}

#[test]
fn inline_lines_split_as_in_redis() {
    let twin = Twin::start();
    let lines: [&[u8]; 30] = [
        b"PING\n",
        b"PING\r\n",
        b"  PING  \r\n",
        b"PING\ta\r\n",
        b"ECHO\x0ba\r\n",
        b"ECHO\x0ca\r\n",
        b"ECHO\ra\r\n",
        b"ECHO a\x0bb\r\n",
        b"ECHO \"a b\"\r\n",
        b"ECHO 'a b'\r\n",
        b"ECHO \"\\x41\\n\\r\\t\\a\\b\\\"\\\\\"\r\n",
        b"ECHO \"\\xzz\\q\"\r\n",
        b"ECHO 'it\\'s'\r\n",
        b"ECHO 'a\\nb'\r\n",
        b"ECHO \"\"\r\n",
        b"ECHO ''\r\n",
        b"ECHO a\xff\xfe\r\n",
        b" *1\r\n",
        b"\"\" a\r\n",
        b"$4\r\n",
        b"%1\r\n",
        b":1\r\n",
        b"+OK\r\n",
        b"SET ink 1\r\nGET ink\r\n",
        b"nosuch a b c\r\n",
        b"get\r\n",
        b"GET a b\r\n",
        b"SELECT 3\r\nSET db3 x\r\nSELECT 0\r\nEXISTS db3\r\n",
        b"MULTI\r\nSET m 1\r\nGET m\r\nEXEC\r\n",
        b"PING \"a\\\"b\"\r\nPING\r\n",
    ];
    for line in lines {
        twin.same_and_open(line);
    }
    let mut long = b"ECHO ".to_vec();
    long.resize(60_000, b'x');
    long.extend_from_slice(b"\r\n");
    twin.same_and_open(&long);
}

/// Names and arguments as they come back in the text of an unknown command: cut, ended by a NUL, line ends
/// shown as spaces.
#[test]
fn unknown_commands_are_quoted_as_in_redis() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    let name = |length: usize| "n".repeat(length);
    for length in [1, 20, 63, 64, 127, 128, 129, 130, 200, 1000] {
        pair.same_call(&[name(length)]);
        pair.same_call(&[name(length), "arg".to_owned()]);
        pair.same_call(&["nosuch".to_owned(), name(length)]);
        pair.same_call(&["nosuch".to_owned(), name(60), name(length)]);
    }
    for (first, second) in (100..130).flat_map(|first| (0..8).map(move |second| (first, second))) {
        pair.same_call(&["nosuch".to_owned(), name(first), name(second), "c".to_owned()]);
    }
    let cases: [&[&[u8]]; 12] = [
        &[b""],
        &[b"", b"a"],
        &[b"a\0b", b"c"],
        &[b"a", b"b\0c", b"d"],
        &[b"no\r\nsuch", b"a\r\nb"],
        &[b"no such", b"a b"],
        &[b"it's", b"it's"],
        &[b"\xff\xfe", b"\xff"],
        &[b"nosuch\0", b"a"],
        &[b"nosuch", b"", b"", b""],
        &[b"*1", b"$4"],
        &[b"NoSuch", b"ArG"],
    ];
    for case in cases {
        pair.same_call(case);
    }
    pair.same_call(&vec!["a"; 200]);
    pair.same("PING");
}

#[test]
fn unknown_subcommands_are_quoted_as_in_redis() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    for container in
        ["CLIENT", "config", "OBJECT", "XGROUP", "Memory", "SCRIPT", "FUNCTION", "ACL", "COMMAND"]
    {
        if container != "COMMAND" {
            pair.same_call(&[container]);
        }
        for sub in ["nosuch", "", "NoSuch", "a b", "it's", "x\r\ny"] {
            pair.same_call(&[container, sub]);
            pair.same_call(&[container, sub, "more", "args"]);
        }
        pair.same_call(&[container, &"s".repeat(127)]);
        pair.same_call(&[container, &"s".repeat(128)]);
        pair.same_call(&[container, &"s".repeat(300)]);
        pair.same_call(&[container.as_bytes(), b"a\0b"]);
    }
}

#[test]
fn select_refuses_as_redis_does() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    let values = [
        "15",
        "16",
        "-1",
        "abc",
        "",
        "01",
        "+1",
        "1.0",
        "2147483647",
        "2147483648",
        "-2147483649",
        "9223372036854775807",
        "9223372036854775808",
        "99999999999999999999999",
    ];
    for value in values {
        pair.same_call(&["SELECT", value]);
    }
    pair.same_call(&["SELECT", " 1"]);
    pair.same("SELECT");
    pair.same("SELECT 1 2");
    // The last SELECT that succeeded still holds.
    pair.same("SET where 15");
    pair.same("SELECT 15");
    pair.same("GET where");
}

#[test]
fn quit_answers_and_ignores_the_rest() {
    let twin = Twin::start();
    for case in
        [&b"QUIT\r\n"[..], b"QUIT x y\r\n", b"quit\r\nPING\r\n", b"MULTI\r\nQUIT\r\n", b"PING\r\nQUIT\r\n"]
    {
        twin.same_until_closed(case);
    }
    let mut case = pipeline(&["SET q 1", "GET q", "QUIT", "SET q 2"]);
    case.extend_from_slice(b"*abc\r\n");
    twin.same_until_closed(&case);
    assert_eq!(twin.pair().same("GET q"), "$1\r\n1\r\n");
}

/// A child that ends its sending half still gets what it asked for; a blocked one only the end.
#[test]
fn half_closed_children_get_their_replies() {
    let twin = Twin::start();
    let cases: [(&[u8], bool); 6] = [
        (b"PING\r\n", true),
        (b"SET h 1\r\nINCR h\r\nGET h\r\nPING\r\n", true),
        (b"MULTI\r\nINCR h\r\nEXEC\r\n", true),
        (b"PING\r\n*2\r\n$4\r\nECHO\r\n", true),
        (b"", false),
        (b"BLPOP nothing 0\r\n", false),
    ];
    for (case, answered) in cases {
        let mut pair = twin.pair();
        let mut ends = Vec::new();
        for raw in [&mut pair.direct, &mut pair.brokered] {
            raw.write(case);
            raw.half_close();
            ends.push(raw.read_all());
        }
        assert_eq!(ends[0], ends[1], "{}", show(case));
        assert_eq!(ends[0].1, End::Closed, "{}", show(case));
        assert_eq!(!ends[0].0.is_empty(), answered, "{}", show(case));
    }
}

/// Frames may arrive in any pieces.
#[test]
fn requests_may_come_byte_by_byte() {
    let twin = Twin::start();
    let mut bytes = pipeline(&["SET piece value", "GET piece", "NOSUCH a", "MULTI", "INCR p", "EXEC"]);
    bytes.extend_from_slice(b"PING inline\r\n*0\r\n");
    let mut pair = twin.pair();
    for byte in &bytes {
        pair.direct.write(&[*byte]);
        pair.brokered.write(&[*byte]);
    }
    pair.same_replies("single bytes", 7);
    pair.same_transcript(b"*1\r\n$x\r\n", Expect::Closed);
}

/// Redis takes any two bytes after a bulk; the broker may answer an error or put the right ones in their
/// place, and never sends the wrong ones on.
#[test]
fn wrong_bytes_after_a_bulk_never_travel_on() {
    let twin = Twin::start();
    let mut other = twin.broker.connect();
    for case in [&b"*1\r\n$4\r\nPINGxx"[..], b"*2\r\n$3\r\nGETxx$1\r\nkxx", b"*2\r\n$3\r\nGET\r\n$1\r\nk$9"] {
        let mut raw = twin.broker.connect();
        raw.write(case);
        let reply = raw.read_reply();
        let fine = reply == b"+PONG\r\n" || reply == b"$-1\r\n" || reply.starts_with(b"-ERR Protocol error");
        assert!(fine, "{}: {}", show(case), show(&reply));
        other.expect("PING other", "$5\r\nother\r\n");
        other.expect("GET k", "$-1\r\n");
    }
}

/// The RESP3 spelling changes replies only, never how requests are read.
#[test]
fn protocol_errors_are_the_same_in_resp3() {
    let twin = Twin::start();
    for case in [&b"*abc\r\n"[..], b"*1\r\nx\r\n", b"*1\r\n$-1\r\n", b"GET \"a\r\n", b"POST\r\n", b"QUIT\r\n"]
    {
        twin.pair_resp3().same_transcript(case, Expect::Closed);
    }
    twin.pair_resp3().same_transcript(&request(&["GET", "nothing"]), Expect::Open);
}
