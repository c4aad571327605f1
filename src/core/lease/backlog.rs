//! Whether elements lie there for a group already: then a lane that takes its command looks for several first, instead of
//! bringing one with each round trip. Owns that judgement, and how many are looked for; never who is served.

use crate::base::clock::Millis;
use crate::base::limits;

#[derive(Debug)]
pub(crate) struct Backlog {
    /// Elements in a row that came at once.
    at_once: u32,
    /// So many of them make a look worthwhile: `first`, and more after looks that found nothing.
    needed: u32,
    first: u32,
    /// For how many the next look is.
    depth: usize,
    /// Bytes of the longest element of late: what a look brings is kept until it is whole.
    longest: usize,
}

impl Backlog {
    /// A look is worthwhile after so many elements that came at once.
    pub(crate) fn new(first: u32) -> Self {
        Backlog { at_once: 0, needed: first, first, depth: limits::LOOK_FIRST, longest: 0 }
    }

    /// A lane has brought an element of this length that it had waited for so long.
    pub(crate) fn element_came(&mut self, len: usize, after: Millis) {
        self.at_once = if after <= limits::ELEMENT_AT_ONCE { self.at_once.saturating_add(1) } else { 0 };
        self.longest = len.max(self.longest - self.longest / 8);
    }

    /// For how many more elements to look, with a request of so many bytes for each. 0, if nothing tells that any lie there.
    pub(crate) fn depth(&self, request: usize) -> usize {
        let fitting = limits::LOOK_BYTES / self.longest.max(request).max(1);
        if self.at_once >= self.needed { self.depth.min(fitting) } else { 0 }
    }

    /// A look for so many has found these, the longest of them of this length.
    pub(crate) fn looked(&mut self, asked: usize, found: usize, longest: usize) {
        self.longest = longest.max(self.longest - self.longest / 8);
        if found == 0 {
            (self.at_once, self.depth) = (0, limits::LOOK_FIRST);
            self.needed = (self.needed * 2).min(limits::LOOK_AFTER_MAX);
        } else {
            let more = if found == asked { self.depth.max(found) * 2 } else { found + found / 4 + 1 };
            self.depth = more.min(limits::LOOK_MAX);
            self.needed = self.first;
        }
    }

    /// The upstream refuses to look.
    pub(crate) fn refused(&mut self) {
        (self.at_once, self.needed) = (0, limits::LOOK_AFTER_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(elements: u32, millis: Millis) -> Backlog {
        let mut backlog = Backlog::new(limits::LOOK_AFTER);
        (0..elements).for_each(|_| backlog.element_came(10, millis));
        backlog
    }

    #[test]
    fn what_comes_at_once_lies_there() {
        assert_eq!(after(limits::LOOK_AFTER - 1, 0).depth(1), 0);
        assert_eq!(after(1000, limits::ELEMENT_AT_ONCE + 1).depth(1), 0);
        let mut backlog = after(limits::LOOK_AFTER, limits::ELEMENT_AT_ONCE);
        assert_eq!(backlog.depth(1), limits::LOOK_FIRST);
        backlog.element_came(10, 1000);
        assert_eq!(backlog.depth(1), 0, "the next one had to be waited for");
    }

    #[test]
    fn it_looks_for_some_more_than_it_has_found() {
        let mut backlog = after(limits::LOOK_AFTER, 0);
        (0..20).for_each(|_| backlog.looked(3, 3, 10));
        assert_eq!(backlog.depth(1), limits::LOOK_MAX);
        backlog.looked(limits::LOOK_MAX, 5, 10);
        assert_eq!(backlog.depth(1), 7);
    }

    #[test]
    fn looks_that_find_nothing_become_rare() {
        let mut backlog = after(limits::LOOK_AFTER, 0);
        backlog.looked(4, 0, 0);
        (0..limits::LOOK_AFTER).for_each(|_| backlog.element_came(10, 0));
        assert_eq!(backlog.depth(1), 0);
        (0..limits::LOOK_AFTER).for_each(|_| backlog.element_came(10, 0));
        assert_eq!(backlog.depth(1), limits::LOOK_FIRST);
        backlog.refused();
        (1..limits::LOOK_AFTER_MAX).for_each(|_| backlog.element_came(10, 0));
        assert_eq!(backlog.depth(1), 0);
    }

    #[test]
    fn long_elements_and_long_requests_come_one_by_one() {
        let mut backlog = after(limits::LOOK_AFTER, 0);
        assert_eq!(backlog.depth(limits::LOOK_BYTES / 2), 2);
        assert_eq!(backlog.depth(limits::LOOK_BYTES * 2), 0);
        backlog.element_came(limits::LOOK_BYTES * 2, 0);
        assert_eq!(backlog.depth(1), 0);
        (0..20).for_each(|_| backlog.element_came(10, 0));
        assert_eq!(backlog.depth(1), limits::LOOK_FIRST, "those of late are short");
    }
}
