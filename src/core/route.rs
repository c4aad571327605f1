//! Which way a request goes: one pure function of what its child is in and of what the command table says. Owns that
//! decision, and the order of its cases, which is Redis' own. Never looks at a child, a lane or a setting, and carries
//! nothing out: `request::dispatch` does. The test prints the whole function as a table.

use crate::command::{Count, Family, Local, Pin, Route, Subscribe, Transaction as Command, texts};
use crate::core::connection::slot::SlotKind;
use crate::core::keys::LeaseKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Context {
    /// Nothing: it shares connections.
    #[default]
    Shared,
    /// A MULTI that the broker queues.
    QueuedMulti,
    /// A lease for longer than one command.
    Lease,
    /// A MULTI that is open on its leased lane.
    LeasedMulti,
}

/// What the way of a request depends on, beside its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Situation {
    pub(crate) context: Context,
    /// It speaks RESP2 and has shared subscriptions.
    pub(crate) listens_resp2: bool,
    /// It speaks RESP2 and has subscriptions on its leased lane.
    pub(crate) lease_listens_resp2: bool,
    pub(crate) watch_lost: bool,
    pub(crate) tracks: bool,
    /// Of a (un)subscription: it is to be a shared one.
    pub(crate) shares_topics: bool,
    /// Of a WAIT: the last write went on another lane than the leased one.
    pub(crate) wrote_elsewhere: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Share,
    Local(Local),
    /// Not through a shared broker.
    Refuse,
    /// An error; an open MULTI is spoilt by it.
    Reject(&'static str),
    /// An error that does not spoil an open MULTI.
    AnswerError(&'static str),
    /// A RESP2 subscriber may not say this. An EXEC forgets the watched keys all the same.
    RejectListener {
        is_exec: bool,
    },
    /// The same of EXEC on a leased lane.
    RejectLeasedExec,
    /// The broker has no way to run this in a MULTI.
    RejectInMulti,
    /// A leased lane until the reply.
    Block,
    /// The lane of the last write, until enough replicas have it.
    Replicas,
    Control,
    /// A lease is taken, and the request goes on with it.
    Borrow(LeaseKind),
    Topics(Subscribe),
    /// The lane of the topics it is about, or a shared one.
    Count(Count),
    LeaveNothing(Family),
    /// MULTI: queued here or on a leased lane.
    Multi,
    /// WATCH behind watched keys that are lost: OK, and EXEC will answer null.
    WatchLost,
    UnwatchNothing,
    /// Into the MULTI that the broker queues; Redis runs a placeholder for what the broker answers.
    Queue(Option<Local>),
    /// The queued MULTI moves to a leased lane, for SELECT.
    Escalate,
    ExecQueued,
    DiscardQueued,
    Leased(Leased),
}

impl Way {
    /// Whether the request, or what it belongs to, is written for its child. Not what the broker is asked, or asks itself; nor
    /// what ends a script that everybody waits for.
    pub(crate) fn goes_upstream(self) -> bool {
        match self {
            Way::Share
            | Way::Block
            | Way::Replicas
            | Way::Borrow(_)
            | Way::Topics(_)
            | Way::Count(_)
            | Way::Multi
            | Way::Escalate
            | Way::ExecQueued
            | Way::Leased(_) => true,
            Way::Local(_)
            | Way::Refuse
            | Way::Reject(_)
            | Way::AnswerError(_)
            | Way::RejectListener { .. }
            | Way::RejectLeasedExec
            | Way::RejectInMulti
            | Way::Control
            | Way::LeaveNothing(_)
            | Way::WatchLost
            | Way::UnwatchNothing
            | Way::Queue(_)
            | Way::DiscardQueued => false,
        }
    }
}

/// What a request does on its child's leased lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leased {
    /// Its reply comes soon.
    Send(SlotKind),
    /// Its reply may take as long as it likes.
    Wait,
    Subscribe(Subscribe),
    Count(Count),
    Pin(Pin),
    Select,
    Multi,
    Unwatch,
    Exec,
    Discard,
    /// Redis queues it, or a placeholder for what the broker answers.
    Queue(Option<Local>),
    QueueSelect,
}

#[inline]
pub(crate) fn way(facts: &Situation, route: Route, no_multi: bool) -> Way {
    if facts.listens_resp2 && !is_said_while_listening(route) {
        return Way::RejectListener { is_exec: route == Route::Transaction(Command::Exec) };
    }
    match facts.context {
        Context::Shared => shared(facts, route),
        Context::QueuedMulti => queued(route, no_multi),
        Context::Lease => leased(facts, route),
        Context::LeasedMulti => leased_multi(facts, route, no_multi),
    }
}

