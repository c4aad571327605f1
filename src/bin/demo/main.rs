//! `broker-demo`: a private Redis, a broker before it and unmodified client processes that check every reply, all of them
//! real processes; then a table of what happened. Counts connections in Redis itself. Runs the program `broker` beside it.
#![forbid(unsafe_code)]

mod child;
mod cli;
mod crew;
mod observer;
mod redis_cli;
mod report;
#[path = "../shared/mod.rs"]
mod shared;
mod stop;
mod table;

use broker::base::error::{Error, Result};
use broker::config::Settings;
use clap::Parser;
use cli::{DemoArgs, DemoCli, DemoVerb};
use crew::Crew;
use observer::Observer;
use report::grouped;
use rustix::process::{Pid, Signal, kill_process};
use shared::dev::DevRedis;
use shared::guard::{self, Guarded};
use shared::{files, say};
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// A broker that is not ready by then has failed.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a broker may take to end beyond the drain timeout.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which Redis' own list of connections is read.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// How long the last replies may take beyond the seconds of work.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let cli = DemoCli::parse();
    let outcome = match cli.verb {
        None => run(&cli.demo),
        Some(DemoVerb::WithParent(args)) => Err(guard::exec(&args)),
        Some(DemoVerb::Child(args)) => child::run(&args),
        Some(DemoVerb::RedisCli(args)) => redis_cli::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("broker-demo: {error}");
        ExitCode::FAILURE
    })
}

/// Runs the demo. The exit code says whether all was well.
fn run(args: &DemoArgs) -> Result<ExitCode> {
    files::raise_limit();
    let interrupted = watch_signals()?;
    let redis = DevRedis::start()?;
    let mut observer = Observer::new(&redis.url())?;
    say::line(&format!("Redis {}, private, in memory, process {}", observer.version(), redis.pid()));
    let settings = Settings::default();
    let broker = if args.direct { None } else { Some(BrokerProcess::start(args, &redis)?) };
    let socket = broker.as_ref().map_or_else(|| redis.socket(), |broker| broker.socket.clone());
    let mut crew = Crew::start(args, &socket)?;
    say::line(&format!("{} on {}\n", crew.kinds(), socket.display()));
    let took = work(args.seconds, &interrupted, &mut crew, &mut observer)?;
    let mut failures = crew.finish(REPORT_TIMEOUT);
    if interrupted.load(Ordering::Relaxed) {
        failures.push("interrupted".to_owned());
    }
    if let Some(broker) = broker {
        let drain = Duration::from_millis(settings.drain_timeout);
        failures.extend(broker.end(drain + END_TIMEOUT));
    }
    let cap = (!args.direct).then_some(settings.upstream_connections_max);
    Ok(table::show(&crew, &observer, took, cap, failures))
}

/// Whether somebody wants the demo to end, from now on.
fn watch_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())
            .map_err(Error::attempting("cannot watch for signals"))?;
    }
    Ok(interrupted)
}

/// Lets the children work, looks at Redis meanwhile and shows progress each second.
fn work(
    seconds: u32,
    interrupted: &AtomicBool,
    crew: &mut Crew,
    observer: &mut Observer,
) -> Result<Duration> {
    crew.go()?;
    let start = Instant::now();
    let (mut shown, mut before, mut working) = (0, 0, true);
    while working && shown < u64::from(seconds) && !interrupted.load(Ordering::Relaxed) {
        // Children end with the last second, often a moment before it is over: it is shown all the same.
        working = crew.is_working();
        let second = start + Duration::from_secs(shown + 1);
        crew.listen(SAMPLE_INTERVAL.min(second.saturating_duration_since(Instant::now())));
        observer.sample()?;
        if !working || Instant::now() >= second {
            shown += 1;
            let total = crew.progress();
            let rate = total.saturating_sub(before);
            before = total;
            say::line(&format!("{shown:>4} s {:>12} requests {:>11}/s", grouped(total), grouped(rate)));
        }
    }
    Ok(start.elapsed())
}

struct BrokerProcess {
    process: Guarded,
    socket: PathBuf,
}

impl BrokerProcess {
    fn start(args: &DemoArgs, redis: &DevRedis) -> Result<BrokerProcess> {
        let socket = redis.dir().join("broker.sock");
        let mut command = guard::command(guard::own_binary()?.with_file_name("broker"))?;
        command.args(["serve", "--upstream", &redis.url()]);
        command.arg("--listen").arg(format!("unix://{}", socket.display()));
        // A pool and a subscription for each child, so that a host with few open files can run a small demo.
        command.arg("--set").arg(format!("children_max={}", args.children * (child::POOL + 1) + 16));
        command.args(["--set", "log_level=warn"]);
        #[cfg(feature = "sabotage")]
        if args.sabotage {
            command.arg("--sabotage");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let process = Guarded::spawn(&mut command, "the broker")?;
        let mut broker = BrokerProcess { process, socket };
        let (sender, lines) = channel();
        broker.process.read_lines(move |line| drop(line.map(|line| sender.send(line))))?;
        let line = lines.recv_timeout(READY_TIMEOUT).unwrap_or_default();
        let url = line
            .strip_prefix("listening ")
            .ok_or_else(|| Error::system("the broker did not start; its own line above gives the reason"))?;
        say::line(&format!("broker, process {}, listening {url}", broker.process.0.id()));
        Ok(broker)
    }

    /// Ends it as an operator would. Returns what was wrong with its end.
    fn end(mut self, timeout: Duration) -> Option<String> {
        let _ = kill_process(Pid::from_child(&self.process.0), Signal::TERM);
        match self.process.end_within(timeout) {
            Some(status) if status.success() => None,
            Some(status) => Some(format!("the broker ended with {status}")),
            None => Some("the broker did not end after SIGTERM".to_owned()),
        }
    }
}
