//! One sentinel and the connection to it: how it is greeted, what it is asked, what it says of the master. No I/O and no
//! clock. Never whom to believe: that is `sentinels`.

use crate::base::bytes::Spares;
use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::endpoint::{Address, WatchedMaster};
use crate::resp::{Inbox, ReplyScanner, SharedScanner, encode, reply, value};
use redis::Value;
use std::collections::VecDeque;
use zeroize::Zeroizing;

/// What a reply is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SentinelQuestion {
    Hello,
    /// CLIENT SETNAME; any reply.
    Name,
    /// SENTINEL MYID. Sentinels before 6.2 refuse it, and so may rights.
    Id,
    /// SENTINEL MASTER.
    Master,
    /// SENTINEL SENTINELS.
    Others,
    /// SENTINEL REPLICAS.
    Replicas,
    /// SUBSCRIBE. It is confirmed by pushes, and refused as anything else is.
    Events,
}

/// Where its connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contact {
    /// There is none before this time.
    Resting { until: Millis },
    /// It is being made, until this time at the latest.
    Dialling { until: Millis },
    /// It stands; `greeted` once HELLO has been answered. The driver's handle.
    Up { link: usize, greeted: bool },
}

/// What a sentinel says of the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MasterClaim {
    /// Only ever raised, by a vote of the sentinels.
    pub(super) epoch: u64,
    pub(super) address: Address,
}

/// What came of bytes that a sentinel has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SentinelNews {
    /// It has told who the master is.
    Master,
    /// It is carrying out a failover. Until that is done it names the former master, but with the new epoch, once there is one.
    UnderWay(MasterClaim),
    /// Other sentinels that it knows.
    Others(Vec<NamedSentinel>),
    /// Replicas of the master that can be read from.
    Replicas(Vec<Address>),
    /// The master may be another one: all are asked.
    MayHaveSwitched,
}

/// A sentinel that another one knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NamedSentinel {
    pub(super) address: Address,
    pub(super) run_id: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Sentinel {
    pub(super) address: Address,
    /// Who it is, at whatever address; as it said on its last connection, or as the one said that named it.
    pub(super) run_id: Option<String>,
    /// It stands in the URL, and is never given up.
    pub(super) is_seed: bool,
    /// When another one named it last.
    pub(super) named_at: Millis,
    pub(super) contact: Contact,
    failures: u32,
    /// Has its password in it, at first.
    out: Zeroizing<Vec<u8>>,
    inbox: Inbox<ReplyScanner>,
    asked: VecDeque<SentinelQuestion>,
    /// Since when its oldest question has had no answer.
    unanswered_since: Millis,
    /// It tells of a new master by itself. One whose user may not subscribe has to be asked.
    hears_events: bool,
    /// When it was last asked for the master.
    pub(super) asked_at: Millis,
    /// What it has said on the present connection; on the last one, where there is none.
    pub(super) claim: Option<MasterClaim>,
    heard_at: Option<Millis>,
    /// Why there is no connection, or what it cannot say.
    trouble: String,
}

impl Sentinel {
    pub(super) fn new(address: Address, is_seed: bool, now: Millis) -> Sentinel {
        Sentinel {
            address,
            run_id: None,
            is_seed,
            named_at: now,
            contact: Contact::Resting { until: now },
            failures: 0,
            out: Zeroizing::new(Vec::new()),
            inbox: Inbox::default(),
            asked: VecDeque::new(),
            unanswered_since: now,
            hears_events: false,
            asked_at: 0,
            claim: None,
            heard_at: None,
            trouble: String::new(),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn is_seed(&self) -> bool {
        self.is_seed
    }

    /// Where its connection stands, in a word.
    pub(crate) fn state(&self) -> &'static str {
        match self.contact {
            Contact::Resting { .. } => "down",
            Contact::Dialling { .. } | Contact::Up { greeted: false, .. } => "connecting",
            Contact::Up { greeted: true, .. } => "up",
        }
    }

    /// Where the master is, by what it said last, and the epoch of that.
    pub(crate) fn claim(&self) -> Option<(&Address, u64)> {
        self.claim.as_ref().map(|claim| (&claim.address, claim.epoch))
    }

    pub(crate) fn heard_at(&self) -> Option<Millis> {
        self.heard_at
    }

    pub(crate) fn trouble(&self) -> &str {
        &self.trouble
    }

    /// Whether both are the same sentinel, known by two addresses.
    pub(super) fn is_same_as(&self, run_id: Option<&str>) -> bool {
        run_id.is_some() && self.run_id.as_deref() == run_id
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.contact, Contact::Up { greeted: true, .. })
    }

