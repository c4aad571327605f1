//! What one child has asked and what it may be told: an independent account of the protocol from the side
//! of whoever waits for replies. Each reply is judged the moment it arrives.

use super::asking::POP_TIMEOUT;
use super::generator::{Answer, Request};
use super::ledger::{Ledger, Nonce};
use super::redis::matches;
use super::reply::{Reply, parse};
use super::truth::Reason;
use super::weather::reason_of;
use super::wire::shown;
use super::{broken, holds, trace};
use crate::base::clock::Millis;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Clone)]
struct Asked {
    request: Request,
    /// By which its execution is known.
    nonce: Option<Nonce>,
    /// Messages published when it was sent.
    sent_at: usize,
    /// When it was sent, by what has changed at the server and in milliseconds.
    moment: u64,
    at: Millis,
    confirmed: usize,
}

impl Asked {
    fn is(&self, any: &[Answer]) -> bool {
        any.contains(&self.request.answer)
    }

    fn is_subscription(&self) -> bool {
        matches!(self.request.answer, Answer::Confirmations { .. })
    }

    /// Redis executes these inside MULTI at once.
    fn is_at_once(&self) -> bool {
        let any = [Answer::Multi, Answer::Exec, Answer::Discard, Answer::Watch, Answer::Reset, Answer::Quit];
        self.is(&any)
    }

    /// Whether a RESP2 subscriber may send it.
    fn fits_subscriber(&self) -> bool {
        let wrong = matches!(self.request.answer, Answer::Error(_));
        wrong || self.is_subscription() || self.is(&[Answer::Pong, Answer::Reset, Answer::Quit])
    }

    /// Whether watched keys are no longer watched after it, whatever it was answered.
    fn ends_watch(&self) -> bool {
        self.is(&[Answer::Exec, Answer::Discard, Answer::Unwatch, Answer::Reset])
    }

    fn shown(&self) -> String {
        shown(&self.request.argv)
    }

    /// The number said for `$what`.
    fn number(&self, what: &str) -> u32 {
        let number = self.request.said(what).and_then(|said| std::str::from_utf8(said).ok()?.parse().ok());
        number.expect("a number")
    }
}

#[derive(Debug, Default)]
struct Open {
    /// Its MULTI.
    begun: Option<Asked>,
    queued: Vec<Asked>,
    spoilt: bool,
}

impl Open {
    fn nonces(&self) -> impl Iterator<Item = Nonce> {
        self.queued.iter().filter_map(|asked| asked.nonce)
    }
}

#[derive(Debug)]
struct Watched {
    nonce: Nonce,
    key: Vec<u8>,
    db: u32,
    /// It is watched no more, perhaps.
    doubtful: bool,
}

#[derive(Debug)]
struct Subscription {
    /// Messages published when it was asked for, and when it was confirmed.
    asked: usize,
    confirmed: usize,
    /// Behind the last message received.
    next: Option<usize>,
}

impl Subscription {
    /// A message that should have come before the one at `end`. What was published before the confirmation came may
    /// have been before the subscription.
    fn missed(
        &self,
        ledger: &Ledger,
        (server, end): (usize, usize),
        family: usize,
        name: &[u8],
    ) -> Option<String> {
        let due = self.next.unwrap_or(self.confirmed);
        let is_its = |at: &usize| ledger.published[*at].server == server;
        let missed = (due..end).filter(is_its).find(|at| concerns(ledger, *at, family, name));
        missed.map(|at| ledger.published[at].nonce.to_string())
    }
}

#[derive(Default)]
pub(super) struct Script {
    pub(super) child: usize,
    /// As whom its requests are executed.
    user: &'static str,
    number: u32,
    transaction: u32,
    asked: VecDeque<Asked>,
    buffer: Vec<u8>,
    pub(super) db: u32,
    pub(super) proto: u8,
    name: Vec<u8>,
    open: Option<Open>,
    watched: Vec<Watched>,
    subscriptions: [BTreeMap<Vec<u8>, Subscription>; 3],
    /// Blocks of which all or nothing must have been executed.
    blocks: Vec<Vec<Nonce>>,
    /// What it had asked for when it was closed since something was lost.
    forsaken: Vec<Nonce>,
    /// Blocking pops that got no answer worth anything: an element may be lost with each.
    pub(super) lost_pops: usize,
    /// It has done something for which it may be closed.
    pub(super) may_close: bool,
    /// It cannot know whether it is still subscribed, and goes.
    pub(super) gives_up: bool,
    pub(super) error: Option<String>,
    /// It has left replies lying: what it is told may be old.
    pub(super) dawdles: bool,
    /// When it was told something last: what it is told next may have been decided before, and have stood behind that.
    told: u64,
}

