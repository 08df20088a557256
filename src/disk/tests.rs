//! The core on real files: what one opening does, and the next finds.

use std::sync::Arc;

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::base::{BaseRun, VisitRun};
use crate::io::real::RealDir;

const MIB: u64 = 1 << 20;

/// A base in memory whose byte at page n is a function of n.
#[derive(Debug)]
pub(super) struct Pattern(pub(super) u64);

pub(super) fn base_page(page: u64) -> [u8; PAGE] {
    [(page % 251) as u8 + 1; PAGE]
}

impl BaseImage for Pattern {
    fn size(&self) -> u64 {
        self.0
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        for (at, page) in buf.chunks_mut(PAGE).zip(offset / PAGE as u64..) {
            at.copy_from_slice(&base_page(page));
        }
        Ok(())
    }
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }
    fn runs(&self, _offset: u64, len: u64, visit: &mut VisitRun<'_>) -> Result<()> {
        visit(BaseRun::Data, len)
    }
}

/// In memory where there is such a place: these tests are not about the device.
pub(super) fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

pub(super) struct TestDisk {
    pub(super) folder: TempDir,
    pub(super) keys: DiskKeys,
    base: u64,
}

impl TestDisk {
    pub(super) fn new(size: u64, base: u64, encryption: bool) -> Self {
        Self::of(Uuid::new_v4(), DiskKeys::ephemeral().unwrap(), size, base, encryption)
    }
    pub(super) fn of(uuid: Uuid, keys: DiskKeys, size: u64, base: u64, encryption: bool) -> Self {
        let place = Self { folder: folder(), keys, base };
        let record = (base > 0).then(|| BaseRecord {
            path: "/pattern".into(),
            format: crate::base::Format::Raw,
            size: base,
            recover: false,
            files: Vec::new(),
        });
        let spec = Spec { base: record, ..Spec::new(uuid, "vhds/test", size) };
        Disk::create(place.dir(), &spec, place.keys.clone(), encryption, &Options::default()).unwrap();
        place
    }
    pub(super) fn dir(&self) -> Arc<dyn Dir> {
        Arc::new(RealDir::open(self.folder.path()).unwrap())
    }
    pub(super) fn try_open(&self, access: Access, encryption: bool) -> Result<Disk> {
        let base = (self.base > 0).then(|| Arc::new(Pattern(self.base)) as Arc<dyn BaseImage>);
        // Small, so that short tests turn it over.
        let options = Options { log_bytes: 128 << 10, pending_extents: 256, ..Options::default() };
        Disk::open(self.dir(), Some(self.keys.clone()), base, access, encryption, options)
    }
    pub(super) fn open(&self, encryption: bool) -> Disk {
        self.try_open(Access::ReadWrite, encryption).unwrap()
    }
    /// The stored bytes of a page in a layer file.
    fn stored(&self, layer: &str, page: u64) -> Vec<u8> {
        let file = std::fs::read(self.folder.path().join("layers").join(layer)).unwrap();
        file[page as usize * PAGE..][..PAGE].to_vec()
    }
    pub(super) fn layer_files(&self) -> Vec<String> {
        self.dir().subdir("layers").unwrap().list().unwrap()
    }
}

pub(super) fn read(disk: &Disk, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xee; len];
    disk.read(offset, &mut buf).unwrap();
    buf
}

