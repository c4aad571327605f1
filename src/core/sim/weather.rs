//! What the model Redis is like for now, and what it refuses for it: its role, a dataset that loads, a script that runs.
//! Texts, and the order in which Redis thinks of them, are those of 7.0.15.

use super::encoded::{bulk, error, ok};
use super::redis::{Client, Redis};
use super::table;
use super::trace;
use super::truth::Reason;
use super::wire::full_name;
use crate::base::clock::Millis;

pub(super) const FULL: &str = "ERR max number of clients reached";
const LOADING: &str = "LOADING Redis is loading the dataset in memory";
const READONLY: &str = "READONLY You can't write against a read only replica.";
const MASTERDOWN: &str = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
const BUSY: &str = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
const UNBLOCKED: &str =
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";
const KILLED: &str = "ERR Script killed by user with SCRIPT KILL... script: a0aa8d656b65882e2a8f491fbb37ba7fa649be34, \
     on @user_script:1.";

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    #[default]
    Master,
    Replica,
    /// A replica that has lost its master and may not serve stale data.
    Orphan,
}

#[derive(Debug)]
struct Script {
    link: usize,
    argument: Vec<u8>,
    /// From then on others are told; before, nobody is answered at all.
    told_from: Millis,
    ends: Millis,
}

#[derive(Debug, Default)]
pub(super) struct Weather {
    pub(super) role: Role,
    /// The process is stopped: nobody is read, and whoever connects is not answered.
    pub(super) hangs: bool,
    /// There is no process: whoever connects is refused.
    pub(super) is_gone: bool,
    pub(super) full: bool,
    /// The dataset is being read until then.
    loading_until: Millis,
    script: Option<Script>,
    /// `busy-reply-threshold`.
    pub(super) patience: Millis,
    /// No script takes any time.
    pub(super) swift: bool,
}

impl Weather {
    pub(super) fn new(role: Role, patience: Millis) -> Weather {
        Weather { role, patience, ..Weather::default() }
    }

    /// What it was doing is forgotten.
    pub(super) fn crash(&mut self) {
        (self.is_gone, self.hangs, self.script, self.loading_until) = (true, false, None, 0);
    }

    pub(super) fn is_replica(&self) -> bool {
        self.role != Role::Master
    }

    pub(super) fn runs(&self) -> bool {
        !self.hangs && !self.is_gone
    }

    pub(super) fn takes_writes(&self) -> bool {
        self.runs() && !self.is_replica()
    }

    /// A script runs, and nobody is even read.
    pub(super) fn is_deaf(&self, now: Millis) -> bool {
        self.hangs || self.script.as_ref().is_some_and(|script| now < script.told_from)
    }

    pub(super) fn is_running(&self, link: usize) -> bool {
        self.script.as_ref().is_some_and(|script| script.link == link)
    }

    pub(super) fn script_runs(&self) -> bool {
        self.script.is_some()
    }

    /// When something here changes by itself.
    pub(super) fn next_change(&self, now: Millis) -> Option<Millis> {
        let script = self.script.iter().flat_map(|script| [script.told_from, script.ends]);
        script.chain([self.loading_until]).filter(|at| *at > now && *at < Millis::MAX).min()
    }
}

impl Redis {
    /// Another role. A replica serves nobody who is blocked.
    pub(super) fn set_role(&mut self, server: usize, role: Role) {
        if role != Role::Master && !self.servers[server].is_replica() {
            for (link, client) in self.clients.iter_mut().filter(|(_, client)| client.server == server) {
                if client.blocked.take().is_some() {
                    client.out.extend_from_slice(&error(UNBLOCKED));
                    self.closing.push(*link);
                }
            }
            self.ledger.truth.happened(Reason::Unblocked);
        }
        self.servers[server].role = role;
        self.witness();
    }

    /// The process begins anew and reads its dataset for so long.
    pub(super) fn load_for(&mut self, server: usize, duration: Millis) {
        let weather = &mut self.servers[server];
        (weather.script, weather.loading_until) = (None, self.now + duration);
        self.witness();
    }

    /// Everything is as a broker likes it.
    pub(super) fn clear_up(&mut self) {
        for server in 0..self.servers.len() {
            self.end_script(server, None);
            let weather = &mut self.servers[server];
            (weather.full, weather.loading_until) = (false, self.now);
        }
        if let [only] = &mut self.servers[..] {
            only.role = Role::Master;
        }
        self.access.denied.clear();
        self.access.locked = false;
        self.witness();
    }

    pub(super) fn change_in_time(&mut self) {
        for server in 0..self.servers.len() {
            let weather = &self.servers[server];
            let is_over = weather.script.as_ref().is_some_and(|script| script.ends <= self.now);
            if is_over && !weather.hangs {
                self.end_script(server, None);
            }
        }
        self.ledger.truth.now = self.now;
        self.witness();
    }

