//! A checkpoint: the whole state at the border between two logs, in one file.
//!
//! `checkpoint.E` is the state before the first batch of `log.E`. It is written under a temporary name, synced, renamed
//! and its directory synced; only then are older logs and checkpoints removed. A clean one says that nothing was
//! changed since: no log follows it.
//!
//! All integers little-endian: magic `SDISKCKP`, version u32, compatible, read-only-compatible and incompatible feature
//! bits u32 each, disk uuid, epoch u64, flags u32 (1 clean, 2 dead pages known), the 32 bytes that its log chains to
//! (unless clean: then its own MAC), then size and base limit in pages u64
//! each, next snapshot id u32, batches contained u64, snapshots u32 and the snapshots (see `log`), layers u32 and per
//! layer its id u32 and three page sets (see `page_set`): held, zero, dead. Last 36 bytes: MAC of all before it, CRC32C
//! of all before itself.

use std::path::Path;

use uuid::Uuid;

use super::log::{Chain, Snapshot, take_u32, take_u64};
use crate::crypto::keyring::DiskKeys;
use crate::disk::stack::page_set::PageSet;
use crate::{Error, ErrorKind, Result};

pub(crate) const TEMPORARY: &str = "checkpoint.new";
const MAGIC: &[u8; 8] = b"SDISKCKP";
const VERSION: u32 = 0;
const PURPOSE: &[u8] = b"sealdisk checkpoint";
const CLEAN: u32 = 1;
const DEAD_KNOWN: u32 = 2;
const SEAL: usize = 36;
/// Where the flags lie.
const FLAGS: usize = 48;
/// Presence of 512 TiB, all mixed, is larger than this; nothing that fits into memory is.
pub(crate) const SIZE_LIMIT: u64 = 16 << 30;
/// Pages of the largest blob: 2 PiB, above what anybody serves, and few enough that a word for each 2 GiB of it is no
/// burden (see `page_set`), whoever wrote the number.
pub(crate) const PAGES_LIMIT: u64 = 1 << 42;

pub(crate) fn file_name(epoch: u64) -> String {
    format!("checkpoint.{epoch}")
}

/// Which pages a layer holds, holds as zero, and has left behind unpunched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presence {
    pub(crate) layer: u32,
    pub(crate) held: PageSet,
    pub(crate) zero: PageSet,
    pub(crate) dead: PageSet,
}

#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub(crate) clean: bool,
    pub(crate) dead_known: bool,
    /// Pages of the blob.
    pub(crate) size: u64,
    /// Pages of the base that are seen.
    pub(crate) base_limit: u64,
    pub(crate) next_snapshot: u32,
    /// Batches that it contains, over all openings.
    pub(crate) generation: u64,
    /// What the log of its epoch follows; a clean one is followed by its own MAC.
    pub(crate) chain: Chain,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) layers: Vec<Presence>,
}

impl Checkpoint {
    /// Whether the file says that nothing was changed after it. Only a hint: it may not verify.
    pub(crate) fn looks_clean(content: &[u8]) -> bool {
        content.get(FLAGS..).is_some_and(|mut rest| take_u32(&mut rest).is_some_and(|flags| flags & CLEAN != 0))
    }

