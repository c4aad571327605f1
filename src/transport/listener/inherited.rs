//! Listening sockets that another process has made: of systemd, of the broker before this one. Says what each of them is and
//! where, and makes a listener of it. Binds nothing, and removes only what has become ours.
//!
//! Who owns such a socket decides what may be done with it. The socket of a socket unit stays its unit's: whoever may
//! connect is set there, no lock file is made beside it, its file is not removed and listening does not end when we close
//! it. What a broker before this one has made, and nobody else will remove, is as if we had bound it: the lock file is
//! locked again, the permissions are those that the settings ask for now, and both files end with the listener. A living
//! predecessor lends its sockets first, with the lock: until they are ours we change nothing that would be missed if this
//! process failed.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::net::{Shutdown, shutdown};
use socket2::{SockRef, Socket, Type};

use super::files::{Access, OwnFile, SocketFile, SocketPath};
use super::{Files, Listener, allowed_addresses, naming};
use crate::base::error::{Error, Result};
use crate::base::fds::Held;
use crate::base::fork::Maker;
use crate::base::limits::LISTEN_BACKLOG;
use crate::config::endpoint::{AccessOptions, ListenUrl, RUN_DIR};

/// Who has the say over a listening socket that another process has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOwner {
    /// Another process, as systemd with a socket unit. It goes on listening when we have closed our copy.
    Another,
    /// A broker that lives and takes it back if this process fails. Ours once that has been said.
    Predecessor,
    /// This process alone: its maker is gone, or has given it up.
    Own,
}

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SocketPlace {
    Unix(PathBuf),
    Tcp(SocketAddr),
    /// An abstract name, or a family that no URL can name.
    Elsewhere,
}

/// A socket that listens, non-blocking, and is closed on exec. Dropping it closes this copy and nothing else.
#[derive(Debug)]
pub struct InheritedSocket {
    /// Declared before `socket`: see [`Held`].
    _held: Held,
    socket: Socket,
    place: SocketPlace,
    owner: SocketOwner,
    /// The open lock file of a Unix socket, as `Listener::lock_copy` has given it.
    lock: Option<OwnedFd>,
}

impl InheritedSocket {
    /// Takes a socket over. Refuses what is not a listening stream socket.
    pub fn new(fd: OwnedFd, lock: Option<OwnedFd>, owner: SocketOwner) -> Result<InheritedSocket> {
        let number = fd.as_raw_fd();
        let socket = Socket::from(fd);
        let kind = socket
            .r#type()
            .map_err(Error::attempting(format!("the inherited descriptor {number} is not a socket")))?;
        let place = place_of(&socket)
            .map_err(Error::attempting(format!("the inherited descriptor {number} has no address")))?;
        let inherited = InheritedSocket { _held: Held::new(&socket), socket, place, owner, lock };
        let refuse = |why| {
            let name = inherited.name();
            Err(Error::system(format!("{name}: the inherited descriptor {number} {why}")))
        };
        if kind != Type::STREAM {
            return refuse("is not a stream socket (ListenStream= in a socket unit)");
        }
        if !inherited.socket.is_listener().unwrap_or(false) {
            return refuse("does not listen (Accept=no in a socket unit)");
        }
        let set = inherited.socket.set_nonblocking(true).and_then(|()| inherited.socket.set_cloexec(true));
        set.map_err(Error::attempting(format!("{}: cannot set its flags", inherited.name())))?;
        Ok(inherited)
    }

    /// Its address, for the log.
    pub fn name(&self) -> String {
        match &self.place {
            SocketPlace::Unix(path) => ListenUrl::unix(path).to_string(),
            SocketPlace::Tcp(address) => format!("tcp://{address}"),
            SocketPlace::Elsewhere => "a socket without a path or a port".to_owned(),
        }
    }

