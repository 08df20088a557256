//! Replies on their way to the client: framed straight into one send buffer, sent in as few system calls as possible.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::context::{Contexts, Extent, Status};
use super::request::Cause;
use super::wire::transmission::{Chunk, ChunkType, HeaderStyle, MAX_REPLY_LEN, put_simple_reply};
use crate::serve::buffers::{LARGE, Lease, SENDING, Share};
use crate::serve::client_log::{LoggedRequest, Record};
use crate::serve::counters::Command;

/// Room that any reply without data fits in.
pub(super) const CONTROL: usize = 512;
/// Bytes of an error message at most, so that it fits.
const MAX_MESSAGE: usize = CONTROL - MAX_REPLY_LEN - ERROR_OFFSET;
/// Fixed bytes of an ERROR_OFFSET chunk: error, message length, offset.
const ERROR_OFFSET: usize = 4 + 2 + 8;
/// Bytes before the data of an OFFSET_DATA chunk.
const DATA_OFFSET: usize = 8;

/// Which reply is being written.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyTarget {
    pub(super) style: HeaderStyle,
    pub(super) cookie: u64,
    /// Offset of the request.
    pub(super) offset: u64,
    /// Length of the request.
    pub(super) length: u64,
    pub(super) command: Command,
    pub(super) arrived: Instant,
}

impl ReplyTarget {
    /// The request that is answered, for the record of the connection.
    #[inline]
    pub(super) const fn request(self) -> LoggedRequest {
        let Self { command, offset, length, arrived, .. } = self;
        LoggedRequest { command, offset, length, arrived }
    }

    /// Bytes before the data of a read reply.
    pub(super) const fn data_header(self) -> usize {
        match self.style {
            HeaderStyle::Simple => self.style.reply_len(),
            HeaderStyle::Structured | HeaderStyle::Extended => self.style.reply_len() + DATA_OFFSET,
        }
    }

    fn chunk(self, kind: ChunkType, length: usize, done: bool) -> Chunk {
        Chunk { kind, cookie: self.cookie, request_offset: self.offset, length: length as u64, done }
    }
}

/// See the module documentation. Whoever writes asks for room first ([`Output::room`]).
#[derive(Debug)]
pub(super) struct Output {
    share: Arc<Share>,
    buffer: Option<Lease>,
    start: usize,
    end: usize,
    pub(super) record: Record,
}

impl Output {
    pub(super) fn new(share: Arc<Share>, record: Record) -> Self {
        Self { share, buffer: None, start: 0, end: 0, record }
    }

    /// Ends the record of the connection; `error`: why the server ended it.
    pub(super) fn end(self, error: Option<&io::Error>) {
        self.record.end(error);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn unsent(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    pub(super) fn sent(&mut self, len: usize) {
        self.start += len;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Lets the buffer go while there is nothing to send. `false`: there is something.
    pub(super) fn rest(&mut self) -> bool {
        if self.is_empty() {
            self.buffer = None;
        }
        self.buffer.is_none()
    }

    /// Makes the next `len` bytes of the buffer free to write to. `false`: not before more has been sent.
    #[inline]
    pub(super) fn room(&mut self, len: usize) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| buffer.len() - self.end >= len) || self.make_room(len)
    }

    fn make_room(&mut self, len: usize) -> bool {
        let unsent = self.end - self.start;
        if self.capacity_for(unsent + len) < unsent + len {
            return false;
        }
        if let Some(buffer) = &mut self.buffer
            && buffer.len() - self.end < len
        {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, unsent);
        }
        true
    }

    /// Bytes of the buffer: the longest reply there will be room for once all has been sent. It grows to [`SENDING`]
    /// when `wanted` is more and the budget allows it, and is 0 only when the system has no memory.
    pub(super) fn capacity_for(&mut self, wanted: usize) -> usize {
        if self.buffer.is_none() {
            self.buffer = self.share.reserved();
        }
        let unsent = self.end - self.start;
        let Some(buffer) = &mut self.buffer else { return 0 };
        if wanted > buffer.len()
            && let Some(mut larger) =
                [SENDING, LARGE].into_iter().filter(|size| *size > buffer.len()).find_map(|size| self.share.take(size))
        {
            larger[..unsent].copy_from_slice(&buffer[self.start..self.end]);
            *buffer = larger;
            (self.start, self.end) = (0, unsent);
        }
        buffer.len()
    }

