//! Who holds a disk of the account: clients, copies, clones, jobs and verbs. Each has an [`Attachment`], and whoever
//! needs the disk alone waits for those, or says who is in the way ([`super::alone`]).
//!
//! 1. An attachment is added under the lock of the state of its disk alone. So nobody comes while that is held.
//! 2. The lock of the list is held for moments, and no other is taken under it. So letting go never waits.
//! 3. A holder lets go of the disk first, and of its place in the list then. So a disk that nobody is listed for is
//!    held by nothing but the registry.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use uuid::Uuid;

use super::disk_ref::DiskRef;
use super::entry::{Entry, EntryState};
use super::name::BlobName;
use super::registry::{Registry, Shared, no_disk};
use super::snapshots::hint_snapshots;
use super::view_name::SnapshotName;
use crate::base::BaseImage;
use crate::disk::Disk;
use crate::io::sync::{self, Condvar, Mutex};
use crate::serve::ServedDisk;
use crate::{Error, ErrorKind, Result};

/// What a disk is held for, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// A client of the server, as the log names it.
    Client(String),
    /// An export, or a copy of the disk into another.
    CopyOut,
    /// An import, or a copy of another disk into this one.
    CopyInto,
    /// A clone that reads from the disk, by name.
    Clone(String),
    /// A piece of a re-encryption.
    Reencryption,
    /// A verb that may take a while, as the command line calls it.
    Verb(&'static str),
    /// A request that is soon done.
    Request,
    /// A step of the background work: punching, checkpoints.
    Maintenance,
    /// A look at the files of the base.
    Inspection,
    /// The keys of the disk are being taken back.
    Revocation,
}

impl Use {
    /// Whether it ends when its holder wants it to, and not soon by itself.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Client(_) | Self::CopyOut | Self::CopyInto)
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(peer) => write!(f, "client {peer}"),
            Self::CopyOut => f.write_str("a copy out of it"),
            Self::CopyInto => f.write_str("a copy into it"),
            Self::Clone(name) => write!(f, "its clone \"{name}\""),
            Self::Reencryption => f.write_str("a re-encryption"),
            Self::Verb(verb) => write!(f, "`sealdisk {verb}`"),
            Self::Request => f.write_str("another request"),
            Self::Maintenance => f.write_str("its background work"),
            Self::Inspection => f.write_str("a look at its base"),
            Self::Revocation => f.write_str("a revocation of its keys"),
        }
    }
}

/// How much of a disk a holder has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sees {
    /// The disk as it is now.
    Disk,
    /// What the snapshot of this name sees.
    Snapshot(String),
    /// Nothing: it keeps the disk open for what it will do, and is in the way of nothing.
    Nothing,
}

/// A place in the list of holders of a disk.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) what: Use,
    pub(super) sees: Sees,
}

impl Held {
    /// Whether it can be in anybody's way. A clone is not: which snapshots clones read is in their settings, and those
    /// stay.
    fn can_bar(&self) -> bool {
        self.sees != Sees::Nothing && !matches!(self.what, Use::Clone(_))
    }
}

/// The holders of a disk.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    list: Mutex<List>,
    /// Somebody has let go.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct List {
    last: u64,
    held: BTreeMap<u64, Held>,
}

impl List {
    fn of(&self, barring: impl Fn(&Held) -> bool) -> Vec<Held> {
        self.held.values().filter(|held| held.can_bar() && barring(held)).cloned().collect()
    }
}

impl Attachments {
    /// Takes a place for a holder. The caller has the lock of the disk's state, unless it sees nothing.
    pub(super) fn add(self: &Arc<Self>, what: Use, sees: Sees) -> Place {
        let mut list = self.list.lock();
        list.last += 1;
        let id = list.last;
        list.held.insert(id, Held { what, sees });
        Place { of: Arc::clone(self), id }
    }

    /// Whether nobody has a place.
    pub(super) fn is_empty(&self) -> bool {
        self.list.lock().held.is_empty()
    }

    /// The holders that `barring` says are in the way, the first to come first.
    pub(super) fn barring(&self, barring: impl Fn(&Held) -> bool) -> Vec<Held> {
        self.list.lock().of(barring)
    }

