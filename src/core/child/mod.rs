//! A child: a process's connection to the broker, without the connection. Owns what it has sent, what it is owed, its
//! session and why its next request waits. Never touches a socket and never looks at the clock.

pub(crate) mod ahead;
pub(crate) mod children;
pub(crate) mod claim;
pub(crate) mod closing;
pub(crate) mod filling;
pub(crate) mod front;
pub(crate) mod hold;
pub(crate) mod listing;
pub(crate) mod origin;
pub(crate) mod outbox;
pub(crate) mod reads;
pub(crate) mod sent;
pub(crate) mod session;
mod window;

pub use origin::ChildKind;

/// Logs a line about a child, and says so with the keys by which lines are limited and found.
macro_rules! log_child {
    ($level:ident, $child:expr, $($text:tt)+) => {
        ::log::$level!(
            child = $child.session().id, pid = $child.origin().pid(), uid = $child.origin().uid(),
            peer = $child.origin().peer(); $($text)+
        )
    };
}
pub(crate) use log_child;

use crate::base::clock::Millis;
use crate::base::limits;
use crate::base::stamps::Stamps;
use crate::command::CommandId;
use crate::core::child::ahead::ReadAhead;
use crate::core::child::claim::InputClaim;
use crate::core::child::front::Front;
use crate::core::child::hold::{Answer, HeldLease, Hold};
use crate::core::child::origin::Origin;
use crate::core::child::outbox::Outbox;
use crate::core::child::reads::Reads;
use crate::core::child::sent::Sent;
use crate::core::child::session::Session;
use crate::core::host::leaks::LeakKind;
use crate::core::host::usage::Usage;
use crate::core::keys::{AccountId, ChildKey, LaneKey, LeaseKind, PoolKey, UserId};
use crate::core::pubsub::counted::{Counted, CountedLine};
use crate::core::pubsub::own::{OwnSubscriptions, SharedSubscriptions};
use crate::resp::{Inbox, Scanner};

/// The life of a child, in order. It is removed from the arena when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Default)]
pub(crate) enum ChildState {
    #[default]
    Open,
    /// Nothing more will be read (end of file, or the broker drains); what was read complete is still run.
    Ending,
    /// No more requests are run (QUIT, protocol error); closes when every reply has left.
    Finishing,
    /// A reply it was owed is lost with its upstream connection: it is told nothing more, and closed in its time.
    Lost,
    /// It ends with the event at hand.
    Closed,
}

/// One child.
#[derive(Debug, Default)]
pub struct Child {
    /// Its own name; none before it is among the children.
    key: ChildKey,
    /// The driver's handle for its connection; opaque here.
    link: usize,
    origin: Origin,
    opened: Millis,
    last_request: Millis,
    session: Session,
    /// As whom its requests go upstream.
    user: UserId,
    /// Which of the broker's own users it is, with `auth = users`.
    account: Option<AccountId>,
    last_command: Option<CommandId>,

    state: ChildState,
    /// It ends no sooner, since what it has asked for is lost.
    ends_at: Option<Millis>,
    /// It will send nothing more: end of file was read.
    eof: bool,
    /// It has hung up, perhaps with bytes still unread.
    hung_up: bool,
    /// All it sends is ignored. Redis never closes a connection by itself on which QUIT has had no reply (CLIENT REPLY
    /// OFF).
    ignored: bool,

