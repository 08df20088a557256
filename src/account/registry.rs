//! The registry of an open account: its disks by name, opened when first asked for.
//!
//! - Whoever has a registry holds the account's lock: exclusively, and may change everything; or shared, and then disks
//!   are opened read-only and nothing in the account directory changes.
//! - The encryption setting is a gate: opening a disk holds it shared from reading the setting until the disk is among
//!   the open ones, and changing the setting holds it exclusively. So no disk is missed by a change, and the order is
//!   always: account.toml durable, every open disk told, then the answer.
//! - A disk that nobody uses stays open for the next who asks, but no more than so many do: those longest unused are
//!   closed. So an account of thousands of disks takes the memory and descriptors of those in use.
//! - Locks are taken in this order: `changing`, the gate, a disk's own state (a clone's before that of what it is a clone
//!   of), the table of disks, the keys.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, MutexGuard, RwLock};
use uuid::Uuid;

use super::copies::{self, Copier};
use super::failure::Failure;
use super::folder::{Folder, Index};
use super::lock::{AccountLock, Hold, Holder};
use super::maintenance::{Maintenance, Wake};
use super::name::BlobName;
use super::report::ServerLimits;
use super::settings::Settings;
use super::snapshot_image::SnapshotImage;
use super::snapshots::Attached;
use crate::base::BaseImage;
use crate::crypto::keyring::{DiskKeys, KeyRing};
use crate::disk::{Access, Disk, DiskSettings, Options, Parent, Vitals};
use crate::io::real::RealDir;
use crate::io::{Dir, mutant};
use crate::nbd::Door;
use crate::{Error, ErrorKind, Result};

/// Name of the folder of disks in an account directory.
pub const DISKS: &str = "disks";
/// Disks that stay open in a verb's own process though nobody uses them.
const IDLE_FOR_VERBS: usize = 16;
/// The same in a server, where its descriptors allow it.
pub const IDLE_DISKS: usize = 64;

/// The account's keys, or why they are not at hand.
#[derive(Debug)]
pub enum Keys {
    Unlocked(KeyRing),
    Locked(Failure),
}

/// What a registry takes from its surroundings. The default is the product's; the simulator has its own.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Of every disk.
    pub options: Options,
    /// Names a new disk.
    pub new_uuid: fn() -> Uuid,
    /// After a kill the folders of no more disks than these are synced one by one, and those of more in one sync of the
    /// file system, which waits for what others wrote there, too.
    pub few_disks: usize,
    /// A thread does the background work of the disks.
    pub background: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { options: Options::default(), new_uuid: Uuid::new_v4, few_disks: 32, background: true }
    }
}

/// An open account.
pub struct Registry {
    pub(super) shared: Arc<Shared>,
    maintenance: Mutex<Option<Maintenance>>,
    /// To the server of this account, if it is served.
    pub(super) door: OnceLock<Door>,
}

pub(super) struct Shared {
    lock: AccountLock,
    pub(super) account: Arc<dyn Dir>,
    pub(super) folder: Folder,
    pub(super) setup: Setup,
    pub(super) keys: RwLock<Keys>,
    pub(super) settings: RwLock<Settings>,
    /// Serialises what adds, removes and renames disks, and what changes keys. See [`Shared::change_disks`].
    pub(super) changing: Mutex<()>,
    pub(super) disks: RwLock<BTreeMap<BlobName, Arc<Entry>>>,
    /// Deleted disks that clones still read from: without a name, and kept until the last clone is gone.
    pub(super) hidden: RwLock<Vec<Arc<Entry>>>,
    damaged: Vec<(String, Failure)>,
    /// One of them may be a clone of any disk.
    pub(super) has_unknown: bool,
    /// Counts up with every use of a disk.
    uses: AtomicU64,
    idle_disks: AtomicUsize,
    pub(super) server: OnceLock<ServerLimits>,
}

