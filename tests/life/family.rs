//! Two hundred snapshots of a family of disks, drawn, cloned, rolled back to and deleted in random order, through the
//! account, against a model that keeps a copy of everything; and the space that comes back.

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use sealdisk::ErrorKind;
use sealdisk::account::attachment::Attachment;
use sealdisk::account::lock::{AccountLock, Hold};
use sealdisk::account::make::NewAccountDir;
use sealdisk::account::name::BlobName;
use sealdisk::account::registry::{Keys, Registry};
use sealdisk::account::settings::Settings;
use sealdisk::account::view_name::{SnapshotName, ViewName};
use sealdisk::crypto::kek::{Kek, SourceRecord};
use sealdisk::crypto::secret::SecretKey;
use sealdisk::disk::{Disk, Durability};
use sealdisk::io::real::RealDir;

const PAGE: usize = 512;
const PAGES: usize = 256;
const SNAPSHOTS: u32 = 200;
/// Disks that are there at a time.
const FAMILY: usize = 6;
/// Clones of clones.
const GENERATIONS: u32 = 6;

fn kek() -> Kek {
    let key = SecretKey::fill_with(|bytes| {
        bytes.fill(7);
        Ok(())
    });
    Kek::new(key.expect("a key"))
}

pub(crate) fn make(path: &Path) {
    let place = NewAccountDir::prepare(path).expect("a place");
    let source = SourceRecord::Credential { name: "kek".into() };
    Settings::create(place.dir(), uuid::Uuid::from_u128(9), &kek(), source, true).expect("settings");
    place.keep().expect("made");
}

pub(crate) fn open(path: &Path) -> Registry {
    // A child that another test has forked holds what was open until it has become another program.
    let take = || AccountLock::try_take(&RealDir::open(path).expect("a folder"), Hold::Exclusive).expect("a lock file");
    let lock = (0..1000).find_map(|_| {
        let lock = take();
        if lock.is_none() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        lock
    });
    let lock = lock.expect("a free account");
    let settings = Settings::load(&RealDir::open(path).expect("a directory")).expect("settings");
    let keys = settings.unlock(&kek()).expect("the key");
    Registry::open(path, lock, settings, Keys::Unlocked(keys)).expect("opened")
}

fn read(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read(0, &mut bytes).expect("a read");
    bytes
}

/// A disk of the model. Moments are numbered through: a line is of the moment when it was drawn.
struct Member {
    content: Vec<u8>,
    snapshots: BTreeMap<u32, Vec<u8>>,
    /// Of which disk, and the moment of the line that it is a clone of.
    parent: Option<(u32, u32)>,
    generation: u32,
    /// Deleted from sight.
    hidden: bool,
}

struct Family {
    members: BTreeMap<u32, Member>,
    registry: Registry,
    moment: u32,
    next: u32,
}

fn name(number: u32) -> BlobName {
    format!("disk{number}").parse().expect("a name")
}

fn snapshot_name(moment: u32) -> SnapshotName {
    format!("s{moment}").parse().expect("a name")
}

impl Family {
    fn disk(&self, number: u32) -> Attachment {
        self.registry.disk(&name(number)).expect("a disk")
    }

    fn visible(&self) -> impl Iterator<Item = u32> {
        self.members.iter().filter(|(_, member)| !member.hidden).map(|(&number, _)| number)
    }

    /// The moments of the lines of a disk that clones read from.
    fn pinned(&self, number: u32) -> Vec<u32> {
        let parents = self.members.values().filter_map(|member| member.parent);
        parents.filter(|&(of, _)| of == number).map(|(_, moment)| moment).collect()
    }

    fn change(&mut self, number: u32, random: &mut StdRng) {
        let disk = self.disk(number);
        let member = self.members.get_mut(&number).expect("a member");
        let start = random.random_range(0..PAGES);
        let range = start * PAGE..(start + random.random_range(1..=32.min(PAGES - start))) * PAGE;
        if random.random_bool(0.3) {
            disk.zero(range.start as u64, range.len() as u64, Durability::Volatile).expect("zeroed");
            member.content[range].fill(0);
        } else {
            random.fill(&mut member.content[range.clone()]);
            disk.write(range.start as u64, &member.content[range], Durability::Volatile).expect("written");
        }
    }

