//! What is wrong now, in words for whoever is paged at night: one function of plain figures. Knows no child and no lane,
//! and asks nobody.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::keys::LeaseKind;
use crate::core::status::figures::{
    Fullness, HolderFigures, KindFigures, LastMinute, StallFigures, StatusFigures, WAIT_ORDINARY,
};
use std::fmt::Write;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TroubleSeverity {
    /// Requests fail, or all of a kind wait.
    Critical,
    /// Nothing fails yet, or only of those who cause it.
    Warning,
    /// Nothing is wrong: it is what will be, if it goes on, or what nobody's request suffers from.
    Notice,
}

impl TroubleSeverity {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            TroubleSeverity::Critical => "critical",
            TroubleSeverity::Warning => "warning",
            TroubleSeverity::Notice => "notice",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusTrouble {
    /// What kind of trouble it is, in a word that stays; several troubles may be of one kind.
    pub kind: &'static str,
    /// How bad it is.
    pub severity: TroubleSeverity,
    /// What is wrong, one sentence.
    pub what: String,
    /// Who it is about, or who causes it; empty where it is about everybody.
    pub who: String,
    /// For how long it is so, where that is known.
    pub since_ms: Option<Millis>,
    /// What it means, and what can be done.
    pub hint: String,
}

/// How the reason of a failed attempt to connect begins where the upstream has taken the connection and said nothing.
const NO_ANSWER: &str = "no answer";
/// How the reason ends for which an upstream that keeps its connections is not ready.
const ANSWERS_NOTHING: &str = "does not answer";
/// What can be done about an upstream that takes connections and says nothing.
const HANGS: &str = "Its address takes connections, but nothing answers there: Redis is stopped, hangs (memory that is \
     swapped out, a slow disk), or is busy with one long command. Look at its process, its log and the load of its host.";

/// All that is wrong, the worst first.
pub fn wrong_now(now: &StatusFigures) -> Vec<StatusTrouble> {
    let mut found = Vec::new();
    found.extend(paused(now));
    found.extend(upstream(now).or_else(|| stalled(now)));
    found.extend(refused(now));
    now.kinds.iter().for_each(|kind| found.extend(leases(now, kind)));
    found.extend(full(now));
    found.extend(failures(now));
    found.extend(leaks(now));
    found.extend(log_lines(&now.minute));
    // Stable: what is equally bad stays in the order in which it is looked for.
    found.sort_by_key(|trouble| trouble.severity);
    found
}

fn trouble(
    kind: &'static str,
    severity: TroubleSeverity,
    what: impl Into<String>,
    hint: impl Into<String>,
) -> StatusTrouble {
    let (what, hint) = (what.into(), hint.into());
    StatusTrouble { kind, severity, what, who: String::new(), since_ms: None, hint }
}

/// A setting with its value; its name alone where the value is not known.
fn setting(now: &StatusFigures, name: &str) -> String {
    let found = now.settings.iter().find(|(known, _)| *known == name);
    found.map_or_else(|| name.to_owned(), |(_, text)| text.clone())
}

/// A verb of the console, as it is typed into a shell. Between backquotes, by which the page knows it.
fn console_verb(now: &StatusFigures, verb: &str) -> String {
    let needs = if now.admin_socket.is_none() { " (of the console, which needs admin_listen)" } else { "" };
    format!("{}{needs}", console_command(now, verb))
}

/// What the console shows to everybody who may look, over any of its unix sockets.
fn console_command(now: &StatusFigures, command: &str) -> String {
    match &now.admin_socket {
        Some(path) => format!("`redis-cli -s {} {command}`", shell_word(&path.to_string_lossy())),
        None => format!("`{command}`"),
    }
}

/// One word of a shell, quoted where it has to be.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Not the upstream's trouble, though requests wait as if it were.
fn paused(now: &StatusFigures) -> Option<StatusTrouble> {
    let (since, left) = now.paused?;
    let resume = console_verb(now, "BROKER RESUME");
    let hint = format!(
        "Somebody has asked for it on the console. It resumes by itself in {}, or by {resume}.",
        duration(left)
    );
    let what = "The broker is paused: requests wait, and nobody is told anything.";
    let paused = trouble("paused", TroubleSeverity::Warning, what, hint);
    Some(StatusTrouble { since_ms: Some(since), ..paused })
}

fn upstream(now: &StatusFigures) -> Option<StatusTrouble> {
    let who = now.address.clone();
    if now.is_draining {
        let after = setting(now, "drain_timeout");
        let hint = format!(
            "No new connections are taken. It ends with the last child, or after {after} unless by DRAIN."
        );
        return Some(trouble("draining", TroubleSeverity::Warning, "The broker is shutting down.", hint));
    }
    if !now.is_up {
        let why =
            if now.refusal.is_empty() { String::new() } else { format!("Last attempt: {}. ", now.refusal) };
        let check = if now.refusal.starts_with(NO_ANSWER) {
            HANGS
        } else {
            "Check that Redis runs and accepts connections at this address."
        };
        let wait = setting(now, "queue_timeout");
        let hint = format!("{why}Requests wait ({wait}), then fail with BROKERDOWN. {check}");
        let down = trouble("upstream-down", TroubleSeverity::Critical, "Redis cannot be reached.", hint);
        return Some(StatusTrouble { who, since_ms: now.down_ms, ..down });
    }
    if now.is_busy {
        let hint =
            "Everybody else is answered BUSY. SCRIPT KILL ends the script, unless it has written something.";
        let busy = trouble(
            "upstream-busy",
            TroubleSeverity::Critical,
            "Redis runs a script that does not end.",
            hint,
        );
        return Some(StatusTrouble { who, ..busy });
    }
    let why = now.not_ready.as_ref()?;
    let hint = if why.ends_with(ANSWERS_NOTHING) {
        HANGS
    } else {
        "The connection is there, but requests are not served as they should be. Look at Redis itself."
    };
    let not_ready =
        trouble("upstream-not-ready", TroubleSeverity::Critical, format!("Redis is not ready: {why}."), hint);
    Some(StatusTrouble { who, since_ms: now.not_ready_ms, ..not_ready })
}

/// One that hangs looks up for a while: nothing is refused, and nothing is answered.
fn stalled(now: &StatusFigures) -> Option<StatusTrouble> {
    let StallFigures { lane, silent_ms, requests } = now.stalled?;
    let what = format!("Redis does not answer on shared lane {lane}: {requests} {}.", waiting(requests));
    let hint = "It runs a slow command, or hangs. Its own SLOWLOG and CLIENT LIST tell which.";
    let stalled = trouble("upstream-stalled", TroubleSeverity::Critical, what, hint);
    Some(StatusTrouble { who: now.address.clone(), since_ms: Some(silent_ms), ..stalled })
}

fn waiting(requests: u64) -> &'static str {
    if requests == 1 { "request waits" } else { "requests wait" }
}

