//! Configuration: one table of keys, from which the file, the flags and the documentation are made. Nothing here reads
//! argv or the environment.

pub mod accounts;
pub mod client;
pub mod endpoint;
mod load;
pub mod sources;
pub mod table;
pub mod value;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::base::error::{Error, Result};
use crate::command::is_never_allowed;
pub use client::{ClientSettings, client_rows};
use endpoint::Secret;
pub use endpoint::{
    Address, ChildProfile, ListenUrl, ReadFrom, Upstream, UpstreamPlace, parse_listen, parse_tls_endpoint,
    parse_upstream,
};
pub use load::load_toml;
pub use table::{Row, Settings, rows};

/// Largest configuration file, bytes. A longer one is another kind of file, or endless.
const DOCUMENT_MAX: u64 = 1024 * 1024;
/// Largest password file that is read, bytes.
const PASSWORD_FILE_MAX: u64 = 64 * 1024;

impl Settings {
    /// Checks rules that involve more than one key.
    pub fn validate(&self) -> Result<()> {
        let connections_max = self.upstream_connections_max;
        let (soft, hard) = (self.subscriber_output_soft, self.subscriber_output_max);
        for (key, value, bound, max) in [
            ("subscriber_output_soft", soft, "subscriber_output_max", hard),
            ("lanes", self.lanes, "upstream_connections_max", connections_max),
            ("leases_warm", self.leases_warm, "upstream_connections_max", connections_max),
        ] {
            if value > max {
                let [value, max] = [key, bound].map(|key| self.get_text(key).unwrap_or_default());
                return Err(Error::config(format!(
                    "{key} = \"{value}\": allowed is at most {bound} ({max})"
                )));
            }
        }
        if self.upstream_password.is_some() && self.upstream_password_file.is_some() {
            return Err(Error::config(
                "upstream_password and upstream_password_file are both set; allowed is one of them",
            ));
        }
        if self.sentinel_password.is_some() && self.sentinel_password_file.is_some() {
            return Err(Error::config(
                "sentinel_password and sentinel_password_file are both set; allowed is one of them",
            ));
        }
        if let Some(name) = self.commands_allow.iter().find(|name| is_never_allowed(name)) {
            return Err(Error::config(format!(
                "commands_allow = \"{name}\": a broker cannot allow it; allowed are commands that leave a \
                 connection as it was, and monitor, shutdown, client|pause, client|unpause"
            )));
        }
        if let Some(url) = self.metrics_listen.iter().find(|url| url.tls().is_some()) {
            return Err(Error::config(format!(
                "metrics_listen = \"{url}\": allowed are unix:// and tcp://; TLS is for children"
            )));
        }
        if let Some(url) = self.metrics_listen.iter().find(|url| url.profile().reads == ReadFrom::Replica) {
            return Err(Error::config(format!(
                "metrics_listen = \"{url}\": allowed without read=replica, which is for children"
            )));
        }
        for (key, one, other) in [
            ("tls_cert_file", &self.tls_cert_file, &self.tls_key_file),
            ("tls_key_file", &self.tls_key_file, &self.tls_cert_file),
        ] {
            if one.is_some() && other.is_none() {
                let text = self.get_text(key).unwrap_or_default();
                return Err(Error::config(format!(
                    "{key} = \"{text}\": allowed only together with tls_cert_file and tls_key_file"
                )));
            }
        }
        let children = self.listen.iter().map(|url| ("listen", url));
        let metrics = self.metrics_listen.iter().map(|url| ("metrics_listen", url));
        let admin = if let value::AdminListen::At(url) = &self.admin_listen { Some(url) } else { None };
        let places: Vec<_> = children.chain(metrics).chain(admin.map(|url| ("admin_listen", url))).collect();
        for (index, (key, url)) in places.iter().enumerate() {
            if places[..index].iter().any(|(_, other)| other.same_place(url)) {
                return Err(Error::config(format!("{key} = \"{url}\": named twice")));
            }
        }
        Ok(())
    }

    /// Whether children of a listener read from replicas.
    pub fn reads_from_replicas(&self) -> bool {
        self.listen.iter().any(|url| url.profile().reads == ReadFrom::Replica)
    }

    /// Whether `new` differs only in keys that a running broker accepts. The error names all others.
    pub fn same_fixed(&self, new: &Settings) -> Result<()> {
        let changed = self.changed_rows(new).filter(|row| !row.reloadable);
        let keys: Vec<&str> = changed.map(|row| row.key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        Err(Error::config(format!("{} cannot change while the broker runs", keys.join(", "))))
    }

    /// The keys whose values differ, passwords included.
    pub fn changed_rows(&self, new: &Settings) -> impl Iterator<Item = &'static Row> {
        let changed = table::FIELDS.iter().filter(|field| !(field.same)(self, new));
        changed.map(|field| &field.row)
    }

