//! What a disk says of itself, and what it refuses to be asked.

use std::os::unix::fs::FileExt;

use super::tests::{TestDisk, folder, read};
use super::*;
use crate::base::{BaseRun, VisitRun};
use crate::io::real::RealDir;

const MIB: u64 = 1 << 20;
const PAGES: u64 = MIB / PAGE as u64;

fn write(disk: &Disk, page: u64, count: usize) {
    disk.write(page * PAGE as u64, &vec![7; count * PAGE], Durability::Volatile).unwrap();
}

fn kind_of<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn changes_between_snapshots_are_told_and_no_others() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    write(&disk, 0, 8);
    let first = disk.admin().create_snapshot("first").unwrap().id;
    assert_eq!(disk.admin().changed_since(first, None).unwrap(), []);
    write(&disk, 2, 2);
    disk.zero(4 * 512, 512, Durability::Volatile).unwrap();
    let second = disk.admin().create_snapshot("second").unwrap().id;
    disk.admin().resize(MIB + 1024).unwrap();
    write(&disk, 100, 1);
    let change = |start, pages, cleared| Change { start, pages, cleared };
    let between = [change(2, 2, false), change(4, 1, true)];
    assert_eq!(disk.admin().changed_since(first, Some(second)).unwrap(), between);
    // What grew is all new; the footer that lay there is none of the disk's content.
    let since = [change(100, 1, false), change(PAGES, 2, true)];
    assert_eq!(disk.admin().changed_since(second, None).unwrap(), since);
    assert_eq!(disk.admin().changed_since(first, None).unwrap(), [between, since].concat());
    // In parts, also from within a run.
    assert_eq!(disk.admin().changed_from(3, 2, first, None).unwrap(), [change(3, 1, false), change(4, 1, true)]);
    assert_eq!(disk.admin().changed_from(4, 1, first, Some(second)).unwrap(), [change(4, 1, true)]);
    assert_eq!(disk.admin().changed_from(u64::MAX, 9, first, None).unwrap(), []);
    assert_eq!(kind_of(disk.admin().changed_since(second, Some(first))), ErrorKind::InvalidInput);
    assert_eq!(kind_of(disk.admin().changed_since(second + 1, None)), ErrorKind::NotFound);
}

#[test]
fn an_audit_finds_what_is_not_as_it_should_be() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    write(&disk, 0, 16);
    write(&disk, 1200, 2);
    disk.flush().unwrap();
    // The footer is held as well.
    let sound = Audited { held: 19, ..Audited::default() };
    assert_eq!(disk.admin().audit(1, 0).unwrap(), sound);
    let file = std::fs::OpenOptions::new().write(true).open(place.folder.path().join("layers/00000001.xts")).unwrap();
    let put = |page: u64, bytes: [u8; PAGE]| file.write_all_at(&bytes, page * PAGE as u64).unwrap();
    put(0, [7; PAGE]);
    put(1200, [0; PAGE]);
    put(40, [1; PAGE]);
    assert_eq!(disk.admin().audit(1, 0).unwrap(), Audited { clear: 1, missing: 1, left: 1, ..sound });
    // From a page on.
    assert_eq!(disk.admin().audit(1, 1024).unwrap(), Audited { held: 3, missing: 1, ..Audited::default() });
    assert_eq!(disk.admin().audit(1, u64::MAX / 2).unwrap(), Audited::default());
    assert_eq!(kind_of(disk.admin().audit(2, 0)), ErrorKind::NotFound);
    disk.admin().set_encryption(false);
    write(&disk, 50, 1);
    assert_eq!(
        disk.admin().audit(2, 0).unwrap(),
        Audited { held: 1, ..Audited::default() },
        "plain is as it should be there"
    );
}

/// A snapshot of another disk: an encrypted page, a plain one, and nothing, in turn.
#[derive(Debug)]
struct Parent3;

const OTHER: Uuid = Uuid::from_u128(9);

impl BaseImage for Parent3 {
    fn size(&self) -> u64 {
        MIB
    }
    fn read_at(&self, _offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(3);
        Ok(())
    }
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }
    fn runs(&self, offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        for page in offset / PAGE as u64..(offset + len) / PAGE as u64 {
            let held = |encrypted| BaseRun::Held { disk: OTHER, layer: 5, encrypted };
            visit([held(true), held(false), BaseRun::Zero][page as usize % 3], PAGE as u64)?;
        }
        Ok(())
    }
    fn exposes_layers(&self) -> bool {
        true
    }
}

#[test]
fn a_clone_tells_how_the_other_disk_stores_its_pages() {
    let (folder, keys) = (folder(), DiskKeys::ephemeral().unwrap());
    let dir: Arc<dyn Dir> = Arc::new(RealDir::open(folder.path()).unwrap());
    let parent = Some(Parent { disk: OTHER, snapshot: 1, size: MIB, owned: false });
    let spec = Spec { parent, ..Spec::new(Uuid::new_v4(), "vhds/clone", MIB) };
    Disk::create(dir.clone(), &spec, keys.clone(), true, &Options::default()).unwrap();
    let disk =
        Disk::open(dir, Some(keys), Some(Arc::new(Parent3)), Access::ReadWrite, true, Options::default()).unwrap();
    write(&disk, 0, 3);
    let through = |encrypted| PageState::Inherited { disk: OTHER, layer: 5, encrypted };
    let states: Vec<_> = disk.runs(0, 6 * 512, 10).unwrap().iter().map(|run| (run.pages, run.state)).collect();
    assert_eq!(states, [(3, PageState::Encrypted), (1, through(true)), (1, through(false)), (1, PageState::Zero)]);
    assert_eq!(disk.runs(0, MIB, 2).unwrap().len(), 2, "no more than asked for");
    let usage = disk.admin().usage().unwrap();
    // 2,045 pages are read from the other disk, encrypted ones first.
    assert_eq!((usage.base, usage.plain, usage.zero), (0, 682 * 512, 681 * 512));
    assert_eq!(usage.encrypted, (682 + 3 + 1) * 512);
    // Its own key, of the three pages and the footer, and the other disk's.
    let own = KeyUsage {
        disk: disk.admin().settings().uuid,
        layer: 1,
        pages: 4,
        current: true,
        sealed_blocks: Some(3 * 32),
        rotation_due: false,
    };
    let other =
        KeyUsage { disk: OTHER, layer: 5, pages: 682, current: false, sealed_blocks: None, rotation_due: false };
    assert_eq!(disk.admin().usage_and_keys().unwrap(), (usage, vec![own, other]));
}

