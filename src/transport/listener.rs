//! The sockets children connect to: binding them so that of two brokers one wins, nobody connects
//! before the permissions are set, and nothing that is not ours is removed. Accepts, but never decides
//! what becomes of a connection.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, Socket, Type};

use super::stream::Stream;
use crate::base::error::{Error, Result};
use crate::base::limits::LISTEN_BACKLOG;
use crate::config::endpoint::{ListenUrl, RUN_DIR, SOCKET_MODE};

/// How often a lock file may vanish under us before we give up: each time, another broker ended in
/// just that moment.
const LOCK_ATTEMPTS: usize = 100;

/// A bound, listening, non-blocking socket. Dropping it stops the listening for every copy of the
/// socket and removes its files, except in a forked process, where it only closes.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    url: String,
    /// The process that bound it.
    pid: u32,
    /// Dropped after the listening has stopped.
    files: Option<SocketFile>,
}

#[derive(Debug)]
enum Bound {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Binds and listens. Resolves names and touches the file system, blocking.
    pub fn bind(url: &ListenUrl) -> Result<Listener> {
        match url {
            ListenUrl::Unix { path, .. } => {
                let name = ListenUrl::unix(path).to_string();
                bind_unix(url, path, Path::new(RUN_DIR)).map_err(|failure| failure.named(&name))
            }
            ListenUrl::Tcp { host, port, insecure } => {
                bind_tcp(host, *port, *insecure).map_err(|failure| failure.named(&url.to_string()))
            }
        }
    }

    /// The next connection, or `WouldBlock`.
    pub fn accept(&self) -> io::Result<Stream> {
        let stream = match &self.socket {
            Bound::Unix(listener) => Stream::Unix(listener.accept()?.0),
            Bound::Tcp(listener) => Stream::Tcp(listener.accept()?.0),
        };
        stream.tune();
        Ok(stream)
    }

    /// Where it listens: no options, and the port that the system chose.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Gives the socket the options of another URL for the same place. On failure it has those it had.
    pub fn apply(&self, url: &ListenUrl) -> Result<()> {
        match (url, &self.files) {
            (ListenUrl::Unix { path, mode, user, group }, Some(files)) => {
                let name = ListenUrl::unix(path).to_string();
                Access::asked(*mode, user.as_deref(), group.as_deref(), files.born)
                    .and_then(|access| files.set_access(&access))
                    .map_err(|failure| failure.named(&name))
            }
            (ListenUrl::Tcp { host, port, insecure }, _) => allowed_addresses(host, *port, *insecure)
                .map(drop)
                .map_err(|failure| failure.named(&url.to_string())),
            (ListenUrl::Unix { .. }, None) => Ok(()),
        }
    }

    /// Stops listening and removes the socket's files.
    pub fn close(self) {}
}

