//! The audit log: a file with one line for every act on an account, chained, so that a line which was changed, inserted
//! or taken out of the middle is found by whoever has the account's key.
//!
//! | file | its noun |
//! |---|---|
//! | `line` | a line, as JSON |
//! | `check` | whether a log is whole |
//! | this one | appending |
//!
//! 1. A line is appended under a lock of the file (flock), after the last whole line: several processes may share a
//!    log.
//! 2. It is durable before the answer to the act. What a crash left of a line that was not whole is dropped by the
//!    next.
//! 3. Space for some lines is reserved ahead, so that what makes room on a full file system can still be logged.
//! 4. No line goes to a file that the path no longer names: the log was moved or removed, and what is looked for is not
//!    found there. Only what is still kept at the end goes to a file that was moved.
//! 5. A line that cannot be written is kept and comes first as soon as it can; until then further acts are refused, but
//!    for those that take keys away. No request of an NBD client waits for the log.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

pub mod check;
pub mod line;

use self::line::{Entry, Line, Link};
use super::owner::Owner;
use crate::crypto::keyring::AuditKey;
use crate::{Error, ErrorKind, Result};

/// Bytes that are reserved behind the last line.
const RESERVE: u64 = 64 << 10;
/// Space without which no act begins.
const LEAST: u64 = 4096;
/// How long the lock of the file is waited for.
const TIMEOUT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);
/// Lines that are kept while they cannot be written.
const KEPT: usize = 1000;

/// See the module documentation.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Opened when it is first needed.
    file: Option<File>,
    kept: VecDeque<(Entry, Option<AuditKey>)>,
    /// The last line that this process wrote: no line before it may be the last of the file.
    last: u64,
}

impl AuditLog {
    /// The log at `path`, which is not opened yet.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), state: Mutex::default() }
    }

    /// Opens it now, or makes it: later a confined process cannot.
    pub fn open(&self) -> Result<()> {
        self.state.lock().file(&self.path).map(drop)
    }

    /// The same with the rights of `owner`, whose file a new one is; else as the user who names it.
    pub fn open_as(&self, owner: &Owner) -> Result<()> {
        owner.act(|| self.open()).or_else(|_| self.open())
    }

    /// Whether no line was ever written to the file.
    pub fn is_empty(&self) -> Result<bool> {
        let mut state = self.state.lock();
        let metadata = state.file(&self.path)?.metadata().map_err(|e| self.failed(e))?;
        Ok(metadata.len() == 0)
    }

    /// Whether a line can be written: lines that were kept are, and there is space for another.
    pub fn ready(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.write_kept(&self.path, check_place)?;
        let file = state.file(&self.path)?;
        check_place(file, &self.path)?;
        let end = file.metadata().map_err(|e| self.failed(e))?.len();
        reserve(file, end, LEAST).map_err(|e| self.failed(e))
    }

    /// Appends a line with the MAC of `key`, durably. On an error the line is kept for later.
    pub fn append(&self, entry: Entry, key: Option<AuditKey>) -> Result<()> {
        let mut state = self.state.lock();
        if state.kept.len() >= KEPT {
            let what = format!("{KEPT} lines wait for the audit log already: this one is lost");
            return Err(Error::new(ErrorKind::NoSpace, what).at_path(&self.path));
        }
        state.kept.push_back((entry, key));
        state.write_kept(&self.path, check_place)
    }

    /// The last chance of the lines that are kept: they are written to a file that was moved, too, or lost.
    pub fn end(&self) {
        let mut state = self.state.lock();
        if let Err(error) = state.write_kept(&self.path, check_linked) {
            tracing::error!(%error, lines = state.kept.len(), "lines of the audit log are lost");
            state.kept.clear();
        }
    }

    /// Lines that could not be written yet.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.state.try_lock().map_or(1, |state| state.kept.len())
    }

    fn failed(&self, error: io::Error) -> Error {
        failed(&self.path, error)
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::io("the audit log cannot be written, and without it nothing is changed", error)
        .at_path(path)
        .hint("make room for it; `key revoke` and `key erase` work without it")
}

impl State {
    fn file(&mut self, path: &Path) -> Result<&File> {
        if self.file.is_none() {
            self.file = Some(open(path)?);
        }
        self.file.as_ref().ok_or_else(|| failed(path, io::ErrorKind::NotFound.into()))
    }

