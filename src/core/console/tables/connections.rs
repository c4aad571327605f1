//! `BROKER SHOW LANES`, `LEASES`, `POOLS`, `TOPICS`, `UPSTREAM`: the side of Redis.

use super::{ShowTable, TableRows, columns, numbers};
use crate::core::broker::Broker;
use crate::core::connection::lane::{Lane, LaneState};
use crate::core::connection::role::LaneRole;
use crate::core::console::cell::Cell;
use crate::core::console::showing::RowKey;
use crate::core::keys::{LaneKey, LeaseKind, PoolId};
use crate::core::lease::state::Tenant;

pub(super) const LANES: ShowTable = ShowTable {
    name: "LANES",
    doc: "One row for each connection to Redis, or place for one.",
    columns: columns! {
        lane: 4, "Its number, as long as it exists.";
        role: 10, "shared, bulk, blocks, lease, subscriber, control, probe.";
        state: 11, "dormant, waiting, parked, backoff, connecting, handshaking, ready, yielding.";
        user: 8, "As whom it is authenticated.";
        db: 2, "Database.";
        protocol: 8, "RESP version.";
        in_flight: 9, "Requests on it without a reply, written or not.";
        held: 5, "Children that wait for room on it.";
        oldest_ms: 9, "For how long the oldest of its requests has been the next to be answered, on this connection.";
        output_bytes: 12, "Bytes that Redis has not taken.";
        reply_ms: 8, "Since a reply last came, while it is in use.";
        fastest_ms: 10, "Its fastest reply: the way to Redis and back.";
        age_ms: 9, "Since it has connected.";
        upstream_id: 11, "CLIENT ID of the connection at Redis.";
        losses: 6, "Connections it has lost.";
        child: 8, "Whose lease it is.";
        marks: 16, "slow: a very long reply passes; detached: WAIT blocks it; surplus; previous-upstream; unclean.";
        tls: 32, "Protocol and cipher suite of its TLS, if it has one.";
        replica: 7, "The replica that it leads to (BROKER SHOW REPLICAS), if it is one.";
    },
    rows: TableRows::Each { keys: |broker| lanes_where(broker, |_| true), row: lane_row },
};

fn lanes_where(broker: &Broker, is_meant: impl Fn(&Lane) -> bool) -> Vec<RowKey> {
    let lanes = broker.shared.connections.lanes().filter(|(_, lane)| is_meant(lane));
    lanes.map(|(key, _)| RowKey::Lane(key)).collect()
}

fn state_name(state: &LaneState) -> &'static str {
    match state {
        LaneState::Dormant => "dormant",
        LaneState::Waiting => "waiting",
        LaneState::Parked => "parked",
        LaneState::Backoff => "backoff",
        LaneState::Connecting => "connecting",
        LaneState::Handshaking { .. } => "handshaking",
        LaneState::Ready { .. } => "ready",
        LaneState::Yielding { .. } => "yielding",
    }
}

fn role_name(lane: &Lane) -> &'static str {
    match lane.role() {
        LaneRole::Control => "control",
        LaneRole::Shared if lane.carries_bulk() => "bulk",
        LaneRole::Shared if lane.carries_blocks() => "blocks",
        LaneRole::Shared => "shared",
        LaneRole::Lease => "lease",
        LaneRole::Subscriber => "subscriber",
        LaneRole::Probe => "probe",
    }
}

/// CLIENT ID of whoever has a lane to itself.
fn tenant_id(lane: &Lane) -> Option<u64> {
    match lane.lease()?.tenant() {
        Tenant::Child { id, .. } => Some(*id),
        Tenant::Group(_) | Tenant::Look(_) => None,
    }
}

