//! A Unix socket in the file system: the socket itself and its lock file. The directory is opened once and must not be
//! writable for others. Later steps use descriptors, so that no name created by another user is followed.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access as May, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{bound_socket, taken};
use crate::base::error::{Error, Result};
use crate::base::fds::Held;
use crate::base::fork::Maker;
use crate::config::endpoint::{AccessOptions, SOCKET_MODE};

/// How often a lock file may vanish before we give up: each time, another broker has ended at exactly that moment.
const LOCK_ATTEMPTS: usize = 100;
/// Permission bits that allow users other than the owner to create and remove files in a directory.
const OTHERS_WRITE: u32 = 0o022;
/// The same for all users. Parent directories may be writable for a group, as umask 002 makes them.
const EVERYBODY_WRITES: u32 = 0o002;
/// What is created in a directory with this bit has the directory's group.
const SET_GROUP: u32 = 0o2000;
/// In a directory with this bit, only the owner of a file may remove it.
const STICKY: u32 = 0o1000;

#[derive(Debug)]
struct Directory {
    /// Declared before `fd`: see [`Held`].
    _held: Held,
    fd: OwnedFd,
}

/// The name of a socket in a directory that is safe to use.
#[derive(Debug, Clone)]
pub(super) struct SocketPath {
    directory: Arc<Directory>,
    path: PathBuf,
}

