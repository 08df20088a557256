//! What somebody sees of an account, as a value that can be compared.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sealdisk::account::name::BlobName;
use sealdisk::account::registry::{DISKS, Registry};
use sealdisk::disk::Disk;
use sealdisk::io::sim::SimDisk;
use sealdisk::{ErrorKind, PAGE};

use crate::cases::SOURCE;
use crate::rig;

/// Stands for what a page is filled with that is filled with more than one thing: nobody writes it.
pub(crate) const TORN: u8 = 255;

/// A disk, or what a snapshot sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pages {
    /// Bytes.
    pub(crate) size: u64,
    /// What each page is filled with.
    pub(crate) filled: Vec<u8>,
}

/// How the names of snapshots begin that are drawn for a clone.
pub(crate) const DRAWN: &str = "clone-";

/// Names that are drawn by lot are cut short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) pages: Pages,
    pub(crate) snapshots: Vec<(String, Pages)>,
    pub(crate) clone_of: Option<String>,
    pub(crate) base: Option<PathBuf>,
    /// Bytes that a copy into it has noted; what lies behind them is not looked at.
    pub(crate) unfinished: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) encryption: bool,
    pub(crate) revoked: bool,
    pub(crate) kek: Option<u8>,
    pub(crate) disks: BTreeMap<String, Result<Content, ErrorKind>>,
    /// Deleted, and kept for clones.
    pub(crate) hidden: usize,
}

impl Seen {
    pub(crate) fn is_fully_readable(&self) -> bool {
        self.disks.values().all(Result::is_ok)
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked && self.disks.values().all(|disk| *disk == Err(ErrorKind::Revoked))
    }

    /// The same, with one reason for each of the disks `lost` that cannot be read.
    pub(crate) fn but_why_lost(&self, lost: &[&str]) -> Self {
        let mut seen = self.clone();
        let is_lost = |(name, disk): &(&String, &mut Result<_, _>)| lost.contains(&name.as_str()) && disk.is_err();
        seen.disks.iter_mut().filter(is_lost).for_each(|(_, disk)| *disk = Err(ErrorKind::Revoked));
        seen
    }

    /// What differs, in a few words.
    pub(crate) fn against(&self, other: &Self) -> String {
        let rest = |seen: &Self| Self { disks: BTreeMap::new(), ..seen.clone() };
        let mut what = Vec::new();
        if rest(self) != rest(other) {
            what.push(format!("{:?} and not {:?}", rest(self), rest(other)));
        }
        for name in self.disks.keys().chain(other.disks.keys().filter(|name| !self.disks.contains_key(*name))) {
            let (mine, others) = (self.disks.get(name), other.disks.get(name));
            if mine != others {
                what.push(format!("{name}: {mine:?} and not {others:?}"));
            }
        }
        what.join("; ")
    }
}

fn pages(disk: &Disk, len: u64) -> sealdisk::Result<Pages> {
    let mut bytes = vec![0; len as usize];
    disk.read(0, &mut bytes)?;
    let filled = |page: &[u8]| if page.iter().all(|byte| *byte == page[0]) { page[0] } else { TORN };
    Ok(Pages { size: disk.size(), filled: bytes.chunks(PAGE).map(filled).collect() })
}

fn short(name: &str) -> String {
    if name.starts_with(DRAWN) { DRAWN.into() } else { name.into() }
}

/// The error says that the disk cannot be opened, or has no keys here; any other is none that may be.
fn content(registry: &Registry, name: &BlobName) -> Result<Result<Content, ErrorKind>, String> {
    let opened = if registry.is_unfinished(name) {
        registry.begin_copy(name, PAGE as u64, SOURCE).map(|begun| (begun.disk, Some(begun.done_bytes)))
    } else {
        registry.disk(name).map(|disk| (disk, None))
    };
    let read = match opened {
        Ok((disk, done)) => content_of(registry, &disk, done),
        Err(error) => return Ok(Err(error.kind())),
    };
    match read {
        Err(error) if matches!(error.kind(), ErrorKind::Revoked | ErrorKind::WrongKey) => Ok(Err(error.kind())),
        read => read.map(Ok).map_err(|error| format!("{name}: {error}")),
    }
}

fn content_of(registry: &Registry, disk: &Disk, unfinished: Option<u64>) -> sealdisk::Result<Content> {
    disk.admin().verify()?;
    let snapshots = disk.snapshots().into_iter().map(|line| {
        let view = disk.at_snapshot(&line.name)?;
        Ok((short(&line.name), pages(&view, view.size())?))
    });
    Ok(Content {
        pages: pages(disk, unfinished.unwrap_or(disk.size()))?,
        snapshots: snapshots.collect::<sealdisk::Result<_>>()?,
        clone_of: registry.clone_of(disk).map(|of| {
            let (disk, line) = of.split_once('@').unwrap_or((&of, ""));
            let deleted = if line.ends_with("(deleted)") { " (deleted)" } else { "" };
            format!("{disk}{deleted}")
        }),
        base: disk.admin().settings().base.map(|base| base.path),
        unfinished,
    })
}

/// What an open account shows.
pub(crate) fn live(disk: &SimDisk, registry: &Registry) -> Result<Seen, String> {
    if !registry.damaged().is_empty() {
        return Err(format!("damaged: {:?}", registry.damaged()));
    }
    let mut disks = BTreeMap::new();
    for (name, _) in registry.names() {
        disks.insert(name.to_string(), content(registry, &name)?);
    }
    let folders = disk.root().subdir(DISKS).and_then(|folder| folder.list()).map_err(|error| error.to_string())?;
    let left: Vec<_> = folders.iter().filter(|name| name.starts_with('.')).collect();
    if !left.is_empty() {
        return Err(format!("left behind: {left:?}"));
    }
    Ok(Seen {
        encryption: registry.encryption(),
        revoked: registry.revoked(),
        kek: rig::fitting_kek(disk),
        hidden: folders.len() - disks.len(),
        disks,
    })
}

/// Opens the account, looks, and closes it.
pub(crate) fn look(disk: &SimDisk) -> Result<Seen, String> {
    let registry = rig::open(disk).map_err(|error| format!("does not open: {error}"))?;
    let seen = live(disk, &registry)?;
    registry.close().map_err(|error| format!("does not close: {error}"))?;
    Ok(seen)
}
