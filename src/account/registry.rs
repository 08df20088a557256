//! The registry of an open account: its disks by name, opened when first asked for.
//!
//! - Whoever has a registry holds the account's lock: exclusively, and may change everything; or shared, and then disks
//!   are opened read-only and nothing in the account directory changes.
//! - The encryption setting is a gate: opening a disk holds it shared from reading the setting until the disk is among
//!   the open ones, and changing the setting holds it exclusively. So no disk is missed by a change, and the order is
//!   always: account.toml durable, every open disk told, then the answer.
//! - A disk that nobody uses stays open for the next who asks, but no more than so many do: those longest unused are
//!   closed. So an account of thousands of disks takes the memory and descriptors of those in use.
//! - Locks are taken in this order: `changing`, the gate, a disk's own state (a clone's before that of what it is a
//!   clone of), the table of disks, the keys.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, MutexGuard, RwLock};
use uuid::Uuid;

use super::admission::Admission;
use super::attachment::Use;
use super::audit_log::AuditLog;
use super::challenge::Challenges;
use super::disk_ref::DiskRef;
use super::entry::{Entry, EntryState};
use super::failure::Failure;
use super::folder::{Folder, Index};
use super::health::FaultReport;
use super::inspection::Inspection;
use super::lock::{AccountLock, Hold, Holder};
use super::maintenance::{Maintenance, Wake};
use super::name::BlobName;
use super::report::ServerLimits;
use super::settings::Settings;
use super::under_way::UnderWay;
use crate::crypto::kek::{DerivedKeys, Kek};
use crate::crypto::keyring::{AuditKey, KeyRing};
use crate::disk::Options;
use crate::io::real::RealDir;
use crate::io::{Dir, unless_mutant};
use crate::serve::Attach;
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
    /// After a kill the folders of no more disks than these are synced one by one, and those of more in one sync of the
    /// file system, which waits for what others wrote there, too.
    pub few_disks: usize,
    /// A thread does the background work of the disks.
    pub background: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { options: Options::default(), few_disks: 32, background: true }
    }
}

/// An open account.
pub struct Registry {
    pub(super) shared: Arc<Shared>,
    maintenance: Mutex<Option<Maintenance>>,
    inspection: Mutex<Option<Inspection>>,
    /// To the server of this account, if it is served, or else to its disks from this process alone.
    pub(super) local_attach: OnceLock<Arc<dyn Attach>>,
    /// Whom that server lets in.
    pub(super) admission: OnceLock<Arc<Admission>>,
}