    /// Whether this is where the URL asks for a listener. With `any_port` a URL with port 0 has it, too, if the address is
    /// the same. Resolves a name, blocking; one that cannot be resolved is nowhere.
    pub fn is_at(&self, url: &ListenUrl, any_port: bool) -> bool {
        match (&self.place, url) {
            (SocketPlace::Unix(bound), ListenUrl::Unix { path, .. }) => resolved(bound) == resolved(path),
            (SocketPlace::Tcp(bound), ListenUrl::Tcp { host, port, .. }) => {
                let fits = |address: &SocketAddr| {
                    address.ip().to_canonical() == bound.ip().to_canonical()
                        && (address.port() == bound.port() || any_port && address.port() == 0)
                };
                // Whether the address is allowed is asked when it is used.
                allowed_addresses(host, *port, true).is_ok_and(|all| all.iter().any(fits))
            }
            _ => false,
        }
    }

    /// Whether children can still find it: the file of a Unix socket may have been removed.
    pub fn is_reachable(&self) -> bool {
        match &self.place {
            SocketPlace::Unix(path) => {
                fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
            }
            SocketPlace::Tcp(_) => true,
            SocketPlace::Elsewhere => false,
        }
    }

    /// Closes what no listener is wanted for. One of our own ends for every copy, and its files are removed.
    pub fn discard(mut self) {
        if self.owner != SocketOwner::Own {
            return;
        }
        let _ = shutdown(&self.socket, Shutdown::Both);
        let SocketPlace::Unix(path) = &self.place else { return };
        let removed = SocketPath::open(path, Path::new(RUN_DIR)).and_then(|place| {
            let _lock = lock_at(&place, self.lock.take())?;
            place.clear()
        });
        if let Err(error) = removed {
            log::warn!("{}: its file stays: {error}", self.name());
        }
    }
}

impl Listener {
    /// Makes a listener of a socket that is where the URL asks for one. `guarded` is as for `bind`. Touches the file system
    /// and may resolve a name, blocking.
    pub fn inherit(url: &ListenUrl, guarded: bool, inherited: InheritedSocket) -> Result<Listener> {
        let name = inherited.name();
        let made = match url {
            ListenUrl::Unix { access, .. } => inherit_unix(access, inherited, name),
            ListenUrl::Tcp { host, port, insecure, .. } => {
                allowed_addresses(host, *port, *insecure || guarded)
                    .and_then(|_| Listener::of_inherited(inherited, name, Files::None))
            }
        };
        made.map_err(naming(url))
    }

    fn of_inherited(inherited: InheritedSocket, url: String, files: Files) -> Result<Listener> {
        let InheritedSocket { _held, socket, place, owner, lock } = inherited;
        if matches!(place, SocketPlace::Unix(_)) {
            socket
                .set_passcred(true)
                .map_err(Error::attempting("cannot ask for the writers of its children"))?;
        }
        let listener = Listener { _held, socket, url, maker: Maker::here(), owner, files };
        drop(lock);
        if owner == SocketOwner::Own {
            listener.listen_again()?;
        }
        Ok(listener)
    }

    /// Who connects from now on is told that it has connected to this process, and no more of them wait than we allow.
    fn listen_again(&self) -> Result<()> {
        self.socket.listen(LISTEN_BACKLOG).map_err(Error::attempting("cannot listen"))
    }

    /// From now on a socket that was lent is ours, as if we had bound it. `url` has the options that it is to have.
    pub fn own(&mut self, url: &ListenUrl, guarded: bool) -> Result<()> {
        if self.owner != SocketOwner::Predecessor {
            return Ok(());
        }
        self.owner = SocketOwner::Own;
        if let Files::Own(file, lock) = &mut self.files {
            file.set_left(false);
            lock.set_left(false);
            lock.write_pid();
        }
        self.listen_again().map_err(naming(url))?;
        self.apply(url, guarded)
    }

    /// Closes only this copy of the socket, when it is dropped: another process has one, goes on listening and has the files.
    pub fn leave(&mut self) {
        self.owner = SocketOwner::Another;
        if let Files::Own(file, lock) = &mut self.files {
            file.set_left(true);
            lock.set_left(true);
        }
    }

    /// Who has the say over it.
    pub fn owner(&self) -> SocketOwner {
        self.owner
    }

