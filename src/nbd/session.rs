//! What a handshake settles: one export, as one client attached it.

use std::sync::Arc;

use super::context::Contexts;
use super::wire::transmission::{HeaderStyle, flag};
use crate::serve::{Export, Identity};

/// The terms of a connection in transmission; they never change.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Arc<Identity>,
    pub(super) export: Export,
    /// Bytes, as the client was told: a resize shows at the next handshake.
    pub(super) size: u64,
    pub(super) style: HeaderStyle,
    pub(super) contexts: Contexts,
}

/// Transmission flags of an export under these terms.
pub(super) fn transmission_flags(read_only: bool, style: HeaderStyle, contexts: Contexts) -> u16 {
    // Every connection to a disk shares one committer, so a flush on one covers the others' writes.
    let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE | flag::CAN_MULTI_CONN;
    flags |= match read_only {
        true => flag::READ_ONLY,
        false => flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO,
    };
    if style != HeaderStyle::Simple {
        flags |= flag::SEND_DF;
    }
    if style == HeaderStyle::Extended && !contexts.is_empty() {
        flags |= flag::BLOCK_STATUS_PAYLOAD;
    }
    flags
}
