//! One client process of the demo: an unmodified client of the `redis` crate that can tell, for every reply, whether it
//! is its own. Keys and values contain this child's number and a counter.

use crate::cli::ChildArgs;
use crate::report::Report;
use crate::stop::Stop;
use broker::base::error::{Error, Result};
use redis::{Client, Cmd, Connection, ConnectionLike, Pipeline, PubSub, RedisError, RedisResult, Value, cmd};
use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A reply that takes longer is lost. Longer than a child may wait for a lease.
const REPLY_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a blocking pop waits for the neighbour, in seconds.
const POP_TIMEOUT: u32 = 1;
/// Commands in one pipeline are twice this.
const PIPELINE_PAIRS: u64 = 8;
/// Connections in a child's pool, as client libraries keep them; the rounds take them in turn.
pub(crate) const POOL: u32 = 4;
/// Children with a subscription and with WATCH, both of which hold an upstream connection of their own.
const GUESTS: u32 = 16;
/// Rounds between two transactions, pops or publications.
const RARE: u64 = 4;

/// Works until told to stop, then reports. Fails when the connection broke or a reply was wrong.
pub(crate) fn run(args: &ChildArgs) -> Result<ExitCode> {
    let broken = |error: RedisError| Error::system(format!("demo child {}: {error}", args.id));
    // Both protocols at the same time.
    let protocol = if args.id % 2 == 1 { "resp3" } else { "resp2" };
    let pool = (0..POOL).map(|_| connect(&args.socket, protocol)).collect::<RedisResult<_>>();
    let (pool, mut report) = (pool.map_err(broken)?, Report::new());
    report.connections = POOL.into();
    let mut worker = Worker { id: args.id, ring: args.ring, pool, report, round: 0, pushed: 0, popped: 0 };
    let subscriber = (args.id < GUESTS).then(|| connect(&args.socket, "resp2")).transpose();
    let mut subscriber = subscriber.map_err(broken)?;
    worker.report.connections += u64::from(subscriber.is_some());
    let outcome = worker.work(subscriber.as_mut(), args.seconds);
    let verdict = worker.report.conclude();
    outcome.map_err(broken).map(|()| verdict)
}

fn connect(socket: &Path, protocol: &str) -> RedisResult<Connection> {
    let client = Client::open(format!("unix://{}?protocol={protocol}", socket.display()))?;
    let connection = client.get_connection_with_timeout(REPLY_TIMEOUT)?;
    connection.set_read_timeout(Some(REPLY_TIMEOUT))?;
    connection.set_write_timeout(Some(REPLY_TIMEOUT))?;
    Ok(connection)
}

struct Worker {
    id: u32,
    ring: u32,
    /// Never empty; the front one is in use.
    pool: VecDeque<Connection>,
    report: Report,
    round: u64,
    /// Elements pushed for the right neighbour, and popped from the left one.
    pushed: u64,
    popped: u64,
}

impl Worker {
    fn work(&mut self, subscriber: Option<&mut Connection>, seconds: u32) -> RedisResult<()> {
        let mut subscription = subscriber.map(Connection::as_pubsub);
        if let Some(pubsub) = &mut subscription {
            pubsub.subscribe(self.key("channel"))?;
        }
        let mut stop = Stop::when_told(seconds);
        while !stop.reached(&self.report) {
            self.round += 1;
            self.pool.rotate_left(1);
            self.plain()?;
            self.pipeline()?;
            match self.round % RARE {
                0 => self.transaction()?,
                1 => self.watch()?,
                2 => self.pass_on()?,
                _ => self.publish(subscription.as_mut())?,
            }
        }
        Ok(())
    }

    /// What only this child sends, and only once.
    fn nonce(&self) -> String {
        format!("c{}.{}", self.id, self.round)
    }

    fn key(&self, name: &str) -> String {
        format!("demo:{}:{name}", self.id)
    }

    fn plain(&mut self) -> RedisResult<()> {
        let (nonce, key) = (self.nonce(), self.key("value"));
        self.expect(cmd("SET").arg(&key).arg(&nonce), &Value::Okay)?;
        self.expect(cmd("GET").arg(&key), &bulk(&nonce))?;
        self.expect(cmd("ECHO").arg(&nonce), &bulk(&nonce))?;
        let count = self.round.cast_signed();
        self.expect(cmd("INCR").arg(self.key("count")), &Value::Int(count))?;
        let script = "return {ARGV[1], KEYS[1]}";
        let both = Value::Array(vec![bulk(&nonce), bulk(&key)]);
        self.expect(cmd("EVAL").arg(script).arg(1).arg(&key).arg(&nonce), &both)
    }

