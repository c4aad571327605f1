//! Running a child's requests: its turns and their length, what makes the next request wait, what follows a run. One turn
//! serves one child. Requests about other children go back to the broker.

use crate::base::failure::Failure;
use crate::base::limits;
use crate::base::outgoing::Fragment;
use crate::core::child::ChildKind;
use crate::core::child::closing::CloseReason;
use crate::core::child::front::Progress;
use crate::core::child::hold::Hold;
use crate::core::child::outbox::Frame;
use crate::core::child::{Child, ChildState};
use crate::core::connection::lane::Lane;
use crate::core::host::leaks::LeakEnd;
use crate::core::keys::LeaseKind;
use crate::core::notice::Notice;
use crate::core::request::flow::{Flow, Roster};
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::resp::{FrameLimits, Frames, ProtocolError, Scan, Scanner, encode};

/// A request about other children, and its length.
pub(crate) type ForBroker = (Roster, usize);

impl Shared {
    fn end_turn(&mut self, child: &mut Child, more: bool) {
        self.turn.budget -= (self.turn.credit - child.credit()).max(limits::REQUEST_COST_MIN);
        if child.hold() == Hold::None && child.credit() <= 0 && more {
            if !child.front().is_being_made() {
                self.nudge(child);
            } else if child.line_up() {
                self.env.go_on_later(child.key());
            }
        } else {
            child.end_turn();
        }
    }

    /// Goes on behind a request of `len` bytes about other children, of which this has become.
    pub(crate) fn go_on(
        &mut self,
        child: &mut Child,
        frames: &mut Frames<'_, Scanner>,
        flow: Flow,
        len: usize,
    ) -> Option<ForBroker> {
        match flow {
            Flow::Done => {
                self.count_request(child);
                self.front_is_done(child);
                child.charge(len);
                frames.done(len);
                return self.run_requests(child, frames);
            }
            Flow::Hold(hold) => self.hold(child, hold),
            _ => {}
        }
        self.end_turn(child, !frames.rest().is_empty());
        None
    }

    /// One turn of a child, by deficit round robin: runs complete requests until one has to wait, the child's credit is used
    /// up or none is left. With more to run it stands in line again, behind all that have something to run. Returns at a
    /// request about other children.
    pub(crate) fn run_requests(
        &mut self,
        child: &mut Child,
        frames: &mut Frames<'_, Scanner>,
    ) -> Option<ForBroker> {
        let request_max = self.request_max();
        if child.claim().is_some_and(|claim| claim.is_skipped) {
            self.skip_request(child, frames);
        }
        while !frames.rest().is_empty() && self.may_run(child) {
            let frame_limits = FrameLimits { request_max, authenticated: child.is_authenticated() };
            match frames.next_request(&frame_limits) {
                Scan::NeedMore { .. } => {
                    self.claim_room(child, frames);
                    break;
                }
                Scan::Empty { len } => {
                    child.charge(len);
                    frames.done(len);
                    child.session_mut().request_done();
                }
                Scan::Frame { len } => {
                    let (flow, left) = self.run_one(child, frames, len);
                    match flow {
                        Flow::Done => {
                            child.charge(len);
                            frames.done(left);
                            self.release_claim(child);
                        }
                        Flow::DoneThrough(more) => {
                            child.charge(len + more);
                            frames.done(left + more);
                        }
                        Flow::Hold(hold) => {
                            self.hold(child, hold);
                            break;
                        }
                        Flow::Roster(roster) => return Some((roster, len)),
                        Flow::More | Flow::Gone => break,
                    }
                }
                Scan::Error(error) => {
                    self.not_a_request(child, error);
                    break;
                }
            }
        }
        self.end_turn(child, !frames.rest().is_empty());
        None
    }

    /// What the child has sent is none: it is told so, and ends.
    pub(crate) fn not_a_request(&mut self, child: &mut Child, error: ProtocolError) {
        let reply = error.reply();
        let text = String::from_utf8_lossy(&reply[1..]);
        CloseReason::Protocol(text.trim_end()).log(child);
        self.answer(child, &reply);
        self.finish_at_request(child);
    }

