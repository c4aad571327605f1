//! Fills into the reply to an EXEC what the broker answers itself, in the order of the commands. The child is given it
//! piece by piece, as its turns and what it takes allow. Owns how far that is; the reply itself is Redis'.

use crate::base::limits;
use crate::command::Local;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::filling::Filling;
use crate::core::child::hold::Hold;
use crate::core::child::outbox::Frame;
use crate::core::keys::ChildKey;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::transaction::state::AfterExec;
use crate::resp::{FrameLimits, Scanner, encode};

impl Shared {
    /// The reply to the child's EXEC has come, and there is something to be filled in: that is its next request's turn.
    pub(crate) fn begin_filling(&mut self, child: &mut Child, reply: &[u8], after: AfterExec) {
        debug_assert_eq!(child.hold(), Hold::Reply, "nothing follows such an EXEC before its reply");
        let shared = self.env.reply.as_ref().and_then(|whole| whole.part_at(reply));
        let reply = shared.unwrap_or_else(|| Frame::of(reply).to_fragment(&self.env.fragments));
        child.front_mut().begin_filling(Filling::new(reply, after));
        self.lift(child);
    }

    fn give(&mut self, child: &mut Child, frame: Frame<'_>) {
        child.spend(limits::LOOK_COST);
        child.outbox_mut().deliver_part(frame, &mut self.env.spares);
        self.mark_child(child);
    }
}

impl Broker {
    /// Goes on with it, as far as the child's turn and its output have room.
    pub(crate) fn fill_in(&mut self, key: ChildKey) -> Flow {
        let Some(mut filling) =
            self.children.known_mut(key).and_then(|child| child.front_mut().take_filling())
        else {
            return Flow::Gone;
        };
        let flow = self.fill_on(key, &mut filling);
        let Some(child) = self.children.known_mut(key) else { return Flow::Gone };
        if flow == Flow::Done {
            child.outbox_mut().deliver_shared(&filling.rest(), &mut self.shared.env.spares);
            self.shared.finish_settling(child);
        } else {
            child.front_mut().begin_filling(filling);
        }
        flow
    }

    fn fill_on(&mut self, key: ChildKey, filling: &mut Filling) -> Flow {
        while let Some(element) = filling.next_element() {
            let Some(child) = self.children.known_mut(key) else { return Flow::Gone };
            if child.credit() <= 0 {
                return Flow::More;
            }
            if child.outbox().unread() >= limits::CHILD_OUTPUT_PAUSE {
                return Flow::Hold(Hold::OutputFull);
            }
            child.spend(limits::LOOK_COST);
            if !filling.step_to(element) {
                continue;
            }
            self.shared.give(child, Frame::shared(&filling.take_stretch()));
            if !self.answer_in(key, filling) {
                return Flow::More;
            }
        }
        Flow::Done
    }

    /// Answers the command that is next. False if that takes more than the turn has room for.
    fn answer_in(&mut self, key: ChildKey, filling: &mut Filling) -> bool {
        let (mut listing, mut scanner) =
            (filling.listing_mut().take().unwrap_or_default(), Scanner::default());
        let Some((local, request)) = filling.next_local() else { return true };
        scanner.scan(request, &FrameLimits { request_max: usize::MAX, authenticated: true });
        let request = scanner.request(request);
        let Some(child) = self.children.known_mut(key) else { return true };
        if local.command != Local::ClientList {
            let argv: Vec<&[u8]> = request.args().collect();
            let reply = self.shared.local_reply(child, local.command, &argv);
            self.shared.give(child, Frame::of(&reply));
            filling.local_is_done();
            return true;
        }
        let (mut credit, proto) = (child.credit(), child.session().proto);
        let made = self.list_on(&mut listing, request.argc(), |index| request.arg(index), &mut credit);
        let Some(child) = self.children.known_mut(key) else { return true };
        child.spend((child.credit() - credit) as usize);
        match made {
            Ok(false) => {
                *filling.listing_mut() = Some(listing);
                return false;
            }
            Ok(true) => {
                for frame in self.shared.as_text(listing.lines, proto) {
                    self.shared.give(child, Frame::shared(&frame));
                }
            }
            Err(failure) => {
                let mut error = Vec::new();
                encode::error(&mut error, failure.line());
                self.shared.give(child, Frame::of(&error));
            }
        }
        filling.local_is_done();
        true
    }
}