pub(super) struct Shared {
    pub(super) lock: AccountLock,
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
    pub(super) uses: AtomicU64,
    pub(super) idle_disks: AtomicUsize,
    pub(super) challenges: Challenges,
    pub(super) server: OnceLock<ServerLimits>,
    pub(super) audit_log: OnceLock<AuditLog>,
    pub(super) under_way: Arc<UnderWay>,
    /// Of the thread that does the background work, where there is one.
    pub(super) wake: OnceLock<Wake>,
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
            challenges: Challenges::default(),
            server: OnceLock::new(),
            audit_log: OnceLock::new(),
            under_way: Arc::default(),
            wake: OnceLock::new(),
        });
        let maintenance = background.then(|| {
            let of_thread = Arc::downgrade(&shared);
            let under_way = Arc::clone(&shared.under_way);
            let find = move |uuid| Weak::upgrade(&of_thread)?.attach_open(uuid, &Use::Maintenance);
            Maintenance::start(Box::new(find), Box::new(move |disk, rested| under_way.scrub_rests(disk, rested)))
        });
        let maintenance = maintenance.transpose()?;
        if let Some(maintenance) = &maintenance {
            let _ = shared.wake.set(maintenance.wake());
        }
        let registry = Self {
            shared,
            maintenance: Mutex::new(maintenance),
            inspection: Mutex::default(),
            local_attach: OnceLock::new(),
            admission: OnceLock::new(),
        };
        if exclusive {
            registry.settle_hidden();
        }
        Ok(registry)
    }

    /// Acts leave a line in `log` from now on.
    pub fn set_audit_log(&self, log: AuditLog) {
        let _ = self.shared.audit_log.set(log);
    }

    pub(super) fn audit_log(&self) -> Option<&AuditLog> {
        self.shared.audit_log.get()
    }

    /// Lines that wait for the audit log, where there is one.
    #[must_use]
    pub fn audit_lines_kept(&self) -> usize {
        self.shared.audit_log.get().map_or(0, AuditLog::kept)
    }

    /// The keys of audit logs, the current one first.
    pub(super) fn audit_keys(&self) -> Result<Vec<AuditKey>> {
        self.shared.require_keys()?.audit_keys()
    }

    /// Whether this registry is a server's.
    pub(super) fn is_served(&self) -> bool {
        self.shared.server.get().is_some()
    }

    /// Whether nothing in the account can be changed through this registry.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.lock.hold() == Hold::Shared
    }

    /// Tells other programs where this account's control socket is. One who holds the account shared cannot: verbs read
    /// it by themselves.
    pub fn tell_control(&self, control: PathBuf) -> Result<()> {
        if self.is_shared() {
            return Ok(());
        }
        self.shared.lock.tell(&Holder::this(Some(control)))
    }

    /// Id of the account.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.shared.settings.read().account()
    }

    /// [`Settings::derive`], of the settings in force.
    pub fn derive(&self, kek: &Kek, new: Option<Uuid>) -> Result<DerivedKeys> {
        self.shared.settings.read().derive(kek, new)
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

    /// Takes what decides whom its server lets in.
    pub fn set_admission(&self, admission: Arc<Admission>) {
        let _ = self.admission.set(admission);
    }

    #[must_use]
    pub fn admission(&self) -> Option<&Arc<Admission>> {
        self.admission.get()
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

    /// [`Settings::reencryption_pending`].
    #[must_use]
    pub fn reencryption_pending(&self) -> bool {
        self.shared.settings.read().reencryption_pending()
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
                EntryState::Open(disk) if settings.encryption() != on && !disk.read_only() => {
                    disk.admin().check_room()?
                }
                _ => {}
            }
        }
        let mut next = settings.clone();
        next.set_encryption(on);
        unless_mutant!(SwitchNotStored => next.store(&*self.shared.account, &keys)?);
        *settings = next;
        for entry in self.shared.all_entries() {
            if let EntryState::Open(disk) = &*entry.state.lock() {
                disk.admin().set_encryption(on);
            }
        }
        Ok(())
    }

    /// All disks, in the order of their names.
    #[must_use]
    pub fn names(&self) -> Vec<(BlobName, Uuid)> {
        self.shared.disks.read().values().map(|entry| (entry.name.clone(), entry.uuid)).collect()
    }

    /// Whether there is a disk of this name. Nothing of it is opened.
    #[must_use]
    pub fn has(&self, name: &BlobName) -> bool {
        self.shared.disks.read().contains_key(name)
    }

    /// Whether a copy into the disk has not ended.
    #[must_use]
    pub fn is_unfinished(&self, name: &BlobName) -> bool {
        self.shared.entry(name).is_ok_and(|entry| entry.unfinished.load(Ordering::SeqCst))
    }

    /// Of the disks after `after`, or of all, the first `most` that `shown` lets through and into which no copy is
    /// under way. Takes the time and memory of those alone, where most are let through.
    pub fn names_after(
        &self,
        after: Option<&BlobName>,
        most: usize,
        shown: impl Fn(&BlobName) -> bool,
    ) -> Vec<BlobName> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let disks = self.shared.disks.read();
        let entries = disks.range::<BlobName, _>((from, Bound::Unbounded)).map(|(_, entry)| entry);
        let shown = entries.filter(|entry| shown(&entry.name) && !entry.unfinished.load(Ordering::SeqCst));
        shown.take(most).map(|entry| entry.name.clone()).collect()
    }

    /// Folders below `disks/` that cannot be read as disks, with the reason.
    #[must_use]
    pub fn damaged(&self) -> &[(String, Failure)] {
        &self.shared.damaged
    }

    /// From now on disks and their bases are looked after in the background.
    pub fn inspect(&self) -> Result<()> {
        *self.inspection.lock() = Some(Inspection::start(&self.shared)?);
        Ok(())
    }

    /// Why the disk cannot be opened, as far as its settings and the files of its base tell.
    #[must_use]
    pub fn look_at(&self, name: &BlobName) -> Option<Error> {
        let entry = self.shared.entry(name).ok()?;
        self.shared.require_keys().ok()?;
        let error = self.shared.base_is_there(&entry).err()?;
        entry.health.found_unable(&entry.name, &error);
        Some(error)
    }

    /// What is known to be wrong with a disk.
    #[must_use]
    pub fn faults(&self, disk: &DiskRef) -> Vec<FaultReport> {
        self.shared.find_entry(disk).map(|entry| entry.health.report()).unwrap_or_default()
    }

    /// Asks the maintenance thread to look at a disk.
    pub fn nudge(&self, uuid: Uuid) {
        if let Some(wake) = self.shared.wake.get() {
            wake.for_disk(uuid)();
        }
    }

    /// Ends background work and closes every disk with a clean mark. All disks are tried; the first error is returned.
    pub fn close(&self) -> Result<()> {
        drop(self.inspection.lock().take());
        self.shared.under_way.stop_threads();
        if let Some(mut maintenance) = self.maintenance.lock().take() {
            maintenance.stop();
        }
        if !self.is_served() {
            self.scrub_hidden();
        }
        let mut outcome = Ok(());
        for entry in self.shared.all_entries() {
            let mut state = entry.state.lock();
            let EntryState::Open(disk) = &*state else { continue };
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
            *state = EntryState::Closed;
        }
        self.shared.end_all_acts();
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

    /// Hidden or not.
    pub(super) fn find_entry(&self, disk: &DiskRef) -> Result<Arc<Entry>> {
        match disk {
            DiskRef::Name(name) => self.entry(name),
            DiskRef::Uuid(uuid) => {
                let found = self.all_entries().into_iter().find(|entry| entry.uuid == *uuid);
                found.ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, format!("there is no disk {disk}"))
                        .hint("`sealdisk list --hidden` shows the disks and their UUIDs")
                })
            }
        }
    }

    /// To be held by whoever adds, removes or renames disks. [`ErrorKind::Poisoned`] after such a change failed
    /// half-way.
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
}

pub(super) fn no_disk(name: &BlobName) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no disk \"{name}\"")).hint("`sealdisk list` shows the disks")
}
