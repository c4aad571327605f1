//! One turn: poll, read, accept, then settle: the core works, and what it has queued is written, to lanes before children.
//! All reads come before the first write, so that the requests of many children are sent in one write per lane. A turn that
//! has lasted long enough leaves the rest of each list to the next, in order: what has just arrived is heard in between.

use super::dial::Caller;
use super::local::local_of;
use super::pace::StepKind;
use super::{Link, Loop, Owner, RESERVED, TOKEN_PIPE, TOKEN_WAKER, key_of, link_of};
use crate::base::clock::Millis;
use crate::base::error::{Error, Result};
use crate::base::key::Key;
use crate::base::limits;
use crate::core::{Action, ChildKey, LaneKey, LaneReading};
use crate::transport::conn::{Fill, Flush};
use crate::transport::resolver::Resolver;
use mio::Events;
use mio::event::Event;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::time::Duration;

/// What is to be done in this turn or the next.
#[derive(Debug, Default)]
pub(super) struct WorkLists {
    /// Links of children to read without a further edge, the oldest first.
    ready: VecDeque<Key<Link>>,
    /// The same of lanes, and of what else is the upstream's.
    ready_lanes: VecDeque<Key<Link>>,
    /// What is to be flushed and carried out in this settling, in order.
    lanes: VecDeque<LaneKey>,
    children: VecDeque<ChildKey>,
    pub(super) actions: VecDeque<Action>,
    /// Those that used up their share of a turn's writes, or became writable: flushed in the next settling.
    late_lanes: Vec<LaneKey>,
    late_children: Vec<ChildKey>,
    /// Filled by the core, and kept for its capacity.
    resumed: Vec<ChildKey>,
    resumed_lanes: Vec<LaneKey>,
}

impl WorkLists {
    fn are_empty(&self) -> bool {
        self.ready.is_empty()
            && self.ready_lanes.is_empty()
            && self.late_lanes.is_empty()
            && self.late_children.is_empty()
            && self.lanes.is_empty()
            && self.children.is_empty()
            && self.actions.is_empty()
    }
}

/// Capacity for this many links is kept.
const LINKS_KEPT: usize = 1024;

impl Loop {
    /// The first half of a turn: waits for events, or only polls, and does not handle them. Events that `work` has not
    /// taken yet are kept, so that none is lost; then it does not wait.
    pub fn wait(&mut self, may_wait: bool) -> Result<()> {
        self.wait_at_most(if may_wait { None } else { Some(0) })
    }

    /// The same, for at most this many milliseconds.
    pub fn wait_at_most(&mut self, limit: Option<Millis>) -> Result<()> {
        if self.closed || !self.events.is_empty() {
            return Ok(());
        }
        // What is due at once is work at hand, and waits for nothing.
        self.pace.expect(self.core.timeout().filter(|wait| *wait > 0).map(|wait| self.told + wait));
        let timeout = [limit, self.timeout()].into_iter().flatten().min();
        match self.poll.poll(&mut self.events, timeout.map(Duration::from_millis)) {
            Ok(()) => {}
            // A signal: the turn has no events, and the caller can check for it.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::refused("cannot poll", &error)),
        }
        self.turning = true;
        Ok(())
    }