    /// What follows every run: the rest is kept, a child that will send no more ends, bounds are checked.
    #[inline]
    pub(crate) fn end_run(&mut self, child: &mut Child, frames: Frames<'_, Scanner>) {
        child.inbox_mut().end(frames, &mut self.turn.scanner, &mut self.env.spares);
        child.note_kept(self.env.micros);
        if child.outbox().holds_pushes() && !self.goes_on_by_itself(child) {
            self.release_held_pushes(child);
        }
        if self.env.dismissing
            && child.state() == ChildState::Open
            && child.hold() == Hold::None
            && !self.is_in_transaction(child)
            // The console always answers: it goes with the broker.
            && child.origin().kind() != ChildKind::Admin
        {
            child.set_state(ChildState::Ending);
        }
        // One that stands in line has more to run, or is looked at again in any case.
        if child.state() == ChildState::Ending && child.hold() == Hold::None && !child.is_lined_up() {
            self.finish(child);
        }
        self.end_event(child);
    }

    /// Whether the child's next request is run without anything but the upstream's answers to what it has asked.
    fn goes_on_by_itself(&self, child: &Child) -> bool {
        let own = [Hold::OwnReplies, Hold::InFlightMax, Hold::LaneFull, Hold::Reply, Hold::Subscription];
        child.is_lined_up() || own.contains(&child.hold())
    }

    pub(crate) fn flushed(&mut self, child: &mut Child) {
        child.outbox_mut().retire(self.env.settings.subscriber_output_soft, &mut self.env.spares);
        self.note_output(child);
        if child.hold() == Hold::OutputFull && child.outbox().unread() < limits::CHILD_OUTPUT_PAUSE / 2 {
            self.lift(child);
        }
        self.end_event(child);
    }

    /// What follows whatever has happened to a child's bytes: bounds are checked, and one that leaves may go.
    fn end_event(&mut self, child: &mut Child) {
        if child.hold() == Hold::OutputFull {
            self.watch_read_ahead(child);
        }
        self.account_child(child);
        if child.state() != ChildState::Open || child.has_left() {
            if child.is_over(self.env.draining) {
                self.close(child);
            }
            self.let_go_if_blocked(child);
        }
    }

    /// Whether the child's request at the front may take as long as it likes.
    fn may_block(&self, child: &Child) -> bool {
        let command = self.commands.table().zip(child.last_command());
        command.is_some_and(|(table, id)| table.blocks(id))
    }

    /// Closes a child that waits for what nobody would take, once it has its earlier replies. A
    /// request that has only just come may be answered at once, as Redis would answer it before it looks
    /// at the end of file: it has a moment.
    pub(crate) fn let_go_if_blocked(&mut self, child: &mut Child) {
        if !child.has_left() || !child.outbox().output().is_empty() {
            return;
        }
        let wait = child.front().wait();
        let in_vain = match child.hold() {
            // A command that does not wait for anything but its lane is answered all the same.
            Hold::LeaseQueue => {
                wait.is_some_and(|wait| wait.kind == LeaseKind::Blocking) && self.may_block(child)
            }
            // Else those who hang up to try another password at once would fill the broker.
            Hold::BlockingReply | Hold::Element | Hold::AuthDelay => true,
            _ => false,
        };
        let due = wait.map_or(0, |wait| wait.arrived + limits::BLOCKED_END_GRACE);
        if in_vain && due <= self.env.now {
            self.close(child);
        } else if in_vain {
            self.env.timers.arm(due, Timer::Child(child.key()));
        }
    }

    /// The child ends with the event at hand. Nothing is done for it any more.
    pub(crate) fn close(&mut self, child: &mut Child) {
        if child.state() != ChildState::Closed {
            let by_itself = child.has_left() || child.is_finished();
            self.end_leak(child, if by_itself { LeakEnd::Gone } else { LeakEnd::Closed });
            self.leave_line(child);
            child.set_state(ChildState::Closed);
            child.set_hold(Hold::None);
            self.env.notify(Notice::Close(child.key()));
        }
    }