    /// The stored form, and what the log after it chains to.
    pub(crate) fn encode(&self, epoch: u64, uuid: Uuid, keys: &DiskKeys) -> (Vec<u8>, Chain) {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        for word in [VERSION, 0, 0, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(uuid.as_bytes());
        out.extend_from_slice(&epoch.to_le_bytes());
        let flags = if self.clean { CLEAN } else { 0 } | if self.dead_known { DEAD_KNOWN } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.chain);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.base_limit.to_le_bytes());
        out.extend_from_slice(&self.next_snapshot.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&(self.snapshots.len() as u32).to_le_bytes());
        for snapshot in &self.snapshots {
            snapshot.encode(&mut out);
        }
        out.extend_from_slice(&(self.layers.len() as u32).to_le_bytes());
        for layer in &self.layers {
            out.extend_from_slice(&layer.layer.to_le_bytes());
            layer.held.encode(&mut out);
            layer.zero.encode(&mut out);
            layer.dead.encode(&mut out);
        }
        let mac = keys.mac(&[PURPOSE, &out]);
        out.extend_from_slice(&mac);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        (out, if self.clean { mac } else { self.chain })
    }

    /// Reads a checkpoint whole, or says why it cannot be one. Without `keys` the MAC is not checked.
    pub(crate) fn decode(
        content: &[u8],
        epoch: u64,
        uuid: Uuid,
        keys: Option<&DiskKeys>,
        path: &Path,
    ) -> Result<(Self, Chain)> {
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("checkpoint {what}")).at_path(path);
        let body_len = content.len().checked_sub(SEAL).ok_or_else(|| corrupt("is truncated"))?;
        let (body, seal) = content.split_at(body_len);
        let crc = crc32c::crc32c(&content[..content.len() - 4]);
        if crc.to_le_bytes() != seal[32..] {
            return Err(corrupt("fails its checksum"));
        }
        let mut mac: Chain = [0; 32];
        mac.copy_from_slice(&seal[..32]);
        if keys.is_some_and(|keys| !keys.verify_mac(&[PURPOSE, body], &mac)) {
            return Err(corrupt("fails its MAC"));
        }
        let mut input = body;
        let checkpoint = Self::parse(&mut input, epoch, uuid, path)?;
        if !input.is_empty() {
            return Err(corrupt("has bytes behind its end"));
        }
        let chain = if checkpoint.clean { mac } else { checkpoint.chain };
        Ok((checkpoint, chain))
    }

    fn parse(input: &mut &[u8], epoch: u64, uuid: Uuid, path: &Path) -> Result<Self> {
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("checkpoint {what}")).at_path(path);
        let short = || corrupt("is truncated");
        if input.split_off(..8) != Some(MAGIC) {
            return Err(corrupt("has a wrong magic"));
        }
        let words: Vec<u32> = (0..4).map_while(|_| take_u32(input)).collect();
        match words[..] {
            [VERSION, _, _, 0] => {}
            [_, _, _, _] => {
                return Err(Error::unknown_version("checkpoint has an unknown version or feature").at_path(path));
            }
            _ => return Err(short()),
        }
        if input.split_off(..16) != Some(uuid.as_bytes()) || take_u64(input) != Some(epoch) {
            return Err(corrupt("belongs to another disk or place"));
        }
        let flags = take_u32(input).ok_or_else(short)?;
        let mut chain: Chain = [0; 32];
        chain.copy_from_slice(input.split_off(..32).ok_or_else(short)?);
        let (size, base_limit) = (take_u64(input).ok_or_else(short)?, take_u64(input).ok_or_else(short)?);
        if size == 0 || size > PAGES_LIMIT || base_limit > size {
            return Err(corrupt("has an impossible size"));
        }
        let next_snapshot = take_u32(input).ok_or_else(short)?;
        let generation = take_u64(input).ok_or_else(short)?;
        let mut snapshots = Vec::new();
        for _ in 0..take_u32(input).ok_or_else(short)? {
            let snapshot = Snapshot::decode(input).ok_or_else(short)?;
            if !snapshot.is_possible() {
                return Err(corrupt("has an impossible snapshot"));
            }
            snapshots.push(snapshot);
        }
        let mut layers: Vec<Presence> = Vec::new();
        for _ in 0..take_u32(input).ok_or_else(short)? {
            let layer = take_u32(input).ok_or_else(short)?;
            if layers.last().is_some_and(|before| before.layer >= layer) {
                return Err(corrupt("has layers out of order"));
            }
            // Lines may see pages past the end of the disk as it is now, and a shrink leaves zero marks there.
            let mut set = || PageSet::decode(input, PAGES_LIMIT).map_err(|error| corrupt(error.what()));
            let (held, zero, dead) = (set()?, set()?, set()?);
            if !held.is_disjoint(&zero) || !held.is_disjoint(&dead) {
                return Err(corrupt("has a page in two states in one layer"));
            }
            layers.push(Presence { layer, held, zero, dead });
        }
        let (clean, dead_known) = (flags & CLEAN != 0, flags & DEAD_KNOWN != 0);
        Ok(Self { clean, dead_known, size, base_limit, next_snapshot, generation, chain, snapshots, layers })
    }
}