    fn draw(&mut self, number: u32) {
        self.moment += 1;
        self.registry.take_snapshot(&name(number), &snapshot_name(self.moment)).expect("drawn");
        let member = self.members.get_mut(&number).expect("a member");
        member.snapshots.insert(self.moment, member.content.clone());
    }

    /// Of a snapshot, or of the disk as it is.
    fn clone_of(&mut self, number: u32, snapshot: Option<u32>) {
        self.moment += 1;
        let member = &self.members[&number];
        let content = snapshot.map_or(&member.content, |moment| &member.snapshots[&moment]).clone();
        let parent = Some((number, snapshot.unwrap_or(self.moment)));
        let generation = member.generation + 1;
        let source = ViewName { disk: name(number), snapshot: snapshot.map(snapshot_name) };
        self.registry.clone_disk(&source, &name(self.next)).expect("cloned");
        let clone = Member { content, snapshots: BTreeMap::new(), parent, generation, hidden: false };
        self.members.insert(self.next, clone);
        self.next += 1;
    }

    /// Whether it went.
    fn delete_snapshot(&mut self, number: u32, moment: u32) -> bool {
        let pinned = self.pinned(number).contains(&moment);
        match self.registry.delete_snapshot(&name(number), &snapshot_name(moment)) {
            Err(error) => assert!(pinned && error.kind() == ErrorKind::InUse, "disk{number}@s{moment}: {error}"),
            Ok(()) => {
                assert!(!pinned, "disk{number}@s{moment} is what a clone reads from");
                self.members.get_mut(&number).expect("a member").snapshots.remove(&moment);
            }
        }
        !pinned
    }

    /// Whether it was done.
    fn roll_back(&mut self, number: u32, moment: u32) -> bool {
        let (name, snapshot) = (name(number), snapshot_name(moment));
        let pinned = self.pinned(number).iter().any(|&other| other > moment);
        let drops = match self.registry.rollback_report(&name, &snapshot) {
            Err(error) => {
                assert!(pinned && error.kind() == ErrorKind::InUse, "disk{number} to s{moment}: {error}");
                return false;
            }
            Ok(report) => report.snapshots,
        };
        match self.registry.roll_back(&name, &snapshot, &drops) {
            Err(error) => assert!(pinned && error.kind() == ErrorKind::InUse, "disk{number} to s{moment}: {error}"),
            Ok(()) => {
                assert!(!pinned, "disk{number} to s{moment}: a clone reads from a later one");
                let member = self.members.get_mut(&number).expect("a member");
                member.content.clone_from(&member.snapshots[&moment]);
                member.snapshots.retain(|&other, _| other <= moment);
            }
        }
        !pinned
    }

    /// For good, and with it what was kept for it alone; or from sight.
    fn delete(&mut self, number: u32) {
        self.registry.delete(&name(number)).expect("deleted");
        self.members.get_mut(&number).expect("a member").hidden = true;
        while let Some(unread) =
            self.members.iter().find(|(n, member)| member.hidden && self.pinned(**n).is_empty()).map(|(&n, _)| n)
        {
            self.members.remove(&unread);
        }
    }

    fn check(&self, random: &mut StdRng) {
        let number = self.visible().choose(random).expect("there is one");
        let (disk, member) = (self.disk(number), &self.members[&number]);
        assert!(read(&disk) == member.content, "disk{number}");
        if let Some((moment, content)) = member.snapshots.iter().choose(random) {
            let view = disk.at_snapshot(snapshot_name(*moment).as_str()).expect("a view");
            assert!(read(&view) == *content, "disk{number}@s{moment}");
        }
    }
}

