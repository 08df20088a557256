//! The keys of an open account change: rotated, revoked and restored, erased; while its disks are served.
//!
//! The durable half is in [`super::keys`]; here the open disks follow it. The order is always: account.toml durable,
//! then the disks, then the answer. Whoever changes keys holds `changing`, so that no disk comes or goes meanwhile.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::attachment::{Attachment, Use};
use super::disk_ref::DiskRef;
use super::entry::{Entry, EntryState};
use super::failure::Failure;
use super::name::BlobName;
use super::registry::{Keys, Registry};
use super::report::InheritedReport;
use crate::crypto::kek::{DerivedKeys, SourceRecord};
use crate::crypto::keyring::KeyRing;
use crate::disk::{self, Disk, Kind};
use crate::io::{Dir, sync};
use crate::{Error, ErrorKind, Result};

/// How long what was written may take to become durable when the keys are revoked.
const LAST_FLUSH: Duration = Duration::from_millis(500);
/// How long letting go of keys may take after that: only a write that the device does not finish holds them.
const LETTING_GO: Duration = Duration::from_millis(300);

/// What `key rotate-kek` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KekRotated {
    pub kek_version: u32,
    pub key_source: String,
    /// Whether the key is another one; `false`: the same, from another source.
    pub kek_replaced: bool,
    pub account_key: Uuid,
    /// Whether the account key is a new one.
    pub account_key_replaced: bool,
    /// Disks of which something is stored under data keys that were there before the account key was replaced.
    pub older: Vec<Older>,
    /// Disks that still need the old account key, which is kept for them, and why.
    pub left: Vec<Left>,
}

/// A disk with something under data keys that a former account key opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Older {
    pub name: String,
    /// Bytes under such keys, those included that only snapshots see.
    pub bytes: u64,
}

/// Where a re-encryption of everything stands once every disk was gone through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReencryptionEnded {
    /// What snapshots and clones keep under older data keys, or in plaintext.
    pub kept: Vec<Older>,
}

/// How much of the keys is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "replace", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Depth {
    /// The KEK alone.
    Kek,
    /// The account key too, by one with this id, and every disk goes on under a fresh data key.
    AccountKey { id: Uuid },
    /// The same, and a re-encryption of everything is to follow. One that is unfinished is gone on with if the KEK is
    /// the one in use.
    Compromised { id: Uuid },
}

/// A disk that a change of keys did not reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    pub name: String,
    pub error: Failure,
}

/// What `key revoke` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRevoked {
    /// Disks with writes that were not durable in time. They stay in the server's memory until the keys are restored.
    pub unflushed: Vec<String>,
    /// Disks of which a write under way still holds the data key; it goes with that write.
    pub held: Vec<String>,
    /// A flush that its device does not finish still holds the account key; it goes with that flush.
    pub account_key_held: bool,
}

/// What `key restore` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRestored {
    /// Whether they were revoked.
    pub were_revoked: bool,
    pub left: Vec<Left>,
}

/// What became of the disks when the account key was replaced.
#[derive(Debug, Default)]
struct Moved {
    older: Vec<Older>,
    left: Vec<Left>,
}

/// What `key erase` of a disk did, and what can be read of the disk all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysErased {
    /// The disk, as it is to be named.
    pub erased: String,
    /// In its own layers, written while encryption was off. `None`: it could not be opened to look.
    pub plain_bytes: Option<u64>,
    /// Its base image, which is as it was.
    pub base: Option<PathBuf>,
    /// What it read from other disks, which still have it.
    pub inherited: Vec<InheritedReport>,
}

