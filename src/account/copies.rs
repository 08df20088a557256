//! Copies into disks and out of them. The copying itself is done by the verb, in its own process and with its user's
//! rights; the disk is reached over a connection that the registry opens for it ([`crate::serve::Attach`]), served or
//! not.
//!
//! - A disk that is being copied into is marked in its settings, from the moment it exists: it is not served, and no
//!   other verb but `delete` takes it. The mark goes when the copy is whole and durable. It says what is copied and how
//!   much of it is there, so that the same copy can go on after whatever stopped it.
//! - One copy into a disk at a time.
//! - A disk that is served and may change is read through a snapshot that goes when its reader does; after a crash it
//!   goes when the disk is opened next. Its name has a slash, which users' names cannot have.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::alone::TIMEOUT;
use super::attachment::{Attachment, Sees, Use};
use super::disk_ref::DiskRef;
use super::name::BlobName;
use super::registry::Registry;
use super::under_way::Ticket;
use super::view_name::ViewName;
use crate::disk::{Disk, Spec, Unfinished, check_size};
use crate::io::{system, unless_mutant};
use crate::serve::{Attach, AttachTerms, Attached, Counts, Export};
use crate::{Error, ErrorKind, Result};

/// How the name of a snapshot begins that is drawn for a reader.
const READING: &str = "reading/";

/// A disk that can be read over the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// As the disk was made.
    pub name: String,
    pub size_bytes: u64,
    /// What tells the disk, or its snapshot, from any other.
    pub source: String,
    /// It reads the same when it is read again another time: a snapshot does, a disk may not.
    pub stable: bool,
    /// It was drawn for this connection.
    pub temporary_snapshot: bool,
    pub most: u32,
    pub context: u32,
}

/// A disk that can be copied into over the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    pub size_bytes: u64,
    /// Bytes from the beginning that are there.
    pub done_bytes: u64,
    /// An earlier copy made the disk.
    pub resumed: bool,
    pub most: u32,
    pub context: u32,
}

/// A copy that may go on.
#[derive(Debug)]
pub struct Begun {
    /// While this is held no other copy into the disk begins.
    pub disk: Attachment,
    /// Bytes from the beginning that are there.
    pub done_bytes: u64,
    /// An earlier copy made the disk.
    pub resumed: bool,
}

impl Reading {
    #[must_use]
    pub fn terms(&self) -> AttachTerms {
        AttachTerms { most: self.most, context: self.context }
    }
}

impl Copying {
    #[must_use]
    pub fn terms(&self) -> AttachTerms {
        AttachTerms { most: self.most, context: self.context }
    }
}

impl Registry {
    /// From now on `local_attach` leads to the disks: to the server of this account, if it is served.
    pub fn open_local_attach(&self, local_attach: Arc<dyn Attach>) {
        // Set once: a registry has one server.
        let _ = self.local_attach.set(local_attach);
    }

    /// The clients of the server of this account, the first to attach first.
    pub(super) fn clients(&self) -> Vec<(Attached, Counts)> {
        let server = self.local_attach.get().filter(|_| self.is_served());
        server.map(|server| server.clients()).unwrap_or_default()
    }

    fn local_attach(&self) -> Result<&dyn Attach> {
        let none = || Error::new(ErrorKind::Unsupported, "nothing leads to the disks of this account");
        self.local_attach.get().map(|local_attach| &**local_attach).ok_or_else(none)
    }

    /// Lets the other end of `socket` read what `view` names, as it is now. The act that `begun` stands for ends with
    /// that connection.
    pub fn read_over(&self, view: &ViewName, socket: OwnedFd, begun: Option<Ticket>) -> Result<Reading> {
        let disk = match &view.snapshot {
            Some(_) => self.disk(&view.disk)?,
            None => self.attach(&view.disk, Use::CopyOut)?,
        };
        let settings = disk.admin().settings();
        let temporary = view.snapshot.is_none() && self.is_served() && !disk.read_only();
        let (seen, kept): (_, Box<dyn Send>) = match &view.snapshot {
            Some(snapshot) => {
                let view = self.attach_snapshot(&DiskRef::from(&view.disk), snapshot.as_str(), Use::CopyOut)?;
                (view, Box::new(()))
            }
            None if temporary => {
                let drawn = Drawn::draw(disk.clone())?;
                let snapshot = disk.snapshots().into_iter().find(|snapshot| snapshot.name == drawn.name);
                let snapshot =
                    snapshot.ok_or_else(|| Error::new(ErrorKind::NotFound, "the snapshot for reading is gone"))?;
                (disk.seeing(disk.at_snapshot_id(snapshot.id)?), Box::new(drawn))
            }
            None => (disk.clone(), Box::new(())),
        };
        let snapshot = view.snapshot.as_ref().and_then(|name| {
            disk.snapshots().into_iter().find(|snapshot| snapshot.name == name.as_str()).map(|snapshot| snapshot.id)
        });
        let source = match snapshot {
            Some(snapshot) => format!("disk {} snapshot {snapshot}", settings.uuid),
            None => format!("disk {}", settings.uuid),
        };
        let size = seen.size();
        let description = format!("{view}, read by a copy");
        let export = Export { name: settings.name.clone(), description, disk: seen.into(), read_only: true };
        let kept = Box::new((kept, begun.map(Ticket::ends_when_dropped)));
        let AttachTerms { most, context } = self.local_attach()?.admit(socket, export, kept)?;
        let (name, stable) = (settings.name, snapshot.is_some());
        Ok(Reading { name, size_bytes: size, source, stable, temporary_snapshot: temporary, most, context })
    }

