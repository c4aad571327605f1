//! The URLs: where Redis is and where children connect. The `redis` crate parses both, so that a URL has the same meaning
//! as for every other user of that crate. Resolves no name and opens no socket; no text made here contains a password.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redis::IntoConnectionInfo;

use super::value::{ParseResult, show};
use crate::base::error::{Error, Result};
use crate::base::limits::SENTINELS_MAX;

/// Bytes of a path that fit a Unix socket's address on Linux, without the closing NUL.
pub const SUN_PATH_MAX: usize = 107;
/// Permissions of a Unix socket when its URL has no `mode=`: the owner and the group may connect.
pub const SOCKET_MODE: u32 = 0o660;
/// Where sentinels listen if their URL does not say.
pub const SENTINEL_PORT: u16 = 26379;
/// Bytes of the name of a master.
const MASTER_NAME_MAX: usize = 128;
/// Bytes of a listener's label.
const LABEL_MAX: usize = 64;
/// What a URL with TLS is refused with where the program was built without it.
pub const WITHOUT_TLS: &str = "TLS is not in this build: it was made without the feature \"tls\"";
/// The socket directory of a broker run by root.
pub const RUN_DIR: &str = "/run/broker";

/// Text that must not be shown. `Debug` prints `***`; there is no `Display`. Overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, to be sent to the upstream.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or numeric address (IPv6 without brackets).
    Tcp {
        /// Name or number.
        host: String,
        /// Never zero.
        port: u16,
    },
    /// An absolute path.
    Unix(PathBuf),
}

impl Address {
    /// Whether it is a name, which may lead to another server tomorrow.
    pub fn is_name(&self) -> bool {
        matches!(self, Address::Tcp { host, .. } if host.parse::<IpAddr>().is_err())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } => write!(f, "{}:{port}", Host(host)),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A master that sentinels name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedMaster {
    /// Sentinels to begin with; they name the others.
    pub seeds: Vec<Address>,
    /// Its name.
    pub name: String,
    /// ACL user at the sentinels; their default user when `None`.
    pub username: Option<String>,
    /// Sent to sentinels, and to nobody else.
    pub password: Option<Secret>,
}

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamPlace {
    /// At this address.
    Server(Address),
    /// Where its sentinels say.
    Watched(WatchedMaster),
}

/// The Redis server a broker serves. `Display` is the URL without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is.
    pub place: UpstreamPlace,
    /// By TLS, as a `rediss://` URL says.
    pub tls: bool,
    /// ACL user; the default user when `None`.
    pub username: Option<String>,
    /// Sent with `AUTH` or `HELLO`.
    pub password: Option<Secret>,
    /// Database of a child that has not selected one.
    pub db: u32,
}

/// Parses the URL of a broker's socket; the error is a whole line.
pub fn parse_listen(url: &str) -> Result<ListenUrl> {
    ListenUrl::parse(url).map_err(|why| Error::config(format!("endpoint {}: {why}", show(&mask(url)))))
}

/// Parses an upstream URL; the error is a whole line without the password.
pub fn parse_upstream(url: &str) -> Result<Upstream> {
    Upstream::parse(url).map_err(|why| Error::config(format!("upstream {}: {why}", show(&mask(url)))))
}

impl Upstream {
    /// What sentinels are asked for.
    pub fn watched(&self) -> Option<&WatchedMaster> {
        if let UpstreamPlace::Watched(watched) = &self.place { Some(watched) } else { None }
    }