    hold: Hold,
    front: Front,
    /// Something may have been learned about the request at the front; most are done at once.
    front_has_waited: bool,
    /// What it has sent and what has not been run: at most one partial request and two reads' worth, or as
    /// `request::reading` says while it takes no replies.
    inbox: Inbox<Scanner>,
    /// What its incomplete request holds, if that is long.
    claim: Option<Box<InputClaim>>,
    /// Bytes it has ever sent.
    sent_bytes: u64,
    /// When the bytes came that were not run at once, by where they end in all that it has sent.
    kept: Option<Box<Stamps>>,
    /// Since when its socket does not take what there is, microseconds.
    blocked_since: Option<u64>,
    /// Requests of it that were run.
    requests: u64,
    /// Bytes it had taken at the last look, when it was last seen to have taken some, and since when it has taken nothing of
    /// what there is.
    taken: u64,
    taken_at: Millis,
    stuck_since: Option<Millis>,
    /// Each of its reads says who has written, since it uses the console.
    asks_writer: bool,
    /// What it is suspected of.
    leak: Option<LeakKind>,
    /// What it had done when it was last counted for another process.
    credited: Usage,
    ahead: ReadAhead,
    outbox: Outbox,
    sent: Sent,
    reads: Reads,
    /// Its requests under way whose replies count listeners, if there are any.
    counted: Option<Box<CountedLine>>,
    /// It is about to go to another process: no further request of it is run, and none is read.
    moving: bool,
    /// No other process can take it.
    stays: bool,
    /// Stands in line for its turn at running requests.
    runnable: bool,
    /// Bytes of requests it may still run in this turn; negative after a large one, until later turns have paid for
    /// it. Zero while it has nothing to run.
    credit: i64,

    lease: Option<HeldLease>,
    subscriptions: Option<Box<OwnSubscriptions>>,
    topics: Option<Box<SharedSubscriptions>>,
    /// When it is looked at, should it wait for these.
    topics_due: Millis,
    /// As last added to the broker's memory total.
    footprint: usize,
}

impl Child {
    pub(crate) fn new(session: Session, origin: Origin, link: usize, now: Millis) -> Self {
        Child { session, origin, link, opened: now, last_request: now, taken_at: now, ..Child::default() }
    }

    pub(crate) fn key(&self) -> ChildKey {
        self.key
    }

    pub(crate) fn link(&self) -> usize {
        self.link
    }

    pub(crate) fn set_link(&mut self, link: usize) {
        self.link = link;
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    pub(crate) fn user(&self) -> UserId {
        self.user
    }

    pub(crate) fn account(&self) -> Option<AccountId> {
        self.account
    }

    pub(crate) fn set_user(&mut self, user: UserId, account: Option<AccountId>) -> UserId {
        self.account = account;
        std::mem::replace(&mut self.user, user)
    }

    /// Whether it has said who it is, or did not have to.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.user != UserId::NOBODY
    }

    pub(crate) fn last_command(&self) -> Option<CommandId> {
        self.last_command
    }

    pub(crate) fn set_last_command(&mut self, command: Option<CommandId>) {
        self.last_command = command;
    }

    pub(crate) fn opened(&self) -> Millis {
        self.opened
    }

    pub(crate) fn last_request(&self) -> Millis {
        self.last_request
    }

    /// Moves the child's state; only ever forward.
    pub(crate) fn set_state(&mut self, to: ChildState) {
        debug_assert!(to >= self.state, "child {:?} -> {to:?}", self.state);
        self.state = to;
    }

    pub(crate) fn end_input(&mut self) {
        self.eof = true;
        if self.state == ChildState::Open {
            self.set_state(ChildState::Ending);
        }
    }

    pub(crate) fn hang_up(&mut self) {
        self.hung_up = true;
    }

    pub(crate) fn has_left(&self) -> bool {
        self.eof || self.hung_up
    }

    /// Whether it is to be closed: none of its requests is run any more, and it has all it was owed. A `draining` broker
    /// does not wait for the end of one whose bytes are ignored.
    pub(crate) fn is_over(&self, draining: bool) -> bool {
        let kept = (self.ignored && !self.eof && !draining) || self.ends_at.is_some();
        let is_given = match self.state {
            ChildState::Finishing => self.outbox.is_settled(),
            ChildState::Lost => self.outbox.output().is_empty(),
            _ => false,
        };
        is_given && !kept
    }

    /// None of its requests is run any more, and it ends at this time at the earliest.
    pub(crate) fn end_later(&mut self, at: Millis) {
        self.ends_at = Some(at);
    }

    /// Whether the time has come at which it may end. Asked once: it is not kept for that any more.
    pub(crate) fn end_is_due(&mut self, now: Millis) -> bool {
        self.ends_at.take_if(|at| *at <= now).is_some()
    }

