//! Who waits for an answer that is younger than its request; and the upstream's bounds on an argument.

use crate::core::keys::ChildKey;
use crate::resp::value;
use redis::Value;

/// The state of one such question. All questions on the control connection are numbered in the order they are asked.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    /// Number of the question under way.
    under_way: Option<u64>,
    /// Number of the last one answered.
    answered: u64,
    waiting: Vec<ChildKey>,
}

impl Fresh {
    /// The answer has come some other way, to what was asked under this number.
    pub(super) fn came(&mut self, number: u64) {
        self.answered = number;
    }

    /// Whether the last answer is to a question asked after `asked` questions in all.
    pub(super) fn is_younger(&self, asked: u64) -> bool {
        self.answered > asked
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn wait(&mut self, child: ChildKey) {
        self.waiting.push(child);
    }

    /// Whether the question of this number is to be asked: one is enough for all who wait when it is asked.
    pub(super) fn begin(&mut self, number: u64) -> bool {
        let idle = self.under_way.is_none();
        self.under_way.get_or_insert(number);
        idle
    }

    /// The question is done, with an answer or without; returns who has waited.
    pub(super) fn end(&mut self, is_answer: bool) -> Vec<ChildKey> {
        if let Some(number) = self.under_way.take().filter(|_| is_answer) {
            self.answered = number;
        }
        std::mem::take(&mut self.waiting)
    }
}

/// Redis' bound on one string.
pub(super) const BULK_SETTING: &str = "proto-max-bulk-len";
/// Redis' bound on what it reads from one connection before it has run it.
pub(super) const QUERY_SETTING: &str = "client-query-buffer-limit";
/// What Redis reads an argument into has room for its CRLF too.
const CRLF: u64 = 2;

#[derive(Debug)]
pub(crate) struct UpstreamLimits {
    /// `proto-max-bulk-len` and `client-query-buffer-limit`; `u64::MAX` where nothing is known.
    bulk_bytes: u64,
    query_bytes: u64,
    /// The lesser, as a bound on one argument.
    argument_bytes: u64,
    /// How many arguments a request may have; without a bound where the server has none that a request can reach.
    arguments: usize,
    /// A request of so many bytes breaks none of them.
    harmless_bytes: u64,
}

/// Redis older than 7.0 takes no more arguments than this.
const ARGUMENTS_BEFORE_7: usize = 1 << 20;
/// Bytes of the shortest argument, with what stands around it.
const ARGUMENT_LEAST: u64 = 6;

impl Default for UpstreamLimits {
    fn default() -> Self {
        let most = u64::MAX;
        UpstreamLimits {
            bulk_bytes: most,
            query_bytes: most,
            argument_bytes: most,
            arguments: usize::MAX,
            harmless_bytes: most,
        }
    }
}

impl UpstreamLimits {
    /// Bytes from which on a request may break a bound.
    #[inline]
    pub(super) fn harmless_max(&self) -> u64 {
        self.harmless_bytes
    }

    fn find_harmless(&mut self) {
        self.harmless_bytes = self.argument_bytes.min((self.arguments as u64).saturating_mul(ARGUMENT_LEAST));
    }

    /// Whether a request may have so many arguments.
    pub(super) fn takes(&self, arguments: usize) -> bool {
        arguments <= self.arguments
    }

    pub(crate) fn set_before_7(&mut self, is_before_7: bool) {
        self.arguments = if is_before_7 { ARGUMENTS_BEFORE_7 } else { usize::MAX };
        self.find_harmless();
    }

    /// Bytes of one argument.
    pub(super) fn argument_max(&self) -> u64 {
        self.argument_bytes
    }

    /// The setting that an argument of this length exceeds, and its bytes.
    pub(super) fn exceeded_by(&self, len: u64) -> (&'static str, u64) {
        match len > self.bulk_bytes {
            true => (BULK_SETTING, self.bulk_bytes),
            false => (QUERY_SETTING, self.query_bytes),
        }
    }

    /// What `CONFIG GET` has answered; nothing is known after an error.
    pub(crate) fn take(&mut self, frame: &[u8]) {
        let pairs = value::parse(frame).and_then(value::pairs).unwrap_or_default();
        let number = |wanted: &str| {
            let of = |(name, number): &(Value, Value)| {
                let named = value::text(name).is_some_and(|name| name == wanted);
                named.then(|| value::text(number)?.parse::<u64>().ok()).flatten()
            };
            pairs.iter().find_map(of).filter(|number| *number > 0).unwrap_or(u64::MAX)
        };
        (self.bulk_bytes, self.query_bytes) = (number(BULK_SETTING), number(QUERY_SETTING));
        self.argument_bytes = self.bulk_bytes.min(self.query_bytes.saturating_sub(CRLF));
        self.find_harmless();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lesser_of_the_two_bounds_an_argument() {
        let mut known = UpstreamLimits::default();
        known.take(b"%2\r\n$18\r\nproto-max-bulk-len\r\n$3\r\n100\r\n$25\r\nclient-query-buffer-limit\r\n$3\r\n101\r\n");
        assert_eq!((known.bulk_bytes, known.query_bytes, known.argument_bytes), (100, 101, 99));
        known.take(b"%1\r\n$18\r\nproto-max-bulk-len\r\n$3\r\n100\r\n");
        assert_eq!(known.argument_bytes, 100);
        for nothing in
            [&b"-NOPERM this user\r\n"[..], b"%0\r\n", b"%1\r\n$18\r\nproto-max-bulk-len\r\n$1\r\nx\r\n"]
        {
            known.take(nothing);
            assert!(known.argument_bytes > u64::from(u32::MAX), "{nothing:?}");
        }
        assert!(known.harmless_max() > u64::from(u32::MAX) && known.takes(1 << 30));
        known.set_before_7(true);
        assert!(known.takes(1 << 20) && !known.takes((1 << 20) + 1));
        assert!(known.harmless_max() < 7 * (1 << 20), "the least that so many arguments take");
    }
}