    /// The `len` bytes after the next `skip`, to fill before they are framed. Needs room for both.
    #[inline]
    pub(super) fn slot(&mut self, skip: usize, len: usize) -> &mut [u8] {
        let at = self.end + skip;
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer[at..at + len])
    }

    fn next(&mut self) -> &mut [u8] {
        let end = self.end;
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer[end..])
    }

    /// Success, without data.
    #[inline]
    pub(super) fn success(&mut self, to: ReplyTarget) {
        self.record.answered(to.request());
        self.end += match to.style {
            HeaderStyle::Extended => to.chunk(ChunkType::None, 0, true).put(to.style, self.next()),
            // Four bytes less than a structured one, and allowed beside them.
            HeaderStyle::Simple | HeaderStyle::Structured => put_simple_reply(self.next(), to.cookie, 0),
        };
    }

    /// Ends a reply in chunks whose last chunk is not marked.
    pub(super) fn finish(&mut self, to: ReplyTarget) {
        self.record.answered(to.request());
        self.end += to.chunk(ChunkType::None, 0, true).put(to.style, self.next());
    }

    /// An error reply, or the error that ends a reply in chunks. `at`: the byte of the export it happened at.
    pub(super) fn failure(&mut self, to: ReplyTarget, cause: Cause<'_>, at: Option<u64>) {
        let (errno, why) = (cause.errno(), cause.message());
        match cause {
            Cause::Refused(_) => self.record.refused(to.request(), errno.into(), why),
            Cause::Disk(error) => self.record.failed(to.request(), errno.into(), error),
        }
        if to.style == HeaderStyle::Simple {
            self.end += put_simple_reply(self.next(), to.cookie, errno as u32);
            return;
        }
        let message = &why.as_bytes()[..why.floor_char_boundary(MAX_MESSAGE)];
        let kind = if at.is_some() { ChunkType::ErrorOffset } else { ChunkType::Error };
        let length = 6 + message.len() + if at.is_some() { 8 } else { 0 };
        self.end += to.chunk(kind, length, true).put(to.style, self.next());
        self.put(&(errno as u32).to_be_bytes());
        self.put(&(message.len() as u16).to_be_bytes());
        self.put(message);
        if let Some(at) = at {
            self.put(&at.to_be_bytes());
        }
    }

    /// Frames `len` bytes of read data that already lie in the slot after [`ReplyTarget::data_header`] bytes.
    #[inline]
    pub(super) fn data(&mut self, to: ReplyTarget, at: u64, len: usize, done: bool) {
        self.data_header(to, at, len, done);
        self.end += len;
    }

    /// The header of read data that follows.
    #[inline]
    pub(super) fn data_header(&mut self, to: ReplyTarget, at: u64, len: usize, done: bool) {
        if to.style == HeaderStyle::Simple {
            self.end += put_simple_reply(self.next(), to.cookie, 0);
            return;
        }
        self.end += to.chunk(ChunkType::OffsetData, DATA_OFFSET + len, done).put(to.style, self.next());
        self.put(&at.to_be_bytes());
    }

    /// Takes `len` bytes that lie in the slot, as they are.
    pub(super) fn raw(&mut self, len: usize) {
        self.end += len;
    }

    /// A hole of `len` bytes, at most 2^32 - 1.
    pub(super) fn hole(&mut self, to: ReplyTarget, at: u64, len: u64, done: bool) {
        self.end += to.chunk(ChunkType::OffsetHole, 12, done).put(to.style, self.next());
        self.put(&at.to_be_bytes());
        self.put(&(len as u32).to_be_bytes());
    }

    /// The answer to BLOCK_STATUS: one chunk for each context, as many extents of each as there is room for. `false`:
    /// not before more has been sent.
    pub(super) fn block_status(
        &mut self,
        to: ReplyTarget,
        status: &Status,
        length: u64,
        contexts: Contexts,
        one: bool,
    ) -> bool {
        let per_extent = if to.style == HeaderStyle::Extended { 16 } else { 8 };
        let overhead = contexts.len() * (to.style.reply_len() + 8);
        let extents: Vec<(u32, Vec<Extent>)> =
            contexts.iter().map(|context| (context.id(), status.extents(context, to.offset, length))).collect();
        let needed = extents.iter().map(|(_, extents)| extents.len()).sum::<usize>() * per_extent + overhead;
        let room = needed.min(self.capacity_for(needed));
        if !self.room(room) {
            return false;
        }
        let most = match () {
            () if one => 1,
            () if room == needed => usize::MAX,
            () => (room - overhead) / per_extent / contexts.len(),
        };
        for (index, (id, extents)) in extents.iter().enumerate() {
            let done = index + 1 == contexts.len();
            self.extents(to, *id, &extents[..extents.len().min(most)], done);
        }
        self.record.answered(to.request());
        true
    }

    fn extents(&mut self, to: ReplyTarget, id: u32, extents: &[Extent], done: bool) {
        let wide = to.style == HeaderStyle::Extended;
        let (kind, length) = match wide {
            true => (ChunkType::BlockStatusExt, 8 + 16 * extents.len()),
            false => (ChunkType::BlockStatus, 4 + 8 * extents.len()),
        };
        self.end += to.chunk(kind, length, done).put(to.style, self.next());
        self.put(&id.to_be_bytes());
        if wide {
            self.put(&(extents.len() as u32).to_be_bytes());
        }
        for extent in extents {
            if wide {
                self.put(&extent.length.to_be_bytes());
                self.put(&u64::from(extent.status).to_be_bytes());
            } else {
                // A compact request asks for less than 2^32 bytes, so no extent is longer.
                self.put(&(extent.length as u32).to_be_bytes());
                self.put(&extent.status.to_be_bytes());
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.slot(0, bytes.len()).copy_from_slice(bytes);
        self.end += bytes.len();
    }
}
