//! Which sequence a seed stands for: its connections, its steps, how they are framed and cut. Owns the shares of
//! each kind of step; knows no reply. What the broker documents as different is left out here and nowhere else.

use fastrand::Rng;

use super::generator::{self, Command, Form, Sequence, Situation, Step};
use super::grammar::Grammar;
use super::manners::{JOINED_QUOTES, NUL_IN_HEADER};
use crate::support::redis::is_before_7;

/// Commands on data of one's own: any number of connections may use them at once, each behind its prefix.
const DATA: &[&str] =
    &["string", "bitmap", "hash", "list", "set", "zset", "geo", "hll", "stream", "keys", "eval"];
const OTHERS: &[&str] =
    &["global", "server", "script", "connection", "session", "transaction", "blocking", "common"];
/// Every line of these is said at least once in every run.
pub(crate) const WALK: &[&str] = &[
    "string",
    "bitmap",
    "hash",
    "list",
    "set",
    "zset",
    "geo",
    "hll",
    "stream",
    "keys",
    "eval",
    "global",
    "server",
    "rare",
    "clients",
    "tracking",
    "script",
    "connection",
    "session",
    "transaction",
    "blocking",
    "publish",
    "subscribe",
    "quit",
    "common",
    "newer",
    "newer server",
];
/// The first of the ways to end badly that Redis gives no answer to.
const HANG_UP_SILENTLY: usize = 3;
/// How many lines of the walk one sequence takes.
pub(crate) const WALK_LINES: usize = 12;

/// Commands no line is about, as the table has them.
pub(crate) fn unspoken(grammar: &Grammar, seed: u64, proto: u8, names: &[String]) -> Sequence {
    let mut rng = Rng::with_seed(seed);
    let entries = grammar.table.iter().filter(|entry| names.contains(&entry.name));
    let steps = entries.map(|entry| Step::new(0, vec![grammar.by_table(&mut rng, entry)])).collect();
    Sequence { seed, proto, conns: 1, steps }
}

/// What a sequence is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Theme {
    Mixed,
    /// All connections at once, on keys of their own.
    Apart,
    Transactions,
    Parking,
    Channels,
    /// What connections are to each other, and what they miss of each other.
    Clients,
    /// What the simulation plays, too.
    Situations,
}

struct Planner<'a> {
    grammar: &'a Grammar,
    rng: Rng,
    theme: Theme,
    focus: Vec<&'static str>,
    conns: Vec<State>,
    /// The step at hand has one command.
    alone: bool,
}

#[derive(Clone, Default)]
struct State {
    /// May be inside MULTI.
    multi: bool,
    listens: bool,
    /// Has said RESET in the step at hand, and had listened.
    left: bool,
}

/// Whether a CLIENT command may change or see more than the connection's own name, which takes a connection of
/// its own, or other connections.
fn is_of_others(command: &Command) -> bool {
    const NAMES: &[&[u8]] = &[b"ID", b"GETNAME", b"SETNAME", b"NO-EVICT", b"HELP", b"SETINFO"];
    command.argv.get(1).is_some_and(|sub| !NAMES.contains(&sub.as_slice()))
}

fn kills(command: &Command) -> bool {
    command.name() == b"CLIENT" && command.argv.get(1).is_some_and(|sub| sub == b"KILL")
}

/// Whether a server whose default user has no password refuses it as wrong.
fn is_refused_auth(argv: &[Vec<u8>]) -> bool {
    let name = argv.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    match name.as_slice() {
        b"AUTH" => argv.len() == 3 && argv[1] != b"default",
        b"HELLO" => {
            argv.windows(2).any(|pair| pair[0].eq_ignore_ascii_case(b"AUTH") && pair[1] != b"default")
        }
        _ => false,
    }
}

