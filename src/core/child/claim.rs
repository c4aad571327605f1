//! What a child's request holds of which only a part has been read. Data only; who may hold how much is `core::intake`'s.

/// Kept by the child from the first header that announces much until the request is taken, or given up.
#[derive(Debug, Default)]
pub(crate) struct InputClaim {
    /// Its place among those that hold something: the lowest is the oldest. None as long as it only waits.
    pub(crate) ticket: Option<u64>,
    pub(crate) bytes: usize,
    /// All of it has come, and it has not been taken yet.
    pub(crate) is_whole: bool,
    /// It is dropped as it is read.
    pub(crate) is_skipped: bool,
}