fn refused(now: &StatusFigures) -> impl Iterator<Item = StatusTrouble> {
    let hint = "Its children wait, or get this error. Redis' maxclients, and the user's password and rights there, tell why.";
    now.refused.iter().map(move |(user, why)| {
        let what = format!("Redis refuses connections of user {user}: {}.", why.trim_end_matches('.'));
        trouble("user-refused", TroubleSeverity::Warning, what, hint)
    })
}

/// What leases of a kind are for, and the setting that bounds them.
fn kind_in_words(kind: LeaseKind) -> (&'static str, &'static str) {
    let what = match kind {
        LeaseKind::Transaction => "a transaction (WATCH, MULTI)",
        LeaseKind::Session => "a session (subscriptions and the like)",
        LeaseKind::Blocking => "a blocking command",
    };
    (what, kind.limit_name())
}

fn leases(now: &StatusFigures, figures: &KindFigures) -> Option<StatusTrouble> {
    let (purpose, name) = kind_in_words(figures.kind);
    let bound = setting(now, name);
    let (used, max) = (figures.leases.used, figures.leases.max);
    let (is_full, waits) = (figures.leases.is_full(), figures.has_notable_wait());
    if !waits && !is_full {
        return None;
    }
    let who = holders_in_words(figures);
    if !waits {
        let hint = format!("Nobody waits yet; whoever comes next does. The setting is {bound}.");
        let what = if max == 1 {
            format!("The only connection for {purpose} is in use.")
        } else {
            format!("All {max} connections for {purpose} are in use.")
        };
        return Some(StatusTrouble { who, ..trouble("leases-full", TroubleSeverity::Notice, what, hint) });
    }
    let (children, wait) = if figures.waiting == 1 { ("child", "waits") } else { ("children", "wait") };
    let what = format!("{} {children} {wait} for a connection for {purpose}.", figures.waiting);
    let why = match (is_full, max) {
        (true, 1) => format!("The only one is in use ({bound}). "),
        (true, _) => format!("All {max} are in use ({bound}). "),
        (false, _) if now.connections.is_full() => {
            let bound = setting(now, "upstream_connections_max");
            format!("{used} of {max} are in use: there is no further connection to Redis ({bound}). ")
        }
        (false, _) => format!("{used} of {max} are in use: no further connection to Redis could be made. "),
    };
    let first = figures.holders.iter().find_map(|holder| holder.child);
    let kill = first.map_or(String::new(), |id| {
        let command = console_verb(now, &format!("BROKER KILL CHILD {id}"));
        format!("If child {id} does not give it back, this takes it: {command}. ")
    });
    let longest = setting(now, "lease_wait_timeout");
    let hint = format!("{why}{kill}Who waits longer ({longest}) is answered BROKERLIMIT.");
    let severity = if is_full { TroubleSeverity::Critical } else { TroubleSeverity::Warning };
    Some(StatusTrouble {
        who,
        since_ms: Some(figures.longest_ms),
        ..trouble("leases-waiting", severity, what, hint)
    })
}

