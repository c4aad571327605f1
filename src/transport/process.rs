//! Who is at the other end of a Unix socket, as the system says: credentials, and what /proc tells of a process. Reads
//! small files of /proc, which no other process can hold up; grants nothing, and remembers nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use crate::base::process::{ProcessFacts, UnixCredentials};
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, test_kill_process};

/// Bytes of one file of /proc that are read.
const FILE_MAX: u64 = 4096;
/// Bytes that are kept of a path.
const PATH_MAX: usize = 256;

/// Who has connected a Unix socket, or made the pair it is one end of; none where the system does not say.
pub fn peer_of(socket: &impl AsFd) -> Option<UnixCredentials> {
    let peer = getsockopt(&socket.as_fd(), sockopt::PeerCredentials).ok()?;
    Some(UnixCredentials { pid: peer.pid(), uid: peer.uid(), gid: peer.gid() })
}

/// The kernel's handle of the process that has connected, where it has one.
pub fn handle_of_peer(socket: &impl AsFd) -> Option<OwnedFd> {
    getsockopt(&socket.as_fd(), sockopt::PeerPidfd).ok()
}

/// Looks a process up. An error means that /proc says nothing of it: it has gone, or may not be seen.
pub fn look_up(pid: i32, handle: Option<&OwnedFd>) -> io::Result<ProcessFacts> {
    if !proc_is_ours() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let stat = read(pid, "stat")?;
    let (comm, started) = parse_stat(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let exe = exe.map(|path| {
        end_of(String::from_utf8_lossy(path.as_os_str().as_bytes()).trim_end_matches(" (deleted)"))
    });
    let cgroup = read(pid, "cgroup").ok().and_then(|text| parse_cgroup(&text));
    Ok(ProcessFacts { comm, exe, cgroup, started, is_exact: handle.is_some_and(is_alive) })
}

/// Whether /proc tells of our own pid namespace. A container may have that of its host, where our pids are others'.
fn proc_is_ours() -> bool {
    let own = std::fs::read_link("/proc/self").ok();
    own.is_some_and(|own| own.as_os_str().as_bytes() == std::process::id().to_string().as_bytes())
}

/// Whether the process of this pid is one that began then and is at work. One that has ended and that nobody has waited
/// for is not: it has no descriptor any more.
pub fn is_at_work(pid: i32, began: u64) -> bool {
    let stat = read(pid, "stat").unwrap_or_default();
    let state = memchr::memrchr(b')', &stat).and_then(|at| stat.get(at + 2).copied());
    let same = parse_stat(&stat).is_some_and(|(_, started)| started == began);
    same && !matches!(state, Some(b'Z' | b'X'))
}

/// Whether there is a process of this pid. One call, and no file.
pub fn exists(pid: i32) -> bool {
    let found = Pid::from_raw(pid).map(test_kill_process);
    !matches!(found, None | Some(Err(rustix::io::Errno::SRCH)))
}

/// A handle becomes readable when its process ends.
fn is_alive(handle: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(handle, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut asked, Some(&now)), Ok(0))
}

fn read(pid: i32, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{name}"))?.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The name and field 22 of `/proc/pid/stat`. The name may have any byte in it, so it ends at the last parenthesis.
fn parse_stat(stat: &[u8]) -> Option<(String, u64)> {
    let (open, close) = (memchr::memchr(b'(', stat)?, memchr::memrchr(b')', stat)?);
    let comm = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(&stat[close + 1..]).ok()?;
    Some((comm, rest.split_ascii_whitespace().nth(19)?.parse().ok()?))
}

/// The path in the unified hierarchy, or else in systemd's own of the old ones.
fn parse_cgroup(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let path_of = |start: &str| text.lines().find_map(|line| line.split_once(start).map(|(_, path)| path));
    let path = path_of("0::").filter(|path| *path != "/").or_else(|| path_of(":name=systemd:"));
    path.or_else(|| path_of("0::")).map(cut)
}

/// The end of a path, where the name is. A program that was replaced is marked as deleted.
fn end_of(path: &str) -> String {
    let start = path.len().saturating_sub(PATH_MAX);
    let start = (start..=path.len()).find(|at| path.is_char_boundary(*at)).unwrap_or_default();
    path[start..].to_owned()
}

fn cut(text: &str) -> String {
    let end = (0..=text.len().min(PATH_MAX)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_known_by_its_files() {
        let mut sleeper = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
        let pid = sleeper.id() as i32;
        // Between fork and exec it still has this program's name.
        let facts = loop {
            let facts = look_up(pid, None).unwrap();
            if facts.comm == "sleep" {
                break facts;
            }
            std::thread::yield_now();
        };
        assert!(facts.exe.as_ref().is_some_and(|exe| exe.starts_with('/')), "{facts:?}");
        assert!(exists(pid) && is_at_work(pid, facts.started) && !is_at_work(pid, facts.started + 1));
        assert!(!facts.is_exact);
        sleeper.kill().unwrap();
        while is_at_work(pid, facts.started) {
            std::thread::yield_now();
        }
        assert!(exists(pid), "nobody has waited for it");
        sleeper.wait().unwrap();
        assert!(!exists(pid) && look_up(pid, None).is_err());
        assert!(!exists(0));
    }

    #[test]
    fn the_handle_of_a_peer_says_whether_it_is_still_the_same() {
        let (near, _far) = UnixStream::pair().unwrap();
        let me = peer_of(&near).unwrap();
        let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        assert_eq!((me.pid, (me.uid, me.gid)), (std::process::id() as i32, ids));
        let Some(handle) = handle_of_peer(&near) else { return };
        assert!(look_up(me.pid, Some(&handle)).unwrap().is_exact);
    }

    #[test]
    fn names_of_any_bytes_and_cgroups_of_any_version_are_read() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(
            parse_stat(format!("7 (a) b (c)) {tail}").as_bytes()),
            Some(("a) b (c)".to_owned(), 4242))
        );
        for text in ["", "7 (a", "7 (a) S 1", "7 )a( S"] {
            assert_eq!(parse_stat(text.as_bytes()), None, "{text}");
        }
        let unified = "0::/system.slice/web.service\n";
        assert_eq!(parse_cgroup(unified.as_bytes()).as_deref(), Some("/system.slice/web.service"));
        let hybrid = "12:pids:/x\n1:name=systemd:/system.slice/a.service\n0::/\n";
        assert_eq!(parse_cgroup(hybrid.as_bytes()).as_deref(), Some("/system.slice/a.service"));
        assert_eq!(parse_cgroup(b"0::/\n").as_deref(), Some("/"));
        assert_eq!(parse_cgroup(b"nonsense"), None);
        assert_eq!(parse_cgroup(format!("0::/{}", "\u{e9}".repeat(PATH_MAX)).as_bytes()).unwrap().len(), 255);
    }
}
