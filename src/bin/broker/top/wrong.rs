//! What is wrong with a broker now, and what to do about it: one list, for `broker top`, for `broker status` and for
//! whatever shows it next. Pure: facts in, findings out. Asks nobody, and knows no table and no screen.

use std::fmt;

/// Waits below this many milliseconds are the ordinary pass of a lease from one child to the next.
const WAIT_NOTABLE: u64 = 250;
/// From here on a wait is an outage for whoever waits.
const WAIT_CRITICAL: u64 = 1_000;
/// A shared lane on which the oldest request is this old is one that Redis does not answer.
const STALL: u64 = 1_000;
/// Findings about leaks that are told one by one.
const LEAKS_TOLD: usize = 10;
/// Holders of a lease that are named.
const HOLDERS_TOLD: usize = 3;

/// How bad it is. A notice is nothing wrong: it is what will be, if it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Notice,
    Warning,
    Critical,
}

impl Severity {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// A sentence without its full stop.
    pub(crate) what: String,
    /// Who causes it; empty where that is nobody in particular.
    pub(crate) who: String,
    /// For how long, in milliseconds.
    pub(crate) since_ms: Option<u64>,
    /// What to do; may be empty.
    pub(crate) hint: String,
}

/// Somebody on the children's side, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Person {
    /// CLIENT ID.
    pub(crate) child: Option<u64>,
    pub(crate) pid: Option<u64>,
    pub(crate) uid: Option<u64>,
    /// Its program.
    pub(crate) process: String,
    /// Its systemd unit, container or control group.
    pub(crate) unit: String,
}

impl fmt::Display for Person {
    /// `pid 44 (worker, web.service)`, or what there is of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.child, self.uid) {
            (Some(pid), _, _) => write!(f, "pid {pid}")?,
            (None, Some(child), _) => write!(f, "child {child}")?,
            (None, None, Some(uid)) => write!(f, "uid {uid}")?,
            (None, None, None) => f.write_str("somebody unknown")?,
        }
        let parts = [self.process.as_str(), self.unit.as_str()];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if parts.is_empty() { Ok(()) } else { write!(f, " ({})", parts.join(", ")) }
    }
}

/// Leases of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseUse {
    /// transaction, session, blocking; empty for all of them.
    pub(crate) kind: &'static str,
    pub(crate) used: u64,
    /// As it is set; none where that is not known.
    pub(crate) max: Option<u64>,
}

/// A child that waits for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WaitsForLease {
    /// Empty where it is not known.
    pub(crate) kind: &'static str,
    pub(crate) wait_ms: u64,
}

/// Somebody who has a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseHolder {
    pub(crate) kind: String,
    pub(crate) who: Person,
    pub(crate) held_ms: u64,
    /// None where its child is not known.
    pub(crate) idle_ms: Option<u64>,
    pub(crate) command: String,
}

/// What is suspected of being a leak now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeakNow {
    pub(crate) kind: String,
    pub(crate) who: Person,
    pub(crate) since_ms: u64,
    /// The facts, in words.
    pub(crate) what: String,
}

/// A shared connection, and how old the oldest request on it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LaneAge {
    pub(crate) lane: u64,
    pub(crate) in_flight: u64,
    pub(crate) oldest_ms: u64,
}

/// What has failed of late.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// Milliseconds in which it has.
    pub(crate) span_ms: u64,
    /// Requests answered with BROKERLOST, BROKERDOWN, BROKERLIMIT, BROKERTIMEOUT.
    pub(crate) lost: u64,
    pub(crate) down: u64,
    pub(crate) limited: u64,
    pub(crate) timed_out: u64,
    pub(crate) children_refused: u64,
    pub(crate) log_lines_dropped: u64,
}

/// All that is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    /// Where Redis is.
    pub(crate) address: String,
    /// up, down, busy, draining.
    pub(crate) state: String,
    pub(crate) down_ms: Option<u64>,
    /// Why it is down, as far as that is known.
    pub(crate) refusal: String,
    pub(crate) connections: u64,
    pub(crate) connections_max: u64,
    /// Users whose connections are refused, and why.
    pub(crate) refused: Vec<(String, String)>,
    pub(crate) leases: Vec<LeaseUse>,
    pub(crate) waiting: Vec<WaitsForLease>,
    /// Blocking commands that wait for a lease together, and the longest wait.
    pub(crate) groups_waiting: u64,
    pub(crate) groups_wait_ms: u64,
    pub(crate) holders: Vec<LeaseHolder>,
    pub(crate) leaks: Vec<LeakNow>,
    /// Bytes of all queues, and `memory_max`.
    pub(crate) memory: u64,
    pub(crate) memory_max: u64,
    pub(crate) children: u64,
    /// `children_max`; none where that is not known.
    pub(crate) children_max: Option<u64>,
    /// Shared lanes.
    pub(crate) lanes: Vec<LaneAge>,
    pub(crate) failures: Failures,
    /// redis-cli and its options for the broker's socket, and for that on which verbs are heard; empty where there is
    /// none.
    pub(crate) asking: String,
    pub(crate) telling: String,
}