fn holders_in_words(figures: &KindFigures) -> String {
    let named: Vec<String> = figures.holders.iter().take(limits::STATUS_NAMED).map(holder_in_words).collect();
    if named.is_empty() {
        return String::new();
    }
    let others = figures.leases.used.saturating_sub(named.len() as u64);
    let more = if others > 0 { format!("; and {others} more") } else { String::new() };
    format!("held by {}{more}", named.join("; "))
}

fn holder_in_words(holder: &HolderFigures) -> String {
    let mut text = match holder.pid {
        Some(pid) => format!("pid {pid}"),
        None => "an unknown process".to_owned(),
    };
    let about: Vec<&str> =
        [&*holder.process, &*holder.unit].into_iter().filter(|part| !part.is_empty()).collect();
    // A String takes everything.
    if !about.is_empty() {
        let _ = write!(text, " ({})", about.join(", "));
    }
    if let Some(child) = holder.child {
        let _ = write!(text, " child {child}");
    }
    if !holder.name.is_empty() {
        let _ = write!(text, " \"{}\"", holder.name);
    }
    let _ = write!(text, " for {}", duration(holder.held_ms));
    if !holder.command.is_empty() {
        let _ = write!(text, ", last command {}", holder.command);
    }
    // A holder that works is no less in the way, and nobody to be closed.
    if let Some(idle_ms) = holder.idle_ms.filter(|ms| *ms >= WAIT_ORDINARY) {
        let _ = write!(text, ", idle for {}", duration(idle_ms));
    }
    text
}

fn full(now: &StatusFigures) -> Vec<StatusTrouble> {
    let mut found = Vec::new();
    let of = |fullness: Fullness| format!("{} of {}", fullness.used, fullness.max);
    let most = console_command(now, "BROKER SHOW PROCESSES SORT children LIMIT 10");
    if now.children.is_full() {
        let what = format!(
            "{} is reached: {} children are connected.",
            setting(now, "children_max"),
            now.children.used
        );
        let hint = format!("Further connections are refused. Who has most of them: {most}.");
        found.push(trouble("children-full", TroubleSeverity::Critical, what, hint));
    } else if now.children.is_above(90) {
        let what = format!("{} children are connected: near children_max.", of(now.children));
        let hint = format!(
            "Beyond {} connections are refused. Who has most of them: {most}.",
            setting(now, "children_max")
        );
        found.push(trouble("children-near-max", TroubleSeverity::Warning, what, hint));
    }
    if now.connections.is_full() {
        let what = match now.connections.max {
            1 => "The only connection to Redis is in use.".to_owned(),
            max => format!("All {max} connections to Redis are in use."),
        };
        let bound = setting(now, "upstream_connections_max");
        let hint = format!("Who needs one more waits. The setting is {bound}.");
        let somebody_waits = now.kinds.iter().any(KindFigures::has_notable_wait);
        let severity = if somebody_waits { TroubleSeverity::Warning } else { TroubleSeverity::Notice };
        found.push(trouble("connections-full", severity, what, hint));
    }
    if now.memory.is_above(75) {
        let severity =
            if now.memory.is_above(95) { TroubleSeverity::Critical } else { TroubleSeverity::Warning };
        let percent = u128::from(now.memory.used) * 100 / u128::from(now.memory.max.max(1));
        let what = format!("The queues hold {percent} % of memory_max.");
        let hint = format!(
            "Long replies are slowed down. Above {} the child that holds most is closed. Who holds most: {}.",
            setting(now, "memory_max"),
            console_command(now, "BROKER SHOW CHILDREN SORT memory_bytes LIMIT 10")
        );
        found.push(trouble("memory-near-max", severity, what, hint));
    }
    found
}