    pub(super) fn hears_events(&self) -> bool {
        self.hears_events
    }

    pub(super) fn link(&self) -> Option<usize> {
        if let Contact::Up { link, .. } = self.contact { Some(link) } else { None }
    }

    /// Its connection stands. Greets it, listens to its events and asks all that is asked.
    pub(super) fn connected(&mut self, link: usize, watched: &WatchedMaster, now: Millis) {
        self.contact = Contact::Up { link, greeted: false };
        (self.out, self.asked) = (Zeroizing::new(Vec::with_capacity(1024)), VecDeque::new());
        (self.run_id, self.claim, self.hears_events) = (None, None, false);
        self.inbox.clear();
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = &watched.password {
            let user = watched.username.as_deref().unwrap_or("default");
            hello.extend([&b"AUTH"[..], user.as_bytes(), password.expose().as_bytes()]);
        }
        self.ask(SentinelQuestion::Hello, &hello, now);
        self.ask(SentinelQuestion::Name, &[b"CLIENT", b"SETNAME", b"broker-watch"], now);
        self.ask(SentinelQuestion::Id, &[b"SENTINEL", b"MYID"], now);
        self.ask(SentinelQuestion::Events, &[b"SUBSCRIBE", b"+switch-master", b"+reboot"], now);
        self.ask_master(&watched.name, now);
        self.ask_others(&watched.name, now);
    }

    fn ask(&mut self, question: SentinelQuestion, request: &[&[u8]], now: Millis) {
        if self.asked.is_empty() {
            self.unanswered_since = now;
        }
        encode::request(&mut self.out, request);
        self.asked.push_back(question);
    }

    /// Once at a time: the answer would be the same.
    pub(super) fn ask_master(&mut self, master: &str, now: Millis) {
        if !self.asked.contains(&SentinelQuestion::Master) {
            self.asked_at = now;
            self.ask(SentinelQuestion::Master, &[b"SENTINEL", b"MASTER", master.as_bytes()], now);
        }
    }

    /// The same.
    pub(super) fn ask_replicas(&mut self, master: &str, now: Millis) {
        if !self.asked.contains(&SentinelQuestion::Replicas) {
            self.ask(SentinelQuestion::Replicas, &[b"SENTINEL", b"REPLICAS", master.as_bytes()], now);
        }
    }

    /// The same.
    pub(super) fn ask_others(&mut self, master: &str, now: Millis) {
        if !self.asked.contains(&SentinelQuestion::Others) {
            self.ask(SentinelQuestion::Others, &[b"SENTINEL", b"SENTINELS", master.as_bytes()], now);
        }
    }

    pub(super) fn outgoing(&self) -> Option<(usize, &[u8])> {
        Some((self.link()?, &self.out))
    }

    pub(super) fn wrote(&mut self, count: usize) {
        let count = count.min(self.out.len());
        self.out.drain(..count);
    }