    /// The second half: handles the events that `wait` has found, and everything that follows from them.
    /// `Ok(false)` when the loop has drained or was closed.
    pub fn work(&mut self) -> Result<bool> {
        if self.closed {
            return Ok(false);
        }
        self.pace.begin_turn();
        self.tell_time();
        self.pace.arrive(self.told);
        self.core.begin_turn();
        self.handed.begin_turn();
        self.read_quiet();
        self.look_up_due();
        self.pace.step(StepKind::Timers);
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            self.take_event(event);
        }
        self.events = events;
        self.events.clear();
        self.read_ready();
        self.shake_hands();
        self.end_leaving();
        self.end_slow();
        // Before others are accepted, so that those who have gone leave room.
        self.serve_http();
        if self.draining.is_under_way() {
            self.go_on_draining();
        } else {
            self.accept_pending();
        }
        self.hand_over();
        if self.closed {
            return Ok(false);
        }
        self.settle();
        self.look_up_processes();
        self.sample_history();
        (self.turning, self.woken) = (false, false);
        self.pace.end_turn();
        self.obey_orders();
        self.go_on_storing();
        let is_over = self.core.is_drained() && !self.handover.is_ending();
        if is_over && !self.draining.is_under_way() && self.handshakes.have_parted() {
            self.close();
        }
        Ok(!self.closed)
    }

    pub(super) fn tell_time(&mut self) {
        let micros = self.clock.micros();
        self.told = micros / 1000;
        self.core.tell_micros(micros);
        self.core.advance(self.told);
    }

    pub(super) fn timeout(&self) -> Option<Millis> {
        let waiting = !self.work.are_empty() || self.lookups.is_waiting();
        if self.unsettled || self.draining.is_under_way() || waiting {
            return Some(0);
        }
        let now = self.clock.now();
        let core = self.core.timeout().map(|wait| (self.told + wait).saturating_sub(now));
        let leaving = self.leaving.front().map(|(due, _)| due.saturating_sub(now));
        let dialler = self.dialler.timeout(now);
        let others = [self.accept_timeout(now), self.quiet.timeout(now), self.http_timeout(now), dialler];
        let others = others.into_iter().chain([self.handshakes.timeout(now), self.handover.timeout()]);
        [core, leaving].into_iter().chain(others).flatten().min()
    }

    fn take_event(&mut self, event: &Event) {
        let token = event.token();
        if token == TOKEN_WAKER {
            // It has ended the wait.
        } else if token == TOKEN_PIPE {
            let mut bytes = [0; 64];
            while matches!(self.pipe.0.read(&mut bytes), Ok(count) if count == bytes.len()) {}
        } else if token.0 & RESERVED == RESERVED {
            if Resolver::owns(token) {
                self.look_up_event(token);
            } else if let Some(listener) = self.listeners.iter_mut().find(|listener| listener.token == token)
            {
                listener.pending = true;
            }
        } else {
            self.take_link_event(key_of(token.0), event);
        }
    }

    fn take_link_event(&mut self, key: Key<Link>, event: &Event) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.conn.observe(event);
        let woken = event.is_writable() || event.is_error();
        match link.owner {
            Owner::Guest => return self.list(key),
            Owner::Dial(_) if link.conn.session().is_some() => return self.list(key),
            Owner::Parting if woken => return self.go_on_parting(key),
            Owner::Dial(_) if link.conn.blocked() => return,
            Owner::Dial(_) => self.finish_dial(key),
            Owner::Lane(lane) if woken => self.work.late_lanes.push(lane),
            Owner::Child(child) if woken => self.work.late_children.push(child),
            _ => {}
        }
        if self.links.get(key).is_some_and(|link| link.conn.unread()) {
            self.list(key);
        }
    }

    /// Reads the links that are listed: lanes first, since many wait for each, then children, each once. What a read puts on
    /// the list is read in the next turn.
    fn read_ready(&mut self) {
        self.pace.before(StepKind::LaneInput);
        for _ in 0..self.work.ready_lanes.len() {
            if self.pace.has_lasted(limits::TURN_LANES) {
                break;
            }
            let Some(key) = self.work.ready_lanes.pop_front() else { break };
            self.read_listed(key, StepKind::LaneInput);
            self.read_on(key);
        }
        self.pace.before(StepKind::ChildInput);
        for _ in 0..self.work.ready.len() {
            if self.pace.has_lasted(limits::TURN_READS) {
                break;
            }
            let Some(key) = self.work.ready.pop_front() else { break };
            self.read_listed(key, StepKind::ChildInput);
        }
    }

    fn read_listed(&mut self, key: Key<Link>, kind: StepKind) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.listed = false;
        if link.conn.unread() {
            self.read(key);
            self.pace.short_step(kind);
        }
    }

    /// More of a lane that had more than one read takes.
    fn read_on(&mut self, key: Key<Link>) {
        for _ in 1..limits::LANE_READS {
            let Some(link) = self.links.get(key).filter(|link| link.conn.unread()) else { return };
            let Owner::Lane(lane) = link.owner else { return };
            if self.core.lane_reading(lane) != LaneReading::Now || self.pace.has_lasted(limits::TURN_LANES) {
                return;
            }
            self.read(key);
            self.pace.short_step(StepKind::LaneInput);
        }
    }

    /// Puts the link on the list of those to read.
    pub(super) fn list(&mut self, key: Key<Link>) {
        if let Some(link) = self.links.get_mut(key)
            && !link.listed
        {
            link.listed = true;
            match link.owner {
                Owner::Child(_) => self.work.ready.push_back(key),
                Owner::Guest => self.handshakes.ready.push_back(key),
                Owner::Dial(_) if link.conn.session().is_some() => self.handshakes.ready.push_back(key),
                Owner::Lane(_) | Owner::Dial(_) | Owner::Sentinel(_) | Owner::Leaving => {
                    self.work.ready_lanes.push_back(key)
                }
                // These few are looked at in each turn.
                Owner::Http | Owner::Parting => link.listed = false,
            }
        }
    }

    /// One read. A child that must not be read keeps its `unread`, and is listed when it is resumed.
    fn read(&mut self, key: Key<Link>) {
        let Some(link) = self.links.get_mut(key) else { return };
        let owner = link.owner;
        if let Owner::Child(child) = owner {
            // Told at once, however much there is to read before the end of file: no element must be popped for it.
            if link.conn.hung_up() {
                self.core.child_hangup(child);
            }
            if !self.core.wants_read(child) {
                return;
            }
        }
        if let Owner::Lane(lane) = owner {
            match self.core.lane_reading(lane) {
                LaneReading::Now => {}
                LaneReading::NextTurn => return self.list(key),
                LaneReading::WhenResumed => return,
            }
        }
        if link.hands_over && self.handed.is_full() {
            return self.list(key);
        }
        let fill = self.handed.fill(link, &mut self.scratch, self.told);
        let (more, hung_up) = (link.conn.unread(), link.conn.hung_up());
        if more {
            self.list(key);
        }
        self.note_read(key);
        match owner {
            Owner::Child(child) => {
                self.note_writer(key, child, &fill);
                self.child_filled(child, fill);
                self.take_handed(child, &mut Vec::new());
            }
            // A connection that the core has just given up no longer belongs to its lane.
            Owner::Lane(lane) if self.core.lane_link(lane) != Some(link_of(key)) => {}
            Owner::Lane(lane) => self.lane_filled(lane, fill, hung_up),
            Owner::Sentinel(id) => self.sentinel_filled(key, id, fill),
            Owner::Leaving if matches!(fill, Fill::End | Fill::Broken(_)) => self.left(key),
            Owner::Dial(_) | Owner::Leaving | Owner::Http | Owner::Guest | Owner::Parting => {}
        }
    }

    pub(super) fn child_filled(&mut self, child: ChildKey, fill: Fill) {
        match fill {
            Fill::Bytes(count) => self.core.child_input(child, &self.scratch[..count]),
            Fill::Empty => {}
            Fill::End => self.core.child_eof(child),
            Fill::Broken(_) => self.child_broken(child),
        }
    }

    fn lane_filled(&mut self, lane: LaneKey, fill: Fill, hung_up: bool) {
        match fill {
            Fill::Bytes(count) => self.core.lane_input(lane, &self.scratch[..count]),
            // It can no longer send, and nothing more will arrive.
            Fill::Empty if hung_up => self.lose_lane(lane, "the connection is broken"),
            Fill::Empty => {}
            Fill::End => self.lose_lane(lane, "closed by the upstream"),
            Fill::Broken(error) => self.lose_lane(lane, &error.to_string()),
        }
    }

    /// Lets the core work and carries out its work, until nothing is left to do or the turn has lasted long enough. Some of
    /// each kind of work is done in any case.
    pub(super) fn settle(&mut self) {
        self.unsettled = false;
        // Taken once: work that is not finished here is left to the next turn.
        self.work.lanes.extend(self.work.late_lanes.drain(..));
        self.work.children.extend(self.work.late_children.drain(..));
        loop {
            self.run_core();
            self.list_resumed();
            if !(self.serve_sentinels()
                | self.carry_out_actions()
                | self.flush_lanes()
                | self.flush_children())
            {
                break;
            }
            if self.pace.has_lasted(limits::TURN_WRITES) {
                self.unsettled = true;
                break;
            }
        }
    }

    fn run_core(&mut self) {
        self.pace.before(StepKind::Run);
        while self.core.run() {
            self.pace.step(StepKind::Run);
            if self.pace.has_lasted(limits::TURN_RUNS) {
                break;
            }
        }
    }

    /// Flushes the lanes that have something to write. Returns whether there was one.
    fn flush_lanes(&mut self) -> bool {
        self.core.take_dirty_lanes(&mut self.work.lanes);
        let any = !self.work.lanes.is_empty();
        self.pace.before(StepKind::LaneOutput);
        while let Some(lane) = self.work.lanes.pop_front() {
            self.flush_lane(lane);
            self.pace.short_step(StepKind::LaneOutput);
            if self.pace.has_lasted(limits::TURN_WRITES) {
                break;
            }
        }
        any
    }

    /// The same for children.
    fn flush_children(&mut self) -> bool {
        self.core.take_dirty_children(&mut self.work.children);
        let any = !self.work.children.is_empty();
        self.pace.before(StepKind::ChildOutput);
        while let Some(child) = self.work.children.pop_front() {
            self.flush_child(child);
            self.pace.short_step(StepKind::ChildOutput);
            if self.pace.has_lasted(limits::TURN_WRITES) {
                break;
            }
        }
        any
    }

    /// Children and lanes that may be read again and have input are read in the next turn.
    fn list_resumed(&mut self) {
        let mut children = std::mem::take(&mut self.work.resumed);
        let mut lanes = std::mem::take(&mut self.work.resumed_lanes);
        self.core.take_resumed(&mut children, &mut lanes);
        for child in children.drain(..) {
            let Some(link) = self.core.child_link(child) else { continue };
            match local_of(link) {
                Some(local) => self.local_resumed(local),
                None => self.list_unread(key_of(link)),
            }
        }
        for lane in lanes.drain(..) {
            if let Some(link) = self.core.lane_link(lane) {
                self.list_unread(key_of(link));
            }
        }
        (self.work.resumed, self.work.resumed_lanes) = (children, lanes);
    }

    fn list_unread(&mut self, key: Key<Link>) {
        if self.links.get(key).is_some_and(|link| link.conn.unread()) {
            self.list(key);
        }
    }

    /// Returns whether there was anything to do.
    fn carry_out_actions(&mut self) -> bool {
        self.core.take_actions(&mut self.work.actions);
        let any = !self.work.actions.is_empty();
        self.pace.before(StepKind::Connection);
        while let Some(action) = self.work.actions.pop_front() {
            self.carry_out(action);
            self.pace.short_step(StepKind::Connection);
            if self.pace.has_lasted(limits::TURN_WRITES) {
                break;
            }
        }
        any
    }

    /// All that is left of them, whatever time it takes.
    pub(super) fn carry_out_all(&mut self) {
        self.core.take_actions(&mut self.work.actions);
        while let Some(action) = self.work.actions.pop_front() {
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Connect(lane) => self.dial(Caller::Lane(lane)),
            Action::CloseLane { lane, link: None } => self.cancel_dial(Caller::Lane(lane)),
            Action::CloseLane { link: Some(link), .. } => self.leave(key_of(link)),
            Action::TryOthers => self.try_others(),
            Action::TryUpstream => self.try_upstream(),
            Action::UpstreamTried => self.upstream_tried(),
            Action::AskWriter { link } => {
                if let Some(link) = self.links.get_mut(key_of(link)).filter(|_| local_of(link).is_none()) {
                    link.conn.always_ask();
                }
            }
            Action::CloseChild { link } => match local_of(link) {
                Some(local) => self.local_closed(local),
                None => self.part(key_of(link)),
            },
        }
    }

    /// Ends a lane's connection: our direction first, then the upstream's, so that the upstream never counts more
    /// connections than we do. Its further bytes are ignored.
    fn leave(&mut self, key: Key<Link>) {
        let Some(link) = self.links.get_mut(key) else { return self.core.connection_closed() };
        let over = link.conn.ended() || link.conn.end_writing().is_err();
        link.owner = Owner::Leaving;
        if over || self.closed {
            return self.left(key);
        }
        self.leaving.push_back((self.told + limits::LEAVE_MAX, key));
        if link.conn.unread() {
            self.list(key);
        }
    }

    fn left(&mut self, key: Key<Link>) {
        if self.links.get(key).is_some() {
            self.close_link(key);
            self.core.connection_closed();
        }
    }

    /// Closes connections whose upstream has not closed its side in time.
    fn end_leaving(&mut self) {
        while let Some((due, key)) = self.leaving.front().copied()
            && (due <= self.told || self.links.get(key).is_none())
        {
            self.leaving.pop_front();
            self.left(key);
        }
    }

    pub(super) fn close_link(&mut self, key: Key<Link>) {
        let Some(link) = self.links.remove(key) else { return };
        link.conn.close(self.poll.registry());
        for listener in &mut self.listeners {
            listener.retry();
        }
        if self.links_peak > LINKS_KEPT && self.links.len() < self.links_peak / 4 {
            self.links.shrink();
            self.work.ready.shrink_to_fit();
            self.work.actions.shrink_to_fit();
            self.work.children.shrink_to_fit();
            self.work.resumed = Vec::new();
            self.links_peak = self.links.len();
        }
    }

    fn flush_lane(&mut self, lane: LaneKey) {
        let mut left = limits::WRITE_TURN;
        loop {
            let Some((link, bytes)) = self.core.lane_outgoing(lane) else { return };
            let key = key_of(link);
            let Some(link) = self.links.get_mut(key) else { return };
            match link.conn.flush_some(self.poll.registry(), bytes, &mut left) {
                Ok(Flush::Wrote(count)) => self.core.lane_wrote(lane, count),
                Ok(Flush::Done) => break,
                Ok(Flush::TurnOver) => {
                    self.work.late_lanes.push(lane);
                    break;
                }
                Err(error) => {
                    // Replies may have arrived before it broke: they are read first, up to the end of file.
                    log::debug!("upstream connection: cannot write: {error}");
                    link.conn.hang();
                    self.list(key);
                    break;
                }
            }
        }
        self.core.lane_flushed(lane);
    }

    fn flush_child(&mut self, child: ChildKey) {
        let mut left = limits::WRITE_TURN;
        let Some((link, output)) = self.core.child_output(child) else { return };
        if let Some(local) = local_of(link) {
            return self.flush_local(local, child);
        }
        let Some(link) = self.links.get_mut(key_of(link)) else { return };
        if link.deaf {
            output.consume(output.len());
        }
        loop {
            match link.conn.flush_some(self.poll.registry(), output.front(), &mut left) {
                Ok(Flush::Wrote(count)) => output.consume(count),
                Ok(Flush::Done) => break,
                Ok(Flush::TurnOver) => {
                    self.work.late_children.push(child);
                    break;
                }
                Err(_) => return self.child_broken(child),
            }
        }
        self.core.child_flushed(child);
    }

    /// The child takes no more replies. What it has sent before is run all the same, as by Redis.
    fn child_broken(&mut self, child: ChildKey) {
        let Some((link, output)) = self.core.child_output(child) else { return };
        output.consume(output.len());
        if let Some(link) = self.links.get_mut(key_of(link)) {
            link.deaf = true;
        }
        self.core.child_flushed(child);
        self.core.child_eof(child);
    }
}
