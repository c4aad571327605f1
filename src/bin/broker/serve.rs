//! `broker serve`: reads the settings, starts what they require and runs the loop until a signal ends it.

use crate::cli::ServeArgs;
use crate::logger::{self, LogSettings};
use crate::scrub;
use crate::shared::dev::DevRedis;
use crate::shared::{PASSWORD_VARIABLE, files, say};
use crate::signals::Signals;
use crate::takeover::{Successions, begin_takeover};
use broker::base::error::{Error, Result};
use broker::config::endpoint::default_listen;
use broker::config::value::AdminListen;
use broker::config::{ClientSettings, Settings, load_toml, read_document, warn_of_mode};
use broker::core::Order;
use broker::ffi::heap;
use broker::reactor::Loop;
use std::env::VarError;

/// Serves until a signal ends it, or performs the steps of a start that have no visible effect.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    scrub::hide_password()?;
    let (mut settings, holds_secret) = gather(args)?;
    files::check_fits(files::raise_limit(), &settings)?;
    logger::install(LogSettings::of(&settings));
    if args.check {
        if args.dev {
            settings.set("upstream", &DevRedis::check()?)?;
        }
        Loop::check(&settings)?;
        warn_of_config(args, holds_secret);
        say::line("ok");
        return Ok(());
    }
    heap::keep_large_apart();
    let redis = if args.dev { Some(DevRedis::start()?) } else { None };
    redis.iter().try_for_each(|redis| settings.set("upstream", &redis.url()))?;
    // Before the socket files exist: a signal must not leave them behind.
    let signals = Signals::watch()?;
    let outcome = begin(settings, args).and_then(|lp| serve(lp, signals, args, holds_secret));
    logger::finish();
    // After the loop, which has closed its upstream connections by then.
    drop(redis);
    outcome
}

/// The loop: with listeners of its own, or with those of the broker that it follows.
fn begin(settings: Settings, args: &ServeArgs) -> Result<Loop> {
    let mut lp = if args.takeover { begin_takeover(settings)? } else { Loop::new(settings)? };
    lp.take_orders();
    if !args.dev {
        lp.allow_handover();
    }
    #[cfg(feature = "sabotage")]
    if let Some(step) = args.sabotage_handover {
        lp.sabotage_handover(step);
    }
    Ok(lp)
}

fn warn_of_config(args: &ServeArgs, holds_secret: bool) {
    if let Some(path) = args.config.as_ref().filter(|_| holds_secret) {
        warn_of_mode("a configuration with a password", path);
    }
}

/// Runs the loop until a signal ends it: the first drains, the second and SIGQUIT close at once.
fn serve(mut lp: Loop, mut signals: Signals, args: &ServeArgs, holds_secret: bool) -> Result<()> {
    warn_of_config(args, holds_secret);
    #[cfg(feature = "sabotage")]
    if args.sabotage {
        lp.sabotage();
    }
    signals.wake(&lp.wake_pipe()?)?;
    for url in lp.metrics_listeners() {
        say::line(&format!("metrics {url}"));
    }
    for url in lp.listeners() {
        say::line(&format!("listening {url}"));
    }
    let (mut obeyed, mut log_settings) = (0, LogSettings::of(lp.settings()));
    let mut successions = Successions::new()?;
    loop {
        // A signal from before the loop could be woken must be seen before the first wait.
        let asked = signals.count();
        if asked > obeyed {
            obeyed = asked;
            if asked == 1 && !signals.at_once() {
                lp.drain();
            } else {
                lp.close();
            }
        }
        for name in signals.take_harmless() {
            log::info!("{name} is ignored: the broker reads new settings only at a start")
        }
        if signals.take_statistics() {
            log::info!("{}", statistics(&lp));
        }
        lp.wait_at_most([logger::settle(), successions.patience()].into_iter().flatten().min())?;
        if !lp.work()? {
            return lp.takeover_failure().map_or(Ok(()), Err);
        }
        while let Some(ordered) = lp.next_order() {
            match &ordered.order {
                Order::Upgrade => successions.begin(&mut lp, ordered),
                other => {
                    let why = format!("this program does not carry out {}", other.name());
                    lp.answer_order(&ordered, Err(why));
                }
            }
        }
        successions.follow(&mut lp);
        log_settings.follow(lp.settings());
        if lp.take_trim() {
            heap::trim();
        }
    }
}

/// Every statistic, and what the longest step was about.
fn statistics(lp: &Loop) -> String {
    let numbers = Loop::stat_names().iter().filter_map(|name| Some(format!("{name}={}", lp.stat(name)?)));
    let numbers: Vec<String> = numbers.collect();
    format!("statistics: {} longest_step={:?}", numbers.join(" "), lp.longest_step().1.to_string())
}

/// The settings: of the file, `--set`, the other flags, the environment's password. And whether the file has a password.
fn gather(args: &ServeArgs) -> Result<(Settings, bool)> {
    let mut settings = Settings::default();
    let mut holds_secret = false;
    if let Some(path) = &args.config {
        let name = path.display().to_string();
        let text = read_document(path).map_err(|error| Error::config(error.to_string()))?;
        let mut clients = ClientSettings::default();
        load_toml(&mut settings, &mut clients, &text, &name)?;
        let in_url = settings.upstream.as_ref().is_some_and(|upstream| upstream.password.is_some());
        let written = settings.upstream_password.is_some() || clients.client_password.is_some();
        holds_secret = in_url || written;
    }
    for pair in &args.set {
        settings.set_pair(pair)?;
    }
    if !args.listen.is_empty() {
        settings.set("listen", &args.listen.join(","))?;
    }
    if settings.listen.is_empty() {
        let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
        let is_root = rustix::process::geteuid().is_root();
        settings.listen.push(default_listen(is_root, runtime_dir.as_deref())?);
    }
    if settings.admin_listen == AdminListen::Default {
        settings.admin_listen = settings.listen.first().map_or(AdminListen::None, AdminListen::beside);
    }
    if args.dev {
        // It overrides an upstream of the file; a private Redis has no password.
        for key in ["upstream", "upstream_username", "upstream_password", "upstream_password_file"] {
            settings.unset(key)?;
        }
    } else {
        find_upstream(&mut settings, args)?;
    }
    settings.validate()?;
    Ok((settings, holds_secret))
}

fn find_upstream(settings: &mut Settings, args: &ServeArgs) -> Result<()> {
    if let Some(url) = &args.upstream {
        settings.set("upstream", url)?;
    }
    match std::env::var(PASSWORD_VARIABLE) {
        Ok(password) => {
            settings.set("upstream_password", &password)?;
            settings.set("upstream_password_file", "")?;
        }
        Err(VarError::NotPresent) => {}
        Err(VarError::NotUnicode(_)) => {
            return Err(Error::config(format!("{PASSWORD_VARIABLE} is not UTF-8")));
        }
    }
    settings.upstream_resolved()?.map(drop).ok_or_else(|| {
        let why = "no upstream: give --upstream redis://host:6379, or --dev to try it with a private one";
        Error::config(why)
    })
}
