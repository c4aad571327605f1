//! What was learned about the request at the front while it waited. One value, replaced as a whole when the request is
//! done, so that nothing of it is taken for the next one's. Owns no request: that stays in the child's inbox.

use crate::base::clock::Millis;
use crate::core::child::filling::Filling;
use crate::core::child::hold::{Answer, Wait};
use crate::core::child::listing::Listing;
use crate::core::console::showing::Showing;

/// A reply that takes more than one turn to make.
#[derive(Debug)]
enum Making {
    Listing(Listing),
    Filling(Filling),
    Showing(Showing),
}

/// How far the request at the front is, where it is not to be looked at afresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Progress {
    #[default]
    None,
    /// It only has to be skipped, as soon as the child runs again.
    Answered,
    /// The reply to an EXEC is being filled in.
    Filling,
}

/// A CLIENT KILL as far as it is done.
#[derive(Debug, Default)]
pub(crate) struct Killing {
    /// Where among the children it goes on.
    pub(crate) next: usize,
    pub(crate) killed: usize,
    /// It means its own child too, which ends last.
    pub(crate) own: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Front {
    progress: Progress,
    /// Its place in a lease queue, or the last one it had.
    wait: Option<Wait>,
    answer: Option<Answer>,
    /// The number of the question on the probe that is not answered yet.
    proof: Option<u64>,
    /// The upstream lets its user do what the broker carries out.
    permitted: bool,
    /// When its password may be checked, if that has had to wait.
    auth_due: Option<Millis>,
    /// The HELLO, or the UNSUBSCRIBE of nothing, has been carried out up to this argument.
    arguments_done: u32,
    /// How many questions the upstream had been asked when the request first needed an answer younger than itself.
    asked_before: Option<u64>,
    making: Option<Box<Making>>,
    killing: Option<Box<Killing>>,
    /// Since when and until when it waits for the upstream, if it has had to.
    upstream_wait: Option<(Millis, Millis)>,
}

impl Front {
    /// Whether nothing is under way about it; it may have waited.
    pub(crate) fn is_fresh(&self) -> bool {
        self.progress == Progress::None
            && self.answer.is_none()
            && self.proof.is_none()
            && self.arguments_done == 0
            && self.making.is_none()
            && self.killing.is_none()
    }

    pub(crate) fn set_answered(&mut self) {
        self.progress = Progress::Answered;
    }

    #[inline]
    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    /// It is an EXEC whose reply has come, and is given to the child as it is filled in.
    pub(crate) fn begin_filling(&mut self, filling: Filling) {
        (self.progress, self.making) = (Progress::Filling, Some(Box::new(Making::Filling(filling))));
    }

    pub(crate) fn take_filling(&mut self) -> Option<Filling> {
        if let Making::Filling(filling) = *self.making.take()? { Some(filling) } else { None }
    }

    pub(crate) fn wait(&self) -> Option<Wait> {
        self.wait
    }

    pub(crate) fn wait_mut(&mut self) -> &mut Option<Wait> {
        &mut self.wait
    }

    pub(crate) fn answer_mut(&mut self) -> &mut Option<Answer> {
        &mut self.answer
    }

    /// A question on the probe is about it, and may take until then.
    pub(crate) fn ask(&mut self, number: u64, now: Millis, until: Millis) {
        (self.proof, self.upstream_wait) = (Some(number), Some((now, until)));
    }

    pub(crate) fn asks(&self, number: u64) -> bool {
        self.proof == Some(number)
    }

    pub(crate) fn forget_question(&mut self) {
        self.proof = None;
    }

    pub(crate) fn has_question(&self) -> bool {
        self.proof.is_some()
    }

    pub(crate) fn permit(&mut self) {
        self.permitted = true;
    }

    pub(crate) fn is_permitted(&self) -> bool {
        self.permitted
    }

    /// How many questions had been asked before it first needed an answer younger than itself; `asked` if that is now.
    pub(crate) fn asked_before(&mut self, asked: u64) -> u64 {
        *self.asked_before.get_or_insert(asked)
    }

    pub(crate) fn auth_due(&self) -> Option<Millis> {
        self.auth_due
    }

    pub(crate) fn delay_auth(&mut self, due: Millis) {
        self.auth_due = Some(due);
    }

    pub(crate) fn arguments_done(&self) -> usize {
        self.arguments_done as usize
    }

    pub(crate) fn set_arguments_done(&mut self, argument: usize) {
        self.arguments_done = argument as u32;
    }

    /// It is a CLIENT LIST, of which so much is made.
    pub(crate) fn keep_listing(&mut self, listing: Listing) {
        self.making = Some(Box::new(Making::Listing(listing)));
    }

    pub(crate) fn take_listing(&mut self) -> Option<Listing> {
        if let Making::Listing(listing) = *self.making.take()? { Some(listing) } else { None }
    }

    /// It is a SHOW of the console, of which so much is made.
    pub(crate) fn keep_showing(&mut self, showing: Showing) {
        self.making = Some(Box::new(Making::Showing(showing)));
    }

    pub(crate) fn take_showing(&mut self) -> Option<Showing> {
        if let Making::Showing(showing) = *self.making.take()? { Some(showing) } else { None }
    }

    /// Whether its reply is a long one about all children, of which a piece is made in each turn of the driver.
    pub(crate) fn is_being_made(&self) -> bool {
        match self.making.as_deref() {
            Some(Making::Listing(_) | Making::Showing(_)) => true,
            Some(Making::Filling(filling)) => filling.is_listing(),
            None => false,
        }
    }

    pub(crate) fn killing_mut(&mut self) -> &mut Option<Box<Killing>> {
        &mut self.killing
    }

    /// Until when it waits for the upstream: `latest`, unless that was decided before.
    pub(crate) fn wait_until(&mut self, now: Millis, latest: Millis) -> Millis {
        self.upstream_wait.get_or_insert((now, latest)).1
    }

    /// `queue_timeout` has changed: when the wait ends now.
    pub(crate) fn set_queue_timeout(&mut self, timeout: Millis, now: Millis) -> Millis {
        let since = self.upstream_wait.map_or(now, |(since, _)| since);
        self.upstream_wait.insert((since, since + timeout)).1
    }

    /// Since when and until when it waits for the upstream, were there no pause.
    pub(crate) fn upstream_wait(&self) -> Option<(Millis, Millis)> {
        self.upstream_wait
    }

    pub(crate) fn footprint(&self) -> usize {
        match self.making.as_deref() {
            None => 0,
            Some(Making::Listing(listing)) => size_of::<Making>() + listing.footprint(),
            Some(Making::Showing(showing)) => size_of::<Making>() + showing.footprint(),
            Some(Making::Filling(filling)) => size_of::<Making>() + filling.footprint(),
        }
    }
}