#[test]
fn a_layer_that_has_gone_stores_nothing_and_one_that_never_was_is_refused() {
    let place = TestDisk::new(1 << 20, 0, true);
    let disk = place.open(true);
    disk.write(0, &[1; 4096], Durability::Volatile).unwrap();
    assert_eq!(disk.admin().audit(1, 0).unwrap().held, 8 + 1, "with the footer");
    disk.admin().rotate_key().unwrap();
    let mut page = 0;
    while let Swept::Next { page: next, .. } = disk.admin().sweep(page, false).unwrap() {
        page = next;
    }
    disk.admin().scrub().unwrap();
    assert_eq!(place.layer_files(), ["00000002.xts"]);
    assert_eq!(disk.admin().audit(1, 0).unwrap(), Audited::default());
    for never in [0, 3, u32::MAX] {
        assert_eq!(disk.admin().audit(never, 0).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[test]
fn a_new_disk_reads_as_zeros_and_ends_with_a_footer() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    assert_eq!((disk.size(), disk.blob_size()), (MIB, MIB + 512));
    assert_eq!(read(&disk, 0, MIB as usize), vec![0; MIB as usize]);
    assert_eq!(disk.read(MIB, &mut [0; 512]).unwrap_err().kind(), ErrorKind::OutOfRange);
    let runs = disk.runs(0, disk.blob_size(), 100).unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!((runs[1].start, runs[1].pages, runs[1].state), (2048, 1, PageState::Encrypted));
    assert_eq!(
        disk.admin().usage().unwrap(),
        Usage { encrypted: 512, zero: MIB, pending_scrub: Some(0), ..Usage::default() }
    );
}

#[test]
fn the_switch_changes_new_writes_only() {
    let place = TestDisk::new(MIB, MIB / 2, true);
    let disk = place.open(true);
    let page = |byte: u8| vec![byte; PAGE];
    disk.write(0, &page(b'a'), Durability::Volatile).unwrap();
    disk.admin().set_encryption(false);
    disk.write(512, &page(b'b'), Durability::Fua).unwrap();
    disk.admin().set_encryption(true);
    disk.write(1024, &page(b'c'), Durability::Volatile).unwrap();
    disk.flush().unwrap();
    let states: Vec<_> = disk.runs(0, 2048, 100).unwrap().iter().map(|run| (run.start, run.state)).collect();
    let base = PageState::Base { allocated: true };
    assert_eq!(states, [(0, PageState::Encrypted), (1, PageState::Plain), (2, PageState::Encrypted), (3, base)],);
    assert_eq!(place.stored("00000002.plain", 1), page(b'b'));
    assert_ne!(place.stored("00000001.xts", 0), page(b'a'));
    assert_ne!(place.stored("00000003.xts", 2), page(b'c'));
    // Rewritten under the other setting: the plaintext dies, and is gone after a scrub.
    disk.write(512, &page(b'd'), Durability::Volatile).unwrap();
    assert_eq!(disk.admin().usage().unwrap().pending_scrub, Some(512));
    disk.admin().scrub().unwrap();
    assert_eq!(disk.admin().usage().unwrap().pending_scrub, Some(0));
    assert!(!place.layer_files().contains(&"00000002.plain".to_string()), "an empty layer goes");
    drop(disk);
    let disk = place.open(true);
    assert_eq!(disk.admin().usage().unwrap().pending_scrub, None, "unknown after an unclean end");
    let expected = [page(b'a'), page(b'd'), page(b'c'), base_page(3).to_vec()].concat();
    assert_eq!(read(&disk, 0, 2048), expected);
    disk.admin().scrub().unwrap();
    assert_eq!(disk.admin().usage().unwrap().pending_scrub, Some(0));
}

#[test]
fn toggling_without_writing_makes_no_layer() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    for _ in 0..10 {
        disk.admin().set_encryption(false);
        disk.admin().set_encryption(true);
    }
    disk.write(0, &[1; 512], Durability::Fua).unwrap();
    assert_eq!(place.layer_files(), ["00000001.xts"]);
}

#[test]
fn unaligned_ranges_and_zeroing() {
    let place = TestDisk::new(MIB, MIB / 2, true);
    let disk = place.open(true);
    let mut model: Vec<u8> = (0..MIB / 1024).flat_map(base_page).chain(vec![0; MIB as usize / 2]).collect();
    for (step, (at, len)) in [(3, 700), (511, 2), (1000, 5000), (524_000, 2000), (40_000, 300_000)].iter().enumerate() {
        let data = vec![step as u8 + 100; *len];
        disk.write(*at, &data, Durability::Volatile).unwrap();
        model[*at as usize..*at as usize + len].copy_from_slice(&data);
    }
    for (at, len) in [(100, 5), (1500, 1100), (50_000, 10_000), (700_000, 300)] {
        disk.zero(at, len, Durability::Volatile).unwrap();
        model[at as usize..(at + len) as usize].fill(0);
    }
    assert!(read(&disk, 0, MIB as usize) == model);
    assert_eq!(read(&disk, 12_345, 6789), &model[12_345..12_345 + 6789]);
    disk.close().unwrap();
    assert_eq!(disk.write(0, &[0; 512], Durability::Volatile).unwrap_err().kind(), ErrorKind::Shutdown);
    drop(disk);
    let disk = place.open(true);
    assert!(disk.admin().usage().unwrap().pending_scrub.is_some(), "a clean close keeps the dead known");
    assert!(read(&disk, 0, MIB as usize) == model);
}

#[test]
fn many_rounds_turn_the_log_over() {
    let place = TestDisk::new(64 * MIB, 0, true);
    let open = |encryption| {
        let options = Options { log_bytes: 64 << 10, pending_extents: 64, ..Options::default() };
        Disk::open(place.dir(), Some(place.keys.clone()), None, Access::ReadWrite, encryption, options).unwrap()
    };
    let disk = open(true);
    for step in 0..3000u64 {
        // Every second page, so that extents do not merge.
        disk.write(step * 1024, &[step as u8; 512], Durability::Volatile).unwrap();
        if step % 97 == 0 {
            disk.admin().maintain().unwrap();
        }
    }
    disk.flush().unwrap();
    let names = place.dir().list().unwrap();
    assert!(
        names.iter().any(|name| name.strip_prefix("log.").is_some_and(|n| n.parse().unwrap_or(0) > 3)),
        "{names:?}"
    );
    drop(disk);
    let disk = open(true);
    for step in 0..3000u64 {
        assert_eq!(read(&disk, step * 1024, 1024), [vec![step as u8; 512], vec![0; 512]].concat(), "{step}");
    }
}

#[test]
fn damage_is_refused_and_changes_nothing() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    for step in 0..5 {
        disk.write(step * 4096, &[7; 512], Durability::Fua).unwrap();
    }
    drop(disk);
    let log =
        place.dir().list().unwrap().into_iter().filter(|n| n.starts_with("log.")).find(|n| n != "log.next").unwrap();
    let path = place.folder.path().join(&log);
    let good = std::fs::read(&path).unwrap();
    let flip = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        place.try_open(Access::ReadWrite, true).map(|_| ()).map_err(|error| error.kind())
    };
    assert_eq!(flip(4096 + 80), Err(ErrorKind::Corrupt), "a batch with whole ones behind it");
    assert_eq!(flip(20), Err(ErrorKind::Corrupt), "a header with batches behind it");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(place.try_open(Access::ReadWrite, true).unwrap_err().kind(), ErrorKind::Corrupt, "missing");
    assert_eq!(flip(4096 * 5 + 80), Ok(()), "the torn end is no damage");
    std::fs::write(&path, &good).unwrap();
    let other = DiskKeys::ephemeral().unwrap();
    let wrong = Disk::open(place.dir(), Some(other), None, Access::ReadWrite, true, Options::default());
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn read_only_changes_nothing() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    disk.write(0, &[5; 4096], Durability::Fua).unwrap();
    drop(disk);
    let before = place.dir().list().unwrap();
    let disk = place.try_open(Access::ReadOnly, true).unwrap();
    assert_eq!(read(&disk, 0, 4096), vec![5; 4096]);
    assert_eq!(disk.write(0, &[1; 512], Durability::Volatile).unwrap_err().kind(), ErrorKind::ReadOnly);
    disk.flush().unwrap();
    disk.close().unwrap();
    assert_eq!(place.dir().list().unwrap(), before);
    let locked = Disk::open(place.dir(), None, None, Access::ReadOnly, true, Options::default()).unwrap();
    assert_eq!(locked.admin().usage().unwrap().encrypted, 4096 + 512);
    assert_eq!(locked.read(0, &mut [0; 512]).unwrap_err().kind(), ErrorKind::Revoked);
}

