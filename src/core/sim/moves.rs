//! Children that go to another process, as far as one broker tells: each that comes to rest is written down as an image, read
//! again and taken in, on the same socket. What would be lost on the way is missed by its script, and by the invariants.

use super::Sim;
use crate::core::broker::Broker;
use crate::core::handover::format::{decode_images, encode_images};
use crate::core::handover::image::ChildImage;

impl Sim {
    /// Some children are to go.
    pub(crate) fn begin_moves(&mut self, count: usize) {
        self.broker.begin_moves(count);
    }

    /// Those that are at rest go, and come back. Returns how many did.
    pub(crate) fn move_rested(&mut self) -> usize {
        let (links, images): (Vec<usize>, Vec<_>) = self.broker.give_rested(8, 4096).into_iter().unzip();
        let again = decode_images(&encode_images(&images)).expect("it was just written");
        assert_eq!(again, images);
        for (link, image) in links.iter().zip(again) {
            assert_eq!(self.broker.may_take(&image), Ok(()));
            self.take_in(*link, image);
        }
        links.len()
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