fn lane_row(broker: &Broker, key: RowKey) -> Option<Vec<Cell>> {
    let RowKey::Lane(key) = key else { return None };
    let shared = &broker.shared;
    let lane = shared.connections.find(key)?;
    let (record, pool) = (lane.record(), shared.connections.key_of(lane));
    let since = |then: u64| Cell::from(shared.env.now.saturating_sub(then));
    let own = lane.role().is_own();
    let marks = [
        ("slow", lane.is_slow()),
        ("detached", lane.is_detached()),
        ("surplus", lane.is_surplus()),
        ("previous-upstream", record.is_on_previous_upstream),
        ("unclean", record.close_needed),
    ];
    let marks: Vec<_> = marks.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
    let user = shared.users.name(pool.user, &shared.env.upstream);
    Some(vec![
        key.index().into(),
        role_name(lane).into(),
        state_name(lane.state()).into(),
        Cell::of_bytes(user),
        (!own).then_some(pool.db).into(),
        (!own).then_some(u32::from(pool.proto)).into(),
        lane.owed().into(),
        lane.held().len().into(),
        lane.front().filter(|_| lane.is_ready()).map_or(Cell::Nothing, |_| since(lane.oldest_since())),
        lane.out().bytes().len().into(),
        if lane.is_idle() || !lane.is_counted() { Cell::Nothing } else { since(record.last_reply) },
        record.fastest_reply.into(),
        if lane.is_counted() { since(record.connected_at) } else { Cell::Nothing },
        u64::try_from(record.upstream_id).ok().filter(|id| *id > 0).into(),
        record.losses.into(),
        tenant_id(lane).into(),
        marks.join(",").into(),
        record.secured.filter(|_| lane.is_counted()).map(|secured| secured.to_string()).into(),
        Some(u64::from(lane.leads_to())).filter(|number| *number != 0).into(),
    ])
}

pub(crate) const LEASES: ShowTable = ShowTable {
    name: "LEASES",
    doc: "One row for each connection that is lent: who has it, since when, what for.",
    columns: columns! {
        lane: 4, "Its lane.";
        kind: 11, "transaction (WATCH, MULTI), session, blocking.";
        state: 9, "multi, watching, waiting (for an element), in-use (a request is upstream), unused, over.";
        held_ms: 9, "For how long it is lent.";
        idle_ms: 9, "Since its child has last sent something.";
        child: 8, "CLIENT ID; none where children share it.";
        waiters: 7, "Children that share it: they wait for the same element.";
        pid: 7, "Its process, or that of the first who waits.";
        uid: 6, "Its user.";
        process: 16, "Its program.";
        unit: 24, "Its systemd unit, container or control group.";
        name: 12, "CLIENT SETNAME.";
        command: 16, "The child's last command.";
        pool: 4, "Its pool (BROKER SHOW POOLS).";
    },
    rows: TableRows::Each {
        keys: |broker| lanes_where(broker, |lane| lane.lease().is_some()),
        row: lease_row,
    },
};

fn lease_row(broker: &Broker, key: RowKey) -> Option<Vec<Cell>> {
    let RowKey::Lane(key) = key else { return None };
    let shared = &broker.shared;
    let lane = shared.connections.find(key)?;
    let lease = lane.lease()?;
    let group = lease.group().and_then(|group| shared.groups.get(group));
    let first = group.and_then(|group| group.children().next());
    let child = broker.children.get(if group.is_some() { first? } else { lease.child() });
    let open = child.filter(|_| group.is_none()).is_some_and(|child| child.session().transaction.is_open());
    let state = match lane {
        _ if lease.is_over() => "over",
        _ if open => "multi",
        _ if lease.is_watching() => "watching",
        _ if group.is_some() => "waiting",
        lane if !lane.is_idle() => "in-use",
        _ => "unused",
    };
    let process = child.and_then(|child| shared.processes.get(child.origin().process()));
    let user = child.and_then(|child| child.origin().user());
    let since = |then: u64| Cell::from(shared.env.now.saturating_sub(then));
    Some(vec![
        key.index().into(),
        lease.kind().as_str().into(),
        state.into(),
        since(lease.since()),
        child.map_or(Cell::Nothing, |child| since(child.last_request())),
        tenant_id(lane).into(),
        group.map(|group| group.waiting()).into(),
        user.map(|who| who.pid as u64).filter(|pid| *pid != 0).into(),
        user.map(|who| who.uid).into(),
        process.map(|process| process.name()).filter(|name| *name != "?").into(),
        process.map_or("", |process| process.unit()).into(),
        child.map_or(Cell::Nothing, |child| Cell::of_bytes(&child.session().name)),
        child
            .filter(|child| child.last_command().is_some())
            .map(|child| shared.last_command_name(child))
            .into(),
        lane.pool().0.into(),
    ])
}

