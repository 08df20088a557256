//! Changes of presence that were answered and are not in the log yet, kept for the case that only the process dies.
//!
//! A write to the page cache outlives a killed server, but what says where it lies would not: so every change of
//! presence also leaves a record in `recent.E`, written and never synced. It counts only while the kernel that took it
//! runs: the header names the boot and the file, and after a power cut nothing of it is believed, because pages and
//! records may then have reached the device in any order. It is not believed either once a sync has failed
//! (see [`super::poison`]).
//!
//! Two regions are used in turn, one for each batch that is gathering; a record's tag is the number of batches taken
//! before it. Recovery takes those that no durable batch contains. They are written under the lock of the state, so that
//! none comes late into a region that is used again.
//!
//! | offset | what |
//! |---|---|
//! | 0 | magic `SDISKRCT`, version u32, 4 zero bytes, disk uuid, boot id (16), epoch u64, device u64, inode u64 |
//! | 72 | MAC of bytes 0..72, 32 bytes |
//! | 4096 | records of the first region, then those of the second |
//!
//! A record: start u64, pages u64, tag u64, layer u32, mark u32 (1 held, 2 zero), MAC over epoch, place and these.

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::extent_map::Mark;
use super::log::{BLOCK, Extent, take_u32, take_u64};
use super::transfer::{read_full, write_full};
use crate::crypto::keyring::DiskKeys;
use crate::io::{Dir, File, Open, mutant};

const MAGIC: &[u8; 8] = b"SDISKRCT";
const HEADER: usize = 72;
const RECORD: usize = 64;
const FIELDS: usize = 32;
const HEADER_PURPOSE: &[u8] = b"sealdisk recent header";
const RECORD_PURPOSE: &[u8] = b"sealdisk recent record";
pub(crate) const PREFIX: &str = "recent.";
/// Far above what is ever configured.
pub(crate) const SIZE_LIMIT: u64 = 1 << 30;

pub(crate) fn file_name(epoch: u64) -> String {
    format!("{PREFIX}{epoch}")
}

/// The file of this opening.
#[derive(Debug)]
pub(crate) struct Recent {
    file: Arc<dyn File>,
    epoch: u64,
    /// Records of a region.
    room: u64,
    tag: u64,
    used: u64,
}

fn header(file: &dyn File, uuid: Uuid, boot: &[u8; 16], epoch: u64) -> io::Result<[u8; HEADER]> {
    let (device, inode) = file.identity()?;
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[16..32].copy_from_slice(uuid.as_bytes());
    bytes[32..48].copy_from_slice(boot);
    for (at, word) in [(48, epoch), (56, device), (64, inode)] {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    Ok(bytes)
}

fn record_mac(keys: &DiskKeys, epoch: u64, place: u64, fields: &[u8]) -> [u8; 32] {
    keys.mac(&[RECORD_PURPOSE, &epoch.to_le_bytes(), &place.to_le_bytes(), fields])
}

impl Recent {
    /// Begins a new, empty file with room for `bytes` of records.
    pub(crate) fn begin(
        file: Arc<dyn File>,
        bytes: u64,
        uuid: Uuid,
        boot: &[u8; 16],
        epoch: u64,
        keys: &DiskKeys,
    ) -> io::Result<Self> {
        let room = bytes / 2 / RECORD as u64;
        file.allocate(0, BLOCK as u64 + 2 * room * RECORD as u64)?;
        let head = header(&*file, uuid, boot, epoch)?;
        let mac = keys.mac(&[HEADER_PURPOSE, &head]);
        write_full(&*file, &[&head[..], &mac].concat(), 0)?;
        Ok(Self { file, epoch, room, tag: 0, used: 0 })
    }

    /// Records that still fit before the next batch is taken, where `tag` were taken.
    pub(crate) fn left(&self, tag: u64) -> u64 {
        self.room - if self.tag == tag { self.used } else { 0 }
    }

    pub(crate) fn half_full(&self, tag: u64) -> bool {
        self.left(tag) < self.room / 2
    }

    /// Adds a record. Room was reserved.
    pub(crate) fn append(&mut self, extent: &Extent, tag: u64, keys: &DiskKeys) -> io::Result<()> {
        if self.tag != tag {
            (self.tag, self.used) = (tag, 0);
        }
        if self.used == self.room {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no room for a recent change"));
        }
        let place = tag % 2 * self.room + self.used;
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&extent.pages.start.to_le_bytes());
        record[8..16].copy_from_slice(&(extent.pages.end - extent.pages.start).to_le_bytes());
        record[16..24].copy_from_slice(&tag.to_le_bytes());
        record[24..28].copy_from_slice(&extent.layer.to_le_bytes());
        let mark: u32 = if extent.mark == Mark::Held { 1 } else { 2 };
        record[28..32].copy_from_slice(&mark.to_le_bytes());
        let mac = record_mac(keys, self.epoch, place, &record[..FIELDS]);
        record[FIELDS..].copy_from_slice(&mac);
        write_full(&*self.file, &record, BLOCK as u64 + place * RECORD as u64)?;
        self.used += 1;
        Ok(())
    }

    /// For [`super::poison`], which makes it worthless.
    pub(crate) fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file)
    }
}

