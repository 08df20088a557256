//! Whether an audit log is whole: every line continues the one before it, and its MACs are those of the account.
//!
//! A MAC covers its line and, through the chain, all lines before it: also those under account keys that are gone, and
//! those written while no key was at hand. So what is proven is everything up to the last line with a MAC under a key
//! at hand. Lines behind it whoever can write the file may have written. Lines that were cut off at the end are not
//! seen.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::line::{Entry, LONGEST, Line, Link};
use crate::crypto::keyring::AuditKey;
use crate::{Error, ErrorKind, Result};

const NAMED: &str = "name the file that --audit-log names to the server, as a user who may read it";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChecked {
    /// Whole lines, up to the first bad one.
    pub lines: u64,
    /// Of those, the last ones that no MAC proves.
    pub unproven: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastLine>,
    /// The first line that is not as it was written; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<BadLine>,
}

/// The last whole line: to compare with what another place knows of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastLine {
    pub n: u64,
    /// Seconds since the epoch.
    pub time: u64,
    pub verb: String,
    pub on: String,
    pub uid: u32,
    pub pid: Option<u32>,
    /// In hex.
    pub chain: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadLine {
    /// Of the file, the first is 1.
    pub line: u64,
    pub why: String,
}

/// Opens the log at `path` to check it: a regular file, or [`ErrorKind::InvalidInput`].
pub fn open(path: &Path) -> Result<File> {
    // A FIFO must not hang; a regular file takes no notice.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| Error::io("cannot open the audit log", error.into()).at_path(path).hint(NAMED))?;
    let file = File::from(file);
    check_regular(&file).map_err(|error| error.at_path(path).hint(NAMED))?;
    Ok(file)
}

/// [`ErrorKind::InvalidInput`] where `file` is a folder, a pipe or a device.
pub fn check_regular(file: &File) -> Result<()> {
    let metadata = file.metadata().map_err(|error| Error::io("cannot read the audit log", error))?;
    match metadata.is_file() {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::InvalidInput, "the audit log is not a regular file")),
    }
}

/// Checks the log in `file`, a regular file, as it is now.
pub fn check(file: File, account: Uuid, keys: &[AuditKey]) -> Result<LogChecked> {
    let failed = |error| Error::io("cannot read the audit log", error);
    // Between two lines: no process is writing one.
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockShared)).map_err(|e| failed(e.into()))?;
    let len = file.metadata().map_err(failed)?.len();
    rustix::fs::flock(&file, FlockOperation::Unlock).map_err(|e| failed(e.into()))?;
    let mut from = BufReader::new(file.take(len));
    let (mut found, mut follows, mut proven) = (LogChecked::default(), Link::default(), 0);
    loop {
        let mut bytes = Vec::new();
        let read = (&mut from).take(LONGEST as u64 + 2).read_until(b'\n', &mut bytes).map_err(failed)?;
        if read == 0 {
            break;
        }
        match follow(&bytes, follows, account, keys) {
            Ok((line, is_proven)) => {
                follows = line.link();
                found.lines += 1;
                if is_proven {
                    proven = found.lines;
                }
                found.last = Some(last(&line));
            }
            Err(why) => {
                found.bad = Some(BadLine { line: found.lines + 1, why });
                break;
            }
        }
    }
    found.unproven = found.lines - proven;
    Ok(found)
}

/// The line in `bytes` after the one at `follows`, and whether a MAC proves it; or why it is bad.
fn follow(bytes: &[u8], follows: Link, account: Uuid, keys: &[AuditKey]) -> std::result::Result<(Line, bool), String> {
    let whole = bytes.strip_suffix(b"\n").ok_or("it is not whole: it ends without a line break")?;
    let text = std::str::from_utf8(whole).map_err(|_| "it is not UTF-8")?;
    let line = Line::parse(text).map_err(|error| error.to_string())?;
    let n = line.link().n;
    if n != follows.n + 1 {
        return Err(format!("it has the number {n} where {} follows: lines were taken away or put in", follows.n + 1));
    }
    if !line.continues(&follows.chain) {
        return Err("it does not continue the line before it: one of the two was changed".to_owned());
    }
    if line.entry().account != account {
        return Err(format!("it is about another account, {}", line.entry().account));
    }
    match keys.iter().find(|key| line.key() == Some(key.account_key())) {
        None => Ok((line, false)),
        Some(key) if line.is_made_with(key) => Ok((line, true)),
        Some(_) => Err("its MAC is not the account's: it was written by something else".to_owned()),
    }
}

fn last(line: &Line) -> LastLine {
    let Entry { time, verb, on, uid, pid, .. } = line.entry();
    let Link { n, chain } = line.link();
    LastLine { n, time, verb, on, uid, pid, chain: hex::encode(chain) }
}