    /// Nothing that it still waits for will come.
    pub(crate) fn lose_replies(&mut self) {
        self.set_state(ChildState::Lost);
        self.outbox.lose();
    }

    pub(crate) fn end_at_request(&mut self) {
        self.ignored = self.session.is_muted() && self.outbox.is_silent();
    }

    pub(crate) fn state(&self) -> ChildState {
        self.state
    }

    /// Whether it ends with the event at hand.
    pub(crate) fn is_closed(&self) -> bool {
        self.state == ChildState::Closed
    }

    /// Whether it has said that it knows the broker's own errors, or is the program that embeds the loop.
    pub(crate) fn is_told_of_losses(&self) -> bool {
        self.session.takes_errors || self.origin.is_local()
    }

    /// Whether it is told nothing more, whatever comes for it.
    #[inline(always)]
    pub(crate) fn is_deaf(&self) -> bool {
        self.state >= ChildState::Lost
    }

    /// Whether none of its requests is run any more.
    pub(crate) fn is_finished(&self) -> bool {
        self.state >= ChildState::Finishing
    }

    pub(crate) fn wants_read(&self) -> bool {
        // One that has enough to run for its next turn is read when it has had it.
        let has_enough = self.runnable && self.inbox.len() >= limits::READ_TURN;
        self.takes_bytes() && (self.state != ChildState::Open || self.hold != Hold::None || !has_enough)
    }

    /// Whether bytes of it could be of use at all, however much it has to run.
    pub(crate) fn takes_bytes(&self) -> bool {
        match (self.state, self.hold) {
            // What it sends is for whoever has it then.
            (ChildState::Open, _) if self.moving => false,
            // Nobody runs what it still sends. But it has to get rid of it before it can read what it was told.
            (ChildState::Finishing | ChildState::Lost, _) => self.ignored || !self.origin.is_local(),
            (ChildState::Ending | ChildState::Closed, _) => false,
            (ChildState::Open, Hold::None) => true,
            (ChildState::Open, Hold::OutputFull) => self.ahead.allows(self.inbox.len()),
            // Whoever it waits for may wait for the end of its write.
            (ChildState::Open, Hold::BlockingReply | Hold::Element) => !self.origin.is_local(),
            // These end by themselves: by a reply that is on its way, or in time.
            (ChildState::Open, _) => false,
        }
    }

    pub(crate) fn pool_key(&self) -> PoolKey {
        let Session { db, proto, no_touch, .. } = self.session;
        PoolKey { user: self.user, db, proto, no_touch, replica: 0 }
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(crate) fn reads_mut(&mut self) -> &mut Reads {
        &mut self.reads
    }

    pub(crate) fn front_is_done(&mut self) {
        self.session.request_done();
        if self.front_has_waited {
            (self.front, self.front_has_waited) = (Front::default(), false);
        }
    }

    pub(crate) fn front(&self) -> &Front {
        &self.front
    }

    /// Whether nothing is under way about the request at the front: it may be looked at by somebody else.
    pub(crate) fn front_is_fresh(&self) -> bool {
        !self.front_has_waited || self.front.is_fresh()
    }

    pub(crate) fn is_moving(&self) -> bool {
        self.moving
    }

    /// It is not to be given again.
    pub(crate) fn keep(&mut self) {
        self.stays = true;
    }

    pub(crate) fn set_moving(&mut self, moving: bool) {
        self.moving = moving;
    }

    /// Whether it may be given to another process as it stands, once it is at rest: nothing upstream is its own.
    pub(crate) fn may_move(&self) -> bool {
        self.topics.is_none() && self.may_move_listening()
    }

    /// Whether it may do so once its request has come to its end, as far as can be told.
    pub(crate) fn may_be_taken_off(&self) -> bool {
        self.is_movable() && self.topics.is_none() && self.subscriptions.is_none()
    }

    /// Whether it is one of those that another process could serve at all.
    fn is_movable(&self) -> bool {
        let is_plain =
            self.state == ChildState::Open && !self.stays && !self.ignored && self.ends_at.is_none();
        is_plain && self.origin.kind().is_accepted() && self.origin.secured().is_none()
    }

    /// The same, together with the connection of what it listens to.
    pub(crate) fn may_move_listening(&self) -> bool {
        let owns_nothing = self.lease.is_none() && self.subscriptions.is_none();
        let is_unbound = !self.session.is_pinned() && self.session.transaction.may_move();
        let is_read = self.claim.as_ref().is_none_or(|claim| !claim.is_skipped);
        self.is_movable() && owns_nothing && is_unbound && is_read && self.front_is_fresh()
    }

    /// Whether it has all that it was owed but for what its socket has not taken, and nothing of it is upstream.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.hold == Hold::None
            && !self.runnable
            && !self.is_under_way()
            && self.counted.is_none()
            && self.outbox.is_complete()
    }

