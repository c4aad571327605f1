//! The words of DNS: how a question is written, and what a message says in answer to one. Owns no state; any bytes are an
//! answer to the question, or none.

use crate::base::limits::ADDRESSES_MAX;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord, TYPE};
use std::net::IpAddr;

/// The longest message that is read. An answer with all addresses that are kept is far below; what a message costs to read
/// grows with the square of its length.
pub(super) const MESSAGE_MAX: usize = 16 * 1024;
/// Records of an answer that are looked at: all addresses that are kept, and the aliases before them.
const RECORDS_MAX: u16 = (ADDRESSES_MAX + ALIASES_MAX) as u16;
/// Aliases (CNAME) between a name and its addresses.
const ALIASES_MAX: usize = 16;

const HEAD: usize = 12;
const IS_ANSWER: u8 = 0x80;
const OPCODE: u8 = 0x78;
const IS_TRUNCATED: u8 = 0x02;
const ANSWERS_AT: std::ops::Range<usize> = 6..8;
const BEHIND_ANSWERS: std::ops::Range<usize> = 8..12;

/// Which addresses a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    A,
    Aaaa,
}

/// What a message says about one question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DnsAnswer {
    /// Nothing: it answers another question, or is no message.
    Stray,
    /// The answer is too long for a datagram.
    Truncated,
    /// The addresses, at least one, and how many seconds they hold.
    Addresses(Vec<IpAddr>, u32),
    /// There are no such addresses; or not even the name.
    Nothing { named: bool },
    /// The server does not say, with its words.
    Refused(String),
}

/// Whether this may be the name of a host, as far as DNS is concerned.
pub(super) fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(fits)
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

/// The message that asks for the addresses of `host`; none if that is no name.
pub(super) fn question(id: u16, host: &str, kind: RecordKind) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(host).ok().filter(|_| is_host_name(host))?;
    packet.questions.push(Question::new(name, kind.asked(), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().ok()
}

/// What the message says in answer to that question.
pub(super) fn answer(message: &[u8], id: u16, host: &str, kind: RecordKind) -> DnsAnswer {
    let Some(head) = message.get(..HEAD).filter(|_| message.len() <= MESSAGE_MAX) else {
        return DnsAnswer::Stray;
    };
    let is_ours = head[..2] == id.to_be_bytes() && head[2] & IS_ANSWER != 0 && head[2] & OPCODE == 0;
    let (truncated, code) = (head[2] & IS_TRUNCATED != 0, head[3] & 0x0f);
    if !is_ours {
        return DnsAnswer::Stray;
    }
    let is_failure = !matches!(code, 0 | 3);
    // Some servers fail a question without repeating it.
    if is_failure && head[4..6] == [0, 0] {
        return DnsAnswer::Refused(code_name(code));
    }
    let mut shortened = message.to_vec();
    let answers =
        if truncated || is_failure { 0 } else { u16::from_be_bytes([head[6], head[7]]).min(RECORDS_MAX) };
    shortened[ANSWERS_AT].copy_from_slice(&answers.to_be_bytes());
    shortened[BEHIND_ANSWERS].fill(0);
    // Room is made for as many questions as the head names.
    let asks_once = head[4..6] == [0, 1];
    let (Some(packet), Ok(name)) =
        (asks_once.then(|| Packet::parse(&shortened).ok()).flatten(), Name::new(host))
    else {
        return DnsAnswer::Stray;
    };
    let is_same = |question: &Question<'_>| {
        question.qname == name
            && question.qtype == kind.asked()
            && question.qclass == QCLASS::CLASS(CLASS::IN)
    };
    match code {
        _ if !packet.questions.first().is_some_and(is_same) => DnsAnswer::Stray,
        _ if is_failure => DnsAnswer::Refused(code_name(code)),
        _ if truncated => DnsAnswer::Truncated,
        3 => DnsAnswer::Nothing { named: false },
        _ => addresses(&packet.answers, &name, kind),
    }
}

/// Follows the aliases from `name` to its addresses.
fn addresses(records: &[ResourceRecord<'_>], name: &Name<'_>, kind: RecordKind) -> DnsAnswer {
    let (mut name, mut ttl) = (name, u32::MAX);
    for _ in 0..=ALIASES_MAX {
        let own = || records.iter().filter(|record| record.class == CLASS::IN && record.name == *name);
        let found: Vec<_> = own().filter_map(|record| Some((kind.address(record)?, record.ttl))).collect();
        if let Some(shortest) = found.iter().map(|(_, ttl)| *ttl).min() {
            let addresses = found.into_iter().map(|(address, _)| address).take(ADDRESSES_MAX).collect();
            return DnsAnswer::Addresses(addresses, ttl.min(shortest));
        }
        let alias = own().find_map(|record| match &record.rdata {
            RData::CNAME(alias) => Some((&alias.0, record.ttl)),
            _ => None,
        });
        let Some((alias, holds)) = alias else { return DnsAnswer::Nothing { named: true } };
        (name, ttl) = (alias, ttl.min(holds));
    }
    DnsAnswer::Refused("a chain of aliases without an end".to_owned())
}

impl RecordKind {
    fn asked(self) -> QTYPE {
        QTYPE::TYPE(match self {
            RecordKind::A => TYPE::A,
            RecordKind::Aaaa => TYPE::AAAA,
        })
    }

    fn address(self, record: &ResourceRecord<'_>) -> Option<IpAddr> {
        match (self, &record.rdata) {
            (RecordKind::A, RData::A(a)) => Some(IpAddr::V4(a.address.into())),
            (RecordKind::Aaaa, RData::AAAA(aaaa)) => Some(IpAddr::V6(aaaa.address.into())),
            _ => None,
        }
    }
}

fn code_name(code: u8) -> String {
    match code {
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        other => format!("code {other}"),
    }
}
