//! A child: a process's connection to the broker, without the connection. Owns the child's queues, its
//! session and its place in every line it stands in; never touches a socket and never looks at the clock.

use super::ahead::ReadAhead;
use super::bulk::Heavy;
use super::lane::Lane;
use super::lease::LeaseKind;
use super::pool::PoolKey;
use super::pubsub::Joined;
use super::replies::Replies;
use super::roster::Listing;
use super::session::Session;
use super::subscription::Subscriptions;
use super::transaction::AfterExec;
use super::users::{AccountId, UserId};
use super::wait::LastWrite;
use crate::base::bytes::{ByteQueue, Spares};
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::command::{CommandId, Popped};
use crate::resp::Scanner;
use std::collections::VecDeque;
use std::sync::Arc;

/// How a child reaches the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildKind {
    /// A connection accepted from a listener.
    Socket,
    /// Requests of the program that embeds the loop.
    Local,
    /// A connected descriptor handed over by the embedding program.
    Adopted,
}

/// The life of a child. Removed from the arena when it ends, so there is no closed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChildState {
    /// Reading, answering.
    Open,
    /// Nothing more will be read (end of file, or the broker drains); what was read complete is still run.
    Ending,
    /// No more requests are run (QUIT, protocol error); closes when every reply has left.
    Finishing,
    /// It ends with the event at hand.
    Closed,
}

/// Why the child's next request has to wait. The request stays in the child's input, and is looked at
/// afresh when the reason has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nothing in the way.
    None,
    /// `child_in_flight_max` requests are upstream.
    InFlight,
    /// The next request may only run after every earlier one was answered: it goes another way.
    Drained,
    /// The child must take replies first.
    Output,
    /// The lane it uses owes its socket too much; listed in that lane's `held`.
    Lane,
    /// Waits in a lease queue.
    Lease,
    /// The lane of its last write is blocked, for another child's WAIT or another tenant.
    WaitLane,
    /// The request at the front runs on a leased lane and nothing may follow it before its reply.
    Blocked,
    /// As `Blocked`, and what it waits for is an element or a message that may never come.
    Element,
    /// The control connection was asked something on its behalf.
    Answer,
    /// Only a living upstream can tell the answer.
    Upstream,
    /// The connection for subscriptions has to answer first.
    Topics,
    /// Its password is not looked at yet, since others from there were wrong.
    Guess,
}

/// What the control connection said about the request at the front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The upstream does not know this command either.
    UnknownCommand,
    /// What the upstream said is the answer.
    Frame(Vec<u8>),
}

/// A place in a lease queue, or the memory of having stood there: kept until the request is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// The line.
    pub kind: LeaseKind,
    /// Its number in the line; kept when a lease is taken back, so that nobody overtakes.
    pub ticket: u64,
    /// When the request was first looked at: a blocking command's own timeout counts from here.
    pub arrived: Millis,
    /// When the present wait began: `lease_wait_timeout` counts from here.
    pub since: Millis,
    /// When the request's own timeout passes, if it has one.
    pub expires: Option<Millis>,
    /// It has passed without a lease.
    pub in_vain: bool,
    /// What the reply is to the request that does not wait, once that is on its way.
    pub popped: Popped,
}

impl Wait {
    /// One that begins now.
    pub(super) fn new(kind: LeaseKind, now: Millis) -> Self {
        let popped = Popped::AsItIs;
        Wait { kind, ticket: 0, arrived: now, since: now, expires: None, in_vain: false, popped }
    }
}

/// Where a peer comes from over TCP, without the port.
pub(super) fn address_of(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(address, _)| address)
}

/// The leased lane a child holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldLease {
    /// The lane.
    pub lane: Key<Lane>,
    /// What it was taken for.
    pub kind: LeaseKind,
}