    /// Parses a URL; the error gives the reason and never contains the URL.
    pub(super) fn parse(text: &str) -> ParseResult<Self> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
        if let Some((plain, "sentinel")) = scheme.split_once('+') {
            return parse_watched(plain, text);
        }
        supported_scheme(&scheme)?;
        let tls = scheme == "rediss";
        // The crate takes this scheme only together with its own TLS.
        let plain = if tls { format!("redis{}", &text[scheme.len()..]) } else { text.to_owned() };
        let url = redis::parse_redis_url(&plain).ok_or("not a URL")?;
        if url.fragment().is_some() {
            return Err("has a '#'; inside a password it is written %23".to_owned());
        }
        let options: &[&str] =
            if scheme.starts_with("redis") && scheme != "redis+unix" { &[] } else { &["db", "user", "pass"] };
        if let Some((name, _)) = url.query_pairs().find(|(name, _)| !options.contains(&&**name)) {
            return Err(format!("unknown option {}", show(&name)));
        }
        // With `protocol` refused above, no error text repeats a part of the URL.
        let info = url.into_connection_info().map_err(|error| error.to_string())?;
        let redis = info.redis_settings();
        let address = match info.addr() {
            redis::ConnectionAddr::Tcp(host, _) if host.is_empty() => return Err("no host".to_owned()),
            redis::ConnectionAddr::Tcp(_, 0) => return Err("port 0".to_owned()),
            redis::ConnectionAddr::Tcp(host, port) => Address::Tcp { host: host.clone(), port: *port },
            redis::ConnectionAddr::Unix(path) => Address::Unix(check_path(path)?),
            _ => return Err("not a supported kind of address".to_owned()),
        };
        Ok(Upstream {
            place: UpstreamPlace::Server(address),
            tls,
            username: redis.username().map(str::to_owned),
            password: redis.password().map(Secret::new),
            db: u32::try_from(redis.db()).map_err(|_| "not a database number")?,
        })
    }
}

/// `redis+sentinel://[user:password@]host[:port],host[:port]/name[/db]`. Each part is parsed as it is in a URL with one host.
fn parse_watched(scheme: &str, text: &str) -> ParseResult<Upstream> {
    let plain = match scheme {
        "redis" | "valkey" => "redis",
        "rediss" | "valkeys" => "rediss",
        _ => return Err("not a redis+sentinel:// URL".to_owned()),
    };
    let rest = text.split_once("://").map(|(_, rest)| rest).ok_or("not a URL")?;
    if rest.contains(['?', '#']) {
        return Err("has options or a '#'; inside a password they are written %3F and %23".to_owned());
    }
    let (authority, path) = rest.split_once('/').ok_or("no name of a master: redis+sentinel://host/name")?;
    let (user, hosts) =
        authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    let (name, db) = path.split_once('/').unwrap_or((path, "0"));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > MASTER_NAME_MAX || !name.bytes().all(is_name) {
        return Err(format!(
            "the name of the master is not 1 to {MASTER_NAME_MAX} of letters, digits, '-', '_' and '.'"
        ));
    }
    let seeds = hosts.split(',').map(parse_sentinel).collect::<ParseResult<Vec<Address>>>()?;
    if seeds.len() > SENTINELS_MAX {
        return Err(format!("more than {SENTINELS_MAX} sentinels"));
    }
    let user = user.map_or_else(String::new, |user| format!("{user}@"));
    let data = Upstream::parse(&format!("{plain}://{user}h/{db}"))?;
    let watched = WatchedMaster { seeds, name: name.to_owned(), username: None, password: None };
    Ok(Upstream { place: UpstreamPlace::Watched(watched), ..data })
}

fn parse_sentinel(text: &str) -> ParseResult<Address> {
    let url = redis::parse_redis_url(&format!("redis://{text}")).ok_or("a sentinel is not host[:port]")?;
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match url.port().unwrap_or(SENTINEL_PORT) {
        _ if host.is_empty() => Err("a sentinel without a host".to_owned()),
        0 => Err("port 0".to_owned()),
        port => Ok(Address::Tcp { host: host.to_owned(), port }),
    }
}

