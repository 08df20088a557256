//! Requests as they arrive: one receive buffer, from which they are parsed and written to the disk in place.

use std::sync::Arc;

use crate::serve::buffers::{LARGE, Lease, Share};

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Input {
    share: Arc<Share>,
    buffer: Option<Lease>,
    start: usize,
    end: usize,
    /// More is coming than the buffer holds: the next receive deserves a larger one.
    crowded: bool,
}

impl Input {
    pub(super) fn new(share: Arc<Share>) -> Self {
        Self { share, buffer: None, start: 0, end: 0, crowded: false }
    }

    pub(super) fn unread(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes that the buffer holds at most.
    pub(super) fn capacity(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len())
    }

    /// Whether nothing more can be received without moving what is unread.
    pub(super) fn is_full(&self) -> bool {
        self.end == self.capacity()
    }

    pub(super) fn consume(&mut self, len: usize) {
        debug_assert!(len <= self.end - self.start);
        self.start += len;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Announces that `len` bytes are to come.
    pub(super) fn expect(&mut self, len: u64) {
        self.crowded |= len > self.capacity() as u64 / 2;
    }

    /// Where to receive to; empty only when the system has no memory or all of the buffer is unread.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.buffer.is_none() {
            self.buffer = self.share.reserved();
        }
        let Some(buffer) = &mut self.buffer else { return &mut [] };
        let unread = self.end - self.start;
        if self.crowded
            && buffer.len() < LARGE
            && let Some(mut larger) = self.share.take(LARGE)
        {
            larger[..unread].copy_from_slice(&buffer[self.start..self.end]);
            *buffer = larger;
            (self.start, self.end) = (0, unread);
        } else if self.start > 0 && buffer.len() - self.end < buffer.len() / 2 {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, unread);
        }
        self.crowded = false;
        &mut buffer[self.end..]
    }

    /// Takes `len` bytes that were received into [`Input::space`].
    pub(super) fn received(&mut self, len: usize) {
        self.end += len;
        self.crowded |= self.is_full();
    }

    /// Lets the buffer go while nothing is unread. `false`: something is.
    pub(super) fn rest(&mut self) -> bool {
        if self.is_empty() {
            self.buffer = None;
        }
        self.buffer.is_none()
    }
}