/// A disk of the account.
pub(super) struct Entry {
    pub(super) uuid: Uuid,
    pub(super) name: BlobName,
    /// What it is a clone of, as it was when the account was opened; once it is open its settings say so.
    pub(super) parent: Option<Parent>,
    /// A copy into it has not ended: it is not served.
    pub(super) unfinished: AtomicBool,
    pub(super) state: Mutex<State>,
    pub(super) attached: Mutex<Vec<Attached>>,
    /// When it was last asked for, in [`Shared::uses`].
    pub(super) used: AtomicU64,
    /// The files of its base, where a verb handed over what this process cannot open itself.
    pub(super) handed: Mutex<Vec<OwnedFd>>,
    pub(super) copier: Mutex<Copier>,
}

impl Entry {
    pub(super) fn new(uuid: Uuid, name: BlobName, state: State) -> Self {
        Self {
            uuid,
            name,
            parent: None,
            unfinished: AtomicBool::new(false),
            state: Mutex::new(state),
            attached: Mutex::default(),
            used: AtomicU64::new(0),
            handed: Mutex::default(),
            copier: Mutex::default(),
        }
    }

    /// Closes the disk if it is open and nobody uses it.
    fn close_idle(&self) {
        let Some(mut state) = self.state.try_lock() else { return };
        let State::Open(disk) = &*state else { return };
        if !state.is_idle() {
            return;
        }
        if let Err(error) = disk.close() {
            if disk.try_vitals().is_none_or(|vitals| vitals.poisoned) {
                // It stays, so that nobody is told that what was lost is stored.
                tracing::error!(disk = %self.name, %error, "an idle disk cannot be closed");
                return;
            }
            // What was written is stored; the next to open it goes through the log.
            tracing::warn!(disk = %self.name, %error, "an idle disk was closed without a clean mark");
        }
        *state = State::Closed;
    }
}

pub(super) enum State {
    Closed,
    Open(Arc<Disk>),
    /// Deleted: whoever still holds the entry must not open it again.
    Gone,
}

impl State {
    /// Whether it is open, with nobody using it and nothing left to do: no client, no snapshot or clone that is read, no
    /// re-encryption, nothing to scrub. A disk on which storing failed is not: what it knows must not be forgotten.
    fn is_idle(&self) -> bool {
        let Self::Open(disk) = self else { return false };
        let unused = Arc::strong_count(disk) == 1 && Arc::weak_count(disk) == 0 && disk.is_alone();
        let settled = |vitals: Vitals| {
            !vitals.poisoned && !vitals.revoked && (disk.read_only() || vitals.usage.pending_scrub == Some(0))
        };
        unused && disk.try_vitals().is_some_and(settled)
    }
}

impl Registry {
    /// Opens the account in the directory `path`, whose lock is `lock`.
    pub fn open(path: &Path, lock: AccountLock, settings: Settings, keys: Keys) -> Result<Self> {
        let account = RealDir::open(path).map_err(|e| Error::io("cannot open the account", e).at_path(path))?;
        Self::over(Arc::new(account), lock, settings, keys, Setup::default())
    }

    /// The same over any directory.
    pub fn over(
        account: Arc<dyn Dir>,
        lock: AccountLock,
        settings: Settings,
        keys: Keys,
        setup: Setup,
    ) -> Result<Self> {
        let folder = Folder::open(&*account)?;
        let exclusive = lock.hold() == Hold::Exclusive;
        let background = exclusive && setup.background;
        let Index { disks, hidden, damaged, has_unknown } = folder.index(&lock, setup.few_disks)?;
        let shared = Arc::new(Shared {
            lock,
            account,
            folder,
            setup,
            keys: RwLock::new(keys),
            settings: RwLock::new(settings),
            changing: Mutex::new(()),
            disks: RwLock::new(disks),
            hidden: RwLock::new(hidden),
            damaged,
            has_unknown,
            uses: AtomicU64::new(0),
            idle_disks: AtomicUsize::new(IDLE_FOR_VERBS),
            server: OnceLock::new(),
        });
        let maintenance = background.then(|| {
            let of_thread = Arc::downgrade(&shared);
            Maintenance::start(Box::new(move |uuid| Weak::upgrade(&of_thread)?.find_open(uuid)))
        });
        let registry = Self { shared, maintenance: Mutex::new(maintenance.transpose()?), door: OnceLock::new() };
        if exclusive {
            registry.remove_unread();
        }
        Ok(registry)
    }

