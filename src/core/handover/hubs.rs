//! Shared subscriptions that go to another process: the connection of a user's topics, and all who listen to them, as one. Its
//! listeners come to rest first, and hear what is published until then; from the moment at which the connection is read no
//! more, nothing changes before it goes. Where one of them cannot go nobody does.

use crate::base::process::UnixCredentials;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::RoleData;
use crate::core::handover::image::{ChildImage, HubImage};
use crate::core::handover::moves::MovingHub;
use crate::core::keys::{ChildKey, LaneKey, PoolKey, UserId};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::shared::Shared;

/// Whether subscriptions may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubRest {
    /// Now.
    Now,
    /// Somebody has not come to rest.
    NotYet,
    /// Somebody cannot go, or nobody listens any more.
    Never,
}

impl Shared {
    /// Has a listener come to rest, if it may go with its subscriptions.
    fn begin_move_of_listener(&mut self, child: &mut Child) -> bool {
        let rests_soon = [Hold::None, Hold::InFlightMax, Hold::OwnReplies, Hold::OutputFull, Hold::LaneFull];
        if !rests_soon.contains(&child.hold()) || !child.may_move_listening() {
            return false;
        }
        if matches!(child.hold(), Hold::OutputFull | Hold::LaneFull) {
            child.set_hold(Hold::None);
        }
        child.set_moving(true);
        true
    }

    /// Whether a child that begins to listen waits until it is elsewhere: the connection that would carry it has gone there,
    /// or is about to.
    pub(crate) fn subscribes_elsewhere(&mut self, child: &Child) -> bool {
        let user = child.topics().map_or(child.user(), |own| own.user());
        if let Some(lane) = self.hubs.lane_of_user(user)
            && self.moves.wait_while_stilled(lane, child.key())
        {
            return true;
        }
        let goes = self.moves.is_under_way && child.topics().is_none() && child.may_move();
        if goes {
            self.moves.held.push(child.key());
        }
        goes
    }

    /// The connection of a hub that was about to go has gone, or is read again.
    fn end_stillness(&mut self) {
        for child in self.moves.end_stillness() {
            self.env.notify(Notice::Child(child, ChildNotice::Lift(Hold::Moving)));
        }
    }
}

impl Broker {
    /// Begins to have the subscriptions of a user and their listeners come to rest, if there are any that could go.
    pub fn begin_hub_move(&mut self) -> bool {
        if self.shared.moves.hub.is_some() || self.shared.env.has_notices() {
            return self.shared.moves.hub.is_some();
        }
        self.shared.moves.is_under_way = true;
        for user in self.shared.hubs.users() {
            let Some(lane) = self.shared.hubs.lane_of_user(user) else { continue };
            let could_go =
                self.shared.connections.may_give(lane) && !self.shared.moves.kept_hubs.contains(&user);
            if !could_go || self.shared.hubs.listeners_of(user).is_empty() {
                continue;
            }
            self.shared.moves.hub = Some(MovingHub { user, lane, listeners: Vec::new() });
            if self.begin_move_of_listeners() {
                return true;
            }
            self.end_hub_move();
        }
        false
    }

    /// Has all who listen now come to rest. False if there is nobody, or one of them cannot go.
    fn begin_move_of_listeners(&mut self) -> bool {
        let Some(hub) = &mut self.shared.moves.hub else { return false };
        hub.listeners = self.shared.hubs.listeners_of(hub.user);
        let listeners = hub.listeners.clone();
        !listeners.is_empty()
            && listeners.iter().all(|key| {
                let child = self.children.get_mut(*key);
                child.is_some_and(|child| match child.is_moving() {
                    true => child.may_move_listening(),
                    false => self.shared.begin_move_of_listener(child),
                })
            })
    }

    /// Whether they may go now. From then on the driver reads nothing more of the connection.
    pub fn hub_rest(&mut self) -> HubRest {
        if self.shared.env.has_notices() {
            return HubRest::NotYet;
        }
        if !self.begin_move_of_listeners() {
            return HubRest::Never;
        }
        let Some(MovingHub { user, lane, listeners }) = &self.shared.moves.hub else { return HubRest::Never };
        if !self.shared.connections.may_give(*lane) {
            return HubRest::Never;
        }
        let (user, lane) = (*user, *lane);
        let rests = |key: &ChildKey| self.children.get(*key).is_some_and(Child::is_at_rest);
        // What it still owes has to be read.
        let owes = |lane: &Lane| lane.is_in_large() || !lane.is_idle();
        let owes = self.shared.connections.find(lane).is_some_and(owes);
        // Messages may come faster than any moment without one: those that have been read are given first.
        let is_still = listeners.iter().all(rests) && !owes;
        if !is_still {
            self.shared.end_stillness();
        }
        self.shared.moves.is_still = is_still;
        match self.shared.moves.is_still && self.shared.hubs.is_at_rest(user, &self.shared.connections) {
            true => HubRest::Now,
            false => {
                self.shared.moves.let_read_on();
                HubRest::NotYet
            }
        }
    }

