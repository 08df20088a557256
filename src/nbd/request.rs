//! What a client may ask: every request is checked here, whole, before anything is done about it.

use super::errno::Errno;
use super::session::Session;
use super::wire::transmission::{HeaderStyle, Request, command, command_flag as flag};
use crate::Error;
use crate::serve::counters::Command;

/// A request that may be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Read {
        /// One content chunk only.
        whole: bool,
    },
    Write {
        fua: bool,
    },
    Disconnect,
    Flush,
    Trim {
        fua: bool,
    },
    WriteZeroes {
        no_hole: bool,
        fua: bool,
    },
    Cache,
    BlockStatus {
        one: bool,
    },
    /// Block status with a payload: the effect length and the contexts are in it, still unchecked.
    BlockStatusPayload {
        one: bool,
    },
}

/// The command of a request, as it is counted.
#[inline]
pub(super) const fn counted(wire: u16) -> Command {
    match wire {
        command::READ => Command::Read,
        command::WRITE => Command::Write,
        command::FLUSH => Command::Flush,
        command::TRIM => Command::Trim,
        command::WRITE_ZEROES => Command::WriteZeroes,
        command::CACHE => Command::Cache,
        command::BLOCK_STATUS => Command::BlockStatus,
        _ => Command::Other,
    }
}

/// Why a request failed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cause<'a> {
    /// The client asked for what it may not have.
    Refused(Refusal),
    Disk(&'a Error),
}

impl Cause<'_> {
    pub(super) fn errno(&self) -> Errno {
        match self {
            Self::Refused(refusal) => refusal.errno,
            Self::Disk(error) => error.kind().into(),
        }
    }

    /// For the client: without the paths of the server.
    pub(super) fn message(&self) -> &str {
        match self {
            Self::Refused(refusal) => refusal.why,
            Self::Disk(error) => error.what(),
        }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) why: &'static str,
}

pub(super) const fn refuse<T>(errno: Errno, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, why })
}

/// Checks command, flags, permission, length and range, in that order. `max_request` bounds what carries data.
#[inline]
pub(super) fn check(request: &Request, session: &Session, max_request: u32) -> Result<Op, Refusal> {
    let style = session.style;
    let allowed = match request.command {
        command::READ if style != HeaderStyle::Simple => flag::DF,
        command::WRITE if style == HeaderStyle::Extended => flag::PAYLOAD_LEN,
        command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
        command::BLOCK_STATUS if style == HeaderStyle::Extended => flag::REQ_ONE | flag::PAYLOAD_LEN,
        command::BLOCK_STATUS => flag::REQ_ONE,
        command::READ | command::WRITE | command::FLUSH | command::TRIM | command::CACHE => 0,
        command::DISC => return Ok(Op::Disconnect),
        _ => return refuse(Errno::Inval, "unknown command"),
    };
    // FUA is valid on every command, and without effect on those that change nothing.
    if request.flags & !(allowed | flag::FUA) != 0 {
        return refuse(Errno::Inval, "a flag that this command does not have");
    }
    let fua = request.flags & flag::FUA != 0;
    let no_hole = request.flags & flag::NO_HOLE != 0;
    let op = match request.command {
        command::READ => Op::Read { whole: style == HeaderStyle::Simple || request.flags & flag::DF != 0 },
        command::WRITE => Op::Write { fua },
        command::FLUSH => Op::Flush,
        command::TRIM => Op::Trim { fua },
        command::WRITE_ZEROES => Op::WriteZeroes { no_hole, fua },
        command::CACHE => Op::Cache,
        _ if request.flags & flag::PAYLOAD_LEN != 0 => {
            Op::BlockStatusPayload { one: request.flags & flag::REQ_ONE != 0 }
        }
        _ => Op::BlockStatus { one: request.flags & flag::REQ_ONE != 0 },
    };
    let changes = matches!(op, Op::Write { .. } | Op::Trim { .. } | Op::WriteZeroes { .. });
    if changes && session.export.read_only {
        return refuse(Errno::Perm, "the export is read-only");
    }
    match op {
        Op::Read { .. } if request.length > max_request.into() => {
            return refuse(Errno::Overflow, "longer than the largest request");
        }
        Op::Write { .. } if request.length > max_request.into() => {
            return refuse(Errno::Inval, "longer than the largest request");
        }
        Op::Flush if request.offset != 0 || request.length != 0 => {
            return refuse(Errno::Inval, "a flush with a range");
        }
        Op::WriteZeroes { no_hole: true, .. } if request.flags & flag::FAST_ZERO != 0 => {
            return refuse(Errno::NotSup, "zeros without a hole are written like data");
        }
        Op::BlockStatusPayload { .. } | Op::BlockStatus { .. } if session.contexts.is_empty() => {
            return refuse(Errno::Inval, "no metadata context was selected");
        }
        // The range is in the payload.
        Op::BlockStatusPayload { .. } => return Ok(op),
        _ => {}
    }
    in_range(op, request.offset, request.length, session)?;
    Ok(op)
}

/// Checks the range of a request against the export.
#[inline]
pub(super) fn in_range(op: Op, offset: u64, length: u64, session: &Session) -> Result<(), Refusal> {
    if offset <= session.size && length <= session.size - offset {
        return match op {
            Op::BlockStatus { .. } | Op::BlockStatusPayload { .. } if length == 0 => {
                refuse(Errno::Inval, "the status of no byte")
            }
            _ => Ok(()),
        };
    }
    match op {
        Op::Write { .. } | Op::WriteZeroes { .. } => refuse(Errno::NoSpace, "past the end of the export"),
        _ => refuse(Errno::Inval, "past the end of the export"),
    }
}
