//! Every change of account.toml on the simulated disk, with the power cut, the process killed and a call failing at
//! each of its steps. Whatever is left must open with one KEK, and after the change was acknowledged with the right
//! one.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![cfg(sealdisk_sim)]

use std::io::ErrorKind as IoErrorKind;
use std::sync::{Arc, Mutex};

use sealdisk::account::settings::{FILE, Settings};
use sealdisk::crypto::kek::{Kek, SourceRecord};
use sealdisk::crypto::keyring::{AccountKey, DiskKeys, KeyRing};
use sealdisk::crypto::secret::SecretKey;
use sealdisk::disk::{Access, Disk, Durability, Options, Spec};
use sealdisk::io::sim::{Fault, Faults, SimDisk, SimRng, Tear, direct};
use sealdisk::io::{Dir, Open};
use sealdisk::{ErrorKind, Result};
use uuid::Uuid;

const SEEDS: u64 = 12;
const IMAGES: u64 = 6;

fn kek(byte: u8) -> Kek {
    let key = SecretKey::fill_with(|bytes| {
        bytes.fill(byte);
        Ok(())
    });
    Kek::new(key.unwrap())
}

fn source(byte: u8) -> SourceRecord {
    SourceRecord::Credential { name: format!("kek{byte}") }
}

fn rotate_kek(dir: &dyn Dir, settings: &mut Settings, ring: &KeyRing) -> Result<()> {
    let kek = settings.derive(&kek(2), None)?;
    settings.rotate_kek(dir, ring, &kek, source(2)).map(drop)
}

fn add_account_key(dir: &dyn Dir, settings: &mut Settings, ring: &KeyRing) -> Result<()> {
    let id = Uuid::from_u128(2);
    let kek = settings.derive(&kek(2), Some(id))?;
    settings.add_account_key(dir, ring, &kek, id, source(2)).map(drop)
}

/// A change of the account in a directory.
type Change = fn(&dyn Dir, &mut Settings, &KeyRing) -> Result<()>;

/// What one disk image shows to someone with KEK 1 and KEK 2.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    by_old: std::result::Result<usize, ErrorKind>,
    by_new: std::result::Result<usize, ErrorKind>,
    encryption: bool,
}

fn look(dir: &dyn Dir) -> Seen {
    Settings::make_durable(dir).expect("what a crash leaves can be settled");
    let settings = Settings::load(dir).expect("what a crash leaves can be loaded");
    let keys = |kek: &Kek| {
        let ring = settings.unlock(kek).map_err(|error| error.kind())?;
        Ok(1 + usize::from(ring.retiring().is_some()))
    };
    assert!(dir.list().unwrap().iter().all(|name| name == FILE), "something was left behind");
    Seen { by_old: keys(&kek(1)), by_new: keys(&kek(2)), encryption: settings.encryption() }
}

/// Crashes during `look` as well: what is settled stays settled.
fn look_and_crash_again(disk: &SimDisk, rng: &mut SimRng) -> Seen {
    let seen = look(&*disk.root());
    let again = disk.power_cut(rng, Tear::Sector);
    assert_eq!(look(&*again.root()), seen, "a second crash shows something else");
    seen
}

fn images_of(disk: &SimDisk, rng: &mut SimRng) -> Vec<SimDisk> {
    let mut images: Vec<SimDisk> =
        (0..IMAGES).map(|n| disk.power_cut(rng, if n % 2 == 0 { Tear::Sector } else { Tear::Block })).collect();
    images.push(disk.kill(rng));
    images
}

/// Runs `change` on a fresh account of KEK 1. Every image on the way must satisfy `before` or `after`, every image once
/// it is acknowledged `after`.
fn check(change: Change, before: &Seen, after: &Seen) {
    for seed in 0..SEEDS {
        direct(|| {
            let disk = SimDisk::new(seed);
            let (mut settings, ring) = Settings::create(&*disk.root(), Uuid::nil(), &kek(1), source(1), true).unwrap();
            assert_eq!(&look(&*disk.root()), before);

            let rng = Arc::new(Mutex::new(SimRng::new(seed)));
            let images = Arc::new(Mutex::new(Vec::new()));
            let (roll, collect) = (Arc::clone(&rng), Arc::clone(&images));
            disk.set_observer(Some(Arc::new(move |disk: &SimDisk| {
                collect.lock().unwrap().extend(images_of(disk, &mut roll.lock().unwrap()));
            })));
            change(&*disk.root(), &mut settings, &ring).unwrap();
            disk.set_observer(None);

            let mut rng = rng.lock().unwrap();
            let on_the_way = std::mem::take(&mut *images.lock().unwrap());
            assert!(on_the_way.len() > 20, "the change made calls");
            for image in on_the_way {
                let seen = look_and_crash_again(&image, &mut rng);
                assert!(seen == *before || seen == *after, "{seen:?}");
            }
            for image in images_of(&disk, &mut rng) {
                assert_eq!(&look_and_crash_again(&image, &mut rng), after, "acknowledged and lost");
            }
            assert_eq!(&look(&*disk.root()), after);
        });
    }
}

