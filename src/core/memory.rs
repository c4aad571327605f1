//! When the program is told that memory has come free. Owns no buffer; the totals are `Env::memory`, which whatever
//! changes a buffer keeps up to date.

use crate::base::clock::Millis;
use crate::base::limits;

#[derive(Debug, Default)]
pub(crate) struct Trim {
    /// The most the broker has held since the program was last told that memory came free.
    peak: usize,
    told_at: Millis,
    /// Memory has come free and the program does not know yet.
    due: bool,
}

impl Trim {
    /// Looks at how much is held `now`; notes when it is much less than it was.
    pub(crate) fn check(&mut self, held: usize, now: Millis) {
        if now >= self.told_at + limits::TRIM_INTERVAL && self.peak >= held + limits::TRIM_MIN {
            *self = Trim { peak: held, told_at: now, due: true };
        }
    }

    pub(crate) fn rise(&mut self, held: usize) {
        self.peak = self.peak.max(held);
    }

    pub(crate) fn take_due(&mut self) -> bool {
        std::mem::take(&mut self.due)
    }
}
