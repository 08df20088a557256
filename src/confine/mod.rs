//! A server gives up what it does not need: whoever gets hold of it through a socket gets no more than it still has.
//!
//! | from then on | by | file |
//! |---|---|---|
//! | the account's files, the recorded images for reading, no others; no TCP connection from here | landlock | `files.rs` |
//! | the calls of a server that runs: no program, no process, no socket but those bound and accepted | seccomp | `calls.rs` |
//!
//! Both are for good and for every thread. Landlock binds the calling thread and the threads that it starts, so it comes
//! before the first of them; the system calls are cut down last, when every socket is bound. What the server is to open
//! later it gets as a descriptor, over the control socket. No core file and no new privileges: [`crate::crypto::harden`],
//! and both of these.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use crate::{Error, ErrorKind, Result};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod calls;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod calls {
    /// There is no list for this architecture.
    pub(super) fn restrict() -> crate::Result<bool> {
        Ok(false)
    }
}
mod files;

/// Whether a server confines itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// As far as the kernel can
    #[default]
    On,
    /// Or do not start
    Require,
    /// Not at all: for debuggers and tracers
    Off,
}

/// What a server goes on needing.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// The account directory: read and written.
    pub account: PathBuf,
    /// Image files, for reading. One that is missing now stays out of reach.
    pub images: Vec<PathBuf>,
    /// Folders in which sockets are made, and removed at the end.
    pub socket_folders: Vec<PathBuf>,
    /// TCP ports that are still to be bound; 0: any that is free.
    pub ports: Vec<u16>,
}

/// What is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// Version of the landlock interface that restricts files; `None`: they are not restricted.
    pub landlock: Option<u8>,
    /// Whether system calls are filtered.
    pub seccomp: bool,
}

impl Confinement {
    /// Restricts files and TCP, for this thread and all that it starts.
    pub fn files(mode: Mode, needs: &Needs) -> Result<Self> {
        let landlock = match mode {
            Mode::Off => None,
            Mode::On | Mode::Require => files::restrict(needs)?,
        };
        if mode == Mode::Require && landlock.is_none() {
            return Err(lacking("landlock"));
        }
        Ok(Self { landlock, seccomp: false })
    }

    /// Restricts system calls, for every thread.
    pub fn calls(self, mode: Mode) -> Result<Self> {
        let seccomp = match mode {
            Mode::Off => false,
            Mode::On | Mode::Require => calls::restrict()?,
        };
        if mode == Mode::Require && !seccomp {
            return Err(lacking("seccomp filters"));
        }
        Ok(Self { seccomp, ..self })
    }

    /// Whether a part is missing that this program knows of.
    #[must_use]
    pub fn is_partial(self) -> bool {
        !self.seccomp || self.landlock.is_none_or(|version| version < files::WHOLE)
    }
}

fn lacking(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this kernel has no {what}, and --confine require asks for it"))
        .hint("--confine on goes without; `cat /sys/kernel/security/lsm` lists what the kernel was started with")
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.landlock {
            None => f.write_str("files not at all (no landlock)")?,
            Some(version) => write!(f, "files by landlock {version}")?,
        }
        f.write_str(if self.seccomp { ", system calls by seccomp" } else { ", system calls not at all (no seccomp)" })
    }
}
