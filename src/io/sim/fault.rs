//! Which calls fail, and how.

use std::io;

use rustix::io::Errno;

use super::rng::SimRng;

/// The calls of the seam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Read,
    Write,
    SyncData,
    Size,
    SetSize,
    Punch,
    Allocate,
    NextData,
    ReadAhead,
    DropCache,
    Open,
    Create,
    OpenDir,
    CreateDir,
    Rename,
    Remove,
    List,
    SyncDir,
    SyncFileSystem,
    FreeBytes,
}

/// What can go wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Any part of the change may have been made.
    Eio,
    Enospc,
    /// Nothing was done; the call is to be repeated. Reads and writes.
    Eintr,
    /// Only a first part was done, at least one byte of more than one. Reads and writes.
    Short,
    /// The kernel wrote back part of what this file has pending and lost the rest; the next sync says so. The call
    /// itself succeeds. Writes.
    WriteBack,
}

impl Fault {
    /// Whether `call` can fail in this way.
    #[must_use]
    pub fn fits(self, call: Call) -> bool {
        use Call as C;
        match self {
            Self::Eio => true,
            Self::Enospc => matches!(
                call,
                C::Write | C::SyncData | C::SetSize | C::Punch | C::Allocate | C::Create | C::CreateDir | C::Rename
            ),
            Self::Eintr | Self::Short => matches!(call, C::Read | C::Write),
            Self::WriteBack => call == C::Write,
        }
    }
}

/// The faults of a run. The default has none.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// At the call of this number (the first is 1), or at the first one after it that can fail so.
    pub once: Option<(u64, Fault)>,
    /// The same, but every call from there on that can.
    pub lasting: bool,
    /// Chances in 1,000 of harmless ones: short transfers and `EINTR`.
    pub nuisance: u32,
    /// Chances in 100,000 of each fault at each call that can fail so.
    pub random: Vec<(Call, Fault, u32)>,
}

/// A fault that happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fired {
    /// Number of the call.
    pub at: u64,
    pub call: Call,
    pub fault: Fault,
    /// The file, with the range, or the directory with the name.
    pub on: String,
}

impl Faults {
    pub(super) fn draw(&mut self, at: u64, call: Call, rng: &mut SimRng) -> Option<Fault> {
        if let Some((from, fault)) = self.once
            && at >= from
            && fault.fits(call)
        {
            if !self.lasting {
                self.once = None;
            }
            return Some(fault);
        }
        for (of, fault, rate) in &self.random {
            if *of == call && rng.below(100_000) < u64::from(*rate) {
                return Some(*fault);
            }
        }
        if self.nuisance != 0 && Fault::Short.fits(call) && rng.chance(self.nuisance) {
            return Some(if rng.coin() { Fault::Short } else { Fault::Eintr });
        }
        None
    }
}

pub(super) fn eio() -> io::Error {
    Errno::IO.into()
}

pub(super) fn enospc() -> io::Error {
    Errno::NOSPC.into()
}

/// The error of a call that does nothing when it fails.
pub(super) fn plain(fault: Option<Fault>) -> io::Result<()> {
    match fault {
        None => Ok(()),
        Some(Fault::Enospc) => Err(enospc()),
        Some(Fault::Eintr) => Err(io::ErrorKind::Interrupted.into()),
        Some(_) => Err(eio()),
    }
}
