//! What the broker says over HTTP to those who watch it: how a request is read, what may be asked, how an answer, the
//! metrics and the status page are written. Bytes in, bytes out: owns no socket, no time and no number, and no request changes anything.

mod accept;
pub(crate) mod answer;
pub(crate) mod exposition;
mod host;
pub(crate) mod page;
pub(crate) mod request;

pub(crate) use answer::HttpStatus;
pub(crate) use host::Hosts;
