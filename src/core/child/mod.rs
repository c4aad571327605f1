//! A child: a process's connection to the broker, without the connection. Owns the child's queues, its
//! session and its place in every line it stands in; never touches a socket and never looks at the clock.

pub(in crate::core) mod ahead;
pub(in crate::core) mod children;
pub(in crate::core) mod front;
pub(in crate::core) mod heavy;
pub(in crate::core) mod hold;
pub(in crate::core) mod last_write;
pub(in crate::core) mod listing;
pub(in crate::core) mod origin;
pub(in crate::core) mod replies;
pub(in crate::core) mod session;

pub use origin::ChildKind;

use crate::base::bytes::ByteQueue;
use crate::base::bytes::Spares;
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::limits;
use crate::command::CommandId;
use crate::core::child::ahead::ReadAhead;
use crate::core::child::front::Front;
use crate::core::child::heavy::Heavy;
use crate::core::child::hold::HeldLease;
use crate::core::child::hold::Hold;
use crate::core::child::last_write::LastWrite;
use crate::core::child::origin::Origin;
use crate::core::child::replies::Replies;
use crate::core::child::session::Session;
use crate::core::keys::AccountId;
use crate::core::keys::ChildKey;
use crate::core::keys::LaneKey;
use crate::core::keys::PoolKey;
use crate::core::keys::UserId;
use crate::core::pubsub::own::OwnSubscriptions;
use crate::core::pubsub::shared::SharedSubscriptions;
use crate::core::transaction::queue::AfterExec;
use crate::resp::Scanner;
use std::collections::VecDeque;

/// The life of a child. Removed from the arena when it ends, so there is no closed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum ChildState {
    /// Reading, answering.
    Open,
    /// Nothing more will be read (end of file, or the broker drains); what was read complete is still run.
    Ending,
    /// No more requests are run (QUIT, protocol error); closes when every reply has left.
    Finishing,
    /// It ends with the event at hand.
    Closed,
}

/// One child.
#[derive(Debug)]
pub struct Child {
    /// Its own name.
    pub(in crate::core) key: ChildKey,
    /// All that Redis would remember.
    pub session: Session,
    origin: Origin,
    /// The command it sent last, if the table had it.
    pub(in crate::core) last_command: Option<CommandId>,
    /// As whom its requests go upstream.
    pub(in crate::core) user: UserId,
    /// Which of the broker's own users it is, with `auth = users`.
    pub(in crate::core) account: Option<AccountId>,
    /// The driver's handle for its connection; opaque here.
    pub link: usize,
    pub(in crate::core) state: ChildState,
    pub(in crate::core) hold: Hold,
    /// Bytes read and not yet run: at most one partial request and two reads' worth, or as `core::ahead` says while it
    /// takes no replies.
    pub(in crate::core) input: ByteQueue,
    pub(in crate::core) ahead: ReadAhead,
    /// The scanner of the partial request in `input`; there is none between requests.
    pub(in crate::core) scanner: Option<Box<Scanner>>,
    /// Whole frames on their way to the child.
    pub output: ByteQueue,
    pub(in crate::core) replies: Replies,
    /// Slots in lanes that are this child's, seen by it or swallowed.
    pub(in crate::core) in_flight: u32,
    /// Slots whose reply is overdue and was told so: until it has come, nothing may overtake what it answers.
    pub(in crate::core) late: u32,
    /// The shared lane its requests in flight are on. Kept until they are answered.
    pub(in crate::core) lane: LaneKey,
    pub(in crate::core) lease: Option<HeldLease>,
    front: Front,
    /// What a WAIT would be about.
    pub(in crate::core) last_write: LastWrite,
    /// The command whose replies have been large of late.
    pub(in crate::core) heavy: Heavy,
    /// One for each EXEC upstream.
    pub(in crate::core) execs: VecDeque<AfterExec>,
    /// Those on a leased lane.
    pub(in crate::core) subscriptions: Option<Box<OwnSubscriptions>>,
    /// Those shared with other children.
    pub(in crate::core) topics: Option<Box<SharedSubscriptions>>,
    /// When it is looked at, should it wait for these.
    pub(in crate::core) topics_due: Millis,
    /// It will send nothing more: end of file was read.
    pub(in crate::core) eof: bool,
    /// It was told its last without a word (QUIT under CLIENT REPLY OFF): Redis never closes such a connection
    /// itself, and ignores all it sends.
    pub(in crate::core) deaf: bool,
    /// It has hung up, perhaps with bytes still unread.
    pub(in crate::core) hung: bool,
    /// When it connected, and when it last asked something.
    pub(in crate::core) opened: Millis,
    pub(in crate::core) last_request: Millis,
    /// Since when its output has been over the soft limit of subscribers.
    pub(in crate::core) over_soft_since: Option<Millis>,
    pub(in crate::core) dirty: bool,
    /// Stands in line for its turn at running requests.
    pub(in crate::core) runnable: bool,
    /// Bytes of requests it may still run in this turn; negative after a large one, until later turns have paid for
    /// it. Zero while it has nothing to run.
    pub(in crate::core) credit: i64,
    /// As last added to the broker's memory total.
    pub(in crate::core) footprint: usize,
}