impl Registry {
    /// Puts the account under another KEK, or records that it comes from another source now. With a new account key
    /// everything above the data keys is new: every disk is moved to that account key, while it is served, and stores
    /// what is written from then on under a fresh data key. An earlier replacement that was cut off is finished first;
    /// with the KEK in use that is all.
    pub fn rotate_kek(&self, kek: &DerivedKeys, source: SourceRecord, depth: Depth) -> Result<KekRotated> {
        let _changing = self.shared.changing.lock();
        let mut ring = self.shared.require_keys()?;
        let reencrypt = matches!(depth, Depth::Compromised { .. });
        let (in_use, pending) = {
            let settings = self.shared.settings.read();
            (settings.is_opened_by(kek), settings.reencryption_pending())
        };
        let id = match depth {
            Depth::Kek => None,
            Depth::AccountKey { id } | Depth::Compromised { id } => Some(id),
        };
        if reencrypt && in_use && pending {
            return Ok(self.rotated(&ring, false, false, Moved::default()));
        }
        if id.is_some() && ring.retiring().is_some() {
            let (finished, moved) = self.finish_replacement(ring, reencrypt && in_use)?;
            if let Some(left) = moved.left.first() {
                let what = format!("an earlier replacement is not finished: {}", left.error.message);
                return Err(Error::new(ErrorKind::InUse, what).hint(format!("repair or delete {} first", left.name)));
            }
            if in_use {
                return Ok(self.rotated(&finished, false, true, moved));
            }
            ring = finished;
        }
        if id.is_some() {
            // Every disk makes a new layer at its next write.
            disk::check_room(&*self.shared.account, &self.shared.setup.options)?;
        }
        let kek_replaced = {
            let mut settings = self.shared.settings.write();
            let dir = &*self.shared.account;
            let replaced = match id {
                Some(id) => {
                    ring = settings.add_account_key(dir, &ring, kek, id, source)?;
                    true
                }
                None => settings.rotate_kek(dir, &ring, kek, source)?,
            };
            ring = ring.opened_by(kek.proof());
            *self.shared.keys.write() = Keys::Unlocked(ring.clone());
            replaced
        };
        let (ring, moved) = match ring.retiring() {
            Some(_) => self.finish_replacement(ring, reencrypt || pending)?,
            None => (ring, Moved::default()),
        };
        Ok(self.rotated(&ring, kek_replaced, id.is_some(), moved))
    }

    fn rotated(&self, ring: &KeyRing, kek_replaced: bool, account_key_replaced: bool, moved: Moved) -> KekRotated {
        let settings = self.shared.settings.read();
        KekRotated {
            kek_version: settings.kek_version(),
            key_source: settings.kek_source().to_string(),
            kek_replaced,
            account_key: ring.current().id(),
            account_key_replaced,
            older: moved.older,
            left: moved.left,
        }
    }

    /// Moves every disk to the current account key, and forgets the retiring one if all could be moved; `reencrypt`:
    /// with a note that everything is to be re-encrypted.
    fn finish_replacement(&self, ring: KeyRing, reencrypt: bool) -> Result<(KeyRing, Moved)> {
        let damaged = self.damaged().iter();
        let left = damaged.map(|(folder, error)| Left { name: format!("disks/{folder}"), error: error.clone() });
        let mut moved = Moved { left: left.collect(), older: Vec::new() };
        for entry in self.entries() {
            let name = self.shared.shown(&entry);
            match self.move_disk(&entry, &ring) {
                Ok(0) => {}
                Ok(bytes) => moved.older.push(Older { name, bytes }),
                Err(error) => {
                    tracing::error!(disk = %entry.name, %error, "cannot be moved to the new account key");
                    moved.left.push(Left { name, error: error.into() });
                }
            }
        }
        if !moved.left.is_empty() {
            return Ok((ring, moved));
        }
        let ring = self.shared.settings.write().drop_retiring_key(&*self.shared.account, &ring, reencrypt)?;
        *self.shared.keys.write() = Keys::Unlocked(ring.clone());
        Ok((ring, moved))
    }

