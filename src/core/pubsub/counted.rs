//! What is remembered of a request under way whose reply counts listeners, and a child's line of them. Data only: how a reply
//! is corrected is in `pubsub::counts`.

use crate::command::Count;
use crate::resp::Request;
use std::collections::VecDeque;

/// Bytes that a channel costs beside its own: the allocator's.
const CHANNEL_BYTES: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) count: Count,
    /// What is published to. Empty for a question: its reply names what it is about.
    pub(crate) channel: Box<[u8]>,
}

impl Counted {
    pub(crate) fn of(count: Count, request: &Request<'_>) -> Counted {
        let channel = if count.publishes { request.arg(1).into() } else { Box::default() };
        Counted { count, channel }
    }

    pub(crate) fn footprint(&self) -> usize {
        size_of::<(u32, Counted)>() + self.channel.len() + CHANNEL_BYTES
    }
}

/// Those of one child, in the order of their slots.
#[derive(Debug, Default)]
pub(crate) struct CountedLine {
    line: VecDeque<Counted>,
    channel_bytes: usize,
}

impl CountedLine {
    pub(crate) fn push(&mut self, counted: Counted) {
        self.channel_bytes += counted.channel.len() + CHANNEL_BYTES;
        self.line.push_back(counted);
    }

    pub(crate) fn pop(&mut self) -> Option<Counted> {
        let counted = self.line.pop_front()?;
        self.channel_bytes -= counted.channel.len() + CHANNEL_BYTES;
        Some(counted)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    pub(crate) fn footprint(&self) -> usize {
        size_of::<CountedLine>() + self.line.capacity() * size_of::<Counted>() + self.channel_bytes
    }
}

/// Those in the reply to an EXEC, by their indices in its array, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CountedElements {
    elements: Vec<(u32, Counted)>,
    channel_bytes: usize,
}

impl CountedElements {
    pub(crate) fn push(&mut self, element: u32, counted: Counted) {
        self.channel_bytes += counted.channel.len() + CHANNEL_BYTES;
        self.elements.push((element, counted));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(u32, Counted)> {
        self.elements.iter()
    }

    pub(crate) fn footprint(&self) -> usize {
        self.elements.capacity() * size_of::<(u32, Counted)>() + self.channel_bytes
    }
}