/// What Redis lets a RESP2 subscriber say. A command that is refused anyway is refused as such.
fn is_said_while_listening(route: Route) -> bool {
    use Local::{Ping, Quit, Reset, SubscriberPing};
    matches!(route, Route::Subscribe(_) | Route::Local(Ping | SubscriberPing | Quit | Reset) | Route::Refused)
}

fn shared(facts: &Situation, route: Route) -> Way {
    match route {
        Route::Shared => Way::Share,
        Route::Count(count) => Way::Count(count),
        Route::Local(local) => Way::Local(local),
        Route::Refused => Way::Refuse,
        Route::Blocking(_) | Route::Dedicated => Way::Block,
        Route::Replicas => Way::Replicas,
        Route::Control => Way::Control,
        Route::Transaction(Command::Multi) => Way::Multi,
        Route::Transaction(Command::Exec) => Way::Reject(texts::EXEC_WITHOUT_MULTI),
        Route::Transaction(Command::Discard) => Way::Reject(texts::DISCARD_WITHOUT_MULTI),
        Route::Transaction(Command::Unwatch) => Way::UnwatchNothing,
        Route::Transaction(Command::Watch) if facts.watch_lost => Way::WatchLost,
        Route::Transaction(Command::Watch) => Way::Borrow(LeaseKind::Transaction),
        Route::Pin(_) => Way::Borrow(LeaseKind::Session),
        Route::Subscribe(change) if facts.shares_topics => Way::Topics(change),
        Route::Subscribe(change) if change.leave => Way::LeaveNothing(change.family),
        Route::Subscribe(_) => Way::Borrow(LeaseKind::Session),
    }
}

fn queued(route: Route, no_multi: bool) -> Way {
    match route {
        Route::Transaction(Command::Exec) => Way::ExecQueued,
        Route::Transaction(Command::Discard) => Way::DiscardQueued,
        // In Valkey both are among those that a transaction may not have, and spoil it as others do.
        Route::Transaction(Command::Multi | Command::Watch) if no_multi => {
            Way::Reject(texts::NOT_INSIDE_MULTI)
        }
        Route::Transaction(Command::Multi) => Way::AnswerError(texts::MULTI_NESTED),
        Route::Transaction(Command::Watch) => Way::AnswerError(texts::WATCH_INSIDE_MULTI),
        Route::Local(local @ (Local::Quit | Local::Reset)) => Way::Local(local),
        Route::Refused => Way::Refuse,
        _ if no_multi => Way::Reject(texts::NOT_INSIDE_MULTI),
        route if !may_be_queued(route) => Way::RejectInMulti,
        Route::Local(Local::Select) => Way::Escalate,
        route => Way::Queue(answered_here(route)),
    }
}

fn leased(facts: &Situation, route: Route) -> Way {
    match route {
        Route::Replicas if !facts.lease_listens_resp2 && facts.wrote_elsewhere => Way::Replicas,
        Route::Refused => Way::Refuse,
        Route::Local(local @ (Local::Quit | Local::Reset)) => Way::Local(local),
        Route::Subscribe(change) if facts.shares_topics => Way::Topics(change),
        Route::Subscribe(change) => Way::Leased(Leased::Subscribe(change)),
        Route::Blocking(_) | Route::Dedicated | Route::Replicas => Way::Leased(Leased::Wait),
        // Redis itself says what a RESP2 subscriber may not do.
        Route::Transaction(Command::Exec) if facts.lease_listens_resp2 => Way::RejectLeasedExec,
        _ if facts.lease_listens_resp2 => Way::Leased(Leased::Send(SlotKind::Relay)),
        Route::Pin(pin) => Way::Leased(Leased::Pin(pin)),
        Route::Count(count) => Way::Leased(Leased::Count(count)),
        Route::Local(Local::ClientCaching) if facts.tracks => Way::Leased(Leased::Send(SlotKind::Caching)),
        Route::Local(Local::ClientTrackinginfo) if facts.tracks => {
            Way::Leased(Leased::Send(SlotKind::TrackingInfo))
        }
        Route::Local(Local::Select) => Way::Leased(Leased::Select),
        Route::Local(local) => Way::Local(local),
        Route::Transaction(Command::Watch) if facts.watch_lost => Way::WatchLost,
        Route::Transaction(Command::Watch) => Way::Leased(Leased::Send(SlotKind::Watch)),
        Route::Transaction(Command::Multi) if facts.watch_lost => Way::Multi,
        Route::Transaction(Command::Multi) => Way::Leased(Leased::Multi),
        Route::Transaction(Command::Unwatch) => Way::Leased(Leased::Unwatch),
        // Without MULTI, Redis refuses them and nothing changes.
        Route::Transaction(Command::Exec | Command::Discard) | Route::Shared | Route::Control => {
            Way::Leased(Leased::Send(SlotKind::Relay))
        }
    }
}

