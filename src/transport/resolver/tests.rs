//! Look-ups with messages as servers send them, and with what goes wrong on the way; and over real sockets.

use super::files::{NameFiles, NameServers};
use super::inquiry::{Attempt, Inquiry, InquiryStep};
use super::known::{KnownName, by_route};
use super::message::{DnsAnswer, RecordKind, answer, is_host_name, question};
use super::*;
use crate::base::clock::Clock;
use crate::base::limits::{ADDRESSES_MAX, RESOLVE_INTERVAL, RESOLVE_STRAYS, RESOLVE_TRY};
use mio::{Events, Poll};
use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What dnsmasq answers to a question for www.example: an alias, compressed, and two addresses.
const RECORDED: &[u8] = b"\x12\x34\x81\x80\x00\x01\x00\x03\x00\x00\x00\x00\
    \x03www\x07example\x00\x00\x01\x00\x01\
    \xc0\x0c\x00\x05\x00\x01\x00\x00\x01\x2c\x00\x06\x03web\xc0\x10\
    \xc0\x29\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01\
    \xc0\x29\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x02";

fn ips(text: &[&str]) -> Vec<IpAddr> {
    text.iter().map(|one| one.parse().unwrap()).collect()
}

fn a(name: &str, ttl: u32, address: [u8; 4]) -> ResourceRecord<'_> {
    let data = RData::A(A { address: u32::from_be_bytes(address) });
    ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, ttl, data)
}

fn alias<'a>(name: &'a str, of: &'a str) -> ResourceRecord<'a> {
    let data = RData::CNAME(CNAME(Name::new_unchecked(of)));
    ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, 60, data)
}

