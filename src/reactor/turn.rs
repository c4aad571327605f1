//! One turn: poll, read, accept, then settle: the core works, and what it has queued is written, to lanes before children.
//! All reads come before the first write, so that the requests of many children are sent in one write per lane.

use super::local::local_of;
use super::{Link, Loop, Owner, RESERVED, TOKEN_PIPE, TOKEN_WAKER, key_of, link_of};
use crate::base::clock::Millis;
use crate::base::error::{Error, Result};
use crate::base::key::Key;
use crate::base::limits;
use crate::core::{Action, ChildKey, LaneKey};
use crate::transport::conn::{Fill, Flush};
use mio::Events;
use mio::event::Event;
use std::io::{self, Read};
use std::time::Duration;

/// What is to be done in this turn or the next.
#[derive(Debug, Default)]
pub(super) struct WorkLists {
    /// Links to read in the next turn, without an edge.
    ready: Vec<Key<Link>>,
    /// Links that used up their share of a turn's writes, or became writable: flushed in the next settling.
    late_lanes: Vec<LaneKey>,
    late_children: Vec<ChildKey>,
    /// Filled by the core, and kept for their capacity.
    actions: Vec<Action>,
    resumed: Vec<ChildKey>,
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
        self.tell_time();
        self.core.begin_turn();
        self.handed.begin_turn();
        self.read_quiet();
        // Links this turn adds to the list are read in the next, so that none is read twice.
        let ready = std::mem::take(&mut self.work.ready);
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            self.take_event(event);
        }
        self.events = events;
        self.events.clear();
        self.read_ready(ready);
        self.end_leaving();
        self.accept_pending();
        self.settle();
        (self.turning, self.woken) = (false, false);
        if self.core.is_drained() {
            self.close();
        }
        Ok(!self.closed)
    }

    pub(super) fn tell_time(&mut self) {
        self.told = self.clock.now();
        self.core.advance(self.told);
    }

    pub(super) fn timeout(&self) -> Option<Millis> {
        let WorkLists { ready, late_lanes, late_children, .. } = &self.work;
        if self.unsettled || !(ready.is_empty() && late_lanes.is_empty() && late_children.is_empty()) {
            return Some(0);
        }
        let now = self.clock.now();
        let core = self.core.timeout().map(|wait| (self.told + wait).saturating_sub(now));
        let leaving = self.leaving.front().map(|(due, _)| due.saturating_sub(now));
        [core, leaving, self.accept_timeout(now), self.quiet.timeout(now)].into_iter().flatten().min()
    }

    fn take_event(&mut self, event: &Event) {
        let token = event.token();
        if token == TOKEN_WAKER {
            self.take_resolved();
        } else if token == TOKEN_PIPE {
            let mut bytes = [0; 64];
            while matches!(self.pipe.0.read(&mut bytes), Ok(count) if count == bytes.len()) {}
        } else if token.0 & RESERVED == RESERVED {
            if let Some(listener) = self.listeners.iter_mut().find(|listener| listener.token == token) {
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
            Owner::Dial(_) if link.conn.blocked() => return,
            Owner::Dial(_) => self.finish_dial(key),
            Owner::Lane(lane) if woken => self.work.late_lanes.push(lane),
            Owner::Child(child) if woken => self.work.late_children.push(child),
            _ => {}
        }
        if self.links.get(key).is_some_and(|link| !link.listed && link.conn.unread()) {
            self.read(key);
        }
    }

    fn read_ready(&mut self, ready: Vec<Key<Link>>) {
        for key in ready {
            let Some(link) = self.links.get_mut(key) else { continue };
            link.listed = false;
            if link.conn.unread() {
                self.read(key);
            }
        }
    }

    /// Puts the link on the list of those to read in the next turn.
    pub(super) fn list(&mut self, key: Key<Link>) {
        if let Some(link) = self.links.get_mut(key)
            && !link.listed
        {
            link.listed = true;
            self.work.ready.push(key);
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
        if let Owner::Lane(lane) = owner
            && !self.core.wants_lane_read(lane)
        {
            return self.list(key);
        }
        if link.hands_over && self.handed.is_full() {
            return self.list(key);
        }
        let fill = self.handed.fill(link, &mut self.scratch);
        let (more, hung_up) = (link.conn.unread(), link.conn.hung_up());
        if more {
            self.list(key);
        }
        self.note_read(key);
        match owner {
            Owner::Child(child) => {
                self.child_filled(child, fill);
                self.take_handed(child, &mut Vec::new());
            }
            // A connection that the core has just given up no longer belongs to its lane.
            Owner::Lane(lane) if self.core.lane_link(lane) != Some(link_of(key)) => {}
            Owner::Lane(lane) => self.lane_filled(lane, fill, hung_up),
            Owner::Leaving if matches!(fill, Fill::End | Fill::Broken(_)) => self.left(key),
            Owner::Dial(_) | Owner::Leaving => {}
        }
    }

    fn child_filled(&mut self, child: ChildKey, fill: Fill) {
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

    /// Reads what every child has sent so far, as the last thing before a drain.
    pub(super) fn read_all(&mut self) {
        let (mut keys, mut next) = (self.links.keys(), 0);
        while let Some(key) = keys.get(next).copied() {
            next += 1;
            for _ in 0..limits::DRAIN_READS {
                let Some(link) = self.links.get_mut(key) else { break };
                let Owner::Child(child) = link.owner else { break };
                link.conn.look_again();
                if !self.core.takes_bytes(child) {
                    break;
                }
                let fill = self.handed.fill(link, &mut self.scratch);
                let full = matches!(fill, Fill::Bytes(count) if count == self.scratch.len());
                let more = full || link.conn.unread();
                self.child_filled(child, fill);
                self.take_handed(child, &mut keys);
                if !more {
                    break;
                }
            }
        }
    }

    /// Lets the core work and carries out its work, until nothing is left to do.
    pub(super) fn settle(&mut self) {
        self.unsettled = false;
        // Taken once: work that is not finished here is left to the next turn.
        let mut lanes = std::mem::take(&mut self.work.late_lanes);
        let mut children = std::mem::take(&mut self.work.late_children);
        loop {
            while self.core.run() {}
            self.list_resumed();
            let mut moved = self.carry_out_actions();
            self.core.take_dirty_lanes(&mut lanes);
            moved |= !lanes.is_empty();
            for lane in lanes.drain(..) {
                self.flush_lane(lane);
            }
            self.core.take_dirty_children(&mut children);
            moved |= !children.is_empty();
            for child in children.drain(..) {
                self.flush_child(child);
            }
            if !moved {
                break;
            }
        }
    }

    /// Children that may be read again and have input are read in the next turn.
    fn list_resumed(&mut self) {
        let mut resumed = std::mem::take(&mut self.work.resumed);
        self.core.take_resumed(&mut resumed);
        for child in resumed.drain(..) {
            let Some(link) = self.core.child_link(child) else { continue };
            if let Some(local) = local_of(link) {
                self.local_resumed(local);
            } else if self.links.get(key_of(link)).is_some_and(|link| link.conn.unread()) {
                self.list(key_of(link));
            }
        }
        self.work.resumed = resumed;
    }

    /// Returns whether there was anything to do.
    pub(super) fn carry_out_actions(&mut self) -> bool {
        let mut actions = std::mem::take(&mut self.work.actions);
        self.core.take_actions(&mut actions);
        let any = !actions.is_empty();
        for action in actions.drain(..) {
            match action {
                Action::Connect(lane) => self.dial(lane),
                Action::CloseLane { lane, link: None } => self.cancel_dial(lane),
                Action::CloseLane { link: Some(link), .. } => self.leave(key_of(link)),
                Action::CloseChild { link } => match local_of(link) {
                    Some(local) => self.local_closed(local),
                    None => self.close_link(key_of(link)),
                },
            }
        }
        self.work.actions = actions;
        any
    }

    /// Ends a lane's connection: our direction first, then the upstream's, so that the upstream never counts more
    /// connections than we do. Its further bytes are ignored.
    fn leave(&mut self, key: Key<Link>) {
        let Some(link) = self.links.get_mut(key) else { return self.core.connection_closed() };
        let over = link.conn.ended() || link.conn.stream().shutdown_write().is_err();
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
            (self.work.actions, self.work.resumed) = (Vec::new(), Vec::new());
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