fn leased_multi(facts: &Situation, route: Route, no_multi: bool) -> Way {
    match route {
        Route::Transaction(Command::Exec) => Way::Leased(Leased::Exec),
        Route::Transaction(Command::Discard) => Way::Leased(Leased::Discard),
        Route::Transaction(Command::Multi | Command::Watch) => Way::Leased(Leased::Send(SlotKind::Relay)),
        Route::Local(local @ (Local::Quit | Local::Reset)) => Way::Local(local),
        Route::Refused => Way::Refuse,
        _ if no_multi => Way::Reject(texts::NOT_INSIDE_MULTI),
        // The lane is the child's own, and Redis knows what it means there.
        Route::Local(Local::ClientCaching) if facts.tracks => Way::Leased(Leased::Queue(None)),
        route if !may_be_queued(route) => Way::RejectInMulti,
        Route::Local(Local::Select) => Way::Leased(Leased::QueueSelect),
        route => Way::Leased(Leased::Queue(answered_here(route))),
    }
}

/// Whether a command can be queued: one that the broker answers must be answerable as late as at EXEC.
fn may_be_queued(route: Route) -> bool {
    match route {
        Route::Subscribe(_) | Route::Pin(_) => false,
        Route::Local(local) => !matches!(
            local,
            Local::Hello
                | Local::ClientReply
                | Local::ClientKill
                | Local::ClientUnblock
                | Local::ClientNoTouch
                | Local::ClientCaching
                | Local::ClientTrackinginfo
        ),
        _ => true,
    }
}

/// What a queued command is for the broker, if Redis must not run it.
fn answered_here(route: Route) -> Option<Local> {
    let local = if let Route::Local(local) = route { Some(local) } else { None };
    local.filter(|_| !runs_in_a_block(route))
}

/// Whether Redis may run the command inside a transaction block on a shared lane, and the reply be the child's. Blocking
/// commands do not block there; UNWATCH does nothing.
pub(crate) fn runs_in_a_block(route: Route) -> bool {
    match route {
        Route::Shared | Route::Count(_) | Route::Blocking(_) => true,
        Route::Dedicated | Route::Replicas | Route::Control => true,
        Route::Local(local) => matches!(local, Local::Ping | Local::Echo),
        Route::Transaction(command) => command == Command::Unwatch,
        Route::Subscribe(_) | Route::Pin(_) | Route::Refused => false,
    }
}

/// Whether such a command of a transaction does no harm on a shared lane where its MULTI is refused, so that it runs by
/// itself.
pub(crate) fn is_harmless_alone(route: Route) -> bool {
    let unwatch = Route::Transaction(Command::Unwatch);
    matches!(route, Route::Shared | Route::Local(Local::Ping | Local::Echo)) || route == unwatch
}

/// What a request on a shared lane stands behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    Alone,
    /// The lane is kept for it.
    Detached,
    /// A MULTI that was written with it, and may be refused.
    InBlock,
    /// A MULTI that has been accepted: Redis lets nothing block.
    BehindMulti,
}