    /// Notes that the re-encryption of everything has ended. [`ErrorKind::InUse`] while some disk has not been gone
    /// through.
    pub fn end_reencryption(&self) -> Result<ReencryptionEnded> {
        let _changing = self.shared.changing.lock();
        let ring = self.shared.require_keys()?;
        let mut kept = Vec::new();
        for (name, _) in self.names() {
            let disk = self.disk(&name)?;
            let remaining = disk.admin().sweep_remaining(false);
            if remaining > 0 {
                let what = format!("{remaining} bytes of \"{name}\" are still under older keys, or in plaintext");
                return Err(Error::new(ErrorKind::InUse, what).hint("ask again: it goes on with what is left"));
            }
            let created = self.shared.settings.read().account_key_created();
            let older =
                disk.admin().layers().into_iter().filter(|layer| layer.live == 0 && Some(layer.created) <= created);
            let bytes = older.map(|layer| layer.held).sum();
            if bytes > 0 {
                kept.push(Older { name: name.to_string(), bytes });
            }
        }
        // Deleted sources of clones: nothing of them was gone through.
        for entry in self.shared.hidden_entries() {
            let disk = self.shared.open_disk(&entry, None, Use::Request)?;
            let bytes = disk.admin().layers().iter().map(|layer| layer.held).sum();
            kept.push(Older { name: self.shared.shown(&entry), bytes });
        }
        self.shared.settings.write().end_reencryption(&*self.shared.account, &ring)?;
        Ok(ReencryptionEnded { kept })
    }

    /// Bytes of the disk that stay under the data keys it has had.
    fn move_disk(&self, entry: &Entry, ring: &KeyRing) -> Result<u64> {
        let older = |disk: &Disk| -> u64 {
            let sealed = disk.admin().layers().into_iter().filter(|layer| layer.kind == Kind::Xts);
            sealed.map(|layer| layer.held).sum()
        };
        let keys = ring.disk_keys(entry.uuid)?;
        let state = entry.state.lock();
        match &*state {
            EntryState::Open(disk) => {
                let disk = Attachment::new(disk, &entry.attachments, Use::Request);
                drop(state);
                // Counted before: what is written afterwards is under a fresh key.
                let bytes = older(&disk);
                disk.admin().rekey(keys)?;
                Ok(bytes)
            }
            EntryState::Closed => {
                // Without its base, which need not be there for this.
                let disk = self.shared.open_bare(entry, ring)?;
                let bytes = older(&disk);
                disk.admin().rekey(keys)?;
                disk.close()?;
                Ok(bytes)
            }
            EntryState::Gone => Ok(0),
        }
    }

    /// New writes to the disk, or to all, are stored under a fresh data key from now on. The names of those disks.
    pub fn rotate_data_keys(&self, name: Option<&BlobName>) -> Result<Vec<String>> {
        self.shared.require_keys()?;
        let names = match name {
            Some(name) => vec![name.clone()],
            None => self.names().into_iter().map(|(name, _)| name).collect(),
        };
        for name in &names {
            self.disk(name)?.admin().rotate_key()?;
        }
        Ok(names.iter().map(ToString::to_string).collect())
    }

    /// Takes the keys back: durably, so that no restart brings them back. Nothing is served from here on, plaintext
    /// neither. What was written gets [`LAST_FLUSH`] to become durable; then every key is let go of.
    pub fn revoke_keys(&self) -> Result<KeysRevoked> {
        let _changing = self.shared.changing.lock();
        let mut settings = self.shared.settings.write();
        if settings.revoked() {
            return Ok(KeysRevoked::default());
        }
        let ring = self.shared.require_keys()?;
        settings.set_revoked(&*self.shared.account, &ring, true)?;
        let watch = ring.watch();
        drop(ring);
        let revoked = Error::new(ErrorKind::Revoked, "the keys of this account are revoked")
            .hint("`sealdisk key restore` with the key-encryption key brings them back");
        *self.shared.keys.write() = Keys::Locked(revoked.into());
        drop(settings);
        let revoked = let_go(self.shared.attach_all_open(&Use::Revocation), true);
        self.forget_guest_data(true);
        Ok(KeysRevoked { account_key_held: !watch.all_gone(), ..revoked })
    }

