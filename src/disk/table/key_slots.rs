//! The `keys` file of a disk: its wrapped data keys in fixed slots.
//!
//! Each slot is two sectors of 512 bytes, each a whole copy with its own checksum, written and synced one after the
//! other: a crash leaves at least one good copy. Slots are overwritten in place, so that erasing a key means something
//! as far as the device allows.
//!
//! | offset | what |
//! |---|---|
//! | 0 | magic `SDISKKEY`, version u32, 4 zero bytes, disk uuid, CRC32C u32 |
//! | 4096 + 1024 i | slot i, first copy; + 512: second copy |
//!
//! A copy: magic u32, layer u32, account-key id (16 bytes), wrapped data key (72 bytes), CRC32C u32; zeros to 512. All
//! zeros: free.

use std::sync::Arc;

use uuid::Uuid;

use super::settings::LAYERS_LIMIT;
use crate::crypto::keyring::WrappedDek;
use crate::disk::transfer::{read_full, write_full, write_new};
use crate::io::mutant;
use crate::io::{Dir, File, Open, replace};
use crate::{Error, ErrorKind, Result};

pub(crate) const FILE: &str = "keys";
const MAGIC: &[u8; 8] = b"SDISKKEY";
const VERSION: u32 = 0;
const SLOT_MAGIC: u32 = u32::from_le_bytes(*b"SLOT");
const FIRST: u64 = 4096;
const COPY: usize = 512;
const USED: usize = 4 + 4 + 16 + 72;
/// Bytes of the file at the most: a slot for every layer that a disk may have.
const SIZE_LIMIT: u64 = FIRST + (LAYERS_LIMIT * 2 * COPY) as u64;

/// A wrapped data key and what wraps it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotKey {
    pub(crate) layer: u32,
    pub(crate) account_key: Uuid,
    pub(crate) wrapped: WrappedDek,
}

/// The open file. Callers change it one at a time.
#[derive(Debug)]
pub(crate) struct KeySlots {
    file: Arc<dyn File>,
    path: std::path::PathBuf,
    slots: Vec<Option<u32>>,
    /// Slots whose second copy is of another layer, and which. No crash leaves such a one with a key that is in use.
    mixed: Vec<(usize, u32)>,
}

fn encode(key: &SlotKey) -> [u8; COPY] {
    let mut copy = [0; COPY];
    copy[..4].copy_from_slice(&SLOT_MAGIC.to_le_bytes());
    copy[4..8].copy_from_slice(&key.layer.to_le_bytes());
    copy[8..24].copy_from_slice(key.account_key.as_bytes());
    copy[24..USED].copy_from_slice(&key.wrapped);
    let crc = crc32c::crc32c(&copy[..USED]);
    copy[USED..USED + 4].copy_from_slice(&crc.to_le_bytes());
    copy
}