    /// Writes the lines that are kept, where `check` has nothing against the file.
    fn write_kept(&mut self, path: &Path, check: fn(&File, &Path) -> Result<()>) -> Result<()> {
        while !self.kept.is_empty() {
            let last = self.last;
            self.file(path)?;
            let Some(file) = &self.file else { break };
            check(file, path)?;
            let lock = Lock::take(file).map_err(|e| failed(path, e))?;
            let tail = Tail::read(file).map_err(|e| failed(path, e))?;
            if tail.link.n < last {
                let found = tail.link.n;
                tracing::error!(path = %path.display(), found, last, "lines are gone from the end of the audit log");
            }
            // A number that is missing tells whoever checks the log that lines were taken away.
            let follows = Link { n: tail.link.n.max(last), chain: tail.link.chain };
            let Some((entry, key)) = self.kept.front() else { break };
            let line = Line::new(entry, key.as_ref(), follows)?;
            let written = tail.append(lock.file, line.text().as_bytes());
            drop(lock);
            written.map_err(|e| failed(path, e))?;
            self.last = line.link().n;
            self.kept.pop_front();
        }
        Ok(())
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.end();
    }
}

/// Refuses a file that `path` no longer names.
fn check_place(file: &File, path: &Path) -> Result<()> {
    let open = rustix::fs::fstat(file).map_err(|error| failed(path, error.into()))?;
    let is_there = match rustix::fs::lstat(path) {
        Ok(now) => (now.st_dev, now.st_ino) == (open.st_dev, open.st_ino),
        Err(Errno::NOENT | Errno::NOTDIR) => false,
        // A folder that this user may not look into: only the number of links tells.
        Err(_) => open.st_nlink > 0,
    };
    if is_there { Ok(()) } else { Err(moved(path)) }
}

/// Refuses a file that no path names any more.
fn check_linked(file: &File, path: &Path) -> Result<()> {
    let open = rustix::fs::fstat(file).map_err(|error| failed(path, error.into()))?;
    if open.st_nlink > 0 { Ok(()) } else { Err(moved(path)) }
}

fn moved(path: &Path) -> Error {
    let what = "the audit log was moved or removed while it is open, and without it nothing is changed";
    Error::new(ErrorKind::NotFound, what).at_path(path).hint(
        "put it back, or restart the server, which begins a new one; `key revoke` and `key erase` work without it",
    )
}

/// A regular file of this user, appended to.
fn open(path: &Path) -> Result<File> {
    let cannot = |error| Error::io("cannot open the audit log", error).at_path(path);
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options.custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed());
    let file = options.open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        let what = "the audit log is not a regular file: its chain could not be read back";
        return Err(Error::new(ErrorKind::InvalidInput, what).at_path(path).hint("name a file"));
    }
    // Before the first act, and before anything is done to a file that is something else.
    let end = Tail::read(&file).map_err(|error| cannot(error).hint("name a new file, or the log of this account"))?.len;
    // Whether there is space is looked at before each act.
    let _ = reserve(&file, end, RESERVE);
    Ok(file)
}

/// Sees to `bytes` of space behind `end`. A file system that reserves none is taken as it is.
fn reserve(file: &File, end: u64, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, end, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}

/// The lock of the file; given back when it goes.
struct Lock<'a> {
    file: &'a File,
}

impl<'a> Lock<'a> {
    fn take(file: &'a File) -> io::Result<Self> {
        let until = Instant::now() + TIMEOUT;
        loop {
            match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { file }),
                Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(STEP),
                Err(Errno::WOULDBLOCK) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds its lock"));
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(self.file, FlockOperation::Unlock);
    }
}

/// The end of the file.
struct Tail {
    /// Behind the last whole line.
    end: u64,
    len: u64,
    link: Link,
}

