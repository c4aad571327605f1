//! What a child is told of what it wrote: a write that was answered well is there exactly once, one whose fate was left
//! open at most once, one refused not at all.

/// What a child was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It happened, once.
    Done,
    /// It happened once or not at all.
    Maybe,
    /// It did not happen.
    Never,
}

/// What a reply says of the write it answers; none when it is not an error that may come at any time.
pub(crate) fn fate_of(reply: &str) -> Option<Fate> {
    let maybe = ["-BROKERLOST ", "-BROKERTIMEOUT "];
    let never = ["-BROKERDOWN ", "-BROKERLIMIT ", "-LOADING ", "-EXECABORT "];
    if maybe.iter().any(|word| reply.starts_with(word)) {
        return Some(Fate::Maybe);
    }
    never.iter().any(|word| reply.starts_with(word)).then_some(Fate::Never)
}