    /// It has no connection any more, for this reason, and another after a while.
    pub(super) fn lost(&mut self, why: &str, now: Millis) {
        if self.is_up() {
            self.failures = 0;
            // It was there until now, whoever has named it when.
            self.named_at = now;
        }
        self.trouble = why.chars().take(limits::SENTINEL_WORDS).collect();
        let pause = (limits::BACKOFF_FIRST << self.failures.min(16)).min(limits::SENTINEL_BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.contact = Contact::Resting { until: now + pause };
        (self.out, self.asked) = (Zeroizing::new(Vec::new()), VecDeque::new());
        self.inbox.clear();
    }

    /// When something is due about it, where it is asked for the master each `pause`.
    pub(super) fn due(&self, pause: Millis) -> Millis {
        match self.contact {
            Contact::Resting { until } | Contact::Dialling { until } => until,
            Contact::Up { .. } => {
                let silent = self.unanswered_since + limits::SENTINEL_PATIENCE;
                let silent = if self.asked.is_empty() { Millis::MAX } else { silent };
                let waits = !self.is_up() || self.asked.contains(&SentinelQuestion::Master);
                if waits { silent } else { silent.min(self.asked_at + pause) }
            }
        }
    }

    /// Whether it has been asked something and says nothing.
    pub(super) fn is_silent(&self, now: Millis) -> bool {
        self.link().is_some()
            && !self.asked.is_empty()
            && now >= self.unanswered_since + limits::SENTINEL_PATIENCE
    }

    /// Bytes have come. The error is why the connection is given up.
    pub(super) fn input(
        &mut self,
        bytes: &[u8],
        master: &str,
        scanner: &mut SharedScanner<ReplyScanner>,
        now: Millis,
    ) -> Result<Vec<SentinelNews>, String> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let mut frames = inbox.begin(bytes, scanner);
        let (mut news, mut outcome) = (Vec::new(), Ok(()));
        while outcome.is_ok() && !frames.rest().is_empty() {
            match frames.next_reply() {
                None => break,
                Some(Err(why)) => outcome = Err(why.to_owned()),
                Some(Ok((frame, b'>'))) => {
                    self.note_confirmed(now);
                    news.extend(event(frame, master));
                }
                Some(Ok((frame, _))) => match self.answered(frame, now) {
                    Ok(heard) => news.extend(heard),
                    Err(why) => outcome = Err(why),
                },
            }
        }
        inbox.end(frames, scanner, &mut Spares::default());
        if inbox.len() > limits::SENTINEL_REPLY {
            outcome = Err("its reply is too long".to_owned());
        }
        self.inbox = inbox;
        outcome.map(|()| news)
    }

    /// A push has come: there is none before SUBSCRIBE has been confirmed.
    fn note_confirmed(&mut self, now: Millis) {
        if self.asked.front() == Some(&SentinelQuestion::Events) {
            self.asked.pop_front();
            (self.unanswered_since, self.hears_events) = (now, true);
        }
    }

    fn answered(&mut self, frame: &[u8], now: Millis) -> Result<Option<SentinelNews>, String> {
        let question = self.asked.pop_front().ok_or("a reply to nothing")?;
        self.unanswered_since = now;
        let refusal = reply::error_text(frame);
        match (question, refusal) {
            (SentinelQuestion::Hello, Some(text)) => return Err(format!("HELLO was answered with: {text}")),
            (SentinelQuestion::Hello, None) => self.greeted(frame)?,
            (SentinelQuestion::Name, _) => {}
            (SentinelQuestion::Id, _) => {
                self.run_id = value::parse(frame).and_then(|id| value::text(&id)).and_then(sound_id);
            }
            (SentinelQuestion::Master, Some(text)) => {
                self.trouble = text.chars().take(limits::SENTINEL_WORDS).collect()
            }
            (SentinelQuestion::Master, None) => {
                let (claim, is_under_way) = claim_of(frame).ok_or("it has not said where the master is")?;
                self.heard_at = Some(now);
                self.trouble.clear();
                if is_under_way {
                    return Ok(Some(SentinelNews::UnderWay(claim)));
                }
                self.claim = Some(claim);
                return Ok(Some(SentinelNews::Master));
            }
            (SentinelQuestion::Events, Some(text)) => {
                log::warn!("sentinel {} tells no events, and is only asked: {text}", self.address);
            }
            (SentinelQuestion::Events, None) => return Err("SUBSCRIBE was answered with a reply".to_owned()),
            (SentinelQuestion::Others | SentinelQuestion::Replicas, Some(_)) => {}
            (SentinelQuestion::Replicas, None) => {
                return Ok(Some(SentinelNews::Replicas(sound_replicas_of(frame))));
            }
            (SentinelQuestion::Others, None) => return Ok(Some(SentinelNews::Others(others_of(frame)))),
        }
        Ok(None)
    }