impl Picture {
    /// A whole command that shows a table.
    fn show(&self, table: &str) -> String {
        format!("{} BROKER SHOW {table}", self.asking).trim_start().to_owned()
    }

    /// A whole command that closes a child.
    fn kill(&self, child: u64) -> String {
        match self.telling.as_str() {
            "" => format!("BROKER KILL CHILD {child}, which admin_listen alone hears"),
            telling => format!("{telling} BROKER KILL CHILD {child}"),
        }
    }
}

/// The worst first.
pub(crate) fn wrong(picture: &Picture) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    found.extend(upstream(picture));
    found.extend(stalled(picture));
    found.extend(failures(picture));
    for lease in &picture.leases {
        found.extend(waits(picture, lease));
    }
    found.extend(waits(picture, &LeaseUse { kind: "", used: 0, max: None }));
    found.extend(connections(picture));
    found.extend(picture.refused.iter().map(refused));
    found.extend(leaks(picture));
    found.extend(memory(picture));
    found.extend(children(picture));
    // The order above is kept where two are equally bad.
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    found
}

/// Whether it is well enough to let everybody sleep.
pub(crate) fn is_well(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.severity == Severity::Notice)
}

fn upstream(picture: &Picture) -> Option<Finding> {
    let Picture { address, .. } = picture;
    let about = |severity, what: String, hint: &str| {
        Some(Finding {
            severity,
            what,
            who: address.clone(),
            since_ms: picture.down_ms,
            hint: hint.to_owned(),
        })
    };
    match picture.state.as_str() {
        "up" => None,
        "down" => {
            let since = picture.down_ms.map_or(String::new(), |ms| format!(" for {}", lasting(ms)));
            let why = if picture.refusal.is_empty() { "" } else { ": " };
            let what = format!("Redis at {address} is down{since}{why}{}", picture.refusal);
            about(
                Severity::Critical,
                what,
                "children get BROKERDOWN; see whether Redis runs and can be reached",
            )
        }
        "busy" => {
            let what = format!("Redis at {address} is busy with a script");
            about(Severity::Critical, what, "SCRIPT KILL or FUNCTION KILL ends one that has written nothing")
        }
        "draining" => {
            about(Severity::Warning, "the broker is about to end and takes nobody new".to_owned(), "")
        }
        other => about(Severity::Warning, format!("the state of Redis at {address} is {other}"), ""),
    }
}

/// A Redis that hangs looks up for a while: nothing is refused, and nothing is answered.
fn stalled(picture: &Picture) -> Option<Finding> {
    let oldest = picture.lanes.iter().max_by_key(|lane| lane.oldest_ms)?;
    if oldest.oldest_ms < STALL {
        return None;
    }
    let requests: u64 = picture.lanes.iter().map(|lane| lane.in_flight).sum();
    Some(Finding {
        severity: Severity::Critical,
        what: format!(
            "Redis has not answered on shared lane {} for {}, {}",
            oldest.lane,
            lasting(oldest.oldest_ms),
            plural(requests, "request waits", "requests wait")
        ),
        who: picture.address.clone(),
        since_ms: Some(oldest.oldest_ms),
        hint: "a slow command or a Redis that hangs: see SLOWLOG and CLIENT LIST there".to_owned(),
    })
}

