//! Where the settings of a served broker are from: the file, the flags, the environment; read at the start, and again when
//! somebody asks for it. Watches no file.

use crate::cli::ServeArgs;
use crate::shared::PASSWORD_VARIABLE;
use crate::systemd::UnitSockets;
use broker::base::error::{Error, Result};
use broker::config::endpoint::default_listen;
use broker::config::sources::{SettingSource, Sourced};
use broker::config::value::AdminListen;
use broker::config::{read_document, warn_of_mode};
use broker::core::OrderOutcome;
use broker::reactor::Loop;
use std::env::VarError;

/// The file and the flags that it was started with.
pub(crate) struct Layers<'a> {
    args: &'a ServeArgs,
    /// Sockets of the service manager, which are the listeners where none are named.
    of_units: UnitSockets,
    /// The URL of a Redis of its own.
    dev_url: Option<String>,
    /// The file has a password.
    holds_secret: bool,
}

impl<'a> Layers<'a> {
    pub(crate) fn new(args: &'a ServeArgs, of_units: UnitSockets) -> Self {
        Layers { args, of_units, dev_url: None, holds_secret: false }
    }

    /// The upstream is this one, whatever else is said.
    pub(crate) fn serve_dev(&mut self, url: String) {
        self.dev_url = Some(url);
    }

    /// Warns of a file that everybody can read, if it has a password.
    pub(crate) fn warn(&self) {
        if let Some(path) = self.args.config.as_ref().filter(|_| self.holds_secret) {
            warn_of_mode("a configuration with a password", path);
        }
    }

    /// Reads all of them: of the file, `--set`, the other flags, the environment's password.
    pub(crate) fn gather(&mut self) -> Result<Sourced> {
        let args = self.args;
        let mut sourced = Sourced::defaults();
        self.holds_secret = false;
        if let Some(path) = &args.config {
            let name = path.display().to_string();
            let text = read_document(path).map_err(|error| Error::config(error.to_string()))?;
            let clients = sourced.load_file(&text, &name)?;
            let settings = sourced.below();
            let in_url = settings.upstream.as_ref().is_some_and(|upstream| upstream.password.is_some());
            let written = settings.upstream_password.is_some() || settings.sentinel_password.is_some();
            self.holds_secret = in_url || written || clients.client_password.is_some();
        }
        for pair in &args.set {
            sourced.set_pair(pair, SettingSource::Flag)?;
        }
        if !args.listen.is_empty() {
            sourced.set("listen", &args.listen.join(","), SettingSource::Flag)?;
        }
        sourced.fill(|settings| {
            self.of_units.fill_in(settings);
            if settings.listen.is_empty() {
                let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
                let is_root = rustix::process::geteuid().is_root();
                settings.listen.push(default_listen(is_root, runtime_dir.as_deref())?);
            }
            if settings.admin_listen == AdminListen::Default {
                settings.admin_listen =
                    settings.listen.first().map_or(AdminListen::None, AdminListen::beside);
            }
            Ok(())
        })?;
        if args.dev {
            // It overrides an upstream of the file; a private Redis has no password.
            let keys = ["upstream", "upstream_username", "upstream_password", "upstream_password_file"];
            keys.into_iter().try_for_each(|key| sourced.clear(key))?;
            let url = self.dev_url.iter();
            url.into_iter().try_for_each(|url| sourced.set("upstream", url, SettingSource::Flag))?;
        } else {
            self.find_upstream(&mut sourced)?;
        }
        sourced.below().validate()?;
        Ok(sourced)
    }

    fn find_upstream(&self, sourced: &mut Sourced) -> Result<()> {
        if let Some(url) = &self.args.upstream {
            sourced.set("upstream", url, SettingSource::Flag)?;
        }
        match std::env::var(PASSWORD_VARIABLE) {
            Ok(password) => {
                sourced.set("upstream_password", &password, SettingSource::Environment)?;
                sourced.set("upstream_password_file", "", SettingSource::Environment)?;
            }
            Err(VarError::NotPresent) => {}
            Err(VarError::NotUnicode(_)) => {
                return Err(Error::config(format!("{PASSWORD_VARIABLE} is not UTF-8")));
            }
        }
        sourced.below().upstream_resolved()?.map(drop).ok_or_else(|| {
            let why = "no upstream: give --upstream redis://host:6379, or --dev to try it with a private one";
            Error::config(why)
        })
    }

    /// Reads all of them again and applies what is new, below what the console has set; all or nothing. Says what has changed,
    /// one line for each key, also in the log.
    pub(crate) fn reload(&mut self, lp: &mut Loop, asked_by: &str) -> OrderOutcome {
        log::info!("{asked_by}: reading the configuration again");
        let outcome = self.apply(lp).map_err(|error| error.to_string());
        match &outcome {
            Ok(_) => self.warn(),
            Err(why) => log::error!("the former settings go on: {why}"),
        }
        outcome
    }

    fn apply(&mut self, lp: &mut Loop) -> Result<Vec<String>> {
        let sourced = self.gather()?.under(lp.sourced().overrides().clone());
        let kept: Vec<&str> = sourced.overrides().keys().collect();
        let kept = kept.join(", ");
        let mut lines = lp.reload(sourced)?;
        if lines.is_empty() {
            log::info!("nothing has changed");
            lines.push("nothing has changed".to_owned());
        }
        if !kept.is_empty() {
            log::info!("kept as the console has set them: {kept}");
            lines.push(format!("kept as the console has set them: {kept}"));
        }
        Ok(lines)
    }
}