/// An answer to this question.
fn reply(asked: &[u8], code: RCODE, records: &[ResourceRecord<'_>]) -> Vec<u8> {
    let mut packet = Packet::parse(asked).unwrap().into_reply();
    *packet.rcode_mut() = code;
    packet.answers = records.to_vec();
    packet.build_bytes_vec_compressed().unwrap()
}

fn empty(asked: &[u8]) -> Vec<u8> {
    reply(asked, RCODE::NoError, &[])
}

fn cut(asked: &[u8]) -> Vec<u8> {
    let mut packet = Packet::parse(asked).unwrap().into_reply();
    packet.set_flags(PacketFlag::TRUNCATION);
    packet.build_bytes_vec().unwrap()
}

fn asked_name(asked: &[u8]) -> (String, QTYPE) {
    let packet = Packet::parse(asked).unwrap();
    (packet.questions[0].qname.to_string(), packet.questions[0].qtype)
}

fn files(directory: &Path, hosts: &str, resolv_conf: &str, port: u16) -> NameFiles {
    std::fs::write(directory.join("hosts"), hosts).unwrap();
    std::fs::write(directory.join("resolv.conf"), resolv_conf).unwrap();
    NameFiles::at(&directory.join("hosts"), &directory.join("resolv.conf"), port)
}

fn servers(resolv_conf: &str) -> Arc<NameServers> {
    let directory = tempfile::tempdir().unwrap();
    files(directory.path(), "", resolv_conf, 53).servers()
}

const TWO: &str = "nameserver 10.0.0.1\nnameserver 10.0.0.2\n";

fn inquiry(host: &str, resolv_conf: &str) -> (Inquiry, Attempt) {
    let mut inquiry = Inquiry::new(host, servers(resolv_conf), 0);
    let attempt = inquiry.attempt(0);
    (inquiry, attempt)
}

fn server(attempt: &Attempt) -> String {
    attempt.server.to_string()
}

// ---- messages --------------------------------------------------------------------------------------------

#[test]
fn an_answer_has_the_addresses_behind_its_aliases() {
    let wanted = DnsAnswer::Addresses(ips(&["10.0.0.1", "10.0.0.2"]), 60);
    assert_eq!(answer(RECORDED, 0x1234, "www.example", RecordKind::A), wanted);
    assert_eq!(answer(RECORDED, 0x1234, "WWW.Example", RecordKind::A), wanted, "case is nothing");
}

#[test]
fn what_answers_another_question_is_no_answer() {
    let strays = [
        answer(RECORDED, 0x1235, "www.example", RecordKind::A),
        answer(RECORDED, 0x1234, "web.example", RecordKind::A),
        answer(RECORDED, 0x1234, "www.example", RecordKind::Aaaa),
        answer(&question(7, "www.example", RecordKind::A).unwrap(), 7, "www.example", RecordKind::A),
    ];
    assert!(strays.iter().all(|stray| *stray == DnsAnswer::Stray), "{strays:?}");
    for length in 0..RECORDED.len() {
        let _ = answer(&RECORDED[..length], 0x1234, "www.example", RecordKind::A);
    }
    let mut twice = Packet::parse(RECORDED).unwrap();
    twice.questions.push(twice.questions[0].clone());
    let twice = twice.build_bytes_vec().unwrap();
    assert_eq!(answer(&twice, 0x1234, "www.example", RecordKind::A), DnsAnswer::Stray, "nobody asks two");
    // As many records as it pleases to claim take no memory.
    let mut claims = RECORDED.to_vec();
    claims[4..12].fill(0xff);
    assert_eq!(answer(&claims, 0x1234, "www.example", RecordKind::A), DnsAnswer::Stray);
}

/// Mutations of the messages of the corpus are answers or none; `make fuzz` makes more of them.
#[test]
fn any_bytes_of_a_name_server_are_survived() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (seconds, seed) = (variable("BROKER_TEST_SECONDS"), variable("BROKER_TEST_SEED").unwrap_or(0));
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/dns");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let (mut rng, clock, mut rounds) = (fastrand::Rng::with_seed(seed), Clock::new(), 0);
    corpus.iter().for_each(|message| check_answer(message));
    while seconds.map_or(rounds < 20_000, |seconds| clock.now() < seconds * 1000) {
        rounds += 1;
        let mut message = corpus[rng.usize(..corpus.len())].clone();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..=message.len());
            let end = (at + rng.usize(..16)).min(message.len());
            match rng.u8(..5) {
                0 if at < message.len() => message[at] ^= 1 << rng.u8(..8),
                // Where names point to others.
                1 if at < message.len() => message[at] = 0xc0 | rng.u8(..),
                2 => drop(message.drain(at..end)),
                3 => drop(message.splice(at..at, message[at..end].to_vec())),
                _ => {
                    let other = &corpus[rng.usize(..corpus.len())];
                    message.splice(at..end, other[rng.usize(..other.len())..].to_vec());
                }
            }
        }
        check_answer(&message);
    }
}

/// With no more addresses than are kept, all of the family that was asked for.
fn check_answer(message: &[u8]) {
    let id = message.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    for kind in [RecordKind::A, RecordKind::Aaaa] {
        if let DnsAnswer::Addresses(found, _) = answer(message, id, "www.example", kind) {
            assert!((1..=ADDRESSES_MAX).contains(&found.len()));
            assert!(found.iter().all(|ip| ip.is_ipv6() == (kind == RecordKind::Aaaa)));
        }
        let other = answer(message, !id, "www.example", kind);
        assert!(other == DnsAnswer::Stray, "another question: {other:?}");
    }
}

#[test]
fn aliases_come_to_an_end() {
    let asked = question(7, "a.test", RecordKind::A).unwrap();
    let round = reply(&asked, RCODE::NoError, &[alias("a.test", "b.test"), alias("b.test", "a.test")]);
    let endless = DnsAnswer::Refused("a chain of aliases without an end".to_owned());
    assert_eq!(answer(&round, 7, "a.test", RecordKind::A), endless);
    let open = reply(&asked, RCODE::NoError, &[alias("a.test", "b.test"), a("c.test", 1, [1; 4])]);
    assert_eq!(answer(&open, 7, "a.test", RecordKind::A), DnsAnswer::Nothing { named: true });
}