#[test]
fn many_threads_share_rounds() {
    let place = TestDisk::new(4 * MIB, 0, true);
    let disk = place.open(true);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let disk = &disk;
            scope.spawn(move || {
                for step in 0..50u64 {
                    let at = (thread * 1000 + step * 16) * 512;
                    disk.write(at, &[thread as u8 + 1; 1024], Durability::Volatile).unwrap();
                    if step % 5 == 0 {
                        disk.flush().unwrap();
                    }
                    if step % 20 == 0 && thread == 0 {
                        disk.admin().set_encryption(step % 40 == 0);
                    }
                    assert_eq!(read(disk, at, 1024), vec![thread as u8 + 1; 1024]);
                }
            });
        }
        scope.spawn(|| (0..50).for_each(|_| assert!(disk.admin().maintain().is_ok())));
    });
    disk.flush().unwrap();
    drop(disk);
    let disk = place.open(true);
    for thread in 0..4u64 {
        for step in 0..50u64 {
            assert_eq!(read(&disk, (thread * 1000 + step * 16) * 512, 1024), vec![thread as u8 + 1; 1024]);
        }
    }
}

#[test]
fn verifying_an_open_disk_finds_what_was_changed_under_it() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    disk.write(0, &[1; 4096], Durability::Volatile).unwrap();
    disk.admin().create_snapshot("one").unwrap();
    disk.zero(512, 512, Durability::Volatile).unwrap();
    disk.admin().verify().unwrap();
    let name = place.dir().list().unwrap().into_iter().rfind(|n| n.starts_with("log.") && n != "log.next").unwrap();
    let path = place.folder.path().join(name);
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[4096 + 80] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    assert_eq!(disk.admin().verify().unwrap_err().kind(), ErrorKind::Corrupt);
    // A torn end is no damage, but then the open disk knows more than what is stored.
    bad[4096..].fill(0);
    std::fs::write(&path, &bad).unwrap();
    assert_eq!(disk.admin().verify().unwrap_err().kind(), ErrorKind::Corrupt);
    std::fs::write(&path, &good).unwrap();
    disk.admin().verify().unwrap();
    disk.close().unwrap();
    disk.admin().verify().unwrap();
    place.try_open(Access::ReadOnly, true).unwrap().admin().verify().unwrap();
}

