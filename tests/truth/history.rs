//! Random histories of an account: writes, the switch, snapshots, clones, deletions, re-encryption, erasure, restarts.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};

use crate::check;
use crate::client::Client;
use crate::model::{Content, Disk, Form, Model, OF_BASE, Page, bytes};
use crate::reader::PAGE;
use crate::support::{Account, Server, program, run as run_program, stdout_of};

/// Pages of a new disk.
const PAGES: u64 = 192;
/// Disks that are there at a time.
const FAMILY: usize = 5;
const STEPS: Range<u32> = 8..28;

/// One history, as far as it has come.
pub(crate) struct History {
    pub(crate) account: Account,
    server: Option<Server>,
    pub(crate) model: Model,
    /// A server was killed: what is left behind may be unknown until something is changed.
    pub(crate) killed: bool,
    random: StdRng,
    /// Disks and snapshots that were made; names are never given twice.
    made: u32,
    /// What was done, for a failure.
    told: Vec<String>,
}

/// Runs the histories of `count` seeds from `first` on, on as many threads as there are processors.
pub(crate) fn run(first: u64, count: u64) {
    let (next, end) = (AtomicU64::new(first), first + count);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&seed| seed < end) {
                    History::lead(seed);
                }
            });
        }
    });
}

impl Drop for History {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("what was done:\n{}", self.told.join("\n"));
        }
    }
}

impl History {
    fn lead(seed: u64) {
        let account = Account::new();
        let mut random = StdRng::seed_from_u64(seed);
        let steps = random.random_range(STEPS);
        let mut history = Self {
            account,
            server: None,
            model: Model { encryption: true, ..Model::default() },
            killed: false,
            random,
            made: 0,
            told: vec![format!("SEALDISK_TRUTH_SEED={seed}")],
        };
        fs::write(history.base(), (1..=PAGES / 2).flat_map(|page| bytes(OF_BASE + page)).collect::<Vec<_>>())
            .expect("a base image");
        history.serve();
        for _ in 0..steps {
            history.step();
            if history.random.random_bool(0.15) {
                history.stop();
                check::at_rest(&history);
                history.serve();
            }
        }
        history.stop();
        check::at_rest(&history);
        history.serve();
        history.scrub_all();
        history.stop();
        check::at_rest(&history);
        check::scrubbed(&history);
    }

    fn base(&self) -> PathBuf {
        self.account.scratch("base.raw")
    }

    fn serve(&mut self) {
        self.server = Some(self.account.serve());
    }

    fn stop(&mut self) {
        let server = self.server.take().expect("served");
        assert!(server.terminate().success());
    }

    fn tell(&mut self, what: String) {
        self.told.push(what);
    }

    /// Runs a verb that has to succeed.
    fn verb(&mut self, words: &[&str]) {
        self.tell(words.join(" "));
        self.account.sealdisk(words);
    }