#[test]
fn failures_have_the_words_of_the_server() {
    let asked = question(7, "a.test", RecordKind::A).unwrap();
    let said = |message: &[u8]| answer(message, 7, "a.test", RecordKind::A);
    let refused = |words: &str| DnsAnswer::Refused(words.to_owned());
    assert_eq!(said(&reply(&asked, RCODE::ServerFailure, &[])), refused("SERVFAIL"));
    assert_eq!(said(&reply(&asked, RCODE::Refused, &[])), refused("REFUSED"));
    assert_eq!(said(&reply(&asked, RCODE::NameError, &[])), DnsAnswer::Nothing { named: false });
    assert_eq!(said(&empty(&asked)), DnsAnswer::Nothing { named: true });
    assert_eq!(said(&cut(&asked)), DnsAnswer::Truncated);
    assert_eq!(said(b"\0\x07\x81\x81\0\0\0\0\0\0\0\0"), refused("FORMERR"), "without the question");
}

#[test]
fn names_of_hosts_are_known_by_their_look() {
    let long = "a".repeat(64);
    let wide = vec!["abcdefghi"; 26].join(".");
    for wrong in ["", ".", "a..b", "a b", "a\\.b", "ä.test", &long, &wide] {
        assert!(!is_host_name(wrong) && question(1, wrong, RecordKind::A).is_none(), "{wrong}");
    }
    for right in ["a", "a.", "_redis.a-b.test", "10.in-addr"] {
        assert!(is_host_name(right) && question(1, right, RecordKind::A).is_some(), "{right}");
    }
}

#[test]
fn only_so_many_addresses_are_kept() {
    let (mut inquiry, attempt) = inquiry("many.test", TWO);
    let all: Vec<_> = (0..200).map(|number| a("many.test", 60, [10, 0, 0, number])).collect();
    assert_eq!(inquiry.heard(&reply(&attempt.messages[0], RCODE::NoError, &all)), InquiryStep::Waiting);
    let v6 = ResourceRecord::new(
        Name::new_unchecked("many.test"),
        CLASS::IN,
        60,
        RData::AAAA(AAAA { address: 1 }),
    );
    let last = inquiry.heard(&reply(&attempt.messages[1], RCODE::NoError, &[v6]));
    let InquiryStep::Ended(Ok((found, 60))) = last else { panic!("{last:?}") };
    assert_eq!(found.len(), ADDRESSES_MAX);
    let hidden: Vec<_> =
        (0..60).map(|_| a("other.test", 60, [9; 4])).chain([a("many.test", 60, [1; 4])]).collect();
    let hidden = reply(&attempt.messages[0], RCODE::NoError, &hidden);
    let id = u16::from_be_bytes([hidden[0], hidden[1]]);
    assert_eq!(answer(&hidden, id, "many.test", RecordKind::A), DnsAnswer::Nothing { named: true });
}

// ---- one look-up -----------------------------------------------------------------------------------------

#[test]
fn both_families_are_asked_for_at_once() {
    let (mut inquiry, attempt) = inquiry("a.test", TWO);
    let asked: Vec<_> = attempt.messages.iter().map(|message| asked_name(message)).collect();
    let of = |kind| ("a.test".to_owned(), QTYPE::TYPE(kind));
    assert_eq!(asked, [of(TYPE::A), of(TYPE::AAAA)]);
    let v6 = RData::AAAA(AAAA { address: 1 });
    let v6 = ResourceRecord::new(Name::new_unchecked("a.test"), CLASS::IN, 7, v6);
    // In the order in which they come.
    assert_eq!(inquiry.heard(&reply(&attempt.messages[1], RCODE::NoError, &[v6])), InquiryStep::Waiting);
    let last = inquiry.heard(&reply(&attempt.messages[0], RCODE::NoError, &[a("a.test", 9, [10, 0, 0, 1])]));
    assert_eq!(last, InquiryStep::Ended(Ok((ips(&["::1", "10.0.0.1"]), 7))));
}

