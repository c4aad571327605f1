//! `broker serve`: reads the settings, starts what they require and runs the loop until a signal ends it.

use crate::cli::ServeArgs;
use crate::layers::Layers;
use crate::logger::{self, LogSettings};
use crate::scrub;
use crate::shared::dev::DevRedis;
use crate::shared::{files, say};
use crate::signals::Signals;
use crate::systemd::{self, Inherited, Manager};
use crate::takeover::{Successions, begin_takeover};
use broker::base::error::Result;
use broker::config::sources::Sourced;
use broker::core::{Order, OrderOutcome};
use broker::ffi::heap;
use broker::reactor::Loop;

/// Serves until a signal ends it, or performs the steps of a start that have no visible effect.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    scrub::hide_password()?;
    let mut inherited = systemd::inherited()?;
    let mut layers = Layers::new(args, inherited.of_units());
    let mut gathered = layers.gather()?;
    files::check_fits(files::raise_limit(), gathered.below())?;
    logger::install(LogSettings::of(gathered.below()));
    if args.check {
        if args.dev {
            layers.serve_dev(DevRedis::check()?);
            gathered = layers.gather()?;
        }
        Loop::check(gathered.below())?;
        layers.warn();
        say::line("ok");
        return Ok(());
    }
    heap::keep_large_apart();
    let redis = if args.dev { Some(DevRedis::start()?) } else { None };
    if let Some(redis) = &redis {
        layers.serve_dev(redis.url());
        gathered = layers.gather()?;
    }
    // Before the socket files exist: a signal must not leave them behind.
    let signals = Signals::watch()?;
    let mut manager = Manager::find(&mut inherited);
    let children = std::mem::take(&mut inherited.children);
    let lp = begin(gathered, inherited, args);
    let outcome = lp.and_then(|mut lp| {
        lp.take_stored(manager.take_back(children));
        serve(lp, manager, signals, &mut layers)
    });
    logger::finish();
    // After the loop, which has closed its upstream connections by then.
    drop(redis);
    outcome
}

/// The loop: with listeners of its own and of the service manager, or with those of the broker that it follows.
fn begin(gathered: Sourced, inherited: Inherited, args: &ServeArgs) -> Result<Loop> {
    let mut lp = match args.takeover {
        true => begin_takeover(gathered)?,
        false => Loop::with_listeners(gathered, inherited.listeners)?,
    };
    if !args.dev {
        lp.allow_handover();
    }
    #[cfg(feature = "sabotage")]
    if args.sabotage {
        lp.sabotage();
    }
    #[cfg(feature = "sabotage")]
    if let Some(step) = args.sabotage_handover {
        lp.sabotage_handover(step);
    }
    Ok(lp)
}

/// Runs the loop until a signal ends it: the first drains, the second and SIGQUIT close at once.
fn serve(mut lp: Loop, mut manager: Manager, mut signals: Signals, layers: &mut Layers<'_>) -> Result<()> {
    layers.warn();
    lp.take_orders();
    lp.refuse_what(|settings| files::check_fits(files::raise_limit(), settings));
    signals.wake(&lp.wake_pipe()?)?;
    for url in lp.metrics_listeners() {
        say::line(&format!("metrics {url}"));
    }
    for url in lp.listeners() {
        say::line(&format!("listening {url}"));
    }
    // One that follows another is not the service before that has been given up.
    let mut is_ready = false;
    let (mut obeyed, mut log_settings) = (0, LogSettings::of(lp.settings()));
    let mut successions = Successions::new()?;
    loop {
        // A signal from before the loop could be woken must be seen before the first wait.
        let asked = signals.count();
        if asked > obeyed {
            obeyed = asked;
            manager.stopping(&mut lp);
            if asked == 1 && !signals.at_once() {
                lp.drain();
            } else {
                lp.close();
            }
        }
        if signals.take_reload() {
            // The log has said what has come of it.
            let _ = reload(&mut lp, &mut manager, layers, "SIGHUP");
        }
        if signals.take_harmless() {
            log::info!("SIGUSR2 is ignored");
        }
        if signals.take_statistics() {
            log::info!("{}", statistics(&lp));
        }
        let waits = [logger::settle(), manager.wait(), successions.patience()];
        lp.wait_at_most(waits.into_iter().flatten().min())?;
        if !lp.work()? {
            return lp.takeover_failure().map_or(Ok(()), Err);
        }
        while let Some(ordered) = lp.next_order() {
            let outcome = match &ordered.order {
                Order::Reload => reload(&mut lp, &mut manager, layers, "BROKER RELOAD"),
                Order::Upgrade => {
                    successions.begin(&mut lp, ordered);
                    continue;
                }
                other => Err(format!("this program does not carry out {}", other.name())),
            };
            lp.answer_order(&ordered, outcome);
        }
        if !is_ready && lp.is_accepting() {
            is_ready = true;
            manager.ready(&mut lp);
        }
        if let Some(pid) = successions.follow(&mut lp) {
            manager.handed_to(pid);
            lp.store_children(0);
        }
        manager.turn(&lp);
        manager.store(&mut lp);
        log_settings.follow(lp.settings());
        if lp.take_trim() {
            heap::trim();
        }
    }
}

/// The service manager waits meanwhile for what comes next.
fn reload(lp: &mut Loop, manager: &mut Manager, layers: &mut Layers<'_>, asked_by: &str) -> OrderOutcome {
    manager.reloading();
    let outcome = layers.reload(lp, asked_by);
    manager.ready(lp);
    outcome
}

/// Every statistic, and what the longest step was about.
fn statistics(lp: &Loop) -> String {
    let numbers = Loop::stat_names().iter().filter_map(|name| Some(format!("{name}={}", lp.stat(name)?)));
    let numbers: Vec<String> = numbers.collect();
    format!("statistics: {} longest_step={:?}", numbers.join(" "), lp.longest_step().1.to_string())
}