impl Script {
    pub(super) fn new(child: usize, user: &'static str) -> Script {
        Script { child, user, proto: 2, ..Script::default() }
    }

    pub(super) fn is_answered(&self) -> bool {
        // One that has lost track of what is owed to it hangs up, and is owed nothing.
        self.gives_up || (self.asked.is_empty() && self.buffer.is_empty())
    }

    pub(super) fn waits_for(&self) -> Option<String> {
        self.asked.front().map(Asked::shown)
    }

    /// A nonce for the next request, which belongs to the transaction being sent.
    pub(super) fn nonce(&mut self, ledger: &mut Ledger) -> Nonce {
        self.number += 1;
        let nonce = Nonce::new(self.child, self.number);
        ledger.transactions.insert(nonce, self.transaction);
        nonce
    }

    pub(super) fn asks(&mut self, request: Request, nonce: Option<Nonce>, ledger: &Ledger) {
        let (moment, at, sent_at) = (ledger.truth.moment(), ledger.truth.now, ledger.published.len());
        let asked = Asked { request, nonce, sent_at, moment, at, confirmed: 0 };
        trace!("child {} asks {}", self.child, asked.shown());
        self.transaction += u32::from(asked.is(&[Answer::Exec, Answer::Discard, Answer::Reset]));
        self.may_close |= asked.is_subscription() || asked.is(&[Answer::Quit]);
        self.asked.push_back(asked);
    }

    pub(super) fn receive(&mut self, bytes: &[u8], ledger: &mut Ledger) {
        self.buffer.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        while at < buffer.len() {
            match parse(&buffer[at..]) {
                Ok(Some((reply, len))) => {
                    at += len;
                    trace!("child {} is told {reply:?}", self.child);
                    if !self.gives_up {
                        self.reply(reply, ledger);
                    }
                    self.told = ledger.truth.moment();
                }
                Ok(None) => break,
                Err(why) => broken!(2, "{}: {why}", self.who()),
            }
        }
        self.buffer = buffer[at..].to_vec();
    }

    /// The connection has come to an end: nothing more will be known of what was asked. `may_lose`: whoever has lost
    /// something is closed.
    pub(super) fn closed(&mut self, may_lose: bool) {
        if !self.may_close {
            let may_lose = may_lose && (self.open.is_some() || !self.asked.is_empty());
            holds!(2, may_lose, "{} was closed for no reason", self.who());
            self.forsaken = self.asked.iter().filter_map(|asked| asked.nonce).collect();
            self.may_close = true;
        }
        let open = self.open.take().unwrap_or_default();
        self.lost_pops += pops(self.asked.drain(..).chain(open.queued));
        self.subscriptions = Default::default();
        self.buffer.clear();
    }

    /// A RESP2 subscriber may say little.
    fn is_restricted(&self) -> bool {
        self.proto == 2 && self.subscriptions.iter().any(|family| !family.is_empty())
    }

    fn who(&self) -> String {
        format!("child {}", self.child)
    }

    fn wrong(&self, asked: &Asked, reply: &Reply) -> ! {
        broken!(2, "{} asked {} and was told {reply:?}", self.who(), asked.shown())
    }

    fn reply(&mut self, reply: Reply, ledger: &mut Ledger) {
        let kind = match &reply {
            Reply::Push(parts) => parts.first().and_then(Reply::text),
            Reply::Array(parts) if self.proto == 2 => parts.first().and_then(Reply::text),
            _ => None,
        };
        match kind {
            Some(b"message" | b"pmessage" | b"smessage") => return self.message(&reply, ledger),
            Some(kind) if kind.ends_with(b"subscribe") => return self.confirmation(&reply, ledger),
            _ => {}
        }
        holds!(12, !matches!(reply, Reply::Push(_)), "{} was pushed {reply:?}", self.who());
        let Some(asked) = self.asked.pop_front() else {
            broken!(2, "{} asked nothing and was told {reply:?}", self.who());
        };
        if self.open.is_some() && !asked.is_at_once() {
            return self.queued(asked, reply, ledger);
        }
        if let Reply::Error(text) = &reply {
            self.error = Some(String::from_utf8_lossy(text).into_owned());
            return self.failed(asked, text, ledger);
        }
        if self.is_restricted() && !asked.fits_subscriber() {
            self.wrong(&asked, &reply);
        }
        match asked.request.answer {
            Answer::Exec => self.executed(&asked, reply, ledger),
            Answer::Multi if reply == simple("OK") && self.open.is_none() => {
                self.open = Some(Open { begun: Some(asked), ..Open::default() })
            }
            _ => self.judge(&asked, &reply, ledger, false),
        }
    }

