//! Measures requests as they pass: when they came in, were put on a lane, were written, were answered, and when a child had
//! taken its reply. Decides which family a request is of and which was slow; changes nothing about the request.

use crate::config::value::SlowlogArgs;
use crate::core::child::Child;
use crate::core::child::children::Children;
use crate::core::connection::lane::Answered;
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::keys::LaneKey;
use crate::core::latency::slow_log::SlowRequest;
use crate::core::latency::{ReplyMark, Timed};
use crate::core::shared::Shared;

/// Bytes of a key, or of the beginning of a request, that the slow log shows.
const KEY_MAX: usize = 64;

/// The arguments of a canonical request, as far as its first bytes go; the last may be cut.
fn args_of(mut prefix: &[u8]) -> Vec<&[u8]> {
    let mut args = Vec::new();
    let skip_line = |bytes: &mut &[u8]| {
        let end = memchr::memchr(b'\n', bytes)?;
        let line = &bytes[1..end.saturating_sub(1).max(1)];
        *bytes = &bytes[end + 1..];
        std::str::from_utf8(line).ok()?.parse::<usize>().ok()
    };
    if skip_line(&mut prefix).is_none() {
        return args;
    }
    while let Some(len) = skip_line(&mut prefix) {
        args.push(&prefix[..len.min(prefix.len())]);
        prefix = prefix.get(len + 2..).unwrap_or_default();
    }
    args
}

impl Shared {
    /// A reply has come: counts how long it took and where.
    #[inline]
    pub(crate) fn note_latency(&mut self, children: &Children, lane: LaneKey, answered: &Answered) {
        let mark = ReplyMark::new(&answered.slot, &answered.times);
        if answered.times.input_us > 0 || !self.latency.counts_with_last(&mark) {
            self.note_another(children, lane, answered, mark);
        }
    }

    /// It is not like the one before.
    #[inline(never)]
    fn note_another(&mut self, children: &Children, lane: LaneKey, answered: &Answered, mark: ReplyMark) {
        let (slot, times) = (&answered.slot, &answered.times);
        // What waits, for an element or a replica, is not slow; the broker's own questions are nobody's.
        if !slot.is_owed_to_a_child() || slot.may_wait() || slot.kind == SlotKind::Blocking {
            return;
        }
        let now = self.env.micros;
        let upstream = now.saturating_sub(times.written_at);
        let queue = times.written_at.saturating_sub(times.pushed_at);
        let total = now.saturating_sub(times.pushed_at) + times.input_us;
        let family = match slot.kind {
            SlotKind::Relay => self.commands.family(slot.command),
            SlotKind::Count => Timed::Pubsub,
            SlotKind::Wait | SlotKind::SubscriberPing => Timed::Other,
            _ => Timed::Transaction,
        };
        let is_slow = total >= self.env.slow_us();
        if total == upstream {
            self.latency.note_direct(family, total, now, if is_slow { ReplyMark::default() } else { mark });
        } else {
            self.note_parts(family, [total, times.input_us, queue, upstream]);
        }
        if is_slow {
            self.note_slow(children, lane, slot, [times.input_us, queue, upstream]);
        }
    }

    /// The same of one that has waited here, too. What took no time is not counted.
    fn note_parts(&mut self, family: Timed, times: [u64; 4]) {
        let parts = [family, Timed::Input, Timed::Queue, Timed::Upstream];
        for (part, took) in parts.into_iter().zip(times).filter(|(_, took)| *took > 0) {
            self.latency.note(part, took, 1, self.env.micros);
        }
    }

    #[inline(never)]
    fn note_slow(&mut self, children: &Children, lane: LaneKey, slot: &Slot, parts: [u64; 3]) {
        let [input_us, queue_us, upstream_us] = parts;
        let prefix = self.connections.find(lane).and_then(|lane| lane.prefix_of(slot));
        let args = prefix.map(|prefix| self.shown_args(prefix)).unwrap_or_default();
        let entry = self.slow_request(children.get(slot.child), slot);
        let entry = SlowRequest { input_us, queue_us, upstream_us, args, ..entry };
        self.latency.slow_mut().add(entry, self.env.settings.slowlog_max);
    }

    fn slow_request(&self, child: Option<&Child>, slot: &Slot) -> SlowRequest {
        let process = child.and_then(|child| self.processes.get(child.origin().process()));
        SlowRequest {
            number: 0,
            at: self.env.now,
            child: slot.child,
            id: child.map(|child| child.session().id),
            pid: child.and_then(|child| child.origin().pid()),
            process: process.map_or(String::new(), |process| process.name().to_owned()),
            name: child.map_or(Vec::new(), |child| child.session().name.clone()),
            command: self.commands.name(slot.command).to_owned(),
            args: Vec::new(),
            input_us: 0,
            queue_us: 0,
            upstream_us: 0,
            output_us: 0,
        }
    }

    /// What of a request's first bytes may be shown.
    fn shown_args(&self, prefix: &[u8]) -> Vec<u8> {
        let args = args_of(prefix);
        let args = args.get(1..).unwrap_or_default();
        match self.env.settings.slowlog_args {
            SlowlogArgs::None => Vec::new(),
            SlowlogArgs::Key => {
                args.first().map(|key| key[..key.len().min(KEY_MAX)].to_vec()).unwrap_or_default()
            }
            SlowlogArgs::All => args.join(&b' '),
        }
    }

    /// The child's socket has taken what it could. Counts how long it took, once it has taken all.
    #[inline]
    pub(crate) fn note_output(&mut self, child: &mut Child) {
        let Some(took) = child.note_blocked_output(self.env.micros) else { return };
        self.latency.note(Timed::Output, took, 1, self.env.micros);
        if took >= self.env.slow_us() && !self.latency.slow_mut().add_output(child.key(), took) {
            let command = child.last_command().unwrap_or_default();
            let slot = Slot::of(child.key(), command, SlotKind::Relay, SlotFlags::NONE);
            let entry = SlowRequest { output_us: took, ..self.slow_request(Some(child), &slot) };
            self.latency.slow_mut().add(entry, self.env.settings.slowlog_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_from_the_beginning_of_a_request() {
        let args =
            |text: &str| args_of(text.as_bytes()).into_iter().map(|arg| arg.to_vec()).collect::<Vec<_>>();
        assert_eq!(args("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n"), [&b"SET"[..], b"key", b"value"]);
        assert_eq!(args("*2\r\n$3\r\nGET\r\n$300\r\nlong"), [&b"GET"[..], b"long"]);
        assert_eq!(args("*2\r\n$3\r\nGET\r\n$30"), [&b"GET"[..]]);
        for odd in ["", "*", "*1", "\n", "\r\n", "*1\r\n$", "*1\r\n$9999999999999999999999\r\nx", "$\n$\n"] {
            assert!(args(odd).is_empty(), "{odd:?}");
        }
    }
}