impl Drop for Listener {
    fn drop(&mut self) {
        if std::process::id() == self.pid {
            // A forked copy of the socket would otherwise go on taking connections nobody accepts.
            let _ = rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Both);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Bound::Unix(listener) => listener.as_fd(),
            Bound::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Source for Listener {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match &mut self.socket {
            Bound::Unix(listener) => listener.register(registry, token, interests),
            Bound::Tcp(listener) => listener.register(registry, token, interests),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match &mut self.socket {
            Bound::Unix(listener) => listener.reregister(registry, token, interests),
            Bound::Tcp(listener) => listener.reregister(registry, token, interests),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match &mut self.socket {
            Bound::Unix(listener) => listener.deregister(registry),
            Bound::Tcp(listener) => listener.deregister(registry),
        }
    }
}

/// Why a listener could not be bound, without its name.
#[derive(Debug)]
enum Failure {
    /// The URL asks for something that is not done.
    Refused(String),
    /// The system or another process is in the way.
    System(String),
}

impl Failure {
    fn named(self, url: &str) -> Error {
        match self {
            Failure::Refused(why) => Error::config(format!("{url}: {why}")),
            Failure::System(why) => Error::system(format!("{url}: {why}")),
        }
    }
}

type Attempt<T> = std::result::Result<T, Failure>;

/// For `map_err`: what was attempted when the system said no.
fn attempting(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::System(format!("{what}: {error}"))
}

/// What a name leads to, if children may connect there.
fn allowed_addresses(host: &str, port: u16, insecure: bool) -> Attempt<Vec<SocketAddr>> {
    let addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(attempting("cannot resolve the name"))?.collect();
    // All of them: which one is bound is the resolver's choice of the day.
    let beyond = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
    if let Some(address) = beyond
        && !insecure
    {
        return Err(Failure::Refused(format!(
            "{} is not a loopback address, and whoever connects there gets the broker's rights to Redis; \
             listen on 127.0.0.1 or a unix:// path, or add ?insecure=1 to allow it",
            address.ip()
        )));
    }
    Ok(addresses)
}

fn bind_tcp(host: &str, port: u16, insecure: bool) -> Attempt<Listener> {
    let addresses = allowed_addresses(host, port, insecure)?;
    let mut last = Failure::System("the name has no address".to_owned());
    for address in addresses {
        match listen_tcp(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = attempting(format!("cannot listen on {address}"))(error),
        }
    }
    Err(last)
}

fn listen_tcp(address: SocketAddr) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A restarted broker must not wait for the last connections of the old one to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    let listener = TcpListener::from_std(socket.into());
    let url = format!("tcp://{}", listener.local_addr()?);
    Ok(Listener { socket: Bound::Tcp(listener), url, pid: std::process::id(), files: None })
}

fn bind_unix(url: &ListenUrl, path: &Path, creatable: &Path) -> Attempt<Listener> {
    ensure_parent(path, creatable)?;
    let lock = LockFile::acquire(path)?;
    let (socket, files) = prepare_unix(url, path, lock)?;
    socket.listen(LISTEN_BACKLOG).map_err(attempting("cannot listen"))?;
    let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
    Ok(Listener {
        socket: Bound::Unix(UnixListener::from_std(listener)),
        url: ListenUrl::unix(path).to_string(),
        pid: std::process::id(),
        files: Some(files),
    })
}

/// Binds the socket and sets its owner and permissions. It does not listen yet, so a connect before
/// the permissions are right is refused.
fn prepare_unix(url: &ListenUrl, path: &Path, lock: LockFile) -> Attempt<(Socket, SocketFile)> {
    let (mode, user, group) = match url {
        ListenUrl::Unix { mode, user, group, .. } => (*mode, user.as_deref(), group.as_deref()),
        ListenUrl::Tcp { .. } => (None, None, None),
    };
    // The owner it is born with is not known yet, and not needed.
    let (user, group) = owner_ids(user, group)?;
    clear_path(path)?;
    let failed = || attempting("cannot create the socket");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed())?;
    socket.set_nonblocking(true).map_err(failed())?;
    socket.bind(&SockAddr::unix(path).map_err(failed())?).map_err(failed())?;
    let files = SocketFile::new(path, lock).map_err(failed())?;
    if user.is_some() || group.is_some() {
        lchown(path, user, group).map_err(attempting("cannot give the socket to its user and group"))?;
    }
    let mode = mode.unwrap_or(SOCKET_MODE);
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(attempting("cannot set the permissions of the socket"))?;
    Ok((socket, files))
}

fn owner_ids(user: Option<&str>, group: Option<&str>) -> Attempt<(Option<u32>, Option<u32>)> {
    let user = user.map(|name| find_id("user", name, "/etc/passwd")).transpose()?;
    let group = group.map(|name| find_id("group", name, "/etc/group")).transpose()?;
    Ok((user, group))
}

/// Who may connect to a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Access {
    mode: u32,
    user: u32,
    group: u32,
}

impl Access {
    /// What a URL asks for; whom it does not name is `born`, the owner the file was made with.
    fn asked(
        mode: Option<u32>,
        user: Option<&str>,
        group: Option<&str>,
        born: (u32, u32),
    ) -> Attempt<Access> {
        let (user, group) = owner_ids(user, group)?;
        let mode = mode.unwrap_or(SOCKET_MODE);
        Ok(Access { mode, user: user.unwrap_or(born.0), group: group.unwrap_or(born.1) })
    }

    fn of(metadata: &fs::Metadata) -> Access {
        Access { mode: metadata.mode() & 0o777, user: metadata.uid(), group: metadata.gid() }
    }

    /// Nobody may connect in between whom neither the former nor the new access lets in.
    fn set(&self, path: &Path, former: &Access) -> io::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(self.mode & former.mode))?;
        lchown(path, Some(self.user), Some(self.group))?;
        fs::set_permissions(path, Permissions::from_mode(self.mode))
    }
}

/// A missing directory is created only where it is ours by convention: anywhere else it is a typing
/// error, or a mount that is missing.
fn ensure_parent(path: &Path, creatable: &Path) -> Attempt<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    if parent.is_dir() {
        return Ok(());
    }
    if parent != creatable {
        return Err(Failure::System(format!("{parent:?} is not a directory; create it first")));
    }
    let created = match DirBuilder::new().mode(0o755).create(parent) {
        // Another broker was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        // Once more without the umask.
        created => created.and_then(|()| fs::set_permissions(parent, Permissions::from_mode(0o755))),
    };
    created.map_err(attempting(format!("cannot create the directory {parent:?}")))
}