fn failures(now: &StatusFigures) -> Vec<StatusTrouble> {
    let minute = &now.minute;
    let (queue, request) = (setting(now, "queue_timeout"), setting(now, "request_timeout"));
    let down = format!("They were not executed: Redis could not be reached in time ({queue}).");
    let timed_out =
        format!("Redis has not answered them in time ({request}): they may have been executed or not.");
    let kinds = [
        (
            "failed-lost",
            "BROKERLOST",
            minute.lost,
            TroubleSeverity::Critical,
            "A connection to Redis broke with these on their way: they may have been executed or not.",
        ),
        ("failed-down", "BROKERDOWN", minute.down, TroubleSeverity::Critical, &*down),
        (
            "failed-limit",
            "BROKERLIMIT",
            minute.limited,
            TroubleSeverity::Warning,
            "They were not executed: a limit was reached. The error that the program got names it.",
        ),
        ("failed-timeout", "BROKERTIMEOUT", minute.timed_out, TroubleSeverity::Warning, &*timed_out),
    ];
    let told = kinds.into_iter().filter(|(_, _, count, ..)| *count > 0);
    let mut found: Vec<StatusTrouble> = told
        .map(|(kind, error, count, severity, hint)| {
            let what =
                format!("{count} {} failed with {error} in the last minute.", plural(count, "request"));
            trouble(kind, severity, what, hint)
        })
        .collect();
    if minute.refused > 0 {
        let what =
            format!("{} {} refused in the last minute.", minute.refused, was(minute.refused, "connection"));
        let bounds = ["children_max", "children_per_process_max", "children_per_uid_max"];
        let [all, process, user] = bounds.map(|name| setting(now, name));
        let hint = format!(
            "{all}, or the cap of a process ({process}) or user ({user}), was reached; 0 is no cap. The log names who \
             has most."
        );
        found.push(trouble("children-refused", TroubleSeverity::Warning, what, hint));
    }
    found
}

fn leaks(now: &StatusFigures) -> Vec<StatusTrouble> {
    let named = now.leaks.iter().take(limits::STATUS_NAMED);
    let mut found: Vec<StatusTrouble> = named
        .map(|leak| {
            let kill = leak.child.map_or(String::new(), |id| {
                format!(" This closes it: {}.", console_verb(now, &format!("BROKER KILL CHILD {id}")))
            });
            let what = format!("Suspected leak: {}.", leak.kind);
            let hint = format!("When it was found: {}.{kill}", leak.what.trim_end_matches('.'));
            let since_ms = Some(leak.since_ms);
            StatusTrouble {
                who: leak.who.clone(),
                since_ms,
                ..trouble("leak", TroubleSeverity::Warning, what, hint)
            }
        })
        .collect();
    let others = now.leaks_now.saturating_sub(found.len() as u64);
    if others > 0 && !found.is_empty() {
        let what = format!("{others} further suspected {}.", plural(others, "leak"));
        found.push(trouble(
            "leak",
            TroubleSeverity::Warning,
            what,
            format!("They are listed by {}.", console_command(now, "BROKER SHOW LEAKS")),
        ));
    }
    found
}

fn log_lines(minute: &LastMinute) -> Option<StatusTrouble> {
    let count = minute.log_lines_dropped;
    let what = format!("{count} {} lost in the last minute.", was(count, "log line"));
    let hint = "Whoever reads the broker's log (journald, or standard error) does not keep up.";
    (count > 0).then(|| trouble("log-lines-lost", TroubleSeverity::Notice, what, hint))
}

