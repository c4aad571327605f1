//! Children in the service manager's store of descriptors: what they are called there, and how they are found again among the
//! descriptors that this program has been started with. Never decides who goes there, nor who can go on.

use crate::systemd;
use broker::reactor::StoredChildren;
use listenfd::ListenFd;
use nix::unistd::close;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

/// Descriptors of children in the store at most: all names in it are one variable of the next process, which the system takes
/// with 128 KiB at most.
pub(crate) const STORED_MAX: usize = 4096;
/// The beginning of the names of memories with images, and of sockets. A number follows.
const IMAGES: &str = "children.";
const CHILD: &str = "child.";

pub(crate) fn images_name(number: u64) -> String {
    format!("{IMAGES}{number}")
}

pub(crate) fn child_name(id: u64) -> String {
    format!("{CHILD}{id}")
}

/// Descriptors with such names.
#[derive(Debug, Default)]
pub(crate) struct FoundChildren {
    names: Vec<String>,
    children: StoredChildren,
    /// What was wrong with some, before there was a log.
    troubles: Vec<String>,
}

impl FoundChildren {
    /// Takes the descriptor of this name, if it is that of children. What is none of these is closed.
    pub(crate) fn take(&mut self, name: &str, index: usize, passed: &mut ListenFd) -> bool {
        let outcome = if let Some(id) = number_of(name, CHILD) {
            systemd::take(passed, index).map(|socket| self.children.sockets.push((id, socket)))
        } else if number_of(name, IMAGES).is_some() {
            take_memory(passed, index).map(|memory| self.children.images.push(memory))
        } else {
            return false;
        };
        if let Err(error) = outcome {
            self.troubles.push(format!("{name} of the service manager's store is closed: {error}"));
            // Where it was not taken.
            if let Ok(Some(number)) = passed.take_raw_fd(index) {
                let _ = close(number);
            }
        }
        self.names.push(name.to_owned());
        true
    }

    /// The names in the store, and what has them. Says in the log what has been closed.
    pub(crate) fn into_parts(self) -> (Vec<String>, StoredChildren) {
        self.troubles.iter().for_each(|trouble| log::warn!("{trouble}"));
        (self.names, self.children)
    }
}

fn number_of(name: &str, kind: &str) -> Option<u64> {
    let digits = name.strip_prefix(kind).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// A memory has no type that takes a descriptor by its number; it is opened once more. Waits for nothing, whatever it is.
fn take_memory(passed: &mut ListenFd, index: usize) -> io::Result<OwnedFd> {
    let number = passed.take_raw_fd(index)?.ok_or(io::ErrorKind::NotFound)?;
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let opened = options.open(format!("/proc/self/fd/{number}"));
    let _ = close(number);
    opened.map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again_and_others_are_not() {
        assert_eq!(number_of(&child_name(u64::MAX), CHILD), Some(u64::MAX));
        assert_eq!(number_of(&images_name(7), IMAGES), Some(7));
        assert_eq!(number_of(&images_name(7), CHILD), None);
        for other in [
            "child.",
            "child.+1",
            "child.x",
            "child",
            "child.99999999999999999999",
            "listen.0123456789abcdef",
        ] {
            assert_eq!(number_of(other, CHILD), None, "{other}");
        }
    }
}