    /// Of what clients have read and written nothing stays in the buffers of a server; `from_now_on`: nor of what they
    /// send.
    fn forget_guest_data(&self, from_now_on: bool) {
        if let Some(local_attach) = self.local_attach.get() {
            local_attach.forget(from_now_on);
        }
    }

    /// Gives revoked keys back; clients that stayed go on.
    pub fn restore_keys(&self, kek: &DerivedKeys) -> Result<KeysRestored> {
        let _changing = self.shared.changing.lock();
        let mut settings = self.shared.settings.write();
        let ring = settings.unlock_derived(kek)?;
        if !settings.revoked() {
            return Ok(KeysRestored::default());
        }
        settings.set_revoked(&*self.shared.account, &ring, false)?;
        *self.shared.keys.write() = Keys::Unlocked(ring.clone());
        drop(settings);
        self.forget_guest_data(false);
        let mut left = Vec::new();
        for (entry, disk) in self.shared.attach_all_open(&Use::Request) {
            if let Err(error) = ring.disk_keys(entry.uuid).and_then(|keys| disk.admin().resume(keys)) {
                tracing::error!(disk = %entry.name, %error, "its keys cannot be restored");
                left.push(Left { name: entry.name.to_string(), error: error.into() });
            }
        }
        Ok(KeysRestored { were_revoked: true, left })
    }

    /// Destroys the data keys of a disk. Its clients, if any, get errors from here on. Answers what of its content can
    /// be read all the same. [`ErrorKind::InUse`] while a clone that has its own keys reads from it.
    pub fn erase_disk_keys(&self, disk: &DiskRef) -> Result<KeysErased> {
        let _changing = self.shared.changing.lock();
        let entry = self.shared.find_entry(disk)?;
        let readable = |clone: &Arc<Entry>| {
            let reads = clone.parent.lock().as_ref().is_some_and(|parent| parent.disk == entry.uuid);
            // Where that cannot be looked at, it may be.
            reads && self.shared.dir_of(clone).map_or(true, |dir| disk::has_keys(&*dir))
        };
        if let Some(clone) = self.entries().iter().find(|clone| readable(clone)) {
            let name = self.shared.shown(clone);
            let what = format!("\"{disk}\" is read from by its clone {name}, which could not be read either");
            return Err(Error::new(ErrorKind::InUse, what).hint(format!(
                "`sealdisk reencrypt {name} --include-base` makes that clone need nothing of it; or erase or delete it first"
            )));
        }
        let erased = self.what_stays_readable(&entry);
        let mut state = entry.state.lock();
        if let EntryState::Open(disk) = &*state {
            let disk = Attachment::new(disk, &entry.attachments, Use::Revocation);
            let_go(vec![(Arc::clone(&entry), disk)], false);
            self.forget_guest_data(self.revoked());
        }
        *state = EntryState::Closed;
        disk::erase_keys(&*self.shared.dir_of(&entry)?)?;
        Ok(erased)
    }

    /// What of a disk's content is not under its own data keys.
    fn what_stays_readable(&self, entry: &Arc<Entry>) -> KeysErased {
        let looked = self.shared.open_disk(entry, None, Use::Request).and_then(|disk| {
            let reports = self.inherited_reports(&disk)?;
            let base = disk.admin().settings().base.map(|base| base.path);
            Ok((disk.admin().stored().plain, base, reports))
        });
        let erased = self.shared.shown(entry);
        match looked {
            Ok((plain_bytes, base, inherited)) => {
                KeysErased { erased, plain_bytes: Some(plain_bytes), base, inherited }
            }
            // The disks below it are known all the same.
            Err(_) => KeysErased { erased, plain_bytes: None, base: None, inherited: self.shared.below(entry) },
        }
    }