fn supported_scheme(scheme: &str) -> ParseResult<()> {
    match scheme {
        "redis" | "unix" | "redis+unix" => Ok(()),
        "rediss" if cfg!(feature = "tls") => Ok(()),
        "rediss" => Err(WITHOUT_TLS.to_owned()),
        _ if scheme.contains("cluster") => Err("Cluster upstreams are not supported yet".to_owned()),
        _ => Err("not a redis://, rediss://, redis+sentinel:// or unix:// URL".to_owned()),
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        match &self.place {
            UpstreamPlace::Server(address @ Address::Tcp { .. }) => {
                write!(f, "{scheme}://{address}/{}", self.db)
            }
            UpstreamPlace::Server(Address::Unix(path)) => {
                write!(f, "unix://{}?db={}", UrlPath(path), self.db)
            }
            UpstreamPlace::Watched(WatchedMaster { seeds, name, .. }) => {
                let seeds: Vec<String> = seeds.iter().map(Address::to_string).collect();
                write!(f, "{scheme}+sentinel://{}/{name}/{}", seeds.join(","), self.db)
            }
        }
    }
}

/// Who may connect to a Unix socket, as its URL says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessOptions {
    /// Permission bits; `SOCKET_MODE` when `None`.
    pub mode: Option<u32>,
    /// Name or number of the owner; the process's own when `None`.
    pub user: Option<String>,
    /// Name or number of the group; the process's own when `None`.
    pub group: Option<String>,
}

/// From which servers reads are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadFrom {
    /// The master.
    #[default]
    Master,
    /// A replica that the sentinels name as sound, if there is one.
    Replica,
}

/// What a listener says of its children.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChildProfile {
    /// What they are called where the system does not know their process, or beside their address.
    pub label: Option<Arc<str>>,
    /// From where they read.
    pub reads: ReadFrom,
}

impl ChildProfile {
    /// Takes an option of a listener's URL. False if it is none of these.
    fn take(&mut self, name: &str, value: &str) -> ParseResult<bool> {
        match (name, value) {
            ("label", _) => self.label = Some(parse_label(value)?.into()),
            ("read", "master") => self.reads = ReadFrom::Master,
            ("read", "replica") => self.reads = ReadFrom::Replica,
            ("read", _) => return Err("read is neither master nor replica".to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// As options of a URL.
    fn options(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let reads = (self.reads == ReadFrom::Replica).then_some(("read", "replica"));
        self.label.iter().map(|label| ("label", &**label)).chain(reads)
    }
}

/// An address where children connect. `Display` is the URL that parses to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenUrl {
    /// `unix:///path?mode=0660&user=name&group=name`
    Unix {
        /// Absolute, at most `SUN_PATH_MAX` bytes.
        path: PathBuf,
        /// Its options.
        access: AccessOptions,
        /// Of its children.
        profile: ChildProfile,
    },
    /// `tcp://host:port?insecure=1`, or with `files`
    /// `tls://host:port?cert=/path&key=/path&client_ca=/path&insecure=1`
    Tcp {
        /// Name or number (IPv6 without brackets).
        host: String,
        /// Zero lets the system choose.
        port: u16,
        /// Allows an address beyond loopback, where every process that connects gets the broker's rights.
        insecure: bool,
        /// Of its children.
        profile: ChildProfile,
        /// By TLS, with these.
        tls: Option<ListenTls>,
    },
}

/// The files of a listener with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenTls {
    /// Its certificate, with those that lead to its CA behind it.
    pub cert: PathBuf,
    /// The key of that certificate.
    pub key: PathBuf,
    /// The CAs of clients, each of which must show a certificate then.
    pub client_ca: Option<PathBuf>,
}

impl ListenUrl {
    /// Parses a URL; the error gives the reason and never contains the URL.
    pub(super) fn parse(text: &str) -> ParseResult<Self> {
        match text.split_once(':') {
            Some(("unix", _)) => parse_listen_unix(text),
            Some(("tcp", rest)) => parse_listen_tcp(rest, false),
            Some(("tls", rest)) if cfg!(feature = "tls") => parse_listen_tcp(rest, true),
            Some(("tls", _)) => Err(WITHOUT_TLS.to_owned()),
            _ => Err("not a unix://, tcp:// or tls:// URL".to_owned()),
        }
    }

