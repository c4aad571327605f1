//! What a server says of its role, and what follows. HELLO names it in every greeting, so nothing more is asked of a
//! connection; a write that is refused by a replica has the control connection asked. Never which server is dialled instead:
//! that is the driver's, by the name.

use crate::base::limits;
use crate::command::texts;
use crate::config::endpoint::UpstreamPlace;
use crate::config::value::UpstreamRole;
use crate::core::action::Action;
use crate::core::broker::Broker;
use crate::core::connection::handshake::Greeting;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::keys::LaneKey;
use crate::core::nodes::master::{Judged, ServerRole};
use crate::core::questions::control::Needed;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::resp::reply;

/// Why a connection to a replica does not serve.
const NOT_A_MASTER: &str = "the server is a replica, and must be a master (upstream_role)";

impl Shared {
    /// Whether a connection that has been greeted so may serve; if not, why.
    pub(crate) fn judge_role(&mut self, key: LaneKey, greeting: &Greeting) -> Result<(), &'static str> {
        let Some(role) = ServerRole::of(greeting) else { return Ok(()) };
        if self.connections.find_with_key(key).is_some_and(|(_, pool)| pool.replica != 0) {
            // Reads go on it, wherever it leads.
            return Ok(());
        }
        match self.judge(role) {
            Judged::Serves => {}
            Judged::Returned => {
                self.master_is_back(Some(key));
            }
            Judged::Demoted => {
                self.master_is_gone(Some(key));
                if !self.master.is_replica_served() {
                    return Err(NOT_A_MASTER);
                }
            }
            Judged::Refused => {
                self.env.actions.push(Action::TryOthers);
                return Err(NOT_A_MASTER);
            }
        }
        let is_replica = role == ServerRole::Replica;
        if let Some(lane) = self.connections.known_mut(key) {
            lane.set_replica(is_replica);
        }
        Ok(())
    }

    fn judge(&mut self, role: ServerRole) -> Judged {
        let (others, wanted) = (self.may_lead_elsewhere(), self.wanted_role());
        self.master.judge(role, wanted, others, self.env.now)
    }

    /// Sentinels name masters.
    fn wanted_role(&self) -> UpstreamRole {
        match self.env.settings.upstream_role {
            UpstreamRole::Auto if self.sentinels.is_watching() => UpstreamRole::Master,
            wanted => wanted,
        }
    }

    /// Whether the upstream's address is a name, by which another server may be found.
    fn may_lead_elsewhere(&self) -> bool {
        match &self.env.upstream.place {
            UpstreamPlace::Server(address) => address.is_name(),
            UpstreamPlace::Watched(_) => true,
        }
    }

    /// The control connection was asked who it leads to.
    pub(crate) fn note_role(&mut self) {
        let role = self.control.greeting().and_then(ServerRole::of);
        match role.map(|role| self.judge(role)) {
            Some(Judged::Demoted) => self.master_is_gone(None),
            Some(Judged::Returned) => self.master_is_back(None),
            Some(Judged::Serves | Judged::Refused) | None => {}
        }
        let refused_by = self.master.take_refused_by();
        if role == Some(ServerRole::Master) {
            refused_by.into_iter().for_each(|key| self.leave_replica_behind_proxy(key));
        }
    }

    /// The server is a master and this connection, which has refused a write, leads to a replica: there is a proxy between
    /// them. It is connected anew, once it has answered.
    fn leave_replica_behind_proxy(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.find_mut(key).filter(|lane| lane.is_ready()) else { return };
        match lane.role() {
            LaneRole::Shared => self.connections.start_yield(&mut self.env, key),
            LaneRole::Lease if lane.lease().is_none() => self.connections.remove(&mut self.env, key),
            LaneRole::Lease => lane.need_close(),
            _ => {}
        }
    }

    /// What was a master is known not to be one: nothing more is written there, by any connection but the one that has said
    /// so, should it serve.
    fn master_is_gone(&mut self, told_by: Option<LaneKey>) {
        log::warn!("upstream {} is a replica now, and was a master", self.env.upstream);
        self.env.actions.push(Action::TryOthers);
        self.sentinels.doubt(self.env.now);
        if self.master.begins_rechecks() {
            self.env.timers.arm(self.env.now + limits::ROLE_RECHECK, Timer::Role);
        }
        self.leave_server(told_by);
    }

    /// The master that was missed is found, by this connection or by one that was asked again. Connections to what was served
    /// in its place end, unless they can but lead to the same server.
    fn master_is_back(&mut self, found: Option<LaneKey>) {
        log::info!("upstream {} is a master again", self.env.upstream);
        let may_lead_elsewhere = self.may_lead_elsewhere();
        let control = self.control.lane();
        let mut left = Vec::new();
        for key in self.connections.keys_where(Lane::is_replica) {
            if may_lead_elsewhere
                && found.is_none_or(|found| found != key)
                && (found.is_some() || key != control)
            {
                left.push(key);
            } else if let Some(lane) = self.connections.find_mut(key) {
                lane.set_replica(false);
            }
        }
        if !left.is_empty() {
            self.leave_lanes(left);
        }
    }

    /// While a replica is served where a master should be, the name is asked once a second, and so is the server.
    pub(crate) fn recheck_role(&mut self) {
        if !self.master.goes_on_with_rechecks() {
            return;
        }
        self.env.actions.push(Action::TryOthers);
        self.ask_fresh(Needed::Greeting);
        self.env.timers.arm(self.env.now + limits::ROLE_RECHECK, Timer::Role);
    }

    /// Whether this says that nothing was executed, by a server that is a replica and is not to serve: it has been left, the
    /// master is looked for, or the server is being asked what it is.
    pub(crate) fn is_from_former_master(&self, key: LaneKey, frame: &[u8]) -> bool {
        if reply::error_code(frame) != Some(b"READONLY") {
            return false;
        }
        let may_not_serve = self.master.must_be(self.wanted_role()) && !self.master.is_replica_served();
        let is_known = self.master.is_missed() || self.control.is_asked(Needed::Greeting);
        self.connections.find(key).is_some_and(Lane::is_former) || may_not_serve && is_known
    }

    /// An error has come from the upstream. Of a write that a replica has refused the server is asked itself: a script may
    /// say the same.
    #[inline(never)]
    pub(crate) fn note_refusal_of_write(&mut self, key: LaneKey, role: LaneRole, frame: &[u8]) {
        let is_meant = matches!(reply::error_code(frame), Some(b"READONLY" | b"UNBLOCKED" | b"MASTERDOWN"));
        if !is_meant || role.is_own() {
            return;
        }
        if frame.starts_with(texts::READ_ONLY_REPLICA) {
            self.master.note_refused_by(key, self.wanted_role());
        }
        if self.master.note_refused_write(self.wanted_role(), self.env.now) {
            self.sentinels.doubt(self.env.now);
            self.ask_fresh(Needed::Greeting);
        }
    }
}

impl Broker {
    /// The upstream's name leads elsewhere now. A master is where the name leads: what is connected is left as one that has
    /// become a replica.
    pub fn upstream_moved(&mut self) {
        let shared = &mut self.shared;
        if shared.master.must_be(shared.env.settings.upstream_role) {
            log::warn!("upstream {} is at another address now", shared.env.upstream);
            shared.leave_server(None);
            self.deliver_notices();
        }
    }
}
