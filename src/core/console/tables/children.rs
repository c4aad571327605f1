//! `BROKER SHOW CHILDREN`: one row for each connection of a process.

use super::{ShowTable, TableRows, columns};
use crate::core::broker::Broker;
use crate::core::child::front::Progress;
use crate::core::child::hold::Hold;
use crate::core::child::{Child, ChildKind, ChildState};
use crate::core::console::cell::Cell;
use crate::core::console::showing::RowKey;
use crate::core::host::leaks::LeakKind;
use crate::core::keys::LeaseKind;
use crate::core::shared::Shared;

pub(super) const CHILDREN: ShowTable = ShowTable {
    name: "CHILDREN",
    doc: "One row for each child: who it is, what it waits for, what it has done.",
    columns: columns! {
        id: 8, "CLIENT ID, for BROKER KILL CHILD.";
        pid: 7, "Process that writes, or as long as nobody has written the one that has connected; in the broker's pid namespace.";
        uid: 6, "Its user: of a process that writes the real one, of one that has only connected the effective one, as the kernel tells.";
        gid: 6, "Its group, in the same way.";
        process: 16, "Its program's file name; its own name for itself where the broker may not look (identity = claimed).";
        unit: 24, "Its systemd unit, container or control group.";
        identity: 8, "exact, inexact (the kernel gave no handle of the process), claimed, unknown.";
        connected_by: 12, "pid of the process that has connected, if that is another one: an inherited or passed descriptor.";
        address: 20, "Where it comes from, as in CLIENT LIST.";
        label: 8, "?label= of its listener.";
        name: 12, "CLIENT SETNAME.";
        library: 16, "CLIENT SETINFO: name and version.";
        user: 8, "As whom it has authenticated.";
        db: 2, "Database.";
        protocol: 8, "RESP version.";
        state: 9, "open, subscribed, multi, watching, waiting, ending; gone: it went while this table was made.";
        waits_for: 16, "Why its next request waits.";
        waits_ms: 8, "For how long it waits for a lease or an element.";
        age_ms: 9, "Since it has connected.";
        idle_ms: 9, "Since it has last sent something.";
        requests: 10, "Requests run.";
        bytes_in: 12, "Bytes it has sent.";
        bytes_out: 12, "Bytes it has taken.";
        in_flight: 9, "Requests upstream without a reply.";
        input_bytes: 11, "Bytes it has sent that were not run.";
        output_bytes: 12, "Bytes it has not taken.";
        memory_bytes: 12, "Heap bytes of its queues.";
        lease: 11, "Kind of its lease.";
        lane: 4, "Lane of its lease, or of its requests in flight.";
        multi: 5, "Requests queued in its MULTI.";
        topics: 6, "Subscriptions.";
        command: 16, "Its last command.";
        leak: 16, "What it is suspected of (BROKER SHOW LEAKS).";
        wants_lease: 11, "Kind of the lease that it waits for.";
        tls: 32, "Protocol and cipher suite of its TLS, if it has one.";
    },
    rows: TableRows::Each { keys, row },
};

fn keys(broker: &Broker) -> Vec<RowKey> {
    // From the index alone: a look at each child takes ten times as long, and this is one step.
    let mut keys: Vec<_> = broker.children.ids().collect();
    keys.sort_unstable_by_key(|(id, _)| *id);
    keys.into_iter().map(|(id, key)| RowKey::Child(key, id)).collect()
}

fn row(broker: &Broker, key: RowKey) -> Option<Vec<Cell>> {
    let RowKey::Child(key, _) = key else { return None };
    let child = broker.children.get(key).filter(|child| !child.is_closed())?;
    Some(broker.shared.child_cells(child))
}

