//! How many requests of a child may be in flight, so that the replies they are expected to have come to a bounded number of
//! bytes: what stands on a lane for one child stands before everybody. Opens as TCP does, from a few, twofold with each
//! window of replies that are small enough, and closes at once. Owns that number; never what a request is.

use crate::base::limits;

#[derive(Debug)]
pub(super) struct Window {
    open: u32,
    /// Replies of at most this many bytes may be followed by twice as many at a time.
    small: u32,
    /// Such replies since it was opened last.
    counted: u32,
}

impl Default for Window {
    fn default() -> Self {
        Window::of(limits::WINDOW_FIRST)
    }
}

impl Window {
    fn of(open: u32) -> Self {
        Window { open, small: limits::CHILD_WINDOW / open / 2, counted: 0 }
    }

    /// That of a child that has had replies from another process.
    pub(super) fn opened(open: u32) -> Self {
        Window::of(open.clamp(1, limits::WINDOW_LAST))
    }

    /// Requests that may be in flight at a time.
    #[inline]
    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// Whether it is as open as at the beginning: of one that has closed and opens again, no more is known either.
    #[inline]
    pub(super) fn is_first(&self) -> bool {
        self.open == limits::WINDOW_FIRST
    }

    /// Small replies since it was opened so far.
    pub(super) fn counted(&self) -> u32 {
        self.counted
    }

    /// A reply has come. False if it is a large one, for which `shrink` is meant.
    #[inline]
    pub(super) fn note_small(&mut self, reply_len: usize) -> bool {
        if reply_len > self.small as usize {
            return false;
        }
        self.counted += 1;
        if self.counted >= self.open {
            *self = Window::of(self.open.saturating_mul(2).min(limits::WINDOW_LAST));
        }
        true
    }

    /// As many replies of this length as may be expected at a time.
    pub(super) fn shrink(&mut self, reply_len: usize) {
        self.counted = 0;
        let share = (limits::CHILD_WINDOW as usize / reply_len.max(1)).max(1);
        if share < self.open as usize {
            *self = Window::of(share as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_replies_open_it_and_a_large_one_closes_it() {
        let mut window = Window::default();
        assert_eq!(window.open(), 4);
        let reply = |window: &mut Window, len: usize| {
            if !window.note_small(len) {
                window.shrink(len);
            }
            window.open()
        };
        let opened: Vec<u32> = (0..28).map(|_| reply(&mut window, 5)).collect();
        assert_eq!(opened, [[4; 3].as_slice(), &[8; 8], &[16; 16], &[32]].concat());
        assert_eq!(reply(&mut window, 1 << 20), 1);
        assert_eq!((0..3).map(|_| reply(&mut window, 5)).collect::<Vec<_>>(), [2, 2, 4]);
        // Of replies of 10 kB a hundred may be under way, and two hundred would be too many.
        (0..1000).for_each(|_| assert!(reply(&mut window, 5) > 0));
        assert_eq!(reply(&mut window, 10_000), limits::CHILD_WINDOW / 10_000);
        (0..1000).for_each(|_| assert!(reply(&mut window, 10_000) > 0));
        assert_eq!(window.open(), limits::CHILD_WINDOW / 10_000);
    }

    #[test]
    fn it_has_a_least_and_a_last() {
        let mut window = Window::default();
        window.shrink(usize::MAX);
        assert_eq!(window.open(), 1);
        (0..4 * limits::WINDOW_LAST).for_each(|_| assert!(window.note_small(1)));
        assert_eq!(window.open(), limits::WINDOW_LAST);
    }
}