impl SocketPath {
    /// Opens the directory of `path`; creates it first if it is missing and is `creatable`.
    pub(super) fn open(path: &Path, creatable: &Path) -> Result<SocketPath> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        ensure_directory(parent, creatable)?;
        let name = path.file_name().ok_or_else(|| Error::config("the path names no file".to_owned()))?;
        // The canonical path: a symbolic link in it could be changed later.
        let found = fs::canonicalize(parent)
            .map_err(Error::attempting(format!("cannot find the directory {parent:?}")))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&found, flags, Mode::empty())
            .map_err(Error::attempting(format!("cannot open the directory {parent:?}")))?;
        let stat =
            rustix::fs::fstat(&directory).map_err(Error::attempting("cannot look at the directory"))?;
        check_directory(parent, stat.st_uid, stat.st_mode, OTHERS_WRITE)?;
        for above in found.ancestors().skip(1) {
            let stat =
                rustix::fs::stat(above).map_err(Error::attempting("cannot look at the directories above"))?;
            check_directory(above, stat.st_uid, stat.st_mode, EVERYBODY_WRITES)?;
        }
        // A socket address has little room.
        let path = Some(found.join(name)).filter(|path| SockAddr::unix(path).is_ok());
        let path = path.unwrap_or_else(|| parent.join(name));
        let directory = Directory { _held: Held::new(&directory), fd: directory };
        Ok(SocketPath { directory: Arc::new(directory), path })
    }

    /// Whether a socket could be created here, even if a broker listens here now: creates one of another name, with the
    /// requested access, and removes it.
    pub(super) fn check(&self, asked: &AccessOptions) -> Result<()> {
        SockAddr::unix(&self.path).map_err(Error::attempting("cannot create the socket"))?;
        self.look()?;
        match self.lock_place().stat() {
            Ok(stat) => check_lock(&self.lock_place().path, &stat)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(Error::attempting("cannot look at the lock file")(error)),
        }
        // The shortest name that no other broker uses; a path with it may be too long for an address.
        let name = format!(".broker-check-{}-{:x}", std::process::id(), fastrand::u32(..));
        let through = format!("/proc/self/fd/{}", self.directory.fd.as_raw_fd());
        let path = match Path::new(&through).exists() {
            true => Path::new(&through).join(name),
            false => self.path.with_file_name(name),
        };
        let trial = SocketPath { path, ..self.clone() };
        trial.bind(asked).map(drop)
    }

    /// Binds the socket and sets its owner and permissions. It does not listen yet, so until then a connect is refused.
    pub(super) fn bind(&self, asked: &AccessOptions) -> Result<(Socket, SocketFile)> {
        // Its initial owner is not known yet, and not needed.
        Access::asked(asked, (0, 0))?;
        let socket = SockAddr::unix(&self.path).and_then(|address| bound_socket(&address));
        let socket = socket.map_err(Error::attempting("cannot create the socket"))?;
        let file = SocketFile::of(self)?;
        file.set_access(asked)?;
        Ok((socket, file))
    }

    /// Makes room for a new socket: removes a socket on which no process listens, refuses everything else. The
    /// caller holds the lock, so no broker can be between bind and listen.
    pub(super) fn clear(&self) -> Result<()> {
        if self.look()?.is_none() {
            return Ok(());
        }
        match self.probe() {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.remove().map_err(Error::attempting("cannot remove the stale socket"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // A full backlog belongs to a listening process.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                Err(Error::attempting("cannot tell whether anyone is listening there")(error))
            }
            _ => Err(taken("a living process is listening there")),
        }
    }

    /// The existing socket, if any; any other kind of file is refused.
    fn look(&self) -> Result<Option<Stat>> {
        match self.stat() {
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Error::attempting("cannot look at the path")(error)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
                Err(Error::system("the path exists and is not a socket; it was not touched"))
            }
            Ok(stat) => Ok(Some(stat)),
        }
    }

    /// Creates `<path>.lock`, locked as long as the result exists, with our pid in it. Of two brokers that start at the
    /// same time, only the holder may check the socket, remove it or bind it. Closing it, in the last process that has it,
    /// unlocks it; it is removed before: a process that has opened it meanwhile notices by its inode.
    pub(super) fn lock(&self) -> Result<OwnFile> {
        let place = self.lock_place();
        for _ in 0..LOCK_ATTEMPTS {
            if let Some(lock) = place.try_lock(|| {})? {
                return Ok(lock);
            }
        }
        Err(Error::system(format!("the lock file {:?} is replaced again and again", place.path)))
    }

    /// One attempt; `None` if its last holder removed the file after we had opened it, so that our lock would exclude no
    /// process. `opened` runs between open and lock, for the test of this case.
    pub(super) fn try_lock(&self, opened: impl FnOnce()) -> Result<Option<OwnFile>> {
        let path = &self.path;
        let failed = || Error::attempting(format!("cannot lock {path:?}"));
        // A symbolic link here could direct the write below to another user's file.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        let mut file = File::from(self.open_file(flags, 0o600).map_err(failed())?);
        opened();
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => taken(holder(&mut file)),
            TryLockError::Error(error) => Error::attempting(format!("cannot lock {path:?}"))(error),
        })?;
        if !self.leads_to(&file) {
            return Ok(None);
        }
        check_lock(path, &rustix::fs::fstat(&file).map_err(failed())?)?;
        let lock = OwnFile::new(self, file.into());
        lock.write_pid();
        Ok(Some(lock))
    }

    /// Takes over the open lock file of the broker before this one. A lock belongs to all copies of one descriptor, so it is
    /// never free in between.
    pub(super) fn adopt_lock(&self, lock: OwnedFd) -> Result<OwnFile> {
        let place = self.lock_place();
        let path = &place.path;
        if !place.leads_to(&lock) {
            return Err(Error::system(format!("the inherited lock is not the lock file {path:?}")));
        }
        let mut file = File::from(lock);
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => taken(holder(&mut file)),
            TryLockError::Error(error) => Error::attempting(format!("cannot lock {path:?}"))(error),
        })?;
        Ok(OwnFile::new(&place, file.into()))
    }

    fn probe(&self) -> io::Result<()> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(&self.path)?)
    }

    pub(super) fn lock_place(&self) -> SocketPath {
        let mut path = self.path.clone().into_os_string();
        path.push(".lock");
        SocketPath { path: path.into(), ..self.clone() }
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().expect("a path that was opened names a file")
    }

    fn stat(&self) -> rustix::io::Result<Stat> {
        rustix::fs::statat(&self.directory.fd, self.name(), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn open_file(&self, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory.fd, self.name(), flags, Mode::from_raw_mode(mode))
    }

    fn remove(&self) -> rustix::io::Result<()> {
        rustix::fs::unlinkat(&self.directory.fd, self.name(), AtFlags::empty())
    }

    /// Whether the name refers to the open file: a name can be reused, an inode held open cannot.
    fn leads_to(&self, open: impl AsFd) -> bool {
        let inode = |stat: Stat| (stat.st_dev, stat.st_ino);
        let (named, open) = (self.stat().map(inode), rustix::fs::fstat(open).map(inode));
        named.is_ok() && named == open
    }
}

/// A missing directory is created only if it is ours by convention: elsewhere it is a typing error, or a missing mount.
fn ensure_directory(parent: &Path, creatable: &Path) -> Result<()> {
    if parent.is_dir() {
        return Ok(());
    }
    if parent != creatable {
        return Err(Error::system(format!("{parent:?} is not a directory; create it first")));
    }
    let created = match DirBuilder::new().mode(0o755).create(parent) {
        // Another broker was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        // Again, without the umask.
        created => created.and_then(|()| fs::set_permissions(parent, Permissions::from_mode(0o755))),
    };
    created.map_err(Error::attempting(format!("cannot create the directory {parent:?}")))
}