    /// It has done this with another process, which is not counted here.
    pub(crate) fn go_on_from(&mut self, done: Usage, opened: Millis, last_request: Millis) {
        (self.requests, self.sent_bytes, self.credited) = (done.requests, done.bytes_in, done);
        (self.taken, self.opened, self.last_request) = (done.bytes_out, opened, last_request);
        self.outbox.go_on_from(done.bytes_out);
    }

    pub(crate) fn front_mut(&mut self) -> &mut Front {
        self.front_has_waited = true;
        &mut self.front
    }

    /// What the control connection has said about the request at the front.
    #[inline]
    pub(crate) fn take_answer(&mut self) -> Option<Answer> {
        if self.front_has_waited { self.front.answer_mut().take() } else { None }
    }

    pub(crate) fn hold(&self) -> Hold {
        self.hold
    }

    pub(crate) fn set_hold(&mut self, hold: Hold) {
        self.hold = hold;
    }

    /// Its next request cannot run before it has taken replies.
    pub(crate) fn hold_for_output(&mut self) {
        self.hold = Hold::OutputFull;
        self.ahead = ReadAhead::default();
    }

    pub(crate) fn inbox(&self) -> &Inbox<Scanner> {
        &self.inbox
    }

    pub(crate) fn inbox_mut(&mut self) -> &mut Inbox<Scanner> {
        &mut self.inbox
    }

    /// It has sent so many bytes. True if they can be run at once, in front of nothing else.
    pub(crate) fn hear(&mut self, len: usize, now: Millis) -> bool {
        self.last_request = now;
        self.sent_bytes += len as u64;
        self.inbox.is_empty() && self.hold == Hold::None
    }

    pub(crate) fn claim(&self) -> Option<&InputClaim> {
        self.claim.as_deref()
    }

