//! One complete request: which checks it passes, in Redis' own order, and the execution of the way that `core::route` has
//! decided. Owns the ways that belong to no other room: shared lanes, the control connection, refusals.

use crate::base::failure::Failure;
use crate::base::limits;
use crate::command::{CommandId, Effect, Facts, Local, NO_COMMAND, Route, Runs, Table, Verdict, texts};
use crate::config::value::Ping;
use crate::core::child::hold::{Answer, Hold};
use crate::core::child::{Child, log_child};
use crate::core::connection::role::{LaneRole, Traffic};
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::console::parse::is_console;
use crate::core::keys::{LaneKey, PoolKey};
use crate::core::questions::control::Question;
use crate::core::request::flow::{Decided, Flow};
use crate::core::route;
use crate::core::route::{Context, Situation, Stand, Way};
use crate::core::shared::Shared;
use crate::core::transaction::state::end_of_multi;
use crate::resp::{FrameLimits, Request, Scanner, reply};
use std::convert::identity;

/// Why some commands are refused whatever the settings say: programs that send them show the text and end.
pub(crate) const TAKES_OVER: &str =
    ": it takes a connection over, and the broker's are shared; connect to the server itself";

/// Whoever debugs a script expects that its writes are undone.
pub(crate) const NOT_DEBUGGED: &str = "ERR SCRIPT DEBUG was refused, and without it the script would run for good; connect to the \
     server itself";

impl Shared {
    pub(crate) fn dispatch(&mut self, child: &mut Child, request: &Request<'_>, rest: &[u8]) -> Flow {
        match child.take_answer() {
            Some(Answer::UnknownCommand) => return self.reject(child, self.unknown_command(request)),
            Some(Answer::Frame(frame)) => {
                if reply::is_error(&frame) {
                    child.session_mut().transaction.spoil();
                }
                self.answer(child, &frame);
                return Flow::Done;
            }
            None => {}
        }
        if self.moving.is_elsewhere() && !is_console(request) {
            // The table, and all that is asked, is of a server that may not be moved to.
            return Flow::Hold(Hold::Paused);
        }
        let Some(table) = self.commands.table() else {
            return if is_console(request) {
                self.console(child, request)
            } else {
                self.without_table(child, request)
            };
        };
        let verdict = table.classify(request);
        child.set_last_command(if let Verdict::Known(known) = &verdict { Some(known.id) } else { None });
        match verdict {
            Verdict::Hangup => {
                // Redis loses even the replies it had not written yet.
                self.close(child);
                Flow::Gone
            }
            Verdict::Unknown if is_console(request) => self.console(child, request),
            Verdict::Unknown => self.look_up(child, request),
            Verdict::UnknownSubcommand => self.reject(child, texts::unknown_subcommand(request)),
            Verdict::Known(known) => {
                let decided = Decided { request, id: known.id, no_multi: known.no_multi, route: known.route };
                if known.arity_ok {
                    return self.dispatch_known(child, decided, rest);
                }
                let text = texts::wrong_arity(known.name);
                self.turn_away(child, &decided, &text)
            }
        }
    }

    /// A known command with the right number of arguments. The order of the checks is Redis' own.
    fn dispatch_known(&mut self, child: &mut Child, mut decided: Decided<'_>, rest: &[u8]) -> Flow {
        let request = decided.request;
        let refused = self.admit(child, &mut decided).or_else(|| self.refuse_too_long(child, request));
        if let Some(flow) = refused {
            return flow;
        }
        if decided.route == Route::Local(Local::Ping) && self.env.settings.ping == Ping::Upstream {
            let otherwise = child.listens_in_resp2();
            decided.route = if otherwise { Route::Local(Local::SubscriberPing) } else { Route::Shared };
        }
        let held = child.lasting_lease();
        let facts = self.facts(child, decided, held);
        let mut way = route::way(&facts, decided.route, decided.no_multi);
        if let Way::RejectListener { is_exec } = way {
            return self.reject_listener(child, decided.id, is_exec);
        }
        if child.session().debugs && self.is_script(decided.id) {
            return self.reject(child, NOT_DEBUGGED);
        }
        if self.work.is_busy() {
            if let Some(flow) = self.refuse_while_busy(child, &mut decided) {
                return flow;
            }
            way = route::way(&facts, decided.route, decided.no_multi);
        }
        if self.pause.holds() && self.is_held_by_pause(child, way) {
            return Flow::Hold(Hold::Paused);
        }
        match held {
            Some(lane) if facts.context != Context::QueuedMulti => {
                self.execute_leased(child, decided, way, lane)
            }
            _ => self.execute(child, decided, way, rest),
        }
    }