/// Makes room for a new socket: removes a socket nobody listens on, refuses everything else. The
/// caller holds the lock, so no broker can be between bind and listen.
fn clear_path(path: &Path) -> Attempt<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(attempting("cannot look at the path")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Failure::System(
                "the path exists and is not a socket; it was not touched".to_owned(),
            ));
        }
        Ok(_) => {}
    }
    match probe(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(attempting("cannot remove the stale socket"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full backlog has a listener behind it.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            Err(attempting("cannot tell whether anyone is listening there")(error))
        }
        _ => Err(Failure::System("a living process is listening there".to_owned())),
    }
}

fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// The number of a user or group: itself, or the third field of its line. The files are read directly;
/// names known only to a directory service have to be given as numbers.
fn find_id(kind: &str, name: &str, file: &str) -> Attempt<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let text = fs::read(file).map_err(attempting(format!("cannot read {file}")))?;
    id_in(&String::from_utf8_lossy(&text), name).ok_or_else(|| {
        Failure::Refused(format!("no {kind} {name:?} in {file}; give a name from there or a number"))
    })
}

fn id_in(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Which file a name leads to; a name can change hands, an inode that is held open cannot.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Identity { device: metadata.dev(), inode: metadata.ino() }
    }

    fn at(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|metadata| Identity::of(&metadata))
    }
}

/// Removes `path` if it still is the file we made, and we are not a fork of the process that made it.
fn remove_own(path: &Path, identity: &Identity, pid: u32) {
    if std::process::id() == pid && Identity::at(path).is_ok_and(|found| found == *identity) {
        let _ = fs::remove_file(path);
    }
}

/// A bound socket's file and the lock that makes it ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Identity,
    /// The user and group it was made with.
    born: (u32, u32),
    lock: LockFile,
}

impl SocketFile {
    fn new(path: &Path, lock: LockFile) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        let born = (metadata.uid(), metadata.gid());
        Ok(SocketFile { path: path.to_owned(), identity: Identity::of(&metadata), born, lock })
    }

    /// On failure the file has the access it had.
    fn set_access(&self, access: &Access) -> Attempt<()> {
        let metadata = fs::symlink_metadata(&self.path).map_err(attempting("cannot look at the socket"))?;
        if Identity::of(&metadata) != self.identity {
            return Err(Failure::System(
                "another file is in the socket's place; it was not touched".to_owned(),
            ));
        }
        let former = Access::of(&metadata);
        access.set(&self.path, &former).map_err(|error| {
            // The way back asks for nothing that was not granted before.
            let _ = former.set(&self.path, &former);
            attempting("cannot set the owner and permissions of the socket")(error)
        })
    }
}

impl Drop for SocketFile {
    /// The lock goes after this, so the next broker finds the path either taken or free.
    fn drop(&mut self) {
        remove_own(&self.path, &self.identity, self.lock.pid);
    }
}

/// `<path>.lock`, locked as long as this lives, with our pid in it. Of two brokers that start at once
/// only the holder may look at the socket, remove it or bind it.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    identity: Identity,
    pid: u32,
    /// Closing it, in the last process that has it, unlocks.
    _file: File,
}

impl LockFile {
    fn acquire(socket: &Path) -> Attempt<LockFile> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        for _ in 0..LOCK_ATTEMPTS {
            if let Some(lock) = LockFile::attempt(&path, || {})? {
                return Ok(lock);
            }
        }
        Err(Failure::System(format!("the lock file {path:?} keeps changing hands")))
    }

    /// One attempt; `None` if the file was removed by its last holder after we had opened it, so that
    /// our lock would exclude nobody. `opened` runs between open and lock, for the test of just that.
    fn attempt(path: &Path, opened: impl FnOnce()) -> Attempt<Option<LockFile>> {
        let failed = || attempting(format!("cannot lock {path:?}"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        // A symbolic link here could point the write below at somebody's file.
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = options.open(path).map_err(failed())?;
        opened();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Failure::System(holder(&mut file))),
            Err(TryLockError::Error(error)) => return Err(failed()(error)),
        }
        let metadata = file.metadata().map_err(failed())?;
        if !metadata.is_file() {
            return Err(Failure::System(format!("the lock file {path:?} is not a regular file")));
        }
        let identity = Identity::of(&metadata);
        if Identity::at(path).ok().as_ref() != Some(&identity) {
            return Ok(None);
        }
        let pid = std::process::id();
        // Only for the error text of the other broker: a full disk is no reason not to start.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{pid}"));
        Ok(Some(LockFile { path: path.to_owned(), identity, pid, _file: file }))
    }
}

impl Drop for LockFile {
    /// Removed while still locked: whoever has opened it meanwhile finds out by its inode.
    fn drop(&mut self) {
        remove_own(&self.path, &self.identity, self.pid);
    }
}

/// Names the broker that holds the lock; it may not have written its pid yet.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let pid = file.take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok());
    match pid {
        Some(pid) => format!("another broker (pid {pid}) is already listening there"),
        None => "another broker is already listening there".to_owned(),
    }
}

#[cfg(test)]
mod tests;