    pub(crate) fn claim_mut(&mut self) -> &mut Option<Box<InputClaim>> {
        &mut self.claim
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// What of its input is left for later has come by now.
    #[inline]
    pub(crate) fn note_kept(&mut self, micros: u64) {
        if !self.inbox.is_empty() {
            self.kept.get_or_insert_default().note(self.sent_bytes, micros);
        } else if self.kept.is_some() {
            self.kept = None;
        }
    }

    /// Whether it is known since when some of its input stands.
    #[inline]
    pub(crate) fn has_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// For how long the request in front of the last `rest` bytes has stood in its input, microseconds.
    pub(crate) fn input_us(&mut self, rest: usize, micros: u64) -> u64 {
        let Some(kept) = &mut self.kept else { return 0 };
        kept.take(self.sent_bytes - rest as u64).map_or(0, |(_, came)| micros.saturating_sub(came))
    }

    /// Its socket has taken what it could. For how long it had not taken all of it, once it has.
    #[inline]
    pub(crate) fn note_blocked_output(&mut self, micros: u64) -> Option<u64> {
        if self.outbox.output().is_empty() {
            return self.blocked_since.take().map(|since| micros.saturating_sub(since));
        }
        self.blocked_since.get_or_insert(micros);
        None
    }

    /// One of its requests has been run.
    #[inline]
    pub(crate) fn count_request(&mut self) {
        self.requests += 1;
    }

    /// What it has done so far.
    pub(crate) fn usage(&self) -> Usage {
        let bytes_out = self.outbox.output().consumed();
        Usage { requests: self.requests, bytes_in: self.sent_bytes, bytes_out }
    }

    pub(crate) fn ahead_mut(&mut self) -> &mut ReadAhead {
        &mut self.ahead
    }

    /// It stands in line for its turn. False if it did before.
    pub(crate) fn line_up(&mut self) -> bool {
        !std::mem::replace(&mut self.runnable, true)
    }

    pub(crate) fn take_turn(&mut self) {
        self.runnable = false;
    }

    pub(crate) fn is_lined_up(&self) -> bool {
        self.runnable
    }

    /// Its turn begins. Returns what it has to spend.
    pub(crate) fn begin_turn(&mut self) -> i64 {
        self.credit = (self.credit + limits::CHILD_TURN).min(limits::CHILD_TURN);
        self.credit
    }

    pub(crate) fn credit(&self) -> i64 {
        self.credit
    }

    pub(crate) fn end_turn(&mut self) {
        self.credit = 0;
    }

    /// A request of `len` bytes has been run, or a frame without one.
    pub(crate) fn charge(&mut self, len: usize) {
        self.spend(len.max(limits::REQUEST_COST_MIN as usize));
    }

    /// The request at hand costs so much of its turn, in bytes of requests that take as long.
    pub(crate) fn spend(&mut self, cost: usize) {
        self.credit -= cost as i64;
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    pub(crate) fn sent(&self) -> &Sent {
        &self.sent
    }

    pub(crate) fn sent_mut(&mut self) -> &mut Sent {
        &mut self.sent
    }

    /// How many requests may be in flight, of the `max` that are allowed to any child.
    #[inline]
    pub(crate) fn in_flight_max(&self, max: usize) -> u32 {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        // On a lane of its own nobody else stands behind them.
        if self.lease.is_some() { max } else { max.min(self.sent.window()) }
    }

    /// A request is sent whose reply counts listeners.
    pub(crate) fn begin_count(&mut self, counted: Counted) {
        self.counted.get_or_insert_default().push(counted);
    }

    /// The oldest of these is answered, or will not be.
    pub(crate) fn end_count(&mut self) -> Option<Counted> {
        let counted = self.counted.as_mut()?.pop();
        self.counted.take_if(|line| line.is_empty());
        counted
    }

    /// Whether a lane still carries requests of it, so that the next one must go the same way or wait.
    pub(crate) fn is_under_way(&self) -> bool {
        self.sent.in_flight() > 0 || self.sent.has_late()
    }

    /// Whether it is at the console alone, has nothing to run, and has taken all it was owed.
    pub(crate) fn is_idle_admin(&self) -> bool {
        let rests = self.hold == Hold::None && !self.runnable && !self.is_under_way();
        self.origin.kind() == ChildKind::Admin && rests && self.outbox.is_settled()
    }

    pub(crate) fn lease(&self) -> Option<HeldLease> {
        self.lease
    }

    pub(crate) fn lease_mut(&mut self) -> &mut Option<HeldLease> {
        &mut self.lease
    }

    /// The lane of its lease, if that is for longer than one command.
    pub(crate) fn lasting_lease(&self) -> Option<LaneKey> {
        self.lease.filter(|lease| lease.kind != LeaseKind::Blocking).map(|lease| lease.lane)
    }

    pub(crate) fn subscriptions(&self) -> Option<&OwnSubscriptions> {
        self.subscriptions.as_deref()
    }

    pub(crate) fn subscriptions_mut(&mut self) -> &mut Option<Box<OwnSubscriptions>> {
        &mut self.subscriptions
    }

    pub(crate) fn topics(&self) -> Option<&SharedSubscriptions> {
        self.topics.as_deref()
    }

    pub(crate) fn topics_mut(&mut self) -> Option<&mut SharedSubscriptions> {
        self.topics.as_deref_mut()
    }

    pub(crate) fn topics_or_new(&mut self) -> &mut SharedSubscriptions {
        self.topics.get_or_insert_with(|| SharedSubscriptions::new(self.key, self.user))
    }

    /// Those on the connection of this user.
    pub(crate) fn topics_of_user(&mut self, user: UserId) -> &mut SharedSubscriptions {
        self.topics.get_or_insert_with(|| SharedSubscriptions::new(self.key, user))
    }

    pub(crate) fn take_topics(&mut self) -> Option<Box<SharedSubscriptions>> {
        self.topics.take()
    }

    pub(crate) fn topics_due(&self) -> Millis {
        self.topics_due
    }

    pub(crate) fn set_topics_due(&mut self, due: Millis) {
        self.topics_due = due;
    }

    /// Whether it has any subscription: its output is then bounded as a subscriber's.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.listens_on_lease() || self.topics().is_some_and(|topics| topics.total() > 0)
    }

    /// Whether it has shared subscriptions in RESP2: it may say little else, and PING is answered in another form.
    pub(crate) fn listens_in_resp2(&self) -> bool {
        self.session.proto == 2 && self.topics().is_some_and(|topics| topics.total() > 0)
    }

    pub(crate) fn listens_on_lease(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|subscriptions| subscriptions.total() > 0)
    }