    /// The reply to a command inside MULTI.
    fn queued(&mut self, asked: Asked, reply: Reply, ledger: &mut Ledger) {
        let Some(open) = &mut self.open else { return };
        match &reply {
            Reply::Simple(text) if text == b"QUEUED" => open.queued.push(asked),
            Reply::Error(text) => {
                open.spoilt = true;
                self.judge_error(&asked, text, ledger);
            }
            _ => self.wrong(&asked, &reply),
        }
    }

    /// An error outside MULTI, or to a command that drives it.
    fn failed(&mut self, asked: Asked, text: &[u8], ledger: &mut Ledger) {
        let out_of_context = text.windows(13).any(|part| part == b"Can't execute");
        if out_of_context && self.is_restricted() && !asked.fits_subscriber() {
            if asked.is(&[Answer::Exec]) {
                // An EXEC that is rejected forgets the watched keys all the same.
                self.watched.clear();
            }
            return ledger.refused(asked.nonce);
        }
        let nested = self.open.is_some() && asked.is(&[Answer::Multi, Answer::Watch]);
        if nested && text.starts_with(b"ERR ") {
            return;
        }
        let refused = reason_of(text) == Some(Reason::Denied);
        // A DISCARD that its user lacks leaves MULTI as it was, but spoilt.
        let ends = asked.is(&[Answer::Exec]) || (asked.is(&[Answer::Discard]) && !refused);
        if !ends {
            self.open.iter_mut().for_each(|open| open.spoilt = true);
            self.judge_error(&asked, text, ledger);
            if asked.is(&[Answer::Unwatch]) {
                // It may have been lost on its way back, or never have left.
                self.doubt_watches();
            }
        } else if let Some(open) = self.open.take() {
            self.aborted(&asked, open, text, ledger);
            self.watched.clear();
        } else if !text.ends_with(b" without MULTI") {
            // Neither does anything without MULTI, so watched keys stay watched, but perhaps where it is lost.
            self.doubt_watches();
            self.aborted(&asked, Open::default(), text, ledger);
        }
    }

    fn doubt_watches(&mut self) {
        self.watched.iter_mut().for_each(|watched| watched.doubtful = true);
    }

    /// EXEC or DISCARD was answered with an error.
    fn aborted(&mut self, asked: &Asked, open: Open, text: &[u8], ledger: &mut Ledger) {
        match text.split(|byte| *byte == b' ').next() {
            Some(b"BROKERLOST" | b"BROKERTIMEOUT") => {
                self.blocks.push(open.nonces().collect());
                self.lost_pops += pops(open.queued);
            }
            Some(b"BROKERDOWN" | b"BROKERLIMIT") => {
                self.check_reason(asked, text, ledger);
                ledger.refused(open.nonces());
            }
            Some(b"EXECABORT") => {
                // The MULTI was lost, or could not be sent: it is open all the same, and spoilt.
                let said = text.windows(7).any(|part| part == b" BROKER");
                // Of a MULTI that was refused, where something behind it was refused for standing in it.
                let denied = ledger.truth.held_since(Reason::Denied, asked.moment);
                // It may have been refused upstream from its MULTI on, long before the EXEC.
                let oldest = open.begun.as_ref().unwrap_or(asked);
                let told = open.spoilt || said || denied || self.is_true(oldest, text, ledger);
                holds!(9, told, "{}: {} for no reason", self.who(), text.escape_ascii());
                ledger.refused(open.nonces());
            }
            // What stood in one write was refused whole: its MULTI was answered so, too.
            _ if open.queued.is_empty() && self.is_true(asked, text, ledger) => {}
            _ => broken!(2, "{}: EXEC was answered {}", self.who(), text.escape_ascii()),
        }
    }