impl Tail {
    fn read(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        // A line that is not whole, and the one before it.
        let from = len.saturating_sub(2 * line::LONGEST as u64);
        let mut bytes = vec![0; (len - from) as usize];
        file.read_exact_at(&mut bytes, from)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let end = if whole == 0 { 0 } else { from + whole as u64 };
        // What a crash leaves of a line is its beginning, or zeros behind whole lines. Anything else is not ours to cut
        // off.
        let torn = &bytes[whole..];
        let begun = torn.starts_with(line::BEGIN) || line::BEGIN.starts_with(torn);
        let zeros = whole > 0 && torn.iter().all(|&byte| byte == 0);
        if whole == 0 && from > 0 || !(begun || zeros) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not end in lines of an audit log"));
        }
        let before = bytes[..whole.saturating_sub(1)].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let last = &bytes[before..whole.saturating_sub(1)];
        if last.is_empty() {
            return Ok(Self { end, len, link: Link::default() });
        }
        let line = std::str::from_utf8(last).ok().and_then(|text| Line::parse(text).ok());
        let line = line.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "its last line is none of an audit log; `sealdisk audit --log` says more",
            )
        })?;
        Ok(Self { end, len, link: line.link() })
    }

    fn append(&self, mut file: &File, line: &[u8]) -> io::Result<()> {
        if self.end < self.len {
            // What a crash, or a full file system, left of a line.
            file.set_len(self.end)?;
        }
        let written = file.write_all(&[line, b"\n"].concat()).and_then(|()| file.sync_data());
        if written.is_err() {
            let _ = file.set_len(self.end);
        } else {
            let _ = reserve(file, self.end + line.len() as u64 + 1, RESERVE);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::check::check;
    use super::*;
    use crate::crypto::keyring::AccountKey;

    const ACCOUNT: Uuid = Uuid::from_u128(7);

    fn entry(verb: &str) -> Entry {
        Entry {
            time: 1,
            account: ACCOUNT,
            verb: verb.into(),
            on: "disk".into(),
            detail: String::new(),
            uid: 0,
            pid: Some(9),
            outcome: line::Outcome::Done,
            error: None,
        }
    }

    #[test]
    fn lines_follow_one_another_over_processes_crashes_and_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (old, new) = (AccountKey::generate(ACCOUNT).unwrap(), AccountKey::generate(ACCOUNT).unwrap());
        let verified = |keys: &[&AccountKey]| {
            let keys: Vec<_> = keys.iter().map(|key| key.audit_key().unwrap()).collect();
            check(File::open(&path).unwrap(), ACCOUNT, &keys).unwrap()
        };
        AuditLog::at(&path).append(entry("one"), Some(old.audit_key().unwrap())).unwrap();
        // Without keys; covered by the next line that has some.
        AuditLog::at(&path).append(entry("two"), None).unwrap();
        assert_eq!((verified(&[&old]).lines, verified(&[&old]).unproven), (2, 1));
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"n\":3,\"time\"").unwrap();
        assert!(verified(&[&old]).bad.is_some());
        let (one, two) = (AuditLog::at(&path), AuditLog::at(&path));
        for n in 0..4 {
            let log = if n % 2 == 0 { &one } else { &two };
            log.append(entry("more"), Some(new.audit_key().unwrap())).unwrap();
        }
        for keys in [&[&old, &new][..], &[&new]] {
            let found = verified(keys);
            assert_eq!((found.lines, found.unproven, found.bad), (6, 0, None));
        }
        // The old key alone proves the first line.
        assert_eq!(verified(&[&old]).unproven, 5);
    }

    #[test]
    fn lines_that_are_taken_away_while_it_runs_leave_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let key = AccountKey::generate(ACCOUNT).unwrap();
        let log = AuditLog::at(&path);
        (0..3).for_each(|_| log.append(entry("a"), Some(key.audit_key().unwrap())).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(first.len() as u64 + 1).unwrap();
        log.append(entry("b"), Some(key.audit_key().unwrap())).unwrap();
        let found = check(File::open(&path).unwrap(), ACCOUNT, &[key.audit_key().unwrap()]).unwrap();
        assert!(found.bad.is_some_and(|bad| bad.line == 2 && bad.why.contains("number")));
    }

    #[test]
    fn what_is_no_log_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other");
        for content in [&b"precious\n"[..], b"precious", &[0x89; 32], &[0; 512], b"one\ntwo\nthree"] {
            std::fs::write(&path, content).unwrap();
            AuditLog::at(&path).open().unwrap_err();
            AuditLog::at(&path).append(entry("a"), None).unwrap_err();
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        AuditLog::at(dir.path()).append(entry("a"), None).unwrap_err();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        AuditLog::at(&fifo).append(entry("a"), None).unwrap_err();
    }
}
