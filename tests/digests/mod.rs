//! What a suite does to its simulated disks, for a fixed set of seeds: a change that should move no call is seen to
//! move none.
//!
//! The file of the suite beside this one has a line for some seeds each. `SEALDISK_CRASH_DIGESTS=note` writes it anew:
//! in a commit that says which calls moved, and why the order is still right (write before sync before log).

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sealdisk::io::sim::{Digest, digested};

/// Seeds of which one line tells.
pub(crate) struct Line<'a> {
    /// What is run with them.
    pub(crate) what: String,
    pub(crate) seeds: Range<u64>,
    /// Runs one of them, with all chance fixed by it.
    pub(crate) run: &'a (dyn Fn(u64) -> Result<(), String> + Sync),
}

impl<'a> Line<'a> {
    /// Lines of 20 seeds each.
    pub(crate) fn split(
        what: &'a str,
        seeds: Range<u64>,
        run: &'a (dyn Fn(u64) -> Result<(), String> + Sync),
    ) -> impl Iterator<Item = Self> {
        const IN_A_LINE: u64 = 20;
        let end = seeds.end;
        let line = move |first: u64| Self { what: what.to_owned(), seeds: first..end.min(first + IN_A_LINE), run };
        seeds.step_by(IN_A_LINE as usize).map(line)
    }

    fn text(&self) -> String {
        let mut all = Digest::EMPTY;
        for seed in self.seeds.clone() {
            let (ran, digest) = digested(|| (self.run)(seed));
            ran.unwrap_or_else(|what| panic!("{}, seed {seed}: {what}", self.what));
            assert_ne!(digest, Digest::EMPTY, "{}, seed {seed} calls nothing", self.what);
            all.add(&format!("{:016x}", digest.get()));
        }
        format!("{}, seeds {} to {}: {:016x}", self.what, self.seeds.start, self.seeds.end - 1, all.get())
    }
}

/// Compares with what was noted of the suite, or notes. On every core.
pub(crate) fn compare(suite: &str, lines: &[Line<'_>]) {
    let (next, texts) = (AtomicUsize::new(0), Mutex::new(vec![String::new(); lines.len()]));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((number, line)) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|number| lines.get(number).map(|line| (number, line)))
                {
                    let text = line.text();
                    texts.lock().expect("no panic while it is held")[number] = text;
                }
            });
        }
    });
    let mut found = String::new();
    for text in texts.into_inner().expect("no panic while it was held") {
        let _ = writeln!(found, "{text}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/digests").join(suite);
    if std::env::var("SEALDISK_CRASH_DIGESTS").is_ok_and(|what| what == "note") {
        return std::fs::write(path, found).expect("noted");
    }
    let noted = std::fs::read_to_string(path).expect("the digests that were noted");
    let moved: Vec<_> = noted.lines().zip(found.lines()).filter(|(noted, found)| noted != found).collect();
    assert!(moved.is_empty() && noted.len() == found.len(), "calls moved (noted, found): {moved:#?}");
}