    /// A name that no disk and no snapshot has had.
    fn name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}{}", self.made)
    }

    fn some_disk(&mut self) -> Option<String> {
        let usable = self.model.disks.iter().filter(|(_, disk)| !disk.erased).map(|(name, _)| name.clone());
        usable.choose(&mut self.random)
    }

    fn step(&mut self) {
        let Some(name) = self.some_disk() else { return self.create() };
        match self.random.random_range(0..100) {
            0..8 => self.create(),
            8..38 => self.write(&name),
            38..43 => self.zero(&name),
            43..53 => self.turn(),
            53..63 => self.take_snapshot(&name),
            63..68 => self.delete_snapshot(&name),
            68..72 => self.roll_back(&name),
            72..80 => self.clone_disk(&name),
            80..86 => self.delete(),
            86..90 => self.reencrypt(&name),
            90..92 => self.verb(&["key", "rotate-data", &name]),
            92..94 => self.resize(&name),
            94..95 => self.erase(&name),
            95..97 => self.verb(&["scrub", &name, "--wait"]),
            _ => self.kill(),
        }
    }

    fn create(&mut self) {
        if self.model.disks.len() >= FAMILY {
            return;
        }
        let name = self.name("disk");
        let size = (PAGES * PAGE as u64).to_string();
        let mut pages = vec![Page::ZERO; PAGES as usize];
        if self.random.random_bool(0.4) {
            let base = self.base();
            self.verb(&["create", &name, "--base", base.to_str().expect("UTF-8"), "--size", &size]);
            for (number, page) in (1..=PAGES / 2).zip(&mut pages) {
                *page = Page::new(OF_BASE + number, Form::Base);
            }
        } else {
            self.verb(&["create", &name, "--size", &size]);
        }
        self.model.disks.insert(name, Disk { pages, snapshots: Default::default(), parent: None, erased: false });
    }

    fn run_of(&mut self, name: &str) -> Range<usize> {
        let pages = self.model.disks[name].pages.len();
        let start = self.random.random_range(0..pages);
        start..pages.min(start + self.random.random_range(1..=40))
    }

    fn write(&mut self, name: &str) {
        let run = self.run_of(name);
        let contents: Vec<Content> = run.clone().map(|_| self.model.fresh()).collect();
        let form = self.model.form();
        self.tell(format!("write {name} {run:?} {form:?}"));
        let data: Vec<u8> = contents.iter().flat_map(|&content| bytes(content)).collect();
        let mut client = Client::attach(self.server.as_ref().expect("served"), name);
        client.write((run.start * PAGE) as u64, &data);
        client.flush();
        let pages = &mut self.model.disks.get_mut(name).expect("a disk").pages;
        for (page, content) in pages[run].iter_mut().zip(contents) {
            *page = Page::new(content, form);
        }
    }

    fn zero(&mut self, name: &str) {
        let run = self.run_of(name);
        self.tell(format!("zero {name} {run:?}"));
        let command = format!("write -z -u {} {}", run.start * PAGE, run.len() * PAGE);
        let uri = self.server.as_ref().expect("served").uri(name);
        stdout_of(program("qemu-io").args(["-f", "raw", "-c", &command, "-c", "flush", &uri]));
        let pages = &mut self.model.disks.get_mut(name).expect("a disk").pages;
        pages[run].fill(Page::ZERO);
    }

    fn turn(&mut self) {
        self.model.encryption = !self.model.encryption;
        let on = self.model.encryption;
        self.verb(&["encryption", if on { "on" } else { "off" }]);
    }

    fn take_snapshot(&mut self, name: &str) {
        let snapshot = self.name("s");
        self.verb(&["snapshot", "create", name, &snapshot]);
        let disk = self.model.disks.get_mut(name).expect("a disk");
        disk.snapshots.insert(snapshot, disk.pages.clone());
    }

    fn some_snapshot(&mut self, name: &str) -> Option<String> {
        let snapshots = self.model.disks[name].snapshots.keys().cloned().collect::<Vec<_>>();
        snapshots.into_iter().choose(&mut self.random)
    }

    fn delete_snapshot(&mut self, name: &str) {
        let Some(snapshot) = self.some_snapshot(name) else { return };
        if self.model.is_pinned(name, &snapshot) {
            return;
        }
        self.verb(&["snapshot", "delete", name, &snapshot]);
        self.model.disks.get_mut(name).expect("a disk").snapshots.remove(&snapshot);
    }

    /// Refused where a clone reads from what would be dropped.
    fn roll_back(&mut self, name: &str) {
        let Some(snapshot) = self.some_snapshot(name) else { return };
        let words = ["snapshot", "rollback", name, &snapshot, "--yes"];
        self.tell(words.join(" "));
        let done = run_program(self.account.command().args(words)).status.success();
        let number = |snapshot: &str| snapshot[1..].parse::<u32>().expect("a number");
        let pinned = self.model.parents().into_iter().any(|(of, at)| of == name && number(at) > number(&snapshot));
        assert_eq!(done, !pinned, "a rollback of {name} to {snapshot}");
        if done {
            let disk = self.model.disks.get_mut(name).expect("a disk");
            disk.snapshots.retain(|other, _| number(other) <= number(&snapshot));
            disk.pages = disk.snapshots[&snapshot].clone();
        }
    }

    fn clone_disk(&mut self, source: &str) {
        if self.model.disks.len() >= FAMILY {
            return;
        }
        let name = self.name("disk");
        let snapshot = self.some_snapshot(source).filter(|_| self.random.random_bool(0.6));
        let (of, at, mut pages) = match &snapshot {
            Some(snapshot) => {
                (format!("{source}@{snapshot}"), snapshot.clone(), self.model.disks[source].snapshots[snapshot].clone())
            }
            // Numbered as the snapshots are, in the order in which they were taken.
            None => (source.to_owned(), format!("s{}", self.made), self.model.disks[source].pages.clone()),
        };
        self.verb(&["clone", &of, &name]);
        pages.iter_mut().for_each(|page| page.inherited = true);
        let parent = Some((source.to_owned(), at));
        self.model.disks.insert(name, Disk { pages, snapshots: Default::default(), parent, erased: false });
    }

    fn delete(&mut self) {
        let names = self.model.disks.keys().cloned().collect::<Vec<_>>();
        let Some(name) = names.into_iter().choose(&mut self.random) else { return };
        self.verb(&["delete", &name, "--yes"]);
        self.model.delete(&name);
    }

    /// Pauses while encryption is off, so it is asked for while it is on alone.
    fn reencrypt(&mut self, name: &str) {
        if !self.model.encryption {
            return;
        }
        let all = self.random.random_bool(0.5);
        let mut words = vec!["reencrypt", name];
        words.extend(all.then_some("--include-base"));
        self.verb(&words);
        let show = self.account.json(&["show", name]);
        let disk = self.model.disks.get_mut(name).expect("a disk");
        check::reencrypted(disk, all);
        // A snapshot of the clone may go on reading from the source.
        if all && (disk.snapshots.is_empty() || show["clone_of"].is_null()) {
            disk.parent = None;
        }
    }

    fn resize(&mut self, name: &str) {
        let pages = self.random.random_range(PAGES / 2..PAGES * 3 / 2);
        let size = (pages * PAGE as u64).to_string();
        self.verb(&["resize", name, &size, "--yes"]);
        let disk = self.model.disks.get_mut(name).expect("a disk");
        disk.pages.resize(pages as usize, Page::ZERO);
    }

    /// Of a disk that no clone reads from.
    fn erase(&mut self, name: &str) {
        if self.model.parents().into_iter().any(|(of, _)| of == name) {
            return;
        }
        self.verb(&["key", "erase", name, "--yes-erase", name]);
        self.model.disks.get_mut(name).expect("a disk").erased = true;
    }

    fn kill(&mut self) {
        self.tell("kill".to_owned());
        self.server.take().expect("served").kill();
        self.killed = true;
        self.serve();
    }

    fn scrub_all(&mut self) {
        let names: Vec<_> =
            self.model.disks.iter().filter(|(_, disk)| !disk.erased).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.verb(&["scrub", &name, "--wait"]);
        }
    }
}
