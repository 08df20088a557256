//! The lives of the golden disks. The same calls give the same bytes wherever they are made, but for data keys.

use std::sync::Arc;

use sealdisk::base::{BaseImage, BaseRecord, FileIdentity, Format};
use sealdisk::crypto::keyring::DiskKeys;
use sealdisk::disk::{Access, Disk, Durability, Parent, Spec};
use sealdisk::{PAGE, Result};
use uuid::Uuid;

use crate::golden::{CLONE, ENDED, InMemory, MIXED, PLAIN, SEALED, SNAPSHOT, options};
use crate::memory_dir::MemoryDir;

pub(crate) const DISKS: [(Uuid, &str); 5] = [
    (PLAIN, "vhds/plain"),
    (SEALED, "vhds/sealed"),
    (MIXED, "vhds/mixed"),
    (CLONE, "vhds/clone"),
    (ENDED, "vhds/ended"),
];

/// Pages of a new golden disk, its footer left out.
const PAGES: u64 = 32;

/// Content of a page: text, so that a stray one is recognised in a hex dump, and no two alike.
pub(crate) fn page(page: u64, version: u8) -> [u8; PAGE] {
    let text = format!("page {page}, version {}. ", char::from(version));
    let mut content = [0; PAGE];
    content.iter_mut().zip(text.bytes().cycle()).for_each(|(to, from)| *to = from);
    content
}

/// The base image: 16 pages.
pub(crate) fn base() -> Vec<u8> {
    (0..16).flat_map(|number| page(number, b'0')).collect()
}

fn base_record(sample: &str) -> BaseRecord {
    let (path, size) = ("/images/base.raw".into(), base().len() as u64);
    let file = FileIdentity {
        path,
        size,
        unique_id: None,
        sample: sample.to_owned(),
        stamp: "not seen since".to_owned(),
        sha256: None,
        fs_verity: None,
    };
    BaseRecord { path: file.path.clone(), format: Format::Raw, size, recover: false, files: vec![file] }
}

/// A disk, and what it should hold.
struct Life {
    disk: Disk,
    live: Vec<u8>,
}

/// What a life comes to: the content of the disk, and of each snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) live: Vec<u8>,
    pub(crate) snapshots: Vec<(String, Vec<u8>)>,
}

impl Life {
    fn write(&mut self, pages: std::ops::Range<u64>, version: u8) -> Result<()> {
        for number in pages {
            let content = page(number, version);
            self.disk.write(number * PAGE as u64, &content, Durability::Volatile)?;
            self.live[number as usize * PAGE..][..PAGE].copy_from_slice(&content);
        }
        Ok(())
    }

    fn zero(&mut self, pages: std::ops::Range<u64>) -> Result<()> {
        let (start, len) = (pages.start * PAGE as u64, (pages.end - pages.start) * PAGE as u64);
        self.live[start as usize..(start + len) as usize].fill(0);
        self.disk.zero(start, len, Durability::Volatile)
    }

    fn resize(&mut self, pages: u64) -> Result<()> {
        self.live.resize(pages as usize * PAGE, 0);
        self.disk.admin().resize(pages * PAGE as u64)
    }
}

/// Leads the life of a golden disk in the empty directory `dir`, and gives what it should hold: now, and for the one
/// that does not end well also where nothing is believed but what was flushed. `sample`: of the identity of the base.
pub(crate) fn lead(disk: Uuid, dir: &MemoryDir, keys: &DiskKeys, sample: &str) -> Result<(Content, Content)> {
    let (_, name) = DISKS.into_iter().find(|(uuid, _)| *uuid == disk).expect("a golden disk");
    let mut spec = Spec::new(disk, name, PAGES * PAGE as u64);
    let mut below = Vec::new();
    if disk == MIXED {
        (spec.base, below) = (Some(base_record(sample)), base());
    }
    if disk == CLONE {
        below = mixed_as_kept();
        spec.parent = Some(Parent { disk: MIXED, snapshot: 1, size: spec.size, owned: false });
    }
    let here: Arc<MemoryDir> = Arc::new(dir.clone());
    let encryption = disk != PLAIN;
    Disk::create(here.clone(), &spec, keys.clone(), encryption, &options())?;
    let image = (!below.is_empty()).then(|| Arc::new(InMemory(below.clone())) as Arc<dyn BaseImage>);
    let disk_here = Disk::open(here, Some(keys.clone()), image, Access::ReadWrite, encryption, options())?;
    below.resize(spec.size as usize, 0);
    let mut life = Life { disk: disk_here, live: below };
    let snapshots = match disk {
        MIXED => mixed(&mut life)?,
        ENDED => return ended(life),
        _ => {
            life.write(0..3, b'a')?;
            life.write(9..10, b'a')?;
            life.zero(1..2)?;
            Vec::new()
        }
    };
    life.disk.close()?;
    let content = Content { live: life.live, snapshots };
    Ok((content.clone(), content))
}