/// One child.
#[derive(Debug)]
pub struct Child {
    /// Its own name.
    pub(super) key: Key<Child>,
    /// All that Redis would remember.
    pub session: Session,
    /// As which user of this host it connected; known of unix sockets alone.
    pub(super) uid: Option<u32>,
    /// Which process of this host it was when it connected, in the broker's own pid namespace.
    pub(super) pid: Option<i32>,
    /// The command it sent last, if the table had it.
    pub(super) last_command: Option<CommandId>,
    /// As whom its requests go upstream.
    pub(super) user: UserId,
    /// Which of the broker's own users it is, with `auth = users`.
    pub(super) account: Option<AccountId>,
    /// How it reaches us.
    pub kind: ChildKind,
    /// Who it is, for the log.
    pub peer: Arc<str>,
    /// The driver's handle for its connection; opaque here.
    pub link: usize,
    pub(super) state: ChildState,
    pub(super) hold: Hold,
    /// Bytes read and not yet run: at most one partial request and two reads' worth, or as `core::ahead` says while it
    /// takes no replies.
    pub(super) input: ByteQueue,
    pub(super) ahead: ReadAhead,
    /// The scanner of the partial request in `input`; there is none between requests.
    pub(super) scanner: Option<Box<Scanner>>,
    /// Whole frames on their way to the child.
    pub output: ByteQueue,
    pub(super) replies: Replies,
    /// Slots in lanes that are this child's, seen by it or swallowed.
    pub(super) in_flight: u32,
    /// Slots whose reply is overdue and was told so: until it has come, nothing may overtake what it answers.
    pub(super) late: u32,
    /// The shared lane its requests in flight are on. Kept until they are answered.
    pub(super) lane: Key<Lane>,
    pub(super) lease: Option<HeldLease>,
    /// The request at the front has been answered and only has to be skipped.
    pub(super) front_done: bool,
    pub(super) wait: Option<Wait>,
    pub(super) answer: Option<Answer>,
    /// The number of what was asked on the probe about the request at the front, until answered.
    pub(super) proof: Option<u64>,
    /// The upstream allows its user the command at the front, which the broker carries out.
    pub(super) permitted: bool,
    /// When the password of the request at the front may be looked at, if it has had to wait.
    pub(super) guess_at: Option<Millis>,
    /// The HELLO at the front has been carried out up to this argument.
    pub(super) hello_done: u16,
    /// How many questions the upstream had been asked when the request at the front first needed an answer younger than
    /// itself.
    pub(super) asked_before: Option<u64>,
    /// The CLIENT LIST at the front, as far as it is made.
    pub(super) listing: Option<Box<Listing>>,
    /// Until when the request at the front may wait for a living upstream, if it has had to.
    pub(super) upstream_until: Option<Millis>,
    /// What a WAIT would be about.
    pub(super) last_write: LastWrite,
    /// The command whose replies have been large of late.
    pub(super) heavy: Option<Heavy>,
    /// One for each EXEC upstream.
    pub(super) execs: VecDeque<AfterExec>,
    /// Those on a leased lane.
    pub(super) subscriptions: Option<Box<Subscriptions>>,
    /// Those shared with other children.
    pub(super) topics: Option<Box<Joined>>,
    /// When it is looked at, should it wait for these.
    pub(super) topics_due: Millis,
    /// It will send nothing more: end of file was read.
    pub(super) eof: bool,
    /// It was told its last without a word (QUIT under CLIENT REPLY OFF): Redis never closes such a connection
    /// itself, and ignores all it sends.
    pub(super) deaf: bool,
    /// It has hung up, perhaps with bytes still unread.
    pub(super) hung: bool,
    /// When it connected, and when it last asked something.
    pub(super) opened: Millis,
    pub(super) last_request: Millis,
    /// Since when its output has been over the soft limit of subscribers.
    pub(super) over_soft_since: Option<Millis>,
    pub(super) dirty: bool,
    /// Stands in line for its turn at running requests.
    pub(super) runnable: bool,
    /// Bytes of requests it may still run in this turn; negative after a large one, until later turns have paid for
    /// it. Zero while it has nothing to run.
    pub(super) credit: i64,
    /// As last added to the broker's memory total.
    pub(super) footprint: usize,
}

impl Child {
    pub(super) fn new(session: Session, kind: ChildKind, peer: Arc<str>, link: usize, now: Millis) -> Self {
        Child {
            key: Key::NONE,
            session,
            uid: None,
            pid: None,
            last_command: None,
            user: UserId::UPSTREAM,
            account: None,
            kind,
            peer,
            link,
            state: ChildState::Open,
            hold: Hold::None,
            input: ByteQueue::default(),
            ahead: ReadAhead::default(),
            scanner: None,
            output: ByteQueue::default(),
            replies: Replies::default(),
            in_flight: 0,
            late: 0,
            lane: Key::NONE,
            lease: None,
            front_done: false,
            wait: None,
            answer: None,
            proof: None,
            permitted: false,
            guess_at: None,
            hello_done: 0,
            asked_before: None,
            listing: None,
            upstream_until: None,
            last_write: LastWrite::None,
            heavy: None,
            execs: VecDeque::new(),
            subscriptions: None,
            topics: None,
            topics_due: 0,
            eof: false,
            deaf: false,
            hung: false,
            opened: now,
            last_request: now,
            over_soft_since: None,
            dirty: false,
            runnable: false,
            credit: 0,
            footprint: 0,
        }
    }