#[test]
fn snapshots_and_clones_of_a_family_come_and_go_as_the_model_says() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let path = folder.path().join("account");
    make(&path);
    let registry = open(&path);
    registry.create(&name(0), Some((PAGES * PAGE) as u64), None).expect("a disk");
    let first = Member {
        content: vec![0; PAGES * PAGE],
        snapshots: BTreeMap::new(),
        parent: None,
        generation: 0,
        hidden: false,
    };
    let mut family = Family { members: BTreeMap::from([(0, first)]), registry, moment: 0, next: 1 };
    let mut random = StdRng::seed_from_u64(21);
    let (mut drawn, mut cloned, mut rolled_back, mut deleted, mut gone, mut refused) = (0, 0, 0, 0, 0, 0);
    while drawn < SNAPSHOTS || family.members.values().any(|member| !member.hidden && !member.snapshots.is_empty()) {
        let number = family.visible().choose(&mut random).expect("there is one");
        family.change(number, &mut random);
        // At first mostly more of them, then fewer.
        let more = drawn < SNAPSHOTS;
        let member = &family.members[&number];
        let snapshot = member.snapshots.keys().copied().choose(&mut random);
        let room = family.visible().count() < FAMILY && member.generation < GENERATIONS;
        match (random.random_range(0..100), snapshot) {
            (0..55, _) if more => {
                family.draw(number);
                drawn += 1;
            }
            (55..65, _) if more && room => {
                family.clone_of(number, snapshot.filter(|_| random.random_bool(0.7)));
                cloned += 1;
            }
            (65..70, _) if family.visible().count() > 1 => {
                family.delete(number);
                gone += 1;
            }
            (70..72, Some(moment)) => match family.roll_back(number, moment) {
                true => rolled_back += 1,
                false => refused += 1,
            },
            (72..75, _) => {
                family.registry.close().expect("closed");
                drop(family.registry);
                family.registry = open(&path);
            }
            (_, Some(moment)) => match family.delete_snapshot(number, moment) {
                true => deleted += 1,
                false => refused += 1,
            },
            _ => {}
        }
        family.check(&mut random);
    }
    let counts = format!(
        "{drawn} drawn, {cloned} clones, {rolled_back} rolled back, {deleted} deleted, {gone} disks deleted, {refused} refused"
    );
    println!("{counts}");
    assert!(cloned > 15 && rolled_back > 0 && deleted > 50 && gone > 10 && refused > 3, "{counts}");

    // One is left, and with it only what it reads from.
    while family.visible().count() > 1 {
        let newest = family.visible().last().expect("there is one");
        family.delete(newest);
    }
    let left = std::fs::read_dir(path.join("disks")).expect("the folder").count();
    assert_eq!(left, family.members.len(), "a deleted disk that nothing reads from is gone");
    let number = family.visible().next().expect("there is one");
    let disk = family.disk(number);
    disk.admin().scrub().expect("scrubbed");
    assert_eq!(disk.admin().usage().expect("usage").pending_scrub, Some(0));
    let held = disk.admin().layers().iter().map(|layer| layer.held).sum::<u64>();
    assert!(held <= (PAGES as u64 + 1) * PAGE as u64, "{held} bytes are held for a disk of {PAGES} pages");
    assert!(read(&disk) == family.members[&number].content);
}

#[test]
fn what_a_crash_left_of_a_clone_goes_with_the_next_opening() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let path = folder.path().join("account");
    make(&path);
    let registry = open(&path);
    registry.create(&name(0), Some(1 << 20), None).expect("a disk");
    registry.clone_disk(&name(0).into(), &name(1)).expect("a clone");
    let orphan = format!("clone-{}", uuid::Uuid::from_u128(77).simple());
    let refused = registry.take_snapshot(&name(0), &orphan.parse().expect("a name")).expect_err("not for users");
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    // As a clone that comes to nothing leaves it.
    let disk = registry.disk(&name(0)).expect("a disk");
    disk.admin().create_snapshot(&orphan).expect("drawn");
    disk.admin().create_snapshot("clone-of-mine").expect("drawn");
    drop(disk);
    registry.close().expect("closed");
    drop(registry);
    let registry = open(&path);
    let names: Vec<String> = registry.snapshots(&name(0)).expect("a list").into_iter().map(|line| line.name).collect();
    assert!(names.len() == 2 && !names.contains(&orphan) && names[1] == "clone-of-mine", "{names:?}");
    assert_eq!(read(&registry.disk(&name(1)).expect("the clone")), vec![0; 1 << 20]);
    registry.close().expect("closed");
}