    fn executed(&mut self, asked: &Asked, reply: Reply, ledger: &mut Ledger) {
        let Some(open) = self.open.take() else { self.wrong(asked, &reply) };
        let execution = open.nonces().next().and_then(|nonce| ledger.execution(nonce));
        let watched = std::mem::take(&mut self.watched);
        match reply {
            Reply::Null => {
                let at = execution.map_or(ledger.clock + 1, |execution| execution.at);
                let touched = watched.iter().any(|watched| is_broken(watched, at, ledger));
                holds!(9, touched, "{}: EXEC failed and nothing was touched", self.who());
                ledger.refused(open.nonces());
            }
            Reply::Array(elements) if elements.len() == open.queued.len() && !open.spoilt => {
                if let Some(at) = execution.map(|execution| execution.at)
                    && let Some(watched) = watched.iter().find(|watched| is_touched(watched, at, ledger))
                {
                    let key = watched.key.escape_ascii();
                    broken!(9, "{}: EXEC succeeded though {key} was touched", self.who());
                }
                if let Some(execution) = execution {
                    let stood = |watched: &&Watched| {
                        let watch = ledger.execution(watched.nonce).filter(|_| !watched.doubtful);
                        watch.is_none_or(|watch| watch.link == execution.link)
                    };
                    let elsewhere = watched.iter().find(|watched| !stood(watched));
                    holds!(9, elsewhere.is_none(), "{}: EXEC where nothing was watched", self.who());
                }
                for (asked, element) in open.queued.iter().zip(elements) {
                    self.judge(asked, &element, ledger, true);
                }
            }
            other => self.wrong(asked, &other),
        }
    }

    /// An error that stands for a reply.
    fn judge_error(&mut self, asked: &Asked, text: &[u8], ledger: &mut Ledger) {
        let first = text.split(|byte| *byte == b' ').next().unwrap_or_default();
        let argv = &asked.request.argv;
        let expected = match (asked.request.answer, first) {
            (Answer::Element, b"BROKERLOST" | b"BROKERTIMEOUT") => {
                self.lost_pops += 1;
                return;
            }
            (_, b"BROKERLOST" | b"BROKERTIMEOUT") => {
                let leaves = matches!(asked.request.answer, Answer::Confirmations { joins: false, .. });
                self.gives_up |= leaves || asked.is(&[Answer::Reset]);
                return;
            }
            (_, b"BROKERDOWN" | b"BROKERLIMIT") => {
                self.check_reason(asked, text, ledger);
                true
            }
            // A script that takes long had begun.
            (Answer::Script, b"ERR") if argv[1].starts_with(b"loop") && self.is_true(asked, text, ledger) => {
                return;
            }
            (_, b"NOTBUSY") => argv[0] == b"SCRIPT",
            _ if self.is_true(asked, text, ledger) => true,
            (Answer::Error(start), _) => {
                start.as_bytes().strip_prefix(b"-").is_some_and(|start| text.starts_with(start))
            }
            // A MULTI that is refused is told so in its place, and behind it this is said of one all the same.
            (Answer::Confirmations { .. } | Answer::Hello, _)
                if self.open.is_some() || ledger.truth.held_since(Reason::Denied, asked.moment) =>
            {
                text.ends_with(b"inside MULTI is not supported by the broker")
            }
            _ => false,
        };
        if !expected {
            self.wrong(asked, &Reply::Error(text.to_vec()));
        }
        ledger.refused(asked.nonce);
    }

    /// 23: whether the server was, since the request, as a refusal says.
    fn is_true(&self, asked: &Asked, text: &[u8], ledger: &Ledger) -> bool {
        let text = text.strip_prefix(b"EXECABORT Transaction discarded because of: ").unwrap_or(text);
        let Some(reason) = reason_of(text) else { return false };
        if text.ends_with(b"'multi' command") || text.ends_with(b"'discard' command") {
            // Both are asked once on each control connection, and MULTI needs both.
            return true;
        }
        let truth = &ledger.truth;
        let lately = reason == Reason::Busy && truth.is_heard_busy(asked.at);
        let held = lately || truth.held_since(reason, asked.moment);
        holds!(23, held, "{} was told {} while it was not so", self.who(), text.escape_ascii());
        true
    }

