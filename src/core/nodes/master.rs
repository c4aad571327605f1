//! What is known of the server that requests are written to: its role, and which role it must have. Plain data; what follows
//! from it for connections is in `roles` and `leaving`.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::value::UpstreamRole;
use crate::core::connection::handshake::Greeting;
use crate::core::keys::LaneKey;

/// A role as HELLO names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerRole {
    Master,
    Replica,
}

impl ServerRole {
    /// None where the server does not say.
    pub(crate) fn of(greeting: &Greeting) -> Option<ServerRole> {
        match greeting.text("role")?.as_str() {
            "master" => Some(ServerRole::Master),
            "replica" | "slave" => Some(ServerRole::Replica),
            _ => None,
        }
    }
}

/// What a connection that was greeted so is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It serves.
    Serves,
    /// It serves, and is the first that leads to a master again.
    Returned,
    /// It does not serve, and is the first to say so: nothing else may be written where it leads.
    Demoted,
    /// It does not serve.
    Refused,
}

#[derive(Debug, Default)]
pub(crate) struct Master {
    /// With `upstream_role = auto`: whether the server was first greeted as a master, and so must be one.
    began_as_master: Option<bool>,
    /// Since when it is known not to be a master, though it must be one.
    demoted_at: Option<Millis>,
    /// No other has been found since: the replica that it has become is served as one.
    is_replica_served: bool,
    /// The server is asked once a second.
    is_rechecked: bool,
    /// When a write was last refused since the server is a replica.
    refused_write_at: Option<Millis>,
    /// The connections that have refused writes so since the server was last asked.
    refused_by: Vec<LaneKey>,
}

impl Master {
    /// Whether the server must be a master.
    pub(super) fn must_be(&self, wanted: UpstreamRole) -> bool {
        match wanted {
            UpstreamRole::Any => false,
            UpstreamRole::Master => true,
            UpstreamRole::Auto => self.began_as_master == Some(true),
        }
    }

    /// A connection was greeted, or asked again, and has this role. `has_others`: its name may lead to other servers.
    pub(super) fn judge(
        &mut self,
        role: ServerRole,
        wanted: UpstreamRole,
        has_others: bool,
        now: Millis,
    ) -> Judged {
        self.began_as_master.get_or_insert(role == ServerRole::Master);
        if role == ServerRole::Master || !self.must_be(wanted) {
            let was_away = self.demoted_at.take().is_some();
            self.is_replica_served = false;
            return if was_away { Judged::Returned } else { Judged::Serves };
        }
        let is_news = self.demoted_at.is_none();
        let since = *self.demoted_at.get_or_insert(now);
        if wanted == UpstreamRole::Auto {
            self.is_replica_served |= !has_others || now - since >= limits::DEMOTED_PATIENCE;
        }
        match (is_news, self.is_replica_served) {
            (true, _) => Judged::Demoted,
            (false, true) => Judged::Serves,
            (false, false) => Judged::Refused,
        }
    }

    /// Whether the replica that the master has become is served, until another is found.
    pub(crate) fn is_replica_served(&self) -> bool {
        self.is_replica_served
    }

    /// Whether the server is known to be a replica where it must be a master.
    pub(super) fn is_missed(&self) -> bool {
        self.demoted_at.is_some()
    }

    /// True if nobody asks once a second yet.
    pub(super) fn begins_rechecks(&mut self) -> bool {
        !std::mem::replace(&mut self.is_rechecked, true)
    }

    /// A second has passed. Whether that goes on.
    pub(super) fn goes_on_with_rechecks(&mut self) -> bool {
        self.is_rechecked = self.demoted_at.is_some();
        self.is_rechecked
    }

    /// A write was refused. True if that is to be looked into: it is not known why, and was not looked into just before.
    pub(super) fn note_refused_write(&mut self, wanted: UpstreamRole, now: Millis) -> bool {
        let asked = self.refused_write_at.is_some_and(|at| now < at + limits::ROLE_RECHECK);
        let looks = self.must_be(wanted) && self.demoted_at.is_none() && !asked;
        if looks {
            self.refused_write_at = Some(now);
        }
        looks
    }