    /// Destroys the account key, and the data keys of every disk, so that an old copy of account.toml opens nothing
    /// either. No KEK is needed.
    pub fn erase_all_keys(&self) -> Result<()> {
        let _changing = self.shared.changing.lock();
        let mut settings = self.shared.settings.write();
        *self.shared.keys.write() = Keys::Locked(super::settings::erased().into());
        let_go(self.shared.attach_all_open(&Use::Revocation), false);
        self.forget_guest_data(true);
        settings.erase_account_keys(&*self.shared.account)?;
        drop(settings);
        let mut outcome = Ok(());
        // One that fails keeps none of the others.
        let mut erase = |dir: Result<Arc<dyn Dir>>| {
            if let Err(error) = dir.and_then(|dir| disk::erase_keys(&*dir)) {
                tracing::error!(%error, "the data keys of a disk cannot be erased");
                outcome = std::mem::replace(&mut outcome, Ok(())).and(Err(error));
            }
        };
        for entry in self.entries() {
            *entry.state.lock() = EntryState::Closed;
            erase(self.shared.dir_of(&entry));
        }
        // What cannot be read as a disk may still have keys.
        for (folder, _) in self.damaged() {
            if let Ok(dir) = self.shared.folder.subdir(folder) {
                erase(Ok(dir));
            }
        }
        outcome
    }

    /// Writes the 64 bytes of the data key of a layer to `file`, durably.
    pub fn reveal_key(&self, name: &BlobName, layer: u32, mut file: File) -> Result<()> {
        let key = self.disk(name)?.admin().reveal_key(layer)?;
        file.write_all(key.expose())
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::io("the data key cannot be written", error))
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.shared.all_entries()
    }
}

/// What a disk reports on its way to holding no key.
enum Step {
    Flushed { in_time: bool },
    LetGo,
}

/// Lets every disk go of its keys, all at once and with a deadline: one whose device hangs keeps nobody waiting.
fn let_go(disks: Vec<(Arc<Entry>, Attachment)>, flush: bool) -> KeysRevoked {
    let (tell, told) = mpsc::channel();
    for (index, (_, disk)) in disks.iter().enumerate() {
        let (disk, tell) = (disk.clone(), tell.clone());
        on_a_thread(move || {
            disk.admin().suspend();
            let in_time = !flush || disk.admin().final_flush().is_ok();
            let _ = tell.send((index, Step::Flushed { in_time }));
            drop_keys(&disk, index, &tell);
        });
    }
    let (mut unflushed, mut held) = (vec![flush; disks.len()], vec![true; disks.len()]);
    listen(&told, Instant::now() + LAST_FLUSH, &mut unflushed, &mut held);
    for (index, _) in held.iter().enumerate().filter(|(_, held)| **held) {
        let (disk, tell) = (disks[index].1.clone(), tell.clone());
        on_a_thread(move || drop_keys(&disk, index, &tell));
    }
    listen(&told, Instant::now() + LETTING_GO, &mut unflushed, &mut held);
    let names = |marks: &[bool]| {
        disks.iter().zip(marks).filter(|(_, mark)| **mark).map(|((entry, _), _)| entry.name.to_string()).collect()
    };
    KeysRevoked { unflushed: names(&unflushed), held: names(&held), account_key_held: false }
}

/// On a thread of its own, or here where there is none to be had: late is better than not at all.
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    if sync::is_alone() {
        return work();
    }
    let work = Arc::new(Mutex::new(Some(work)));
    let on_thread = Arc::clone(&work);
    let started = std::thread::Builder::new().name("let-go".into()).spawn(move || {
        if let Some(work) = on_thread.lock().take() {
            work();
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread to let go of keys");
        if let Some(work) = work.lock().take() {
            work();
        }
    }
}

fn drop_keys(disk: &Disk, index: usize, tell: &Sender<(usize, Step)>) {
    disk.admin().forget_keys();
    // Nobody listens any more when it took too long.
    let _ = tell.send((index, Step::LetGo));
}

/// Notes what is reported until everything has been let go of, or the deadline.
fn listen(told: &Receiver<(usize, Step)>, deadline: Instant, unflushed: &mut [bool], held: &mut [bool]) {
    while held.contains(&true) {
        match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((index, Step::Flushed { in_time })) => unflushed[index] = !in_time,
            Ok((index, Step::LetGo)) => held[index] = false,
            Err(_) => break,
        }
    }
}