    /// What the way of this request depends on. `held` is the lane of the child's lease, if it has one for longer than a
    /// command.
    #[inline(always)]
    fn facts(&self, child: &Child, decided: Decided<'_>, held: Option<LaneKey>) -> Situation {
        let Decided { request, route, .. } = decided;
        let transaction = &child.session().transaction;
        let context = match held {
            _ if transaction.is_queued_here() => Context::QueuedMulti,
            Some(_) if transaction.is_leased() => Context::LeasedMulti,
            Some(_) => Context::Lease,
            None => Context::Shared,
        };
        let shares_topics = matches!(route, Route::Subscribe(change)
            if self.subscribes_shared(child, request, change));
        Situation {
            context,
            listens_resp2: child.listens_in_resp2(),
            lease_listens_resp2: child.session().proto == 2 && child.listens_on_lease(),
            watch_lost: transaction.is_watch_lost(),
            tracks: child.session().tracking.is_some(),
            shares_topics,
            wrote_elsewhere: route == Route::Replicas
                && held.is_some_and(|lane| self.wrote_elsewhere(child, lane)),
        }
    }

    pub(crate) fn is_script(&self, id: CommandId) -> bool {
        self.commands.table().is_some_and(|table: &Table| table.runs(id) != Runs::Nothing)
    }

    /// The upstream has been replaced and the new one's commands are not known yet. A MULTI that is open on
    /// a leased lane can be ended all the same, by the names its end is known by everywhere.
    fn without_table(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        match (child.session().transaction.is_leased(), child.lease(), end_of_multi(request)) {
            (true, Some(lease), Some(end)) => {
                let route = Route::Transaction(end);
                self.on_lease(child, Decided { request, id: NO_COMMAND, no_multi: false, route }, lease.lane)
            }
            _ => self.wait_for_upstream(child),
        }
    }

    /// The request at the front is done: what was set aside for it is not the next one's.
    #[inline(always)]
    pub(crate) fn front_is_done(&mut self, child: &mut Child) {
        child.front_is_done();
        let (has_lease, has_topics) = (child.lease().is_some(), child.topics().is_some());
        if has_lease {
            self.end_unused_lease(child);
        }
        if has_topics {
            self.forget_front_topics(child);
        }
    }

    fn execute(&mut self, child: &mut Child, decided: Decided<'_>, way: Way, rest: &[u8]) -> Flow {
        let Decided { request, id, .. } = decided;
        match way {
            Way::Share if child.sent().goes_apart(id) => self.block(child, decided).unwrap_or_else(identity),
            Way::Share => match self.lane_by_choice(child, id, request.bytes.len()) {
                Ok(lane) => {
                    self.send_for(child, lane, request.bytes, id, SlotKind::Relay, SlotFlags::NONE);
                    Flow::Done
                }
                Err(flow) => flow,
            },
            Way::Local(local) => self.local(child, local, request).unwrap_or_else(identity),
            Way::Refuse => self.refuse(child, request, id),
            Way::Reject(text) => self.reject(child, text),
            Way::AnswerError(text) => {
                self.answer_error(child, text);
                Flow::Done
            }
            Way::RejectListener { is_exec } => self.reject_listener(child, id, is_exec),
            Way::RejectLeasedExec => self.reject_exec(child, request, ""),
            Way::RejectInMulti => self.reject_in_multi(child, id),
            Way::Block => self.block(child, decided).unwrap_or_else(identity),
            Way::Replicas => self.wait_for_replicas(child, decided).unwrap_or_else(identity),
            Way::Control => self.send_control(child, request, id),
            Way::Borrow(kind) => {
                self.lease_for(child, kind).map_or_else(identity, |lane| self.on_lease(child, decided, lane))
            }
            Way::Topics(change) => self.change_topics(child, request, change),
            Way::Count(count) => self.send_count(child, decided, count),
            Way::LeaveNothing(family) => self.leave_nothing(child, family, request),
            Way::Multi => self.begin_multi(child, decided, rest),
            Way::WatchLost => self.answer_ok(child),
            Way::UnwatchNothing => {
                child.session_mut().transaction.forget_watch();
                self.answer_ok(child)
            }
            Way::Queue(local) => self.queue_command(child, decided, local, None),
            Way::Escalate => self.escalate(child, decided),
            Way::ExecQueued => self.exec_queued(child, request, id),
            Way::DiscardQueued => self.discard_queued(child),
            Way::Leased(leased) => {
                let Some(held) = child.lease() else {
                    debug_assert!(false, "{leased:?} without a lease");
                    return Flow::Gone;
                };
                self.send_leased(child, decided, leased, held.lane)
            }
        }
    }