fn plural(count: u64, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

fn was(count: u64, noun: &str) -> String {
    format!("{} {}", plural(count, noun), if count == 1 { "was" } else { "were" })
}

/// In the unit that a person would say it in.
fn duration(ms: Millis) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::status::figures::LeakFigures;

    /// Nothing is wrong.
    fn well() -> StatusFigures {
        let fullness = |used, max| Fullness { used, max };
        let kind = |kind| KindFigures {
            kind,
            leases: fullness(1, 4),
            waiting: 0,
            longest_ms: 0,
            holders: Vec::new(),
        };
        StatusFigures {
            address: "redis://db:6379/0".to_owned(),
            is_up: true,
            kinds: LeaseKind::ALL.map(kind).into(),
            connections: fullness(9, 20),
            children: fullness(80, 100),
            memory: fullness(10, 100),
            ..StatusFigures::default()
        }
    }

    fn only(now: &StatusFigures) -> StatusTrouble {
        let found = wrong_now(now);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.ends_with('.') && found[0].hint.ends_with('.'), "sentences: {found:?}");
        found.into_iter().next().unwrap()
    }

    #[test]
    fn nothing_is_wrong_where_all_is_well() {
        assert_eq!(wrong_now(&well()), []);
        // A wait that is over in a moment is none.
        let mut now = well();
        (now.kinds[0].waiting, now.kinds[0].longest_ms) = (3, WAIT_ORDINARY - 1);
        assert_eq!(wrong_now(&now), []);
    }

    #[test]
    fn what_the_upstream_does_is_said_once_and_by_its_cause() {
        let refusal = "connection refused".to_owned();
        let down = StatusFigures { is_up: false, down_ms: Some(4_000), refusal, ..well() };
        let found = only(&down);
        assert_eq!((found.kind, found.severity), ("upstream-down", TroubleSeverity::Critical));
        assert_eq!((found.since_ms, found.who.as_str()), (Some(4_000), "redis://db:6379/0"));
        assert!(found.hint.starts_with("Last attempt: connection refused. "), "{found:?}");
        let not_ready = Some("the upstream does not answer".to_owned());
        assert_eq!(only(&StatusFigures { not_ready: not_ready.clone(), ..down }).kind, "upstream-down");
        let found = only(&StatusFigures { not_ready: not_ready.clone(), ..well() });
        assert_eq!(found.what, "Redis is not ready: the upstream does not answer.");
        assert_eq!((found.since_ms, &*found.hint), (None, HANGS));
        let loading = Some("the upstream says: LOADING".to_owned());
        let found = only(&StatusFigures { not_ready: loading, not_ready_ms: Some(3_000), ..well() });
        assert!(found.since_ms == Some(3_000) && found.hint != HANGS, "{found:?}");
        let refusal = "no answer within 1000 ms".to_owned();
        let found = only(&StatusFigures { is_up: false, refusal, ..well() });
        assert!(found.hint.ends_with(HANGS) && !found.hint.contains("accepts connections"), "{found:?}");
        assert_eq!(only(&StatusFigures { is_busy: true, not_ready, ..well() }).kind, "upstream-busy");
        let stalled = Some(StallFigures { lane: 3, silent_ms: 1_200, requests: 8 });
        let found = only(&StatusFigures { stalled, ..well() });
        assert_eq!(
            (found.kind, found.since_ms, &*found.what),
            ("upstream-stalled", Some(1_200), "Redis does not answer on shared lane 3: 8 requests wait.")
        );
        let not_ready = Some("the upstream does not answer".to_owned());
        assert_eq!(only(&StatusFigures { stalled, not_ready, ..well() }).kind, "upstream-not-ready");
        let user = [("web".to_owned(), "WRONGPASS invalid password.".to_owned())];
        let found = only(&StatusFigures { refused: user.into(), ..well() });
        assert_eq!(found.what, "Redis refuses connections of user web: WRONGPASS invalid password.");
        let draining = only(&StatusFigures { is_draining: true, is_up: false, ..well() });
        assert_eq!((draining.kind, draining.severity), ("draining", TroubleSeverity::Warning));
        let paused = only(&StatusFigures { paused: Some((2_000, 28_000)), ..well() });
        assert_eq!((paused.kind, paused.since_ms), ("paused", Some(2_000)));
        assert!(paused.hint.contains("by itself in 28 s"), "{}", paused.hint);
    }

    #[test]
    fn who_waits_for_a_lease_is_told_with_who_has_them() {
        let mut now = well();
        let holder = HolderFigures {
            pid: Some(4242),
            process: "worker".to_owned(),
            unit: "web.service".to_owned(),
            child: Some(17),
            name: "jobs".to_owned(),
            held_ms: 61_000,
            command: "watch".to_owned(),
            idle_ms: Some(60_500),
        };
        now.kinds[0] = KindFigures {
            kind: LeaseKind::Transaction,
            leases: Fullness { used: 4, max: 4 },
            waiting: 2,
            longest_ms: 12_300,
            holders: vec![holder, HolderFigures::default()],
        };
        let found = only(&now);
        assert_eq!((found.kind, found.severity), ("leases-waiting", TroubleSeverity::Critical));
        assert_eq!(found.what, "2 children wait for a connection for a transaction (WATCH, MULTI).");
        assert_eq!(
            found.who,
            "held by pid 4242 (worker, web.service) child 17 \"jobs\" for 61 s, last command watch, idle for 60 s; \
             an unknown process for 0 s; and 2 more"
        );
        assert!(
            found.hint.contains("leases_transaction_max") && found.hint.contains("KILL CHILD 17"),
            "{found:?}"
        );
        assert_eq!(found.since_ms, Some(12_300));
        now.kinds[0].leases.used = 3;
        let found = only(&now);
        assert_eq!(found.severity, TroubleSeverity::Warning);
        assert!(found.hint.starts_with("3 of 4 are in use: no further connection to Redis could be made."));
        let mut full = now.clone();
        full.connections = Fullness { used: 20, max: 20 };
        assert!(
            wrong_now(&full)[0].hint.contains("no further connection to Redis (upstream_connections_max)")
        );
        (now.kinds[0].leases.used, now.kinds[0].waiting) = (4, 0);
        assert_eq!(only(&now).kind, "leases-full");
        now.kinds[0].leases = Fullness { used: 1, max: 1 };
        assert_eq!(only(&now).what, "The only connection for a transaction (WATCH, MULTI) is in use.");
        now.kinds[0].waiting = 1;
        now.admin_socket = Some("/run/broker.sock.admin".into());
        now.settings = vec![("leases_transaction_max", "leases_transaction_max = 1".to_owned())];
        assert_eq!(
            only(&now).hint,
            "The only one is in use (leases_transaction_max = 1). If child 17 does not give it back, this takes it: \
             `redis-cli -s /run/broker.sock.admin BROKER KILL CHILD 17`. Who waits longer (lease_wait_timeout) is \
             answered BROKERLIMIT."
        );
    }

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(
            ["/run/a-b.sock", "/a b", "/it's"].map(shell_word),
            ["/run/a-b.sock", "'/a b'", "'/it'\\''s'"]
        );
    }

    #[test]
    fn bounds_are_told_before_and_when_they_are_reached() {
        let set = |change: fn(&mut StatusFigures)| {
            let mut now = well();
            change(&mut now);
            let found = only(&now);
            (found.kind, found.severity)
        };
        assert_eq!(set(|now| now.children.used = 90), ("children-near-max", TroubleSeverity::Warning));
        assert_eq!(set(|now| now.children.used = 100), ("children-full", TroubleSeverity::Critical));
        assert_eq!(set(|now| now.connections.used = 20), ("connections-full", TroubleSeverity::Notice));
        let mut short = well();
        (short.connections.used, short.kinds[1].waiting, short.kinds[1].longest_ms) = (20, 1, WAIT_ORDINARY);
        let found = wrong_now(&short);
        assert!(found.iter().all(|trouble| trouble.severity == TroubleSeverity::Warning), "{found:?}");
        assert_eq!(set(|now| now.memory.used = 75), ("memory-near-max", TroubleSeverity::Warning));
        assert_eq!(set(|now| now.memory.used = 95), ("memory-near-max", TroubleSeverity::Critical));
        let nothing = StatusFigures { children: Fullness::default(), memory: Fullness::default(), ..well() };
        assert_eq!(wrong_now(&nothing), [], "what has no bound is never full");
    }

    #[test]
    fn failures_of_the_last_minute_are_told_by_kind_and_the_worst_come_first() {
        let minute =
            LastMinute { lost: 1, down: 2, limited: 3, timed_out: 4, refused: 1, log_lines_dropped: 1 };
        let found = wrong_now(&StatusFigures { minute, ..well() });
        let said: Vec<_> = found.iter().map(|trouble| (trouble.kind, trouble.what.as_str())).collect();
        assert_eq!(
            said,
            [
                ("failed-lost", "1 request failed with BROKERLOST in the last minute."),
                ("failed-down", "2 requests failed with BROKERDOWN in the last minute."),
                ("failed-limit", "3 requests failed with BROKERLIMIT in the last minute."),
                ("failed-timeout", "4 requests failed with BROKERTIMEOUT in the last minute."),
                ("children-refused", "1 connection was refused in the last minute."),
                ("log-lines-lost", "1 log line was lost in the last minute."),
            ]
        );
        assert!(found.is_sorted_by_key(|trouble| trouble.severity));
    }

    #[test]
    fn some_leaks_are_named_and_the_others_counted() {
        let leak = LeakFigures {
            kind: "open-transaction".to_owned(),
            who: "pid 7".to_owned(),
            child: Some(5),
            since_ms: 9_000,
            what: "MULTI open".to_owned(),
        };
        let mut now = StatusFigures { leaks_now: 1, leaks: vec![leak.clone()], ..well() };
        let found = only(&now);
        assert_eq!((&*found.what, &*found.who), ("Suspected leak: open-transaction.", "pid 7"));
        assert_eq!(
            (found.since_ms, &*found.hint),
            (
                Some(9_000),
                "When it was found: MULTI open. This closes it: `BROKER KILL CHILD 5` (of the console, which needs \
                 admin_listen)."
            )
        );
        (now.leaks_now, now.leaks) = (100, vec![leak; 10]);
        let found = wrong_now(&now);
        assert_eq!(found.len(), limits::STATUS_NAMED + 1);
        assert_eq!(
            found.last().unwrap().what,
            format!("{} further suspected leaks.", 100 - limits::STATUS_NAMED)
        );
    }

    #[test]
    fn every_kind_is_in_the_documentation() {
        let minute =
            LastMinute { lost: 1, down: 1, limited: 1, timed_out: 1, refused: 1, log_lines_dropped: 1 };
        let (not_ready, leaks) = (Some("so".to_owned()), vec![LeakFigures::default()]);
        let refused = vec![("u".to_owned(), "no".to_owned())];
        let mut worst = StatusFigures { minute, not_ready, refused, leaks, leaks_now: 1, ..well() };
        (worst.children.used, worst.connections.used, worst.memory.used) = (90, 20, 80);
        (worst.kinds[0].leases.used, worst.kinds[1].leases.used) = (4, 4);
        (worst.kinds[1].waiting, worst.kinds[1].longest_ms) = (1, WAIT_ORDINARY);
        let others = [
            StatusFigures { is_up: false, ..well() },
            StatusFigures { is_busy: true, ..well() },
            StatusFigures { stalled: Some(StallFigures::default()), ..well() },
            StatusFigures { is_draining: true, ..well() },
            StatusFigures { paused: Some((1, 1)), ..well() },
            StatusFigures { children: Fullness { used: 1, max: 1 }, ..well() },
        ];
        let found: Vec<StatusTrouble> = others.iter().chain([&worst]).flat_map(wrong_now).collect();
        let kinds: std::collections::BTreeSet<_> = found.iter().map(|trouble| trouble.kind).collect();
        assert_eq!(kinds.len(), 20, "{found:?}");
        let page = include_str!("../../../docs/status.md");
        for StatusTrouble { kind, .. } in found {
            assert!(page.contains(&format!("`{kind}`")), "docs/status.md does not name {kind}");
        }
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let said = [0, 1_999, 119_000, 120_000, 7_199_000, 7_200_000, 172_800_000].map(duration);
        assert_eq!(said, ["0 s", "1 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
    }
}
