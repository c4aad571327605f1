//! Taking children out: which may go, how they come to rest, what goes with them. A child that waits for an element is taken
//! out of its group once no command is out for it; it asks again where it is. Whoever has something of its own upstream (keys
//! that it watches, a subscription, tracking) stays until that ends.

use crate::base::limits;
use crate::base::process::UnixCredentials;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::hold::{Hold, Wait};
use crate::core::child::origin::Writer;
use crate::core::child::sent::LastWrite;
use crate::core::child::session::{ReplyMode, Session};
use crate::core::handover::image::{ChildImage, PasswordImage, UserImage, WaitImage};
use crate::core::keys::{ChildKey, GroupKey, UserId};
use crate::core::lease::groups::NEVER;
use crate::core::notice::{ChildNotice, Notice};
use crate::core::shared::Shared;

impl Shared {
    /// Has the child come to rest, if it may go at all. A place in a line for a lease is given up: it counts again later.
    fn begin_move(&mut self, child: &mut Child) -> bool {
        match child.hold() {
            Hold::None | Hold::InFlightMax | Hold::OwnReplies => {}
            // These end by themselves, and nothing is lost with them.
            Hold::OutputFull | Hold::LaneFull => {}
            Hold::LeaseQueue | Hold::Moving => {}
            Hold::Element => return self.begin_move_of_group(child),
            _ => return false,
        }
        if !child.may_move() {
            return false;
        }
        match child.hold() {
            Hold::LeaseQueue => {
                self.leave_line(child);
                child.set_hold(Hold::None);
            }
            Hold::OutputFull | Hold::LaneFull | Hold::Moving => child.set_hold(Hold::None),
            _ => {}
        }
        child.set_moving(true);
        true
    }

    /// Whether `begin_move` may have the child come to rest, now or when a reply has come.
    fn may_rest_soon(&self, child: &Child) -> bool {
        match child.hold() {
            Hold::Reply | Hold::Question => child.may_be_taken_off(),
            Hold::Element => {
                let group = child.front().wait().and_then(|wait| self.groups.get(wait.group));
                child.may_move() && group.is_some_and(|group| group.restarts())
            }
            Hold::None | Hold::InFlightMax | Hold::OwnReplies => child.may_move(),
            Hold::OutputFull | Hold::LaneFull | Hold::LeaseQueue | Hold::Moving => child.may_move(),
            _ => false,
        }
    }

    /// The commands of its group end, and are not written again. False: the group is not at rest yet, or stays.
    fn begin_move_of_group(&mut self, child: &Child) -> bool {
        let Some(wait) = child.front().wait().filter(|_| child.may_move()) else { return false };
        let Some(group) = self.groups.get_mut(wait.group) else { return false };
        if group.restarts() && !group.is_moving() {
            group.set_moving(true);
            self.tend(wait.group);
        }
        false
    }

    /// Its command is written again.
    fn end_move_of_group(&mut self, group: GroupKey) {
        if let Some(found) = self.groups.get_mut(group) {
            found.set_moving(false);
        }
        self.tend(group);
    }

    /// The child's command is out no more: it is at rest with its request, and keeps its place.
    fn take_from_group(&mut self, child: &mut Child, group: GroupKey, ticket: u64, expires: u64) -> bool {
        let waits =
            child.hold() == Hold::Element && child.front().wait().is_some_and(|wait| wait.ticket == ticket);
        if !waits || !child.may_move() {
            return false;
        }
        if let Some(found) = self.groups.get_mut(group) {
            found.leave(ticket);
        }
        if let Some(wait) = child.front_mut().wait_mut() {
            wait.moved = Some(expires);
        }
        child.set_hold(Hold::None);
        child.set_moving(true);
        self.tend(group);
        true
    }

    /// It goes on here after all.
    pub(super) fn end_move(&mut self, child: &mut Child) {
        child.set_moving(false);
        if child.hold() == Hold::None {
            self.nudge(child);
        }
        self.resume(child);
    }

    fn user_image(&self, child: &Child) -> UserImage {
        match child.account() {
            Some(account) => UserImage::Account(self.users.account_name(account).to_owned()),
            None => self.image_of_user(child.user()),
        }
    }