/// Whether `path` is in `creatable`, which is missing and can be created.
pub(super) fn will_be_created(path: &Path, creatable: &Path) -> bool {
    let above = creatable.parent().unwrap_or(Path::new("/"));
    let may = May::WRITE_OK | May::EXEC_OK;
    path.parent() == Some(creatable)
        && !creatable.exists()
        && rustix::fs::accessat(rustix::fs::CWD, above, may, AtFlags::EACCESS).is_ok()
}

/// A user who can remove the socket's file, or a directory on its path, can put another one there and act as the broker
/// for every child. And root's broker must not work on files that another user can arrange. `open` permits this.
fn check_directory(path: &Path, owner: u32, mode: u32, open: u32) -> Result<()> {
    let ours = rustix::process::geteuid().as_raw();
    let mode = mode & 0o7777;
    let why = if owner != 0 && owner != ours {
        format!(
            "belongs to user {owner}, who could put another socket there: it must belong to root or to user {ours}"
        )
    } else if mode & open != 0 && mode & STICKY == 0 {
        // A user who may write only as a member of the group must not remove that permission.
        let mend = if owner == ours { "chmod go-w, or +t" } else { "chmod +t" };
        format!("has mode {mode:04o}: others could put another socket there ({mend})")
    } else {
        return Ok(());
    };
    Err(Error::config(format!("the directory {path:?} {why}")))
}

/// Who may connect to a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    mode: u32,
    user: u32,
    group: u32,
}

impl Access {
    /// What a URL asks for; parts it does not name are those of `born`, the owner the file was created with.
    pub(super) fn asked(options: &AccessOptions, born: (u32, u32)) -> Result<Access> {
        let AccessOptions { mode, user, group } = options;
        let user = user.as_ref().map(|name| find_id("user", name, "/etc/passwd")).transpose()?;
        let group = group.as_ref().map(|name| find_id("group", name, "/etc/group")).transpose()?;
        let mode = mode.unwrap_or(SOCKET_MODE);
        Ok(Access { mode, user: user.unwrap_or(born.0), group: group.unwrap_or(born.1) })
    }

    pub(super) fn of(stat: &Stat) -> Access {
        Access { mode: stat.st_mode & 0o777, user: stat.st_uid, group: stat.st_gid }
    }

    /// The user and the group.
    pub(super) fn owner(&self) -> (u32, u32) {
        (self.user, self.group)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode {:04o}, user {}, group {}", self.mode, self.user, self.group)
    }
}

/// The number of a user or group: the number itself, or the third field of its line. The files are read directly;
/// names known only to a directory service must be given as numbers.
fn find_id(kind: &str, name: &str, file: &str) -> Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let text = fs::read(file).map_err(Error::attempting(format!("cannot read {file}")))?;
    id_in(&String::from_utf8_lossy(&text), name).ok_or_else(|| {
        Error::config(format!("no {kind} {name:?} in {file}; give a name from there or a number"))
    })
}

pub(super) fn id_in(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// An open file of ours. It is removed with this value if its name still refers to it, and this is not a fork of the
/// process that created it.
#[derive(Debug)]
pub(super) struct OwnFile {
    place: SocketPath,
    maker: Maker,
    /// Declared before `fd`: see [`Held`].
    _held: Held,
    /// The file itself, whatever its name refers to.
    fd: OwnedFd,
    /// It stays, because another process removes it.
    left: bool,
}

impl OwnFile {
    fn new(place: &SocketPath, fd: OwnedFd) -> OwnFile {
        OwnFile { place: place.clone(), maker: Maker::here(), _held: Held::new(&fd), fd, left: false }
    }

    /// Whether the file stays when this is dropped.
    pub(super) fn set_left(&mut self, left: bool) {
        self.left = left;
    }

    /// Of a lock file: notes who has it. Only for the error text of another broker: a full disk must not prevent a start.
    pub(super) fn write_pid(&self) {
        let text = format!("{}\n", std::process::id());
        let cleared = rustix::fs::ftruncate(&self.fd, 0);
        let _ = cleared.and_then(|()| rustix::io::pwrite(&self.fd, text.as_bytes(), 0));
    }

    /// Another descriptor of the file.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if self.maker.is_here() && !self.left && self.place.leads_to(&self.fd) {
            let _ = self.place.remove();
        }
    }
}