#[test]
fn silent_servers_are_asked_in_turn_and_given_up() {
    let (mut inquiry, attempt) = inquiry("a.test", TWO);
    let mut asked = vec![(server(&attempt), inquiry.until())];
    let ended = loop {
        match inquiry.failed(None) {
            InquiryStep::Ask => asked.push((server(&inquiry.attempt(0)), inquiry.until())),
            step => break step,
        }
    };
    let both = |times| ["10.0.0.1:53", "10.0.0.2:53"].map(|server| (server.to_owned(), times * RESOLVE_TRY));
    assert_eq!(asked, [both(1), both(2), both(4)].concat());
    assert_eq!(ended, InquiryStep::Ended(Err("no answer from 10.0.0.1, 10.0.0.2".to_owned())));
}

#[test]
fn a_server_that_cannot_say_is_followed_by_the_next() {
    let (mut inquiry, attempt) = inquiry("a.test", TWO);
    assert_eq!(inquiry.heard(&empty(&attempt.messages[1])), InquiryStep::Waiting);
    let step = inquiry.heard(&reply(&attempt.messages[0], RCODE::ServerFailure, &[]));
    assert_eq!((step, inquiry.trouble()), (InquiryStep::Ask, "10.0.0.1 says SERVFAIL".to_owned()));
    let second = inquiry.attempt(0);
    assert_eq!((server(&second), second.messages.len()), ("10.0.0.2:53".to_owned(), 1), "what is open");
    let good = |asked: &[u8]| reply(asked, RCODE::NoError, &[a("a.test", 60, [10, 0, 0, 1])]);
    assert_eq!(inquiry.heard(&good(&attempt.messages[0])), InquiryStep::Waiting, "too late: another id");
    let found = InquiryStep::Ended(Ok((ips(&["10.0.0.1"]), 60)));
    assert_eq!(inquiry.heard(&good(&second.messages[0])), found);
}

/// Some servers fail a question for one family, and answer the other.
#[test]
fn what_a_server_cannot_say_is_not_held_against_what_it_can() {
    let (mut inquiry, attempt) = inquiry("a.test", TWO);
    let refused = reply(&attempt.messages[1], RCODE::ServerFailure, &[]);
    assert_eq!(inquiry.heard(&refused), InquiryStep::Waiting);
    assert_eq!(inquiry.heard(&refused), InquiryStep::Waiting, "it has said that");
    let good = reply(&attempt.messages[0], RCODE::NoError, &[a("a.test", 60, [10, 0, 0, 1])]);
    assert_eq!(inquiry.heard(&good), InquiryStep::Ended(Ok((ips(&["10.0.0.1"]), 60))));
}

/// Some servers never say that there is no address of the other family.
#[test]
fn one_family_is_not_kept_back_for_the_other() {
    let (mut inquiry, attempt) = inquiry("a.test", TWO);
    inquiry.heard(&reply(&attempt.messages[0], RCODE::NoError, &[a("a.test", 60, [10, 0, 0, 1])]));
    assert_eq!(inquiry.failed(None), InquiryStep::Ended(Ok((ips(&["10.0.0.1"]), 60))));
}

/// That there is nothing of one family says nothing of the other.
#[test]
fn silence_about_one_family_is_no_answer() {
    let (mut inquiry, attempt) = inquiry("a.test", "nameserver 10.0.0.1\noptions attempts:1");
    assert_eq!(inquiry.heard(&empty(&attempt.messages[1])), InquiryStep::Waiting);
    assert_eq!(inquiry.failed(None), InquiryStep::Ended(Err("no answer from 10.0.0.1".to_owned())));
}

