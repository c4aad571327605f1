//! What was learned about the request at the front while it waited. One value, replaced as a whole when the request is
//! done, so that nothing of it is taken for the next one's. Owns no request: that stays in the child's inbox.

use crate::base::clock::Millis;
use crate::core::child::hold::{Answer, Wait};
use crate::core::keys::ChildKey;

/// A CLIENT LIST as far as it is made: with many children, or many ids, it takes more than one turn.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) lines: String,
    /// Those to show, unless the request names them: all there were when it began.
    pub(crate) keys: Option<Vec<ChildKey>>,
    /// How many of them have been looked at.
    pub(crate) done: usize,
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
    /// It only has to be skipped, as soon as the child runs again.
    answered: bool,
    /// Its place in a lease queue, or the last one it had.
    wait: Option<Wait>,
    answer: Option<Answer>,
    /// The number of the question on the probe that is not answered yet.
    proof: Option<u64>,
    /// The upstream lets its user do what the broker carries out.
    permitted: bool,
    /// When its password may be checked, if that has had to wait.
    auth_due: Option<Millis>,
    /// The HELLO has been carried out up to this argument.
    hello_done: u16,
    /// How many questions the upstream had been asked when the request first needed an answer younger than itself.
    asked_before: Option<u64>,
    listing: Option<Box<Listing>>,
    killing: Option<Box<Killing>>,
    /// Since when and until when it waits for the upstream, if it has had to.
    upstream_wait: Option<(Millis, Millis)>,
}

impl Front {
    pub(crate) fn set_answered(&mut self) {
        self.answered = true;
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.answered
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

    pub(crate) fn question_is_overdue(&self, now: Millis) -> bool {
        self.proof.is_some() && self.is_overdue(now)
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

    pub(crate) fn hello_done(&self) -> u16 {
        self.hello_done
    }

    pub(crate) fn set_hello_done(&mut self, argument: u16) {
        self.hello_done = argument;
    }

    pub(crate) fn listing_mut(&mut self) -> &mut Option<Box<Listing>> {
        &mut self.listing
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

    pub(crate) fn is_overdue(&self, now: Millis) -> bool {
        self.upstream_wait.is_some_and(|(_, until)| until <= now)
    }

    pub(crate) fn footprint(&self) -> usize {
        let Some(listing) = &self.listing else { return 0 };
        let keys = listing.keys.as_ref().map_or(0, Vec::capacity) * size_of::<ChildKey>();
        size_of::<Listing>() + keys + listing.lines.capacity()
    }
}
