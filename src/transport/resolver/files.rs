//! What this host says about names: /etc/hosts, and the servers to ask (/etc/resolv.conf). Both are read when a name is
//! looked up and have changed since; a file that is missing is an empty one. Reads regular files only, which do not block.

use super::message::is_host_name;
use crate::base::clock::Millis;
use crate::base::limits::{ADDRESSES_MAX, RESOLVE_ATTEMPTS, RESOLVE_TRY};
use resolv_conf::{Config, ScopedIp};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PORT: u16 = 53;
/// Bytes of each file that are read. Lists of blocked hosts are the longest there are.
const HOSTS_MAX: u64 = 4 * 1024 * 1024;
const RESOLV_CONF_MAX: u64 = 64 * 1024;
/// As in glibc: servers, domains to search, and the largest values of options.
const SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 6;
const ATTEMPTS_MAX: u32 = 5;
const TIMEOUT_MAX: Millis = 30_000;
const NDOTS_MAX: usize = 15;

/// The two files, as they were read last.
#[derive(Debug)]
pub(super) struct NameFiles {
    hosts: ReadFile,
    resolv_conf: ReadFile,
    servers: Arc<NameServers>,
    port: u16,
}

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub(super) struct NameServers {
    /// At least one.
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<String>,
    /// A name with so many dots is asked for as it is first.
    pub(super) ndots: usize,
    /// How long a server may take, as configured.
    timeout: Option<Millis>,
    /// How often each server is asked.
    pub(super) attempts: usize,
    pub(super) rotate: bool,
    pub(super) over_tcp: bool,
    pub(super) no_aaaa: bool,
}

/// A file's bytes, and what it looked like when they were read.
#[derive(Debug)]
struct ReadFile {
    path: PathBuf,
    max: u64,
    look: Option<(i64, i64, u64, u64)>,
    text: String,
}

impl Default for NameFiles {
    fn default() -> Self {
        NameFiles::at(Path::new("/etc/hosts"), Path::new("/etc/resolv.conf"), PORT)
    }
}

impl NameFiles {
    /// These files; name servers are asked at this port.
    pub(super) fn at(hosts: &Path, resolv_conf: &Path, port: u16) -> NameFiles {
        NameFiles {
            hosts: ReadFile::new(hosts, HOSTS_MAX),
            resolv_conf: ReadFile::new(resolv_conf, RESOLV_CONF_MAX),
            servers: Arc::new(NameServers::parse("", port)),
            port,
        }
    }

    /// The addresses of a host in /etc/hosts, in order. `localhost` has some in any case.
    pub(super) fn hosts(&mut self, host: &str) -> Vec<IpAddr> {
        self.hosts.read_if_changed();
        let host = host.strip_suffix('.').unwrap_or(host);
        let found = addresses_of(&self.hosts.text, host);
        if found.is_empty() && host.eq_ignore_ascii_case("localhost") {
            return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        found
    }

    pub(super) fn servers(&mut self) -> Arc<NameServers> {
        if self.resolv_conf.read_if_changed() {
            self.servers = Arc::new(NameServers::parse(&self.resolv_conf.text, self.port));
        }
        Arc::clone(&self.servers)
    }
}

fn addresses_of(hosts: &str, host: &str) -> Vec<IpAddr> {
    let lines = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next()?;
        if words.any(|name| name.eq_ignore_ascii_case(host)) { address.parse().ok() } else { None }
    });
    let mut found = Vec::new();
    for address in lines.take(ADDRESSES_MAX) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

impl NameServers {
    /// A line that is wrong is as good as none.
    fn parse(text: &str, port: u16) -> NameServers {
        let (config, _) = Config::parse_with_errors(text.as_bytes());
        let plain = |ip: &ScopedIp| match ip {
            ScopedIp::V4(ip) => Some(IpAddr::V4(*ip)),
            // An address of one link is not supported.
            ScopedIp::V6(ip, scope) => scope.is_none().then_some(IpAddr::V6(*ip)),
        };
        let servers = config.nameservers.iter().filter_map(plain).take(SERVERS_MAX);
        let mut servers: Vec<_> = servers.map(|ip| SocketAddr::new(ip, port)).collect();
        if servers.is_empty() {
            servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        }
        let search = config.get_last_search_or_domain().filter(|domain| is_host_name(domain));
        // The customary values are five seconds, twice: more than requests wait.
        let is_set = |option: &str| text.split_whitespace().any(|word| word.starts_with(option));
        let timeout = (Millis::from(config.timeout.max(1)) * 1000).min(TIMEOUT_MAX);
        let attempts = config.attempts.clamp(1, ATTEMPTS_MAX) as usize;
        NameServers {
            servers,
            search: search.take(SEARCH_MAX).cloned().collect(),
            ndots: usize::try_from(config.ndots).unwrap_or(NDOTS_MAX).min(NDOTS_MAX),
            timeout: is_set("timeout:").then_some(timeout),
            attempts: if is_set("attempts:") { attempts } else { RESOLVE_ATTEMPTS },
            rotate: config.rotate,
            over_tcp: config.use_vc,
            no_aaaa: config.no_aaaa,
        }
    }

    /// How long a server may take that has been asked so often before.
    pub(super) fn timeout(&self, before: usize) -> Millis {
        self.timeout.unwrap_or(RESOLVE_TRY << before.min(ATTEMPTS_MAX as usize))
    }

    /// The names to ask for, in order: `host` itself and in the domains to search.
    pub(super) fn names(&self, host: &str) -> Vec<String> {
        if let Some(whole) = host.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let within = self.search.iter().map(|domain| format!("{host}.{}", domain.trim_end_matches('.')));
        let mut names: Vec<String> = within.filter(|name| is_host_name(name)).collect();
        let at = if host.matches('.').count() >= self.ndots { 0 } else { names.len() };
        names.insert(at, host.to_owned());
        names
    }
}

impl ReadFile {
    fn new(path: &Path, max: u64) -> ReadFile {
        ReadFile { path: path.to_owned(), max, look: None, text: String::new() }
    }

    /// Whether it has changed.
    fn read_if_changed(&mut self) -> bool {
        let opened = self.open();
        let look = opened.as_ref().ok().map(|(_, look)| *look);
        if look == self.look {
            return false;
        }
        let mut bytes = Vec::new();
        if let Ok((file, _)) = opened
            && let Err(error) = file.take(self.max).read_to_end(&mut bytes)
        {
            log::warn!("{}: {error}", self.path.display());
        }
        (self.look, self.text) = (look, String::from_utf8_lossy(&bytes).into_owned());
        true
    }

    /// Does not wait for the other end of a pipe.
    fn open(&self) -> io::Result<(File, (i64, i64, u64, u64))> {
        let flags = OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path)?;
        let look = file.metadata()?;
        if !look.is_file() {
            return Err(io::Error::other("not a file"));
        }
        Ok((file, (look.mtime(), look.mtime_nsec(), look.size(), look.ino())))
    }
}