impl Child {
    pub(in crate::core) fn new(session: Session, origin: Origin, link: usize, now: Millis) -> Self {
        Child {
            key: Key::NONE,
            session,
            origin,
            last_command: None,
            user: UserId::UPSTREAM,
            account: None,
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
            front: Front::default(),
            last_write: LastWrite::None,
            heavy: Heavy::default(),
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
    pub(in crate::core) fn set_state(&mut self, to: ChildState) {
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
    pub(in crate::core) fn is_finished(&self) -> bool {
        matches!(self.state, ChildState::Finishing | ChildState::Closed)
    }

    /// Whether it may be read now.
    pub(in crate::core) fn wants_read(&self) -> bool {
        // One that has enough to run for its next turn is read when it has had it.
        let has_enough = self.runnable && self.input.len() >= limits::READ_TURN;
        self.takes_bytes() && (self.state != ChildState::Open || self.hold != Hold::None || !has_enough)
    }

    /// Whether bytes of it could be of use at all, however much it has to run.
    pub(in crate::core) fn takes_bytes(&self) -> bool {
        match (self.state, self.hold) {
            // Nobody runs what it still sends. But it has to get rid of it before it can read what it was told.
            (ChildState::Finishing, _) => self.deaf || !self.is_local(),
            (ChildState::Ending | ChildState::Closed, _) => false,
            (ChildState::Open, Hold::None) => true,
            (ChildState::Open, Hold::OutputFull) => self.input.len() < self.ahead.bound,
            // Whoever it waits for may wait for the end of its write.
            (ChildState::Open, Hold::BlockingReply) => !self.is_local(),
            // These end by themselves: by a reply that is on its way, or in time.
            (ChildState::Open, _) => false,
        }
    }

    /// What a connection upstream has to be for this child's requests.
    pub(in crate::core) fn pool_key(&self) -> PoolKey {
        let Session { db, proto, no_touch, .. } = self.session;
        PoolKey { user: self.user, db, proto, no_touch }
    }

    /// The request at the front is done: nothing about it is remembered.
    pub(in crate::core) fn front_is_done(&mut self) {
        self.session.request_done();
        self.front = Front::default();
    }

    /// What was learned about the request at the front.
    pub(in crate::core) fn front(&self) -> &Front {
        &self.front
    }

    pub(in crate::core) fn front_mut(&mut self) -> &mut Front {
        &mut self.front
    }

    /// Says something in the place of the request at the front, behind everything before it.
    pub(in crate::core) fn say(&mut self, bytes: &[u8], spares: &mut Spares) {
        self.output.adopt(spares);
        self.replies.local(bytes, &mut self.output);
    }

    /// Whether a lane still carries requests of it, so that the next one must go the same way or wait.
    pub(in crate::core) fn is_under_way(&self) -> bool {
        self.in_flight > 0 || self.late > 0
    }

    /// Whether it has any subscription: its output is then bounded as a subscriber's.
    pub(in crate::core) fn is_subscribed(&self) -> bool {
        self.listens_on_lease() || self.topics.as_ref().is_some_and(|topics| topics.total() > 0)
    }

    /// Whether it has shared subscriptions in RESP2: it may say little else, and PING is answered in another form.
    pub(in crate::core) fn listens_in_resp2(&self) -> bool {
        self.session.proto == 2 && self.topics.as_ref().is_some_and(|topics| topics.total() > 0)
    }

    /// Whether its leased lane carries subscriptions.
    pub(in crate::core) fn listens_on_lease(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|subscriptions| subscriptions.total() > 0)
    }

    /// Channels, patterns, shard channels it has subscribed to.
    pub(in crate::core) fn subscription_counts(&self) -> (u32, u32, u32) {
        let own = self.subscriptions.as_ref().map_or((0, 0, 0), |own| own.counts());
        let shared = self.topics.as_ref().map_or((0, 0, 0), |shared| shared.counts());
        (own.0 + shared.0, own.1 + shared.1, own.2 + shared.2)
    }

    /// Bytes of replies it has not taken, those included that wait for others before them.
    pub(in crate::core) fn unread(&self) -> usize {
        self.output.len() + self.replies.waiting()
    }

    /// Where it comes from.
    pub(in crate::core) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The system knows which process it is.
    pub(in crate::core) fn set_process(&mut self, uid: u32, pid: i32) {
        self.origin.set_process(uid, pid);
    }

    /// Whether it is the program that embeds the loop.
    pub(in crate::core) fn is_local(&self) -> bool {
        self.origin.is_local()
    }

    /// How the log names it: CLIENT ID and peer.
    pub(in crate::core) fn label(&self) -> String {
        format!("{} ({})", self.session.id, self.origin.peer())
    }

    /// Heap bytes this child holds.
    pub(in crate::core) fn measure(&self) -> usize {
        self.input.capacity()
            + self.output.capacity()
            + self.scanner.as_ref().map_or(0, |scanner| std::mem::size_of::<Scanner>() + scanner.footprint())
            + self.replies.footprint()
            + self.session.footprint()
            + self.topics.as_ref().map_or(0, |topics| topics.footprint())
            + self.front.footprint()
    }
}

impl Child {
    /// Whether it goes upstream as somebody else than the broker itself, whose rights are not known here.
    pub(in crate::core) fn has_rights(&self) -> bool {
        self.user != UserId::UPSTREAM
    }
}
