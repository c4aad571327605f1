//! Whether a pattern of PSUBSCRIBE matches a channel, exactly as Redis decides it (`stringmatchlen`). Owns how many steps a
//! look at patterns may take; never which patterns there are.

use crate::base::limits;

/// Steps that are left for a look: one for each byte or part of a pattern that is compared.
#[derive(Debug)]
pub(super) struct Steps(usize);

impl Default for Steps {
    fn default() -> Steps {
        Steps(limits::COUNT_STEPS_MAX)
    }
}

impl Steps {
    /// Takes so many. False if there are fewer: then nobody looks any further.
    pub(super) fn take(&mut self, steps: usize) -> bool {
        let left = self.0.checked_sub(steps);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }

    pub(super) fn taken(&self) -> usize {
        limits::COUNT_STEPS_MAX - self.0
    }
}

/// Whether the pattern matches. False, too, once no steps are left.
pub(super) fn matches(pattern: &[u8], channel: &[u8], steps: &mut Steps) -> bool {
    if channel.is_empty() {
        // Redis does not even look at a star.
        return pattern.is_empty();
    }
    let (mut at, mut read) = (0, 0);
    // Behind the last star: the rest of the pattern, and the rest of the channel that it was last tried on.
    let mut star = None;
    while read < channel.len() {
        if !steps.take(1) {
            return false;
        }
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                if at == pattern.len() {
                    return true;
                }
                star = Some((at, read));
                continue;
            }
            Some(_) => {
                let (fits, len) = part(&pattern[at..], channel[read]);
                if len > 1 && !steps.take(len) {
                    return false;
                }
                if fits {
                    (at, read) = (at + len, read + 1);
                    continue;
                }
            }
            None => {}
        }
        // An earlier star need not be tried again: what it could give way to, the last one can.
        let Some((rest, tried)) = star else { return false };
        star = Some((rest, tried + 1));
        (at, read) = (rest, tried + 1);
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// The part of a pattern at its start that stands for one byte: whether it stands for this one, and how long it is.
fn part(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'[', rest @ ..] => {
            let (fits, len) = class(rest, byte);
            (fits, 1 + len)
        }
        [b'\\', escaped, ..] => (*escaped == byte, 2),
        [literal, ..] => (*literal == byte, 1),
        [] => (false, 0),
    }
}

/// The same of a class, behind its bracket. One that is not closed ends with the pattern.
fn class(pattern: &[u8], byte: u8) -> (bool, usize) {
    let negated = pattern.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match &pattern[at..] {
            [] => return (found != negated, at),
            [b']', ..] => return (found != negated, at + 1),
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [from, b'-', to, ..] => {
                // Redis compares them as `char`, which has a sign where it mostly runs.
                let (from, to, byte) = (*from as i8, *to as i8, byte as i8);
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, channel: &str) -> bool {
        matches(pattern.as_bytes(), channel.as_bytes(), &mut Steps::default())
    }

    /// Each was asked of a server. That the two always agree is compared in `tests/pubsub_counts.rs`.
    #[test]
    fn each_part_of_a_pattern_matches_as_in_redis() {
        for (pattern, channel) in [
            ("", ""),
            ("a", "a"),
            ("*", "a"),
            ("a*", "a"),
            ("a**", "ab"),
            ("*b*d", "abcbd"),
            ("a?c", "abc"),
            ("[a-c]x", "bx"),
            ("[c-a]x", "bx"),
            ("[^a]", "b"),
            ("[\\]]", "]"),
            ("\\*", "*"),
            ("a\\", "a\\"),
            ("[ab", "b"),
            ("[^", "x"),
            ("[a-", "-"),
            ("*[ab]*[cd]", "xaxd"),
            ("**a", "a"),
            ("[]]", "]"),
        ] {
            let expected = (pattern, channel) != ("[]]", "]");
            assert_eq!(fits(pattern, channel), expected, "{pattern:?} {channel:?}");
        }
        for (pattern, channel) in [
            ("*", ""),
            ("", "a"),
            ("a", "b"),
            ("a?", "a"),
            ("\\*", "a"),
            ("[", "["),
            ("[^a]", "a"),
            ("*a", "ab"),
            ("a*?", "a"),
            ("[a-c]", "d"),
        ] {
            assert!(!fits(pattern, channel), "{pattern:?} {channel:?}");
        }
    }

    /// A pattern that would be compared with all of a long channel at each of its bytes.
    #[test]
    fn a_look_at_patterns_has_an_end() {
        let (pattern, channel) = (format!("*{}b", "a".repeat(2000)), "a".repeat(10_000));
        let mut steps = Steps(100_000);
        assert!(!matches(pattern.as_bytes(), channel.as_bytes(), &mut steps));
        assert!(!steps.take(1));
        assert!(!matches(b"a", b"a", &mut steps), "nobody looks any further");
        assert!(matches(b"a*", channel.as_bytes(), &mut Steps(3)), "not what stands at its start");
    }
}
