//! A disk of an open account: closed until it is first asked for, opened over what it is a clone of, closed again where
//! too many are open that nobody uses.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use uuid::Uuid;

use super::attachment::{Attachment, Attachments, Use};
use super::copies;
use super::health::Health;
use super::lock::Hold;
use super::name::BlobName;
use super::registry::{DISKS, Keys, Shared, no_disk};
use super::settings::Settings;
use super::snapshot_image::SnapshotImage;
use crate::base::{self, BaseImage};
use crate::crypto::keyring::DiskKeys;
use crate::disk::{Access, Disk, DiskSettings, DiskStats, Parent};
use crate::io::Dir;
use crate::{Error, ErrorKind, Result};

/// A disk of the account.
pub(super) struct Entry {
    pub(super) uuid: Uuid,
    pub(super) name: BlobName,
    /// What it is a clone of, as its settings say; in step with them.
    pub(super) parent: Mutex<Option<Parent>>,
    /// A copy into it has not ended: it is not served.
    pub(super) unfinished: AtomicBool,
    pub(super) state: Mutex<EntryState>,
    /// Who holds it.
    pub(super) attachments: Arc<Attachments>,
    /// When it was last asked for, in [`Shared::uses`].
    pub(super) used: AtomicU64,
    /// The files of its base, where a verb passed over what this process cannot open itself.
    pub(super) passed_fds: Mutex<Vec<OwnedFd>>,
    pub(super) health: Health,
}

impl Entry {
    pub(super) fn new(uuid: Uuid, name: BlobName, state: EntryState) -> Self {
        Self {
            uuid,
            name,
            parent: Mutex::default(),
            unfinished: AtomicBool::new(false),
            state: Mutex::new(state),
            attachments: Arc::default(),
            used: AtomicU64::new(0),
            passed_fds: Mutex::default(),
            health: Health::default(),
        }
    }

    /// Whether it is open, with nobody using it and nothing left to do: no client, no snapshot or clone that is read,
    /// no re-encryption, nothing to scrub. A disk on which storing failed is not: what it knows must not be forgotten.
    fn is_idle(&self, state: &EntryState) -> bool {
        let EntryState::Open(disk) = state else { return false };
        let settled = |disk_stats: DiskStats| {
            !disk_stats.poisoned
                && !disk_stats.revoked
                && (disk.read_only() || disk_stats.usage.pending_scrub == Some(0))
        };
        self.attachments.is_empty() && disk.admin().try_stats().is_some_and(settled)
    }

    /// Closes the disk if it is open and nobody uses it.
    fn close_idle(&self) {
        let Some(mut state) = self.state.try_lock() else { return };
        let EntryState::Open(disk) = &*state else { return };
        if !self.is_idle(&state) {
            return;
        }
        // Nobody could open it again.
        self.health.base(&self.name, disk.admin().check_base());
        if self.health.must_stay_open() {
            return;
        }
        if let Err(error) = disk.close() {
            if disk.admin().try_stats().is_none_or(|disk_stats| disk_stats.poisoned) {
                // It stays, so that nobody is told that what was lost is stored.
                tracing::error!(disk = %self.name, %error, "an idle disk cannot be closed");
                return;
            }
            // What was written is stored; the next to open it goes through the log.
            tracing::warn!(disk = %self.name, %error, "an idle disk was closed without a clean mark");
        }
        *state = EntryState::Closed;
        self.health.closed();
    }
}

pub(super) enum EntryState {
    Closed,
    Open(Arc<Disk>),
    /// Deleted: whoever still holds the entry must not open it again.
    Gone,
}

impl Shared {
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