    /// Who this is upstream.
    pub(super) fn image_of_user(&self, user: UserId) -> UserImage {
        match user {
            UserId::UPSTREAM => UserImage::Upstream,
            UserId::DEFAULT => UserImage::Default,
            UserId::NOBODY => UserImage::Nobody,
            UserId::UNDECIDED => UserImage::Undecided,
            user => {
                let (credentials, any) =
                    (self.users.get(user, &self.env.upstream), self.users.takes_any(user));
                let password = PasswordImage::new(credentials.password.unwrap_or_default());
                UserImage::Known { name: credentials.name.unwrap_or_default().to_vec(), password, any }
            }
        }
    }

    fn wait_image(&self, child: &Child) -> Option<WaitImage> {
        let Wait { kind, ticket, arrived, since, moved, .. } = child.front().wait()?;
        let now = self.env.now;
        Some(WaitImage {
            kind,
            ticket,
            waited_ms: now.saturating_sub(arrived),
            present_ms: now.saturating_sub(since),
            left_ms: moved.filter(|until| *until != NEVER).map(|until| until.saturating_sub(now)),
            for_element: moved.is_some(),
        })
    }

    /// The child as it stands. It is at rest.
    fn image_of(&mut self, child: &mut Child) -> ChildImage {
        let now = self.env.now;
        let usage = child.usage();
        let mut output = Vec::with_capacity(child.outbox().output().len());
        let queued = child.outbox_mut().take();
        while !queued.is_empty() {
            let len = queued.front().len();
            output.extend_from_slice(queued.front());
            queued.consume(len);
        }
        let command = |id| self.commands.name(id).to_owned();
        let writer = child.origin().writer();
        let sure = matches!(writer, Writer::Sure(_));
        let session: &Session = child.session();
        ChildImage {
            id: session.id,
            is_admin: child.origin().is_admin(),
            peer: child.origin().peer().to_owned(),
            label: child.origin().label().map(str::to_owned),
            reads_replicas: child.reads().are_from_replicas(),
            age_ms: now.saturating_sub(child.opened()),
            idle_ms: now.saturating_sub(child.last_request()),
            name: session.name.clone(),
            lib_name: session.lib_name.clone(),
            lib_version: session.lib_version.clone(),
            db: session.db,
            home_db: session.home_db,
            proto: session.proto,
            no_evict: session.no_evict,
            no_touch: session.no_touch,
            debugs: session.debugs,
            takes_errors: session.takes_errors,
            mutes: session.replies == ReplyMode::Off,
            skips: session.replies == ReplyMode::Skip,
            watch_lost: session.transaction.is_watch_lost(),
            user: self.user_image(child),
            writer: writer.last().map(|who| (who, sure)),
            requests: usage.requests,
            bytes_in: usage.bytes_in,
            bytes_out: usage.bytes_out,
            input: child.inbox().as_slice().to_vec(),
            output,
            wrote: child.sent().last_write() != LastWrite::None,
            own_writes_ms: child.reads().master_for(now),
            window: child.sent().window(),
            wait: self.wait_image(child),
            multi: session.transaction.image(command),
            last_command: child.last_command().map(command).filter(|name| !name.is_empty()),
            topics: Vec::new(),
        }
    }
}

impl Broker {
    /// Has further children come to rest, so that `count` are about to go. A piece of the work: some are looked at.
    pub fn begin_moves(&mut self, count: usize) {
        if self.shared.env.has_notices() {
            // Somebody may not know yet what has become of what it waits for.
            return;
        }
        self.shared.moves.is_under_way = true;
        for _ in 0..limits::MOVES_LOOKS {
            if self.shared.moves.moving.len() >= count {
                break;
            }
            let Some((next, key)) = self.children.from(self.shared.moves.next) else {
                self.shared.moves.next = 0;
                break;
            };
            self.shared.moves.next = next;
            if let Some(child) = self.children.get_mut(key).filter(|child| !child.is_moving())
                && self.shared.begin_move(child)
            {
                self.shared.moves.moving.push(key);
            }
        }
        self.take_from_groups(count);
        self.deliver_notices();
    }

