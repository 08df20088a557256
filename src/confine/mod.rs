//! A process gives up what it does not need: code of an attacker that runs in it gets no more than it still has.
//!
//! | from then on | by | file |
//! |---|---|---|
//! | the account's files, the recorded images for reading, no others; no TCP connection from here | landlock | `files.rs` |
//! | the calls of a server that runs: no program, no process, no socket but those bound and accepted | seccomp | `calls.rs`, `arguments.rs` |
//!
//! Both are for good and for every thread. Landlock binds the calling thread and the threads that it starts, so it
//! comes before the first of them; the system calls are cut down last, when every socket is bound. What the server is
//! to open later it gets as a descriptor, over the control socket. No core file and no new privileges:
//! [`crate::crypto::harden`], and both of these.
//!
//! A server confines itself in two steps, [`Confinement::files`] and [`Confinement::calls`]; a verb that is to read
//! what others made does so in one, [`verb`].

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::{Error, ErrorKind, Result};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod arguments;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod calls;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod calls {
    #[derive(Debug, Clone, Copy)]
    pub(super) enum FilteredProcess {
        Server,
        Verb {
            #[allow(dead_code, reason = "read where there is a list")]
            network: super::Network,
        },
        Thread,
    }

    /// There is no list for this architecture.
    pub(super) fn restrict(_: FilteredProcess) -> crate::Result<bool> {
        Ok(false)
    }
}
mod files;
mod reread;

use calls::FilteredProcess;

/// Whether a server confines itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// As far as the kernel can
    #[default]
    On,
    /// Or do not start
    Require,
    /// Not at all: for debuggers and tracers
    Off,
}

/// What a process goes on needing. Nothing else in the file system can be opened, made or removed.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Regular files, for reading. What is missing now, or no regular file, stays out of reach.
    pub files: Vec<PathBuf>,
    /// Folders, for reading everything below. One that is missing now stays out of reach.
    pub folders: Vec<PathBuf>,
    /// Files that are read again when others have taken their place.
    pub reread: Vec<PathBuf>,
    /// Files and folders that are there, for reading and writing; below folders, files and folders are also made,
    /// renamed within their folder, and removed. For a server: the account directory.
    pub changed: Vec<PathBuf>,
    /// Folders in which files that have no name yet get one. Nothing there is opened for it.
    pub named_in: Vec<PathBuf>,
    /// Folders in which files are renamed: a name that is there can go.
    pub renamed_in: Vec<PathBuf>,
    /// Folders in which sockets are made. Nothing is removed there, so a socket in one outlives its server.
    pub socket_folders: Vec<PathBuf>,
    /// TCP ports that are still to be bound; 0: any that is free.
    pub ports: Vec<u16>,
}

/// What a confined verb may still connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Nothing,
    /// Unix sockets that have a path, such as the one of an account's server.
    Unix,
    /// Whatever its user may connect to.
    Any,
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
    /// Restricts files and TCP, for this thread and all that it starts. [`ErrorKind::Unsupported`]: the mode asks for
    /// all of it, and the kernel has less.
    pub fn files(mode: Mode, needs: &Needs) -> Result<Self> {
        let landlock = match mode {
            Mode::Off => None,
            Mode::On | Mode::Require => files::restrict(needs, false)?,
        };
        let missing: Vec<_> = files::missing(landlock).collect();
        if mode == Mode::Require && !missing.is_empty() {
            return Err(lacking(&missing));
        }
        Ok(Self { landlock, seccomp: false })
    }

    /// Restricts system calls, for every thread.
    pub fn calls(self, mode: Mode) -> Result<Self> {
        let seccomp = match mode {
            Mode::Off => false,
            Mode::On | Mode::Require => calls::restrict(FilteredProcess::Server)?,
        };
        let confined = Self { seccomp, ..self };
        if mode == Mode::Require && confined.is_partial() {
            return Err(lacking(&confined.missing()));
        }
        Ok(confined)
    }

    /// The parts that this program knows of and that are not in force, in words.
    #[must_use]
    pub fn missing(self) -> Vec<String> {
        let calls = (!self.seccomp).then(|| "system calls (seccomp)".to_owned());
        files::missing(self.landlock).chain(calls).collect()
    }

    /// Whether a part is missing that this program knows of.
    #[must_use]
    pub fn is_partial(self) -> bool {
        !self.missing().is_empty()
    }
}

/// Confines a verb, for good, before it reads what others made: a file of a foreign format, the answers of a foreign
/// server. As far as the kernel can: what is not in force is in [`Confinement::missing`], and no error.
///
/// To be called on the main thread, once everything is open that `needs` does not cover (terminals for passphrases, key
/// files, the account's control socket), key commands have ended, and names of hosts are resolved; and **before the
/// first thread is started**: landlock binds the calling thread and those that it starts, not those that are there.
/// (The filter of system calls binds every thread. Threads can be started afterwards, processes cannot.)
///
/// The sockets that the process has stay, and open files can be passed over them; `network` says what else it may
/// connect to.
pub fn verb(needs: &Needs, network: Network) -> Result<Confinement> {
    let landlock = files::restrict(needs, network == Network::Any)?;
    let seccomp = calls::restrict(FilteredProcess::Verb { network })?;
    Ok(Confinement { landlock, seccomp })
}

/// The same for this thread and those that it starts, without a network. **Other threads keep what they have**, so this
/// is for a part of a verb that goes on with its account afterwards: what a parser is talked into stays confined, code
/// that gets to run in the process does not.
pub fn thread(needs: &Needs) -> Result<Confinement> {
    let landlock = files::restrict(needs, false)?;
    let seccomp = calls::restrict(FilteredProcess::Thread)?;
    Ok(Confinement { landlock, seccomp })
}

fn lacking(missing: &[String]) -> Error {
    let what = format!("--confine require asks for what this kernel does not restrict: {}", missing.join(", "));
    Error::new(ErrorKind::Unsupported, what)
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