    /// This connection leads to a replica. Where that may not be, the server is asked, and the first few connections are
    /// remembered until it answers; others have their turn with the next question.
    pub(super) fn note_refused_by(&mut self, key: LaneKey, wanted: UpstreamRole) {
        let has_room = self.refused_by.len() < limits::REFUSED_BY_MAX;
        if has_room && self.must_be(wanted) && !self.refused_by.contains(&key) {
            self.refused_by.push(key);
        }
    }

    pub(super) fn take_refused_by(&mut self) -> Vec<LaneKey> {
        std::mem::take(&mut self.refused_by)
    }

    /// Another server is dialled from now on, of which nothing is known.
    pub(crate) fn forget(&mut self) {
        // The timer that has been set goes on.
        *self = Master { is_rechecked: self.is_rechecked, ..Master::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::key::Arena;
    use crate::core::keys::LaneName;
    use ServerRole::{Master as M, Replica as R};
    use UpstreamRole::{Any, Auto, Master as MustBe};

    #[test]
    fn of_connections_that_refuse_writes_few_are_remembered_and_only_where_a_master_must_be() {
        let mut lanes: Arena<(), LaneName> = Arena::default();
        let keys: Vec<LaneKey> = (0..100).map(|_| lanes.insert(())).collect();
        let mut known = Master::default();
        keys.iter().for_each(|key| known.note_refused_by(*key, Any));
        assert_eq!(known.take_refused_by(), []);
        keys.iter().chain(&keys).for_each(|key| known.note_refused_by(*key, MustBe));
        assert_eq!(known.take_refused_by(), keys[..limits::REFUSED_BY_MAX]);
        assert_eq!(known.take_refused_by(), []);
    }

    #[test]
    fn a_server_first_greeted_as_a_master_must_stay_one() {
        let mut known = Master::default();
        assert_eq!(known.judge(M, Auto, true, 0), Judged::Serves);
        assert_eq!(known.judge(R, Auto, true, 10), Judged::Demoted);
        assert_eq!(known.judge(R, Auto, true, 20), Judged::Refused);
        let late = 10 + limits::DEMOTED_PATIENCE;
        assert_eq!(known.judge(R, Auto, true, late), Judged::Serves, "there is no other");
        assert!(known.is_replica_served());
        assert_eq!(known.judge(M, Auto, true, late + 1), Judged::Returned);
        assert_eq!(known.judge(M, Auto, true, late + 2), Judged::Serves);
        assert_eq!(known.judge(R, Auto, false, late + 3), Judged::Demoted, "again");
        assert_eq!(known.judge(R, Auto, false, late + 4), Judged::Serves, "it can lead nowhere else");
    }

    #[test]
    fn one_first_greeted_as_a_replica_is_meant() {
        let mut known = Master::default();
        assert_eq!(known.judge(R, Auto, true, 0), Judged::Serves);
        assert_eq!(known.judge(M, Auto, true, 1), Judged::Serves);
        assert_eq!(known.judge(R, Auto, true, 2), Judged::Serves);
        assert!(!known.note_refused_write(Auto, 3));
    }

    #[test]
    fn what_is_asked_for_stands_above_what_came_first() {
        let mut known = Master::default();
        assert_eq!(known.judge(R, MustBe, false, 0), Judged::Demoted);
        assert_eq!(known.judge(R, MustBe, false, 10_000), Judged::Refused, "however long");
        assert_eq!(known.judge(M, MustBe, false, 10_001), Judged::Returned);
        assert_eq!(known.judge(R, Any, true, 10_002), Judged::Serves);
    }

    #[test]
    fn a_refused_write_is_looked_into_once_a_second() {
        let mut known = Master::default();
        known.judge(M, Auto, true, 0);
        assert!(known.note_refused_write(Auto, 100));
        assert!(!known.note_refused_write(Auto, 100 + limits::ROLE_RECHECK - 1));
        assert!(known.note_refused_write(Auto, 100 + limits::ROLE_RECHECK));
        known.judge(R, Auto, true, 5_000);
        assert!(!known.note_refused_write(Auto, 9_000), "it is known why");
    }
}