    /// A Unix socket with a path and no options.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        ListenUrl::Unix {
            path: path.into(),
            access: AccessOptions::default(),
            profile: ChildProfile::default(),
        }
    }

    /// An address with a port and no options.
    pub fn tcp(address: SocketAddr) -> Self {
        ListenUrl::Tcp {
            host: address.ip().to_string(),
            port: address.port(),
            insecure: false,
            profile: ChildProfile::default(),
            tls: None,
        }
    }

    /// What it says of its children.
    pub fn profile(&self) -> &ChildProfile {
        match self {
            ListenUrl::Unix { profile, .. } | ListenUrl::Tcp { profile, .. } => profile,
        }
    }

    /// Its files, if it is one with TLS.
    pub fn tls(&self) -> Option<&ListenTls> {
        if let ListenUrl::Tcp { tls, .. } = self { tls.as_ref() } else { None }
    }

    /// Whether two URLs name the same address, so that only one of them can be bound. Options do not matter.
    pub fn same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (ListenUrl::Unix { path: a, .. }, ListenUrl::Unix { path: b, .. }) => a == b,
            (ListenUrl::Tcp { host: a, port: p, .. }, ListenUrl::Tcp { host: b, port: q, .. }) => {
                a == b && p == q && *p != 0
            }
            _ => false,
        }
    }
}

fn parse_listen_unix(text: &str) -> ParseResult<ListenUrl> {
    let url = redis::parse_redis_url(text).ok_or("not a URL")?;
    if url.fragment().is_some() {
        return Err("has a '#'; inside a path it is written %23".to_owned());
    }
    let path = url.to_file_path().map_err(|()| "the path is not absolute, as in unix:///path")?;
    let path = check_path(&path)?;
    let (mut access, mut profile) = (AccessOptions::default(), ChildProfile::default());
    for (name, value) in url.query_pairs() {
        match &*name {
            "mode" => access.mode = Some(parse_mode(&value)?),
            "user" if !value.is_empty() => access.user = Some(value.into_owned()),
            "group" if !value.is_empty() => access.group = Some(value.into_owned()),
            "user" | "group" => return Err(format!("option \"{name}\" is empty")),
            _ if profile.take(&name, &value)? => {}
            _ => return Err(format!("unknown option {}", show(&name))),
        }
    }
    Ok(ListenUrl::Unix { path, access, profile })
}

/// Parses where a client finds a listener with TLS, `tls://host:port`; the error is a whole line.
pub fn parse_tls_endpoint(text: &str) -> Result<Address> {
    let refuse = |why: String| Error::config(format!("endpoint {}: {why}", show(&mask(text))));
    if !cfg!(feature = "tls") {
        return Err(refuse(WITHOUT_TLS.to_owned()));
    }
    let rest = text.strip_prefix("tls:").unwrap_or_default();
    let HostUrl { host, port, options } = parse_host(rest).map_err(refuse)?;
    match options.is_empty() {
        true => Ok(Address::Tcp { host, port }),
        false => Err(refuse("has options; files and names are client_tls_* settings".to_owned())),
    }
}

/// A host, a port and the options behind them. `rest` is what follows `tcp:`. The `redis` scheme has the same syntax and a
/// parser.
struct HostUrl {
    host: String,
    port: u16,
    options: Vec<(String, String)>,
}

fn parse_host(rest: &str) -> ParseResult<HostUrl> {
    let url = redis::parse_redis_url(&format!("redis:{rest}")).ok_or("not a URL")?;
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
    if host.is_empty() {
        return Err("no host".to_owned());
    }
    let port = url.port().ok_or("no port")?;
    let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    if !bare || !matches!(url.path(), "" | "/") {
        return Err("more than a host, a port and options".to_owned());
    }
    let options = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    Ok(HostUrl { host, port, options })
}

