//! What a thread of the pool does for a request that may wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::context::{Contexts, Status};
use super::output::ReplyTarget;
use super::read::ReadStream;
use super::session::Session;
use crate::disk::{Disk, Durability};
use crate::serve::buffers::Lease;
use crate::serve::workers;
use crate::{Error, ErrorKind, PAGE, Result};

/// Bytes of zeros written at once, so that a long NO_HOLE request notices that the server stops.
const ZEROS: u64 = 8 << 20;

/// One piece of work and what it is for.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) session: Arc<Session>,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) work: Work,
    pub(super) tag: Tag,
}

/// What is to be done. Offsets and lengths are bytes of the export.
#[derive(Debug)]
pub(super) enum Work {
    /// Fills `buffer[..len]`.
    Read {
        offset: u64,
        len: usize,
        buffer: Lease,
    },
    /// Reads the range and forgets it, so that it can then be read without waiting.
    Warm {
        offset: u64,
        length: u64,
        buffer: Lease,
    },
    Write {
        offset: u64,
        len: usize,
        buffer: Lease,
        durability: Durability,
    },
    Flush,
    Zero {
        offset: u64,
        length: u64,
        durability: Durability,
    },
    /// Writes real zeros.
    WriteZeros {
        offset: u64,
        length: u64,
        durability: Durability,
    },
    Cache {
        offset: u64,
        length: u64,
    },
    Status {
        offset: u64,
        length: u64,
        contexts: Contexts,
        limit: usize,
    },
}

/// Which request a job belongs to.
#[derive(Debug)]
pub(super) enum Tag {
    /// The only one of a request without data in its reply.
    Whole(ReplyTarget),
    /// A piece of a write, by the number the connection gave it.
    WritePiece { write: u64 },
    /// A piece of a read, which goes on from there.
    Read(ReadStream),
    BlockStatus {
        to: ReplyTarget,
        /// Bytes asked about.
        length: u64,
        contexts: Contexts,
        one: bool,
    },
}

/// A finished job.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) tag: Tag,
    pub(super) result: Result<Product>,
}

/// What a job brought.
#[derive(Debug)]
pub(super) enum Product {
    Nothing,
    Data { buffer: Lease, len: usize },
    Status(Status),
}

impl workers::Job for Job {
    type Done = Done;

    fn run(self) -> Done {
        let Self { session, stopping, work, tag } = self;
        let result = work.run(&session.export.disk, &stopping);
        Done { tag, result }
    }
}

impl Work {
    fn run(self, disk: &Disk, stopping: &AtomicBool) -> Result<Product> {
        match self {
            Self::Read { offset, len, mut buffer } => {
                disk.read(offset, &mut buffer[..len])?;
                return Ok(Product::Data { buffer, len });
            }
            Self::Status { offset, length, contexts, limit } => {
                return Ok(Product::Status(Status::of(disk, contexts, offset, length, limit)?));
            }
            Self::Warm { offset, length, mut buffer } => {
                for (at, len) in pieces(offset, length, buffer.len() as u64) {
                    disk.read(at, &mut buffer[..len as usize])?;
                }
            }
            Self::Write { offset, len, buffer, durability } => disk.write(offset, &buffer[..len], durability)?,
            Self::Flush => disk.flush()?,
            Self::Zero { offset, length, durability } => disk.zero(offset, length, durability)?,
            Self::WriteZeros { offset, length, durability } => {
                write_zeros(disk, offset, length, durability, stopping)?;
            }
            Self::Cache { offset, length } => disk.cache(offset, length)?,
        }
        Ok(Product::Nothing)
    }
}

fn write_zeros(disk: &Disk, offset: u64, length: u64, durability: Durability, stopping: &AtomicBool) -> Result<()> {
    if length <= ZEROS {
        return disk.write_zeros(offset, length, durability);
    }
    for (at, len) in pieces(offset, length, ZEROS) {
        if stopping.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Shutdown, "the server is stopping"));
        }
        disk.write_zeros(at, len, Durability::Volatile)?;
    }
    // One flush at the end instead of one for each piece.
    if durability == Durability::Fua { disk.flush() } else { Ok(()) }
}

/// Cuts a range into pieces of at most `size` bytes that end on page borders of the disk.
fn pieces(offset: u64, length: u64, size: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + length;
    let mut next = offset;
    std::iter::from_fn(move || {
        let at = next;
        next = at.saturating_add(size - at % PAGE as u64).min(end);
        (at < end).then_some((at, next - at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_range_and_end_on_pages() {
        let cut: Vec<_> = pieces(100, 2000, 1024).collect();
        assert_eq!(cut, [(100, 924), (1024, 1024), (2048, 52)]);
        assert_eq!(pieces(512, 0, 1024).count(), 0);
    }
}
