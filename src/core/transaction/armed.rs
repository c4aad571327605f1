//! Transactions that must not run one by one: those whose commands have been answered here already, and those that hold
//! what a shared lane may not carry alone. The right to MULTI may go at any moment, so they wait for a MULTI that has been
//! accepted. A lane for blocks always stands behind one: the last step of its greeting is MULTI, and each transaction is
//! written without its own MULTI, but with the next one's behind its EXEC. Until that is accepted nothing more is written
//! (`Lane::outgoing`). Owns what is put on such a lane and what the answers to its MULTIs mean.

use crate::base::failure::{Failure, Lost};
use crate::command::{CommandId, texts};
use crate::core::child::Child;
use crate::core::connection::lane::Lane;
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::keys::{LaneKey, UserId};
use crate::core::shared::Shared;
use crate::core::transaction::state::QueuedBlock;
use crate::resp::{encode, reply};

impl Shared {
    /// Puts a whole transaction on a lane for blocks: all of it but its MULTI, and that for the next one.
    pub(super) fn send_armed(&mut self, child: &mut Child, lane: LaneKey, block: QueuedBlock) {
        let multi = block.multi().to_vec();
        self.send_unit(child, lane, block, 1, |is_last| match is_last {
            true => (SlotKind::Exec, SlotFlags::UNIT),
            false => (SlotKind::Swallow, SlotFlags::QUEUED.with(SlotFlags::UNIT)),
        });
        self.arm(lane, &multi, SlotFlags::NONE);
    }

    /// WAIT on a lane for blocks, which leaves its MULTI for it.
    pub(crate) fn send_wait_unarmed(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        request: &[u8],
        id: CommandId,
    ) {
        let named = |name| {
            let mut request = Vec::new();
            encode::request(&mut request, &[self.commands.name_of(name)]);
            request
        };
        let (discard, multi) = (named("DISCARD"), named("MULTI"));
        self.arm(lane, &discard, SlotFlags::UNIT);
        let flags = SlotFlags::MAY_WAIT.with(SlotFlags::UNIT);
        self.send_for(child, lane, request, id, SlotKind::Wait, flags);
        self.arm(lane, &multi, SlotFlags::NONE);
    }

    fn arm(&mut self, lane: LaneKey, request: &[u8], flags: SlotFlags) {
        self.connections.send(&mut self.env, lane, request, Slot { flags, ..Slot::own(SlotKind::Arming) });
    }

    /// MULTI or DISCARD has been answered on a lane for blocks. Whether the answer is one that shows the lane to be in step,
    /// and with it what came before.
    pub(crate) fn is_in_step(&mut self, key: LaneKey, frame: &[u8]) -> bool {
        let in_step = frame == b"+OK\r\n" || is_refusal(frame);
        if !in_step {
            self.desync(key, "a lane for transactions does not stand behind MULTI");
        }
        in_step
    }

    /// The lane goes on with the next transaction; or it is of no more use, since there is no further MULTI.
    pub(crate) fn go_on_armed(&mut self, key: LaneKey, frame: &[u8]) {
        if is_refusal(frame) {
            return self.multi_refused(key, frame);
        }
        let writes = |lane: &Lane| !lane.out().bytes().is_empty();
        if self.connections.known(key).is_some_and(writes) {
            self.connections.mark(key);
        }
    }

    /// The upstream has refused MULTI to the user of this lane.
    pub(crate) fn multi_refused(&mut self, key: LaneKey, frame: &[u8]) {
        let Some(lane) = self.connections.known(key) else { return };
        let user = self.connections.key_of(lane).user;
        let text = reply::error_text(frame).unwrap_or_default();
        log::warn!("upstream {} refuses transactions: {text}", self.env.upstream);
        if user == UserId::UPSTREAM {
            self.control.refuse_multi(frame, self.env.now);
        } else {
            self.users.set_multi(user, Some(frame.to_vec()), self.env.now);
        }
        self.connections.drop_connection(&mut self.env, key);
        self.fail_blocks(key, &text);
    }

    /// What waits on a lane for blocks has not been written, and is told why it will not be, as an EXEC is told.
    pub(crate) fn fail_blocks(&mut self, key: LaneKey, text: &str) {
        let slots = self.connections.known_mut(key).map(Lane::take_all).unwrap_or_default();
        let (waits, blocks): (Vec<_>, Vec<_>) =
            slots.into_iter().partition(|slot| slot.kind == SlotKind::Wait);
        self.fail_slots(key, waits, Failure::Lost(Lost::LastWrite));
        self.fail_slots(key, blocks, texts::exec_aborted(text).into());
        self.connections.account(&mut self.env, key);
    }
}

fn is_refusal(frame: &[u8]) -> bool {
    texts::is_lack(frame)
}