#[test]
fn what_does_not_fit_is_asked_for_over_tcp() {
    let (mut inquiry, attempt) = inquiry("a.test", TWO);
    assert!(!attempt.over_tcp);
    assert_eq!(inquiry.heard(&empty(&attempt.messages[1])), InquiryStep::Waiting);
    assert_eq!(inquiry.heard(&cut(&attempt.messages[0])), InquiryStep::Ask);
    let second = inquiry.attempt(0);
    assert!(second.over_tcp && server(&second) == "10.0.0.1:53" && second.messages.len() == 1);
    assert_eq!(inquiry.heard(&cut(&second.messages[0])), InquiryStep::Ask);
    assert!(server(&inquiry.attempt(0)) == "10.0.0.2:53");
}

#[test]
fn strays_are_counted() {
    let (mut inquiry, _) = inquiry("a.test", TWO);
    for _ in 1..RESOLVE_STRAYS {
        assert_eq!(inquiry.heard(b"garbage"), InquiryStep::Waiting);
    }
    assert_eq!(inquiry.heard(RECORDED), InquiryStep::Ask);
    assert_eq!(inquiry.trouble(), "10.0.0.1 sends what was not asked for");
}

#[test]
fn domains_are_searched_as_ndots_says() {
    let conf = "nameserver 10.0.0.1\nsearch one.test two.test\noptions ndots:2 attempts:1";
    let order = |host: &str| {
        let (mut inquiry, mut attempt) = inquiry(host, conf);
        let mut names = Vec::new();
        loop {
            names.push(asked_name(&attempt.messages[0]).0);
            inquiry.heard(&reply(&attempt.messages[0], RCODE::NameError, &[]));
            match inquiry.heard(&reply(&attempt.messages[1], RCODE::NameError, &[])) {
                InquiryStep::Ask => attempt = inquiry.attempt(0),
                step => {
                    let none = Err("10.0.0.1 says that it does not exist".to_owned());
                    assert_eq!(step, InquiryStep::Ended(none));
                    return names;
                }
            }
        }
    };
    assert_eq!(order("a"), ["a.one.test", "a.two.test", "a"]);
    assert_eq!(order("a.b.c"), ["a.b.c", "a.b.c.one.test", "a.b.c.two.test"]);
    assert_eq!(order("a."), ["a"]);
}

// ---- files -----------------------------------------------------------------------------------------------

#[test]
fn the_servers_are_those_of_resolv_conf() {
    let none = servers("");
    assert_eq!((none.servers[0].to_string(), none.attempts, none.ndots), ("127.0.0.1:53".to_owned(), 3, 1));
    let text = "# none\nnameserver nonsense\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver ::1\n\
                domain a.test\nsearch . b.test.\nwrong\noptions timeout:99 attempts:9 ndots:99 rotate use-vc no-aaaa";
    let all = servers(text);
    let found: Vec<_> = all.servers.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["10.0.0.1:53", "[::1]:53"]);
    assert_eq!((all.timeout(2), all.attempts, all.ndots), (30_000, 5, 15));
    assert!(all.rotate && all.over_tcp && all.no_aaaa);
    assert_eq!(all.names("x.y")[0], "x.y.b.test");
    let first = |turn| Inquiry::new("x", Arc::clone(&all), turn).attempt(0);
    assert_ne!(first(0).server, first(1).server, "they take turns");
    assert!(first(0).over_tcp && first(0).messages.len() == 1);
}

#[test]
fn hosts_are_read_again_when_they_have_changed() {
    let directory = tempfile::tempdir().unwrap();
    let text = "10.0.0.1 db db.test # 10.0.0.9\n::2 other DB\n10.0.0.1 db\nnonsense db\n";
    let mut files = files(directory.path(), text, "", 53);
    assert_eq!(files.hosts("db"), ips(&["10.0.0.1", "::2"]));
    assert_eq!(files.hosts("Db.Test."), ips(&["10.0.0.1"]));
    assert_eq!(files.hosts("b"), ips(&[]));
    assert_eq!(files.hosts("localhost"), ips(&["127.0.0.1", "::1"]), "whatever the file says not");
    std::fs::write(directory.path().join("hosts"), "10.0.0.77 db\n").unwrap();
    assert_eq!(files.hosts("db"), ips(&["10.0.0.77"]));
    std::fs::remove_file(directory.path().join("hosts")).unwrap();
    assert_eq!(files.hosts("db"), ips(&[]));
}

