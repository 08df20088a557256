//! Writes: from the receive buffer to the disk, without a copy of our own.
//!
//! A short write is carried out when all of it has arrived. A long one is carried out piece by piece as it arrives, so
//! that its length costs no memory; it is answered when all of its pieces are done. NBD promises nothing about a write
//! that fails half-way, nor about one whose client leaves before its end; one for which there is no space fails before
//! its first piece.

use super::connection::{Connection, Stalled};
use super::job::{Tag, Work};
use super::output::ReplyTarget;
use super::request::{Cause, Refusal};
use super::wire::transmission::Request;
use crate::disk::Durability;
use crate::{Error, Result};

/// Pieces end on multiples of this, so that none splits a page and few split a block of the file system.
const ALIGN: u64 = 4096;
/// A piece smaller than this is worth waiting for more, even when that means to move it.
const MIN_PIECE: usize = 16 << 10;

/// A payload that is arriving.
#[derive(Debug)]
pub(super) struct Payload {
    to: ReplyTarget,
    /// Where the next byte goes.
    offset: u64,
    remaining: u64,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    /// Refused: it is read, forgotten, and then answered.
    Discard(Refusal),
    Disk {
        /// The number of the write among those of the connection.
        write: u64,
        writing: Writing,
    },
}

/// A write made of pieces.
#[derive(Debug)]
pub(super) struct Writing {
    to: ReplyTarget,
    fua: bool,
    /// Pieces with the pool.
    outstanding: usize,
    /// The first error of a piece.
    failure: Option<Error>,
}

impl Connection {
    /// Takes a write whose header is next in the receive buffer.
    #[inline]
    pub(super) fn take_write(&mut self, request: &Request, fua: bool) -> Option<Stalled> {
        let header = self.session.style.request_len();
        let len = request.length as usize;
        if self.input.unread().len() >= header + len {
            let to = self.to(request);
            let (stalled, result) = self.write_from_input(header, len, request.offset, fua, |_| Tag::Whole(to));
            match result {
                _ if stalled.is_some() => return stalled,
                Ok(true) => self.output.success(to),
                Ok(false) => {}
                Err(error) => self.fail(to, &error),
            }
            self.input.consume(header + len);
            return None;
        }
        self.input.expect((header + len) as u64);
        if header + len <= self.input.capacity() / 2 {
            return Some(Stalled::Input);
        }
        let to = self.to(request);
        // Without space for all of it nothing is written.
        let failure = self.session.export.disk.allocate(request.offset, request.length).err();
        let writing = Writing { to, fua, outstanding: 0, failure };
        self.next_write += 1;
        let sink = Sink::Disk { write: self.next_write, writing };
        self.input.consume(header);
        self.payload = Some(Payload { to, offset: request.offset, remaining: request.length, sink });
        None
    }

    /// Refuses a request whose payload has to be read first.
    pub(super) fn drain(&mut self, request: &Request, payload: u64, refusal: Refusal) -> Option<Stalled> {
        self.input.consume(self.session.style.request_len());
        let to = self.to(request);
        self.payload = Some(Payload { to, offset: request.offset, remaining: payload, sink: Sink::Discard(refusal) });
        None
    }

    /// Writes `len` bytes of the receive buffer, from `skip` on, without consuming them. `Ok(true)`: done. `Ok(false)`:
    /// handed to the pool. With something lacking, nothing has happened.
    fn write_from_input(
        &mut self,
        skip: usize,
        len: usize,
        offset: u64,
        fua: bool,
        tag: impl FnOnce(&mut Self) -> Tag,
    ) -> (Option<Stalled>, Result<bool>) {
        let data = &self.input.unread()[skip..skip + len];
        if !fua {
            match self.session.export.disk.try_write(offset, data) {
                Ok(false) => {}
                done => return (None, done),
            }
        }
        let durability = if fua { Durability::Fua } else { Durability::Volatile };
        if let Some(mut buffer) = self.share.take(len) {
            buffer[..len].copy_from_slice(data);
            let tag = tag(self);
            self.submit(Work::Write { offset, len, buffer, durability }, tag);
            return (None, Ok(false));
        }
        if self.has_jobs() {
            return (Some(Stalled::Job), Ok(false));
        }
        // No memory to wait in, and nothing to wait for: this thread writes from its receive buffer.
        (None, self.session.export.disk.write(offset, data, durability).map(|()| true))
    }

    /// Takes what has arrived of a payload.
    pub(super) fn take_payload(&mut self) -> Option<Stalled> {
        let mut payload = self.payload.take()?;
        let available = (self.input.unread().len() as u64).min(payload.remaining) as usize;
        let stalled = match &mut payload.sink {
            Sink::Disk { write, writing } if writing.failure.is_none() => {
                let write = *write;
                let Some(len) = self.piece(&payload, available) else {
                    self.input.expect(payload.remaining);
                    self.payload = Some(payload);
                    return Some(Stalled::Input);
                };
                let tag = |_: &mut Self| Tag::WritePiece { write };
                let (stalled, result) = self.write_from_input(0, len, payload.offset, false, tag);
                let Sink::Disk { writing, .. } = &mut payload.sink else { return stalled };
                if stalled.is_none() {
                    match result {
                        Ok(true) => {}
                        Ok(false) => writing.outstanding += 1,
                        Err(error) => writing.failure = Some(error),
                    }
                    self.input.consume(len);
                    payload.offset += len as u64;
                    payload.remaining -= len as u64;
                }
                stalled
            }
            Sink::Disk { .. } | Sink::Discard(_) => {
                self.input.consume(available);
                payload.remaining -= available as u64;
                (available == 0).then_some(Stalled::Input)
            }
        };
        match (payload.remaining, payload.sink) {
            (0, Sink::Discard(refusal)) => self.output.failure(payload.to, Cause::Refused(refusal), None),
            (0, Sink::Disk { writing, .. }) if writing.outstanding == 0 => self.written(writing),
            (0, Sink::Disk { write, writing }) => {
                self.writes.insert(write, writing);
            }
            (_, sink) => self.payload = Some(Payload { sink, ..payload }),
        }
        stalled
    }

    /// How much of what has arrived makes a piece; `None`: wait for more.
    fn piece(&self, payload: &Payload, available: usize) -> Option<usize> {
        if available as u64 == payload.remaining {
            return Some(available);
        }
        let enough = available >= self.input.capacity() / 2 || (self.input.is_full() && available >= MIN_PIECE);
        let surplus = (payload.offset + available as u64) % ALIGN;
        enough.then(|| available - surplus as usize)
    }

    /// A piece that was with the pool is done.
    pub(super) fn piece_written(&mut self, write: u64, failure: Option<Error>) {
        if let Some(Payload { sink: Sink::Disk { write: arriving, writing }, .. }) = &mut self.payload
            && *arriving == write
        {
            writing.outstanding -= 1;
            writing.failure = writing.failure.take().or(failure);
            return;
        }
        let Some(mut writing) = self.writes.remove(&write) else { return };
        writing.outstanding -= 1;
        writing.failure = writing.failure.or(failure);
        match writing.outstanding {
            0 => self.written(writing),
            _ => drop(self.writes.insert(write, writing)),
        }
    }

    /// All pieces of a write are done.
    fn written(&mut self, writing: Writing) {
        let Writing { to, fua, failure, .. } = writing;
        match failure {
            Some(error) => self.fail(to, &error),
            // One round for all pieces.
            None if fua => self.submit(Work::Flush, Tag::Whole(to)),
            None => self.output.success(to),
        }
    }
}