/// The sequence of a seed.
pub(crate) fn sequence(grammar: &Grammar, seed: u64, proto: u8) -> Sequence {
    let mut rng = Rng::with_seed(seed);
    let theme = match rng.u8(..24) {
        22.. => Theme::Situations,
        20.. => Theme::Clients,
        0..8 => Theme::Mixed,
        8..11 => Theme::Apart,
        11..15 => Theme::Transactions,
        15..17 => Theme::Parking,
        _ => Theme::Channels,
    };
    let conns = match theme {
        Theme::Mixed => rng.usize(1..=3),
        _ => rng.usize(2..=4),
    };
    let mut focus: Vec<&str> = (0..rng.usize(1..=3)).map(|_| DATA[rng.usize(..DATA.len())]).collect();
    if theme == Theme::Mixed {
        focus.push(OTHERS[rng.usize(..OTHERS.len())]);
    }
    if grammar.has("newer") && rng.u8(..3) == 0 {
        focus.push("newer");
    }
    if theme == Theme::Mixed && grammar.has("newer server") && rng.u8(..6) == 0 {
        focus.push("newer server");
    }
    let mut planner =
        Planner { grammar, rng, theme, focus, conns: vec![State::default(); conns], alone: false };
    let steps = planner.steps();
    Sequence { seed, proto, conns, steps }
}

