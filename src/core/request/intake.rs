//! How a child's request is read that is long: it has room, waits for room, or is dropped as it is read and refused in its
//! turn. Who holds how much is `core::intake`'s.

use crate::base::clock::Millis;
use crate::base::failure::{Failure, Limit};
use crate::base::limits;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::closing::CloseReason;
use crate::core::child::hold::Hold;
use crate::core::intake::IntakeWaiter;
use crate::core::notice::{ChildNotice, Notice};
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::resp::{Frames, Scanner};

impl Shared {
    /// A child's request at the front of `frames` is incomplete. Sees to it that there is room for what it has announced;
    /// else the child waits.
    #[inline]
    pub(crate) fn claim_room(&mut self, child: &mut Child, frames: &mut Frames<'_, Scanner>) {
        let announced = frames.announced();
        if announced > limits::INTAKE_FREE {
            self.claim_bytes(child, frames, announced);
        }
    }

    #[inline(never)]
    fn claim_bytes(&mut self, child: &mut Child, frames: &mut Frames<'_, Scanner>, announced: usize) {
        if announced > self.frame_max() {
            // It has begun to be skipped here, so that nothing of it is kept.
            child.claim_mut().get_or_insert_default().is_skipped = true;
            return self.skip_request(child, frames);
        }
        let key = child.key();
        let claim = child.claim_mut().get_or_insert_default();
        let more = announced.saturating_sub(claim.bytes);
        let max = self.env.settings.memory_max / 2;
        if !self.intake.has_room(claim.ticket, more, max) && !self.env.draining {
            self.intake.wait(IntakeWaiter { child: key, ticket: claim.ticket, more });
            return child.set_hold(Hold::Intake);
        }
        claim.ticket = Some(self.intake.grant(key, claim.ticket, more));
        claim.bytes += more;
        frames.make_room(announced);
    }

    /// There is room for a child that has waited.
    pub(crate) fn admitted(&mut self, child: &mut Child, ticket: u64, more: usize) {
        let claim = child.claim_mut().get_or_insert_default();
        claim.ticket = Some(ticket);
        claim.bytes += more;
        self.lift(child);
    }

    /// The same of one that has gone.
    pub(crate) fn admitted_in_vain(&mut self, ticket: u64, more: usize) {
        self.intake.give_back(ticket, more);
        self.admit_waiting();
    }

    /// The request has come to its end, and is about to be run.
    pub(crate) fn claim_is_whole(&mut self, child: &mut Child) {
        if let Some(claim) = child.claim_mut() {
            claim.is_whole = true;
        }
    }

    /// A child's request has been taken, or will not be read to its end, or may stay where it is for as long as it likes.
    #[inline]
    pub(crate) fn release_claim(&mut self, child: &mut Child) {
        if child.claim_mut().is_some() {
            self.give_up_claim(child);
        }
    }

    #[inline(never)]
    fn give_up_claim(&mut self, child: &mut Child) {
        let key = child.key();
        let Some(claim) = child.claim_mut().take() else { return };
        self.intake.leave_line(key);
        if let Some(ticket) = claim.ticket {
            self.intake.give_back(ticket, claim.bytes);
        }
        self.admit_waiting();
    }

    fn admit_waiting(&mut self) {
        let max = self.env.settings.memory_max / 2;
        while let Some(IntakeWaiter { child, ticket, more }) = self.intake.next(max) {
            let ticket = self.intake.grant(child, ticket, more);
            self.env.notify(Notice::Child(child, ChildNotice::Admitted { ticket, more }));
        }
    }

    /// More has come of a request that is dropped as it is read; at its end it is refused.
    pub(crate) fn skip_request(&mut self, child: &mut Child, frames: &mut Frames<'_, Scanner>) {
        match frames.skip(child.is_authenticated()) {
            Ok(false) => {}
            Ok(true) => {
                self.give_up_claim(child);
                let max_bytes = self.env.settings.memory_max / 2;
                let refused = self.reject(child, Failure::Limited(Limit::Request { max_bytes }));
                debug_assert_eq!(refused, Flow::Done);
                self.count_request(child);
                self.front_is_done(child);
            }
            Err(error) => self.not_a_request(child, error),
        }
    }
}

impl Broker {
    /// Children whose requests have stood still while others wait for room are closed.
    pub(crate) fn close_standing_still(&mut self) {
        if !self.shared.intake.has_waiters() {
            return;
        }
        let now = self.shared.env.now;
        for key in self.shared.intake.holders() {
            let Some(child) = self.children.get_mut(key) else { continue };
            if stands_still(child, now) && !self.shared.intake.is_waiting(key) {
                CloseReason::StandsStill.log(child);
                self.shared.close(child);
            }
        }
    }
}

fn stands_still(child: &Child, now: Millis) -> bool {
    let is_partial = child.claim().is_some_and(|claim| !claim.is_whole);
    is_partial
        && child.hold() == Hold::None
        && now.saturating_sub(child.last_request()) >= limits::INTAKE_PATIENCE
}