fn decode(copy: &[u8]) -> Option<SlotKey> {
    let (used, crc) = (copy.get(..USED)?, copy.get(USED..USED + 4)?);
    let word = |at: usize| used[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    (word(0)? == SLOT_MAGIC && crc32c::crc32c(used).to_le_bytes() == crc).then_some(())?;
    let account_key = Uuid::from_bytes(*used[8..].first_chunk()?);
    Some(SlotKey { layer: word(4)?, account_key, wrapped: *used[24..].first_chunk()? })
}

impl KeySlots {
    /// Makes the file of a new disk, with the key of its first layer if that has one. Its name is not durable yet.
    pub(crate) fn create(dir: &dyn Dir, uuid: Uuid, first: Option<&SlotKey>) -> Result<()> {
        let path = dir.path().join(FILE);
        let mut content = vec![0; FIRST as usize];
        content[..8].copy_from_slice(MAGIC);
        content[8..12].copy_from_slice(&VERSION.to_le_bytes());
        content[16..32].copy_from_slice(uuid.as_bytes());
        let crc = crc32c::crc32c(&content[..32]);
        content[32..36].copy_from_slice(&crc.to_le_bytes());
        if let Some(key) = first {
            content.extend(encode(key).repeat(2));
        }
        write_new(dir, FILE, &content).map_err(|error| Error::io("cannot be made", error).at_path(&path))?;
        Ok(())
    }

    /// Opens the file and reads every slot. A slot with neither copy good is free when its first sector is zeros, and
    /// otherwise lost: asking for its layer's key says so.
    pub(crate) fn open(dir: &dyn Dir, uuid: Uuid, how: Open) -> Result<(Self, Vec<SlotKey>)> {
        let path = dir.path().join(FILE);
        let io = |error| Error::io("cannot be read", error).at_path(&path);
        let file = dir.open(FILE, how).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::new(ErrorKind::Corrupt, "the wrapped data keys are gone")
                .at_path(&path)
                .hint("if they were erased, no key opens this disk again; `sealdisk delete` removes what is left"),
            _ => io(error),
        })?;
        let size = file.size().map_err(io)?;
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, what).at_path(&path);
        if !(FIRST..=SIZE_LIMIT).contains(&size) {
            return Err(corrupt("has an impossible size"));
        }
        let mut content = vec![0; size as usize];
        read_full(&*file, &mut content, 0).map_err(io)?;
        let header = &content[..36];
        if &header[..8] != MAGIC || crc32c::crc32c(&header[..32]).to_le_bytes() != header[32..36] {
            return Err(corrupt("has a damaged header"));
        }
        if header[8..12] != VERSION.to_le_bytes() {
            return Err(Error::unknown_version("has an unknown format version").at_path(&path));
        }
        if &header[16..32] != uuid.as_bytes() {
            return Err(corrupt("belongs to another disk"));
        }
        let (mut slots, mut keys, mut mixed) = (Vec::new(), Vec::new(), Vec::new());
        for slot in content[FIRST as usize..].chunks(2 * COPY) {
            // Both copies are given when they differ (a crash between them): the caller takes the one that unwraps.
            let good: Vec<SlotKey> = slot.chunks(COPY).filter_map(decode).collect();
            if let [first, second] = &good[..]
                && first.layer != second.layer
            {
                mixed.push((slots.len(), second.layer));
            }
            let used = slot.iter().any(|&byte| byte != 0);
            slots.push(good.first().map(|key| key.layer).or(used.then_some(0)));
            keys.extend(good);
        }
        keys.dedup();
        Ok((Self { file, path, slots, mixed }, keys))
    }

    /// See [`crate::disk::erase_keys`].
    pub(crate) fn destroy(dir: &dyn Dir) -> Result<()> {
        let path = dir.path().join(FILE);
        let io = |error| Error::io("cannot be erased", error).at_path(&path);
        match replace::erase(dir, FILE) {
            Err(error) if error.kind() == ErrorKind::NotFound => return dir.sync().map_err(io),
            done => done?,
        }
        dir.remove(FILE).and_then(|()| dir.sync()).map_err(io)
    }

    fn write_slot(&self, index: usize, copy: &[u8; COPY]) -> Result<()> {
        for at in [0, COPY as u64] {
            write_full(&*self.file, copy, FIRST + index as u64 * 2 * COPY as u64 + at)
                .and_then(|()| if mutant!(KeyNotSynced) { Ok(()) } else { self.file.sync_data() })
                .map_err(|error| Error::io("cannot be written", error).at_path(&self.path))?;
        }
        Ok(())
    }

    /// Puts a key into its layer's slot, or a free one; durable when it returns.
    pub(crate) fn put(&mut self, key: &SlotKey) -> Result<()> {
        let own = self.slots.iter().position(|slot| *slot == Some(key.layer));
        let index = own.or_else(|| self.slots.iter().position(Option::is_none)).unwrap_or(self.slots.len());
        if FIRST + (index as u64 + 1) * 2 * COPY as u64 > SIZE_LIMIT {
            let what = format!("has keys in all its {LAYERS_LIMIT} slots, and no room for another data key");
            return Err(Error::new(ErrorKind::LimitExceeded, what)
                .at_path(&self.path)
                .hint("a slot is free again when its layer is gone: delete snapshots, `sealdisk scrub` the disk"));
        }
        self.write_slot(index, &encode(key))?;
        self.slots.resize(self.slots.len().max(index + 1), None);
        self.slots[index] = Some(key.layer);
        Ok(())
    }

    /// Overwrites every slot, damaged ones too, but those of which a copy is of a layer for which `keep` holds.
    pub(crate) fn erase_unless(&mut self, keep: impl Fn(u32) -> bool) -> Result<()> {
        for index in 0..self.slots.len() {
            let second_kept = self.mixed.iter().any(|&(at, layer)| at == index && keep(layer));
            if !second_kept && self.slots[index].is_some_and(|layer| !keep(layer)) {
                self.write_slot(index, &[0; COPY])?;
                self.slots[index] = None;
            }
        }
        Ok(())
    }

    /// Overwrites the key of a layer with zeros; durable when it returns. No such key: nothing to do.
    pub(crate) fn erase(&mut self, layer: u32) -> Result<()> {
        let Some(index) = self.slots.iter().position(|slot| *slot == Some(layer)) else { return Ok(()) };
        self.write_slot(index, &[0; COPY])?;
        self.slots[index] = None;
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use super::*;
    use crate::io::real::RealDir;

    #[test]
    fn every_layer_that_a_disk_may_have_finds_a_slot_and_no_more() {
        let folder = crate::disk::tests::folder();
        let dir = RealDir::open(folder.path()).unwrap();
        let uuid = Uuid::new_v4();
        let key = |layer| SlotKey { layer, account_key: uuid, wrapped: [7; 72] };
        KeySlots::create(&dir, uuid, Some(&key(1))).unwrap();
        // All but the last, at once.
        let slots: Vec<u8> = (2..LAYERS_LIMIT as u32).flat_map(|layer| encode(&key(layer)).repeat(2)).collect();
        let file = dir.open(FILE, Open::ReadWrite).unwrap();
        write_full(&*file, &slots, FIRST + 2 * COPY as u64).unwrap();
        let (mut open, _) = KeySlots::open(&dir, uuid, Open::ReadWrite).unwrap();
        open.put(&key(LAYERS_LIMIT as u32)).unwrap();
        let error = open.put(&key(LAYERS_LIMIT as u32 + 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        open.put(&key(1)).expect("one that has a slot keeps it");
        open.erase(9).unwrap();
        open.put(&key(LAYERS_LIMIT as u32 + 1)).expect("a slot is free again");
        assert_eq!(KeySlots::open(&dir, uuid, Open::Read).unwrap().1.len(), LAYERS_LIMIT);
    }
}