/// A sequence that says the given lines of the templates, one after the other.
pub(crate) fn walk(grammar: &Grammar, seed: u64, proto: u8, lines: &[usize]) -> Sequence {
    let mut rng = Rng::with_seed(seed);
    let mut steps = Vec::new();
    for line in lines {
        let mut commands = grammar.expand(&mut rng, *line, "");
        let name = commands[0].name();
        if name == b"EXEC" || name == b"DISCARD" {
            commands.insert(0, Command::words("MULTI"));
        } else if name == b"MULTI" && commands.len() == 1 {
            commands.push(Command::words("DISCARD"));
        }
        // A subscriber and one who hangs up are not to keep the others from being said.
        let aside = matches!(name.as_slice(), b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" | b"QUIT");
        steps.push(Step::new(usize::from(aside), commands));
    }
    Sequence { seed, proto, conns: 2, steps }
}

impl Planner<'_> {
    fn chance(&mut self, of_hundred: u8) -> bool {
        self.rng.u8(..100) < of_hundred
    }

    fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..self.rng.usize(4..=14) {
            let of_theme = self.chance(45);
            match self.theme {
                Theme::Apart => self.burst(&mut steps),
                Theme::Parking if of_theme => self.park_and_wake(&mut steps),
                Theme::Transactions if of_theme => self.transaction(&mut steps),
                Theme::Situations if of_theme => self.situations(&mut steps),
                Theme::Mixed if self.rng.u8(..12) == 0 => self.muted(&mut steps),
                _ => {
                    let conn = self.rng.usize(..self.conns.len());
                    let step = self.step(conn, "");
                    steps.push(step);
                }
            }
        }
        if self.chance(8) && self.theme != Theme::Channels {
            // What had arrived whole is done all the same, and nobody is told.
            let conn = self.rng.usize(..self.conns.len());
            let prefix = if self.theme == Theme::Apart { format!("c{conn}:") } else { String::new() };
            let step = self.step(conn, &prefix);
            // Behind a command that has to wait, the broker does not go on for a child that has gone.
            let waits = step.commands.iter().any(|command| self.waits(command));
            if !waits && step.pieces(&[]).iter().map(Vec::len).sum::<usize>() < 8000 {
                steps.push(Step { hangup: true, cuts: Vec::new(), ..step });
            }
        }
        steps
    }

    /// Each connection writes before any waits.
    fn burst(&mut self, steps: &mut Vec<Step>) {
        let conns = self.conns.len();
        let first = steps.len();
        for conn in 0..conns {
            if self.chance(75) {
                let prefix = format!("c{conn}:");
                let step = self.step(conn, &prefix);
                steps.push(Step { joined: true, ..step });
            }
        }
        if steps.len() > first {
            steps.last_mut().expect("a step").joined = false;
        }
    }

    fn park_and_wake(&mut self, steps: &mut Vec<Step>) {
        let parked = self.rng.usize(..self.conns.len());
        if !self.conns[parked].multi {
            let line = self.grammar.pick(&mut self.rng, "parking");
            let commands = self.grammar.expand(&mut self.rng, line, "");
            steps.push(Step::new(parked, commands));
        }
        for _ in 0..self.rng.usize(1..=3) {
            let conn = self.rng.usize(..self.conns.len());
            let mut commands = Vec::new();
            for _ in 0..self.rng.usize(1..=2) {
                let line = self.grammar.pick(&mut self.rng, "waking");
                let waking = self.grammar.expand(&mut self.rng, line, "");
                if !self.left_out(conn, &waking) {
                    commands.extend(waking);
                }
            }
            steps.push(Step::new(conn, commands));
        }
    }

    /// A few situations in one write, as a child of the simulation says them.
    fn situations(&mut self, steps: &mut Vec<Step>) {
        let conn = self.rng.usize(..self.conns.len());
        self.alone = false;
        let mut commands = Vec::new();
        for _ in 0..self.rng.usize(1..5) {
            let situation = Situation::ALL[self.rng.usize(..Situation::ALL.len())];
            let mut world = self.grammar.world(&mut self.rng, "");
            for request in generator::situation(&mut world, situation) {
                let mut command = Command::new(request.argv);
                if self.left_out(conn, std::slice::from_ref(&command)) {
                    command = Command::words("PING");
                }
                self.frame(&mut command);
                self.follow(conn, std::slice::from_ref(&command));
                commands.push(command);
            }
        }
        let mut step = Step::new(conn, commands);
        self.cut(&mut step);
        steps.push(step);
    }

    /// Some requests are not answered; that the last is shows that all the others have been dealt with.
    fn muted(&mut self, steps: &mut Vec<Step>) {
        let conn = self.rng.usize(..self.conns.len());
        if self.conns[conn].multi {
            return;
        }
        let mut commands = Vec::new();
        for _ in 0..self.rng.usize(2..9) {
            let line = self.grammar.pick(&mut self.rng, "reply");
            commands.extend(self.grammar.expand(&mut self.rng, line, ""));
        }
        commands.push(Command::words("CLIENT REPLY ON"));
        commands.push(Command::words("PING heard"));
        let mut step = Step { muted: true, ..Step::new(conn, commands) };
        self.cut(&mut step);
        steps.push(step);
    }

    /// In one write or command by command, with the others doing what they do in between.
    fn transaction(&mut self, steps: &mut Vec<Step>) {
        let conn = self.rng.usize(..self.conns.len());
        self.alone = false;
        let mut commands = Vec::new();
        if self.chance(35) {
            commands.extend(self.line("transaction", "WATCH"));
        }
        commands.push(Command::words("MULTI"));
        self.conns[conn].multi = true;
        for _ in 0..self.rng.usize(..5) {
            // What the broker answers itself comes between what Redis does.
            let family = match self.rng.u8(..8) {
                0..2 => "connection",
                2 => "blocking",
                3 if self.chance(20) => "session",
                _ => self.family(),
            };
            commands.extend(self.commands(conn, family, ""));
        }
        commands.push(Command::words(if self.chance(85) { "EXEC" } else { "DISCARD" }));
        self.conns[conn].multi = false;
        if self.chance(50) {
            let mut step = Step::new(conn, commands);
            self.cut(&mut step);
            steps.push(step);
            return;
        }
        let mut tied: Vec<Command> = Vec::new();
        for command in commands {
            if !command.tied && !tied.is_empty() {
                steps.push(Step::new(conn, std::mem::take(&mut tied)));
                if self.chance(25) && self.conns.len() > 1 {
                    let other = (conn + self.rng.usize(1..self.conns.len())) % self.conns.len();
                    let step = self.step(other, "");
                    steps.push(step);
                }
            }
            tied.push(command);
        }
        steps.push(Step::new(conn, tied));
    }

    fn line(&mut self, family: &str, name: &str) -> Vec<Command> {
        loop {
            let line = self.grammar.pick(&mut self.rng, family);
            let commands = self.grammar.expand(&mut self.rng, line, "");
            if commands[0].name() == name.as_bytes() {
                return commands;
            }
        }
    }

    fn family(&mut self) -> &'static str {
        if self.theme == Theme::Channels && self.chance(55) {
            return if self.chance(50) { "subscribe" } else { "publish" };
        }
        if self.theme == Theme::Clients && self.chance(45) {
            return if self.chance(50) { "tracking" } else { "clients" };
        }
        match self.rng.u8(..100) {
            0..66 => self.focus[self.rng.usize(..self.focus.len())],
            66..80 => DATA[self.rng.usize(..DATA.len())],
            80..83 if self.theme != Theme::Apart => "connection",
            83..85 => "transaction",
            85..88 => "session",
            88..89 => "blocking",
            89..92 if self.theme != Theme::Apart => OTHERS[self.rng.usize(..OTHERS.len())],
            _ => "keys",
        }
    }

    /// Something of one connection in one write.
    fn step(&mut self, conn: usize, prefix: &str) -> Step {
        let count = match self.rng.u8(..10) {
            0..6 => 1,
            // Whoever is killed may still hear of what it said before, or not.
            _ if self.theme == Theme::Clients => 1,
            6..9 => self.rng.usize(2..7),
            _ => self.rng.usize(7..25),
        };
        let mut commands = Vec::new();
        self.alone = count == 1;
        self.conns[conn].left = false;
        for _ in 0..count {
            let family = self.family();
            commands.extend(self.commands(conn, family, prefix));
            if self.chance(1) {
                let empties: [&[u8]; 5] = [b"\r\n", b"*0\r\n", b"*-1\r\n", b"\n", b"*-10\r\n"];
                let empty = empties[self.rng.usize(..empties.len())];
                commands.push(Command::raw(empty, false));
            }
        }
        // Under CLIENT TRACKING, Redis tells of so many of them in as many messages as it has had turns.
        if self.theme != Theme::Clients && self.rng.u16(..400) == 0 {
            commands.extend(self.flood(prefix));
        }
        let mut step = Step::new(conn, commands);
        if self.rng.u16(..120) == 0 {
            self.end_badly(&mut step);
        }
        if !matches!(step.commands.as_slice(), [Command { form: Form::Raw(..), .. }, ..]) {
            self.cut(&mut step);
        }
        let listens = self.conns[conn].listens;
        // Whether a blocked command's timeout or the end of its client comes first is chance in Redis, too.
        let waits = step.commands.iter().any(Command::may_wait);
        if self.theme != Theme::Apart && !listens && !waits && self.rng.u8(..150) == 0 {
            step.close = true;
            self.conns[conn] = State::default();
        }
        step
    }

    /// Whether something has to be answered before what is behind it is looked at.
    fn waits(&self, command: &Command) -> bool {
        const NAMES: &[&[u8]] =
            &[b"HELLO", b"SELECT", b"RESET", b"WATCH", b"AUTH", b"MIGRATE", b"SCRIPT", b"FUNCTION"];
        let known = self.grammar.full_name(&command.argv).is_some();
        command.may_block() || !known || NAMES.contains(&command.name().as_slice())
    }

    /// More requests in one write than the broker takes at once.
    fn flood(&mut self, prefix: &str) -> Vec<Command> {
        let line = self.grammar.pick(&mut self.rng, "string");
        let command = self.grammar.expand(&mut self.rng, line, prefix).remove(0);
        let long = command.argv.iter().any(|arg| arg.len() > 1000);
        vec![command; if long { 20 } else { self.rng.usize(900..2500) }]
    }

    /// The connection ends by its own fault or wish.
    fn end_badly(&mut self, step: &mut Step) {
        let manners = self.grammar.manners;
        let mut ends: Vec<&[u8]> = vec![
            b"*1\r\n$4\r\nPOST\r\n",
            b"host: x\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            NUL_IN_HEADER,
            b"*-\r\n",
            b"*1\r\n$\r\n",
            b"*1\r\n\r\n",
            b"*abc\r\n",
            b"*1\r\n:4\r\n",
            b"*1\r\n$-1\r\n",
            b"*3\r\n$3\r\nGET\r\n$01\r\n",
            b"SET \"unbalanced\r\n",
            b"*1\r\n$600000000\r\n",
            b"*+1\r\n",
            JOINED_QUOTES,
            b"*9999999999\r\n",
        ];
        ends.retain(|end| {
            (manners.stops_at_nul || *end != NUL_IN_HEADER)
                && (manners.refuses_joined_quotes || *end != JOINED_QUOTES)
        });
        if self.conns[step.conn].listens {
            // It leaves its channels at once, whatever it has published itself before.
            step.commands.clear();
        }
        if self.chance(40) {
            let line = self.grammar.pick(&mut self.rng, "quit");
            step.commands.extend(self.grammar.expand(&mut self.rng, line, ""));
        } else {
            // Before Redis 7.0 these are queued in a MULTI, and end it at EXEC.
            let first = if is_before_7() { HANG_UP_SILENTLY } else { 0 };
            let at = self.rng.usize(first..ends.len());
            if at < HANG_UP_SILENTLY {
                // What had been answered and not yet written is lost with it: a matter of time.
                step.commands.clear();
            }
            step.commands.push(Command::raw(ends[at], true));
        }
        if self.chance(50) {
            step.commands.push(Command::words("PING behind"));
        }
        if !manners.ends_behind_a_wait {
            step.commands.retain(|command| !command.may_wait());
        }
        self.conns[step.conn] = State::default();
    }

    fn cut(&mut self, step: &mut Step) {
        let likely = if step.commands.len() > 1 { 35 } else { 8 };
        if self.chance(likely) {
            step.cuts = (0..self.rng.usize(1..=3)).map(|_| self.rng.u16(1..1000)).collect();
            step.cuts.sort_unstable();
        }
    }

    /// A line of a family, not always as it should be.
    fn commands(&mut self, conn: usize, family: &str, prefix: &str) -> Vec<Command> {
        let line = self.grammar.pick(&mut self.rng, family);
        let mut commands = self.grammar.expand(&mut self.rng, line, prefix);
        if self.left_out(conn, &commands) {
            return vec![Command::words("PING")];
        }
        let alone = commands.len() == 1;
        for command in &mut commands {
            // One that takes something at random is left as it is, so that nothing of it stays.
            // Nor one that names a connection: it would be shown in the error, and each side has its own. And a number in
            // its place may be one of this program's.
            let names = command.argv.iter().any(|arg| Command::named_conn(arg).is_some()) || kills(command);
            if alone && !names && command.name() != b"SPOP" && self.chance(4) {
                self.spoil(command);
            }
            if is_refused_auth(&command.argv) && !self.may_refuse_auth(conn) {
                *command = Command::words("PING");
            }
            if self.chance(30) {
                let name = &mut command.argv[0];
                match self.rng.u8(..3) {
                    0 => name.make_ascii_lowercase(),
                    _ => name.iter_mut().step_by(2).for_each(|byte| byte.make_ascii_lowercase()),
                }
            }
            self.frame(command);
        }
        self.follow(conn, &commands);
        commands
    }

    /// What the broker treats otherwise in this place, as its documentation says.
    fn left_out(&self, conn: usize, commands: &[Command]) -> bool {
        let state = &self.conns[conn];
        let in_multi = state.multi || commands.iter().any(|command| command.name() == b"MULTI");
        commands.iter().any(|command| {
            let name = command.name();
            let subscribes = name.ends_with(b"SUBSCRIBE");
            let scripted = command.argv.iter().any(|arg| arg.ends_with(b"ARGV[1])"));
            let publishes = scripted || name.ends_with(b"PUBLISH");
            // Refused inside MULTI: Redis itself breaks the framing of EXEC's reply.
            (state.multi && (subscribes || name == b"HELLO" || name == b"CLIENT" && is_of_others(command)))
                // The message of a PUBLISH before it may come in the form of the new protocol.
                || (state.listens && name == b"HELLO" && !self.alone)
                // Redis puts the message into EXEC's reply, one element too many.
                || (state.listens && publishes && in_multi)
                // A subscriber with a connection of its own is counted until Redis has seen that this has closed.
                || (state.left && (publishes || name == b"PUBSUB"))
                // What a script publishes comes on another connection than its reply.
                || (state.listens && scripted && commands.len() > 1)
                // Many commands of one write are not to be lost behind a QUIT.
                || (state.multi && name == b"RESET" && self.theme == Theme::Apart)
        })
    }

    /// Whether the server answers an AUTH that it refuses here.
    fn may_refuse_auth(&self, conn: usize) -> bool {
        self.grammar.manners.always_refuses_auth || (self.alone && !self.conns[conn].multi)
    }

    fn follow(&mut self, conn: usize, commands: &[Command]) {
        let state = &mut self.conns[conn];
        for command in commands {
            match command.name().as_slice() {
                b"MULTI" => state.multi = true,
                b"RESET" if command.argv.len() == 1 => {
                    state.multi = false;
                    state.left |= state.listens;
                }
                b"EXEC" | b"DISCARD" if command.argv.len() == 1 => state.multi = false,
                b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" => state.listens = true,
                _ => {}
            }
        }
    }

    /// Wrong in one of the ways clients are wrong.
    fn spoil(&mut self, command: &mut Command) {
        let argv = &mut command.argv;
        let at = self.rng.usize(..argv.len());
        let kind = match self.theme {
            // Connections that write at the same time keep to keys of their own.
            Theme::Apart => [0, 5][self.rng.usize(..2)],
            _ => self.rng.u8(..7),
        };
        match kind {
            // A key that expires within milliseconds has gone at one server before it has at the other.
            3 if expires_in_milliseconds(argv) => argv.push(b"extra".to_vec()),
            0 => {
                argv.truncate(argv.len().max(2) - 1);
            }
            1 if at > 0 => {
                argv.remove(at);
            }
            2 => argv.push(self.grammar.value(&mut self.rng, "m", "")),
            3 if at > 0 => argv[at] = self.grammar.value(&mut self.rng, "i", ""),
            4 if at > 0 => argv[at] = self.grammar.value(&mut self.rng, "word", ""),
            5 => {
                let unknown: [&[u8]; 5] = [b"NOSUCH", b"", b"get\r\nx", b"se", b"caf\xc3\xa9"];
                argv[0] = unknown[self.rng.usize(..unknown.len())].to_vec();
            }
            _ => argv.push(b"extra".to_vec()),
        }
    }

    fn frame(&mut self, command: &mut Command) {
        let long = command.argv.iter().map(Vec::len).sum::<usize>() > 1000;
        command.form = match self.rng.u8(..100) {
            0..7 if !long && !command.argv[0].is_empty() => Form::Inline(self.rng.u8(..32)),
            7..10 => match self.rng.u8(..3) {
                how if self.grammar.manners.takes_sloppy_framing => Form::Sloppy(how),
                _ => Form::Resp,
            },
            _ => Form::Resp,
        };
    }
}

/// Whether a small number in it might be how many milliseconds a key lives.
fn expires_in_milliseconds(argv: &[Vec<u8>]) -> bool {
    let names: [&[u8]; 4] = [b"RESTORE", b"PSETEX", b"PEXPIRE", b"HPEXPIRE"];
    names.iter().any(|name| argv[0].eq_ignore_ascii_case(name))
        || argv.iter().any(|word| word.eq_ignore_ascii_case(b"PX"))
}