/// The file of a bound socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    own: OwnFile,
    /// The user and group it was created with.
    born: (u32, u32),
}

impl SocketFile {
    /// Opens the file of the socket just bound. No other user can have replaced it, since they cannot write the directory.
    fn of(place: &SocketPath) -> Result<SocketFile> {
        let failed = || Error::attempting("cannot find the socket just created");
        let file = place.open_file(OFlags::PATH, 0).map_err(failed())?;
        let stat = rustix::fs::fstat(&file).map_err(failed())?;
        let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        if !is_socket || stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(another_file());
        }
        Ok(SocketFile { own: OwnFile::new(place, file), born: (stat.st_uid, stat.st_gid) })
    }

    /// Opens the file of a socket that the broker before this one has bound here. It may have been given to another user
    /// since; what it was created with is what we would create one with.
    pub(super) fn inherited(place: &SocketPath) -> Result<SocketFile> {
        let failed = || Error::attempting("cannot find the inherited socket");
        let file = place.open_file(OFlags::PATH, 0).map_err(failed())?;
        let stat = rustix::fs::fstat(&file).map_err(failed())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(another_file());
        }
        let directory = rustix::fs::fstat(&place.directory.fd).map_err(failed())?;
        let group = match directory.st_mode & SET_GROUP {
            0 => rustix::process::getegid().as_raw(),
            _ => directory.st_gid,
        };
        Ok(SocketFile { own: OwnFile::new(place, file), born: (rustix::process::geteuid().as_raw(), group) })
    }

    /// Whether the file stays when this is dropped.
    pub(super) fn set_left(&mut self, left: bool) {
        self.own.set_left(left);
    }

    /// Sets who may connect. In between, no user may connect whom neither the previous nor the new access allows. On
    /// failure the previous access is restored.
    pub(super) fn set_access(&self, asked: &AccessOptions) -> Result<()> {
        let access = Access::asked(asked, self.born)?;
        if !self.own.place.leads_to(&self.own.fd) {
            return Err(another_file());
        }
        let stat = rustix::fs::fstat(&self.own.fd).map_err(Error::attempting("cannot look at the socket"))?;
        let former = Access::of(&stat);
        self.change(&access, &former).inspect_err(|_| {
            // Restoring grants only what was granted before.
            let _ = self.change(&former, &former);
        })
    }

    fn change(&self, access: &Access, former: &Access) -> Result<()> {
        let cannot = || "cannot set the permissions of the socket";
        self.set_mode(access.mode & former.mode).map_err(Error::attempting(cannot()))?;
        if (access.user, access.group) != (former.user, former.group) {
            let (user, group) = (Uid::from_raw(access.user), Gid::from_raw(access.group));
            rustix::fs::chownat(&self.own.fd, "", Some(user), Some(group), AtFlags::EMPTY_PATH)
                .map_err(Error::attempting("cannot give the socket to its user and group"))?;
        }
        self.set_mode(access.mode).map_err(Error::attempting(cannot()))
    }

    /// Uses the open file. fchmod does not work on the descriptor of a socket's file, but its name below /proc refers to
    /// the file and nothing else; without /proc, the checked directory makes the name in it safe.
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let through = format!("/proc/self/fd/{}", self.own.fd.as_raw_fd());
        match fs::set_permissions(through, Permissions::from_mode(mode)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let place = &self.own.place;
                let mode = Mode::from_raw_mode(mode);
                Ok(rustix::fs::chmodat(&place.directory.fd, place.name(), mode, AtFlags::empty())?)
            }
            outcome => outcome,
        }
    }
}

fn another_file() -> Error {
    Error::system("another file is in the socket's place; it was not touched")
}

/// A lock file is written to, so it must not be another user's file under a second name.
fn check_lock(path: &Path, stat: &Stat) -> Result<()> {
    let refuse = |why| Err(Error::system(format!("the lock file {path:?} {why}")));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_nlink > 1 => refuse("has another name too; it was not touched"),
        FileType::RegularFile => Ok(()),
        _ => refuse("is not a regular file"),
    }
}

/// Names the broker that holds the lock, which may not have written its pid yet.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let pid = file.take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok());
    match pid {
        Some(pid) => format!("another broker (pid {pid}) is already listening there"),
        None => "another broker is already listening there".to_owned(),
    }
}