/// Every other page is stored; counts what it was asked to visit.
#[derive(Debug)]
struct Striped(std::sync::atomic::AtomicU64);

impl BaseImage for Striped {
    fn size(&self) -> u64 {
        1 << 40
    }
    fn read_at(&self, _offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        Ok(())
    }
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }
    fn runs(&self, offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        for page in offset / PAGE as u64..(offset + len) / PAGE as u64 {
            let visits = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(visits < 1 << 20, "it goes through all of the base");
            visit(if page % 2 == 0 { BaseRun::Data } else { BaseRun::Zero }, PAGE as u64)?;
        }
        Ok(())
    }
}

/// A client may ask for the status of a whole disk at once, and is told of some hundreds of extents.
#[test]
fn few_runs_of_a_fragmented_base_cost_little() {
    let place = TestDisk::new(1 << 40, 1 << 40, true);
    let base = Some(Arc::new(Striped(0.into())) as Arc<dyn BaseImage>);
    let disk =
        Disk::open(place.dir(), Some(place.keys.clone()), base, Access::ReadWrite, true, Options::default()).unwrap();
    for start in [0, 5, 1 << 30] {
        let runs = disk.runs(start * 512, (1 << 40) - start * 512, 16).unwrap();
        let expected: Vec<_> = (start..start + 16).map(|page| (page, 1, page % 2 == 0)).collect();
        let told = |run: &Run| (run.start, run.pages, run.state == PageState::Base { allocated: true });
        assert_eq!(runs.iter().map(told).collect::<Vec<_>>(), expected);
    }
    // Past the first look.
    assert_eq!(disk.runs(0, 1 << 30, 20_000).unwrap().len(), 20_000);
}

#[test]
fn what_cannot_be_is_refused_by_its_kind() {
    let place = TestDisk::new(MIB, 0, true);
    let dir = place.dir();
    let create = |spec: &Spec| {
        let folder = folder();
        let dir = Arc::new(RealDir::open(folder.path()).unwrap());
        kind_of(Disk::create(dir, spec, place.keys.clone(), true, &Options::default()))
    };
    let spec = Spec::new(Uuid::nil(), "vhds/no", MIB);
    for size in [0, 513, open::SIZE_LIMIT + 512] {
        assert_eq!(create(&Spec { size, ..spec.clone() }), ErrorKind::InvalidInput);
    }
    let parent = Some(Parent { disk: OTHER, snapshot: 1, size: 2 * MIB, owned: false });
    assert_eq!(create(&Spec { parent, ..spec.clone() }), ErrorKind::InvalidInput, "smaller than what lies below");
    let keyless = Disk::open(dir.clone(), None, None, Access::ReadWrite, true, Options::default());
    assert_eq!(kind_of(keyless), ErrorKind::WrongKey);
    let little = Options { pending_extents: 4, ..Options::default() };
    let opened = Disk::open(dir.clone(), Some(place.keys.clone()), None, Access::ReadWrite, true, little);
    assert_eq!(kind_of(opened), ErrorKind::InvalidInput);

    let disk = place.open(true);
    for size in [0, 513, open::SIZE_LIMIT + 512] {
        assert_eq!(kind_of(disk.admin().resize(size)), ErrorKind::InvalidInput);
    }
    for name in ["", "a@b", "a\0", &"x".repeat(256)] {
        assert_eq!(kind_of(disk.admin().create_snapshot(name)), ErrorKind::InvalidInput, "{name:?}");
    }
    assert_eq!(kind_of(disk.admin().reveal_key(9)), ErrorKind::NotFound);
    assert_eq!(kind_of(disk.write(MIB, &[0; 512], Durability::Volatile)), ErrorKind::OutOfRange);
    disk.admin().rename("vhds/renamed").unwrap();
    assert_eq!(disk.admin().settings().name, "vhds/renamed");
    write(&disk, 4, 4);
    disk.cache(0, MIB).unwrap();
    assert_eq!(read(&disk, 4 * 512, 512), [7; 512]);
    let shown = format!("{disk:?}");
    assert!(shown.contains("ReadWrite") && shown.len() < 400, "{shown}");
}

#[test]
fn a_base_that_shrank_is_refused() {
    let place = TestDisk::new(MIB, MIB / 2, true);
    let small = Arc::new(tests::Pattern(MIB / 4));
    let opened =
        Disk::open(place.dir(), Some(place.keys.clone()), Some(small), Access::ReadOnly, true, Options::default());
    assert_eq!(kind_of(opened), ErrorKind::BaseChanged);
}