/// What [`mixed`] holds when [`SNAPSHOT`] is drawn.
fn mixed_as_kept() -> Vec<u8> {
    let mut content = base();
    content.resize(PAGES as usize * PAGE, 0);
    for (number, version) in [(0, b'a'), (1, b'a'), (2, b'b'), (20, b'b')] {
        content[number * PAGE..][..PAGE].copy_from_slice(&page(number as u64, version));
    }
    content
}

fn mixed(life: &mut Life) -> Result<Vec<(String, Vec<u8>)>> {
    life.write(0..2, b'a')?;
    life.disk.admin().set_encryption(false);
    life.write(2..3, b'b')?;
    life.write(20..21, b'b')?;
    life.disk.admin().create_snapshot(SNAPSHOT)?;
    let kept = life.live.clone();
    life.disk.admin().set_encryption(true);
    life.write(1..2, b'c')?;
    life.zero(4..6)?;
    life.disk.admin().rotate_key()?;
    life.write(7..8, b'd')?;
    life.resize(PAGES + 8)?;
    life.disk.admin().create_snapshot("second")?;
    let second = life.live.clone();
    life.disk.admin().set_encryption(false);
    life.write(PAGES..PAGES + 2, b'e')?;
    life.write(2..3, b'e')?;
    Ok(vec![(SNAPSHOT.to_owned(), kept), ("second".to_owned(), second)])
}

/// Every kind of record, over a checkpoint and two logs; then changes that nobody flushes.
fn ended(mut life: Life) -> Result<(Content, Content)> {
    let turn_over = |life: &mut Life| {
        for number in 24..32 {
            life.write(number..number + 1, b't')?;
            life.disk.flush()?;
        }
        Ok::<_, sealdisk::Error>(())
    };
    life.write(0..4, b'a')?;
    life.disk.flush()?;
    turn_over(&mut life)?;
    life.disk.admin().maintain()?;
    life.disk.admin().set_encryption(false);
    life.write(4..8, b'b')?;
    life.disk.admin().create_snapshot("first")?;
    let first = life.live.clone();
    life.zero(1..2)?;
    life.write(5..6, b'c')?;
    life.disk.admin().set_encryption(true);
    life.disk.admin().create_snapshot("gone")?;
    life.resize(PAGES + 8)?;
    life.disk.admin().delete_snapshot("gone")?;
    life.disk.admin().create_snapshot("back")?;
    let back = life.live.clone();
    life.write(6..7, b'd')?;
    life.disk.flush()?;
    life.disk.admin().roll_back("back")?;
    life.live = back.clone();
    life.write(7..8, b'e')?;
    life.write(33..34, b'e')?;
    life.disk.flush()?;
    let snapshots = vec![("first".to_owned(), first), ("back".to_owned(), back)];
    let flushed = Content { live: life.live.clone(), snapshots: snapshots.clone() };
    // In place: no change of presence, and nothing to note.
    life.write(33..34, b'f')?;
    let flushed = Content { live: life.live.clone(), ..flushed };
    life.write(10..12, b'f')?;
    life.zero(0..1)?;
    life.disk.admin().set_encryption(false);
    life.write(12..13, b'g')?;
    Ok((Content { live: life.live, snapshots }, flushed))
}