    /// 23: words of the broker's own say what the server said.
    fn check_reason(&self, asked: &Asked, text: &[u8], ledger: &Ledger) {
        let text = String::from_utf8_lossy(text);
        let bounds = ["transaction_max", "subscriptions", "the last write is busy"];
        let bounded = bounds.iter().any(|bound| text.contains(bound));
        let unsure = [Reason::Crowded, Reason::Hurried];
        if bounded || self.dawdles || unsure.iter().any(|why| ledger.truth.held_since(*why, asked.moment)) {
            return;
        }
        // Whoever subscribes waits for the connection that all of them share.
        let subscriber = ledger.truth.subscriber.filter(|_| asked.is_subscription());
        let of = subscriber.unwrap_or((self.db, self.proto));
        let hidden = ledger.truth.hidden_reason(&text, asked.moment.max(self.told), of);
        holds!(23, hidden.is_none(), "{} was told {text:?}, and not {hidden:?}", self.who());
    }

    /// 23: a null says that the time of a blocking command has passed at the server, and nothing was there.
    fn is_due(&self, asked: &Asked, ledger: &Ledger) -> bool {
        let argv = &asked.request.argv;
        // Tells it from all others, at the server.
        let stay = asked.request.said("nonce").and_then(Nonce::of);
        let why = match argv[argv.len() - 1].as_slice() {
            b"0" => Some("though it waits for ever"),
            _ => ledger.truth.against_null(stay, self.db, &argv[1], asked.at + POP_TIMEOUT),
        };
        holds!(23, why.is_none(), "{} asked {} and was told null {why:?}", self.who(), asked.shown());
        true
    }

    /// 23: which role the server has.
    fn is_role(&self, asked: &Asked, pairs: &[Reply], ledger: &Ledger) -> bool {
        let at = pairs.iter().position(|part| part.text() == Some(b"role"));
        let reason = match at.and_then(|at| pairs.get(at + 1)?.text()) {
            None => return true,
            Some(b"master") => Reason::Master,
            Some(b"replica") => Reason::Replica,
            Some(_) => return false,
        };
        let held = ledger.truth.held_since(reason, asked.moment);
        holds!(23, held, "{} was told {reason:?} of a server that was none", self.who());
        true
    }

    /// 23: whether the server would have said PONG.
    fn is_pong(&self, asked: &Asked, reply: &Reply, ledger: &Ledger) -> bool {
        let message = text_of(asked.nonce).into_bytes();
        let fits = match reply {
            Reply::Simple(text) => text == b"PONG" && asked.nonce.is_none(),
            Reply::Bulk(text) => *text == message,
            Reply::Array(parts) => parts.iter().map(Reply::text).eq([Some(&b"pong"[..]), Some(&message)]),
            _ => false,
        };
        let held = ledger.truth.held_since(Reason::Pingable, asked.moment);
        holds!(23, held, "{} was told {reply:?} of a server that does not say PONG", self.who());
        fits
    }