    /// The hold is over: the child's next request is looked at afresh.
    pub(crate) fn lift(&mut self, child: &mut Child) {
        child.set_hold(Hold::None);
        self.nudge(child);
    }

    /// Has the child looked at again at the end of the event, held or not.
    pub(crate) fn nudge(&mut self, child: &mut Child) {
        if child.line_up() {
            self.env.runnable.push_back(child.key());
        }
    }

    /// One complete request of `len` bytes. Returns how many of them are left in `frames`, too: a long one is handed on
    /// without being copied.
    fn run_one(&mut self, child: &mut Child, frames: &mut Frames<'_, Scanner>, len: usize) -> (Flow, usize) {
        match child.front().progress() {
            Progress::None => {}
            Progress::Answered => {
                self.count_request(child);
                self.front_is_done(child);
                return (Flow::Done, len);
            }
            Progress::Filling => return (Flow::Roster(Roster::Exec), len),
        }
        let lent = if len < limits::BULK_MIN { None } else { self.lend_request(frames, len) };
        let (request, rest) = match &lent {
            None => frames.request_and_rest(len),
            Some(lent) => frames.lent_request(lent, len),
        };
        if child.has_kept() {
            self.env.input_us = child.input_us(rest.len(), self.env.micros);
        }
        let flow = self.dispatch(child, &request, rest);
        self.env.input_us = 0;
        if matches!(flow, Flow::Done | Flow::DoneThrough(_)) {
            self.count_request(child);
            self.front_is_done(child);
            if child.outbox().holds_pushes() {
                let more = if let Flow::DoneThrough(more) = flow { more } else { 0 };
                let up_to = child.sent_bytes() - (rest.len() - more) as u64;
                child.outbox_mut().requests_run(up_to);
                self.mark_child(child);
            }
        }
        let Some(lent) = lent else { return (flow, len) };
        self.env.request = None;
        (flow, frames.take_back(lent, len))
    }

    /// One request of the child has been run.
    #[inline]
    pub(crate) fn count_request(&mut self, child: &mut Child) {
        self.env.counters.requests += 1;
        child.count_request();
        if let Some(id) = child.last_command() {
            self.commands.note_call(id);
        }
    }

    #[inline(never)]
    fn lend_request(&mut self, frames: &mut Frames<'_, Scanner>, len: usize) -> Option<Fragment> {
        let lent = frames.lend(len, &self.env.fragments);
        self.env.request = lent.as_ref().map(|lent| lent.part(0..len));
        lent
    }

    /// Whether the child's next request may be looked at; puts it on hold when a bound is reached.
    fn may_run(&mut self, child: &mut Child) -> bool {
        if child.is_finished() || child.hold() != Hold::None || child.credit() <= 0 {
            return false;
        }
        // What has been read before a message must be answered before it.
        if child.is_moving() && child.front_is_fresh() && !child.outbox().holds_pushes() {
            return false;
        }
        if child.sent().in_flight() >= self.in_flight_max(child) {
            child.set_hold(Hold::InFlightMax);
        } else if child.outbox().unread() >= limits::CHILD_OUTPUT_PAUSE {
            child.hold_for_output();
        }
        child.hold() == Hold::None
    }

    /// How many of the child's requests may be in flight now.
    #[inline]
    pub(crate) fn in_flight_max(&self, child: &Child) -> u32 {
        let max = child.in_flight_max(self.env.settings.child_in_flight_max);
        let shares = child.sent().in_flight() > limits::LANE_SHARE / 2 && child.lease().is_none();
        let deep = shares && self.connections.find(child.sent().lane()).is_some_and(Lane::is_deep);
        if deep { max.min(limits::LANE_SHARE) } else { max }
    }

