//! What an operator must know of a disk, open or not: that it cannot be opened, that its base image was deleted or
//! changed under it, that it was recovered after an unclean end. Each is a line in the log, a metric, and a mark in
//! `list` and `status`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::name::BlobName;
use crate::base::DeletedFile;
use crate::{Error, ErrorKind};

/// The same fault of a disk is logged no more often.
const AGAIN: Duration = Duration::from_secs(60);

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The last attempt to open it failed.
    CannotOpen,
    /// A file of its base was deleted, or replaced, while the disk is open: it can be read until the disk is closed.
    BaseDeleted,
    /// Its base is not the one it was made over: nothing more is read from it.
    BaseChanged,
}

impl Fault {
    pub const ALL: [Self; 3] = [Self::CannotOpen, Self::BaseDeleted, Self::BaseChanged];

    /// As metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CannotOpen => "cannot_open",
            Self::BaseDeleted => "base_deleted",
            Self::BaseChanged => "base_changed",
        }
    }
}

/// A fault and its cause, as `list` and `status` show them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultReport {
    pub fault: Fault,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What metrics tell of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthSample {
    /// In the order of [`Fault::ALL`].
    pub faults: [bool; Fault::ALL.len()],
    /// Failed attempts to open it.
    pub open_failures: u64,
    /// Openings after an unclean end, and the last of them in seconds since the epoch; 0: none since the server
    /// started.
    pub recoveries: u64,
    pub recovered_at: u64,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Health {
    known: Mutex<Known>,
    open_failures: AtomicU64,
    recoveries: AtomicU64,
    recovered_at: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    /// In the order of [`Fault::ALL`].
    causes: [Option<Failure>; Fault::ALL.len()],
    logged: [Option<Instant>; Fault::ALL.len()],
}

impl Known {
    /// Whether the fault is new, or was not logged for a while.
    fn set(&mut self, fault: Fault, cause: Failure) -> bool {
        let at = fault as usize;
        let same = self.causes[at].as_ref().is_some_and(|known| known.message == cause.message);
        self.causes[at] = Some(cause);
        let quiet = same && self.logged[at].is_some_and(|logged| logged.elapsed() < AGAIN);
        if !quiet {
            self.logged[at] = Some(Instant::now());
        }
        !quiet
    }
}

/// Whether an error says that the disk itself cannot be opened, and not that the account's keys are not at hand, or
/// that the disk or the server is about to go.
fn is_fault(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Revoked | ErrorKind::WrongKey | ErrorKind::Shutdown | ErrorKind::InUse)
}

impl Health {
    /// An attempt to open the disk failed.
    pub(super) fn cannot_open(&self, name: &BlobName, error: &Error) {
        if !is_fault(error) {
            return;
        }
        self.open_failures.fetch_add(1, Ordering::Relaxed);
        self.found_unable(name, error);
    }

    /// The disk was looked at, and would not open.
    pub(super) fn found_unable(&self, name: &BlobName, error: &Error) {
        if is_fault(error) && self.known.lock().set(Fault::CannotOpen, error.into()) {
            let hint = error.hint_text();
            tracing::warn!(disk = %name, %error, hint, "the disk cannot be opened");
        }
    }

    /// The disk was opened, or would open.
    pub(super) fn opens(&self, name: &BlobName) {
        let mut known = self.known.lock();
        if known.causes[Fault::CannotOpen as usize].take().is_some() {
            tracing::info!(disk = %name, "the disk can be opened again");
        }
    }

    /// The disk was closed: what was wrong with its open base does not matter any more.
    pub(super) fn closed(&self) {
        self.forget_base_faults();
    }

    /// Whether there were any.
    fn forget_base_faults(&self) -> bool {
        let mut known = self.known.lock();
        let of_base = [Fault::BaseDeleted, Fault::BaseChanged];
        of_base.map(|fault| known.causes[fault as usize].take().is_some()).contains(&true)
    }