    /// Moves the child's state; only ever forward.
    pub(super) fn set_state(&mut self, to: ChildState) {
        let legal = matches!(
            (self.state, to),
            (ChildState::Open, ChildState::Ending | ChildState::Finishing)
                | (ChildState::Ending, ChildState::Finishing)
                | (_, ChildState::Closed)
        );
        debug_assert!(legal || self.state == to, "child {:?} -> {to:?}", self.state);
        self.state = to;
    }

    /// Whether none of its requests is run any more.
    pub(super) fn is_finished(&self) -> bool {
        matches!(self.state, ChildState::Finishing | ChildState::Closed)
    }

    /// What a connection upstream has to be for this child's requests.
    pub(super) fn pool_key(&self) -> PoolKey {
        let Session { db, proto, no_touch, .. } = self.session;
        PoolKey { user: self.user, db, proto, no_touch }
    }

    /// The request at the front is done: nothing about it is remembered.
    pub(super) fn front_is_done(&mut self) {
        self.session.request_done();
        self.front_done = false;
        self.wait = None;
        self.answer = None;
        self.proof = None;
        self.permitted = false;
        self.guess_at = None;
        self.hello_done = 0;
        self.asked_before = None;
        self.listing = None;
        self.upstream_until = None;
    }

    /// Says something in the place of the request at the front, behind everything before it.
    pub(super) fn say(&mut self, bytes: &[u8], spares: &mut Spares) {
        self.output.adopt(spares);
        self.replies.local(bytes, &mut self.output);
    }

    /// Whether a lane still carries requests of it, so that the next one must go the same way or wait.
    pub(super) fn is_under_way(&self) -> bool {
        self.in_flight > 0 || self.late > 0
    }

    /// Whether it has any subscription: its output is then bounded as a subscriber's.
    pub(super) fn is_subscribed(&self) -> bool {
        self.listens_on_lease() || self.topics.as_ref().is_some_and(|topics| topics.total() > 0)
    }

    /// Whether it has shared subscriptions in RESP2: it may say little else, and PING is answered in another form.
    pub(super) fn listens_in_resp2(&self) -> bool {
        self.session.proto == 2 && self.topics.as_ref().is_some_and(|topics| topics.total() > 0)
    }

    /// Whether its leased lane carries subscriptions.
    pub(super) fn listens_on_lease(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|subscriptions| subscriptions.total() > 0)
    }

    /// Channels, patterns, shard channels it has subscribed to.
    pub(super) fn subscription_counts(&self) -> (u32, u32, u32) {
        let own = self.subscriptions.as_ref().map_or((0, 0, 0), |own| own.counts());
        let shared = self.topics.as_ref().map_or((0, 0, 0), |shared| shared.counts());
        (own.0 + shared.0, own.1 + shared.1, own.2 + shared.2)
    }

    /// Bytes of replies it has not taken, those included that wait for others before them.
    pub(super) fn unread(&self) -> usize {
        self.output.len() + self.replies.waiting()
    }

    /// Where it comes from over TCP, without the port.
    pub(super) fn address(&self) -> &str {
        address_of(&self.peer)
    }

    /// How the log names it: CLIENT ID and peer.
    pub(super) fn label(&self) -> String {
        format!("{} ({})", self.session.id, self.peer)
    }

    /// Heap bytes this child holds.
    pub(super) fn measure(&self) -> usize {
        self.input.capacity()
            + self.output.capacity()
            + self.scanner.as_ref().map_or(0, |scanner| std::mem::size_of::<Scanner>() + scanner.footprint())
            + self.replies.footprint()
            + self.session.footprint()
            + self.topics.as_ref().map_or(0, |topics| topics.footprint())
            + self.listing.as_ref().map_or(0, |listing| listing.footprint())
    }
}