    /// The upstream with `upstream_username`, `upstream_password` and `upstream_password_file` merged in; each of
    /// them, when set, overrides the URL. Reads the file, blocking.
    pub fn upstream_resolved(&self) -> Result<Option<Upstream>> {
        let Some(mut upstream) = self.upstream.clone() else { return Ok(None) };
        let file = self.upstream_password_file.as_deref();
        let in_file = file.map(|path| read_password("upstream_password_file", path)).transpose()?;
        upstream.username = self.upstream_username.clone().or(upstream.username);
        upstream.password = in_file.or(self.upstream_password.clone()).or(upstream.password);
        if upstream.username.is_some() && upstream.password.is_none() {
            return Err(Error::config(format!(
                "upstream = \"{upstream}\": a username without a password; \
                 set upstream_password or upstream_password_file"
            )));
        }
        if let UpstreamPlace::Watched(watched) = &mut upstream.place {
            let file = self.sentinel_password_file.as_deref();
            let in_file = file.map(|path| read_password("sentinel_password_file", path)).transpose()?;
            watched.username = self.sentinel_username.clone();
            watched.password = in_file.or(self.sentinel_password.clone());
            if watched.username.is_some() && watched.password.is_none() {
                return Err(Error::config(
                    "sentinel_username without a password; set sentinel_password or sentinel_password_file",
                ));
            }
        }
        if self.reads_from_replicas() && upstream.watched().is_none() {
            return Err(Error::config(format!(
                "upstream = \"{upstream}\": a listener has ?read=replica, which needs sentinels that name the \
                 replicas: redis+sentinel://"
            )));
        }
        Ok(Some(upstream))
    }

    /// The files whose content these settings depend on, with the keys that name them.
    pub fn named_files(&self) -> Vec<(&'static str, &Path)> {
        let users = self.auth_file.as_ref().filter(|_| self.auth == value::Auth::Users);
        let tls = self.upstream.as_ref().is_some_and(|upstream| upstream.tls);
        let named = [
            ("upstream_password_file", self.upstream_password_file.as_ref()),
            ("sentinel_password_file", self.sentinel_password_file.as_ref()),
            ("auth_file", users),
            ("tls_ca_file", self.tls_ca_file.as_ref().filter(|_| tls)),
            ("tls_cert_file", self.tls_cert_file.as_ref().filter(|_| tls)),
            ("tls_key_file", self.tls_key_file.as_ref().filter(|_| tls)),
        ];
        let named = named.into_iter().filter_map(|(key, path)| Some((key, path?.as_path())));
        let of_listeners = self.listen.iter().filter_map(ListenUrl::tls).flat_map(|tls| {
            let files = [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()];
            files.into_iter().flatten().map(|path| ("listen", path.as_path()))
        });
        named.chain(of_listeners).collect()
    }

    /// Warns about files with secrets that these settings name. Called for settings in force, not for refused ones.
    pub fn warn_of_files(&self) {
        let users = self.auth_file.as_ref().filter(|_| self.auth == value::Auth::Users);
        self.upstream_password_file.iter().for_each(|path| warn_of_mode("upstream_password_file", path));
        self.sentinel_password_file.iter().for_each(|path| warn_of_mode("sentinel_password_file", path));
        users.iter().for_each(|path| warn_of_mode("auth_file", path));
        self.tls_key_file.iter().for_each(|path| warn_of_mode("tls_key_file", path));
        let keys = self.listen.iter().filter_map(|url| Some(&url.tls()?.key));
        keys.for_each(|path| warn_of_mode("the key of a listener", path));
    }
}

/// Warns if every user of this host can read or change a file with secrets. The file is used all the same: its owner may
/// have had no choice.
pub fn warn_of_mode(name: &str, path: &Path) {
    const EVERYBODY: u32 = 0o006;
    let mode = path.metadata().map_or(0, |metadata| metadata.mode() & 0o7777);
    if mode & EVERYBODY != 0 {
        log::warn!(
            "{name} = {path:?}: every user of this host can read or change it, its mode is {mode:04o}; make it 0600"
        );
    }
}

/// Reads a configuration file of at most 1 MiB. Blocks.
pub fn read_document(path: &Path) -> Result<String> {
    let attempt = format!("cannot read the configuration {}", path.display());
    let bytes = read_up_to(path, DOCUMENT_MAX + 1).map_err(Error::attempting(&attempt))?;
    if bytes.len() as u64 > DOCUMENT_MAX {
        return Err(Error::config(format!("{attempt}: it is longer than 1 MiB")));
    }
    String::from_utf8(bytes).map_err(|_| Error::config(format!("{attempt}: it is not UTF-8")))
}

/// SHA-256 of a file's first bytes, as many as are ever used; none if it cannot be read. Tells whether it has changed. Blocks.
pub fn print_of_file(path: &Path) -> Option<accounts::Hash> {
    read_up_to(path, accounts::FILE_MAX).ok().map(|bytes| accounts::Hash::of(&bytes))
}