    fn greeted(&mut self, frame: &[u8]) -> Result<(), String> {
        let pairs = value::parse(frame).and_then(value::pairs).ok_or("HELLO was not answered with a map")?;
        match field(&pairs, "mode").as_deref() {
            Some("sentinel") => {}
            mode => return Err(format!("it is no sentinel: its mode is {}", mode.unwrap_or("unknown"))),
        }
        if let Contact::Up { greeted, .. } = &mut self.contact {
            *greeted = true;
        }
        self.failures = 0;
        Ok(())
    }
}

fn field(pairs: &[(Value, Value)], name: &str) -> Option<String> {
    let found = pairs.iter().find(|(key, _)| value::text(key).is_some_and(|key| key == name))?;
    value::text(&found.1)
}

fn address_of(pairs: &[(Value, Value)]) -> Option<Address> {
    let (host, port) = (field(pairs, "ip")?, field(pairs, "port")?.parse().ok()?);
    let is_whole = !host.is_empty() && host.len() <= limits::SENTINEL_WORDS && port != 0;
    is_whole.then_some(Address::Tcp { host, port })
}

/// What it says of the master, and whether it is carrying out a failover itself.
fn claim_of(frame: &[u8]) -> Option<(MasterClaim, bool)> {
    let pairs = value::parse(frame).and_then(value::pairs)?;
    let is_under_way = field(&pairs, "flags")
        .is_some_and(|flags| flags.split(',').any(|flag| flag == "failover_in_progress"));
    let epoch = field(&pairs, "config-epoch")?.parse().ok()?;
    Some((MasterClaim { epoch, address: address_of(&pairs)? }, is_under_way))
}

fn sound_id(id: String) -> Option<String> {
    (!id.is_empty() && id.len() <= limits::SENTINEL_WORDS).then_some(id)
}

fn others_of(frame: &[u8]) -> Vec<NamedSentinel> {
    let Some(Value::Array(items)) = value::parse(frame) else { return Vec::new() };
    let found = items.into_iter().filter_map(|item| {
        let pairs = value::pairs(item)?;
        Some(NamedSentinel {
            address: address_of(&pairs)?,
            run_id: field(&pairs, "runid").and_then(sound_id),
        })
    });
    found.take(limits::SENTINELS_MAX).collect()
}

/// Those of which nothing is known that keeps them from answering as the master would have a moment ago.
fn sound_replicas_of(frame: &[u8]) -> Vec<Address> {
    let Some(Value::Array(items)) = value::parse(frame) else { return Vec::new() };
    let sound = items.into_iter().filter_map(|item| {
        let pairs = value::pairs(item)?;
        let is_bad = |flag: &str| matches!(flag, "s_down" | "o_down" | "disconnected" | "master");
        let is_bad = field(&pairs, "flags")?.split(',').any(is_bad);
        let follows = field(&pairs, "master-link-status").is_some_and(|status| status == "ok");
        address_of(&pairs).filter(|_| follows && !is_bad)
    });
    sound.take(limits::REPLICAS_MAX).collect()
}

/// An event of this master. Of a sentinel's own restart it says whose it is in another place.
fn event(frame: &[u8], master: &str) -> Option<SentinelNews> {
    let parts = match value::parse(frame)? {
        Value::Push { data, .. } => data,
        Value::Array(parts) => parts,
        _ => return None,
    };
    let [channel, text] = [parts.len().checked_sub(2)?, parts.len() - 1].map(|at| value::text(&parts[at]));
    let text = text?;
    let mut words = text.split(' ');
    let is_meant = match channel?.as_str() {
        "+switch-master" => words.next() == Some(master),
        "+reboot" => words.nth(1) == Some(master),
        _ => false,
    };
    is_meant.then_some(SentinelNews::MayHaveSwitched)
}

#[cfg(test)]
impl Sentinel {
    pub(super) fn is_asked_for_master(&self) -> bool {
        self.asked.contains(&SentinelQuestion::Master)
    }

    pub(super) fn is_asked_for_others(&self) -> bool {
        self.asked.contains(&SentinelQuestion::Others)
    }
}
