//! How far the reply to an EXEC is filled in with what the broker answers itself. Owns the reply and the place in it; answers
//! nothing.

use crate::base::outgoing::Fragment;
use crate::core::child::listing::Listing;
use crate::core::transaction::state::{AfterExec, QueuedLocal};
use crate::resp::reply;

#[derive(Debug)]
pub(crate) struct Filling {
    reply: Fragment,
    after: AfterExec,
    /// The child has been given so many bytes of the reply.
    given: usize,
    /// Where the element begins that is looked at, and its index.
    at: usize,
    element: u32,
    /// How many of the broker's answers are in.
    filled: usize,
    /// A CLIENT LIST as far as it is made.
    listing: Option<Listing>,
}

impl Filling {
    /// `reply` is an array.
    pub(crate) fn new(reply: Fragment, after: AfterExec) -> Filling {
        let at = reply::elements(&reply).next().map_or(reply.len(), |first| first.start);
        Filling { reply, after, given: 0, at, element: 0, filled: 0, listing: None }
    }

    /// The index of the next element to be filled in.
    pub(crate) fn next_element(&self) -> Option<u32> {
        let (local, _) = self.after.local(self.filled)?;
        (self.at < self.reply.len()).then_some(local.element)
    }

    /// The command that it answers, and its request.
    pub(crate) fn next_local(&self) -> Option<(QueuedLocal, &[u8])> {
        self.after.local(self.filled)
    }

    /// Goes one element further towards this one. True if it is there.
    pub(crate) fn step_to(&mut self, element: u32) -> bool {
        if self.element < element {
            self.at = self.end_of_element();
            self.element += 1;
        }
        self.element >= element
    }

    fn end_of_element(&self) -> usize {
        reply::first_len(&self.reply[self.at..]).map_or(self.reply.len(), |len| self.at + len)
    }

    /// What stands before the element that is looked at and has not been given.
    pub(crate) fn take_stretch(&mut self) -> Fragment {
        let from = std::mem::replace(&mut self.given, self.at);
        self.reply.part(from..self.at)
    }

    /// The broker's answer has been given in the place of the element.
    pub(crate) fn local_is_done(&mut self) {
        self.at = self.end_of_element();
        (self.given, self.element, self.filled) = (self.at, self.element + 1, self.filled + 1);
    }

    /// All that has not been given.
    pub(crate) fn rest(&self) -> Fragment {
        self.reply.part(self.given..self.reply.len())
    }

    pub(crate) fn listing_mut(&mut self) -> &mut Option<Listing> {
        &mut self.listing
    }

    /// A list of all children is being made for one of its commands.
    pub(crate) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    pub(crate) fn footprint(&self) -> usize {
        let listing = self.listing.as_ref().map_or(0, |listing| listing.footprint());
        self.after.footprint() + listing
    }
}
