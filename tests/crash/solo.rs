//! One client that does one step after the other, outside the scheduler: for the exhaustive tests.

use std::sync::{Arc, Mutex};

use sealdisk::disk::{Access, Disk, Durability, Swept};
use sealdisk::io::sim::{Faults, SimDisk, SimRng};
use sealdisk::{ErrorKind, PAGE, Result};

use crate::cells::{CELL, CELLS_A_PAGE, fill};
use crate::check::{self, Content};
use crate::oracle::{Change, Oracle, value_of};
use crate::rig::Rig;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// To page.
    Write(usize),
    WriteFua(usize),
    /// To a page and the next one.
    WriteTwo(usize),
    /// Half of the page.
    Patch(usize),
    Zero(usize),
    ZeroFua(usize),
    Toggle,
    Flush,
    Maintain,
    Scrub,
    /// Closes in good order and opens again.
    Reopen,
    /// Of a new name.
    Snapshot,
    /// The oldest snapshot, if there is one.
    Delete,
    /// To the newest snapshot, if there is one.
    RollBack,
    Shrink,
    Grow,
    Rotate,
    /// Brings everything under the current key, the base too.
    Sweep,
}

/// A disk and its only client.
pub(crate) struct Solo {
    pub(crate) rig: Rig,
    pub(crate) world: SimDisk,
    pub(crate) oracle: Arc<Oracle>,
    pub(crate) disk: Option<Disk>,
    /// Set when a sync failed: every later change and flush must fail.
    pub(crate) poisoned: bool,
}

impl Solo {
    /// A new disk, open.
    pub(crate) fn new(rig: &Rig, seed: u64, encryption: bool) -> Self {
        let (world, oracle) = rig.fresh(seed, encryption);
        let disk = rig.open(&world, encryption, Access::ReadWrite).expect("a new disk opens");
        oracle.note_in(rig.boots.then(|| world.boot()));
        Self { rig: rig.clone(), world, oracle: Arc::new(oracle), disk: Some(disk), poisoned: false }
    }

    /// From now on `images` crash images are recovered and checked at every call. The first failure is found in the
    /// returned place.
    pub(crate) fn watch(&self, images: usize, seed: u64) -> Arc<Mutex<Option<String>>> {
        let failure = Arc::new(Mutex::new(None));
        let (slot, rig, oracle) = (Arc::clone(&failure), self.rig.clone(), Arc::clone(&self.oracle));
        let rng = Mutex::new(SimRng::new(seed));
        self.world.set_observer(Some(Arc::new(move |world| {
            let (mut rng, mut slot) = (rng.lock().expect("one thread"), slot.lock().expect("one thread"));
            for _ in 0..images {
                let image = check::any_end(world, &mut rng);
                if let Err(what) = check::recover(&rig, &image, &oracle, &mut rng) {
                    slot.get_or_insert(format!("crash at call {}: {what}", world.calls()));
                }
            }
        })));
        failure
    }

    /// From call `at` on, counted from now, no block is free. The answer tells whether that has begun.
    pub(crate) fn full_at(&self, at: u64) -> impl Fn() -> bool + use<> {
        let at = self.world.calls() + at;
        self.world.set_observer(Some(Arc::new(move |world| {
            if world.calls() >= at {
                world.set_capacity(Some(0));
            }
        })));
        let world = self.world.clone();
        move || world.capacity().is_some()
    }

    fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the disk is open")
    }

    /// `Ok(Err(_))`: the step was refused. `Err(_)`: an answer that must not be.
    pub(crate) fn step(&mut self, step: Step) -> std::result::Result<Result<()>, String> {
        let changes_or_flushes =
            !matches!(step, Step::Toggle | Step::Maintain | Step::Delete | Step::RollBack | Step::Sweep);
        let was_poisoned = self.poisoned;
        let answer = match step {
            Step::Write(page) => self.change(page, CELLS_A_PAGE, Change::Data, Durability::Volatile),
            Step::WriteFua(page) => self.change(page, CELLS_A_PAGE, Change::Data, Durability::Fua),
            Step::WriteTwo(page) => self.change(page, 2 * CELLS_A_PAGE, Change::Data, Durability::Volatile),
            Step::Patch(page) => self.change(page, 1, Change::Data, Durability::Volatile),
            Step::Zero(page) => self.change(page, CELLS_A_PAGE, Change::Zero, Durability::Volatile),
            Step::ZeroFua(page) => self.change(page, CELLS_A_PAGE, Change::Zero, Durability::Fua),
            Step::Toggle => {
                let on = !self.oracle.encryption();
                self.oracle.toggle(on);
                self.disk().admin().set_encryption(on);
                self.oracle.toggled();
                Ok(())
            }
            Step::Flush => {
                let begin = self.oracle.begin_flush();
                self.disk().flush().inspect(|()| self.oracle.flushed(begin))
            }
            Step::Maintain => self.maintain(),
            Step::Scrub => self.disk().admin().scrub_unaccounted(),
            Step::Reopen => self.reopen()?,
            Step::Snapshot => {
                let (name, begin) = self.oracle.draw();
                let answer = self.disk().admin().create_snapshot(&name).map(drop);
                self.oracle.drawn(&name, begin, answer.is_ok());
                answer
            }
            Step::Delete => self.oracle.snapshots().first().map_or(Ok(()), |name| {
                self.oracle.erase(name);
                self.disk().admin().delete_snapshot(name).inspect(|()| self.oracle.erased(name))
            }),
            Step::RollBack => self.oracle.snapshots().last().map_or(Ok(()), |name| {
                let request = self.oracle.roll_back(name);
                let answer = self.disk().admin().roll_back(name);
                self.oracle.rolled_back(name, request, answer.is_ok());
                answer
            }),
            Step::Shrink => self.resize(self.oracle.pages().max(2) - 1),
            Step::Grow => self.resize((self.oracle.pages() + 1).min(self.rig.most_pages)),
            Step::Rotate => self.disk().admin().rotate_key(),
            Step::Sweep => self.sweep(),
        };
        if let Err(error) = &answer
            && step != Step::Reopen
        {
            self.poisoned |= error.kind() == ErrorKind::Poisoned;
        }
        if was_poisoned && answer.is_ok() && changes_or_flushes {
            // Reopening tells, too: closing fails.
            return Err(format!("{step:?} succeeded on a poisoned disk"));
        }
        Ok(answer)
    }

    fn change(&self, page: usize, cells: usize, change: Change, durability: Durability) -> Result<()> {
        if page >= self.oracle.pages() {
            return Ok(());
        }
        let cells = page * CELLS_A_PAGE..page * CELLS_A_PAGE + cells;
        let (offset, len) = ((cells.start * CELL) as u64, cells.len() * CELL);
        let request = self.oracle.begin(cells.clone(), change);
        let answer = if change == Change::Zero {
            self.disk().zero(offset, len as u64, durability)
        } else {
            let mut data = vec![0; len];
            for (cell, bytes) in cells.clone().zip(data.chunks_exact_mut(CELL)) {
                fill(bytes, value_of(request, cell));
            }
            self.disk().write(offset, &data, durability)
        };
        self.oracle.end(request, cells, answer.is_ok(), durability == Durability::Fua);
        answer
    }

    fn resize(&self, pages: usize) -> Result<()> {
        let request = self.oracle.resize(pages);
        let answer = self.disk().admin().resize((pages * PAGE) as u64);
        self.oracle.resized(pages, request, answer.is_ok());
        answer
    }

    fn sweep(&self) -> Result<()> {
        self.oracle.sweeping(true);
        let mut at = Ok(Swept::Next { page: 0, stored: 0 });
        while let Ok(Swept::Next { page, .. }) = at {
            at = self.disk().admin().sweep(page, true);
        }
        self.oracle.sweeping(false);
        match at {
            Err(error) if error.kind() == ErrorKind::InUse => Ok(()),
            other => other.map(drop),
        }
    }

    fn maintain(&self) -> Result<()> {
        for _ in 0..100 {
            if !self.disk().admin().maintain()? {
                return Ok(());
            }
        }
        panic!("maintenance finds no end");
    }

    fn reopen(&mut self) -> std::result::Result<Result<()>, String> {
        let begin = self.oracle.begin_flush();
        let closed = self.disk().close().inspect(|()| self.oracle.flushed(begin));
        self.disk = None;
        Ok(closed.and(self.open()?))
    }

    /// Opens the disk again, whatever state it was left in.
    pub(crate) fn open(&mut self) -> std::result::Result<Result<()>, String> {
        let disk = match self.rig.open(&self.world, self.oracle.encryption(), Access::ReadWrite) {
            Ok(disk) => disk,
            Err(error) => return Ok(Err(error)),
        };
        self.world.set_faults(Faults::default());
        let found = check::content(&self.world, &disk)?;
        self.oracle.check_recovered(&found)?;
        self.oracle.accept(&found);
        self.oracle.note_in(self.rig.boots.then(|| self.world.boot()));
        (self.disk, self.poisoned) = (Some(disk), false);
        Ok(Ok(()))
    }

    /// Reads the open disk and holds it against what was answered.
    pub(crate) fn verify(&self) -> std::result::Result<Content, String> {
        let begin = self.oracle.begin_read();
        let found = check::content(&self.world, self.disk())?;
        self.oracle.check_read(begin, 0, &found.values)?;
        Ok(found)
    }

    /// What the open disk holds, where it can be read.
    pub(crate) fn verify_quietly(&self) -> Option<Content> {
        check::content(&self.world, self.disk.as_ref()?).ok()
    }
}