    fn pipeline(&mut self) -> RedisResult<()> {
        let mut pipe = Pipeline::new();
        let mut wanted = Vec::new();
        for pair in 0..PIPELINE_PAIRS {
            let (key, value) = (self.key(&format!("p{pair}")), format!("{}.{pair}", self.nonce()));
            pipe.cmd("SET").arg(&key).arg(&value);
            pipe.cmd("GET").arg(&key);
            wanted.extend([Value::Okay, bulk(&value)]);
        }
        let (start, count) = (Instant::now(), wanted.len());
        let replies = self.pool[0].req_packed_commands(&pipe.get_packed_pipeline(), 0, count)?;
        self.report.round_trip(count as u64, start.elapsed());
        for (at, want) in wanted.iter().enumerate() {
            self.check("pipeline", replies.get(at).unwrap_or(&Value::Nil), want);
        }
        Ok(())
    }

    fn transaction(&mut self) -> RedisResult<()> {
        let (nonce, key) = (self.nonce(), self.key("tx"));
        self.expect(&cmd("MULTI"), &Value::Okay)?;
        let queued = Value::SimpleString("QUEUED".into());
        self.expect(cmd("SET").arg(&key).arg(&nonce), &queued)?;
        self.expect(cmd("APPEND").arg(&key).arg("+"), &queued)?;
        self.expect(cmd("GET").arg(&key), &queued)?;
        let length = i64::try_from(nonce.len()).unwrap_or(i64::MAX) + 1;
        let done = vec![Value::Okay, Value::Int(length), bulk(&format!("{nonce}+"))];
        self.expect(&cmd("EXEC"), &Value::Array(done))
    }

    /// No other child writes the watched key, so the transaction must not abort.
    fn watch(&mut self) -> RedisResult<()> {
        if self.id >= GUESTS {
            return Ok(());
        }
        let (nonce, key) = (self.nonce(), self.key("watched"));
        self.expect(cmd("WATCH").arg(&key), &Value::Okay)?;
        self.expect(cmd("SET").arg(&key).arg(&nonce), &Value::Okay)?;
        self.expect(&cmd("UNWATCH"), &Value::Okay)?;
        self.expect(cmd("WATCH").arg(&key), &Value::Okay)?;
        self.expect(&cmd("MULTI"), &Value::Okay)?;
        self.expect(cmd("GETSET").arg(&key).arg("done"), &Value::SimpleString("QUEUED".into()))?;
        self.expect(&cmd("EXEC"), &Value::Array(vec![bulk(&nonce)]))
    }

    /// Passes an element on and waits for one from the left. They are numbered: none may be missing or arrive twice.
    fn pass_on(&mut self) -> RedisResult<()> {
        let (right, left) = ((self.id + 1) % self.ring, (self.id + self.ring - 1) % self.ring);
        self.pushed += 1;
        let element = format!("c{}.{}", self.id, self.pushed);
        let pushed = self.ask(cmd("RPUSH").arg(format!("demo:{right}:ring")).arg(element))?;
        self.report
            .check(matches!(pushed, Value::Int(1..)), || format!("RPUSH: got {pushed:?}, want a length"));
        let list = self.key("ring");
        // It is meant to wait, so it does not count as a slow round trip.
        let popped = reply(self.pool[0].req_command(cmd("BLPOP").arg(&list).arg(POP_TIMEOUT)))?;
        self.report.requests += 1;
        if popped != Value::Nil {
            self.popped += 1;
            let want = Value::Array(vec![bulk(&list), bulk(&format!("c{left}.{}", self.popped))]);
            self.check("BLPOP", &popped, &want);
        }
        Ok(())
    }

    fn publish(&mut self, subscription: Option<&mut PubSub<'_>>) -> RedisResult<()> {
        let Some(subscription) = subscription else { return Ok(()) };
        let (nonce, channel) = (self.nonce(), self.key("channel"));
        self.expect(cmd("PUBLISH").arg(&channel).arg(&nonce), &Value::Int(1))?;
        let message = subscription.get_message()?;
        let right = message.get_channel_name() == channel && message.get_payload_bytes() == nonce.as_bytes();
        self.report.check(right, || format!("message: got {message:?}, want {nonce} on {channel}"));
        Ok(())
    }

    fn expect(&mut self, request: &Cmd, want: &Value) -> RedisResult<()> {
        let got = self.ask(request)?;
        let Some(redis::Arg::Simple(name)) = request.args_iter().next() else { unreachable!("a command") };
        self.check(&String::from_utf8_lossy(name), &got, want);
        Ok(())
    }

    fn ask(&mut self, request: &Cmd) -> RedisResult<Value> {
        let start = Instant::now();
        let value = reply(self.pool[0].req_command(request))?;
        self.report.round_trip(1, start.elapsed());
        Ok(value)
    }

    fn check(&mut self, what: &str, got: &Value, want: &Value) {
        let id = self.id;
        self.report.check(got == want, || format!("demo child {id}: {what}: got {got:?}, want {want:?}"));
    }
}

/// An error reply is a reply, though never the expected one; anything else breaks the connection.
fn reply(outcome: RedisResult<Value>) -> RedisResult<Value> {
    outcome.or_else(|error| match error.code() {
        Some(code) => Ok(Value::SimpleString(format!("-{code} {}", error.detail().unwrap_or_default()))),
        None => Err(error),
    })
}

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}
