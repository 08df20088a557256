//! What every verb is given, and the one place that writes to standard output.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::kek_options::KekOptions;
use super::notes::NOTES;
use super::size;
use super::unlock;
use crate::account::failure::Failure;
use crate::account::health::FaultReport;
use crate::account::request::Request;
use crate::account::session::Session;
use crate::crypto::kek::{self, SourceRecord};
use crate::nbd::LocalAttach;
use crate::spool;
use crate::{Error, text};

/// The options that stand before or after any verb.
#[derive(Debug, Clone)]
pub struct Context {
    /// The account directory.
    pub account: PathBuf,
    /// One JSON document on standard output instead of text.
    pub json: bool,
    /// Where acts leave a line.
    pub audit_log: Option<PathBuf>,
}

/// The name of a disk in a table; `!` behind it: something is wrong with the disk, which is told below.
pub(super) fn marked(name: &str, faults: &[FaultReport], failed: bool) -> String {
    if faults.is_empty() && !failed { name.to_owned() } else { format!("{name} !") }
}

/// How a verb ends.
pub type Outcome = Result<(), Failure>;

impl Context {
    /// Shows the outcome of a verb: `document` as JSON, or `text`, which ends without a line break.
    pub fn show(&self, document: &impl Serialize, text: impl Display) -> Outcome {
        if self.json {
            let json = serde_json::to_string_pretty(document).map_err(|e| Error::io("JSON failed", e.into()))?;
            self.print(&text::json(&json))
        } else {
            self.print(&text::lines(&text.to_string()))
        }
    }

    /// As [`Context::show`], for a server: it goes on whether or not the answer can be written, and waits for no
    /// reader.
    pub(super) fn announce(&self, document: &impl Serialize, text: impl Display) -> Outcome {
        let text = match self.json {
            true => serde_json::to_string_pretty(document).map_err(|e| Error::io("JSON failed", e.into()))?,
            false => text.to_string(),
        };
        let text = if self.json { text::json(&text) } else { text::lines(&text) };
        spool::OUT.put(format!("{text}\n").into_bytes());
        Ok(())
    }

    /// Writes `text` and a line break. A reader that has gone away is no failure.
    fn print(&self, text: &str) -> Outcome {
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::io("cannot write to standard output", error).into())
            }
            _ => Ok(()),
        }
    }

    /// The answer to one request; `files` belong to it.
    pub fn ask<T: DeserializeOwned>(
        &self,
        key: &KekOptions,
        request: Request,
        files: &[BorrowedFd<'_>],
    ) -> Result<T, Failure> {
        let like = request.clone();
        self.session(key, &like, |session| session.call(request, files))
    }

    /// Reaches the account as requests like `like` need it, and closes durably what was opened for it.
    pub fn session<T>(
        &self,
        key: &KekOptions,
        like: &Request,
        body: impl FnOnce(&Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let need = like.key_need();
        let session =
            Session::open(&self.account, like.hold(), &|settings, owner| unlock::unlock(key, need, settings, owner))?;
        let session = session.attaching_by(|| Arc::new(LocalAttach::alone())).logged(self.audit_log.as_deref())?;
        let answer = body(&session);
        let closed = session.close();
        let answer = answer?;
        closed?;
        Ok(answer)
    }

    /// Says that what was shown could not be authenticated, and why.
    pub fn note_locked(&self, why: &Failure) {
        self.note(format_args!("note: the account is locked, so nothing of this is authenticated: {}", why.message));
        if let Some(hint) = &why.hint {
            self.note(format_args!("hint: {hint}"));
        }
    }

    /// Says on standard error that a data key of a disk is due to be replaced.
    pub fn note_rotation_due(&self, disk: &str, key: &str, sealed_blocks: u64) {
        let sealed = size::human(sealed_blocks.saturating_mul(16));
        self.note(format_args!(
            "warning: {disk}: {sealed} of the 256 TiB that one data key should encrypt were encrypted under {key}: \
             `sealdisk key rotate-data {disk}` takes a new one"
        ));
    }

    /// Says on standard error how much of a disk no record names, if anything.
    pub fn note_unaccounted(&self, disk: &str, bytes: u64) {
        if bytes > 0 {
            self.note(format_args!(
                "warning: {disk}: {} are stored that no record of the disk names: `sealdisk scrub {disk} --unaccounted`",
                size::human(bytes)
            ));
        }
    }

    /// Says on standard error what is wrong with a disk.
    pub fn note_faults(&self, disk: &str, faults: &[FaultReport]) {
        for FaultReport { message, hint, .. } in faults {
            self.note(format_args!("warning: {disk}: {message}"));
            if let Some(hint) = hint {
                self.note(format_args!("hint: {hint}"));
            }
        }
    }

    /// Notes in the user's configuration that the key command of `source`, which the user has just named, may run.
    pub fn approve(&self, account: Uuid, source: &SourceRecord) {
        if let Err(error) = kek::approve(account, source) {
            self.note(format_args!("warning: {error}: each verb has to name the key command (--key-command)"));
        }
    }

    /// Says on standard error, on one line, what is no part of the answer; in a process with a log, where that goes.
    pub fn note(&self, text: impl Display) {
        let text = text.to_string();
        let text = text::line(&text);
        let line = format!("{text}\n").into_bytes();
        if spool::LOG.is_open() {
            return spool::LOG.put(line);
        }
        NOTES.put(line);
    }

    /// Reports how a verb failed.
    pub fn fail(&self, failure: &Failure) {
        self.note(format_args!("error: {}", failure.message));
        if let Some(hint) = &failure.hint {
            self.note(format_args!("hint: {hint}"));
        }
        self.document_failure(failure);
    }

    /// The JSON document of a failure, where JSON was asked for.
    pub fn document_failure(&self, failure: &Failure) {
        if self.json {
            let mut document = failure.details.clone();
            let Failure { kind, message, offset, .. } = failure;
            let error = serde_json::json!({ "kind": kind, "message": message, "offset": offset });
            document.insert("error".to_owned(), error);
            // Nobody is left to tell when standard output is closed.
            let _ = self.show(&document, "");
        }
    }
}