/// Somebody's pipe in the place of a file would never be read to its end.
#[test]
fn only_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert_eq!(NameFiles::at(&path, &path, 53).hosts("db"), ips(&[]));
    let mut writer = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    writer.write_all(b"10.0.0.1 db\n").unwrap();
    assert_eq!(NameFiles::at(&path, &path, 53).hosts("db"), ips(&[]));
}

// ---- what is known ---------------------------------------------------------------------------------------

fn known(addresses: &[&str], seconds: u32, now: Millis) -> KnownName {
    let mut known = KnownName::default();
    assert!(known.begin_if_due(now));
    known.learn("a.test", 7, Ok((ips(addresses), seconds)), now);
    known
}

fn order(known: &KnownName) -> Vec<String> {
    known.addresses().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn a_name_is_asked_for_when_that_is_due() {
    let mut known = known(&["10.0.0.1"], 60, 0);
    assert!(!known.begin_if_due(59_999), "it holds");
    assert!(known.begin_if_due(60_000));
    known.doubt();
    assert!(!known.begin_if_due(60_000 + RESOLVE_INTERVAL - 1), "not so soon");
    assert!(known.begin_if_due(60_000 + RESOLVE_INTERVAL));
    known.learn("a.test", 7, Ok((ips(&["10.0.0.1"]), 60)), 70_000);
    assert_eq!(known.due(), None);
    known.blame("10.0.0.1:7".parse().unwrap());
    assert_eq!(known.due(), Some(60_000 + 2 * RESOLVE_INTERVAL), "in doubt it is looked up by itself");
    assert!(known.begin_if_due(70_000));
    let mut unknown = KnownName::default();
    assert!(unknown.begin_if_due(0) && !unknown.begin_if_due(RESOLVE_INTERVAL - 1));
    unknown.learn("a.test", 7, Err("no".to_owned()), 0);
    assert!(unknown.begin_if_due(RESOLVE_INTERVAL) && unknown.refusal() == "no");
}

#[test]
fn an_address_that_works_is_kept_and_one_that_fails_is_not() {
    let mut known = known(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], 0, 0);
    let gone = "10.0.0.1:7".parse().unwrap();
    known.blame(gone);
    known.blame(gone);
    assert_eq!(order(&known), ["10.0.0.2:7", "10.0.0.3:7", "10.0.0.1:7"], "blamed once, not twice");
    known.learn("a.test", 7, Err("no network".to_owned()), 1);
    assert_eq!(order(&known)[0], "10.0.0.2:7", "the old answer outlives a failure");
    known.learn("a.test", 7, Ok((ips(&["10.0.0.9", "10.0.0.2"]), 0)), 2);
    assert_eq!(order(&known), ["10.0.0.2:7", "10.0.0.9:7"], "what works is kept");
    known.learn("a.test", 7, Ok((ips(&["10.0.0.9"]), 0)), 3);
    assert_eq!(order(&known), ["10.0.0.9:7"]);
}

#[test]
fn what_no_route_leads_to_comes_last() {
    let all = || ips(&["10.0.0.1", "fd00::1", "2001:db8::1", "10.0.0.2"]);
    assert_eq!(by_route(all(), |_| true), ips(&["2001:db8::1", "10.0.0.1", "10.0.0.2", "fd00::1"]));
    let only_v4 = by_route(all(), |ip| ip.is_ipv4());
    assert_eq!(only_v4, ips(&["10.0.0.1", "10.0.0.2", "fd00::1", "2001:db8::1"]));
}

// ---- over sockets ----------------------------------------------------------------------------------------