    pub(crate) fn on_lease(&mut self, child: &mut Child, decided: Decided<'_>, lane: LaneKey) -> Flow {
        let facts = self.facts(child, decided, Some(lane));
        let way = route::way(&facts, decided.route, decided.no_multi);
        self.execute_leased(child, decided, way, lane)
    }

    /// The lane of a lease carries everything of its child. So whatever the request is, it waits while that lane is full.
    fn execute_leased(&mut self, child: &mut Child, decided: Decided<'_>, way: Way, lane: LaneKey) -> Flow {
        if self.connections.holds_back(lane, child.key()) {
            return Flow::Hold(Hold::LaneFull);
        }
        self.execute(child, decided, way, &[])
    }

    pub(crate) fn answer_ok(&mut self, child: &mut Child) -> Flow {
        self.answer(child, b"+OK\r\n");
        Flow::Done
    }

    /// Answers with an error; an open MULTI is spoilt by it, as by any command Redis rejects. Not for what refuses a MULTI
    /// that Redis would have taken: see `fail_front`.
    pub(crate) fn reject(&mut self, child: &mut Child, error: impl Into<Failure>) -> Flow {
        let error = error.into();
        if self.ends_with(child, &error) {
            self.lose_child(child, None, &error);
            return Flow::Done;
        }
        child.session_mut().transaction.spoil();
        self.answer_error(child, error);
        Flow::Done
    }

    fn reject_listener(&mut self, child: &mut Child, id: CommandId, is_exec: bool) -> Flow {
        let name = self.commands.name_as_told(id);
        let mut text = texts::subscriber_context(name, self.commands.wording());
        if is_exec {
            // An EXEC that is rejected forgets the watched keys all the same.
            if child.is_under_way() {
                return Flow::Hold(Hold::OwnReplies);
            }
            child.session_mut().transaction.forget_watch();
            self.end_lease(child);
            text = texts::exec_aborted(&text);
        }
        self.reject(child, text)
    }

    /// A command that may not go through a shared broker: the text of an ACL refusal, which every client
    /// library maps to its own error.
    pub(crate) fn refuse(&mut self, child: &mut Child, request: &Request<'_>, id: CommandId) -> Flow {
        let name = self.commands.name(id);
        let mut text = texts::refused(name);
        if Facts::of_name(name).effect() == Effect::TakesOver {
            text.push_str(TAKES_OVER);
        }
        if name == "script|debug" {
            child.session_mut().debugs = !request.arg(2).eq_ignore_ascii_case(b"no");
        }
        log_child!(info, child, "refused '{name}' of child {}", child.label());
        self.reject(child, text)
    }

    fn unknown_command(&self, request: &Request<'_>) -> Vec<u8> {
        texts::unknown_command(request, self.commands.wording())
    }

    /// A name the table does not have: it may be a renamed SELECT, so the upstream is asked what it means
    /// before it goes anywhere.
    fn look_up(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        let name = request.arg(0);
        if name.len() > limits::COMMAND_NAME_MAX || name.contains(&0) || name.is_empty() {
            return self.reject(child, self.unknown_command(request));
        }
        if !self.control_is_ready() {
            return self.wait_for_upstream(child);
        }
        self.ask(Question::Lookup { child: child.key(), name: name.to_vec() });
        Flow::Hold(Hold::Question)
    }

    /// The shared lane for this child's next request, of `len` bytes; or why it has to wait. A child changes
    /// lanes only while nothing of it is in flight, else its requests could overtake each other.
    pub(crate) fn shared_lane_for(
        &mut self,
        child: &mut Child,
        id: CommandId,
        len: usize,
    ) -> Result<LaneKey, Flow> {
        let heavy = self.expects_heavy(child, id, len);
        self.lane_for(child, if heavy { Traffic::Bulk } else { Traffic::Ordinary })
    }