#[test]
fn what_was_answered_outlives_the_process_but_not_the_kernel() {
    let place = TestDisk::new(MIB, MIB / 2, true);
    let options = |boot: u8| Options {
        log_bytes: 128 << 10,
        pending_extents: 256,
        // Two regions of 8 records.
        recent_bytes: 1024,
        boot: Some([boot; 16]),
        ..Options::default()
    };
    let open_as = |boot, access| {
        let base = Some(Arc::new(Pattern(place.base)) as Arc<dyn BaseImage>);
        Disk::open(place.dir(), Some(place.keys.clone()), base, access, true, options(boot)).unwrap()
    };
    let open = |boot| open_as(boot, Access::ReadWrite);
    let page = |byte: u8| vec![byte; PAGE];
    let disk = open(1);
    disk.write(0, &page(1), Durability::Volatile).unwrap();
    disk.flush().unwrap();
    // More than a region holds, so that rounds must make room; in place, elsewhere, and cleared.
    for step in 0..40u8 {
        disk.write(u64::from(step) * 1024, &page(step + 1), Durability::Volatile).unwrap();
    }
    disk.zero(512, 512, Durability::Volatile).unwrap();
    disk.admin().set_encryption(false);
    disk.write(2048, &page(99), Durability::Volatile).unwrap();
    drop(disk);
    let check = |disk: &Disk| {
        assert_eq!(read(disk, 0, 1024), [page(1), page(0)].concat());
        assert_eq!(read(disk, 2048, 512), page(99));
        for step in 3..40u8 {
            assert_eq!(read(disk, u64::from(step) * 1024, 512), page(step + 1), "{step}");
        }
    };
    // Killed again and again, once while it was only looked at.
    let looking = open_as(1, Access::ReadOnly);
    check(&looking);
    looking.flush().unwrap();
    looking.admin().verify().unwrap();
    drop(looking);
    for _ in 0..3 {
        check(&open(1));
    }
    let disk = open(1);
    disk.write(1024, &page(7), Durability::Fua).unwrap();
    disk.write(900 * 512, &page(8), Durability::Volatile).unwrap();
    drop(disk);
    let disk = open(2);
    check(&disk);
    assert_eq!(read(&disk, 1024, 512), page(7));
    assert_eq!(read(&disk, 900 * 512, 512), base_or_zero(900), "another kernel: pages and notes may be torn apart");
    drop(disk);
    assert!(!place.dir().list().unwrap().contains(&"recent.1".to_string()));
}

fn base_or_zero(page: u64) -> [u8; PAGE] {
    if page < MIB / 1024 { base_page(page) } else { [0; PAGE] }
}

#[test]
fn nothing_noted_is_believed_once_a_sync_failed() {
    let place = TestDisk::new(MIB, 0, true);
    let disk = place.open(true);
    disk.write(0, &[1; 512], Durability::Volatile).unwrap();
    disk.core.commit.poison().set(Error::new(ErrorKind::Io, "as if a sync had failed"));
    drop(disk);
    assert_eq!(read(&place.open(true), 0, 512), vec![0; 512]);
}
