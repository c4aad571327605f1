//! Children that outlive this process without another one beside it: a store of descriptors that the program knows of, the
//! service manager's, has their sockets and images until the next process finds them there. Owns the end that gives them
//! (children come to rest, leave the core and go to the program in batches; a drain lets the others go) and the beginning that
//! has them back. Never speaks to the store, and leaves nobody both there and here.

use crate::base::clock::{Millis, time_of_system};
use crate::base::limits;
use crate::core::{ChildImage, HANDOVER_FORMAT, decode_images, encode_images};
use crate::reactor::{Door, Loop};
use crate::resp::{encode, value};
use crate::transport::handover::{read_memory, sealed_memory};
use crate::transport::stream::Stream;
use redis::Value;
use rustix::fs::fstat;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use zeroize::Zeroizing;

/// The first word of the memory of a batch.
const MARK: &str = "broker-children";

/// Children that are no longer served here, for the store. Dropping it closes them.
#[derive(Debug)]
pub struct StoredBatch {
    /// Its number in this process, from 1 on.
    pub number: u64,
    /// What is remembered of them, sealed. It goes into the store before any of them.
    pub images: OwnedFd,
    /// Their ids and sockets.
    pub children: Vec<(u64, OwnedFd)>,
}

/// What a store has had of children when the program began. The store itself has nothing of it any more.
#[derive(Debug, Default)]
pub struct StoredChildren {
    /// The memories, in any order.
    pub images: Vec<OwnedFd>,
    /// Ids and sockets.
    pub sockets: Vec<(u64, OwnedFd)>,
}

#[derive(Debug)]
pub(super) struct Storing {
    /// Descriptors for which there is room.
    room: usize,
    /// Nobody is waited for any longer.
    due: Millis,
    /// Children that have come from a store and go back there.
    unserved: VecDeque<(ChildImage, Stream)>,
    /// For the program.
    batch: Option<StoredBatch>,
    /// The program has one that is not in the store yet.
    is_out: bool,
    batches: u64,
    stored: usize,
}

/// Children on their way into the core, in the order of their ids.
#[derive(Debug)]
pub(super) struct Returning {
    children: VecDeque<(ChildImage, Stream)>,
    /// They do not wait for the upstream any longer.
    due: Millis,
}

/// What a memory says.
#[derive(Debug)]
struct StoredImages {
    /// When the images were made, by the system's clock.
    at: Millis,
    /// The last id and the last ticket that had been given out.
    numbers: (u64, u64),
    /// The numbers of the sockets, as the system has them, in the order of the images.
    inodes: Vec<u64>,
    upstream: String,
    images: Vec<ChildImage>,
}

impl StoredImages {
    fn encode(&self) -> io::Result<OwnedFd> {
        let inodes: Vec<String> = self.inodes.iter().map(u64::to_string).collect();
        let (format, at) = (HANDOVER_FORMAT.to_string(), self.at.to_string());
        let numbers = format!("{},{}", self.numbers.0, self.numbers.1);
        let images = encode_images(self.images.iter());
        let mut bytes = Zeroizing::new(Vec::with_capacity(images.len() + 4096));
        let inodes = inodes.join(",");
        let texts = [MARK, &format, &at, &numbers, &inodes, &self.upstream].map(str::as_bytes);
        encode::array_header(&mut bytes, texts.len() + 1);
        texts.into_iter().chain([images.as_slice()]).for_each(|word| encode::bulk(&mut bytes, word));
        sealed_memory(&bytes)
    }

    fn decode(memory: OwnedFd) -> Result<StoredImages, String> {
        let bytes = read_memory(memory).map_err(|error| error.to_string())?;
        let Some(Value::Array(words)) = value::parse(&bytes) else {
            return Err("not the images of children".to_owned());
        };
        let text = |at: usize| words.get(at).and_then(value::text).unwrap_or_default();
        if text(0) != MARK {
            return Err("not the images of children".to_owned());
        }
        if text(1) != HANDOVER_FORMAT.to_string() {
            return Err(format!("format {} is not {HANDOVER_FORMAT}", text(1).escape_default()));
        }
        let list = |at: usize| -> Result<Vec<u64>, String> {
            let numbers = text(at);
            let numbers = numbers.split(',').filter(|number| !number.is_empty()).map(str::parse);
            numbers.collect::<Result<_, _>>().map_err(|_| "no list of numbers".to_owned())
        };
        let (Ok(at), &[id, ticket]) = (text(2).parse(), list(3)?.as_slice()) else {
            return Err("images without numbers".to_owned());
        };
        let Some(Value::BulkString(images)) = words.get(6) else { return Err("no images".to_owned()) };
        let (inodes, images) = (list(4)?, decode_images(images)?);
        if inodes.len() != images.len() || id >= limits::CHILD_ID_MAX {
            return Err("images that do not belong together".to_owned());
        }
        Ok(StoredImages { at, numbers: (id, ticket), inodes, upstream: text(5), images })
    }
}