    pub(super) fn open_disk(&self, entry: &Entry, base: Option<Arc<dyn BaseImage>>, what: Use) -> Result<Attachment> {
        entry.used.store(self.uses.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let was_open = matches!(&*entry.state.lock(), EntryState::Open(_));
        let disk = match self.open_under(&self.settings.read(), entry, base, what) {
            Ok(disk) => disk,
            Err(error) => {
                // One that is gone is no disk any more.
                if !matches!(&*entry.state.lock(), EntryState::Gone) {
                    entry.health.cannot_open(&entry.name, &error);
                }
                return Err(error);
            }
        };
        if !was_open {
            entry.health.opens(&entry.name);
            self.close_idle();
        }
        Ok(disk)
    }

    /// Closes those longest unused of the disks that nobody uses, where there are too many.
    pub(super) fn close_idle(&self) {
        let idle = |entry: &Arc<Entry>| entry.state.try_lock().is_some_and(|state| entry.is_idle(&state));
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
        base: Option<Arc<dyn BaseImage>>,
        what: Use,
    ) -> Result<Attachment> {
        let mut state = entry.state.lock();
        match &*state {
            EntryState::Open(disk) => return Ok(Attachment::new(disk, &entry.attachments, what)),
            EntryState::Gone => return Err(no_disk(&entry.name)),
            EntryState::Closed => {}
        }
        if account.revoked() && self.lock.hold() == Hold::Exclusive {
            // Opened without keys it would stay so when they come back.
            return Err(self.require_keys().err().unwrap_or_else(|| no_disk(&entry.name)));
        }
        let (dir, settings, keys) = self.disk_settings(entry)?;
        let base = match (&settings.base, &settings.parent, base) {
            (Some(_), _, Some(open)) => Some(open),
            // Nothing proves who recorded its path: it is not opened, and the disk is shown without it.
            (Some(_), _, None) if keys.is_none() => None,
            (Some(record), _, None) => Some(entry.reopen_base(record)?),
            // A disk is younger than what it is a clone of: going down ends, and takes the locks in one order.
            (None, Some(parent), _) => Some(self.open_parent(account, entry, parent)?),
            (None, None, _) => None,
        };
        let access = match self.lock.hold() {
            Hold::Exclusive if keys.is_some() => Access::ReadWrite,
            _ => Access::ReadOnly,
        };
        let mut options = self.setup.options.clone();
        if let Some(wake) = self.wake.get() {
            options.wake = wake.for_disk(entry.uuid);
        }
        let wake = Arc::clone(&options.wake);
        let began = Instant::now();
        let disk = Arc::new(Disk::open(dir, keys, base, access, account.encryption(), options)?);
        if access == Access::ReadWrite {
            if let Some(pages) = disk.admin().recovered() {
                entry.health.recovered(&entry.name, pages, began.elapsed());
            }
            self.drop_orphans(&disk);
            copies::clear_readings(&disk);
        }
        let disk_held = Attachment::new(&disk, &entry.attachments, what);
        *state = EntryState::Open(disk);
        drop(state);
        if access == Access::ReadWrite {
            // Whatever an earlier run left to do: it could not ask for it itself.
            wake();
        }
        Ok(disk_held)
    }

    /// Whether a closed disk would open; its state is held by the caller.
    pub(super) fn would_open(&self, account: &Settings, entry: &Entry) -> Result<()> {
        let (dir, settings, keys) = self.disk_settings(entry)?;
        let base = match (&settings.base, &settings.parent) {
            (Some(record), _) => Some(entry.reopen_base(record)?),
            (None, Some(parent)) => Some(self.open_parent(account, entry, parent)?),
            (None, None) => None,
        };
        let options = self.setup.options.clone();
        Disk::open(dir, keys, base, Access::ReadOnly, account.encryption(), options).map(drop)
    }

    /// Whether the files of the base of a closed disk are there, and as long as recorded.
    pub(super) fn base_is_there(&self, entry: &Entry) -> Result<()> {
        let (_, settings, _) = self.disk_settings(entry)?;
        let Some(record) = &settings.base else { return Ok(()) };
        let passed_fds = entry.passed_fds.lock();
        if passed_fds.is_empty() { base::look_at_files(record) } else { Ok(()) }
    }

    fn open_parent(&self, account: &Settings, clone: &Entry, parent: &Parent) -> Result<Arc<dyn BaseImage>> {
        let entry = self.all_entries().into_iter().find(|entry| entry.uuid == parent.disk).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the disk {} that it is a clone of is not there", parent.disk))
        })?;
        let disk = self.open_under(account, &entry, None, Use::Clone(clone.name.to_string()))?;
        Ok(Arc::new(SnapshotImage::new(disk.seeing(disk.at_snapshot_id(parent.snapshot)?))))
    }
}
