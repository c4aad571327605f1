//! Greeting an upstream: what a fresh connection is told and what it must answer before the first child's
//! byte goes on it. HELLO sets protocol and user, SETNAME makes the broker's connections recognisable in
//! Redis' CLIENT LIST, SELECT is sent here and never again on a shared lane. A lane for blocks is greeted into MULTI.

use crate::core::connection::bar::is_lasting;
use crate::core::keys::PoolKey;
use crate::core::user::credentials::{Credentials, Password};
use crate::resp::{encode, reply, value};
use redis::Value;
use zeroize::Zeroizing;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Greeting {
    /// The reply's pairs in order; `proto` and `id` are replaced before a child sees them.
    pub pairs: Vec<(String, Value)>,
    /// CLIENT ID of this connection.
    pub id: i64,
}

impl Greeting {
    /// A field of it that is text.
    pub(crate) fn text(&self, field: &str) -> Option<String> {
        let found = self.pairs.iter().find(|(name, _)| name == field)?;
        value::text(&found.1)
    }
}

/// By which names the upstream knows the commands of a greeting: `rename-command` may have moved them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommandNames<'a> {
    pub client: &'a [u8],
    pub select: &'a [u8],
    pub multi: &'a [u8],
}

/// Why an upstream could not be greeted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GreetingRefusal {
    /// In its own words, without credentials.
    pub why: String,
    /// It will say the same next time.
    pub lasts: bool,
}

/// What a step of a greeting is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GreetingStep {
    /// Who the connection is.
    Who,
    /// What children have chosen: their db, or NO-TOUCH.
    Choice,
    /// The right to MULTI.
    Multi,
}

#[derive(Debug)]
pub(crate) struct Handshake {
    /// Has the password in it.
    out: Password,
    sent: usize,
    greeting: Greeting,
    steps: Vec<(&'static str, GreetingStep)>,
    answered: usize,
}

impl Handshake {
    /// Of a connection that is called `name` in CLIENT LIST. `arms`: it is to stand behind a MULTI.
    pub(crate) fn new(
        user: Credentials<'_>,
        name: &str,
        pool: &PoolKey,
        commands: CommandNames<'_>,
        arms: bool,
    ) -> Self {
        let proto: &[u8] = if pool.proto == 3 { b"3" } else { b"2" };
        let mut hello: Vec<&[u8]> = vec![b"HELLO", proto];
        if let Some(password) = user.password {
            hello.extend([b"AUTH", user.name.unwrap_or(b"default"), password]);
        }
        // Never grown, so that no copy of the password is left behind.
        let room = 1024 + hello.iter().map(|arg| arg.len() + 16).sum::<usize>();
        let mut out = Zeroizing::new(Vec::with_capacity(room));
        encode::request(&mut out, &hello);
        encode::request(&mut out, &[commands.client, b"SETNAME", name.as_bytes()]);
        let mut steps = vec![("HELLO", GreetingStep::Who), ("CLIENT SETNAME", GreetingStep::Who)];
        if pool.db != 0 {
            encode::request(&mut out, &[commands.select, pool.db.to_string().as_bytes()]);
            steps.push(("SELECT", GreetingStep::Choice));
        }
        if pool.no_touch {
            encode::request(&mut out, &[commands.client, b"NO-TOUCH", b"ON"]);
            steps.push(("CLIENT NO-TOUCH", GreetingStep::Choice));
        }
        if arms {
            encode::request(&mut out, &[commands.multi]);
            steps.push(("MULTI", GreetingStep::Multi));
        }
        Handshake { out: Password::within(out), sent: 0, greeting: Greeting::default(), steps, answered: 0 }
    }

    pub(crate) fn outgoing(&self) -> &[u8] {
        &self.out.expose()[self.sent..]
    }

    pub(crate) fn wrote(&mut self, count: usize) {
        self.sent += count;
    }

    /// What is asked now.
    pub(crate) fn step(&self) -> GreetingStep {
        self.steps.get(self.answered).map_or(GreetingStep::Who, |(_, step)| *step)
    }