    /// The same, for a request that may go where its child wants to read.
    #[inline(always)]
    fn lane_by_choice(&mut self, child: &mut Child, id: CommandId, len: usize) -> Result<LaneKey, Flow> {
        if child.reads().are_from_replicas() {
            return self.lane_by_reads(child, id, len);
        }
        self.shared_lane_for(child, id, len)
    }

    /// Whether this request, or the reply to it, is expected to be long.
    #[inline(always)]
    pub(crate) fn expects_heavy(&mut self, child: &Child, id: CommandId, len: usize) -> bool {
        child.sent().expects_heavy(id, len) || child.sent().is_new() && self.was_heavy(child, id)
    }

    #[inline(never)]
    fn was_heavy(&mut self, child: &Child, id: CommandId) -> bool {
        self.connections.is_heavy_of_late(child.pool_key(), id, self.env.now)
    }

    /// The same for what is of this kind.
    #[inline(always)]
    pub(crate) fn lane_for(&mut self, child: &mut Child, traffic: Traffic) -> Result<LaneKey, Flow> {
        self.lane_in(child, child.pool_key(), traffic)
    }

    /// The same in this pool.
    #[inline(always)]
    pub(crate) fn lane_in(
        &mut self,
        child: &mut Child,
        pool: PoolKey,
        traffic: Traffic,
    ) -> Result<LaneKey, Flow> {
        let key = if child.is_under_way() {
            let key = child.sent().lane();
            if !self.connections.still_serves(key, &pool, traffic) {
                return Err(Flow::Hold(Hold::OwnReplies));
            }
            key
        } else {
            self.connections.shared_lane(&self.env, pool, traffic)
        };
        let new = child.sent().is_new();
        if self.connections.holds_back(key, child.key())
            || new && self.connections.holds_newcomer(key, child.key())
        {
            return Err(Flow::Hold(Hold::LaneFull));
        }
        child.sent_mut().set_lane(key);
        Ok(key)
    }

    /// Puts a child's request on a lane. `Swallow`, `Subscribe` and `Housekeeping` have no place in the
    /// order of its replies.
    pub(crate) fn send_for(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        bytes: &[u8],
        id: CommandId,
        kind: SlotKind,
        flags: SlotFlags,
    ) {
        // WAIT must not follow a message to a connection that it would block.
        let waits_here = kind != SlotKind::Count || !self.carries_topics(lane);
        let writes = self.commands.table().is_some_and(|table| table.is_write(id)) && waits_here;
        let flags = if writes { flags.with(SlotFlags::WRITE) } else { flags };
        let flags = if child.sent().is_new() { flags.with(SlotFlags::NEWCOMER) } else { flags };
        let (flags, canary) = self.guard(child, lane, kind, flags);
        child.sent_mut().begin();
        // What it publishes itself comes before the reply.
        if child.outbox().holds_pushes() && (flags.has(SlotFlags::MAY_WAIT) || self.may_publish(id)) {
            self.release_held_pushes(child);
        }
        if !matches!(kind, SlotKind::Swallow | SlotKind::Subscribe | SlotKind::Housekeeping) {
            let muted = child.session().is_muted();
            child.outbox_mut().expect(muted);
        }
        debug_assert!(self.may_stand_on(lane, bytes, kind, flags), "on {lane:?}: {}", bytes.escape_ascii());
        self.connections.send(&mut self.env, lane, bytes, Slot::of(child.key(), id, kind, flags));
        if canary {
            self.connections.send_canary(&mut self.env, lane);
        } else {
            self.sample(lane, child, kind, flags);
        }
    }

    fn may_publish(&self, id: CommandId) -> bool {
        self.commands.table().is_some_and(|table| table.may_publish(id))
    }

    fn carries_topics(&self, lane: LaneKey) -> bool {
        self.connections.known(lane).is_some_and(|lane| lane.role() == LaneRole::Subscriber)
    }