fn read_up_to(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first line of a file, without its line end.
fn read_password(key: &str, path: &Path) -> Result<Secret> {
    let refuse = |why: &str| Error::config(format!("{key} = {path:?}: {why}"));
    let bytes =
        read_up_to(path, PASSWORD_FILE_MAX).map_err(|error| refuse(&format!("cannot be read: {error}")))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| refuse("its first line is not UTF-8"))?;
    if text.is_empty() {
        return Err(refuse("its first line is empty; allowed is one line with the password"));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets keys on the defaults and returns the error of `validate`, or "".
    fn validated(pairs: &[(&str, &str)]) -> String {
        let mut settings = Settings::default();
        for (key, value) in pairs {
            settings.set(key, value).unwrap();
        }
        settings.validate().err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_defaults_agree_with_each_other_and_are_printed_and_read_as_in_the_table() {
        assert_eq!(validated(&[]), "");
        let mut settings = Settings::default();
        for row in rows() {
            assert_eq!(settings.get_text(row.key).as_deref(), Some(row.default), "{}", row.key);
            assert!(!row.doc.is_empty() && !row.doc.contains('\n'), "{}", row.key);
            settings.set(row.key, row.default).unwrap();
        }
        assert_eq!(settings.get_text("no_such_key"), None);
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn keys_that_contradict_each_other_are_refused() {
        assert_eq!(
            validated(&[("subscriber_output_soft", "64MiB")]),
            "subscriber_output_soft = \"64MiB\": allowed is at most subscriber_output_max (32MiB)"
        );
        assert!(validated(&[("lanes", "9"), ("upstream_connections_max", "8")]).starts_with("lanes = "));
        assert!(validated(&[("upstream_password", "x"), ("upstream_password_file", "/x")]).contains("both"));
        assert!(validated(&[("listen", "unix:///a,unix:///a?mode=600")]).contains("named twice"));
        assert_eq!(validated(&[("listen", "unix:///a,unix:///b,tcp://127.0.0.1:0")]), "");
        let shared = [("listen", "tcp://127.0.0.1:7"), ("metrics_listen", "tcp://127.0.0.1:7")];
        assert_eq!(validated(&shared), "metrics_listen = \"tcp://127.0.0.1:7\": named twice");
        assert_eq!(
            validated(&[("listen", "tcp://127.0.0.1:0"), ("metrics_listen", "tcp://127.0.0.1:0")]),
            ""
        );
    }

    #[test]
    fn separate_credentials_stand_above_the_url_and_a_username_needs_a_password() {
        let mut settings = Settings::default();
        assert_eq!(settings.upstream_resolved().unwrap(), None);
        settings.set("upstream", "redis://u:f0rmer@h").unwrap();
        settings.set("upstream_username", "v").unwrap();
        settings.set("upstream_password", "n3xt").unwrap();
        let upstream = settings.upstream_resolved().unwrap().unwrap();
        assert_eq!(upstream.username.as_deref(), Some("v"));
        assert_eq!(upstream.password.as_ref().map(Secret::expose), Some("n3xt"));
        let debug = format!("{settings:?}{upstream:?}");
        assert!(!debug.contains("f0rmer") && !debug.contains("n3xt"), "{debug}");
        settings.unset("upstream_password").unwrap();
        settings.set("upstream", "redis://u@h").unwrap();
        let error = settings.upstream_resolved().unwrap_err().to_string();
        assert!(error.contains("without a password"), "{error}");
    }

    #[test]
    fn a_configuration_is_a_file_with_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.toml");
        let refused = |path: &Path| read_document(path).unwrap_err();
        assert_eq!(refused(&path).os(), Some(rustix::io::Errno::NOENT.raw_os_error()));
        assert_eq!(refused(dir.path()).os(), Some(rustix::io::Errno::ISDIR.raw_os_error()));
        assert!(refused(Path::new("/dev/zero")).to_string().ends_with("zero: it is longer than 1 MiB"));
        std::fs::write(&path, b"lanes = 3 # \xff").unwrap();
        assert!(refused(&path).to_string().ends_with("it is not UTF-8"));
        std::fs::write(&path, "lanes = 3").unwrap();
        assert_eq!(read_document(&path).unwrap(), "lanes = 3");
    }

    #[test]
    fn the_password_file_gives_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let mut settings = Settings::default();
        settings.set("upstream", "unix:///r.sock").unwrap();
        settings.set("upstream_password_file", path.to_str().unwrap()).unwrap();
        let error = settings.upstream_resolved().unwrap_err().to_string();
        assert!(error.contains("password\": cannot be read: No such file"), "{error}");

        for (content, password) in [("s3\r\nmore", "s3"), ("s3\n", "s3"), (" s3 ", " s3 ")] {
            std::fs::write(&path, content).unwrap();
            let upstream = settings.upstream_resolved().unwrap().unwrap();
            assert_eq!(upstream.password.as_ref().map(Secret::expose), Some(password));
        }
        std::fs::write(&path, "\nsecond").unwrap();
        let error = settings.upstream_resolved().unwrap_err().to_string();
        assert!(error.contains("first line is empty") && !error.contains("second"), "{error}");
    }
}