    /// The greeting, once every reply has come; or why there will be none.
    pub(crate) fn reply(&mut self, frame: &[u8]) -> Result<Option<Greeting>, GreetingRefusal> {
        let step = self.steps.get(self.answered).map_or("", |(name, _)| *name);
        // The name only helps those who read CLIENT LIST: a user may lack the right to it, a server the command.
        let is_needless = step == "CLIENT SETNAME" && reply::is_error(frame);
        if !is_needless && reply::is_error(frame) {
            let text = String::from_utf8_lossy(&frame[1..]);
            let too_old = step == "HELLO" && text.starts_with("ERR unknown command");
            let hint = if too_old { " (Redis 6 or later is needed)" } else { "" };
            let why = format!("{step} was answered with: {}{hint}", text.trim_end());
            return Err(GreetingRefusal { why, lasts: is_lasting(frame) });
        }
        let violation = |why: String| GreetingRefusal { why, lasts: false };
        if self.answered == 0 {
            let greeting = parse_greeting(frame);
            self.greeting = greeting.ok_or_else(|| violation("HELLO was not answered with a map".into()))?;
            if let Some(why) = not_served(&self.greeting) {
                return Err(GreetingRefusal { why, lasts: true });
            }
        } else if !is_needless && frame != b"+OK\r\n" {
            return Err(violation(format!("{step} was not answered with OK")));
        }
        self.answered += 1;
        Ok((self.answered >= self.steps.len()).then(|| std::mem::take(&mut self.greeting)))
    }
}

/// Why a server of this kind cannot be served by one connection to it, if so: a node has a part of the keys, and a
/// sentinel none.
fn not_served(greeting: &Greeting) -> Option<String> {
    match greeting.text("mode")?.as_str() {
        "cluster" => {
            Some("it is a node of a Redis Cluster, which is not supported: name a server of its own".into())
        }
        "sentinel" => Some("it is a sentinel, which has no keys: name the server that it watches".into()),
        _ => None,
    }
}

pub(crate) fn parse_greeting(frame: &[u8]) -> Option<Greeting> {
    let pairs = value::pairs(value::parse(frame)?)?;
    let mut greeting = Greeting::default();
    for (key, value) in pairs {
        let key = value::text(&key)?;
        if let (true, Value::Int(id)) = (key == "id", &value) {
            greeting.id = *id;
        }
        greeting.pairs.push((key, value));
    }
    Some(greeting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::keys::UserId;

    const POOL: PoolKey = PoolKey { user: UserId::UPSTREAM, db: 3, proto: 2, no_touch: false, replica: 0 };

    const NAMES: CommandNames<'_> = CommandNames { client: b"CLIENT", select: b"SELECT", multi: b"MULTI" };

    #[test]
    fn a_refusal_names_the_step_and_not_the_password() {
        let user = Credentials { name: Some(b"u"), password: Some(b"secret") };
        let mut handshake = Handshake::new(user, "broker-lane", &POOL, NAMES, false);
        assert!(handshake.outgoing().windows(6).any(|window| window == b"secret"));
        let refused = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";
        let why = handshake.reply(refused).expect_err("it was refused");
        assert!(why.why.starts_with("HELLO was answered with: WRONGPASS") && why.lasts, "{why:?}");
        assert!(!why.why.contains("secret"));
    }

    #[test]
    fn ready_only_after_every_answer() {
        let user = Credentials { name: None, password: None };
        let mut handshake = Handshake::new(user, "broker-lane", &POOL, NAMES, false);
        let hello = b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$2\r\nid\r\n:7\r\n";
        assert_eq!(handshake.reply(hello), Ok(None));
        assert_eq!(handshake.reply(b"+OK\r\n"), Ok(None));
        let greeting = handshake.reply(b"+OK\r\n").unwrap().expect("all is answered");
        assert_eq!((greeting.id, greeting.pairs.len()), (7, 2));
    }
}
