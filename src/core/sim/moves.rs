//! Children that go to another process, as far as one broker tells: each that comes to rest is written down as an image, read
//! again and taken in, on the same socket. What would be lost on the way is missed by its script, and by the invariants.

use super::Sim;
use crate::core::broker::Broker;
use crate::core::handover::format::{decode_hub, decode_images, encode_hub, encode_images};
use crate::core::handover::hubs::HubRest;
use crate::core::handover::image::ChildImage;

impl Sim {
    /// Some children are to go.
    pub(crate) fn begin_moves(&mut self, count: usize) {
        self.broker.begin_moves(count);
    }

    /// Those that are at rest go, and come back. Returns how many did.
    pub(crate) fn move_rested(&mut self) -> usize {
        let (links, images): (Vec<usize>, Vec<_>) = self.broker.give_rested(8, 4096).into_iter().unzip();
        let again = decode_images(&encode_images(images.iter())).expect("it was just written");
        assert_eq!(again, images);
        for (link, image) in links.iter().zip(again) {
            assert_eq!(self.broker.may_take(&image), Ok(()));
            self.take_in(*link, image);
        }
        links.len()
    }

    /// Listeners are not held up for ever.
    pub(super) fn end_hub_move_in_time(&mut self) {
        if self.hub_until.is_some_and(|until| until <= self.now) {
            self.hub_until = None;
            self.broker.keep_hub(None);
        }
    }

    /// Subscriptions that are at rest go with all who listen, and come back: to the same broker as to another one, or since they
    /// could not go. Returns how many children did.
    pub(crate) fn move_hub(&mut self, is_taken: bool) -> usize {
        if !self.broker.begin_hub_move() {
            return 0;
        }
        self.hub_until.get_or_insert(self.now + 300);
        match self.broker.hub_rest() {
            HubRest::NotYet => return 0,
            HubRest::Never => {
                self.broker.keep_hub(None);
                return 0;
            }
            HubRest::Now => {}
        }
        self.hub_until = None;
        let (lane, link, image) = self.broker.hub_image().expect("it rests");
        let image = decode_hub(&encode_hub(&image)).expect("it was just written");
        let mut given = Vec::new();
        loop {
            let some = self.broker.give_listeners(2);
            if some.is_empty() {
                break;
            }
            given.extend(some);
        }
        let images: Vec<ChildImage> = given.iter().map(|(_, image)| image.clone()).collect();
        let again = decode_images(&encode_images(images.iter())).expect("it was just written");
        let lane = if is_taken {
            self.broker.forget_hub();
            assert_eq!(self.broker.may_take_hub(&image), Ok(()));
            let taken = self.broker.take_hub(&image, link);
            self.conns.get_mut(&link).expect("its connection").lane = taken;
            taken
        } else {
            lane
        };
        for ((link, _), image) in given.iter().zip(again) {
            let key = self.broker.take_listener(image, None, *link, lane);
            let peer = &mut self.peers[*link];
            (peer.key, peer.armed) = (Some(key), true);
        }
        if !is_taken {
            self.broker.keep_hub(Some(link));
        }
        given.len()
    }

    /// A child goes on here, on this socket.
    pub(crate) fn take_in(&mut self, link: usize, image: ChildImage) {
        let key = self.broker.take_child(image, None, link);
        let peer = &mut self.peers[link];
        (peer.key, peer.armed, peer.closed) = (Some(key), true, false);
    }

    /// A broker before its first step.
    pub(crate) fn unconnected(settings: &[(&str, &str)], prepare: impl Fn(&mut Broker)) -> Sim {
        let mut sim = Sim::begin(settings, "redis://sim/0", 7);
        prepare(&mut sim.broker);
        sim
    }

    /// It has sent these bytes, complete or not.
    pub(crate) fn post_raw(&mut self, child: usize, bytes: &[u8]) {
        self.post(child, bytes);
    }

    /// Nobody goes any more.
    pub(crate) fn end_moves(&mut self) {
        self.broker.end_moves();
    }
}
