//! A way to a disk for the program's own verbs, over a socket that both sides already have.
//!
//! A front end implements it, and the account uses it without knowing which front end, or which protocol, that is.

use std::fmt;
use std::os::fd::OwnedFd;

use super::{Attached, Counts, Export};
use crate::Result;

/// What the client has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachTerms {
    /// Bytes of one read or write at the most.
    pub most: u32,
    /// How replies call the map of what is stored, where the protocol has such a name: with NBD the id of
    /// `base:allocation`.
    pub context: u32,
}

/// Leads to the connections of a server.
pub trait Attach: fmt::Debug + Send + Sync {
    /// Serves `export` to the client at the other end of `socket`. `kept` goes when the client has left, and every
    /// request of it is done. The disk may be resized meanwhile: it checks every range itself.
    /// [`LimitExceeded`](crate::ErrorKind::LimitExceeded): there are as many clients as there may be.
    fn admit(&self, socket: OwnedFd, export: Export, kept: Box<dyn Send>) -> Result<AttachTerms>;

    /// Leaves nothing of what clients have read and written in the server's buffers, as soon as no request under way
    /// needs it; `from_now_on`: nor of what they send until the next call.
    fn forget(&self, from_now_on: bool);

    /// The clients of the server and what they did, the first to attach first.
    fn clients(&self) -> Vec<(Attached, Counts)>;
}
