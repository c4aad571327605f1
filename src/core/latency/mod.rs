//! How long requests take: where the time goes, by family of command, of late and ever; and which were slow. Owns the
//! counts. Times are microseconds of the loop's clock, which is read once a turn, so they are those of turns.

pub(crate) mod measure;
pub(crate) mod slow_log;
pub(crate) mod windows;

use crate::command::{Runs, Table};
use crate::core::connection::slot::Slot;
use crate::core::connection::timing::RequestStamps;
use crate::core::latency::slow_log::SlowLog;
use crate::core::latency::windows::{Figures, Span, Windows};

/// What times are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Timed {
    /// From a request's arrival to its reply, by family.
    #[default]
    Read,
    Write,
    Script,
    /// The commands of a transaction, EXEC among them.
    Transaction,
    Pubsub,
    Other,
    /// The parts of that, of all families: in the child's input, in the lane's queue, at Redis and on the way.
    Input,
    Queue,
    Upstream,
    /// Until a child's socket had taken what it was given; only of children that did not at once.
    Output,
}

impl Timed {
    pub(crate) const ALL: [Timed; 10] = [
        Timed::Read,
        Timed::Write,
        Timed::Script,
        Timed::Transaction,
        Timed::Pubsub,
        Timed::Other,
        Timed::Input,
        Timed::Queue,
        Timed::Upstream,
        Timed::Output,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Timed::Read => "read",
            Timed::Write => "write",
            Timed::Script => "script",
            Timed::Transaction => "transaction",
            Timed::Pubsub => "pubsub",
            Timed::Other => "other",
            Timed::Input => "part:input",
            Timed::Queue => "part:queue",
            Timed::Upstream => "part:upstream",
            Timed::Output => "part:output",
        }
    }

    /// Whether it is a family of commands, and not a part of the time of all.
    pub(crate) fn is_family(self) -> bool {
        !matches!(self, Timed::Input | Timed::Queue | Timed::Upstream | Timed::Output)
    }
}

/// Which family a command belongs to.
pub(crate) fn family_of(table: &Table, id: u16) -> Timed {
    match () {
        () if table.runs(id) != Runs::Nothing => Timed::Script,
        () if table.may_publish(id) => Timed::Pubsub,
        () if table.is_write(id) => Timed::Write,
        () => Timed::Read,
    }
}

#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// By `Timed`; made when there is something to count.
    windows: [Option<Box<Windows>>; Timed::ALL.len()],
    /// Replies in a row that are alike: those of one turn came and were written together. Counted once the turn is over.
    alike: Alike,
    slow: SlowLog,
}

/// Replies of one family that took the same time, all of it at Redis and on the way.
#[derive(Debug, Default)]
struct Alike {
    family: Timed,
    took_us: u64,
    count: u32,
    /// By what the last of them was known.
    mark: ReplyMark,
}

/// All that decides how a reply is counted, while the clock stands. The default is that of none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ReplyMark {
    pushed_at: u64,
    written_at: u64,
    /// Command, kind and flags of the slot. One number, since each reply is compared; none is zero, because a one stands
    /// before them.
    slot: u64,
}

impl ReplyMark {
    #[inline(always)]
    pub(crate) fn new(slot: &Slot, times: &RequestStamps) -> ReplyMark {
        let parts = [1, u64::from(slot.command), slot.kind as u64, u64::from(slot.flags.bits())];
        let slot = parts.into_iter().fold(0, |all, part| all << 16 | part);
        ReplyMark { pushed_at: times.pushed_at, written_at: times.written_at, slot }
    }
}

impl Latency {
    /// Counts a reply together with the last one, if it is just like it. Nearly all replies of a pipeline are.
    #[inline(always)]
    pub(crate) fn counts_with_last(&mut self, mark: &ReplyMark) -> bool {
        let is_like_last = self.alike.mark == *mark;
        self.alike.count += u32::from(is_like_last);
        is_like_last
    }

    /// A reply to a request that has waited nowhere here.
    pub(crate) fn note_direct(&mut self, family: Timed, took_us: u64, now_us: u64, mark: ReplyMark) {
        if self.alike.family != family || self.alike.took_us != took_us {
            self.count_alike(now_us);
            (self.alike.family, self.alike.took_us) = (family, took_us);
        }
        self.alike.mark = mark;
        self.alike.count += 1;
    }

    /// Counts those that were put together.
    pub(crate) fn count_alike(&mut self, now_us: u64) {
        let Alike { family, took_us, count, .. } = std::mem::take(&mut self.alike);
        if count > 0 {
            self.note(family, took_us, count, now_us);
            self.note(Timed::Upstream, took_us, count, now_us);
        }
    }

    pub(crate) fn note(&mut self, timed: Timed, took_us: u64, count: u32, now_us: u64) {
        match &mut self.windows[timed as usize] {
            Some(windows) => windows.note(took_us, count, now_us),
            none => none.insert(Box::new(Windows::new(now_us))).note(took_us, count, now_us),
        }
    }

    pub(crate) fn windows(&self, timed: Timed) -> Option<&Windows> {
        self.windows[timed as usize].as_deref()
    }

    /// All families of the last ten seconds.
    pub(crate) fn of_late(&self, now_us: u64) -> Option<Figures> {
        let families = Timed::ALL.into_iter().filter(|timed| timed.is_family());
        let windows: Vec<&Windows> = families.filter_map(|timed| self.windows(timed)).collect();
        Some(windows::figures_of_all(&windows, Span::TenSeconds, now_us)).filter(|figures| figures.count > 0)
    }

    pub(crate) fn slow(&self) -> &SlowLog {
        &self.slow
    }

    pub(crate) fn slow_mut(&mut self) -> &mut SlowLog {
        &mut self.slow
    }
}
