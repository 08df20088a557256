//! From a request to what is done about it.

use std::io;

use super::connection::{Connection, Stalled};
use super::errno::Errno;
use super::job::{Tag, Work};
use super::read::{Progress, ReadStream};
use super::request::{Cause, Op, Refusal, check, in_range, refuse};
use super::wire::transmission::{HeaderStyle, Request};
use crate::disk::Durability;

/// Runs looked up for one BLOCK_STATUS. A client that wants more asks again from where the answer ended.
const MAX_RUNS: usize = 1024;
/// Bytes of a BLOCK_STATUS payload: the effect length, and an id of 4 bytes for each context.
const STATUS_PAYLOAD: std::ops::RangeInclusive<u64> = 8..=64;

impl Connection {
    /// Takes the next request from the receive buffer and carries it out, or hands it over. What it lacks, if it could
    /// not be taken: nothing has happened then. An error: no request starts here, so none can be found again.
    pub(super) fn take_request(&mut self) -> io::Result<Option<Stalled>> {
        let style = self.session.style;
        let unread = self.input.unread();
        if unread.len() < style.request_len() {
            return Ok(Some(Stalled::Input));
        }
        let Some(request) = Request::parse(style, unread) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no request starts here"));
        };
        let op = match check(&request, &self.session, self.shared.config.max_request) {
            Ok(Op::Disconnect) => {
                self.closing = true;
                return Ok(None);
            }
            _ if self.stopping() => refuse(Errno::Shutdown, "the server is stopping"),
            op => op,
        };
        let payload = request.payload_len(style);
        if payload > 0 {
            if style == HeaderStyle::Extended && payload > self.shared.config.max_request.into() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a payload longer than was offered"));
            }
            let stalled = self.take_with_payload(&request, payload, op);
            self.taken = self.taken.saturating_add(stalled.is_none().into());
            return Ok(stalled);
        }
        let stalled = match op {
            Ok(op) => self.perform(&request, op)?,
            Err(refusal) => self.refused(&request, refusal),
        };
        if stalled.is_none() {
            self.input.consume(style.request_len());
            self.taken = self.taken.saturating_add(1);
        }
        Ok(stalled)
    }

    fn refused(&mut self, request: &Request, refusal: Refusal) -> Option<Stalled> {
        self.output.failure(self.to(request), Cause::Refused(refusal), None);
        None
    }

    #[inline]
    fn perform(&mut self, request: &Request, op: Op) -> io::Result<Option<Stalled>> {
        let &Request { offset, length, .. } = request;
        let to = self.to(request);
        let durability = |fua| if fua { Durability::Fua } else { Durability::Volatile };
        let work = match op {
            Op::Read { whole } => {
                let mut stream = ReadStream::new(to, length, whole);
                let progress = stream.advance(&self.session.export.disk, &mut self.output, false);
                if progress == Progress::Full && stream.remaining() == length {
                    return Ok(Some(Stalled::Room));
                }
                self.resume_read(stream, progress)?;
                return Ok(None);
            }
            Op::BlockStatus { one } => {
                self.block_status(request, length, self.session.contexts, one);
                return Ok(None);
            }
            Op::Flush => match self.session.export.disk.try_flush() {
                Ok(false) => Work::Flush,
                Ok(true) => {
                    self.output.success(to);
                    return Ok(None);
                }
                Err(error) => {
                    self.fail(to, &error);
                    return Ok(None);
                }
            },
            // Nothing to do, and nothing that FUA could make durable.
            _ if length == 0 => {
                self.output.success(to);
                return Ok(None);
            }
            Op::Trim { fua } | Op::WriteZeroes { no_hole: false, fua } => {
                Work::Zero { offset, length, durability: durability(fua) }
            }
            Op::WriteZeroes { no_hole: true, fua } => Work::WriteZeros { offset, length, durability: durability(fua) },
            Op::Cache => Work::Cache { offset, length },
            Op::Write { .. } | Op::BlockStatusPayload { .. } | Op::Disconnect => {
                // A write of no byte.
                self.output.success(to);
                return Ok(None);
            }
        };
        self.submit(work, Tag::Whole(to));
        Ok(None)
    }

    fn block_status(&mut self, request: &Request, length: u64, contexts: super::context::Contexts, one: bool) {
        let (to, offset) = (self.to(request), request.offset);
        // Runs that differ in one context may be alike in another, so that one extent can take several.
        let limit = if one && contexts.len() == 1 { MAX_RUNS / 16 } else { MAX_RUNS };
        let work = Work::Status { offset, length, contexts, limit };
        self.submit(work, Tag::BlockStatus { to, length, contexts, one });
    }

    fn take_with_payload(&mut self, request: &Request, payload: u64, op: Result<Op, Refusal>) -> Option<Stalled> {
        match op {
            Ok(Op::Write { fua }) => self.take_write(request, fua),
            Ok(op @ Op::BlockStatusPayload { one }) if STATUS_PAYLOAD.contains(&payload) => {
                let header = self.session.style.request_len();
                let total = header + payload as usize;
                let unread = self.input.unread();
                if unread.len() < total {
                    return Some(Stalled::Input);
                }
                let (length, ids) = unread[header..total].split_at(8);
                let length = u64::from_be_bytes(length.try_into().unwrap_or_default());
                let (ids, odd) = ids.as_chunks::<4>();
                let wanted = self.session.contexts.filter(ids.iter().map(|id| u32::from_be_bytes(*id)));
                let verdict = match wanted {
                    Some(contexts) if odd.is_empty() && !contexts.is_empty() => {
                        in_range(op, request.offset, length, &self.session).map(|()| contexts)
                    }
                    _ => refuse(Errno::Inval, "the payload does not list contexts of this connection"),
                };
                match verdict {
                    Ok(contexts) => self.block_status(request, length, contexts, one),
                    Err(refusal) => self.output.failure(self.to(request), Cause::Refused(refusal), None),
                }
                self.input.consume(total);
                None
            }
            Ok(_) => {
                self.drain(request, payload, Refusal { errno: Errno::Inval, why: "a payload that nobody asked for" })
            }
            Err(refusal) => self.drain(request, payload, refusal),
        }
    }
}