    /// Another descriptor of the socket, closed on exec.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone().map(OwnedFd::from)
    }

    /// Another descriptor of its lock file, which stays locked as long as one of them is open; none where it has no lock.
    pub fn lock_copy(&self) -> io::Result<Option<OwnedFd>> {
        match &self.files {
            Files::Own(_, lock) => lock.copy().map(Some),
            Files::None | Files::Others(_) | Files::Removed => Ok(None),
        }
    }
}

fn inherit_unix(asked: &AccessOptions, mut inherited: InheritedSocket, name: String) -> Result<Listener> {
    let SocketPlace::Unix(path) = &inherited.place else {
        return Err(Error::system("the inherited socket has no path"));
    };
    let files = match inherited.owner {
        SocketOwner::Another => {
            expect_access(path, asked)?;
            Files::Others(path.clone())
        }
        SocketOwner::Predecessor => {
            let none = || Error::system("the inherited socket came without its lock file");
            let place = SocketPath::open(path, Path::new(RUN_DIR))?;
            let mut lock = place.adopt_lock(inherited.lock.take().ok_or_else(none)?)?;
            let mut file = SocketFile::inherited(&place)?;
            file.set_left(true);
            lock.set_left(true);
            Access::asked(asked, (0, 0))?;
            Files::Own(file, lock)
        }
        SocketOwner::Own => {
            let place = SocketPath::open(path, Path::new(RUN_DIR))?;
            let lock = lock_at(&place, inherited.lock.take())?;
            lock.write_pid();
            // A failure leaves the file to whoever tries next: it was there before.
            let mut file = SocketFile::inherited(&place)?;
            file.set_left(true);
            file.set_access(asked)?;
            file.set_left(false);
            Files::Own(file, lock)
        }
    };
    Listener::of_inherited(inherited, name, files)
}

/// The lock that has come with the socket, or else a new one.
fn lock_at(place: &SocketPath, inherited: Option<OwnedFd>) -> Result<OwnFile> {
    match inherited {
        Some(lock) => place.adopt_lock(lock),
        None => place.lock(),
    }
}

/// The socket of another process has the access that process has given it: what a URL asks for beyond that is not granted in
/// silence, nor is what it would forbid.
pub(super) fn expect_access(path: &Path, asked: &AccessOptions) -> Result<()> {
    if *asked == AccessOptions::default() {
        return Ok(());
    }
    let stat = rustix::fs::lstat(path).map_err(Error::attempting("cannot look at the socket"))?;
    let found = Access::of(&stat);
    let mode = asked.mode.unwrap_or(stat.st_mode & 0o777);
    let wanted = Access::asked(&AccessOptions { mode: Some(mode), ..asked.clone() }, found.owner())?;
    if wanted == found {
        return Ok(());
    }
    Err(Error::config(format!(
        "the inherited socket is for {found}, the URL asks for {wanted}: who may connect is set where the socket is made \
         (SocketMode=, SocketUser= and SocketGroup= in a socket unit); let the two agree, or leave it out of the URL"
    )))
}

/// A URL without options that has a socket's address, if there is one.
pub fn listening_at(socket: &OwnedFd) -> Option<ListenUrl> {
    match place_of(&SockRef::from(socket)).ok()? {
        SocketPlace::Unix(path) => Some(ListenUrl::unix(path)),
        SocketPlace::Tcp(address) => Some(ListenUrl::tcp(address)),
        SocketPlace::Elsewhere => None,
    }
}

fn place_of(socket: &Socket) -> io::Result<SocketPlace> {
    let address = socket.local_addr()?;
    if let Some(address) = address.as_socket() {
        return Ok(SocketPlace::Tcp(address));
    }
    let path = address.as_pathname().filter(|path| path.is_absolute());
    Ok(path.map_or(SocketPlace::Elsewhere, |path| SocketPlace::Unix(path.to_owned())))
}

/// The path with every symbolic link above its last name followed, where that is possible.
fn resolved(path: &Path) -> PathBuf {
    let parent = path.parent().and_then(|parent| fs::canonicalize(parent).ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}