fn parse_listen_tcp(rest: &str, by_tls: bool) -> ParseResult<ListenUrl> {
    let HostUrl { host, port, options } = parse_host(rest)?;
    let (mut insecure, mut profile) = (false, ChildProfile::default());
    let (mut cert, mut key, mut client_ca) = (None, None, None);
    for (name, value) in &options {
        match (&**name, &**value) {
            ("insecure", "1") => insecure = true,
            ("insecure", "0") => insecure = false,
            ("insecure", _) => return Err("insecure is neither 0 nor 1".to_owned()),
            ("cert", _) if by_tls => cert = Some(parse_file("cert", value)?),
            ("key", _) if by_tls => key = Some(parse_file("key", value)?),
            ("client_ca", _) if by_tls => client_ca = Some(parse_file("client_ca", value)?),
            _ if profile.take(name, value)? => {}
            _ => return Err(format!("unknown option {}", show(name))),
        }
    }
    let tls = match (cert, key) {
        (Some(cert), Some(key)) => Some(ListenTls { cert, key, client_ca }),
        _ if by_tls => return Err("TLS needs a certificate and its key: ?cert=/path&key=/path".to_owned()),
        _ => None,
    };
    Ok(ListenUrl::Tcp { host, port, insecure, profile, tls })
}

fn parse_file(option: &str, text: &str) -> ParseResult<PathBuf> {
    let path = Path::new(text);
    if !path.is_absolute() || text.contains('\0') {
        return Err(format!("{option} is not an absolute path"));
    }
    Ok(path.to_owned())
}

/// A name that needs no quotes in a log line, a table or a label of a metric.
fn parse_label(text: &str) -> ParseResult<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > LABEL_MAX || !text.bytes().all(plain) {
        return Err(format!("label is not 1 to {LABEL_MAX} of letters, digits, '-', '_' and '.'"));
    }
    Ok(text.to_owned())
}

fn parse_mode(text: &str) -> ParseResult<u32> {
    // from_str_radix would accept a sign.
    let mode = if text.starts_with('+') { None } else { u32::from_str_radix(text, 8).ok() };
    mode.filter(|mode| *mode <= 0o777).ok_or_else(|| "mode is not an octal number up to 0777".to_owned())
}

fn check_path(path: &Path) -> ParseResult<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    let len = bytes.len();
    if len > SUN_PATH_MAX {
        return Err(format!("the path has {len} bytes; the system takes {SUN_PATH_MAX} for a socket"));
    }
    if bytes.contains(&0) {
        return Err("the path contains a NUL byte".to_owned());
    }
    if path.file_name().is_none() || bytes.ends_with(b"/") {
        return Err("the path names no file".to_owned());
    }
    Ok(path.to_owned())
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenUrl::Unix { path, access: AccessOptions { mode, user, group }, profile } => {
                write!(f, "unix://{}", UrlPath(path))?;
                let mode = mode.map(|mode| format!("{mode:04o}"));
                let options = [("mode", &mode), ("user", user), ("group", group)];
                let given = options.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
                let mut separator = '?';
                for (name, value) in given.chain(profile.options()) {
                    write!(f, "{separator}{name}={}", UrlPath(Path::new(value)))?;
                    separator = '&';
                }
                Ok(())
            }
            ListenUrl::Tcp { host, port, insecure, profile, tls } => {
                let scheme = if tls.is_some() { "tls" } else { "tcp" };
                write!(f, "{scheme}://{}:{port}", Host(host))?;
                let (cert, key) = (tls.as_ref().map(|tls| &tls.cert), tls.as_ref().map(|tls| &tls.key));
                let client_ca = tls.as_ref().and_then(|tls| tls.client_ca.as_ref());
                let mut separator = '?';
                for (name, path) in [("cert", cert), ("key", key), ("client_ca", client_ca)] {
                    if let Some(path) = path {
                        write!(f, "{separator}{name}={}", UrlPath(path))?;
                        separator = '&';
                    }
                }
                if *insecure {
                    write!(f, "{separator}insecure=1")?;
                    separator = '&';
                }
                for (name, value) in profile.options() {
                    write!(f, "{separator}{name}={value}")?;
                    separator = '&';
                }
                Ok(())
            }
        }
    }
}