    /// The base of the open disk was looked at.
    pub(super) fn base(&self, name: &BlobName, found: Result<Option<DeletedFile>, Error>) {
        match found {
            Ok(None) => {
                if self.forget_base_faults() {
                    tracing::info!(disk = %name, "the base of the disk is in order again");
                }
            }
            Ok(Some(deleted)) => {
                let DeletedFile { path, descriptor } = deleted;
                let (pid, path) = (std::process::id(), path.display());
                let message = format!("the base image was deleted or replaced while the disk is open: {path}");
                let hint = format!(
                    "its content is lost when the disk is closed; save it first, as root: \
                     cp --sparse=always /proc/{pid}/fd/{descriptor} FILE, and `rebase --base FILE` afterwards"
                );
                let cause = Failure { message, hint: Some(hint), ..Failure::default() };
                let (error, hint) = (cause.message.clone(), cause.hint.clone());
                if self.known.lock().set(Fault::BaseDeleted, cause) {
                    tracing::warn!(disk = %name, hint, "{error}");
                }
            }
            Err(error) if error.kind() == ErrorKind::BaseChanged => {
                if self.known.lock().set(Fault::BaseChanged, (&error).into()) {
                    let hint = error.hint_text();
                    tracing::error!(disk = %name, %error, hint, "nothing more is read from the base of the disk");
                }
            }
            Err(error) => tracing::warn!(disk = %name, %error, "the base of the disk cannot be looked at"),
        }
    }

    /// The disk was opened after an unclean end.
    pub(super) fn recovered(&self, name: &BlobName, pages: u64, took: Duration) {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.recoveries.fetch_add(1, Ordering::Relaxed);
        self.recovered_at.store(now.as_secs(), Ordering::Relaxed);
        let milliseconds = took.as_millis() as u64;
        tracing::warn!(disk = %name, pages, milliseconds, "recovered after an unclean end");
    }

    /// Whether the disk must stay open, because its base can be read by nobody who opens it again.
    pub(super) fn must_stay_open(&self) -> bool {
        self.known.lock().causes[Fault::BaseDeleted as usize].is_some()
    }

    pub(super) fn sample(&self) -> HealthSample {
        let causes = &self.known.lock().causes;
        HealthSample {
            faults: std::array::from_fn(|fault| causes[fault].is_some()),
            open_failures: self.open_failures.load(Ordering::Relaxed),
            recoveries: self.recoveries.load(Ordering::Relaxed),
            recovered_at: self.recovered_at.load(Ordering::Relaxed),
        }
    }

    pub(super) fn report(&self) -> Vec<FaultReport> {
        let known = self.known.lock();
        let told =
            Fault::ALL.into_iter().zip(&known.causes).filter_map(|(fault, cause)| Some((fault, cause.as_ref()?)));
        let report = |(fault, cause): (Fault, &Failure)| FaultReport {
            fault,
            message: cause.message.clone(),
            hint: cause.hint.clone(),
        };
        told.map(report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_once_and_ends() {
        let (health, name) = (Health::default(), "a".parse().expect("a name"));
        let error = || Error::new(ErrorKind::NotFound, "the base image is gone");
        health.cannot_open(&name, &error());
        assert!(!health.known.lock().set(Fault::CannotOpen, error().into()), "the same is not logged again at once");
        assert!(health.known.lock().set(Fault::CannotOpen, Error::new(ErrorKind::Io, "another").into()));
        let sample = health.sample();
        assert_eq!((sample.faults, sample.open_failures), ([true, false, false], 1));
        assert_eq!(health.report()[0].fault, Fault::CannotOpen);
        health.opens(&name);
        assert_eq!((health.sample().faults, health.report().len()), ([false; 3], 0));
        // Keys that are not at hand are no fault of the disk.
        health.cannot_open(&name, &Error::new(ErrorKind::Revoked, "revoked"));
        assert_eq!(health.sample().open_failures, 1);
    }

    #[test]
    fn a_deleted_base_keeps_its_disk_open() {
        let (health, name) = (Health::default(), "a".parse().expect("a name"));
        health.base(&name, Ok(Some(DeletedFile { path: "/images/a".into(), descriptor: 7 })));
        assert!(health.must_stay_open());
        let hint = health.report()[0].hint.clone().expect("a way out");
        assert!(hint.contains(&format!("/proc/{}/fd/7", std::process::id())), "{hint}");
        health.closed();
        assert!(!health.must_stay_open());
        // Or a rebase has it read from another file.
        health.base(&name, Ok(Some(DeletedFile { path: "/images/a".into(), descriptor: 7 })));
        health.base(&name, Ok(None));
        assert!(!health.must_stay_open() && health.report().is_empty());
    }
}
