//! Running a child's requests: whose turn it is and how long, what holds the next request up, what follows a run. One
//! turn serves one child; requests about other children go back to the broker.

use crate::base::bytes::ByteQueue;
use crate::base::limits;
use crate::command::Local;
use crate::core::child::Child;
use crate::core::child::ChildState;
use crate::core::child::ahead::ReadAhead;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::LaneState;
use crate::core::keys::ChildKey;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::notice::Notice;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::resp::Request;
use crate::resp::Scan;
use crate::resp::Scanner;
use crate::resp::encode;

/// How far a run has come.
#[derive(Debug, Default)]
pub(in crate::core) struct Ran {
    /// Bytes of requests that are done with.
    pub(in crate::core) used: usize,
    /// How many bytes the unfinished request behind them needs at least.
    pub(in crate::core) at_least: usize,
    /// The request behind them is about other children.
    pub(in crate::core) roster: Option<Local>,
}

impl Shared {
    /// One turn of a child, by deficit round robin: it runs requests while it has credit. With more to run
    /// it stands in line again, behind all who have something to run.
    pub(in crate::core) fn run_turn(&mut self, child: &mut Child, bytes: &[u8]) -> Ran {
        child.credit = (child.credit + limits::CHILD_TURN).min(limits::CHILD_TURN);
        self.turn.credit = child.credit;
        let ran = self.run_requests(child, bytes, 0);
        if ran.roster.is_none() {
            self.end_turn(child, ran.used < bytes.len());
        }
        ran
    }

    /// Ends the turn of a child that may have `more` to run.
    pub(in crate::core) fn end_turn(&mut self, child: &mut Child, more: bool) {
        self.turn.budget -= (self.turn.credit - child.credit).max(limits::REQUEST_COST_MIN);
        if child.hold == Hold::None && child.credit <= 0 && more {
            self.nudge(child);
        } else {
            child.credit = 0;
        }
    }

    /// Goes on behind a request about other children, of which this has become.
    pub(in crate::core) fn go_on(
        &mut self,
        child: &mut Child,
        bytes: &[u8],
        used: usize,
        (flow, len): (Flow, usize),
    ) -> Ran {
        match flow {
            Flow::Done => {
                self.request_done(child);
                let used = used + self.pay(child, len);
                self.run_requests(child, bytes, used)
            }
            Flow::Hold(hold) => {
                self.hold(child, hold);
                Ran { used, ..Ran::default() }
            }
            _ => Ran { used, ..Ran::default() },
        }
    }

    /// Runs complete requests until one has to wait, the child's credit is used up or none is left.
    fn run_requests(&mut self, child: &mut Child, bytes: &[u8], mut used: usize) -> Ran {
        let mut scanner = self.take_scanner(child);
        let (mut at_least, mut roster) = (0, None);
        while used < bytes.len() && self.may_run(child) {
            match scanner.scan(&bytes[used..], &self.frame_limits(child)) {
                Scan::NeedMore { at_least: needed } => {
                    at_least = needed;
                    break;
                }
                Scan::Empty { len } => {
                    used += self.pay(child, len);
                    scanner.reset();
                    child.session.request_done();
                }
                Scan::Frame { len } => {
                    let request = scanner.request(&bytes[used..used + len]);
                    match self.run_one(child, &request, &bytes[used + len..]) {
                        Flow::Done => used += self.pay(child, len),
                        Flow::DoneThrough(more) => used += self.pay(child, len + more),
                        Flow::Hold(hold) => {
                            self.hold(child, hold);
                            break;
                        }
                        Flow::Roster(local) => {
                            roster = Some(local);
                            break;
                        }
                        Flow::More | Flow::Gone => break,
                    }
                    scanner.reset();
                }
                Scan::Error { error, .. } => {
                    let reply = error.reply();
                    let text = String::from_utf8_lossy(&reply[1..]);
                    log::warn!("closing child {}: {}", child.label(), text.trim_end());
                    self.answer(child, &reply);
                    self.finish_at_request(child);
                    break;
                }
            }
        }
        self.put_scanner(child, scanner);
        Ran { used, at_least, roster }
    }

    /// The scanner of a child's unfinished request, or the one that all children share.
    pub(in crate::core) fn take_scanner(&mut self, child: &mut Child) -> Scanner {
        child.scanner.take().map_or_else(|| std::mem::take(&mut self.turn.scanner), |scanner| *scanner)
    }

    pub(in crate::core) fn put_scanner(&mut self, child: &mut Child, scanner: Scanner) {
        if scanner.is_idle() {
            self.turn.scanner = scanner;
        } else if !child.is_finished() {
            child.scanner = Some(Box::new(scanner));
        }
    }

    /// Keeps what a run has left over.
    pub(in crate::core) fn keep_rest(&mut self, child: &mut Child, rest: &[u8], at_least: usize) {
        if !rest.is_empty() && !child.is_finished() {
            child.input.adopt(&mut self.env.spares);
            child.input.reserve(at_least.clamp(rest.len(), rest.len() + limits::READ_TURN));
            child.input.append(rest);
        }
    }