fn inode(socket: &impl AsFd) -> io::Result<u64> {
    Ok(fstat(socket)?.st_ino)
}

impl Loop {
    /// From now on `drain` gives children at rest to the program, which has a store for so many descriptors that outlives the
    /// process: `next_stored` after each turn. Another number later counts from then on; 0 ends it.
    pub fn store_children(&mut self, room: usize) {
        self.handover.store_room = room;
    }

    /// Children for the store. The answer is `stored`; until then no others come.
    pub fn next_stored(&mut self) -> Option<StoredBatch> {
        let storing = self.handover.storing.as_mut()?;
        let batch = storing.batch.take()?;
        storing.is_out = true;
        Some(batch)
    }

    /// The store has so many of the children of the last batch. `goes_on`: it takes others.
    pub fn stored(&mut self, count: usize, goes_on: bool) {
        let Some(storing) = &mut self.handover.storing else { return };
        storing.is_out = false;
        storing.stored += count;
        if !goes_on {
            storing.room = 0;
        }
        self.unsettled = true;
    }

    pub(in crate::reactor) fn is_storing(&self) -> bool {
        self.handover.storing.is_some()
    }

    pub(in crate::reactor) fn forget_store(&mut self) {
        (self.handover.storing, self.handover.returning) = (None, None);
    }

    /// Whether children go into a store before the loop drains. Who connects from now on waits for the next process.
    pub(in crate::reactor) fn begin_storing(&mut self) -> bool {
        if self.is_storing() {
            return true;
        }
        let is_followed = self.handover.giver.is_some() || self.handover.taker.is_some();
        if !self.is_serving() || is_followed || self.handover.store_room < 2 {
            return false;
        }
        self.tell_time();
        self.keep_listeners();
        for index in (0..self.listeners.len()).rev() {
            if self.listeners[index].door != Door::Admin {
                self.close_door(index);
            }
        }
        let returning = self.handover.returning.take();
        self.handover.storing = Some(Box::new(Storing {
            room: self.handover.store_room,
            due: self.told + limits::STORE_MAX,
            unserved: returning.map(|returning| returning.children).unwrap_or_default(),
            batch: None,
            is_out: false,
            batches: 0,
            stored: 0,
        }));
        self.unsettled = true;
        true
    }

    /// The next batch, as soon as the last one is in the store; a drain, when nobody is left who could go.
    pub(in crate::reactor) fn go_on_storing(&mut self) {
        let Some(mut storing) = self.handover.storing.take_if(|one| !one.is_out && one.batch.is_none())
        else {
            return;
        };
        let is_over = storing.room < 2 || storing.due <= self.told;
        let children = if is_over { Vec::new() } else { self.next_to_store(&mut storing) };
        if !children.is_empty() {
            self.unsettled = true;
            storing.batches += 1;
            match self.batch_of(storing.batches, children) {
                Ok(batch) => {
                    storing.room = storing.room.saturating_sub(1 + batch.children.len());
                    storing.batch = Some(batch);
                }
                Err(error) => {
                    log::warn!("cannot store children: {error}");
                    storing.room = 0;
                }
            }
        } else if is_over || !self.core.may_give_more() {
            log::info!(
                "{} children are kept for the next process; {} are let go",
                storing.stored,
                self.core.children_len() + storing.unserved.len()
            );
            drop(storing);
            self.core.end_moves();
            return self.drain_within(None);
        }
        self.handover.storing = Some(storing);
    }

    /// Children that are in the core no more, as many as make a batch and find room, with the memory that has their images.
    fn next_to_store(&mut self, storing: &mut Storing) -> Vec<(ChildImage, Stream)> {
        let count = limits::MOVES_BATCH.min(storing.room.saturating_sub(1));
        let mut children: Vec<_> = storing.unserved.drain(..count.min(storing.unserved.len())).collect();
        if children.is_empty() {
            self.core.begin_moves(count);
            let given = self.core.give_rested(count, limits::MOVES_BYTES);
            children = self.released(given);
        }
        children
    }

