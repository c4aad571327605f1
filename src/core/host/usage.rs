//! What children have sent and been given, added up. Plain data.

/// Running totals of one child, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) requests: u64,
    /// Bytes that were read.
    pub(crate) bytes_in: u64,
    /// Bytes that were written.
    pub(crate) bytes_out: u64,
}

impl Usage {
    pub(crate) fn add(&mut self, other: &Usage) {
        self.requests += other.requests;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }

    /// What was added since there was this.
    pub(crate) fn since(&self, before: &Usage) -> Usage {
        Usage {
            requests: self.requests - before.requests,
            bytes_in: self.bytes_in - before.bytes_in,
            bytes_out: self.bytes_out - before.bytes_out,
        }
    }
}