    fn hold(&mut self, child: &mut Child, hold: Hold) {
        if hold == Hold::OutputFull {
            child.hold_for_output();
        }
        child.set_hold(hold);
        match hold {
            Hold::BlockingReply | Hold::Element | Hold::LeaseQueue | Hold::WriteLane => {
                self.release_claim(child);
            }
            _ => self.claim_is_whole(child),
        }
        if hold == Hold::OwnReplies && child.sent().has_late() {
            // What it waits for has been waited for long enough.
            let patience = self.env.settings.request_timeout.max(self.env.settings.queue_timeout);
            let until = child.front_mut().wait_until(self.env.now, self.env.now + patience);
            self.env.timers.arm(until, Timer::Child(child.key()));
        }
    }

    /// Runs no further request of this child; it is closed when its replies have left.
    pub(crate) fn finish(&mut self, child: &mut Child) {
        if child.is_deaf() {
            return;
        }
        self.leave_line(child);
        child.set_state(ChildState::Finishing);
        child.set_hold(Hold::None);
        child.inbox_mut().clear();
        self.release_claim(child);
        self.release_held_pushes(child);
        self.drop_topics(child);
        self.mark_child(child);
        if child.wants_read() {
            self.resume(child);
        }
    }

    /// The same at the child's own request (QUIT, or one that is none).
    pub(crate) fn finish_at_request(&mut self, child: &mut Child) {
        child.end_at_request();
        self.finish(child);
    }

    /// Answers the request at hand, behind everything before it; unless its child wants no reply.
    pub(crate) fn answer(&mut self, child: &mut Child, bytes: &[u8]) {
        if !child.session().is_muted() {
            self.confirm(child, bytes, false);
        }
    }

    /// The same for what is no reply but a push, and reaches a child under CLIENT REPLY OFF too. Where it `leaves` topics, what
    /// was published to them before comes before.
    pub(crate) fn confirm(&mut self, child: &mut Child, bytes: &[u8], leaves: bool) {
        child.outbox_mut().confirm(bytes, leaves, &mut self.env.spares);
        self.mark_child(child);
    }

    /// The same with a text that may be long, and is not copied then.
    pub(crate) fn answer_text(&mut self, child: &mut Child, text: String) {
        if !child.session().is_muted() {
            for frame in self.as_text(text, child.session().proto) {
                child.outbox_mut().answer(Frame::shared(&frame), &mut self.env.spares);
            }
            self.mark_child(child);
        }
    }

    /// The reply that this text is, in three parts.
    pub(crate) fn as_text(&self, text: String, proto: u8) -> [Fragment; 3] {
        let mut head = Vec::new();
        encode::verbatim_head(&mut head, text.len(), proto);
        [head, text.into_bytes(), b"\r\n".to_vec()].map(|part| {
            let all = 0..part.len();
            self.env.fragments.fragment(part, all)
        })
    }

    /// Answers the request at hand with an error.
    pub(crate) fn answer_error(&mut self, child: &mut Child, error: impl Into<Failure>) {
        let error = error.into();
        self.env.counters.failed(error.kind(), 1);
        let mut reply = Vec::with_capacity(128);
        encode::error(&mut reply, error.line());
        self.answer(child, &reply);
    }

    /// Pushes that wait for requests of this child wait no longer. Whatever it has asked may take as long as it likes, so they are
    /// written without a reply.
    pub(crate) fn release_held_pushes(&mut self, child: &mut Child) {
        if child.outbox().holds_pushes() {
            child.outbox_mut().let_pushes_go();
            self.mark_child(child);
        }
    }

    pub(crate) fn mark_child(&mut self, child: &mut Child) {
        if child.outbox_mut().mark() {
            self.env.dirty_children.push(child.key());
        }
    }

    pub(crate) fn resume(&mut self, child: &mut Child) {
        self.env.resumed.push(child.key());
    }

    pub(crate) fn account_child(&mut self, child: &mut Child) {
        let (before, now) = child.take_stock();
        self.env.memory = self.env.memory + now - before;
    }

    pub(crate) fn upstream_is_up(&self) -> bool {
        self.connections.find(self.control.lane()).is_some_and(|lane| lane.is_ready())
    }
}
