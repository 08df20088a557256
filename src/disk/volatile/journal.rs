//! Changes of presence that were answered and are not in the log yet, kept for the case that only the process dies.
//!
//! A write to the page cache outlives a killed server, but what says where it lies would not: so every change of
//! presence also leaves a record in `recent.E`, written and never synced. It counts only while the kernel that took it
//! runs and the file system stays mounted: the header names the boot, the mounted file system and the file, and after a
//! power cut, or where the device was reset, nothing of it is believed, because pages and records may then have reached
//! the device in any order. It is not believed either once a sync has failed (see [`crate::disk::commit::poison`]).
//!
//! Two regions are used in turn, one for each batch that is gathering; a record's tag is the number of batches taken
//! before it. Recovery takes those that no durable batch contains.
//!
//! A change gets the place of its record under the lock of the state, where it is published, so that the order of
//! places is that of the changes and its tag that of the batch which takes it. The record is written after that lock is
//! given back, and before the locks of the pages and the gate are: nobody else can be answered on the strength of a
//! change that is not noted. A round waits for the records of the region that is used next, so that none comes late
//! there.
//!
//! | offset | what |
//! |---|---|
//! | 0 | magic `SDISKRCT`, version u32, number of the mounted file system u32, disk uuid, boot id (16), epoch u64, device u64, inode u64, places u64 |
//! | 80 | MAC of bytes 0..80, 32 bytes |
//! | 4096 | as many records as there are places, those of the first region, then those of the second |
//! | the next 4 KiB border | room for what an opening adds: see [`super::replay`] |
//!
//! A record: start u64, pages u64, tag u64, layer u32, mark u32 (1 held, 2 zero), MAC over epoch, place and these.

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::replay;
use crate::crypto::keyring::DiskKeys;
use crate::disk::commit::log::{BLOCK, Extent, take_u32, take_u64};
use crate::disk::commit::poison::Poison;
use crate::disk::numbered::numbers;
use crate::disk::stack::extent_map::Mark;
use crate::disk::transfer::{is_full, read_full, write_full};
use crate::io::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::io::sync::{Condvar, Mutex};
use crate::io::{Dir, File, Open, mutant};

const MAGIC: &[u8; 8] = b"SDISKRCT";
pub(super) const HEADER: usize = 80;
const RECORD: usize = 64;
const FIELDS: usize = 32;
const HEADER_PURPOSE: &[u8] = b"sealdisk recent header";
const RECORD_PURPOSE: &[u8] = b"sealdisk recent record";
const PREFIX: &str = "recent.";
/// Far above what is ever configured.
const SIZE_LIMIT: u64 = 1 << 30;
/// Bytes of records for which a full file system must have room.
const LEAST: u64 = 32 << 10;

pub(super) fn file_name(epoch: u64) -> String {
    format!("{PREFIX}{epoch}")
}

/// The notes of this opening. It gives places out, under the lock of the state.
#[derive(Debug)]
pub(crate) struct VolatileJournal {
    file: Arc<NoteFile>,
    tag: u64,
    used: u64,
}

/// Their file, and what of it is being written.
#[derive(Debug)]
struct NoteFile {
    file: Arc<dyn File>,
    epoch: u64,
    /// Records of a region.
    room: u64,
    /// Records of each region that have a place and are not written yet.
    unwritten: [AtomicUsize; 2],
    /// A round waits for `unwritten` of a region to come to nothing.
    awaited: AtomicBool,
    waiting: Mutex<()>,
    written: Condvar,
}

/// A record that has its place.
#[derive(Debug)]
#[must_use = "a change is answered once it is noted"]
pub(crate) struct Note {
    file: Arc<NoteFile>,
    region: usize,
    place: u64,
    fields: [u8; FIELDS],
    keys: DiskKeys,
}

/// Records of the batch before the one that gathers, not written yet.
#[derive(Debug)]
pub(crate) struct LateNotes {
    file: Arc<NoteFile>,
    region: usize,
}