/// Whether a request may stand on a shared lane: nothing may that changes the connection, or keeps it for longer than its
/// turn.
pub(crate) fn may_be_shared(route: Route, changes_connection: bool, stands: Stand) -> bool {
    match route {
        // A refused command may have been queued before it was refused; it is no worse than what is shared.
        Route::Shared | Route::Count(_) | Route::Refused => !changes_connection,
        Route::Local(Local::Ping | Local::Echo) | Route::Transaction(Command::Exec) => true,
        Route::Transaction(Command::Multi) => stands == Stand::InBlock,
        Route::Transaction(Command::Unwatch) => matches!(stands, Stand::InBlock | Stand::BehindMulti),
        Route::Replicas => matches!(stands, Stand::Detached | Stand::BehindMulti),
        Route::Blocking(_) | Route::Dedicated | Route::Control => stands == Stand::BehindMulti,
        Route::Local(_) | Route::Transaction(_) | Route::Subscribe(_) | Route::Pin(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Blocking, TimeoutUnit};
    use std::fmt::Write;

    /// What a child can be in, as far as it makes a difference.
    fn situations() -> Vec<(&'static str, Situation)> {
        let nothing = Situation::default();
        let [multi_here, lease, multi] = [Context::QueuedMulti, Context::Lease, Context::LeasedMulti]
            .map(|context| Situation { context, ..nothing });
        vec![
            ("nothing", nothing),
            ("nothing, pubsub=shared", Situation { shares_topics: true, ..nothing }),
            ("watch lost", Situation { watch_lost: true, ..nothing }),
            ("RESP2 listener", Situation { listens_resp2: true, shares_topics: true, ..nothing }),
            ("queued MULTI", multi_here),
            ("lease", lease),
            ("lease, pubsub=shared", Situation { shares_topics: true, ..lease }),
            ("lease, watch lost", Situation { watch_lost: true, ..lease }),
            ("lease, tracking", Situation { tracks: true, ..lease }),
            ("lease, written elsewhere", Situation { wrote_elsewhere: true, ..lease }),
            ("lease, RESP2 listener", Situation { lease_listens_resp2: true, tracks: true, ..lease }),
            ("leased MULTI", multi),
            ("leased MULTI, tracking", Situation { tracks: true, ..multi }),
        ]
    }

    fn commands() -> Vec<(&'static str, Route, bool)> {
        let subscribe = |leave| Route::Subscribe(Subscribe { family: Family::Channel, leave });
        let blocking = Route::Blocking(Blocking { timeout: 2, unit: TimeoutUnit::Seconds });
        vec![
            ("GET", Route::Shared, false),
            ("SHUTDOWN, not in MULTI", Route::Shared, true),
            ("PUBLISH", Route::Count(Count { family: Family::Channel, publishes: true }), false),
            ("PING", Route::Local(Local::Ping), false),
            ("PING, by the upstream", Route::Local(Local::SubscriberPing), false),
            ("ECHO", Route::Local(Local::Echo), false),
            ("CLIENT ID", Route::Local(Local::ClientId), false),
            ("CLIENT REPLY", Route::Local(Local::ClientReply), false),
            ("CLIENT CACHING", Route::Local(Local::ClientCaching), false),
            ("CLIENT TRACKINGINFO", Route::Local(Local::ClientTrackinginfo), false),
            ("SELECT", Route::Local(Local::Select), false),
            ("HELLO", Route::Local(Local::Hello), false),
            ("QUIT", Route::Local(Local::Quit), false),
            ("RESET", Route::Local(Local::Reset), false),
            ("MULTI", Route::Transaction(Command::Multi), false),
            ("MULTI, not in MULTI", Route::Transaction(Command::Multi), true),
            ("EXEC", Route::Transaction(Command::Exec), false),
            ("DISCARD", Route::Transaction(Command::Discard), false),
            ("WATCH", Route::Transaction(Command::Watch), false),
            ("WATCH, not in MULTI", Route::Transaction(Command::Watch), true),
            ("UNWATCH", Route::Transaction(Command::Unwatch), false),
            ("BLPOP", blocking, false),
            ("EVAL, leased", Route::Dedicated, false),
            ("WAIT", Route::Replicas, false),
            ("SUBSCRIBE", subscribe(false), true),
            ("UNSUBSCRIBE", subscribe(true), true),
            ("CLIENT TRACKING", Route::Pin(Pin::Tracking), false),
            ("SCRIPT KILL", Route::Control, false),
            ("SYNC", Route::Refused, true),
        ]
    }

    /// Situations that mostly go the same way, and what they are together.
    const TOGETHER: [(&str, &str); 4] = [
        ("nothing | nothing, pubsub=shared | watch lost", "no lease"),
        (
            "lease | lease, pubsub=shared | lease, watch lost | lease, tracking | lease, written elsewhere",
            "leases",
        ),
        ("leases | lease, RESP2 listener", "any lease"),
        ("leased MULTI | leased MULTI, tracking", "any leased MULTI"),
    ];

    /// Every way of every command, with the situations in which it goes that way.
    fn table() -> String {
        let mut out = String::new();
        for (name, route, no_multi) in commands() {
            let mut ways: Vec<(Way, Vec<&str>)> = Vec::new();
            for (situation, facts) in situations() {
                let way = way(&facts, route, no_multi);
                match ways.iter_mut().find(|(known, _)| *known == way) {
                    Some((_, situations)) => situations.push(situation),
                    None => ways.push((way, vec![situation])),
                }
            }
            for (way, situations) in ways {
                let together = |text: String, (each, all): (&str, &str)| text.replace(each, all);
                let situations = TOGETHER.into_iter().fold(situations.join(" | "), together);
                let _ = writeln!(out, "{name} -> {way:?}: {situations}");
            }
        }
        out
    }

    #[test]
    fn every_command_goes_the_way_that_the_table_shows() {
        let table = table();
        assert!(table == include_str!("route.txt"), "src/core/route.txt is not this:\n{table}");
    }

    /// Nothing that changes a connection, or keeps it, gets on one that is shared.
    #[test]
    fn a_shared_connection_carries_nothing_that_lasts() {
        for (name, route, _) in commands() {
            let way = way(&Situation::default(), route, false);
            assert!(way != Way::Share || may_be_shared(route, false, Stand::Alone), "{name}");
            let harmless = !is_harmless_alone(route) || may_be_shared(route, false, Stand::InBlock);
            assert!(harmless, "{name}: its MULTI may be refused");
            assert!(!matches!(way, Way::Leased(_)), "{name}: there is no lease");
        }
    }
}