    /// Tells other programs where this account's control socket is.
    pub fn tell_control(&self, control: PathBuf) -> Result<()> {
        self.shared.lock.tell(&Holder { pid: std::process::id(), control: Some(control) })
    }

    #[must_use]
    pub fn encryption(&self) -> bool {
        self.shared.settings.read().encryption()
    }

    /// Where the key-encryption key comes from, for people.
    #[must_use]
    pub fn key_source(&self) -> String {
        self.shared.settings.read().kek_source().to_string()
    }

    /// Takes the limits that its server works within.
    pub fn set_server(&self, limits: ServerLimits) {
        self.shared.idle_disks.store(limits.idle_disks, Ordering::Relaxed);
        let _ = self.shared.server.set(limits);
    }

    /// Counts the key-encryption keys that the account has had.
    #[must_use]
    pub fn kek_version(&self) -> u32 {
        self.shared.settings.read().kek_version()
    }

    /// Whether the keys were taken back.
    #[must_use]
    pub fn revoked(&self) -> bool {
        self.shared.settings.read().revoked()
    }

    /// Why the keys are not at hand, if they are not.
    #[must_use]
    pub fn locked(&self) -> Option<Failure> {
        match &*self.shared.keys.read() {
            Keys::Unlocked(_) => None,
            Keys::Locked(failure) => Some(failure.clone()),
        }
    }

    /// How new writes to any disk are stored from now on: durable, and in force on every open disk, on return.
    pub fn set_encryption(&self, on: bool) -> Result<()> {
        let mut settings = self.shared.settings.write();
        let keys = self.shared.require_keys()?;
        for entry in self.shared.all_entries() {
            match &*entry.state.lock() {
                State::Open(disk) if settings.encryption() != on && !disk.read_only() => disk.check_room()?,
                _ => {}
            }
        }
        let mut next = settings.clone();
        next.set_encryption(on);
        if !mutant!(SwitchNotStored) {
            next.store(&*self.shared.account, &keys)?;
        }
        *settings = next;
        for entry in self.shared.all_entries() {
            if let State::Open(disk) = &*entry.state.lock() {
                disk.set_encryption(on);
            }
        }
        Ok(())
    }

    /// All disks, in the order of their names.
    #[must_use]
    pub fn names(&self) -> Vec<(BlobName, Uuid)> {
        self.shared.disks.read().values().map(|entry| (entry.name.clone(), entry.uuid)).collect()
    }

    /// Whether a copy into the disk has not ended.
    #[must_use]
    pub fn is_unfinished(&self, name: &BlobName) -> bool {
        self.shared.entry(name).is_ok_and(|entry| entry.unfinished.load(Ordering::SeqCst))
    }

    /// Folders below `disks/` that cannot be read as disks, with the reason.
    #[must_use]
    pub fn damaged(&self) -> &[(String, Failure)] {
        &self.shared.damaged
    }