    /// Waits until no holder is there that is `barring`: until `deadline`, or only until `leaving` for those that do
    /// not end by themselves. `Err`: those that are in the way, then.
    pub(super) fn wait_until_free(
        &self,
        leaving: Instant,
        deadline: Instant,
        barring: impl Fn(&Held) -> bool,
    ) -> std::result::Result<(), Vec<Held>> {
        let mut list = self.list.lock();
        loop {
            let in_the_way = list.of(&barring);
            if in_the_way.is_empty() {
                return Ok(());
            }
            let until = if in_the_way.iter().any(|held| held.what.is_lasting()) { leaving } else { deadline };
            if sync::is_alone() || Instant::now() >= until {
                return Err(in_the_way);
            }
            list = self.changed.wait_until(list, until);
        }
    }
}

/// A place among the holders of a disk, for as long as this is there.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Attachments>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.list.lock().held.remove(&self.id);
        self.of.changed.notify_all();
    }
}

/// A disk, or what a snapshot of it sees, held by one of its users. Clones of it are one holder.
#[derive(Debug, Clone)]
pub struct Attachment {
    // In this order: see the module documentation.
    disk: Arc<Disk>,
    place: Arc<Place>,
}

impl Attachment {
    /// Adds a holder of the open `disk`. The caller has the lock of its state.
    pub(super) fn new(disk: &Arc<Disk>, attachments: &Arc<Attachments>, what: Use) -> Self {
        Self { disk: Arc::clone(disk), place: Arc::new(attachments.add(what, Sees::Disk)) }
    }

    /// `view` of the same disk, for the same holder.
    pub(super) fn seeing(&self, view: Disk) -> Self {
        Self { disk: Arc::new(view), place: Arc::clone(&self.place) }
    }

    /// Keeps the disk from being closed, and is in the way of nothing.
    pub(super) fn keep_open(&self, what: Use) -> Place {
        self.place.of.add(what, Sees::Nothing)
    }

    /// The same disk, held in another place.
    pub(super) fn in_place(self, place: Place) -> Self {
        Self { disk: self.disk, place: Arc::new(place) }
    }
}

impl Deref for Attachment {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.disk
    }
}

impl From<Attachment> for ServedDisk {
    fn from(attachment: Attachment) -> Self {
        Self::held(attachment.disk, attachment.place)
    }
}

impl Registry {
    /// The disk `name`, opened if it is not yet, for one who holds it until the attachment is dropped.
    pub fn attach(&self, name: &BlobName, what: Use) -> Result<Attachment> {
        let entry = self.shared.entry(name)?;
        if entry.unfinished.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::InUse, format!("the copy into the disk \"{name}\" has not ended"))
                .hint("the same import or copy again goes on where it was; `sealdisk delete` drops it"));
        }
        self.shared.open_disk(&entry, None, what)
    }

    /// The same for a disk that may be named by its UUID, and so may be hidden.
    pub fn attach_ref(&self, disk: &DiskRef, what: Use) -> Result<Attachment> {
        let entry = self.shared.find_entry(disk)?;
        match self.shared.is_hidden(entry.uuid) {
            true => self.shared.open_disk(&entry, None, what),
            false => self.attach(&entry.name, what),
        }
    }

    /// The disk as a snapshot of the user's sees it.
    pub fn attach_snapshot(&self, disk: &DiskRef, snapshot: &str, what: Use) -> Result<Attachment> {
        // Not those of other readers, which go without asking who else reads them.
        let name: SnapshotName = snapshot.parse()?;
        let disk = self.attach_ref(disk, Use::Request)?;
        let entry = self.shared.find_entry(&DiskRef::Uuid(disk.uuid()))?;
        // From the look at the snapshot until it is known to be held, it does not go.
        let state = entry.state.lock();
        if matches!(&*state, EntryState::Gone) {
            return Err(no_disk(&entry.name));
        }
        let view = disk.at_snapshot(name.as_str()).map_err(hint_snapshots)?;
        let place = entry.attachments.add(what, Sees::Snapshot(snapshot.to_owned()));
        Ok(disk.seeing(view).in_place(place))
    }

    /// The disk `name`, opened if it is not yet, for a request.
    pub fn disk(&self, name: &BlobName) -> Result<Attachment> {
        self.attach(name, Use::Request)
    }

    /// The same for a disk that may be named by its UUID, and so may be hidden.
    pub fn disk_of(&self, disk: &DiskRef) -> Result<Attachment> {
        self.attach_ref(disk, Use::Request)
    }

    /// The disk `name`, finished or not, opened over a base that is already open if it is not yet.
    pub(super) fn open_over(&self, name: &BlobName, base: Option<Arc<dyn BaseImage>>) -> Result<Attachment> {
        let entry = self.shared.entry(name)?;
        self.shared.open_disk(&entry, base, Use::Request)
    }
}