    /// What follows every run: a child that will send no more ends, bounds are checked.
    pub(in crate::core) fn after_run(&mut self, child: &mut Child) {
        if self.env.draining
            && child.state == ChildState::Open
            && child.hold == Hold::None
            && !self.watches_keys(child)
        {
            child.set_state(ChildState::Ending);
        }
        // One that stands in line has more to run, or is looked at again in any case.
        if child.state == ChildState::Ending && child.hold == Hold::None && !child.runnable {
            self.finish(child);
        }
        self.watch_read_ahead(child);
        self.account_child(child);
        self.close_if_finished(child);
        self.let_go_if_blocked(child);
    }

    /// The driver has written to a child what it could.
    pub(in crate::core) fn flushed(&mut self, child: &mut Child) {
        let left = child.output.len();
        child.output.retire(&mut self.env.spares);
        if left < self.env.settings.subscriber_output_soft {
            child.over_soft_since = None;
        }
        if child.hold == Hold::OutputFull && child.unread() < limits::CHILD_OUTPUT_PAUSE / 2 {
            self.lift(child);
        }
        self.watch_read_ahead(child);
        self.account_child(child);
        self.close_if_finished(child);
        self.let_go_if_blocked(child);
    }

    /// Closes a child that waits for what nobody would take, once it has its earlier replies. A
    /// request that has only just come may be answered at once, as Redis would answer it before it looks
    /// at the end of file: it has a moment.
    pub(in crate::core) fn let_go_if_blocked(&mut self, child: &mut Child) {
        if !(child.eof || child.hung) || !child.output.is_empty() || !self.waits_in_vain(child) {
            return;
        }
        let due = child.front().wait().map_or(0, |wait| wait.arrived + limits::BLOCKED_END_GRACE);
        if due <= self.env.now {
            self.close(child);
        } else {
            self.env.timers.arm(due, Timer::Child(child.key));
        }
    }

    /// The child ends with the event at hand. Nothing is done for it any more.
    pub(in crate::core) fn close(&mut self, child: &mut Child) {
        if child.state != ChildState::Closed {
            self.leave_line(child);
            child.set_state(ChildState::Closed);
            child.hold = Hold::None;
            self.env.notices.push_back(Notice::Close(child.key));
        }
    }

    /// Closes every lane at once.
    pub(in crate::core) fn close_lanes(&mut self) {
        for key in self.connections.lanes.keys() {
            self.drop_connection(key);
            if let Some(lane) = self.connections.lanes.remove(key) {
                self.env.memory -= lane.footprint();
            }
        }
        debug_assert_eq!(self.connections.places.open, 0, "a connection was leaked");
    }

    fn waits_in_vain(&self, child: &Child) -> bool {
        match child.hold {
            Hold::LeaseQueue => child.front().wait().is_some_and(|wait| wait.kind == LeaseKind::Blocking),
            // Else those who hang up to try another password at once would fill the broker.
            Hold::BlockingReply | Hold::AuthDelay => true,
            _ => false,
        }
    }

    // ---- running requests -----------------------------------------------------------------------------

    /// The hold is over: the child's next request is looked at afresh.
    pub(in crate::core) fn lift(&mut self, child: &mut Child) {
        child.hold = Hold::None;
        self.nudge(child);
    }

    /// Has the child looked at again at the end of the event, held or not.
    pub(in crate::core) fn nudge(&mut self, child: &mut Child) {
        if !child.runnable {
            child.runnable = true;
            self.env.runnable.push_back(child.key);
        }
    }

    /// A request of so many bytes has been run, or a frame without one.
    fn pay(&mut self, child: &mut Child, len: usize) -> usize {
        self.charge(child, len.max(limits::REQUEST_COST_MIN as usize));
        len
    }

    /// The request at hand costs its child's turn so much, in bytes of requests that take as long.
    pub(in crate::core) fn charge(&mut self, child: &mut Child, cost: usize) {
        child.credit -= cost as i64;
    }

    /// One complete request: skipped if it was answered while it waited, else dispatched.
    fn run_one(&mut self, child: &mut Child, request: &Request<'_>, rest: &[u8]) -> Flow {
        if child.front().is_answered() {
            self.front_is_done(child);
            return Flow::Done;
        }
        let flow = self.dispatch(child, request, rest);
        if matches!(flow, Flow::Done | Flow::DoneThrough(_)) {
            self.request_done(child);
        }
        flow
    }

    fn request_done(&mut self, child: &mut Child) {
        self.env.counters.requests += 1;
        self.front_is_done(child);
    }

    /// Whether the child's next request may be looked at; puts it on hold when a bound is reached.
    fn may_run(&mut self, child: &mut Child) -> bool {
        let in_flight_max = self.env.settings.child_in_flight_max as u32;
        if child.is_finished() || child.hold != Hold::None || child.credit <= 0 {
            return false;
        }
        if child.in_flight >= in_flight_max {
            child.hold = Hold::InFlightMax;
        } else if child.unread() >= limits::CHILD_OUTPUT_PAUSE {
            child.hold = Hold::OutputFull;
            child.ahead = ReadAhead::default();
        }
        child.hold == Hold::None
    }

