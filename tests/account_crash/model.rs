//! What an account should hold, by what was asked and answered alone.

use std::collections::BTreeMap;
use std::ops::Range;

use sealdisk::PAGE;

use crate::seen::{Content, DRAWN, Pages, Seen, TORN};

/// What is asked of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Create {
        name: &'static str,
        pages: usize,
    },
    /// Not flushed.
    Write {
        name: &'static str,
        first: usize,
        pages: usize,
        filled: u8,
    },
    Flush {
        name: &'static str,
    },
    Snapshot {
        name: &'static str,
        snapshot: &'static str,
    },
    DropSnapshot {
        name: &'static str,
        snapshot: &'static str,
    },
    RollBack {
        name: &'static str,
        snapshot: &'static str,
    },
    Clone {
        name: &'static str,
        snapshot: Option<&'static str>,
        to: &'static str,
    },
    Delete {
        name: &'static str,
    },
    Rename {
        name: &'static str,
        to: &'static str,
    },
    Resize {
        name: &'static str,
        pages: usize,
    },
    Switch,
    RotateData {
        name: &'static str,
    },
    Scrub {
        name: &'static str,
    },
    /// One step of background work.
    Maintain {
        name: &'static str,
    },
    Reencrypt {
        name: &'static str,
    },
    /// Ends in order and begins again. Closing makes durable what is open: `all`, unless some disks of a killed process
    /// were not opened since.
    Reopen {
        all: bool,
    },
}

/// What a page may be filled with; the last is what was written last.
type Cell = Vec<u8>;

#[derive(Debug, Clone)]
struct Snapshot {
    id: u32,
    /// [`DRAWN`]: for a clone.
    name: &'static str,
    pages: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Parent {
    disk: u32,
    snapshot: u32,
}

#[derive(Debug, Clone)]
struct Disk {
    /// Kept when it is deleted from sight.
    name: &'static str,
    hidden: bool,
    pages: Vec<Cell>,
    snapshots: Vec<Snapshot>,
    parent: Option<Parent>,
}

impl Disk {
    fn new(name: &'static str, pages: Vec<Cell>, parent: Option<Parent>) -> Self {
        Self { name, hidden: false, pages, snapshots: Vec::new(), parent }
    }

    fn now(&self) -> Vec<u8> {
        self.pages.iter().map(|cell| *cell.last().expect("never empty")).collect()
    }

    fn make_durable(&mut self) {
        self.pages.iter_mut().for_each(|cell| drop(cell.drain(..cell.len() - 1)));
    }
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) encryption: bool,
    disks: BTreeMap<u32, Disk>,
    next: u32,
    /// A write that is not answered: the pages of a disk, of which each is as before or as after it.
    in_flight: Option<(u32, Range<usize>)>,
}

impl Model {
    /// Of a new account.
    pub(crate) fn new() -> Self {
        Self { encryption: true, disks: BTreeMap::new(), next: 0, in_flight: None }
    }

    fn find(&self, name: &str) -> Option<u32> {
        self.disks.iter().find(|(_, disk)| disk.name == name && !disk.hidden).map(|(id, _)| *id)
    }

    pub(crate) fn pages(&self, name: &str) -> Option<usize> {
        Some(self.disks[&self.find(name)?].pages.len())
    }