    /// A reply that is no error, outside MULTI or as an element of EXEC.
    fn judge(&mut self, asked: &Asked, reply: &Reply, ledger: &mut Ledger, inside: bool) {
        let good = match (asked.request.answer, reply) {
            (_, Reply::Error(text)) if inside => return self.judge_error(asked, text, ledger),
            (Answer::Value | Answer::Swapped | Answer::Script, Reply::Bulk(text)) => {
                self.is_own(asked.nonce, text)
            }
            (Answer::First, Reply::Int(1)) => true,
            (Answer::Length, Reply::Int(count)) => *count >= 1,
            (Answer::Receivers, Reply::Int(count)) => {
                asked.nonce.into_iter().for_each(|nonce| ledger.counted(nonce, *count));
                true
            }
            (Answer::Replicas, Reply::Int(_)) => true,
            (Answer::Stored | Answer::Unwatch | Answer::Quit, reply) => *reply == simple("OK"),
            (Answer::Discard, reply) => {
                let open = self.open.take();
                ledger.refused(open.iter().flat_map(Open::nonces));
                *reply == simple("OK") && open.is_some()
            }
            (Answer::Watch, reply) => {
                let nonce = asked.nonce.expect("a watch has a nonce");
                let key = asked.request.argv[1].clone();
                self.watched.push(Watched { nonce, key, db: self.db, doubtful: false });
                *reply == simple("OK")
            }
            (Answer::Element, Reply::Array(pair)) => self.element(asked, pair, ledger),
            (Answer::Element, Reply::Null) if inside => true,
            (Answer::Element, Reply::Null) => self.is_due(asked, ledger),
            (Answer::Select, reply) => {
                self.db = asked.number("db");
                *reply == simple("OK")
            }
            (Answer::Hello, Reply::Map(pairs) | Reply::Array(pairs)) => {
                self.proto = asked.number("proto") as u8;
                self.is_role(asked, pairs, ledger)
            }
            (Answer::Reset, reply) => {
                (self.db, self.proto, self.open) = (0, 2, None);
                self.name.clear();
                self.subscriptions = Default::default();
                *reply == simple("RESET")
            }
            (Answer::Named, reply) => {
                self.name = asked.request.argv[2].clone();
                *reply == simple("OK")
            }
            (Answer::Name, Reply::Bulk(name)) => *name == self.name,
            (Answer::Name, Reply::Null) => self.name.is_empty(),
            (Answer::Pong, reply) => self.is_pong(asked, reply, ledger),
            (Answer::Echo, Reply::Bulk(text)) => {
                asked.nonce.is_some_and(|nonce| nonce.to_string().as_bytes() == text)
            }
            _ => false,
        };
        if !good {
            self.wrong(asked, reply);
        }
        if asked.ends_watch() && !inside {
            self.watched.clear();
        }
        // ECHO is answered here, and so is WATCH, perhaps, when an earlier one was lost.
        if !asked.is(&[Answer::Echo, Answer::Watch]) {
            asked.nonce.into_iter().for_each(|nonce| ledger.acknowledged(nonce));
        }
    }

    /// Whether a value is that of the request, read where its child is.
    fn is_own(&self, nonce: Option<Nonce>, text: &[u8]) -> bool {
        let at = text.iter().position(|byte| *byte == b'@').unwrap_or(text.len());
        let (found, place) = text.split_at(at);
        let (nonce, shown) = (text_of(nonce), text.escape_ascii());
        holds!(1, found == nonce.as_bytes(), "{} asked for {nonce} and got {shown}", self.who());
        let own = format!("@{}.{}.{}", self.db, self.proto, self.user);
        holds!(10, place == own.as_bytes(), "{} is at {own} and got {shown}", self.who());
        true
    }

    fn element(&self, asked: &Asked, pair: &[Reply], ledger: &mut Ledger) -> bool {
        let [Reply::Bulk(list), Reply::Bulk(element)] = pair else { return false };
        let is_its = asked.request.argv[1..].contains(list);
        holds!(1, is_its, "{} asked {} and was given {pair:?}", self.who(), asked.shown());
        ledger.delivered(element);
        true
    }

    fn confirmation(&mut self, reply: &Reply, ledger: &mut Ledger) {
        let (Reply::Push(parts) | Reply::Array(parts)) = reply else { return };
        let Some(asked) = self.asked.front_mut() else {
            broken!(12, "{} asked nothing and was told {reply:?}", self.who());
        };
        let Answer::Confirmations { family, joins } = asked.request.answer else {
            let asked = asked.clone();
            self.wrong(&asked, reply);
        };
        let (names, family) = (&asked.request.argv[1..], family as usize);
        let subscribed = &mut self.subscriptions[family];
        let named = parts.get(1).and_then(Reply::text).map(<[u8]>::to_vec);
        let fits = match (names.get(asked.confirmed), &named) {
            (Some(name), Some(named)) => name == named,
            (None, Some(named)) => names.is_empty() && subscribed.contains_key(named),
            (None, None) => names.is_empty() && subscribed.is_empty(),
            (Some(_), None) => false,
        };
        asked.confirmed += 1;
        let sent_at = asked.sent_at;
        match (&named, joins) {
            (Some(name), true) => {
                let confirmed = ledger.published.len();
                let new = Subscription { asked: sent_at, confirmed, next: None };
                subscribed.entry(name.clone()).or_insert(new);
            }
            (Some(name), false) => drop(subscribed.remove(name)),
            (None, _) => {}
        }
        let done = if names.is_empty() { subscribed.is_empty() } else { asked.confirmed == names.len() };
        let counted = if family == 2 { &self.subscriptions[2..] } else { &self.subscriptions[..2] };
        let count: usize = counted.iter().map(BTreeMap::len).sum();
        let fits = fits && parts.get(2) == Some(&Reply::Int(count as i64));
        holds!(12, fits, "{} was told {reply:?}, it counts {count}", self.who());
        if done {
            self.asked.pop_front();
        }
    }