    /// If that fails they go on here.
    fn batch_of(&mut self, number: u64, children: Vec<(ChildImage, Stream)>) -> io::Result<StoredBatch> {
        let inodes = children.iter().map(|(_, stream)| inode(stream)).collect::<io::Result<Vec<u64>>>();
        let (images, streams): (Vec<ChildImage>, Vec<Stream>) = children.into_iter().unzip();
        let (at, numbers) = (time_of_system(), self.core.numbers());
        let upstream = self.core.upstream().to_string();
        let mut of = StoredImages { at, numbers, inodes: Vec::new(), upstream, images };
        let memory = inodes.and_then(|inodes| {
            of.inodes = inodes;
            of.encode()
        });
        match memory {
            Ok(images) => {
                let ids = of.images.iter().map(|image| image.id);
                let children = ids.zip(streams.into_iter().map(OwnedFd::from)).collect();
                Ok(StoredBatch { number, images, children })
            }
            Err(error) => {
                self.put_back(None, of.images.into_iter().zip(streams).collect());
                Err(error)
            }
        }
    }

    /// Children that a store has had go on here, once the upstream has told of its commands: what they have queued or are
    /// waiting for is in its terms. What does not fit together is closed. To be called before the first turn.
    pub fn take_stored(&mut self, stored: StoredChildren) {
        let mut sockets: HashMap<u64, OwnedFd> = HashMap::with_capacity(stored.sockets.len());
        let mut wrong = Vec::new();
        for (id, socket) in stored.sockets {
            if let Some(other) = sockets.insert(id, socket) {
                // Nobody knows which of them it is.
                drop((other, sockets.remove(&id)));
                wrong.push(format!("child {id}: two sockets"));
            }
        }
        let mut children = Vec::new();
        for memory in stored.images {
            match StoredImages::decode(memory) {
                Ok(of) => self.match_sockets(of, &mut sockets, &mut children, &mut wrong),
                Err(why) => wrong.push(format!("images of children: {why}")),
            }
        }
        wrong.extend(sockets.keys().map(|id| format!("child {id}: nothing is remembered of it")));
        if let Some(first) = wrong.first() {
            log::warn!("{} of the store's children cannot go on and are closed; {first}", wrong.len());
        }
        if children.is_empty() {
            return;
        }
        log::info!("{} children come from the former process", children.len());
        children.sort_by_key(|(image, _)| image.id);
        // For as long as a request would, but for one attempt to connect at least.
        let settings = self.core.settings();
        let due = self.clock.now() + settings.queue_timeout.max(settings.connect_timeout);
        self.handover.returning = Some(Box::new(Returning { children: children.into(), due }));
    }

    /// Each image with the socket that it was made of.
    fn match_sockets(
        &mut self,
        of: StoredImages,
        sockets: &mut HashMap<u64, OwnedFd>,
        children: &mut Vec<(ChildImage, Stream)>,
        wrong: &mut Vec<String>,
    ) {
        self.core.continue_numbers(of.numbers);
        let is_same_upstream = of.upstream == self.core.upstream().to_string();
        let age = time_of_system().saturating_sub(of.at);
        for (mut image, expected) in of.images.into_iter().zip(of.inodes) {
            let id = image.id;
            let mut matched = || {
                let socket = sockets.remove(&id).ok_or("it has gone")?;
                if inode(&socket).ok() != Some(expected) {
                    return Err("another socket has its name".to_owned());
                }
                if !is_same_upstream {
                    return Err(format!("its upstream was {}", of.upstream.escape_default()));
                }
                self.core.may_take(&image)?;
                Stream::take_over(socket)
            };
            match matched() {
                Ok(stream) => {
                    image.grow_older(age);
                    children.push((image, stream));
                }
                Err(why) => wrong.push(format!("child {id}: {why}")),
            }
        }
    }

    /// Some of those that come from a store, if it is time.
    pub(super) fn bring_back(&mut self) {
        let Some(returning) = &mut self.handover.returning else { return };
        let is_ready = self.core.is_ready();
        if !is_ready && self.told < returning.due {
            return;
        }
        let count = limits::MOVES_BATCH.min(returning.children.len());
        let children: Vec<_> = returning.children.drain(..count).collect();
        if returning.children.is_empty() {
            self.handover.returning = None;
        }
        for (image, stream) in children {
            if !is_ready && (image.multi.is_some() || image.wait.is_some()) {
                log::warn!(
                    "child {} is closed: the upstream does not answer, and it is in a transaction or waits",
                    image.id
                );
                let _ = stream.shutdown();
                continue;
            }
            self.take_in(image, stream, None);
        }
        self.unsettled = true;
    }
}
