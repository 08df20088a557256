//! The account under test: made and opened on a simulated disk as the program does on a real one.

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use sealdisk::account::lock::{self, AccountLock, Hold, Holder};
use sealdisk::account::registry::{DISKS, Keys, Registry, Setup};
use sealdisk::account::settings::Settings;
use sealdisk::crypto::kek::{Kek, SourceRecord};
use sealdisk::crypto::secret::SecretKey;
use sealdisk::disk::Options;
use sealdisk::io::sim::{SimDisk, SimRng, Tear, direct, seeded};
use sealdisk::io::{Dir, Open};
use sealdisk::{Error, ErrorKind, Result};
use uuid::Uuid;

thread_local! {
    static FEW_DISKS: Cell<usize> = const { Cell::new(0) };
}

/// Runs `work` on disks of its own, with all chance fixed by `seed`. In even seeds the folders of disks are synced all
/// at once, in odd ones each for itself.
pub(crate) fn alone<T>(seed: u64, work: impl FnOnce() -> T) -> T {
    FEW_DISKS.set(if seed.is_multiple_of(2) { 0 } else { usize::MAX });
    direct(|| seeded(seed, work))
}

/// KEK 1 and KEK 2.
pub(crate) fn kek(number: u8) -> Kek {
    let key = SecretKey::fill_with(|bytes| {
        bytes.fill(number);
        Ok(())
    });
    Kek::new(key.unwrap())
}

pub(crate) fn source(number: u8) -> SourceRecord {
    SourceRecord::Credential { name: format!("kek{number}") }
}

/// An empty account under KEK 1.
pub(crate) fn make(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let root = disk.root();
    root.create_dir(DISKS).unwrap();
    Settings::create(&*root, Uuid::nil(), &kek(1), source(1), true).unwrap();
    root.sync().unwrap();
    disk
}

/// The lock of an account, with its note. That nobody else has it is the kernel's business, and not simulated.
fn lock(root: &dyn Dir) -> Result<AccountLock> {
    let path = root.path().join(lock::FILE);
    let failed = |error| Error::io("cannot open the lock of the account", error).at_path(&path);
    let file = match root.open(lock::FILE, Open::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => root.open(lock::FILE, Open::New),
        opened => opened,
    };
    let holder = Holder { pid: 1, control: None, host: Some("sim".into()), pid_namespace: None };
    AccountLock::over(file.map_err(failed)?, path.clone(), Hold::Exclusive, &holder)
}

/// Opens the account as a verb does.
pub(crate) fn open(disk: &SimDisk) -> Result<Registry> {
    let root = disk.root();
    let lock = lock(&*root)?;
    Settings::make_durable(&*root)?;
    let settings = Settings::load(&*root)?;
    let keys = match [1, 2].iter().find_map(|number| settings.unlock(&kek(*number)).ok()) {
        Some(ring) => Keys::Unlocked(ring),
        None => Keys::Locked(settings.unlock(&kek(1)).err().unwrap_or_else(no_key).into()),
    };
    let options = Options {
        stripes: 2,
        stripe_pages: 2,
        log_bytes: 36 << 10,
        pending_extents: 12,
        recent_bytes: 32 << 10,
        boot: Some(disk.boot()),
        ..Options::default()
    };
    let setup = Setup { options, few_disks: FEW_DISKS.get(), background: false };
    Registry::over(root, lock, settings, keys, setup)
}

fn no_key() -> Error {
    Error::new(ErrorKind::WrongKey, "no key fits")
}

/// Which of the two KEKs opens the account.
pub(crate) fn fitting_kek(disk: &SimDisk) -> Option<u8> {
    let settings = Settings::load(&*disk.root()).ok()?;
    [1, 2].into_iter().find(|number| settings.unlock_revoked(&kek(*number)).is_ok())
}

/// A copy of the disk, with nobody using it.
pub(crate) fn copy(disk: &SimDisk, rng: &mut SimRng) -> SimDisk {
    disk.kill(rng)
}

/// One end that the disk may come to now.
pub(crate) fn any_end(disk: &SimDisk, rng: &mut SimRng) -> SimDisk {
    if rng.one_in(3) { disk.kill(rng) } else { power_cut(disk, rng) }
}

pub(crate) fn power_cut(disk: &SimDisk, rng: &mut SimRng) -> SimDisk {
    let tear = if rng.coin() { Tear::Sector } else { Tear::Block };
    disk.power_cut(rng, tear)
}

/// Calls `look` before every call that `work` makes.
pub(crate) fn observed<T>(
    disk: &SimDisk,
    look: impl Fn(&SimDisk) + Send + Sync + 'static,
    work: impl FnOnce() -> T,
) -> T {
    disk.set_observer(Some(Arc::new(look)));
    let done = work();
    disk.set_observer(None);
    done
}