    /// The disk `name`, opened if it is not yet.
    pub fn disk(&self, name: &BlobName) -> Result<Arc<Disk>> {
        let entry = self.shared.entry(name)?;
        if entry.unfinished.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::InUse, format!("the copy into the disk \"{name}\" has not ended"))
                .hint("the same import or copy again goes on where it was; `sealdisk delete` drops it"));
        }
        self.shared.open_disk(&entry, self.wake(), None)
    }

    /// The disk `name`, opened over a base that is already open if it is not yet.
    pub(super) fn open_over(&self, name: &BlobName, base: Option<Arc<dyn BaseImage>>) -> Result<Arc<Disk>> {
        let entry = self.shared.entry(name)?;
        self.shared.open_disk(&entry, self.wake(), base)
    }

    /// Asks the maintenance thread to look at a disk.
    pub fn nudge(&self, uuid: Uuid) {
        if let Some(wake) = self.wake() {
            wake.for_disk(uuid)();
        }
    }

    pub(super) fn wake(&self) -> Option<Wake> {
        self.maintenance.lock().as_ref().map(Maintenance::wake)
    }

    /// Ends background work and closes every disk with a clean mark. All disks are tried; the first error is returned.
    pub fn close(&self) -> Result<()> {
        if let Some(mut maintenance) = self.maintenance.lock().take() {
            maintenance.stop();
        }
        let mut outcome = Ok(());
        for entry in self.shared.all_entries() {
            let mut state = entry.state.lock();
            let State::Open(disk) = &*state else { continue };
            if !disk.read_only()
                && let Err(error) = disk.close()
            {
                if error.kind() == ErrorKind::Revoked {
                    tracing::warn!(disk = %entry.name, "closed without a clean mark: the keys are revoked");
                } else {
                    tracing::error!(disk = %entry.name, %error, "cannot close the disk");
                    outcome = outcome.and(Err(error));
                }
            }
            *state = State::Closed;
        }
        if outcome.is_ok() && !self.shared.folder.is_in_doubt() {
            self.shared.lock.end_in_order();
        }
        outcome
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("path", &self.shared.account.path()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn require_keys(&self) -> Result<KeyRing> {
        match &*self.keys.read() {
            Keys::Unlocked(keys) => Ok(keys.clone()),
            Keys::Locked(failure) => {
                let revoked = failure.kind == ErrorKind::Revoked.name();
                let kind = if revoked { ErrorKind::Revoked } else { ErrorKind::WrongKey };
                Err(Error::new(kind, failure.message.clone())
                    .hint(failure.hint.clone().unwrap_or_else(|| "name the key of the account".to_owned())))
            }
        }
    }

    pub(super) fn entry(&self, name: &BlobName) -> Result<Arc<Entry>> {
        self.disks.read().get(name).cloned().ok_or_else(|| no_disk(name))
    }

    /// To be held by whoever adds, removes or renames disks. [`ErrorKind::Poisoned`] after such a change failed half-way.
    pub(super) fn change_disks(&self) -> Result<MutexGuard<'_, ()>> {
        let changing = self.changing.lock();
        self.folder.check()?;
        Ok(changing)
    }

    /// The hidden ones too.
    pub(super) fn all_entries(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self.disks.read().values().cloned().collect();
        entries.extend(self.hidden.read().iter().cloned());
        entries
    }

    fn find_open(&self, uuid: Uuid) -> Option<Arc<Disk>> {
        let entry = self.all_entries().into_iter().find(|entry| entry.uuid == uuid)?;
        match &*entry.state.lock() {
            State::Open(disk) => Some(Arc::clone(disk)),
            _ => None,
        }
    }

    /// The folder of a disk.
    pub(super) fn dir_of(&self, entry: &Entry) -> Result<Arc<dyn Dir>> {
        let folder = entry.uuid.to_string();
        let path = self.account.path().join(DISKS).join(&folder);
        self.folder.subdir(&folder).map_err(|e| Error::io("cannot open the disk", e).at_path(path))
    }

    pub(super) fn disk_settings(&self, entry: &Entry) -> Result<(Arc<dyn Dir>, DiskSettings, Option<DiskKeys>)> {
        let dir = self.dir_of(entry)?;
        let keys = match &*self.keys.read() {
            Keys::Unlocked(keys) => Some(keys.disk_keys(entry.uuid)?),
            Keys::Locked(_) => None,
        };
        let settings = DiskSettings::load(&*dir, keys.as_ref())?;
        if settings.uuid != entry.uuid {
            return Err(Error::new(ErrorKind::Corrupt, format!("belongs to disk {}", settings.uuid))
                .at_path(dir.path().join("disk.toml")));
        }
        Ok((dir, settings, keys))
    }

    pub(super) fn open_disk(
        &self,
        entry: &Entry,
        wake: Option<Wake>,
        base: Option<Arc<dyn BaseImage>>,
    ) -> Result<Arc<Disk>> {
        entry.used.store(self.uses.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let was_open = matches!(&*entry.state.lock(), State::Open(_));
        let disk = self.open_under(&self.settings.read(), entry, wake, base)?;
        if !was_open {
            self.close_idle();
        }
        Ok(disk)
    }

    /// Closes those longest unused of the disks that nobody uses, where there are too many.
    fn close_idle(&self) {
        let idle = |entry: &Arc<Entry>| entry.state.try_lock().is_some_and(|state| state.is_idle());
        let mut idle: Vec<_> = self.all_entries().into_iter().filter(idle).collect();
        idle.sort_by_key(|entry| entry.used.load(Ordering::Relaxed));
        let excess = idle.len().saturating_sub(self.idle_disks.load(Ordering::Relaxed));
        idle[..excess].iter().for_each(|entry| entry.close_idle());
    }

    /// Opens a disk, and first the one that it is a clone of, under the account's setting `account`.
    fn open_under(
        &self,
        account: &Settings,
        entry: &Entry,
        wake: Option<Wake>,
        base: Option<Arc<dyn BaseImage>>,
    ) -> Result<Arc<Disk>> {
        let mut state = entry.state.lock();
        match &*state {
            State::Open(disk) => return Ok(Arc::clone(disk)),
            State::Gone => return Err(no_disk(&entry.name)),
            State::Closed => {}
        }
        if account.revoked() && self.lock.hold() == Hold::Exclusive {
            // Opened without keys it would stay so when they come back.
            return Err(self.require_keys().err().unwrap_or_else(|| no_disk(&entry.name)));
        }
        let (dir, settings, keys) = self.disk_settings(entry)?;
        let base = match (&settings.base, &settings.parent, base) {
            (Some(_), _, Some(open)) => Some(open),
            (Some(record), _, None) => Some(entry.reopen_base(record)?),
            // A disk is younger than what it is a clone of: going down ends, and takes the locks in one order.
            (None, Some(parent), _) => Some(self.open_parent(account, parent, wake.clone())?),
            (None, None, _) => None,
        };
        let access = match self.lock.hold() {
            Hold::Exclusive if keys.is_some() => Access::ReadWrite,
            _ => Access::ReadOnly,
        };
        let mut options = self.setup.options.clone();
        if let Some(wake) = wake {
            options.wake = wake.for_disk(entry.uuid);
        }
        let wake = Arc::clone(&options.wake);
        let disk = Arc::new(Disk::open(dir, keys, base, access, account.encryption(), options)?);
        if access == Access::ReadWrite {
            self.drop_orphans(&disk);
            copies::clear_readings(&disk);
        }
        *state = State::Open(Arc::clone(&disk));
        drop(state);
        if access == Access::ReadWrite {
            // Whatever an earlier run left to do: it could not ask for it itself.
            wake();
        }
        Ok(disk)
    }
}

impl Shared {
    fn open_parent(&self, account: &Settings, parent: &Parent, wake: Option<Wake>) -> Result<Arc<dyn BaseImage>> {
        let entry = self.all_entries().into_iter().find(|entry| entry.uuid == parent.disk).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the disk {} that it is a clone of is not there", parent.disk))
        })?;
        let disk = self.open_under(account, &entry, wake, None)?;
        Ok(Arc::new(SnapshotImage::new(disk.at_line(parent.line)?)))
    }
}

pub(super) fn no_disk(name: &BlobName) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no disk \"{name}\"")).hint("`sealdisk list` shows the disks")
}