pub(super) const POOLS: ShowTable = ShowTable {
    name: "POOLS",
    doc: "One row for each (user, db, protocol, replica): its connections, and who waits for one.",
    columns: columns! {
        pool: 4, "Its number.";
        user: 8, "As whom its connections are authenticated.";
        db: 2, "Database.";
        protocol: 8, "RESP version.";
        lanes: 5, "Shared lanes.";
        ready: 5, "Those of them that are connected.";
        in_flight: 9, "Requests on them without a reply.";
        held: 5, "Children that wait for room on them.";
        idle_leases: 11, "Leased lanes that are connected and not lent.";
        transaction: 11, "Leases lent for WATCH and MULTI.";
        session: 7, "Leases lent for sessions.";
        blocking: 8, "Leases lent for blocking commands.";
        waiting: 7, "Children that wait for a lease for a transaction or a session, and groups that wait for one.";
        maxwait_ms: 10, "For how long the first of them has waited.";
        refusal: 40, "Why the last attempt to connect failed.";
        replica: 7, "The replica that its lanes are for (BROKER SHOW REPLICAS); none for the master.";
    },
    rows: TableRows::Each {
        keys: |broker| {
            let live = broker.shared.connections.pools().filter(|(_, pool)| !pool.is_free());
            live.map(|(id, _)| RowKey::Pool(id)).collect()
        },
        row: pool_row,
    },
};

fn pool_row(broker: &Broker, key: RowKey) -> Option<Vec<Cell>> {
    let RowKey::Pool(id) = key else { return None };
    let shared = &broker.shared;
    let pool = shared.connections.pools().find(|(other, pool)| *other == id && !pool.is_free())?.1;
    let lanes =
        || shared.connections.lanes().filter(move |(_, lane)| lane.pool() == id && !lane.role().is_own());
    let common = || lanes().filter(|(_, lane)| lane.is_shared());
    let lent = |kind: LeaseKind| {
        lanes().filter(|(_, lane)| lane.lease().is_some_and(|lease| lease.kind() == kind)).count()
    };
    let idle = lanes()
        .filter(|(_, lane)| lane.role() == LaneRole::Lease && lane.is_ready() && lane.lease().is_none());
    let (waiting, first) = shared.leases.waiting_in(id);
    let user = shared.users.name(pool.key().user, &shared.env.upstream);
    Some(vec![
        id.0.into(),
        Cell::of_bytes(user),
        pool.key().db.into(),
        u32::from(pool.key().proto).into(),
        common().count().into(),
        common().filter(|(_, lane)| lane.is_ready()).count().into(),
        common().map(|(_, lane)| lane.owed()).sum::<usize>().into(),
        common().map(|(_, lane)| lane.held().len()).sum::<usize>().into(),
        idle.count().into(),
        lent(LeaseKind::Transaction).into(),
        lent(LeaseKind::Session).into(),
        lent(LeaseKind::Blocking).into(),
        waiting.into(),
        first.map(|since| shared.env.now.saturating_sub(since)).into(),
        Cell::words(pool.refusal_text().unwrap_or_default()),
        Some(u64::from(pool.key().replica)).filter(|number| *number != 0).into(),
    ])
}

