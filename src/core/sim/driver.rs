//! What the reactor does, without sockets: one turn of the core, and the bytes that move between turns. Only lanes and
//! children the core has named are written, only what the poll would tell of is read: whoever is forgotten by the core is
//! forgotten here too, and found by `invariants`.

use super::encoded::error;
use super::weather::FULL;
use super::{Conn, Peer, Sim};
use crate::base::clock::Millis;
use crate::core::action::Action;
use crate::core::connection::role::LaneRole;
use crate::core::keys::{ChildKey, LaneKey};
use crate::core::standing::LaneReading;

/// A turn that does not end in so many rounds never would: through a socket that holds one byte, what many children
/// have asked takes tens of thousands.
const ROUNDS_MAX: usize = 100_000;

/// So many rounds take no time.
const ROUNDS_AT_ONCE: usize = 200;

/// After so many, wires that take a few bytes a round take all: idle connections that are replaced all the time, and are
/// greeted byte by byte, leave no round in which nothing moves.
const ROUNDS_NARROW: usize = 50_000;

impl Sim {
    pub(super) fn tick(&mut self, now: Millis) {
        self.now = now;
        self.redis.advance(now);
        self.advance_failovers();
        self.finish_dials();
        self.finish_watcher_dials();
        self.broker.advance(now);
        self.end_hub_move_in_time();
    }

