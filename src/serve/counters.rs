//! What is counted of the requests that were answered: how many, bytes, errors, latencies.
//!
//! A [`Tally`] belongs to one connection. Only its thread writes, so counting is a plain load and store; whoever reads
//! sees each number as it was a moment ago, and every number only grows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The commands that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    Read,
    Write,
    Flush,
    Trim,
    WriteZeroes,
    Cache,
    BlockStatus,
    /// Whatever the protocol does not know.
    Other,
}

impl Command {
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Trim,
        Self::WriteZeroes,
        Self::Cache,
        Self::BlockStatus,
        Self::Other,
    ];

    /// As logs and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::WriteZeroes => "write_zeroes",
            Self::Cache => "cache",
            Self::BlockStatus => "block_status",
            Self::Other => "other",
        }
    }

    /// Whether the length of a request is the number of bytes that were moved, zeroed or read ahead.
    #[inline]
    #[must_use]
    pub const fn has_bytes(self) -> bool {
        !matches!(self, Self::Flush | Self::BlockStatus | Self::Other)
    }
}

/// Why requests fail, as far as it is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestError {
    NotPermitted,
    Io,
    Invalid,
    NoSpace,
    TooLarge,
    NotSupported,
    ShuttingDown,
}

impl RequestError {
    pub const ALL: [Self; 7] = [
        Self::NotPermitted,
        Self::Io,
        Self::Invalid,
        Self::NoSpace,
        Self::TooLarge,
        Self::NotSupported,
        Self::ShuttingDown,
    ];

    /// As POSIX, logs and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotPermitted => "EPERM",
            Self::Io => "EIO",
            Self::Invalid => "EINVAL",
            Self::NoSpace => "ENOSPC",
            Self::TooLarge => "EOVERFLOW",
            Self::NotSupported => "ENOTSUP",
            Self::ShuttingDown => "ESHUTDOWN",
        }
    }
}

/// Buckets of a latency histogram, the last one without a bound.
pub const BUCKETS: usize = 22;
/// The first bucket ends at 2^14 ns, each further one at twice the time.
const FIRST_BUCKET: u32 = 14;

/// The upper bound of bucket `index` in seconds; infinite for the last one.
#[must_use]
pub fn bucket_bound(index: usize) -> f64 {
    if index + 1 >= BUCKETS { f64::INFINITY } else { (1u64 << (FIRST_BUCKET as usize + index)) as f64 / 1e9 }
}

fn bucket_of(nanos: u64) -> usize {
    // The bound belongs to its bucket.
    let above = u64::BITS - nanos.saturating_sub(1).leading_zeros();
    (above.saturating_sub(FIRST_BUCKET) as usize).min(BUCKETS - 1)
}

/// A number with one writer.
#[derive(Debug, Default)]
pub(crate) struct Single(AtomicU64);

impl Single {
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.set(self.get() + more);
    }

    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct OfCommand {
    bytes: Single,
    nanos: Single,
    latencies: [Single; BUCKETS],
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    commands: [OfCommand; Command::ALL.len()],
    errors: [Single; RequestError::ALL.len()],
    pub(crate) in_flight: Single,
}

impl Tally {
    /// A request without an error moved so many bytes.
    #[inline]
    pub(crate) fn moved(&self, command: Command, bytes: u64) {
        if command.has_bytes() {
            self.commands[command as usize].bytes.add(bytes);
        }
    }

    pub(crate) fn failed(&self, error: RequestError) {
        self.errors[error as usize].add(1);
    }

    /// `count` requests were answered, each after `latency`.
    #[inline]
    pub(crate) fn answered(&self, command: Command, latency: Duration, count: u64) {
        let nanos = latency.as_nanos() as u64;
        let of = &self.commands[command as usize];
        of.nanos.add(nanos.saturating_mul(count));
        of.latencies[bucket_of(nanos)].add(count);
    }
}

/// What was counted of one command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommandCounts {
    /// Of those that succeeded.
    pub bytes: u64,
    /// From the arrival of the request to its answer, all requests together.
    pub nanos: u64,
    /// Requests by latency: see [`bucket_bound`].
    pub latencies: [u64; BUCKETS],
}

impl CommandCounts {
    /// All that were answered, failures too.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.latencies.iter().sum()
    }
}

/// A sum of tallies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the order of [`Command::ALL`].
    pub commands: [CommandCounts; Command::ALL.len()],
    /// Failed requests, in the order of [`RequestError::ALL`].
    pub errors: [u64; RequestError::ALL.len()],
    /// Requests that are not answered yet.
    pub in_flight: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, tally: &Tally) {
        for (sum, of) in self.commands.iter_mut().zip(&tally.commands) {
            sum.bytes += of.bytes.get();
            sum.nanos += of.nanos.get();
            for (sum, count) in sum.latencies.iter_mut().zip(&of.latencies) {
                *sum += count.get();
            }
        }
        for (sum, count) in self.errors.iter_mut().zip(&tally.errors) {
            *sum += count.get();
        }
        self.in_flight += tally.in_flight.get();
    }

    #[must_use]
    pub fn of(&self, command: Command) -> &CommandCounts {
        &self.commands[command as usize]
    }

    #[must_use]
    pub fn requests(&self) -> u64 {
        self.commands.iter().map(CommandCounts::requests).sum()
    }

    #[must_use]
    pub fn failures(&self) -> u64 {
        self.errors.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_in_the_bucket_whose_bound_it_does_not_pass() {
        for nanos in [0, 1, 1 << 14, (1 << 14) + 1, 1 << 15, 1_000_000, (1 << 34) - 1, 1 << 34, (1 << 34) + 1, u64::MAX]
        {
            let bucket = bucket_of(nanos);
            assert!(nanos as f64 / 1e9 <= bucket_bound(bucket), "{nanos}");
            assert!(bucket == 0 || nanos as f64 / 1e9 > bucket_bound(bucket - 1), "{nanos}");
        }
        assert_eq!(bucket_bound(BUCKETS - 2), 17.179869184);
        assert!(bucket_bound(BUCKETS - 1).is_infinite());
    }

    #[test]
    fn each_error_has_its_own_place() {
        for (index, error) in RequestError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, index);
        }
    }

    #[test]
    fn a_sum_has_what_was_counted() {
        let (one, other) = (Tally::default(), Tally::default());
        one.answered(Command::Read, Duration::from_micros(20), 3);
        one.moved(Command::Read, 4096);
        other.answered(Command::Read, Duration::from_secs(60), 1);
        other.moved(Command::Flush, 99);
        other.failed(RequestError::Io);
        other.in_flight.set(2);
        let mut sum = Counts::default();
        sum.add(&one);
        sum.add(&other);
        let read = sum.of(Command::Read);
        assert_eq!((read.requests(), read.bytes, read.nanos), (4, 4096, 60_000 + 60_000_000_000));
        assert_eq!((read.latencies[1], read.latencies[BUCKETS - 1]), (3, 1));
        assert_eq!((sum.of(Command::Flush).bytes, sum.requests(), sum.failures(), sum.in_flight), (0, 4, 1, 2));
    }
}