fn header(file: &dyn File, uuid: Uuid, boot: &[u8; 16], epoch: u64, places: u64) -> io::Result<[u8; HEADER]> {
    let (device, inode) = file.identity()?;
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    let mounted_as = if mutant!(NotesOfAnotherMount) { 0 } else { file.mounted_as()? };
    bytes[12..16].copy_from_slice(&mounted_as.to_le_bytes());
    bytes[16..32].copy_from_slice(uuid.as_bytes());
    bytes[32..48].copy_from_slice(boot);
    for (at, word) in [(48, epoch), (56, device), (64, inode), (72, places)] {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    Ok(bytes)
}

/// Where the room for what an opening adds begins.
fn checks_at(places: u64) -> u64 {
    (BLOCK as u64 + places * RECORD as u64).next_multiple_of(BLOCK as u64)
}

/// The epochs of the openings that left notes among these files, ascending.
pub(crate) fn epochs(names: &[String]) -> Vec<u64> {
    numbers(names, PREFIX)
}

impl VolatileJournal {
    /// Begins the notes of an opening in a new, empty file, with room for as many bytes of records as are `wanted`, or
    /// for less where the file system is full. Once `poison` is set they are worthless.
    pub(crate) fn begin(
        dir: &dyn Dir,
        wanted: impl FnOnce() -> u64,
        uuid: Uuid,
        boot: &[u8; 16],
        epoch: u64,
        keys: &DiskKeys,
        poison: &Poison,
    ) -> io::Result<Self> {
        let name = file_name(epoch);
        let file = dir.open(&name, Open::New)?;
        let begun = || {
            let mut bytes = wanted();
            loop {
                match Self::begin_in(Arc::clone(&file), bytes, uuid, boot, epoch, keys) {
                    Err(error) if is_full(&error) && bytes > LEAST => bytes = (bytes / 8).max(LEAST),
                    begun => return begun,
                }
            }
        };
        let begun = begun().inspect_err(|_| drop(dir.remove(&name)))?;
        poison.call_back(move || {
            if let Err(error) = void(&*file) {
                tracing::error!(%error, "the notes of recent changes cannot be made worthless");
            }
        });
        Ok(begun)
    }

    fn begin_in(
        file: Arc<dyn File>,
        bytes: u64,
        uuid: Uuid,
        boot: &[u8; 16],
        epoch: u64,
        keys: &DiskKeys,
    ) -> io::Result<Self> {
        let room = bytes / 2 / RECORD as u64;
        let places = 2 * room;
        // Whoever opens after a kill may find no space.
        file.allocate(0, checks_at(places) + replay::room(places))?;
        let head = header(&*file, uuid, boot, epoch, places)?;
        let mac = keys.mac(&[HEADER_PURPOSE, &head]);
        write_full(&*file, &[&head[..], &mac].concat(), 0)?;
        let (unwritten, awaited) = (Default::default(), AtomicBool::new(false));
        let (waiting, written) = (Mutex::default(), Condvar::new());
        let file = Arc::new(NoteFile { file, epoch, room, unwritten, awaited, waiting, written });
        Ok(Self { file, tag: 0, used: 0 })
    }

    /// Bytes of records that an opening needs, where up to `wanted` would do and `fair` may be taken.
    pub(crate) fn bytes(wanted: u64, fair: u64) -> u64 {
        fair.max(LEAST.min(wanted))
    }

    /// Makes worthless what the openings of these epochs noted.
    pub(crate) fn void(dir: &dyn Dir, epochs: &[u64]) -> io::Result<()> {
        epochs.iter().try_for_each(|&epoch| void_if_any(&*dir.open(&file_name(epoch), Open::ReadWrite)?))
    }

    /// Removes what the opening of `epoch` noted; nothing there: nothing to do.
    pub(crate) fn remove(dir: &dyn Dir, epoch: u64) -> io::Result<()> {
        match dir.remove(&file_name(epoch)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Records that still fit before the next batch is taken, where `tag` were taken.
    pub(crate) fn left(&self, tag: u64) -> u64 {
        self.file.room - if self.tag == tag { self.used } else { 0 }
    }

    pub(crate) fn half_full(&self, tag: u64) -> bool {
        self.left(tag) < self.file.room / 2
    }

    /// Gives a record its place, behind those of all changes before it. Room was reserved.
    pub(crate) fn append(&mut self, extent: &Extent, tag: u64, keys: DiskKeys) -> io::Result<Note> {
        if self.tag != tag {
            (self.tag, self.used) = (tag, 0);
        }
        if self.used == self.file.room {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no room for a recent change"));
        }
        let region = region(tag);
        let place = region as u64 * self.file.room + self.used;
        self.used += 1;
        let mut fields = [0; FIELDS];
        fields[..8].copy_from_slice(&extent.pages.start.to_le_bytes());
        fields[8..16].copy_from_slice(&(extent.pages.end - extent.pages.start).to_le_bytes());
        fields[16..24].copy_from_slice(&tag.to_le_bytes());
        fields[24..28].copy_from_slice(&extent.layer.to_le_bytes());
        let mark: u32 = if extent.mark == Mark::Held { 1 } else { 2 };
        fields[28..32].copy_from_slice(&mark.to_le_bytes());
        self.file.unwritten[region].fetch_add(1, Ordering::SeqCst);
        Ok(Note { file: Arc::clone(&self.file), region, place, fields, keys })
    }

    /// Those that must be written before the batch after `tag` is taken, because the next ones go where they lie.
    pub(crate) fn late(&self, tag: u64) -> Option<LateNotes> {
        let region = region(tag + 1);
        let late = self.file.unwritten[region].load(Ordering::SeqCst) > 0;
        late.then(|| LateNotes { file: Arc::clone(&self.file), region })
    }
}

fn region(tag: u64) -> usize {
    (tag % 2) as usize
}

impl Note {
    /// To be called before the change is answered, and before another change of its pages can begin: that one may need
    /// no note, because of this one.
    pub(crate) fn write(self) -> io::Result<()> {
        let (epoch, place) = (self.file.epoch.to_le_bytes(), self.place.to_le_bytes());
        let mut record = [0; RECORD];
        record[..FIELDS].copy_from_slice(&self.fields);
        record[FIELDS..].copy_from_slice(&self.keys.mac(&[RECORD_PURPOSE, &epoch, &place, &self.fields]));
        write_full(&*self.file.file, &record, BLOCK as u64 + self.place * RECORD as u64)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let file = &self.file;
        if file.unwritten[self.region].fetch_sub(1, Ordering::SeqCst) == 1 && file.awaited.load(Ordering::SeqCst) {
            drop(file.waiting.lock());
            file.written.notify_all();
        }
    }
}

impl LateNotes {
    /// For the one committer, with no lock that a change waits for.
    pub(crate) fn wait(self) {
        let file = &self.file;
        let mut waiting = file.waiting.lock();
        file.awaited.store(true, Ordering::SeqCst);
        while file.unwritten[self.region].load(Ordering::SeqCst) > 0 {
            waiting = file.written.wait(waiting);
        }
        file.awaited.store(false, Ordering::SeqCst);
    }
}

/// Makes a file worthless for good. Where it cannot be written, it is emptied.
fn void(file: &dyn File) -> io::Result<()> {
    write_full(file, &[0; BLOCK], 0).or_else(|_| file.set_size(0))
}

/// Like [`void`]. One that says nothing, short or a hole, is left alone: to write there might take space that there is
/// not.
fn void_if_any(file: &dyn File) -> io::Result<()> {
    let mut magic = [0; MAGIC.len()];
    match read_full(file, &mut magic, 0) {
        Ok(()) if magic == *MAGIC => void(file),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(()),
    }
}

/// What a file says, as an opening finds it.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) header: [u8; HEADER],
    /// Records that the file has room for.
    pub(super) places: u64,
    /// Byte at which an opening may add something.
    pub(super) checks_at: u64,
    /// With their tags, in the order in which they were answered: all that can be in no durable batch.
    pub(super) records: Vec<(u64, Extent)>,
}

/// Reads a file. `None`: it is of another boot, or not believed for another reason.
pub(super) fn read(file: &dyn File, boot: &[u8; 16], epoch: u64, keys: &DiskKeys) -> io::Result<Option<Notes>> {
    let size = file.size()?;
    if size < BLOCK as u64 || size > SIZE_LIMIT {
        return Ok(None);
    }
    let mut head = [0; HEADER + 32];
    read_full(file, &mut head, 0)?;
    let (fields, mac) = head.split_at(HEADER);
    let (mut header_bytes, mut header_mac) = ([0; HEADER], [0; 32]);
    header_bytes.copy_from_slice(fields);
    header_mac.copy_from_slice(mac);
    let uuid = Uuid::from_slice(&fields[16..32]).unwrap_or_default();
    let places = take_u64(&mut &fields[72..]).unwrap_or(0);
    if (header_bytes != header(file, uuid, boot, epoch, places)? && !mutant!(NotesOfAnotherBoot))
        || !keys.verify_mac(&[HEADER_PURPOSE, &header_bytes], &header_mac)
        || places > (size - BLOCK as u64) / RECORD as u64
    {
        return Ok(None);
    }
    let mut content = vec![0; places as usize * RECORD];
    read_full(file, &mut content, BLOCK as u64)?;
    let mut found: Vec<(u64, u64, Extent)> = Vec::new();
    for (place, record) in (0u64..).zip(content.chunks_exact(RECORD)) {
        let (fields, mac) = record.split_at(FIELDS);
        let mut input = fields;
        let words = (take_u64(&mut input), take_u64(&mut input), take_u64(&mut input));
        let ids = (take_u32(&mut input), take_u32(&mut input));
        let ((Some(start), Some(pages), Some(tag)), (Some(layer), Some(mark @ 1..=2))) = (words, ids) else { continue };
        let Some(end) = start.checked_add(pages) else { continue };
        let mut expected = [0; 32];
        expected.copy_from_slice(mac);
        if !keys.verify_mac(&[RECORD_PURPOSE, &epoch.to_le_bytes(), &place.to_le_bytes(), fields], &expected) {
            continue;
        }
        let mark = if mark == 1 { Mark::Held } else { Mark::Zero };
        found.push((tag, place, Extent { pages: start..end, layer, mark }));
    }
    found.sort_unstable_by_key(|(tag, place, _)| (*tag, *place));
    // A batch is taken once the one before it is durable, so older ones are in a durable one.
    let highest = found.last().map_or(0, |(tag, ..)| *tag);
    let records =
        found.into_iter().filter(|(tag, ..)| tag.saturating_add(1) >= highest).map(|(tag, _, extent)| (tag, extent));
    let records = records.collect();
    Ok(Some(Notes { header: header_bytes, places, checks_at: checks_at(places), records }))
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    use super::*;
    use crate::io::real::RealFile;

    /// After a failed sync the write that voids the notes may fail too; a killed process would be believed then.
    #[test]
    fn notes_that_cannot_be_overwritten_are_emptied() {
        let memory = memfd_create("notes", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        let file = RealFile::new(std::fs::File::from(memory.try_clone().unwrap()));
        write_full(&file, &[7; 2 * BLOCK], 0).unwrap();
        fcntl_add_seals(&memory, SealFlags::WRITE).unwrap();
        assert!(write_full(&file, &[0; BLOCK], 0).is_err());
        void(&file).unwrap();
        assert_eq!(file.size().unwrap(), 0);
    }
}