/// A loop around a resolver, and the sockets of its name server, which the test answers by itself.
struct Bench {
    poll: Poll,
    resolver: Resolver,
    clock: Clock,
    udp: UdpSocket,
    tcp: TcpListener,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(hosts: &str) -> Bench {
        let (udp, tcp) = std::iter::repeat_with(|| {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            let tcp = TcpListener::bind(udp.local_addr().unwrap());
            tcp.map(|tcp| (udp, tcp))
        })
        .find_map(Result::ok)
        .unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let port = udp.local_addr().unwrap().port();
        let files =
            files(directory.path(), hosts, "nameserver 127.0.0.1\noptions timeout:1 attempts:2", port);
        let resolver = Resolver { files, ..Resolver::default() };
        Bench { poll: Poll::new().unwrap(), resolver, clock: Clock::new(), udp, tcp, _directory: directory }
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn find(&mut self, target: &Destination) -> Found {
        self.resolver.find(target, self.now(), self.poll.registry())
    }

    /// Turns until a look-up has ended.
    fn turn(&mut self) -> EndedLookUp {
        let mut events = Events::with_capacity(8);
        loop {
            if let Some(ended) = self.resolver.take() {
                return ended;
            }
            let wait = self.resolver.timeout(self.now()).expect("something is under way");
            self.poll.poll(&mut events, Some(Duration::from_millis(wait))).unwrap();
            let now = self.now();
            for event in &events {
                assert!(Resolver::owns(event.token()));
                self.resolver.event(event.token(), now, self.poll.registry());
            }
            self.resolver.advance(now, self.poll.registry());
        }
    }

    /// Answers each of the next `count` questions.
    fn answer(&self, count: usize, words: impl Fn(&[u8]) -> Vec<u8>) {
        let mut bytes = [0; 512];
        for _ in 0..count {
            let (length, from) = self.udp.recv_from(&mut bytes).unwrap();
            self.udp.send_to(&words(&bytes[..length]), from).unwrap();
        }
    }
}

fn named(host: &str, port: u16) -> Destination {
    Destination::from(&Address::Tcp { host: host.to_owned(), port })
}

/// With an address of version 4 for any name.
fn one(asked: &[u8]) -> Vec<u8> {
    let (name, kind) = asked_name(asked);
    let records = [a(&name, 60, [127, 0, 0, 9])];
    reply(asked, RCODE::NoError, if kind == QTYPE::TYPE(TYPE::A) { &records } else { &[] })
}

#[test]
fn numbers_and_hosts_are_known_at_once() {
    let mut bench = Bench::new("10.0.0.1 db\n");
    for (host, shown) in [("127.0.0.1", "127.0.0.1:7"), ("::1", "[::1]:7"), ("db", "10.0.0.1:7")] {
        let target = named(host, 7);
        assert_eq!(bench.find(&target), Found::Tcp([shown.parse().unwrap()].into()));
        assert_eq!(bench.resolver.url(&target), Some(format!("tcp://{shown}")));
    }
    assert_eq!(bench.resolver.timeout(0), None);
    let wrong = "cannot look up a b: it is no name of a host".to_owned();
    assert_eq!(bench.find(&named("a b", 7)), Found::Nowhere(wrong));
}

#[test]
fn several_names_are_looked_up_at_once() {
    let mut bench = Bench::new("");
    let targets = [named("a.test", 1), named("b.test", 2), named("a.test", 3)];
    for target in &targets {
        assert_eq!((bench.find(target), bench.find(target)), (Found::Later, Found::Later));
        assert_eq!(bench.resolver.url(target), None);
    }
    bench.answer(6, one);
    let ended: Vec<_> = targets.iter().map(|_| bench.turn()).collect();
    for (target, port) in targets.iter().zip([1, 2, 3]) {
        assert!(ended.contains(&EndedLookUp { target: target.clone(), outcome: Ok(()) }), "{ended:?}");
        assert_eq!(bench.find(target), Found::Tcp([SocketAddr::from(([127, 0, 0, 9], port))].into()));
    }
    assert_eq!(bench.resolver.timeout(0), None);
    bench.resolver.forget(&targets[0], bench.poll.registry());
    assert_eq!(bench.find(&targets[0]), Found::Later, "what was known is forgotten");
    bench.resolver.close(bench.poll.registry());
    assert_eq!(bench.resolver.timeout(0), None);
}

#[test]
fn a_server_that_is_silent_once_is_asked_again() {
    let mut bench = Bench::new("");
    let target = named("a.test", 7);
    assert_eq!(bench.find(&target), Found::Later);
    bench.udp.recv(&mut [0; 512]).unwrap();
    bench.udp.recv(&mut [0; 512]).unwrap();
    let silent = format!("cannot look up a.test: no answer from {}", bench.udp.local_addr().unwrap());
    assert_eq!(bench.resolver.why(&target), silent);
    std::thread::scope(|scope| {
        let udp = bench.udp.try_clone().unwrap();
        scope.spawn(move || {
            let mut bytes = [0; 512];
            for _ in 0..2 {
                let (length, from) = udp.recv_from(&mut bytes).unwrap();
                udp.send_to(&one(&bytes[..length]), from).unwrap();
            }
        });
        assert_eq!(bench.turn().outcome, Ok(()));
    });
}

#[test]
fn silence_is_an_end_too() {
    let mut bench = Bench::new("");
    let target = named("a.test", 7);
    bench.find(&target);
    let silent = format!("cannot look up a.test: no answer from {}", bench.udp.local_addr().unwrap());
    assert_eq!(bench.turn().outcome, Err(silent.clone()));
    assert!(bench.now() >= 2000, "two attempts of a second each");
    // It was begun long ago, so this begins another.
    assert_eq!(bench.find(&target), Found::Later);
    assert_eq!(bench.resolver.why(&target), silent);
}

#[test]
fn long_answers_come_over_tcp() {
    let mut bench = Bench::new("");
    let target = named("a.test", 7);
    bench.find(&target);
    bench.answer(2, cut);
    std::thread::scope(|scope| {
        let tcp = bench.tcp.try_clone().unwrap();
        scope.spawn(move || {
            let (mut stream, _) = tcp.accept().unwrap();
            let mut answers = Vec::new();
            for _ in 0..2 {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut asked = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut asked).unwrap();
                let answer = one(&asked);
                answers.push([&(answer.len() as u16).to_be_bytes()[..], &answer].concat());
            }
            // The one without addresses is first.
            let answers = [answers.remove(1), answers.remove(0)].concat();
            // Half a length, then all the rest at once.
            stream.set_nodelay(true).unwrap();
            stream.write_all(&answers[..1]).unwrap();
            stream.write_all(&answers[1..]).unwrap();
        });
        assert_eq!(bench.turn().outcome, Ok(()));
    });
    assert!(matches!(bench.find(&target), Found::Tcp(_)));
}

#[test]
fn a_server_that_refuses_is_named() {
    let mut bench = Bench::new("");
    let at = bench.udp.local_addr().unwrap();
    // Nobody listens there any more.
    bench.udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = named("a.test", 7);
    let outcome = match bench.find(&target) {
        Found::Nowhere(why) => why,
        _ => bench.turn().outcome.unwrap_err(),
    };
    assert!(outcome.starts_with(&format!("cannot look up a.test: {at} cannot be asked: ")), "{outcome}");
}

#[test]
fn only_so_many_names_are_kept() {
    let mut bench = Bench::new("");
    let lines: String = (0..=NAMES_MAX).map(|number| format!("10.0.0.1 n{number}\n")).collect();
    bench.resolver.files = files(bench._directory.path(), &lines, "", 53);
    for number in 0..NAMES_MAX {
        assert!(matches!(bench.find(&named(&format!("n{number}"), 7)), Found::Tcp(_)));
    }
    let last = named(&format!("n{NAMES_MAX}"), 7);
    assert!(matches!(bench.find(&last), Found::Nowhere(why) if why.contains("64 other names")));
    bench.resolver.forget(&named("n3", 7), bench.poll.registry());
    assert!(matches!(bench.find(&last), Found::Tcp(_)));
}