    /// The same for requests that mean nothing without the one that is put on next: each with its command, and where it ends
    /// in `bytes`; the first begins at `from`. There may be very many of them, and nothing may come between. A long one is
    /// not copied.
    pub(crate) fn send_bound(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        bytes: &[u8],
        (requests, from): (&[(CommandId, usize)], usize),
        (kind, flags): (SlotKind, SlotFlags),
    ) {
        let (mut rest, mut start) = (requests, from);
        while let Some(((id, end), others)) = rest.split_first() {
            if end - start >= limits::FRAGMENT_MIN {
                self.send_for(child, lane, &bytes[start..*end], *id, kind, flags);
                (rest, start) = (others, *end);
                continue;
            }
            let mut before = start;
            let is_short = |(_, end): &&(CommandId, usize)| {
                let len = end - std::mem::replace(&mut before, *end);
                len < limits::FRAGMENT_MIN
            };
            let (short, long) = rest.split_at(rest.iter().take_while(is_short).count());
            let end = short.last().map_or(start, |(_, end)| *end);
            self.send_short(child, lane, &bytes[start..end], (short, start), (kind, flags));
            (rest, start) = (long, end);
        }
    }

    /// Short ones in a row, whose ends count from `from` bytes before `bytes`.
    fn send_short(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        bytes: &[u8],
        (requests, from): (&[(CommandId, usize)], usize),
        (kind, flags): (SlotKind, SlotFlags),
    ) {
        let (flags, _) = self.guard(child, lane, kind, flags);
        debug_assert!(self.may_all_stand_on(lane, bytes, (requests, from), kind, flags));
        let (table, muted) = (self.commands.table(), child.session().is_muted());
        let key = child.key();
        let slots = requests.iter().map(|(id, end)| {
            let writes = table.is_some_and(|table| table.is_write(*id));
            let flags = if writes { flags.with(SlotFlags::WRITE) } else { flags };
            (*end - from, Slot::of(key, *id, kind, flags))
        });
        child.sent_mut().begin_many(requests.len());
        if kind == SlotKind::Relay {
            (0..requests.len()).for_each(|_| child.outbox_mut().expect(muted));
        }
        self.connections.send_all(&mut self.env, lane, bytes, slots);
    }

    /// For builds that check themselves. Of very many the first: the check must not be what keeps others waiting.
    fn may_all_stand_on(
        &self,
        lane: LaneKey,
        bytes: &[u8],
        (requests, from): (&[(CommandId, usize)], usize),
        kind: SlotKind,
        flags: SlotFlags,
    ) -> bool {
        const CHECKED: usize = 4_096;
        let mut start = 0;
        requests.iter().take(CHECKED).all(|(_, end)| {
            let request = &bytes[start..end - from];
            start = end - from;
            self.may_stand_on(lane, request, kind, flags)
        })
    }

    /// Whether a request may stand on this lane; on a shared one, as `route::may_be_shared` says.
    fn may_stand_on(&self, key: LaneKey, bytes: &[u8], kind: SlotKind, flags: SlotFlags) -> bool {
        let lane = self.connections.find(key).filter(|lane| lane.role() == LaneRole::Shared);
        let Some((lane, table)) = lane.zip(self.commands.table()) else { return true };
        let mut scanner = Scanner::default();
        scanner.scan(bytes, &FrameLimits { request_max: usize::MAX, authenticated: true });
        let Verdict::Known(known) = table.classify(&scanner.request(bytes)) else {
            // Queued when another table was in use: the upstream has become another release.
            return flags.has(SlotFlags::UNIT);
        };
        let changes = Facts::of_name(known.name).effect() != Effect::None;
        let stands = match kind {
            SlotKind::Wait => Stand::Detached,
            _ if lane.carries_blocks() => Stand::BehindMulti,
            _ if flags.has(SlotFlags::UNIT) => Stand::InBlock,
            _ => Stand::Alone,
        };
        route::may_be_shared(known.route, changes, stands)
    }

    /// SCRIPT KILL and FUNCTION KILL: on the lane that runs the script they would stand behind it. Nothing of the child
    /// follows before the answer, since it would go another way; what it has been told to be lost need not have come.
    fn send_control(&mut self, child: &mut Child, request: &Request<'_>, id: CommandId) -> Flow {
        if child.sent().in_flight() > 0 {
            return Flow::Hold(Hold::OwnReplies);
        }
        if child.has_rights() {
            return self.ask_relay(child, request);
        }
        if !self.control_is_ready() {
            return self.wait_for_upstream(child);
        }
        self.send_for(child, self.control.lane(), request.bytes, id, SlotKind::Relay, SlotFlags::NONE);
        Flow::Hold(Hold::Reply)
    }
}
