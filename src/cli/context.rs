//! What every verb is given, and the one place that writes to standard output.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use crate::Error;
use crate::account::failure::Failure;

/// The options that stand before or after any verb.
#[derive(Debug, Clone)]
pub struct Context {
    /// The account directory.
    pub account: PathBuf,
    /// One JSON document on standard output instead of text.
    pub json: bool,
}

/// How a verb ends.
pub type Outcome = std::result::Result<(), Failure>;

impl Context {
    /// Shows the outcome of a verb: `document` as JSON, or `text`, which ends without a line break.
    pub fn show(&self, document: &impl Serialize, text: impl Display) -> Outcome {
        if self.json {
            let json = serde_json::to_string_pretty(document).map_err(|e| Error::io("JSON failed", e.into()))?;
            self.print(json)
        } else {
            self.print(text)
        }
    }

    /// Writes `text` and a line break. A reader that has gone away is no failure.
    fn print(&self, text: impl Display) -> Outcome {
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::io("cannot write to standard output", error).into())
            }
            _ => Ok(()),
        }
    }

    /// Says on standard error what is no part of the answer.
    pub fn note(&self, text: impl Display) {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Reports how a verb failed.
    pub fn fail(&self, failure: &Failure) {
        self.note(format_args!("error: {}", failure.message));
        if let Some(hint) = &failure.hint {
            self.note(format_args!("hint: {hint}"));
        }
        if self.json {
            let error = serde_json::json!({ "kind": failure.kind, "message": failure.message });
            let _ = self.show(&serde_json::json!({ "error": error }), "");
        }
    }
}