/// The default listener: `/run/broker/broker.sock` for root, else `$XDG_RUNTIME_DIR/broker.sock`, whose value the
/// caller passes.
pub fn default_listen(is_root: bool, xdg_runtime_dir: Option<&str>) -> Result<ListenUrl> {
    if is_root {
        return Ok(ListenUrl::unix(Path::new(RUN_DIR).join("broker.sock")));
    }
    let path = match xdg_runtime_dir {
        Some(dir) if Path::new(dir).is_absolute() => {
            check_path(&Path::new(dir).join("broker.sock")).map_err(|why| format!("XDG_RUNTIME_DIR: {why}"))
        }
        _ => Err("not run by root, and XDG_RUNTIME_DIR is not set to an absolute path".to_owned()),
    };
    path.map(ListenUrl::unix).map_err(|why| {
        let way = "give --listen unix:///path or set listen in the configuration";
        Error::config(format!("no listener: {why}; {way}"))
    })
}

/// A host as written in a URL.
struct Host<'a>(&'a str);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(self.0) }
    }
}

/// A path or option as written in a URL and in a list: characters that would end it are percent-encoded.
struct UrlPath<'a>(&'a Path);

impl fmt::Display for UrlPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.as_os_str().as_bytes() {
            if byte.is_ascii_alphanumeric() || b"/.-_~@:$".contains(byte) {
                write!(f, "{}", *byte as char)?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

/// The text with everything that could be a password replaced by `***`, for errors about text that did not parse. Hides
/// too much rather than too little: a mistyped URL may have its password anywhere.
pub(super) fn mask(text: &str) -> String {
    const SHOWN_OPTIONS: &[&str] =
        &["db", "mode", "user", "group", "insecure", "label", "read", "cert", "key", "client_ca"];
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['@', ':', '?', '=']) => (&text[..scheme.len() + 3], rest),
        _ => ("", text),
    };
    let (userinfo, rest) = without_userinfo(rest);
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let authority = place.split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    if !port.bytes().all(|byte| byte.is_ascii_digit()) && !authority.ends_with(']') {
        // "redis://:secret": the host is missing.
        return format!("{scheme}***");
    }
    let harmless = |pair: &str| pair.split_once('=').is_some_and(|(name, _)| SHOWN_OPTIONS.contains(&name));
    match query {
        // Text after an '@' may be the rest of a password in an option.
        Some(query) if userinfo.is_empty() && query.split('&').all(harmless) => {
            format!("{scheme}{place}?{query}")
        }
        Some(_) => format!("{scheme}{userinfo}{place}?***"),
        None if text.contains('?') => format!("{scheme}***"),
        None => format!("{scheme}{userinfo}{place}"),
    }
}

/// `mask` for a list: any item may contain the password, and a password may contain a comma.
pub(super) fn mask_list(text: &str) -> String {
    let (userinfo, rest) = without_userinfo(text);
    let items: Vec<_> = rest.split(',').map(mask).collect();
    format!("{userinfo}{}", items.join(","))
}