impl Shared {
    /// A disk that is open; `None`: it is closed, or not there.
    pub(super) fn attach_open(&self, uuid: Uuid, what: &Use) -> Option<Attachment> {
        let find = || self.all_entries().into_iter().find(|entry| entry.uuid == uuid);
        let mut entry = find()?;
        loop {
            if let Some(open) = entry.attach_open(what.clone()) {
                return Some(open);
            }
            // A disk that was given another name meanwhile has another entry.
            let again = find().filter(|again| !Arc::ptr_eq(again, &entry))?;
            entry = again;
        }
    }

    /// All disks that are open.
    pub(super) fn attach_all_open(&self, what: &Use) -> Vec<(Arc<Entry>, Attachment)> {
        let open = |entry: Arc<Entry>| entry.attach_open(what.clone()).map(|disk| (entry, disk));
        self.all_entries().into_iter().filter_map(open).collect()
    }
}

impl Entry {
    /// The disk, if it is open.
    pub(super) fn attach_open(&self, what: Use) -> Option<Attachment> {
        match &*self.state.lock() {
            EntryState::Open(disk) => Some(Attachment::new(disk, &self.attachments, what)),
            EntryState::Closed | EntryState::Gone => None,
        }
    }
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use std::sync::Barrier;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(20);

    fn client() -> Use {
        Use::Client("unix:uid=0,pid=1".into())
    }

    fn any(_: &Held) -> bool {
        true
    }

    /// Waits so long for a lasting holder, and for others.
    fn wait(attachments: &Attachments, leaving: Duration, deadline: Duration) -> Vec<String> {
        let now = Instant::now();
        let waited = attachments.wait_until_free(now + leaving, now + deadline, any);
        waited.err().unwrap_or_default().iter().map(|held| held.what.to_string()).collect()
    }

    #[test]
    fn who_is_in_the_way_is_named_at_the_deadline() {
        let attachments = Arc::new(Attachments::default());
        assert_eq!(wait(&attachments, Duration::ZERO, Duration::ZERO), [""; 0]);
        let kept = attachments.add(Use::Reencryption, Sees::Nothing);
        assert_eq!(wait(&attachments, Duration::ZERO, Duration::ZERO), [""; 0], "that sees nothing");
        assert!(!attachments.is_empty());
        let step = attachments.add(Use::Reencryption, Sees::Disk);
        let began = Instant::now();
        assert_eq!(wait(&attachments, Duration::ZERO, SOON), ["a re-encryption"]);
        assert!(began.elapsed() >= SOON);
        // One that does not end by itself is not waited for, and those that do are named with it.
        let began = Instant::now();
        let held = attachments.add(client(), Sees::Snapshot("s".into()));
        assert_eq!(wait(&attachments, SOON, LATE), ["a re-encryption", "client unix:uid=0,pid=1"]);
        assert!(began.elapsed() < LATE / 5);
        assert_eq!(attachments.barring(|held| held.sees == Sees::Disk).len(), 1);
        drop((step, held));
        assert_eq!(wait(&attachments, Duration::ZERO, Duration::ZERO), [""; 0]);
        drop(kept);
        assert!(attachments.is_empty());
    }

    #[test]
    fn the_last_to_let_go_wakes_all_who_wait() {
        let attachments = Arc::new(Attachments::default());
        let held: Vec<_> = [client(), Use::Maintenance].map(|what| attachments.add(what, Sees::Disk)).into();
        let began = Instant::now();
        thread::scope(|scope| {
            let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| wait(&attachments, LATE, LATE))).collect();
            for held in held {
                thread::sleep(SOON);
                assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
                drop(held);
            }
            for waiter in waiters {
                assert_eq!(waiter.join().expect("waited"), [""; 0]);
            }
        });
        assert!(began.elapsed() < LATE / 2, "they were woken");
    }

    #[test]
    fn hundreds_come_and_go_and_nobody_waits_for_ever() {
        let attachments = Arc::new(Attachments::default());
        let start = Barrier::new(9);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    (0..500).for_each(|_| drop(attachments.add(client(), Sees::Disk)));
                });
            }
            start.wait();
            while !wait(&attachments, SOON, SOON).is_empty() {}
        });
        assert_eq!(wait(&attachments, Duration::ZERO, Duration::ZERO), [""; 0]);
        assert!(attachments.is_empty());
    }
}