    /// Channels, patterns, shard channels it has subscribed to.
    pub(crate) fn subscription_counts(&self) -> (u32, u32, u32) {
        let own = self.subscriptions.as_ref().map_or((0, 0, 0), |own| own.counts());
        let shared = self.topics.as_ref().map_or((0, 0, 0), |shared| shared.counts());
        (own.0 + shared.0, own.1 + shared.1, own.2 + shared.2)
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Looks whether it takes what it is given.
    pub(crate) fn note_taken(&mut self, now: Millis) {
        let taken = self.outbox.output().consumed();
        let has_taken = taken != self.taken;
        if has_taken {
            (self.taken, self.taken_at) = (taken, now);
        }
        if has_taken || self.outbox.output().is_empty() {
            self.stuck_since = None;
        } else {
            self.stuck_since.get_or_insert(now);
        }
    }

    /// Since when it takes nothing of what there is.
    pub(crate) fn stuck_since(&self) -> Option<Millis> {
        self.stuck_since
    }

    /// When it was last seen to have taken something.
    pub(crate) fn taken_at(&self) -> Millis {
        self.taken_at
    }

    /// It uses the console. Whether that is new.
    pub(crate) fn ask_writer(&mut self) -> bool {
        !std::mem::replace(&mut self.asks_writer, true)
    }

    pub(crate) fn leak(&self) -> Option<LeakKind> {
        self.leak
    }

    pub(crate) fn set_leak(&mut self, leak: Option<LeakKind>) {
        self.leak = leak;
    }

    /// What it has done since it is counted for the present process.
    pub(crate) fn uncredited(&self) -> Usage {
        self.usage().since(&self.credited)
    }

    pub(crate) fn take_uncredited(&mut self) -> Usage {
        let usage = self.uncredited();
        self.credited = self.usage();
        usage
    }

    pub(crate) fn origin_mut(&mut self) -> &mut Origin {
        &mut self.origin
    }

    pub(crate) fn label(&self) -> String {
        format!("{} ({})", self.session.id, self.origin.peer())
    }

    #[inline]
    pub(crate) fn measure(&self) -> usize {
        self.inbox.footprint()
            + self.outbox.footprint()
            + self.session.footprint()
            + self.topics.as_ref().map_or(0, |topics| topics.footprint())
            + self.front.footprint()
            + self.counted.as_ref().map_or(0, |counted| counted.footprint())
            + self.kept.as_ref().map_or(0, |kept| kept.footprint())
    }

    /// Measures it. Returns what it held when it was last measured, and what it holds now.
    pub(crate) fn take_stock(&mut self) -> (usize, usize) {
        let now = self.measure();
        (std::mem::replace(&mut self.footprint, now), now)
    }

    pub(crate) fn footprint(&self) -> usize {
        self.footprint
    }

    /// What would come free, or could, if it were not there: what it shares with others is held for it too.
    pub(crate) fn holds_bytes(&self) -> usize {
        self.footprint + self.outbox.output().in_fragments()
    }

    /// Whether it goes upstream as somebody else than the broker itself, whose rights are not known here.
    pub(crate) fn has_rights(&self) -> bool {
        self.user != UserId::UPSTREAM
    }
}