    /// Those who wait in groups that are at rest, the oldest of each first.
    fn take_from_groups(&mut self, count: usize) {
        for group in self.shared.groups.keys() {
            let room = count.saturating_sub(self.shared.moves.moving.len());
            let ready = self.shared.groups.get(group).filter(|found| found.may_leave(self.shared.env.now));
            if room == 0 || ready.is_none() {
                continue;
            }
            let may_go = |key: ChildKey| self.children.get(key).is_some_and(Child::may_move);
            let waiters = ready.into_iter().flat_map(|found| found.waiters());
            let waiters: Vec<_> = waiters.filter(|(_, key, _)| may_go(*key)).take(room).collect();
            let before = self.shared.moves.moving.len();
            for (ticket, key, expires) in waiters {
                if let Some(child) = self.children.get_mut(key)
                    && self.shared.take_from_group(child, group, ticket, expires)
                {
                    self.shared.moves.moving.push(key);
                }
            }
            if self.shared.moves.moving.len() == before {
                // Those who are left stay, and wait here.
                self.shared.end_move_of_group(group);
            }
        }
    }

    /// Takes out children that have come to rest, with the driver's handles: so many of them, and of so many bytes, but for one
    /// that has more alone. Their connections are not closed.
    pub fn give_rested(&mut self, count: usize, bytes_max: usize) -> Vec<(usize, ChildImage)> {
        let (mut given, mut bytes) = (Vec::new(), 0);
        if self.shared.env.has_notices() {
            return given;
        }
        for key in std::mem::take(&mut self.shared.moves.moving) {
            let Some(child) = self.children.get_mut(key).filter(|child| !child.is_closed()) else { continue };
            if !child.may_move() {
                self.shared.end_move(child);
                continue;
            }
            let len = child.inbox().len() + child.outbox().output().len();
            let fits = given.len() < count && (given.is_empty() || bytes + len <= bytes_max);
            if !fits || !child.is_at_rest() {
                self.shared.moves.moving.push(key);
                continue;
            }
            bytes += len;
            given.extend(self.give(key));
        }
        given
    }

    pub(super) fn give(&mut self, key: ChildKey) -> Option<(usize, ChildImage)> {
        let child = self.children.get_mut(key)?;
        self.shared.release_held_pushes(child);
        let (link, image) = (child.link(), self.shared.image_of(child));
        self.forget_child(key);
        Some((link, image))
    }

    /// Takes a child out whose connection becomes something else. Its driver's handle.
    pub fn detach_child(&mut self, key: ChildKey) -> Option<usize> {
        let link = self.forget_child(key)?.link();
        self.deliver_notices();
        Some(link)
    }

    /// The process that has written all that is in this child's input, where that is certain.
    pub fn sure_writer(&self, key: ChildKey) -> Option<UnixCredentials> {
        match self.children.get(key)?.origin().writer() {
            Writer::Sure(who) => Some(who),
            _ => None,
        }
    }

    /// The child of this id could not be taken elsewhere: it stays.
    pub fn keep_child(&mut self, id: u64) {
        let key = i64::try_from(id).ok().and_then(|id| self.children.by_id(id));
        if let Some(child) = key.and_then(|key| self.children.get_mut(key)) {
            child.keep();
        }
    }

    /// How many children are about to go, and have not come to rest.
    pub fn moving_len(&self) -> usize {
        self.shared.moves.moving.len()
    }

    /// Whether somebody is about to go, or may come to rest before long who has not been asked to.
    pub fn may_give_more(&self) -> bool {
        !self.shared.moves.moving.is_empty()
            || self.children.iter().any(|(_, child)| self.shared.may_rest_soon(child))
    }

    /// Nobody goes any more: those that were about to go on here.
    pub fn end_moves(&mut self) {
        self.shared.moves.is_under_way = false;
        self.shared.moves.kept_hubs.clear();
        for key in std::mem::take(&mut self.shared.moves.held) {
            self.shared.env.notify(Notice::Child(key, ChildNotice::Lift(Hold::Moving)));
        }
        for key in std::mem::take(&mut self.shared.moves.moving) {
            if let Some(child) = self.children.get_mut(key).filter(|child| !child.is_closed()) {
                self.shared.end_move(child);
            }
        }
        for key in self.shared.groups.keys() {
            self.shared.end_move_of_group(key);
        }
        self.deliver_notices();
    }
}