    pub(super) fn witness(&mut self) {
        let (now, servers, truth) = (self.now, &self.servers, &mut self.ledger.truth);
        let any = |is_so: &dyn Fn(&Weather) -> bool| servers.iter().any(is_so);
        let loading = |weather: &Weather| weather.loading_until > now;
        let down = |weather: &Weather| weather.role == Role::Orphan;
        let well = |weather: &Weather| !loading(weather) && weather.script.is_none() && !down(weather);
        (truth.now, truth.servers) = (now, servers.len());
        truth.set(Reason::Denied, !self.access.denied.is_empty());
        truth.set(Reason::Loading, any(&loading));
        truth.set(Reason::Replica, any(&Weather::is_replica));
        truth.set(Reason::Master, any(&|weather| !weather.is_replica()));
        truth.set(Reason::MasterDown, any(&down));
        truth.set(Reason::Busy, any(&|weather| weather.script_runs() && !weather.is_deaf(now)));
        truth.set(
            Reason::Pingable,
            any(&|weather| weather.runs() && well(weather)) && !self.access.denies("ping"),
        );
    }

    /// What a server says before it looks at what a command does.
    pub(super) fn refusal(&self, link: usize, name: &str, argv: &[Vec<u8>]) -> Option<String> {
        let client = self.clients.get(&link)?;
        match table::accepts(name, argv.len()) {
            None => return Some(format!("ERR unknown command '{}'", String::from_utf8_lossy(&argv[0]))),
            Some(false) => return Some(format!("ERR wrong number of arguments for '{name}' command")),
            Some(true) => {}
        }
        if let Some(text) = self.forbids(client, name) {
            return Some(text);
        }
        // EXEC is what stands in it.
        let queued = client.multi.iter().flatten().filter(|_| name == "exec").map(|argv| full_name(argv));
        let names: Vec<String> = queued.chain([name.to_owned()]).collect();
        let is = |flag: &str| names.iter().any(|name| table::has_flag(name, flag));
        let lacks = |flag: &str| names.iter().any(|name| !table::has_flag(name, flag));
        let weather = &self.servers[client.server];
        if weather.is_replica() && is("write") {
            return Some(READONLY.into());
        }
        let free = matches!(name, "ping" | "quit" | "reset") || name.contains("subscribe");
        if client.proto == 2 && client.subscriptions() > 0 && !free {
            let context = "only (P|S)SUBSCRIBE and its like are allowed in this context";
            let kind = if name == "exec" { "" } else { "ERR " };
            return Some(format!("{kind}Can't execute '{name}': {context}"));
        }
        let refusals = [
            (weather.role == Role::Orphan && (lacks("stale") || name == "eval"), MASTERDOWN),
            (weather.loading_until > self.now && lacks("loading"), LOADING),
            (weather.script.is_some() && !table::has_flag(name, "allow_busy"), BUSY),
        ];
        refusals.into_iter().find_map(|(is_so, text)| is_so.then(|| text.into()))
    }

    /// A command that was refused: an open MULTI is spoilt, and EXEC ends it.
    pub(super) fn reject(client: &mut Client, name: &str, text: &str) -> Vec<u8> {
        client.spoilt |= client.multi.is_some();
        if name != "exec" || text.starts_with("ERR ") {
            return error(text);
        }
        client.end_multi();
        error(&format!("EXECABORT Transaction discarded because of: {text}"))
    }

    /// EVAL of a script that runs for so long, or until it is killed: `loop=300`, `loop`.
    pub(super) fn begin_script(&mut self, link: usize, argv: &[Vec<u8>]) {
        let text = String::from_utf8_lossy(&argv[1]);
        let duration = text.split('=').nth(1).and_then(|number| number.parse::<Millis>().ok());
        let Some(server) = self.clients.get(&link).map(|client| client.server) else { return };
        let weather = &mut self.servers[server];
        let duration = if weather.swift { Some(0) } else { duration };
        let ends = duration.map_or(Millis::MAX, |duration| self.now + duration);
        let told_from = self.now + weather.patience;
        trace!("    redis is busy from {told_from} to {ends}");
        weather.script = Some(Script { link, argument: argv[3].clone(), told_from, ends });
        if ends <= self.now {
            return self.end_script(server, None);
        }
        self.witness();
    }

    pub(super) fn kill_script(&mut self, link: usize) -> Vec<u8> {
        let server = self.clients.get(&link).map_or(0, |client| client.server);
        if self.servers[server].script.is_none() {
            return error("NOTBUSY No scripts in execution right now.");
        }
        self.ledger.truth.happened(Reason::Killed);
        self.end_script(server, Some(KILLED));
        ok()
    }

    /// The script comes to its end, or to that of whoever killed it.
    pub(super) fn end_script(&mut self, server: usize, killed: Option<&str>) {
        let Some(script) = self.servers[server].script.take() else { return };
        let reply = killed.map_or_else(|| bulk(&self.tagged(script.link, &script.argument)), error);
        if let Some(client) = self.clients.get_mut(&script.link) {
            client.out.extend_from_slice(&reply);
        }
        self.witness();
    }
}

pub(super) fn reason_of(text: &[u8]) -> Option<Reason> {
    Some(match text.split(|byte| *byte == b' ').next()? {
        b"NOPERM" => Reason::Denied,
        b"READONLY" => Reason::Replica,
        b"MASTERDOWN" => Reason::MasterDown,
        b"LOADING" => Reason::Loading,
        b"BUSY" => Reason::Busy,
        b"UNBLOCKED" => Reason::Unblocked,
        _ if text == KILLED.as_bytes() => Reason::Killed,
        _ => return None,
    })
}