/// Requests that got an error of the broker's own, and what else was refused or lost.
fn failures(picture: &Picture) -> Vec<Finding> {
    let Failures { span_ms, lost, down, limited, timed_out, children_refused, log_lines_dropped } =
        picture.failures;
    let of_late = match span_ms {
        0..1_500 => "in the last second".to_owned(),
        1_500..59_000 => format!("in the last {} s", span_ms.div_ceil(1_000)),
        59_000..62_000 => "in the last minute".to_owned(),
        _ => format!("in the last {}", lasting(span_ms)),
    };
    let failed = |count, error: &str| format!("{} failed with {error}", plural(count, "request", "requests"));
    let refused = plural(children_refused, "new child was refused", "new children were refused");
    let dropped = plural(log_lines_dropped, "line of the log was lost", "lines of the log were lost");
    let facts = [
        (
            down,
            Severity::Warning,
            failed(down, "BROKERDOWN"),
            "Redis did not answer in time or was not there",
        ),
        (
            lost,
            Severity::Warning,
            failed(lost, "BROKERLOST"),
            "connections to Redis broke with requests on them",
        ),
        (limited, Severity::Warning, failed(limited, "BROKERLIMIT"), "the log says which setting was met"),
        (
            timed_out,
            Severity::Warning,
            failed(timed_out, "BROKERTIMEOUT"),
            "they waited longer than they may",
        ),
        (children_refused, Severity::Warning, refused, "the log says which setting was met"),
        (log_lines_dropped, Severity::Notice, dropped, "whoever reads the log does not keep up"),
    ];
    let facts = facts.into_iter().filter(|(count, ..)| *count > 0);
    facts
        .map(|(_, severity, what, hint)| Finding {
            severity,
            what: format!("{what} {of_late}"),
            who: String::new(),
            since_ms: None,
            hint: hint.to_owned(),
        })
        .collect()
}

/// Children that wait for a lease, and who has what they wait for.
fn waits(picture: &Picture, lease: &LeaseUse) -> Option<Finding> {
    let kind = lease.kind;
    let waiting = picture.waiting.iter().filter(|waiter| waiter.kind == kind);
    let (mut count, mut longest) = (0, 0);
    for waiter in waiting {
        (count, longest) = (count + 1, longest.max(waiter.wait_ms));
    }
    let mut who_waits = plural(count, "child waits", "children wait");
    if kind == "blocking" && picture.groups_waiting > 0 {
        let groups = plural(picture.groups_waiting, "blocking command waits", "blocking commands wait");
        who_waits = if count == 0 { groups } else { format!("{who_waits} and {groups}") };
        longest = longest.max(picture.groups_wait_ms);
        count += picture.groups_waiting;
    }
    if count == 0 || longest < WAIT_NOTABLE {
        return full(lease);
    }
    let mut holders: Vec<&LeaseHolder> =
        picture.holders.iter().filter(|holder| kind.is_empty() || holder.kind == kind).collect();
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.held_ms));
    let of_kind = if kind.is_empty() { String::new() } else { format!(" of kind {kind}") };
    Some(Finding {
        severity: if longest < WAIT_CRITICAL { Severity::Warning } else { Severity::Critical },
        what: format!("{who_waits} for a lease{of_kind} for {}; {}", lasting(longest), held_by(&holders)),
        who: holders.first().map_or(String::new(), |holder| holder.who.to_string()),
        since_ms: Some(longest),
        hint: hint_for_waits(picture, lease, &holders),
    })
}

/// `held by` the first of them; whoever holds one for the longest comes first.
fn held_by(holders: &[&LeaseHolder]) -> String {
    if holders.is_empty() {
        return "none is lent".to_owned();
    }
    let told: Vec<String> = holders.iter().take(HOLDERS_TOLD).map(|holder| held(holder)).collect();
    let more = holders.len() - told.len();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("held by {}{more}", told.join("; by "))
}

/// `pid 44 (worker, web.service), since 5.2 s, last command watch, idle for 5.1 s`.
fn held(holder: &LeaseHolder) -> String {
    let mut text = format!("{}, since {}", holder.who, lasting(holder.held_ms));
    if !holder.command.is_empty() {
        text += &format!(", last command {}", holder.command);
    }
    if let Some(idle_ms) = holder.idle_ms {
        text += &format!(", idle for {}", lasting(idle_ms));
    }
    text
}

fn hint_for_waits(picture: &Picture, lease: &LeaseUse, holders: &[&LeaseHolder]) -> String {
    let is_idle = |holder: &&&LeaseHolder| holder.idle_ms.is_some_and(|ms| ms >= WAIT_CRITICAL);
    let idle = holders.iter().filter(is_idle).find_map(|holder| holder.who.child);
    let is_full = lease.max.is_some_and(|max| lease.used >= max);
    match idle {
        Some(child) => format!("to take it back: {}", picture.kill(child)),
        None if is_full => format!("leases_{}_max allows {}", lease.kind, lease.used),
        None if picture.connections >= picture.connections_max => {
            format!("upstream_connections_max allows {}", picture.connections_max)
        }
        None => String::new(),
    }
}

