//! What the core does to its disk, for a thousand seeds: a change that should move no call is seen to move none.
//!
//! `digests` beside this file has a line for each twenty seeds, those with one task before those with several.
//! `SEALDISK_CRASH_DIGESTS=note` writes it anew: in a commit that says which calls moved, and why the order is still
//! right (write before sync before log).

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sealdisk::io::sim::Digest;

use crate::{campaign, storm};

/// Seeds of each kind.
const SEEDS: u64 = 500;
const IN_A_LINE: u64 = 20;

thread_local! {
    static DIGEST: Cell<Digest> = const { Cell::new(Digest::EMPTY) };
}

fn of_seed(seed: u64, one_task: bool) -> Digest {
    let ran = campaign::one(seed, if one_task { alone } else { in_company });
    ran.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    DIGEST.get()
}

fn alone(seed: u64) -> Result<(), String> {
    storm::digest(seed, true).map(|digest| DIGEST.set(digest))
}

fn in_company(seed: u64) -> Result<(), String> {
    storm::digest(seed, false).map(|digest| DIGEST.set(digest))
}

/// One line for the seeds of a part.
fn line(part: u64) -> String {
    let parts = SEEDS / IN_A_LINE;
    let (one_task, first) = (part < parts, part % parts * IN_A_LINE);
    let mut all = Digest::EMPTY;
    for seed in first..first + IN_A_LINE {
        all.add(&format!("{:016x}", of_seed(seed, one_task).get()));
    }
    let tasks = if one_task { "one task" } else { "several" };
    format!("{tasks}, seeds {first} to {}: {:016x}", first + IN_A_LINE - 1, all.get())
}

/// Compares with what was noted, or notes.
pub(crate) fn compare() {
    let parts = 2 * SEEDS / IN_A_LINE;
    let (next, lines) = (AtomicU64::new(0), Mutex::new(vec![String::new(); parts as usize]));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(part) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&part| part < parts) {
                    let line = line(part);
                    lines.lock().expect("no panic while it is held")[part as usize] = line;
                }
            });
        }
    });
    let mut found = String::new();
    for line in lines.into_inner().expect("no panic while it was held") {
        let _ = writeln!(found, "{line}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/digests");
    if std::env::var("SEALDISK_CRASH_DIGESTS").is_ok_and(|what| what == "note") {
        return std::fs::write(path, found).expect("noted");
    }
    let noted = std::fs::read_to_string(path).expect("the digests that were noted");
    let moved: Vec<_> = noted.lines().zip(found.lines()).filter(|(noted, found)| noted != found).collect();
    assert!(moved.is_empty() && noted.len() == found.len(), "calls moved (noted, found): {moved:#?}");
}
