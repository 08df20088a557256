//! Into an unfinished disk: what differs from what it holds is written, made durable, read back and compared, and only
//! then noted as done.
//!
//! The source is read, and its SHA-256 taken, by a thread of its own while what came before is written; so is what was
//! written read back while what came before of it is compared.
//!
//! A disk that an earlier copy began is not trusted past what is noted: from there on it is cleared, or compared.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::source::Pieces;
use super::target::TargetDisk;
use super::{PIECE, Stop};
use crate::base::read_ahead::read_ahead;
use crate::io::zeros::is_zero;
use crate::{Error, ErrorKind, Result};

/// Bytes that are zero or equal together are left out in units of this size.
const GRAIN: usize = 4096;
/// Bytes, and time, between two notes of how far the copy is.
const NOTE_BYTES: u64 = 256 << 20;
const NOTE_TIME: Duration = Duration::from_secs(5);

/// How the noted beginning of a disk is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// The disk is new: all of it is zero.
    New,
    /// So many bytes are as in the source, whatever lies behind them.
    After(u64),
    /// The source may have changed: everything is compared.
    Compare,
}

/// The disk copied into.
pub struct Target<'a> {
    pub disk: &'a mut dyn TargetDisk,
    /// Notes that the first bytes, so many, are there, and with a size resizes the disk to it.
    pub note: &'a mut dyn FnMut(u64, Option<u64>) -> Result<()>,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Bytes of the image.
    pub size: u64,
    /// Bytes that were stored: the rest was zero, or there already.
    pub written: u64,
}

/// Copies `source`. `progress` hears how many bytes are done. After an error that is not the disk's own, what was
/// copied until then is noted. `stop` is what the source listens to: it is used after an error of the disk, so that
/// nobody waits for a source that is silent.
pub fn copy(
    source: &mut dyn Pieces,
    target: Target<'_>,
    begin: Begin,
    stop: &Stop,
    progress: &mut dyn FnMut(u64),
) -> Result<Done> {
    let mut copy = Copy {
        target,
        compare: begin == Begin::Compare,
        unverified: Vec::new(),
        since: Instant::now(),
        done: Done::default(),
    };
    let mut at = match begin {
        Begin::New | Begin::Compare => 0,
        Begin::After(done) => {
            let size = copy.target.disk.size();
            copy.target.disk.zero(done, size - done)?;
            copy.target.disk.await_writes()?;
            done
        }
    };
    let mut next = at;
    let fill = |buf: &mut [u8]| {
        let Some((from, len)) = source.next(next, buf)? else { return Ok(None) };
        next = from + len as u64;
        Ok(Some((from, len, Sha256::digest(&buf[..len]).into())))
    };
    progress(at);
    let read = read_ahead(PIECE, fill, |pieces| {
        loop {
            let piece = match pieces.take() {
                Ok(piece) => piece,
                Err(error) => {
                    // The source's error is the one to report.
                    let _ = copy.note(at, None);
                    return Err(error);
                }
            };
            let Some((from, data, digest)) = piece else { return Ok(()) };
            let end = from + data.len() as u64;
            copy.make_room(at, end)
                .and_then(|()| copy.clear(at, from))
                .and_then(|()| copy.put(from, data, digest))
                .and_then(|()| copy.note_at_times(end))
                .inspect_err(|_| stop.now())?;
            at = end;
            progress(at);
        }
    });
    read?;
    let end = source.size().unwrap_or(at);
    copy.make_room(at, end)?;
    copy.clear(at, end)?;
    at = end;
    // What an earlier copy of a longer stream left.
    let end = copy.target.disk.size();
    copy.clear(at, end)?;
    copy.note(at, None)?;
    progress(at);
    Ok(Done { size: at, ..copy.done })
}

struct Copy<'a> {
    target: Target<'a>,
    /// The disk may hold something already.
    compare: bool,
    /// Pieces not read back yet: offset, length, SHA-256.
    unverified: Vec<(u64, usize, [u8; 32])>,
    since: Instant,
    done: Done,
}

/// What is to be done about a grain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Todo {
    Nothing,
    Clear,
    Write,
}

impl Copy<'_> {
    /// Makes the disk larger when the source has more than anybody knew: at `at` of it, up to `end` at least.
    fn make_room(&mut self, at: u64, end: u64) -> Result<()> {
        let size = self.target.disk.size();
        if end <= size {
            return Ok(());
        }
        let size = end.max(size.saturating_mul(2));
        self.note(at, Some(size))?;
        self.target.disk.set_size(size);
        Ok(())
    }

    /// Makes `[from, to)` zero, where the disk may hold something.
    fn clear(&mut self, from: u64, to: u64) -> Result<()> {
        if self.compare && from < to && self.target.disk.next_data(from)?.is_some_and(|data| data < to) {
            self.target.disk.zero(from, to - from)?;
        }
        Ok(())
    }

    fn put(&mut self, from: u64, data: &[u8], digest: [u8; 32]) -> Result<()> {
        let end = from + data.len() as u64;
        let held = self.compare && self.target.disk.next_data(from)?.is_some_and(|data| data < end);
        let mut old = Vec::new();
        if held {
            old.resize(data.len(), 0);
            self.target.disk.read_at(from, &mut old)?;
        }
        let todo = |start: usize| {
            let end = (start + GRAIN).min(data.len());
            let zero = is_zero(&data[start..end]);
            match old.get(start..end) {
                Some(old) if old == &data[start..end] => Todo::Nothing,
                Some(_) if zero => Todo::Clear,
                None if zero => Todo::Nothing,
                _ => Todo::Write,
            }
        };
        let mut start = 0;
        while start < data.len() {
            let what = todo(start);
            let mut next = start + GRAIN;
            while next < data.len() && todo(next) == what {
                next += GRAIN;
            }
            let run = start..next.min(data.len());
            let at = from + start as u64;
            match what {
                Todo::Nothing => {}
                Todo::Clear => self.target.disk.zero(at, run.len() as u64)?,
                Todo::Write => {
                    self.done.written += run.len() as u64;
                    self.target.disk.write(at, &data[run])?;
                }
            }
            start = next;
        }
        self.unverified.push((from, data.len(), digest));
        Ok(())
    }

    fn note_at_times(&mut self, at: u64) -> Result<()> {
        let bytes: u64 = self.unverified.iter().map(|&(_, len, _)| len as u64).sum();
        if bytes >= NOTE_BYTES || self.since.elapsed() >= NOTE_TIME { self.note(at, None) } else { Ok(()) }
    }

    /// Makes durable, reads back and compares what was written, then notes that the first `done` bytes are there.
    fn note(&mut self, done: u64, size: Option<u64>) -> Result<()> {
        let disk = &mut *self.target.disk;
        disk.flush()?;
        let mut written = self.unverified.drain(..);
        let fill = |buf: &mut [u8]| {
            let Some((at, len, digest)) = written.next() else { return Ok(None) };
            disk.read_at(at, &mut buf[..len])?;
            Ok(Some((at, len, digest)))
        };
        read_ahead(PIECE, fill, |pieces| {
            while let Some((at, data, digest)) = pieces.take()? {
                if Sha256::digest(data)[..] != digest {
                    return Err(Error::new(ErrorKind::Io, "what was written reads back differently").at_offset(at));
                }
            }
            Ok(())
        })?;
        (self.target.note)(done, size)?;
        self.since = Instant::now();
        Ok(())
    }
}

impl std::fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("disk", &self.disk).finish_non_exhaustive()
    }
}