/// A failing call fails the change, changes nothing in memory, and leaves a disk that opens; the next try succeeds.
fn check_faults(change: Change, before: &Seen, after: &Seen) {
    for fault in [Fault::Eio, Fault::Enospc] {
        for at in 1.. {
            let done = direct(|| {
                let disk = SimDisk::new(at);
                let root = disk.root();
                let (mut settings, ring) = Settings::create(&*root, Uuid::nil(), &kek(1), source(1), true).unwrap();
                let calls = disk.calls();
                disk.set_faults(Faults { once: Some((calls + at, fault)), ..Faults::default() });
                let outcome = change(&*root, &mut settings, &ring);
                let fired = !disk.fired().is_empty();
                disk.set_faults(Faults::default());
                let mut rng = SimRng::new(at);
                for image in images_of(&disk, &mut rng) {
                    let seen = look_and_crash_again(&image, &mut rng);
                    assert!(if outcome.is_ok() { seen == *after } else { seen == *before || seen == *after });
                }
                if outcome.is_err() {
                    // A directory that failed to sync goes on failing for who had it open: as after a restart.
                    change(&*disk.root(), &mut settings, &ring).expect("the second try succeeds");
                    assert_eq!(&look(&*root), after);
                }
                !fired
            });
            if done {
                break;
            }
        }
    }
}

const FRESH: Seen = Seen { by_old: Ok(1), by_new: Err(ErrorKind::WrongKey), encryption: true };

fn check_all(change: Change, after: Seen) {
    check(change, &FRESH, &after);
    check_faults(change, &FRESH, &after);
}

#[test]
fn the_switch() {
    check_all(
        |dir, settings, ring| {
            settings.set_encryption(false);
            settings.store(dir, ring)
        },
        Seen { encryption: false, ..FRESH },
    );
}

#[test]
fn rotating_the_kek() {
    check_all(
        |dir, settings, ring| rotate_kek(dir, settings, ring),
        Seen { by_old: Err(ErrorKind::WrongKey), by_new: Ok(1), encryption: true },
    );
}

#[test]
fn adding_an_account_key() {
    check_all(
        |dir, settings, ring| add_account_key(dir, settings, ring),
        Seen { by_old: Err(ErrorKind::WrongKey), by_new: Ok(2), encryption: true },
    );
}

#[test]
fn revoking() {
    check_all(
        |dir, settings, ring| settings.set_revoked(dir, ring, true),
        Seen { by_old: Err(ErrorKind::Revoked), by_new: Err(ErrorKind::Revoked), encryption: true },
    );
}

/// Not there, or whole.
#[test]
fn making_an_account() {
    for seed in 0..SEEDS {
        direct(|| {
            let disk = SimDisk::new(seed);
            let images = Arc::new(Mutex::new(Vec::new()));
            let (rng, collect) = (Mutex::new(SimRng::new(seed)), Arc::clone(&images));
            disk.set_observer(Some(Arc::new(move |disk: &SimDisk| {
                collect.lock().unwrap().extend(images_of(disk, &mut rng.lock().unwrap()));
            })));
            Settings::create(&*disk.root(), Uuid::nil(), &kek(1), source(1), true).unwrap();
            disk.set_observer(None);
            for image in images.lock().unwrap().drain(..) {
                match image.root().open(FILE, Open::Read) {
                    Err(error) => assert_eq!(error.kind(), IoErrorKind::NotFound),
                    Ok(_) => assert_eq!(look(&*image.root()), FRESH),
                }
            }
            for image in images_of(&disk, &mut SimRng::new(seed)) {
                assert_eq!(look(&*image.root()), FRESH);
            }
        });
    }
}

