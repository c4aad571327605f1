//! `broker serve`: reads the settings, starts what they require and runs the loop until a signal ends it.

use crate::cli::ServeArgs;
use crate::logger;
use crate::scrub;
use crate::shared::dev::DevRedis;
use crate::shared::{PASSWORD_VARIABLE, files, say};
use crate::signals::Signals;
use broker::base::error::{Error, Result};
use broker::config::endpoint::{ListenUrl, default_listen};
use broker::config::{ClientSettings, Settings, load_toml, read_document, warn_of_mode};
use broker::ffi::heap;
use broker::reactor::Loop;

/// Serves until a signal ends it, or checks whether it could.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    scrub::hide_password()?;
    let (mut settings, holds_secret) = gather(args)?;
    let limit = files::raise_limit();
    let listeners = settings.listen.len();
    files::check_fits(limit, settings.children_max, settings.upstream_connections_max, listeners)?;
    let level = settings.log_level.as_str().parse().expect("the levels of the log have these names");
    logger::install(settings.log_format, level);
    if args.check {
        return check(args, settings, holds_secret);
    }
    let mut redis = None;
    if args.dev {
        let started = redis.insert(DevRedis::start()?);
        settings.set("upstream", &started.url())?;
    }
    // Before the socket files exist: a signal must not leave them behind.
    let signals = Signals::watch()?;
    let outcome = Loop::new(settings).and_then(|lp| {
        #[cfg(feature = "sabotage")]
        let lp = sabotaged(lp, args);
        warn_of_config(args, holds_secret);
        serve(lp, signals)
    });
    logger::finish();
    // After the loop, which has closed its upstream connections by then.
    drop(redis);
    outcome
}

/// Performs the steps of a start that have no visible effect.
fn check(args: &ServeArgs, mut settings: Settings, holds_secret: bool) -> Result<()> {
    if args.dev {
        settings.set("upstream", &DevRedis::check()?)?;
    }
    Loop::check(&settings)?;
    warn_of_config(args, holds_secret);
    say::line("ok");
    Ok(())
}

fn warn_of_config(args: &ServeArgs, holds_secret: bool) {
    if let Some(path) = args.config.as_ref().filter(|_| holds_secret) {
        warn_of_mode("a configuration with a password", path);
    }
}

#[cfg(feature = "sabotage")]
fn sabotaged(mut lp: Loop, args: &ServeArgs) -> Loop {
    if args.sabotage {
        lp.sabotage();
    }
    lp
}

/// Runs the loop until a signal ends it: the first drains, the second and SIGQUIT close at once.
fn serve(mut lp: Loop, mut signals: Signals) -> Result<()> {
    signals.wake(&lp.wake_pipe()?)?;
    for url in lp.listeners() {
        say::line(&format!("listening {url}"));
    }
    let mut obeyed = 0;
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
        lp.wait_at_most(logger::settle())?;
        if !lp.work()? {
            return Ok(());
        }
        if lp.take_trim() {
            heap::trim();
        }
    }
}

/// The settings, applied in this order: the file, `--set`, the other flags, the password of the environment. Also returns
/// whether the file contains a password.
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
        settings.listen.push(listen_by_default()?);
    }
    if args.dev {
        forget_upstream(&mut settings)?;
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
        Err(std::env::VarError::NotPresent) => {}
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(Error::config(format!("{PASSWORD_VARIABLE} is not UTF-8")));
        }
    }
    match settings.upstream_resolved()? {
        Some(_) => Ok(()),
        None => Err(Error::config(
            "no upstream: give --upstream redis://host:6379, or --dev to try it with a private one",
        )),
    }
}

/// `--dev` overrides an upstream of the file; a private Redis has no password.
fn forget_upstream(settings: &mut Settings) -> Result<()> {
    for key in ["upstream", "upstream_username", "upstream_password", "upstream_password_file"] {
        settings.set(key, "")?;
    }
    Ok(())
}

/// The default listener of root and of other users.
fn listen_by_default() -> Result<ListenUrl> {
    let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
    default_listen(rustix::process::geteuid().is_root(), runtime_dir.as_deref())
}
