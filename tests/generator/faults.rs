//! What can be done to a connection between broker and Redis.

/// The last three leave valid RESP that is not Redis' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    CutRequest,
    CutReply,
    Delay,
    Split,
    Lose,
    Duplicate,
    Inject,
}

impl Fault {
    pub(crate) const BYTES: [Fault; 4] = [Fault::CutRequest, Fault::CutReply, Fault::Delay, Fault::Split];
    /// In this order the simulation draws them.
    pub(crate) const FRAMES: [Fault; 3] = [Fault::Lose, Fault::Duplicate, Fault::Inject];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::CutRequest => "cut-request",
            Fault::CutReply => "cut-reply",
            Fault::Delay => "delay",
            Fault::Split => "split",
            Fault::Lose => "lose",
            Fault::Duplicate => "duplicate",
            Fault::Inject => "inject",
        }
    }
}