/// After it was acknowledged no image has the wrapped key anywhere; before, each either opens or can be erased again.
#[test]
fn erasing() {
    for seed in 0..SEEDS {
        direct(|| {
            let disk = SimDisk::new(seed);
            let root = disk.root();
            let (mut settings, ring) = Settings::create(&*root, Uuid::nil(), &kek(1), source(1), true).unwrap();
            let wrapped = hex::encode(ring.current().wrap(&settings.derive(&kek(1), None).unwrap()).unwrap());
            let holds_key = |disk: &SimDisk| {
                let files = disk.raw_files();
                let mut sectors = files.iter().flat_map(|file| &file.sectors);
                sectors.any(|(_, sector)| String::from_utf8_lossy(&sector[..]).contains(&wrapped[..40]))
            };
            assert!(holds_key(&disk), "the search finds what is there");

            let images = Arc::new(Mutex::new(Vec::new()));
            let (rng, collect) = (Mutex::new(SimRng::new(seed)), Arc::clone(&images));
            disk.set_observer(Some(Arc::new(move |disk: &SimDisk| {
                collect.lock().unwrap().extend(images_of(disk, &mut rng.lock().unwrap()));
            })));
            settings.erase_account_keys(&*root).unwrap();
            disk.set_observer(None);
            assert!(!holds_key(&disk));
            for image in images_of(&disk, &mut SimRng::new(seed)) {
                assert!(!holds_key(&image));
                assert!(Settings::load(&*image.root()).unwrap().erased());
            }
            for image in images.lock().unwrap().drain(..) {
                let mut settings = Settings::load(&*image.root()).expect("half-erased is still an account");
                settings.erase_account_keys(&*image.root()).expect("finishes");
                assert!(!holds_key(&image));
            }
        });
    }
}

/// A disk with pages under a data key, in plaintext, and under another data key, moved to another account key. Whatever
/// is left opens with both account keys and has all that was flushed; after the move was acknowledged, and with more
/// written, the new one alone does.
#[test]
fn moving_a_disk_to_another_account_key() {
    for seed in 0..SEEDS / 2 {
        direct(|| {
            let uuid = Uuid::from_u128(1);
            let [old, new] = [(); 2].map(|()| AccountKey::generate(Uuid::nil()).unwrap());
            let keys = |current: &AccountKey, retiring: Option<&AccountKey>| {
                KeyRing::new(current.clone(), retiring.cloned()).disk_keys(uuid).unwrap()
            };
            let both = keys(&new, Some(&old));
            let disk = SimDisk::new(seed);
            let open = |disk: &SimDisk, keys: &DiskKeys| {
                Disk::open(disk.root(), Some(keys.clone()), None, Access::ReadWrite, true, tiny())
            };
            let spec = Spec::new(uuid, "vhds/d", 64 * 512);
            Disk::create(disk.root(), &spec, keys(&old, None), true, &tiny()).unwrap();
            let live = open(&disk, &keys(&old, None)).unwrap();
            for (page, encryption) in [(0, true), (1, false), (2, true)] {
                live.admin().set_encryption(encryption);
                live.write(page * 512, &[page as u8 + 1; 512], Durability::Volatile).unwrap();
            }
            live.flush().unwrap();

            let images = Arc::new(Mutex::new(Vec::new()));
            let (rng, collect) = (Mutex::new(SimRng::new(seed)), Arc::clone(&images));
            disk.set_observer(Some(Arc::new(move |disk: &SimDisk| {
                collect.lock().unwrap().extend(images_of(disk, &mut rng.lock().unwrap()));
            })));
            live.admin().rekey(both.clone()).unwrap();
            disk.set_observer(None);
            let old_layers = live.admin().layers().len();
            live.write(3 * 512, &[4; 512], Durability::Fua).unwrap();
            assert_eq!(live.admin().layers().len(), old_layers + 1, "what is written now is under a fresh data key");

            let holds = |disk: &Disk, pages: u64| {
                let mut page = [0; 512];
                (0..pages).all(|n| disk.read(n * 512, &mut page).is_ok() && page == [n as u8 + 1; 512])
            };
            for image in images.lock().unwrap().drain(..) {
                let opened = open(&image, &both).expect("opens with both keys");
                assert!(holds(&opened, 3));
                opened.admin().rekey(both.clone()).expect("is finished");
                drop(opened);
                assert!(holds(&open(&image, &keys(&new, None)).expect("opens with the new key"), 3));
            }
            for image in images_of(&disk, &mut SimRng::new(seed)) {
                assert!(holds(&open(&image, &keys(&new, None)).expect("opens with the new key"), 4));
                let error = open(&image, &keys(&old, None)).expect_err("the old key opens nothing");
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        });
    }
}

fn tiny() -> Options {
    Options { stripes: 4, stripe_pages: 8, log_bytes: 64 << 10, pending_extents: 64, ..Options::default() }
}