    fn message(&mut self, reply: &Reply, ledger: &mut Ledger) {
        let (Reply::Push(parts) | Reply::Array(parts)) = reply else { return };
        let texts: Vec<&[u8]> = parts.iter().filter_map(Reply::text).collect();
        let (family, name, payload) = match texts.as_slice() {
            [b"message", channel, payload] => (0, *channel, *payload),
            [b"pmessage", pattern, _, payload] => (1, *pattern, *payload),
            [b"smessage", channel, payload] => (2, *channel, *payload),
            _ => broken!(12, "{} was told {reply:?}", self.who()),
        };
        let who = self.who();
        let Some(subscription) = self.subscriptions[family].get_mut(name) else {
            broken!(12, "{who} is not subscribed and was told {reply:?}");
        };
        let from = subscription.next.unwrap_or(subscription.asked);
        let mut later = (from..ledger.published.len()).filter(|at| concerns(ledger, *at, family, name));
        let Some(found) = later.find(|at| ledger.published[*at].nonce.to_string().as_bytes() == payload)
        else {
            broken!(12, "{who} was told once more, or out of order: {reply:?}");
        };
        let server = ledger.published[found].server;
        let missed = subscription.missed(ledger, (server, found), family, name);
        holds!(12, missed.is_none(), "{who} missed {missed:?} before {reply:?}");
        subscription.next = Some(found + 1);
        ledger.heard(ledger.published[found].nonce);
    }

    /// All is quiet: every message has arrived, every block was executed whole or not at all.
    pub(super) fn check_end(&self, ledger: &Ledger, server: usize) {
        // One that has given up does not know any more what it is subscribed to.
        let known = self.subscriptions.iter().filter(|_| !self.gives_up);
        for (family, subscriptions) in known.enumerate() {
            for (name, subscription) in subscriptions {
                let missed = subscription.missed(ledger, (server, ledger.published.len()), family, name);
                let (who, name) = (self.who(), name.escape_ascii());
                holds!(12, missed.is_none(), "{who} never got {missed:?} on {name}");
            }
        }
        // What had not left on the connection that was lost was asked nowhere else.
        let ran = self.forsaken.iter().filter_map(|nonce| Some((nonce, ledger.execution(*nonce)?.link)));
        let links: Vec<_> = ran.collect();
        let alike = links.windows(2).all(|pair| pair[0].1 == pair[1].1);
        holds!(5, alike, "{} was closed, and what it had asked for was executed on: {links:?}", self.who());
        for block in &self.blocks {
            holds!(8, ledger.is_whole(block), "{}: half of a transaction was executed", self.who());
        }
    }
}

/// Whether the watched key was written between WATCH and an EXEC at `exec`; or the watch stood nowhere.
fn is_touched(watched: &Watched, exec: u64, ledger: &Ledger) -> bool {
    let Some(watch) = ledger.execution(watched.nonce) else { return !watched.doubtful };
    let place = (watch.server, watched.db);
    !watched.doubtful && ledger.touched_between(place, &watched.key, watch.at, exec)
}

/// Whether an EXEC at `exec` may fail for this watch.
fn is_broken(watched: &Watched, exec: u64, ledger: &Ledger) -> bool {
    let lost = ledger.execution(watched.nonce).is_none_or(|watch| ledger.closed.contains(&watch.link));
    lost || watched.doubtful || is_touched(watched, exec, ledger)
}

fn concerns(ledger: &Ledger, at: usize, family: usize, name: &[u8]) -> bool {
    let message = &ledger.published[at];
    match family {
        0 => !message.shard && message.channel == name,
        1 => !message.shard && matches(name, &message.channel),
        _ => message.shard && message.channel == name,
    }
}

fn pops(requests: impl IntoIterator<Item = Asked>) -> usize {
    requests.into_iter().filter(|asked| asked.is(&[Answer::Element])).count()
}

fn text_of(nonce: Option<Nonce>) -> String {
    nonce.map(|nonce| nonce.to_string()).unwrap_or_default()
}

fn simple(text: &str) -> Reply {
    Reply::Simple(text.as_bytes().to_vec())
}