    /// Everything moves until nothing does, and what must hold at rest is checked.
    pub(crate) fn settle(&mut self) {
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "the broker never comes to rest");
            if round == ROUNDS_NARROW {
                self.room = usize::MAX;
                self.conns.values_mut().for_each(|conn| conn.room = usize::MAX);
            }
            if round > ROUNDS_AT_ONCE {
                // Whoever asks again and again does so until a deadline: bytes take their time.
                self.tick(self.now + 1);
            }
            let mut moved = self.turn();
            moved |= self.finish_dials();
            (0..self.peers.len()).for_each(|child| moved |= self.read_child(child, usize::MAX));
            self.all_links().into_iter().for_each(|link| moved |= self.read_redis(link, usize::MAX));
            self.all_links().into_iter().for_each(|link| moved |= self.read_lane(link, usize::MAX));
            for link in self.watchers.links() {
                moved |= self.read_watcher(link);
                moved |= self.hear_watcher(link, usize::MAX);
            }
            if !moved {
                return self.check();
            }
        }
    }

    /// What the reactor does after its reads: lets the core work and carries its work out.
    pub(super) fn turn(&mut self) -> bool {
        let (mut any, mut steps) = (false, self.steps);
        self.broker.begin_turn();
        let mut late: Vec<LaneKey> = Vec::new();
        for conn in self.conns.values_mut() {
            if conn.blocked && !self.full && conn.room > conn.to_redis.len() {
                conn.blocked = false;
                late.push(conn.lane);
            }
        }
        let has_room = |peer: &mut Peer| peer.room > 0 && std::mem::take(&mut peer.blocked);
        let freed = self.peers.iter_mut().filter_map(|peer| has_room(peer).then_some(peer.key)?);
        let mut children: Vec<ChildKey> = freed.collect();
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "a turn of the broker never ends");
            let has_time = self.run(&mut steps);
            self.arm_resumed();
            let mut moved = self.serve_watchers();
            moved |= self.carry_out_actions();
            self.broker.take_dirty_lanes(&mut late);
            moved |= !late.is_empty();
            late.drain(..).for_each(|lane| self.flush_lane(lane));
            self.broker.take_dirty_children(&mut children);
            moved |= !children.is_empty();
            children.drain(..).for_each(|child| self.flush_child(child));
            self.check_caps();
            self.note_crowd();
            any |= moved;
            if !moved || !has_time {
                self.unsettled = moved;
                break;
            }
        }
        any || self.broker.has_work()
    }

    /// Lets the broker go on with what it has put off. Replies that it had left may be the end of a connection, or its beginning.
    /// False if the turn has no time for more.
    fn run(&mut self, steps: &mut usize) -> bool {
        let has_left = |conn: &Conn| self.broker.shared.connections.has_unread(conn.lane);
        let left =
            self.conns.iter().filter(|(_, conn)| has_left(conn)).map(|(link, conn)| (*link, conn.lane));
        let left: Vec<(usize, LaneKey)> = left.collect();
        let leaves = self.broker.shared.control.is_leaving();
        while *steps > 0 && self.broker.run() {
            *steps -= 1;
        }
        for (link, lane) in left {
            let is_control = self.conns.get(&link).is_some_and(|conn| conn.role == LaneRole::Control);
            self.note_end(link, lane, &[], is_control && leaves);
        }
        *steps > 0
    }

    fn arm_resumed(&mut self) {
        let mut resumed = Vec::new();
        // Every lane is looked at again anyway.
        self.broker.take_resumed(&mut resumed, &mut Vec::new());
        let links = resumed.into_iter().filter_map(|key| self.broker.child_link(key));
        links.for_each(|link| self.peers[link].armed = true);
    }

    fn carry_out_actions(&mut self) -> bool {
        let mut actions = Vec::new();
        self.broker.take_actions(&mut actions);
        for action in &actions {
            match *action {
                // The action that says so is still to come.
                Action::Connect(lane) if self.broker.has_given_up(lane) => {}
                Action::Connect(lane) if self.broker.waits_for_move(lane) => self.refuse(lane, "refused"),
                Action::Connect(lane) if self.refuses => self.refuse(lane, "refused"),
                Action::Connect(lane) => self.dial(lane),
                Action::CloseLane { lane, link: None } => self.cancel_dial(lane),
                Action::CloseLane { link: Some(link), .. } => self.leave(link),
                Action::AskWriter { .. } | Action::TryOthers => {}
                Action::TryUpstream => {
                    self.expect_dials();
                    self.broker.try_upstream();
                }
                Action::UpstreamTried => {
                    self.expect_dials();
                    match self.broker.move_verdict() {
                        Ok(()) => {
                            self.moves += 1;
                            self.broker.end_move(self.broker.settings().clone());
                        }
                        Err(why) => self.broker.leave_move(&why),
                    }
                }
                Action::CloseChild { link } => {
                    let peer = &mut self.peers[link];
                    (peer.closed, peer.blocked, peer.key) = (true, false, None);
                }
            }
        }
        !actions.is_empty()
    }

    fn refuse(&mut self, lane: LaneKey, why: &str) {
        self.redis.ledger.truth.went_otherwise();
        self.broker.lane_failed(lane, why);
    }

    fn dial(&mut self, lane: LaneKey) {
        let Some(server) = self.server_in_use() else {
            let why = self.broker.sentinels().trouble();
            return self.refuse(lane, &why);
        };
        if self.redis.servers[server].is_gone {
            return self.refuse(lane, "refused");
        }
        let side = self.sides.count();
        self.next_link += 1;
        let link = self.next_link;
        // Replicas are the same server; whether there is any is the upstream's affair.
        let _ = self.broker.lane_address(lane);
        let dialled = self.broker.shared.connections.find(lane).expect("a lane to dial");
        let (role, pool) = (dialled.role(), self.broker.shared.connections.key_of(dialled));
        let under_way = self.dial_time > 0;
        let conn = Conn {
            lane,
            role,
            of: (pool.db, pool.proto),
            server,
            side,
            to_redis: Vec::new(),
            to_broker: Vec::new(),
            dialling: under_way.then_some(self.now + self.dial_time),
            leaving: false,
            ended: false,
            room: self.room,
            blocked: false,
            ready: false,
            unfinished: Vec::new(),
            refusals: Vec::new(),
            sent_away: false,
            useful: false,
        };
        self.conns.insert(link, conn);
        self.redis.ledger.sides.insert(link, (server, side));
        self.check_dial(lane, role);
        // Accepted by the kernel, and so counted, before the broker hears of it.
        if !self.redis.connect(link, role, server) {
            let conn = self.conns.get_mut(&link).expect("just dialled");
            (conn.to_broker, conn.ended) = (error(FULL), true);
        }
        if !under_way {
            self.broker.lane_connected(lane, link, None);
        }
    }

    fn finish_dials(&mut self) -> bool {
        let due = self.conns.iter_mut().filter_map(|(link, conn)| {
            conn.dialling.take_if(|due| *due <= self.now).map(|_| (*link, conn.lane, conn.server))
        });
        let done: Vec<(usize, LaneKey, usize)> = due.collect();
        for &(link, lane, server) in &done {
            if self.refuses || self.redis.servers[server].is_gone {
                self.remove(link);
                self.refuse(lane, "refused");
            } else {
                self.broker.lane_connected(lane, link, None);
            }
        }
        !done.is_empty()
    }

    fn cancel_dial(&mut self, lane: LaneKey) {
        self.redis.ledger.truth.went_otherwise();
        let dialled = self.conns.iter().find(|(_, conn)| conn.lane == lane && conn.dialling.is_some());
        if let Some(link) = dialled.map(|(link, _)| *link) {
            self.remove(link);
        }
        self.broker.connection_closed();
    }

    /// The broker gives a connection up: its side first.
    fn leave(&mut self, link: usize) {
        self.redis.ledger.closed.insert(link);
        let Some(conn) = self.conns.get_mut(&link) else { return self.broker.connection_closed() };
        if !conn.ready && !conn.sent_away {
            // Its greeting took too long.
            self.redis.ledger.truth.went_otherwise();
        }
        conn.leaving = true;
        if !self.lingers || conn.ended {
            self.end_leaving(link);
        }
    }

    pub(super) fn remove(&mut self, link: usize) {
        self.conns.remove(&link);
        self.redis.disconnect(link);
    }

    /// Redis closes its side of a connection the broker has given up, once it has run what had arrived.
    pub(super) fn end_leaving(&mut self, link: usize) {
        let Some(conn) = self.conns.get_mut(&link).filter(|conn| conn.leaving) else { return };
        if self.redis.servers[conn.server].hangs && !conn.ended {
            let unread = std::mem::take(&mut conn.to_redis);
            self.redis.orphan(link, unread);
        }
        self.remove(link);
        self.broker.connection_closed();
    }

    fn flush_lane(&mut self, lane: LaneKey) {
        while let Some((link, bytes)) = self.broker.lane_outgoing(lane) {
            let Some(conn) = self.conns.get_mut(&link) else { break };
            if bytes.is_empty() {
                break;
            }
            let room = if self.full { 0 } else { conn.room.saturating_sub(conn.to_redis.len()) };
            let count = bytes.len().min(room);
            if count == 0 || conn.ended {
                conn.blocked = true;
                break;
            }
            self.check_write(link);
            self.check_pause(lane);
            let conn = self.conns.get_mut(&link).expect("as before");
            conn.to_redis.extend_from_slice(&bytes[..count]);
            self.broker.lane_wrote(lane, count);
        }
        self.broker.lane_flushed(lane);
    }

    fn flush_child(&mut self, child: ChildKey) {
        let Some((link, output)) = self.broker.child_output(child) else { return };
        let peer = &mut self.peers[link];
        if peer.deaf {
            output.consume(output.len());
            return self.broker.child_flushed(child);
        }
        while !output.is_empty() && peer.room > 0 {
            let count = output.front().len().min(peer.room);
            peer.received.extend_from_slice(&output.front()[..count]);
            peer.room = if peer.room == usize::MAX { usize::MAX } else { peer.room - count };
            output.consume(count);
        }
        peer.blocked = !output.is_empty();
        self.broker.child_flushed(child);
    }

    /// The child's process has died, or its connection broken: what the broker has read of it is run all the same.
    pub(super) fn break_off(&mut self, child: usize) {
        let peer = &mut self.peers[child];
        let Some(key) = peer.key else { return };
        (peer.deaf, peer.blocked) = (true, false);
        peer.outbox.clear();
        self.flush_child(key);
        self.broker.child_eof(key);
    }

    pub(super) fn post(&mut self, child: usize, bytes: &[u8]) {
        self.peers[child].outbox.extend_from_slice(bytes);
        self.peers[child].armed = true;
    }

    pub(super) fn shut(&mut self, child: usize) {
        self.peers[child].shut = true;
        self.peers[child].armed = true;
    }

    /// The broker reads a child, at most so many bytes.
    pub(super) fn read_child(&mut self, child: usize, limit: usize) -> bool {
        let peer = &mut self.peers[child];
        let Some(key) = peer.key.filter(|_| peer.armed) else { return false };
        if peer.shut {
            self.broker.child_hangup(key);
        }
        if !self.broker.wants_read(key) {
            peer.armed = false;
            return peer.shut;
        }
        let count = peer.outbox.len().min(limit);
        let bytes: Vec<u8> = peer.outbox.drain(..count).collect();
        if !bytes.is_empty() {
            self.broker.child_input(key, &bytes);
            return true;
        }
        peer.armed = false;
        if std::mem::take(&mut peer.shut) {
            self.broker.child_eof(key);
            return true;
        }
        false
    }

    /// Redis reads a connection, at most so many bytes, and answers what it can.
    pub(super) fn read_redis(&mut self, link: usize, limit: usize) -> bool {
        let Some(conn) = self.conns.get_mut(&link) else { return false };
        let hangs = self.redis.servers[conn.server].hangs;
        let stopped = hangs || self.frozen.contains(&conn.role) || self.silent.contains(&link);
        let mut moved = false;
        if let Some(client) = self.redis.clients.get_mut(&link) {
            client.frozen = stopped;
            if !stopped && !conn.ended {
                let count = conn.to_redis.len().min(limit);
                client.input.extend(conn.to_redis.drain(..count));
                moved = self.redis.serve(link) || count > 0;
            }
        }
        moved | self.deliver()
    }

    fn deliver(&mut self) -> bool {
        let mut moved = false;
        for (link, client) in &mut self.redis.clients {
            if !client.out.is_empty()
                && let Some(conn) = self.conns.get_mut(link)
            {
                conn.to_broker.append(&mut client.out);
                conn.useful |= client.useful;
                moved = true;
            }
        }
        for link in std::mem::take(&mut self.redis.closing) {
            self.redis.disconnect(link);
            if let Some(conn) = self.conns.get_mut(&link) {
                (conn.ended, moved) = (true, true);
                conn.to_redis.clear();
            }
            self.end_leaving(link);
        }
        moved
    }

    /// The broker reads a connection, at most so many bytes.
    pub(super) fn read_lane(&mut self, link: usize, limit: usize) -> bool {
        let Some(conn) = self.conns.get_mut(&link) else { return false };
        if conn.dialling.is_some() || conn.leaving {
            conn.to_broker.clear();
            return false;
        }
        let lane = conn.lane;
        let stands_still = self.broker.lane_reading(lane) == LaneReading::WhenResumed;
        if self.broker.lane_link(lane) != Some(link) || stands_still {
            return false;
        }
        let count = conn.to_broker.len().min(limit);
        let bytes: Vec<u8> = conn.to_broker.drain(..count).collect();
        if count > 0 {
            let replaced = conn.role == LaneRole::Control && self.broker.shared.control.is_leaving();
            if conn.role == LaneRole::Control && bytes.windows(5).any(|part| part == b"-BUSY") {
                self.redis.ledger.truth.says_busy();
            }
            self.broker.lane_input(lane, &bytes);
            self.note_end(link, lane, &bytes, replaced);
            return true;
        }
        if conn.ended {
            self.redis.ledger.truth.went_otherwise();
            self.broker.lane_lost(lane, "closed by the upstream");
            return true;
        }
        false
    }
}