/// Nobody waits yet.
fn full(lease: &LeaseUse) -> Option<Finding> {
    let max = lease.max.filter(|max| *max > 0 && lease.used >= *max)?;
    Some(Finding {
        severity: Severity::Notice,
        what: match max {
            1 => format!("the only lease of kind {} is lent", lease.kind),
            _ => format!("all {max} leases of kind {} are lent", lease.kind),
        },
        who: String::new(),
        since_ms: None,
        hint: format!("the next child waits; leases_{}_max allows more", lease.kind),
    })
}

fn connections(picture: &Picture) -> Option<Finding> {
    let Picture { connections, connections_max, .. } = *picture;
    let longest = picture.waiting.iter().map(|waiter| waiter.wait_ms).max().unwrap_or_default();
    let is_short = longest.max(picture.groups_wait_ms) >= WAIT_NOTABLE;
    (connections_max > 0 && connections >= connections_max).then(|| Finding {
        severity: if is_short { Severity::Warning } else { Severity::Notice },
        what: match connections_max {
            1 => "the only connection to Redis is in use".to_owned(),
            _ => format!("all {connections_max} connections to Redis are in use"),
        },
        who: String::new(),
        since_ms: None,
        hint: "upstream_connections_max allows more, if Redis does".to_owned(),
    })
}

fn refused((user, why): &(String, String)) -> Finding {
    Finding {
        severity: Severity::Warning,
        what: format!("connections to Redis of user {user} are refused: {why}"),
        who: user.clone(),
        since_ms: None,
        hint: String::new(),
    }
}

fn leaks(picture: &Picture) -> Vec<Finding> {
    let mut leaks: Vec<&LeakNow> = picture.leaks.iter().collect();
    leaks.sort_by_key(|leak| std::cmp::Reverse(leak.since_ms));
    let mut found: Vec<Finding> = leaks.iter().take(LEAKS_TOLD).map(|leak| one_leak(picture, leak)).collect();
    if leaks.len() > LEAKS_TOLD {
        found.push(Finding {
            severity: Severity::Warning,
            what: plural((leaks.len() - LEAKS_TOLD) as u64, "more suspected leak", "more suspected leaks"),
            who: String::new(),
            since_ms: None,
            hint: format!("to list them: {}", picture.show("LEAKS")),
        });
    }
    found
}

fn one_leak(picture: &Picture, leak: &LeakNow) -> Finding {
    let hint = leak.who.child.map_or(String::new(), |child| {
        format!("to close it: {} (leak_action = close does so by itself)", picture.kill(child))
    });
    Finding {
        severity: Severity::Warning,
        // The facts are those of that moment: they do not grow older with it.
        what: format!("suspected leak, {}: {}: when it was found: {}", leak.kind, leak.who, leak.what),
        who: leak.who.to_string(),
        since_ms: Some(leak.since_ms),
        hint,
    }
}

/// From three quarters on the broker reads less; at the whole it closes who holds most.
fn memory(picture: &Picture) -> Option<Finding> {
    let Picture { memory, memory_max, .. } = *picture;
    (memory_max > 0 && memory >= memory_max / 4 * 3).then(|| Finding {
        severity: Severity::Warning,
        what: format!("queues hold {} of {} MiB", memory >> 20, memory_max >> 20),
        who: String::new(),
        since_ms: None,
        hint: format!(
            "at memory_max the child that holds most is closed; to see which: {}",
            picture.show("CHILDREN SORT memory_bytes LIMIT 10")
        ),
    })
}