/// Makes a file worthless for good. Where it cannot be written, it is emptied.
pub(crate) fn void(file: &dyn File) -> io::Result<()> {
    write_full(file, &[0; BLOCK], 0).or_else(|_| file.set_size(0))
}

/// The files of these numbers, for [`withdraw`].
pub(crate) fn open_all(dir: &dyn Dir, numbers: &[u64]) -> Vec<Arc<dyn File>> {
    numbers.iter().filter_map(|&number| dir.open(&file_name(number), Open::ReadWrite).ok()).collect()
}

/// Makes the files worthless until [`restore`], and gives their first blocks. For the time of a sync whose failure is told
/// once only: whoever comes after it must not believe them. On an error they are what they were.
pub(crate) fn withdraw(files: &[Arc<dyn File>]) -> io::Result<Vec<Vec<u8>>> {
    let mut blocks = Vec::new();
    for file in files {
        let mut block = vec![0; BLOCK];
        // One that says nothing, short or a hole, is left alone: to write there might take space that there is not.
        match read_full(&**file, &mut block, 0) {
            Ok(()) if block.starts_with(MAGIC) => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => block.clear(),
        }
        blocks.push(block);
    }
    let zeros: Vec<_> = blocks.iter().map(|block| vec![0; block.len()]).collect();
    let written = files.iter().zip(&zeros).try_for_each(|(file, zeros)| write_full(&**file, zeros, 0));
    written.inspect_err(|_| restore(files, &blocks)).map(|()| blocks)
}

/// Makes the files what they were before [`withdraw`].
pub(crate) fn restore(files: &[Arc<dyn File>], blocks: &[Vec<u8>]) {
    for (file, block) in files.iter().zip(blocks) {
        let _ = write_full(&**file, block, 0);
    }
}

/// What no batch contains of which `durable` are durable, in the order it was answered, with the highest tag. Empty
/// when the file is of another boot, or not believed for another reason.
pub(crate) fn read(
    file: &dyn File,
    uuid: Uuid,
    boot: &[u8; 16],
    epoch: u64,
    durable: u64,
    keys: &DiskKeys,
) -> io::Result<(Vec<Extent>, u64)> {
    let size = file.size()?;
    if size < BLOCK as u64 || size > SIZE_LIMIT {
        return Ok((Vec::new(), durable));
    }
    let mut content = vec![0; size as usize];
    read_full(file, &mut content, 0)?;
    let mut mac = [0; 32];
    mac.copy_from_slice(&content[HEADER..HEADER + 32]);
    if (content[..HEADER] != header(file, uuid, boot, epoch)? && !mutant!(NotesOfAnotherBoot))
        || !keys.verify_mac(&[HEADER_PURPOSE, &content[..HEADER]], &mac)
    {
        return Ok((Vec::new(), durable));
    }
    let mut found: Vec<(u64, u64, Extent)> = Vec::new();
    for (place, record) in (0..).zip(content[BLOCK..].chunks_exact(RECORD)) {
        let (fields, mac) = record.split_at(FIELDS);
        let mut input = fields;
        let words = (take_u64(&mut input), take_u64(&mut input), take_u64(&mut input));
        let ids = (take_u32(&mut input), take_u32(&mut input));
        let ((Some(start), Some(pages), Some(tag)), (Some(layer), Some(mark @ 1..=2))) = (words, ids) else { continue };
        let Some(end) = start.checked_add(pages).filter(|_| tag >= durable) else { continue };
        if record_mac(keys, epoch, place, fields) != mac {
            continue;
        }
        let mark = if mark == 1 { Mark::Held } else { Mark::Zero };
        found.push((tag, place, Extent { pages: start..end, layer, mark }));
    }
    found.sort_unstable_by_key(|(tag, place, _)| (*tag, *place));
    let highest = found.last().map_or(durable, |(tag, ..)| *tag);
    Ok((found.into_iter().map(|(.., extent)| extent).collect(), highest))
}