    fn hold(&mut self, child: &mut Child, hold: Hold) {
        child.hold = hold;
        if hold == Hold::OwnReplies && child.late > 0 {
            // What it waits for has been waited for long enough.
            let patience = self.env.settings.request_timeout.max(self.env.settings.queue_timeout);
            let until = child.front_mut().wait_until(self.env.now + patience);
            self.env.timers.arm(until, Timer::Child(child.key));
        }
    }

    /// Runs no further request of this child; it is closed when its replies have left.
    pub(in crate::core) fn finish(&mut self, child: &mut Child) {
        self.leave_line(child);
        child.set_state(ChildState::Finishing);
        child.hold = Hold::None;
        child.input = ByteQueue::default();
        self.drop_topics(child);
        self.mark_child(child);
        if child.wants_read() {
            self.resume(child);
        }
    }

    /// The same at the child's own request (QUIT, or one that is none). Redis closes when the last reply has
    /// been written; where there is none to write, it never does.
    pub(in crate::core) fn finish_at_request(&mut self, child: &mut Child) {
        child.deaf = child.session.is_muted() && child.replies.is_silent() && child.output.is_empty();
        self.finish(child);
    }

    fn close_if_finished(&mut self, child: &mut Child) {
        if child.deaf && !child.eof && !self.env.draining {
            return;
        }
        if child.state == ChildState::Finishing && child.replies.is_empty() && child.output.is_empty() {
            self.close(child);
        }
    }

    // ---- answers --------------------------------------------------------------------------------------

    /// Answers the request at hand, behind everything before it; unless its child wants no reply.
    pub(in crate::core) fn answer(&mut self, child: &mut Child, bytes: &[u8]) {
        if !child.session.is_muted() {
            self.confirm(child, bytes);
        }
    }

    /// The same for what is no reply but a push, and reaches a child under CLIENT REPLY OFF too.
    pub(in crate::core) fn confirm(&mut self, child: &mut Child, bytes: &[u8]) {
        child.say(bytes, &mut self.env.spares);
        self.mark_child(child);
    }

    /// The same with a reply so long that it had better not be copied.
    pub(in crate::core) fn answer_whole(&mut self, child: &mut Child, reply: Vec<u8>) {
        if child.output.is_empty() && child.replies.is_empty() && !child.session.is_muted() {
            child.output.fill(reply);
            self.mark_child(child);
        } else {
            self.answer(child, &reply);
        }
    }

    /// Answers the request at hand with an error.
    pub(in crate::core) fn answer_error(&mut self, child: &mut Child, text: impl AsRef<[u8]>) {
        self.env.counters.failed(text.as_ref(), 1);
        let mut reply = Vec::with_capacity(128);
        encode::error(&mut reply, text);
        self.answer(child, &reply);
    }

    // ---- for the driver -------------------------------------------------------------------------------

    pub(in crate::core) fn mark_child(&mut self, child: &mut Child) {
        if !child.dirty {
            child.dirty = true;
            self.env.dirty_children.push(child.key);
        }
    }

    pub(in crate::core) fn mark_lane(&mut self, key: LaneKey) {
        if let Some(lane) = self.connections.lanes.get_mut(key)
            && !lane.dirty
        {
            lane.dirty = true;
            self.connections.dirty_lanes.push(key);
        }
    }

    /// The child may be read again.
    pub(in crate::core) fn resume(&mut self, child: &mut Child) {
        self.env.resumed.push(child.key);
    }

    // ---- memory ---------------------------------------------------------------------------------------

    /// Brings the memory total up to date with one child.
    pub(in crate::core) fn account_child(&mut self, child: &mut Child) {
        let measured = child.measure();
        self.env.memory = self.env.memory + measured - child.footprint;
        child.footprint = measured;
    }

    /// Brings the memory total up to date with one lane.
    pub(in crate::core) fn account_lane(&mut self, key: LaneKey) {
        if let Some(lane) = self.connections.lanes.get_mut(key) {
            let measured = lane.measure();
            self.env.memory = self.env.memory + measured - lane.footprint();
            lane.footprint = measured;
            if !lane.held.is_empty() && lane.unwritten() < limits::LANE_WINDOW / 2 {
                // It owes its socket less: the children that waited for that go on.
                let held = lane.take_held();
                self.lift_held(held);
            }
        }
    }

    /// Children that waited for a lane look at their request afresh.
    pub(in crate::core) fn lift_held(&mut self, held: Vec<ChildKey>) {
        for child in held {
            self.env.notices.push_back(Notice::Lift(child, Hold::LaneFull));
        }
    }

    /// Whether the upstream is known to answer.
    pub(in crate::core) fn upstream_is_up(&self) -> bool {
        self.connections.lanes.get(self.control.lane()).is_some_and(|lane| lane.is_ready())
    }
}