fn children(picture: &Picture) -> Option<Finding> {
    let max = picture.children_max.filter(|max| *max > 0 && picture.children >= *max)?;
    Some(Finding {
        severity: Severity::Critical,
        what: format!(
            "{} connected, and new ones are refused",
            plural(picture.children, "child is", "children are")
        ),
        who: String::new(),
        since_ms: None,
        hint: format!(
            "children_max allows {max}; to see which process has most of them: {}",
            picture.show("PROCESSES SORT children LIMIT 10")
        ),
    })
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Microseconds; milliseconds and seconds where these are read more easily.
pub(crate) fn micros(micros: u64) -> String {
    match micros {
        0..=10_000 => format!("{micros}us"),
        10_001..=10_000_000 => format!("{}ms", micros / 1_000),
        _ => format!("{}s", micros / 1_000_000),
    }
}

/// Milliseconds as a person says them.
pub(crate) fn lasting(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Picture {
        let lease = |kind, max| LeaseUse { kind, used: 0, max: Some(max) };
        Picture {
            address: "redis://h:6379/0".to_owned(),
            state: "up".to_owned(),
            connections: 2,
            connections_max: 8,
            leases: vec![lease("transaction", 1), lease("session", 32), lease("blocking", 256)],
            memory_max: 1 << 30,
            children_max: Some(10_000),
            asking: "redis-cli -s /run/b.sock".to_owned(),
            telling: "redis-cli -s /run/b.sock.admin".to_owned(),
            ..Picture::default()
        }
    }

    fn person() -> Person {
        Person {
            child: Some(12),
            pid: Some(44),
            uid: Some(33),
            process: "worker".to_owned(),
            unit: "web.service".to_owned(),
        }
    }

    fn held_by(person: Person) -> Picture {
        let mut picture = well();
        picture.leases[0].used = 1;
        picture.holders = vec![LeaseHolder {
            kind: "transaction".to_owned(),
            who: person,
            held_ms: 9_100,
            idle_ms: Some(9_000),
            command: "watch".to_owned(),
        }];
        let waiter = |wait_ms| WaitsForLease { kind: "transaction", wait_ms };
        picture.waiting = vec![waiter(4_200), waiter(300)];
        picture
    }

    #[test]
    fn nothing_is_wrong_with_one_that_is_well() {
        assert_eq!(wrong(&well()), []);
        assert!(is_well(&[]));
    }

    #[test]
    fn who_holds_what_others_wait_for_is_named() {
        let found = wrong(&held_by(person()));
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].what,
            "2 children wait for a lease of kind transaction for 4.2 s; held by pid 44 (worker, web.service), \
             since 9.1 s, last command watch, idle for 9.0 s"
        );
        assert_eq!((found[0].severity, found[0].since_ms), (Severity::Critical, Some(4_200)));
        assert_eq!(found[0].who, "pid 44 (worker, web.service)");
        let hint = "to take it back: redis-cli -s /run/b.sock.admin BROKER KILL CHILD 12";
        assert_eq!(found[0].hint, hint);
        let nowhere = Picture { telling: String::new(), ..held_by(person()) };
        let hint = "to take it back: BROKER KILL CHILD 12, which admin_listen alone hears";
        assert_eq!(wrong(&nowhere)[0].hint, hint);
        let unknown = wrong(&held_by(Person { child: Some(12), ..Person::default() }));
        assert!(unknown[0].what.contains("held by child 12, since"), "{}", unknown[0].what);
    }

    #[test]
    fn of_several_holders_three_are_named() {
        let mut picture = held_by(person());
        let other = Person { pid: Some(45), ..Person::default() };
        let holder = &picture.holders[0];
        picture.holders.insert(0, LeaseHolder { who: other, held_ms: 10, ..holder.clone() });
        let what = &wrong(&picture)[0].what;
        assert!(
            what.ends_with(
                "; held by pid 44 (worker, web.service), since 9.1 s, last command watch, idle for 9.0 s; \
                 by pid 45, since 10 ms, last command watch, idle for 9.0 s"
            ),
            "{what}"
        );
        for pid in 46..49 {
            let other = Person { pid: Some(pid), ..Person::default() };
            let holder = &picture.holders[0];
            picture.holders.push(LeaseHolder {
                who: other,
                held_ms: 100,
                idle_ms: Some(3),
                ..holder.clone()
            });
        }
        let what = &wrong(&picture)[0].what;
        assert!(
            what.contains("; by pid 46, since 100 ms, last command watch, idle for 3 ms; by pid 47"),
            "{what}"
        );
        assert!(what.ends_with("; and 2 more"), "{what}");
    }

    /// Who has just begun is named as well as who sleeps.
    #[test]
    fn a_holder_is_named_however_short_it_is_idle() {
        let mut picture = held_by(person());
        (picture.holders[0].held_ms, picture.holders[0].idle_ms) = (260, Some(2));
        let found = wrong(&picture);
        assert!(found[0].what.contains("held by pid 44 (worker, web.service), since 260 ms"), "{found:?}");
        assert!(found[0].what.ends_with("idle for 2 ms"), "{found:?}");
        assert_eq!(found[0].hint, "leases_transaction_max allows 1");
    }

    #[test]
    fn a_wait_whose_kind_is_not_known_is_told_without_one() {
        let mut picture = held_by(person());
        picture.waiting = vec![WaitsForLease { kind: "", wait_ms: 2_000 }];
        let what: Vec<String> = wrong(&picture).into_iter().map(|finding| finding.what).collect();
        assert!(what[0].starts_with("1 child waits for a lease for 2.0 s; held by pid 44"), "{what:?}");
        assert!(what.iter().all(|what| !what.contains("blocking")), "{what:?}");
    }

    #[test]
    fn a_lease_that_goes_round_is_nothing_wrong() {
        let mut picture = held_by(person());
        picture.waiting = vec![WaitsForLease { kind: "transaction", wait_ms: WAIT_NOTABLE - 1 }];
        let found = wrong(&picture);
        assert_eq!(found.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Notice]);
        assert!(is_well(&found) && found[0].what.contains("the only lease of kind transaction"));
        picture.waiting[0].wait_ms = WAIT_NOTABLE;
        assert_eq!(wrong(&picture)[0].severity, Severity::Warning);
        assert!(!is_well(&wrong(&picture)));
    }

    #[test]
    fn a_wait_for_one_kind_is_not_blamed_on_the_holder_of_another() {
        let mut picture = held_by(person());
        picture.waiting = vec![WaitsForLease { kind: "session", wait_ms: 2_000 }];
        let found = wrong(&picture);
        assert!(found[0].what.ends_with("kind session for 2.0 s; none is lent"), "{}", found[0].what);
        assert_eq!(found[0].who, "");
    }

    #[test]
    fn commands_that_wait_together_wait_too() {
        let mut picture = well();
        (picture.groups_waiting, picture.groups_wait_ms, picture.leases[2].used) = (3, 1_500, 256);
        let found = wrong(&picture);
        assert!(found[0].what.starts_with("3 blocking commands wait for a lease of kind blocking for 1.5 s"));
        assert!(found[0].hint.contains("leases_blocking_max allows 256"), "{}", found[0].hint);
    }

    #[test]
    fn what_redis_does_is_said_first() {
        let mut picture = held_by(person());
        picture.state = "down".to_owned();
        (picture.down_ms, picture.refusal) = (Some(61_000), "connection refused".to_owned());
        let found = wrong(&picture);
        assert_eq!(found[0].what, "Redis at redis://h:6379/0 is down for 61 s: connection refused");
        assert_eq!((found[0].severity, found[0].since_ms), (Severity::Critical, Some(61_000)));
        for (state, severity, part) in [
            ("busy", Severity::Critical, "busy with a script"),
            ("draining", Severity::Warning, "about to end"),
            ("strange", Severity::Warning, "is strange"),
        ] {
            let found = wrong(&Picture { state: state.to_owned(), ..well() });
            assert!(found[0].what.contains(part) && found[0].severity == severity, "{found:?}");
        }
    }

    #[test]
    fn a_redis_that_hangs_is_seen_before_it_is_given_up() {
        let mut picture = well();
        picture.lanes = vec![
            LaneAge { lane: 0, in_flight: 7, oldest_ms: STALL },
            LaneAge { lane: 1, in_flight: 1, oldest_ms: 2 },
        ];
        assert!(wrong(&picture)[0].what.contains("lane 0 for 1.0 s, 8 requests wait"));
        picture.lanes[0].oldest_ms = STALL - 1;
        assert_eq!(wrong(&picture), []);
    }

    #[test]
    fn requests_that_fail_are_wrong_however_well_the_rest_is() {
        let mut picture = well();
        picture.failures = Failures { span_ms: 1_004, down: 12, ..Failures::default() };
        let found = wrong(&picture);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, "12 requests failed with BROKERDOWN in the last second");
        assert!(!is_well(&found));
        picture.failures = Failures {
            span_ms: 60_000,
            lost: 1,
            limited: 2,
            timed_out: 3,
            children_refused: 1,
            ..Failures::default()
        };
        let found: Vec<String> = wrong(&picture).into_iter().map(|finding| finding.what).collect();
        assert_eq!(
            found,
            [
                "1 request failed with BROKERLOST in the last minute",
                "2 requests failed with BROKERLIMIT in the last minute",
                "3 requests failed with BROKERTIMEOUT in the last minute",
                "1 new child was refused in the last minute",
            ]
        );
        picture.failures = Failures { span_ms: 11_500, log_lines_dropped: 5, ..Failures::default() };
        let found = wrong(&picture);
        assert_eq!(found[0].what, "5 lines of the log were lost in the last 12 s");
        assert!(is_well(&found), "no request has failed");
    }

    #[test]
    fn leaks_are_told_the_oldest_first_and_then_summed_up() {
        let mut picture = well();
        let leak = |since_ms| LeakNow {
            kind: "open-transaction".to_owned(),
            who: person(),
            since_ms,
            what: "WATCH open".to_owned(),
        };
        picture.leaks = (0..LEAKS_TOLD as u64 + 3).map(leak).collect();
        let found = wrong(&picture);
        assert_eq!(found.len(), LEAKS_TOLD + 1);
        assert_eq!(found[0].since_ms, Some(12));
        assert!(
            found[0]
                .what
                .contains("open-transaction: pid 44 (worker, web.service): when it was found: WATCH open")
        );
        assert_eq!(found[LEAKS_TOLD].what, "3 more suspected leaks");
        assert_eq!(
            found[0].hint,
            "to close it: redis-cli -s /run/b.sock.admin BROKER KILL CHILD 12 (leak_action = close does so by itself)"
        );
        assert_eq!(found[LEAKS_TOLD].hint, "to list them: redis-cli -s /run/b.sock BROKER SHOW LEAKS");
        picture.leaks.truncate(LEAKS_TOLD + 1);
        assert_eq!(wrong(&picture)[LEAKS_TOLD].what, "1 more suspected leak");
        assert!(!is_well(&found));
    }

    #[test]
    fn bounds_that_are_met_are_said_and_those_that_are_not_are_not() {
        let mut picture = well();
        picture.connections = 8;
        (picture.memory, picture.children) = ((1 << 30) / 4 * 3, 10_000);
        picture.refused = vec![("web".to_owned(), "WRONGPASS".to_owned())];
        let found: Vec<String> = wrong(&picture).into_iter().map(|finding| finding.what).collect();
        for part in
            ["all 8 connections", "queues hold 768 of 1024 MiB", "10000 children", "web are refused: WRONG"]
        {
            assert!(found.iter().any(|what| what.contains(part)), "{part}: {found:?}");
        }
        assert_eq!(found.len(), 4);
        assert_eq!(severity_of_connections(&picture), Some(Severity::Notice), "nobody waits for one");
        picture.waiting = vec![WaitsForLease { kind: "session", wait_ms: WAIT_NOTABLE }];
        assert_eq!(severity_of_connections(&picture), Some(Severity::Warning));
        picture.waiting.clear();
        (picture.connections, picture.children) = (7, 9_999);
        picture.memory -= 1;
        picture.refused.clear();
        assert_eq!(wrong(&picture), []);
    }

    fn severity_of_connections(picture: &Picture) -> Option<Severity> {
        connections(picture).map(|finding| finding.severity)
    }

    #[test]
    fn one_of_a_thing_is_not_several() {
        let mut picture = well();
        picture.lanes = vec![LaneAge { lane: 0, in_flight: 1, oldest_ms: STALL }];
        (picture.connections, picture.connections_max) = (1, 1);
        (picture.children, picture.children_max) = (1, Some(1));
        let found: Vec<String> = wrong(&picture).into_iter().map(|finding| finding.what).collect();
        for part in
            ["1.0 s, 1 request waits", "1 child is connected", "the only connection to Redis is in use"]
        {
            assert!(found.iter().any(|what| what.contains(part)), "{part}: {found:?}");
        }
    }

    #[test]
    fn latencies_are_written_in_a_unit_that_suits_them() {
        let said = [0, 850, 10_000, 10_001, 250_999, 10_000_000, 10_000_001, 61_000_000].map(micros);
        assert_eq!(said, ["0us", "850us", "10000us", "10ms", "250ms", "10000ms", "10s", "61s"]);
    }

    #[test]
    fn times_are_said_as_people_do() {
        let said = [0, 999, 1_000, 9_999, 10_000, 119_999, 120_000, 7_200_000, 172_800_000].map(lasting);
        assert_eq!(
            said,
            ["0 ms", "999 ms", "1.0 s", "9.9 s", "10 s", "119 s", "2 min", "2 h", "2 days"]
                .map(str::to_owned)
        );
    }
}