impl Shared {
    fn child_cells(&self, child: &Child) -> Vec<Cell> {
        let (origin, session, usage) = (child.origin(), child.session(), child.usage());
        let user = origin.user();
        let process = self.processes.get(origin.process());
        let connector = self.processes.get(origin.connected_by()).map(|process| process.who().pid);
        let since = |then: u64| Cell::from(self.env.now.saturating_sub(then));
        let library = [&session.lib_name[..], &session.lib_version[..]];
        let library = library.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'-');
        let (channels, patterns, shards) = child.subscription_counts();
        let lane = child.lease().map(|lease| lease.lane);
        let lane = lane.or_else(|| child.is_under_way().then(|| child.sent().lane()));
        let waits = child.front().wait().filter(|_| matches!(child.hold(), Hold::LeaseQueue | Hold::Element));
        vec![
            session.id.into(),
            user.map(|who| who.pid as u64).filter(|pid| *pid != 0).into(),
            user.map(|who| who.uid).into(),
            user.map(|who| who.gid).into(),
            process.map(|process| process.name()).filter(|name| *name != "?").into(),
            process.map_or("", |process| process.unit()).into(),
            self.identity_of(child).into(),
            connector.map(|pid| pid as u64).into(),
            origin.peer().replace(' ', ":").into(),
            origin.label().into(),
            Cell::of_bytes(&session.name),
            Cell::of_bytes(&library),
            self.user_name(child).into(),
            session.db.into(),
            u32::from(session.proto).into(),
            state_of(child).into(),
            waits_for(child).into(),
            waits.map_or(Cell::Nothing, |wait| since(wait.arrived)),
            since(child.opened()),
            since(child.last_request()),
            usage.requests.into(),
            usage.bytes_in.into(),
            usage.bytes_out.into(),
            child.sent().in_flight().into(),
            child.inbox().len().into(),
            child.outbox().unread().into(),
            child.measure().into(),
            child.lease().map(|lease| lease.kind.as_str()).into(),
            lane.map(|lane| lane.index()).into(),
            u64::try_from(session.transaction.depth()).ok().into(),
            (channels + patterns + shards).into(),
            child.last_command().map(|_| self.last_command_name(child)).into(),
            child.leak().map(LeakKind::name).into(),
            waits.filter(|_| child.hold() == Hold::LeaseQueue).map(|wait| wait.kind.as_str()).into(),
            origin.secured().map(|secured| secured.to_string()).into(),
        ]
    }

    /// How far it is certain who it is.
    fn identity_of(&self, child: &Child) -> &'static str {
        let facts = self.processes.get(child.origin().process()).and_then(|process| process.facts());
        match facts {
            None if child.origin().kind() == ChildKind::Local => "exact",
            None => "unknown",
            Some(facts) if facts.exe.is_none() => "claimed",
            Some(facts) if facts.is_exact => "exact",
            Some(_) => "inexact",
        }
    }
}

fn state_of(child: &Child) -> &'static str {
    let lease = child.lease().map(|lease| lease.kind);
    match child.state() {
        ChildState::Ending | ChildState::Finishing | ChildState::Lost | ChildState::Closed => "ending",
        ChildState::Open if child.session().transaction.is_open() => "multi",
        ChildState::Open if lease == Some(LeaseKind::Transaction) => "watching",
        ChildState::Open if child.hold() != Hold::None => "waiting",
        ChildState::Open if child.is_subscribed() => "subscribed",
        ChildState::Open => "open",
    }
}

fn waits_for(child: &Child) -> Option<&'static str> {
    Some(match child.hold() {
        Hold::None if child.front().progress() != Progress::None => "own-work",
        Hold::None => return None,
        Hold::InFlightMax => "in-flight-max",
        Hold::OwnReplies => "own-replies",
        Hold::OutputFull => "its-own-reading",
        Hold::LaneFull => "lane-full",
        Hold::LeaseQueue => "lease",
        Hold::Element => "element",
        Hold::WriteLane => "last-write-lane",
        Hold::Reply => "reply",
        Hold::BlockingReply => "blocking-reply",
        Hold::Question => "broker-question",
        Hold::Upstream => "upstream",
        Hold::Subscription => "subscription",
        Hold::Intake => "memory",
        Hold::AuthDelay => "auth-delay",
        Hold::Order => "order",
        Hold::Moving => "successor",
        Hold::Paused => "pause",
        Hold::Drain => "drain",
    })
}