    pub(crate) fn snapshots_after(&self, name: &str, snapshot: &str) -> Vec<&'static str> {
        let Some(id) = self.find(name) else { return Vec::new() };
        let names = self.disks[&id].snapshots.iter().map(|snapshot| snapshot.name);
        names.skip_while(|name| *name != snapshot).skip(1).collect()
    }

    fn is_pinned(&self, disk: u32, snapshot: u32) -> bool {
        let reads = |other: &Disk| {
            other.parent.as_ref().is_some_and(|parent| parent.disk == disk && parent.snapshot == snapshot)
        };
        self.disks.values().any(reads)
    }

    fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn draw(&mut self, disk: u32, name: &'static str) -> u32 {
        let id = self.fresh();
        let disk = self.disks.get_mut(&disk).expect("it is there");
        disk.make_durable();
        disk.snapshots.push(Snapshot { id, name, pages: disk.now() });
        id
    }

    /// The account after this; `None`: it is to be refused.
    pub(crate) fn after(&self, op: &Op) -> Option<Self> {
        let mut next = self.clone();
        next.apply(op)?;
        Some(next)
    }

    /// This is the account after `op`, which is being asked for.
    pub(crate) fn asked(mut self, op: &Op) -> Self {
        if let Op::Write { name, first, pages, .. } = *op {
            self.in_flight = self.find(name).map(|id| (id, first..first + pages));
        }
        self
    }

    /// Takes for the pages of a write that was in flight what is seen of them, where that may be.
    pub(crate) fn witnessed(&self, seen: &Seen) -> Self {
        let mut model = self.clone();
        let Some((id, range)) = model.in_flight.take() else { return model };
        let Some(disk) = model.disks.get_mut(&id) else { return model };
        let Some(Ok(content)) = seen.disks.get(disk.name) else { return model };
        for (cell, filled) in disk.pages.iter_mut().zip(&content.pages.filled).skip(range.start).take(range.len()) {
            if cell.len() > 1 && cell[cell.len() - 2] == *filled {
                cell.push(*filled);
            }
        }
        model
    }

    fn apply(&mut self, op: &Op) -> Option<()> {
        match *op {
            Op::Create { name, pages } => {
                let id = self.free(name)?;
                self.disks.insert(id, Disk::new(name, vec![vec![0]; pages], None));
            }
            Op::Write { name, first, pages, filled } => {
                let disk = self.get(name)?;
                disk.pages.get_mut(first..first + pages)?.iter_mut().for_each(|cell| cell.push(filled));
            }
            Op::Flush { name } | Op::Scrub { name } => self.get(name)?.make_durable(),
            Op::Snapshot { name, snapshot } => {
                let id = self.find(name)?;
                if self.disks[&id].snapshots.iter().any(|other| other.name == snapshot) {
                    return None;
                }
                self.draw(id, snapshot);
            }
            Op::DropSnapshot { name, snapshot } => {
                let id = self.find(name)?;
                let at = self.disks[&id].snapshots.iter().position(|other| other.name == snapshot)?;
                if self.is_pinned(id, self.disks[&id].snapshots[at].id) {
                    return None;
                }
                let disk = self.get(name)?;
                disk.make_durable();
                disk.snapshots.remove(at);
            }
            Op::RollBack { name, snapshot } => {
                let id = self.find(name)?;
                let at = self.disks[&id].snapshots.iter().position(|other| other.name == snapshot)?;
                if self.disks[&id].snapshots[at + 1..].iter().any(|later| self.is_pinned(id, later.id)) {
                    return None;
                }
                let disk = self.get(name)?;
                disk.snapshots.truncate(at + 1);
                disk.pages = disk.snapshots[at].pages.iter().map(|filled| vec![*filled]).collect();
            }
            Op::Clone { name, snapshot, to } => {
                let disk = self.find(name)?;
                let id = self.free(to)?;
                let snapshot = match snapshot {
                    Some(name) => self.disks[&disk].snapshots.iter().find(|other| other.name == name)?.id,
                    None => self.draw(disk, DRAWN),
                };
                let seen = self.disks[&disk].snapshots.iter().find(|other| other.id == snapshot)?;
                let pages = seen.pages.iter().map(|filled| vec![*filled]).collect();
                self.disks.insert(id, Disk::new(to, pages, Some(Parent { disk, snapshot })));
            }
            Op::Delete { name } => {
                let id = self.find(name)?;
                self.get(name)?.hidden = true;
                self.remove_unread(id);
            }
            Op::Rename { name, to } => {
                self.find(name)?;
                if name != to {
                    self.free(to)?;
                }
                self.get(name)?.name = to;
            }
            Op::Resize { name, pages } => {
                let disk = self.get(name)?;
                if disk.pages.len() != pages {
                    disk.make_durable();
                    disk.pages.resize(pages, vec![0]);
                }
            }
            Op::Switch => self.encryption = !self.encryption,
            Op::Reencrypt { name } => {
                if !self.encryption {
                    return None;
                }
                // A snapshot would go on reading through.
                let disk = self.get(name)?;
                let parent = if disk.snapshots.is_empty() { disk.parent.take() } else { None };
                if parent.is_some() {
                    disk.make_durable();
                }
                self.let_go(parent);
            }
            Op::RotateData { name } | Op::Maintain { name } => drop(self.get(name)?),
            Op::Reopen { all: true } => self.disks.values_mut().for_each(Disk::make_durable),
            Op::Reopen { all: false } => {}
        }
        Some(())
    }

    fn get(&mut self, name: &str) -> Option<&mut Disk> {
        let id = self.find(name)?;
        self.disks.get_mut(&id)
    }

    /// An id for a disk of this name, if there is none yet.
    fn free(&mut self, name: &str) -> Option<u32> {
        if self.find(name).is_some() { None } else { Some(self.fresh()) }
    }

    /// A hidden disk goes when nothing reads from it, and then what was kept for it alone.
    fn remove_unread(&mut self, id: u32) {
        let is_read = self.disks.values().any(|disk| disk.parent.as_ref().is_some_and(|parent| parent.disk == id));
        if is_read || !self.disks[&id].hidden {
            return;
        }
        let gone = self.disks.remove(&id);
        self.let_go(gone.and_then(|gone| gone.parent));
    }

    /// What a clone that has gone, or was detached, read from.
    fn let_go(&mut self, parent: Option<Parent>) {
        if let Some(Parent { disk, snapshot }) = parent {
            if let Some(parent) = self.disks.get_mut(&disk) {
                parent.snapshots.retain(|other| other.id != snapshot || other.name != DRAWN);
            }
            self.remove_unread(disk);
        }
    }

    fn seen(&self) -> Seen {
        let pages = |filled: Vec<u8>| Pages { size: (filled.len() * PAGE) as u64, filled };
        let content = |disk: &Disk| Content {
            pages: pages(disk.now()),
            snapshots: disk.snapshots.iter().map(|one| (one.name.to_owned(), pages(one.pages.clone()))).collect(),
            clone_of: disk.parent.as_ref().map(|parent| {
                let parent = &self.disks[&parent.disk];
                format!("{}{}", parent.name, if parent.hidden { " (deleted)" } else { "" })
            }),
            base: None,
            unfinished: None,
        };
        let visible = self.disks.values().filter(|disk| !disk.hidden);
        Seen {
            encryption: self.encryption,
            revoked: false,
            kek: Some(1),
            disks: visible.map(|disk| (disk.name.to_owned(), Ok(content(disk)))).collect(),
            hidden: self.disks.values().filter(|disk| disk.hidden).count(),
        }
    }

    /// Whether this may be what is seen, and then the model of exactly that. `exact`: what was answered is there,
    /// flushed or not. `torn`: a page that is not durable may be anything.
    pub(crate) fn settled(&self, seen: &Seen, exact: bool, torn: bool) -> Result<Self, String> {
        let mut settled = self.witnessed(seen);
        for disk in settled.disks.values_mut().filter(|disk| !disk.hidden) {
            let Some(Ok(content)) = seen.disks.get(disk.name) else { continue };
            if content.pages.filled.len() != disk.pages.len() {
                continue;
            }
            for (cell, filled) in disk.pages.iter_mut().zip(&content.pages.filled) {
                let may_be_any = torn && cell.len() > 1 && *filled == TORN;
                if may_be_any || (!exact && cell.contains(filled)) {
                    *cell = vec![*filled];
                }
            }
            disk.make_durable();
        }
        let expected = settled.seen();
        if expected == *seen { Ok(settled) } else { Err(seen.against(&expected)) }
    }
}
