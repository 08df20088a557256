//! Any bytes as an audit log, and as a line of one.
//!
//! Input: one byte of flags (1: the rest is the file, else edits of a log of three lines as [`super::edit`] has them),
//! and the rest.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

use sealdisk::account::audit_log::AuditLog;
use sealdisk::account::audit_log::check::{LogChecked, check};
use sealdisk::account::audit_log::line::{Entry, Line, Outcome};

use super::edit::edit;
use super::golden::golden;

/// A log of three lines; the second was written without a key.
pub(crate) fn log() -> &'static [u8] {
    static LOG: OnceLock<Vec<u8>> = OnceLock::new();
    LOG.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let log = AuditLog::at(&path);
        for (n, verb) in ["create", "delete", "key revoke"].into_iter().enumerate() {
            let account = golden().ring.current().account();
            let (on, detail) = ("vhds/a \"quoted\"".to_owned(), String::new());
            let error = (n == 1).then(|| "no".to_owned());
            let outcome = [Outcome::Begun, Outcome::Failed, Outcome::Done][n];
            let verb = verb.to_owned();
            let entry = Entry { time: 7, account, verb, on, detail, uid: 0, pid: Some(1), outcome, error };
            let key = golden().ring.audit_keys().expect("keys").into_iter().next().filter(|_| n != 1);
            log.append(entry, key).expect("a line");
        }
        drop(log);
        std::fs::read(&path).expect("the log")
    })
}

pub(crate) fn run(data: &[u8]) {
    let [flags, rest @ ..] = data else { return };
    let bytes = if flags & 1 != 0 { rest.to_vec() } else { edit(log().to_vec(), rest) };
    for text in bytes.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
        let Ok(line) = Line::parse(text) else { continue };
        // It is understood in one form only.
        assert_eq!(line.text(), text);
        assert_eq!(Line::parse(line.text()).expect("a line"), line);
    }
    let found = checked(&bytes);
    if found.bad.is_none() && found.lines > 0 {
        let proven = (found.lines - found.unproven) as usize;
        let lines =
            |log: &[u8]| log.split_inclusive(|&b| b == b'\n').take(proven).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(lines(&bytes), lines(log()), "other lines pass under the MACs of these");
    }
}

fn checked(bytes: &[u8]) -> LogChecked {
    let mut file: File = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    std::io::Seek::rewind(&mut file).expect("the start");
    let ring = &golden().ring;
    check(file, ring.current().account(), &ring.audit_keys().expect("keys")).expect("a file that can be read")
}