/// Userinfo ends at the last '@', since an unescaped password may contain any other delimiter, and '@' too.
fn without_userinfo(text: &str) -> (&str, &str) {
    text.rsplit_once('@').map_or(("", text), |(_, rest)| ("***@", rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(url: &str) -> Upstream {
        parse_upstream(url).unwrap()
    }

    fn listen(url: &str) -> ListenUrl {
        ListenUrl::parse(url).unwrap()
    }

    #[test]
    fn upstream_urls_mean_what_they_mean_to_the_redis_crate() {
        let full = upstream("redis://us%20er:p%40ss@Example.com:7000/3");
        assert_eq!(full.username.as_deref(), Some("us er"));
        assert_eq!(full.password.as_ref().map(Secret::expose), Some("p@ss"));
        assert_eq!(full.db, 3);
        assert_eq!(upstream("redis://:pw@h").username, None);
        assert_eq!(
            upstream("redis://h").place,
            UpstreamPlace::Server(Address::Tcp { host: "h".into(), port: 6379 })
        );
        assert_eq!(
            upstream("redis://[::1]:7").place,
            UpstreamPlace::Server(Address::Tcp { host: "::1".into(), port: 7 })
        );
        for scheme in ["unix", "redis+unix"] {
            let unix = upstream(&format!("{scheme}:///r%20un/r.sock?db=2&user=u&pass=p"));
            assert_eq!(unix.place, UpstreamPlace::Server(Address::Unix("/r un/r.sock".into())));
            assert_eq!((unix.db, unix.username.as_deref()), (2, Some("u")));
            assert_eq!(unix.password.as_ref().map(Secret::expose), Some("p"));
        }
    }

    #[test]
    fn an_upstream_is_shown_without_credentials() {
        for (url, shown) in [
            ("redis://u:pw@h:1/2", "redis://h:1/2"),
            #[cfg(feature = "tls")]
            ("REDISS://u:pw@h/2", "rediss://h:6379/2"),
            ("redis://[::1]", "redis://[::1]:6379/0"),
            ("unix:///a?b", ""),
            ("unix:///a%3Fb?pass=pw", "unix:///a%3Fb?db=0"),
        ] {
            let parsed = parse_upstream(url);
            assert_eq!(parsed.as_ref().map(Upstream::to_string).unwrap_or_default(), shown, "{url}");
            assert!(!format!("{parsed:?}").contains("pw"), "{parsed:?}");
        }
    }

    #[test]
    fn what_is_not_supported_yet_is_said_in_a_sentence() {
        for scheme in ["redis+cluster", "cluster", "redis-cluster"] {
            let error = parse_upstream(&format!("{scheme}://h")).unwrap_err().to_string();
            assert!(error.ends_with("Cluster upstreams are not supported yet"), "{error}");
        }
    }

    #[test]
    fn bad_upstreams_are_refused_without_their_password() {
        let urls = "hunter2@h redis://:hunter2 redis://:hunter2@ redis://:hunter2@h/x redis://:hunter2@h/-1 \
             redis://:hunter2@h:0 redis://:hunter2@0.0.0.0 redis://:hunter2@h:99999 redis://:hunter2#x@h \
             redis://:x#hunter2@h redis://:hunter2/x@h redis://:a?hunter2@h redis://:a?hunter2 \
             redis://:a@hunter2@h/x redis://:hunter2@h?protocol=hunter2 rediss://u:hunter2@h/x \
             sentinel://u:hunter2@h unix://x?pass=hunter2 unix:///x?pass=a@hunter2&x=1 \
             unix:///x?p%61ss=hunter2&x=1 unix:///x?db=a&pass=hunter2 redis:hunter2 unix://:hunter2@/x ://:hunter2";
        for url in urls.split(' ') {
            let error = parse_upstream(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains('\n'), "{url}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_a_password_stays_readable() {
        for text in ["localhost:6379", "redis://h:1/x", "unix:///a/b?db=x", "soon", "tcp://[::1]", ""] {
            assert_eq!(mask(text), text);
        }
        assert_eq!(mask("redis://u:pw@h:1/2"), "redis://***@h:1/2");
        assert_eq!(mask_list("unix:///a?mode=9,tcp://h"), "unix:///a?mode=9,tcp://h");
        assert_eq!(mask_list("tcp://h:1,redis://:pw"), "tcp://h:1,redis://***");
        assert_eq!(mask_list("redis://:p,pw,w@h,redis://:pw"), "***@h,redis://***");
    }

    #[test]
    fn listen_urls_print_as_they_parse() {
        for url in [
            "unix:///run/x.sock",
            "unix:///a?mode=0600",
            "unix:///a%2Cb%3F?mode=0660&user=u&group=g%26",
            "tcp://127.0.0.1:0",
            "tcp://localhost:6379",
            "tcp://[::]:6379?insecure=1",
            "tcp://[::]:6379?insecure=1&label=web-1.a_b&read=replica",
            "unix:///a?mode=0600&label=jobs&read=replica",
            #[cfg(feature = "tls")]
            "tls://h:6379?cert=/a/c.pem&key=/a/k%2Cy.pem",
            #[cfg(feature = "tls")]
            "tls://[::]:6379?cert=/c&key=/k&client_ca=/ca&insecure=1&label=x",
        ] {
            assert_eq!(listen(url).to_string(), url);
        }
        assert_eq!(listen("unix:///a?mode=660"), listen("unix:///a?mode=0660"));
        assert_eq!(listen("tcp://h:1/?insecure=0").to_string(), "tcp://h:1");
    }

    #[test]
    fn bad_listen_urls_are_refused() {
        let long = format!("unix:///{}", "x".repeat(SUN_PATH_MAX));
        for (urls, why) in [
            ("/run/x redis://h", "not a unix://, tcp:// or tls:// URL"),
            #[cfg(feature = "tls")]
            ("tls://h:1 tls://h:1?cert=/c tls://h:1?key=/k", "?cert=/path&key=/path"),
            #[cfg(feature = "tls")]
            ("tls://h:1?cert=c&key=/k tls://h:1?cert=&key=/k", "not an absolute path"),
            #[cfg(not(feature = "tls"))]
            ("tls://h:1?cert=/c&key=/k", "not in this build"),
            ("tcp://h:1?cert=/c", "unknown option \"cert\""),
            ("unix://run/x unix:run/x unix://", "not absolute"),
            ("unix:/// unix:///run/", "names no file"),
            ("unix:///a%00b", "NUL"),
            ("unix:///a?mode=8 unix:///a?mode=1777 unix:///a?mode=+6", "octal"),
            ("unix:///a?user=", "\"user\" is empty"),
            ("unix:///a?insecure=1", "unknown option \"insecure\""),
            ("unix:///a?read= tcp://h:1?read=slave", "read is neither master nor replica"),
            ("unix:///a?label= unix:///a?label=a%20b tcp://h:1?label=%22", "label is not 1 to 64"),
            ("unix:///a#b", "%23"),
            (&long, "the path has 108 bytes; the system takes 107"),
            ("tcp://h", "no port"),
            ("tcp://:1 tcp://h:70000", "not a URL"),
            ("tcp:h:1", "no host"),
            ("tcp://h:1/x tcp://u@h:1", "more than a host"),
            ("tcp://h:1?insecure=yes", "neither"),
            ("tcp://h:1?mode=0600", "unknown option \"mode\""),
        ] {
            for url in urls.split(' ') {
                let error = ListenUrl::parse(url).unwrap_err();
                assert!(error.contains(why), "{url}: {error}");
            }
        }
        listen(&long[..long.len() - 1]);
    }

    #[test]
    fn the_default_place_depends_on_who_runs() {
        assert_eq!(default_listen(true, None).unwrap().to_string(), "unix:///run/broker/broker.sock");
        let user = default_listen(false, Some("/run/user/7")).unwrap();
        assert_eq!(user.to_string(), "unix:///run/user/7/broker.sock");
        for dir in [None, Some(""), Some("relative"), Some("/x/".repeat(60).as_str())] {
            let error = default_listen(false, dir).unwrap_err().to_string();
            assert!(error.contains("set listen") && error.contains("XDG_RUNTIME_DIR"), "{error}");
        }
    }
}
