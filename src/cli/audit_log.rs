//! `audit --log`: whether an audit log is whole.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::{time, unlock};
use crate::account::audit_log::check::{self, LogChecked};
use crate::account::failure::Failure;
use crate::account::key_request::KeyRequest;
use crate::account::session;
use crate::{Error, ErrorKind, text};

/// Checks the log at `path`, and fails where it is not whole. Where the keys are revoked, and so a server or this
/// account at rest has none, the verb itself takes them from the key-encryption key.
pub(super) fn run(context: &Context, key: &KekOptions, path: &Path) -> Outcome {
    let file = check::open(path)?;
    let (settings, owner) = session::settings(&context.account)?;
    let found: LogChecked = if settings.revoked() && !settings.erased() {
        let keys = settings.unlock_revoked(&unlock::kek(key, &settings, &owner)?)?;
        check::check(file, settings.account(), &keys.audit_keys()?)?
    } else {
        context.ask(key, KeyRequest::CheckLog.into(), &[file.as_fd()])?
    };
    let what = match &found.bad {
        None if found.lines == 0 => "it is empty, and a log begins with a line: its lines are gone".to_owned(),
        Some(bad) => format!("line {} is not as it was written: {}", bad.line, bad.why),
        None if found.lines > 0 && found.unproven == found.lines => {
            "no line is proven: none has a MAC of a key of this account that is at hand".to_owned()
        }
        None => return context.show(&found, Text(&found)),
    };
    let mut failure = Failure::from(Error::new(ErrorKind::Corrupt, what).at_path(path).hint(match &found.last {
        None if found.bad.is_none() => {
            "compare with what another place knows of it; the next start of a server begins a new log".to_owned()
        }
        None => "no line before it is whole".to_owned(),
        Some(_) => Text(&found).to_string(),
    }));
    if context.json {
        let document = serde_json::to_value(&found).map_err(|error| Error::io("JSON failed", error.into()))?;
        failure.details.insert("audit_log".to_owned(), document);
    }
    Err(failure)
}

struct Text<'a>(&'a LogChecked);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(found) = self;
        let whole = if found.bad.is_some() { "whole up to there" } else { "whole" };
        write!(f, "{whole}: {} lines", found.lines)?;
        if found.unproven > 0 {
            write!(
                f,
                ", of which the last {} have no MAC: who can write the file may have added them",
                found.unproven
            )?;
        }
        if let Some(last) = &found.last {
            let (when, verb, on) = (time::utc(last.time), text::line(&last.verb), text::line(&last.on));
            let pid = last.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
            let on = if on.is_empty() { String::new() } else { format!(" {on}") };
            write!(f, "; the last, {}, of {when}: {verb}{on}, by uid {}{pid}", last.n, last.uid)?;
        }
        Ok(())
    }
}