pub(super) const TOPICS: ShowTable = ShowTable {
    name: "TOPICS",
    doc: "One row for each channel, pattern or shard channel that children share a subscription to.",
    columns: columns! {
        topic: 6, "Its number.";
        kind: 7, "channel, pattern, shard.";
        listeners: 9, "Children that listen.";
        state: 9, "on, joining, leaving.";
        user: 8, "As whom it is subscribed.";
        name: 40, "Its name.";
    },
    rows: TableRows::Each {
        keys: |broker| broker.shared.hubs.topic_keys().into_iter().map(RowKey::Topic).collect(),
        row: |broker, key| {
            let RowKey::Topic(key) = key else { return None };
            let topic = broker.shared.hubs.about(key)?;
            Some(vec![
                key.index().into(),
                topic.kind.into(),
                topic.listeners.into(),
                topic.state.into(),
                Cell::of_bytes(broker.shared.users.name(topic.user, &broker.shared.env.upstream)),
                Cell::of_bytes(topic.name),
            ])
        },
    },
};

pub(crate) const UPSTREAM: ShowTable = ShowTable {
    name: "UPSTREAM",
    doc: "The Redis server, and how it is reached.",
    columns: columns! {
        address: 24, "Where it is.";
        state: 7, "up: the control connection is ready; down; busy: a script runs; draining: the broker ends.";
        server: 10, "What it calls itself.";
        version: 8, "Its version.";
        role: 8, "Its role when it greeted the broker.";
        master: 24, "Where the master is, by its sentinels.";
        epoch: 6, "The configuration epoch of that.";
        master_ms: 9, "For how long it has been there.";
        connections: 11, "Connections held, as Redis counts them.";
        connections_max: 15, "upstream_connections_max.";
        connects: 8, "Attempts to connect so far.";
        failures: 8, "Those of them that failed.";
        losses: 6, "Connections that were lost so far.";
        switches: 8, "Times that all connections have left a server which is the master no more.";
        down_ms: 8, "Since when it is down; of one that hung before it was given up, since it last said something.";
        commands: 12, "The release whose commands are taken for its own: its user has no right to COMMAND.";
        lacks: 16, "What its user has no right to, of what the broker asks for itself.";
        tls: 32, "Protocol and cipher suite of the control connection's TLS, if it has one.";
        refusal: 40, "Why the last attempt of the control connection failed.";
    },
    rows: TableRows::Each { keys: |_| numbers(1), row: upstream_row },
};

fn upstream_row(broker: &Broker, _key: RowKey) -> Option<Vec<Cell>> {
    let shared = &broker.shared;
    let counters = &shared.env.counters;
    let greeting =
        |field: &str| shared.control.greeting().and_then(|greeting| greeting.text(field)).map(Cell::from);
    let state = match () {
        () if shared.env.draining => "draining",
        () if !shared.upstream_is_up() => "down",
        () if shared.work.is_busy() => "busy",
        () => "up",
    };
    let control = shared.connections.find(shared.control.lane()).filter(|lane| lane.is_counted());
    let refusal = control_pool(broker).and_then(|pool| shared.connections.pool(pool).refusal_text());
    Some(vec![
        shared.env.upstream.to_string().into(),
        state.into(),
        greeting("server").unwrap_or(Cell::Nothing),
        greeting("version").unwrap_or(Cell::Nothing),
        greeting("role").unwrap_or(Cell::Nothing),
        shared.sentinels.master().map(ToString::to_string).into(),
        shared.sentinels.epoch().into(),
        shared.sentinels.since().map(|since| shared.env.now.saturating_sub(since)).into(),
        shared.connections.capacity().held().into(),
        shared.env.settings.upstream_connections_max.into(),
        counters.upstream_connects.into(),
        counters.upstream_connect_failures.into(),
        counters.upstream_losses.into(),
        counters.upstream_switches.into(),
        shared.control.away_since().map(|since| shared.env.now.saturating_sub(since)).into(),
        shared.commands.release().unwrap_or_default().replace(' ', "-").into(),
        shared.control.own_rights().missing().into(),
        control.and_then(|lane| lane.record().secured).map(|secured| secured.to_string()).into(),
        Cell::words(refusal.filter(|_| state == "down").unwrap_or_default()),
    ])
}

fn control_pool(broker: &Broker) -> Option<PoolId> {
    let lane: LaneKey = broker.shared.control.lane();
    broker.shared.connections.find(lane).map(Lane::pool)
}