    /// Makes an unfinished disk of `size` bytes for a copy of `source`, or finds the one that an earlier copy of it
    /// made, and lets the other end of `socket` write to it.
    pub fn copy_over(&self, name: &BlobName, size: u64, source: &str, socket: OwnedFd) -> Result<Copying> {
        let Begun { disk, done_bytes, resumed } = self.begin_copy(name, size, source)?;
        let size_bytes = disk.size();
        let export =
            Export { name: name.to_string(), description: "a copy".to_owned(), disk: disk.into(), read_only: false };
        let AttachTerms { most, context } = self.local_attach()?.admit(socket, export, Box::new(()))?;
        Ok(Copying { size_bytes, done_bytes, resumed, most, context })
    }

    /// The same without a connection: who copies has the disk.
    pub fn begin_copy(&self, name: &BlobName, size: u64, source: &str) -> Result<Begun> {
        let _changing = self.shared.change_disks()?;
        let resumed = self.is_unfinished(name);
        if !resumed {
            self.check_free(name)?;
            check_size(size)?;
            let unfinished = Unfinished { source: source.to_owned(), done: 0 };
            let uuid = system::uuid()?;
            let spec = Spec { unfinished: Some(unfinished), ..Spec::new(uuid, name.to_string(), size) };
            self.publish(name, &spec, None)?;
        }
        let entry = self.shared.entry(name)?;
        let place = {
            let _state = entry.lock_free_within(TIMEOUT, |held| held.what == Use::CopyInto)?;
            entry.attachments.add(Use::CopyInto, Sees::Disk)
        };
        let disk = self.open_over(name, None)?.in_place(place);
        let unfinished = disk.admin().settings().unfinished.ok_or_else(|| not_unfinished(name))?;
        if unfinished.source != source {
            let what = format!("the disk \"{name}\" holds the beginning of another copy, or its source was changed");
            return Err(Error::new(ErrorKind::AlreadyExists, what)
                .hint("`sealdisk delete` drops it; the same copy from the same source would go on"));
        }
        Ok(Begun { disk, done_bytes: unfinished.done, resumed })
    }

    /// Makes durable what was copied, and notes that the first `done` bytes are there. With a `size` the disk is
    /// resized.
    pub fn mark_copied(&self, name: &BlobName, done: u64, size: Option<u64>) -> Result<()> {
        let disk = self.unfinished_disk(name)?;
        disk.flush()?;
        if let Some(size) = size {
            disk.admin().resize(size)?;
        }
        disk.admin().change_settings(|settings| {
            if let Some(unfinished) = &mut settings.unfinished {
                unfinished.done = done;
            }
        })
    }

    /// The copy is whole: from now on the disk is like any other.
    pub fn finish_copy(&self, name: &BlobName, size: Option<u64>) -> Result<()> {
        let _changing = self.shared.changing.lock();
        let entry = self.shared.entry(name)?;
        let disk = self.unfinished_disk(name)?;
        unless_mutant!(CopyNotFlushed => disk.flush()?);
        if let Some(size) = size {
            disk.admin().resize(size)?;
        }
        disk.admin().change_settings(|settings| settings.unfinished = None)?;
        entry.unfinished.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn unfinished_disk(&self, name: &BlobName) -> Result<Attachment> {
        if !self.is_unfinished(name) {
            self.shared.entry(name)?;
            return Err(not_unfinished(name));
        }
        self.open_over(name, None)
    }
}

fn not_unfinished(name: &BlobName) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("no copy is being made into the disk \"{name}\""))
}

/// A snapshot that is there for as long as this is.
struct Drawn {
    disk: Attachment,
    name: String,
}

impl Drawn {
    fn draw(disk: Attachment) -> Result<Self> {
        let name = format!("{READING}{}", system::uuid()?.simple());
        disk.admin().create_snapshot(&name)?;
        Ok(Self { disk, name })
    }
}

impl Drop for Drawn {
    fn drop(&mut self) {
        if let Err(error) = self.disk.admin().delete_snapshot(&self.name) {
            tracing::warn!(disk = self.disk.admin().settings().name, %error, "a snapshot for reading stays until the next start");
        }
    }
}

/// Deletes the snapshots of readers that a crash left.
pub(super) fn clear_readings(disk: &Disk) {
    for snapshot in disk.snapshots().into_iter().filter(|snapshot| snapshot.name.starts_with(READING)) {
        if let Err(error) = disk.admin().delete_snapshot(&snapshot.name) {
            tracing::warn!(snapshot = %snapshot.name, %error, "a snapshot for reading stays behind");
        }
    }
}