    /// The connection and its image. It stays as it is here until it is given or comes back.
    pub fn hub_image(&mut self) -> Option<(LaneKey, usize, HubImage)> {
        let (user, lane) = self.shared.moves.hub.as_ref().map(|hub| (hub.user, hub.lane))?;
        let link = self.shared.connections.find(lane).and_then(Lane::link)?;
        let (upstream_id, input) = self.shared.connections.image_of(lane)?;
        let renamed = self.shared.hubs.renamed_of(user);
        Some((lane, link, HubImage { user: self.shared.image_of_user(user), upstream_id, input, renamed }))
    }

    /// Takes out so many of the listeners, with the driver's handles. None are left if there are fewer.
    pub fn give_listeners(&mut self, count: usize) -> Vec<(usize, ChildImage)> {
        let mut given = Vec::new();
        while given.len() < count
            && let Some(key) = self.shared.moves.hub.as_mut().and_then(|hub| hub.listeners.pop())
        {
            let Some(child) = self.children.get_mut(key) else { continue };
            let topics = child.take_topics().map(|own| self.shared.hubs.take_off(&own)).unwrap_or_default();
            if let Some((link, image)) = self.give(key) {
                given.push((link, ChildImage { topics, ..image }));
            }
        }
        given
    }

    /// The connection has gone to another process.
    pub fn forget_hub(&mut self) {
        self.shared.end_stillness();
        let Some(MovingHub { user, lane, .. }) = self.shared.moves.hub.take() else { return };
        let Shared { connections, env, hubs, .. } = &mut self.shared;
        connections.forget_given(env, lane);
        hubs.forget_user(user);
        self.deliver_notices();
    }

    /// They are not tried again.
    pub fn refuse_hub(&mut self) {
        let user = self.shared.moves.hub.as_ref().map(|hub| hub.user);
        self.shared.moves.kept_hubs.extend(user);
    }

    /// They could not go: those that were not taken out go on here, and the driver has this handle of the connection.
    pub fn keep_hub(&mut self, link: Option<usize>) {
        if let (Some(hub), Some(link)) = (&self.shared.moves.hub, link) {
            self.shared.connections.relink(hub.lane, link);
        }
        self.end_hub_move();
    }

    fn end_hub_move(&mut self) {
        self.shared.end_stillness();
        self.shared.moves.let_read_on();
        let Some(hub) = self.shared.moves.hub.take() else { return };
        for key in hub.listeners {
            if let Some(child) = self.children.get_mut(key).filter(|child| !child.is_closed()) {
                self.shared.end_move(child);
            }
        }
        self.deliver_notices();
    }

    /// Whether subscriptions of another process could go on here; or why not.
    pub fn may_take_hub(&mut self, image: &HubImage) -> Result<(), String> {
        let user = self.shared.user_of_image(&image.user).ok_or("a user that is not known")?.0;
        if [UserId::NOBODY, UserId::UNDECIDED].contains(&user) {
            return Err("subscriptions of nobody".to_owned());
        }
        let has_room = self.shared.hubs.has_room_for(user);
        has_room.then_some(()).ok_or_else(|| "there are subscriptions of this user already".to_owned())
    }

    /// Takes them in, on this connection. Their listeners follow.
    pub fn take_hub(&mut self, image: &HubImage, link: usize) -> LaneKey {
        let user = self.shared.user_of_image(&image.user).map_or(UserId::UPSTREAM, |(user, _)| user);
        let Shared { connections, env, .. } = &mut self.shared;
        let pool = PoolKey { user, db: 0, proto: 3, no_touch: false, replica: 0 };
        let pool = connections.pool_of(pool);
        let role = RoleData::Subscriber { listened: true };
        let lane = connections.take_in(env, (pool, role), (link, image.upstream_id), &image.input);
        self.shared.hubs.take_in(user, lane, &image.renamed);
        lane
    }

    /// A child goes on here with the subscriptions that it has had on this connection.
    pub fn take_listener(
        &mut self,
        mut image: ChildImage,
        who: Option<UnixCredentials>,
        link: usize,
        lane: LaneKey,
    ) -> ChildKey {
        let topics = std::mem::take(&mut image.topics);
        let key = self.take_child(image, who, link);
        let user = self.shared.connections.find(lane).map(|lane| self.shared.connections.key_of(lane).user);
        if let (Some(child), Some(user)) = (self.children.get_mut(key), user) {
            let own = child.topics_of_user(user);
            self.shared.hubs.put_on(own, &topics);
            self.shared.account_child(child);
        }
        key
    }
}
