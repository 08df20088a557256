//! The log of presence changes: typed records in batches, each batch atomic.
//!
//! A log file is preallocated and zero-filled. Its first 4 KiB are a header; batches follow, each on a 4 KiB border and
//! padded to one. All integers little-endian.
//!
//! | header | |
//! |---|---|
//! | 0 | magic `SDISKLOG` |
//! | 8 | version u32, compatible, read-only-compatible, incompatible feature bits u32 each |
//! | 24 | disk uuid |
//! | 40 | epoch u64 |
//! | 48 | chain: MAC of the batch or checkpoint that this log follows, 32 bytes |
//! | 80 | MAC of bytes 0..80, 32 bytes; CRC32C of bytes 0..112, u32 |
//!
//! | batch | |
//! |---|---|
//! | 0 | magic u32 `SBAT`, length in bytes without padding u32, epoch u64, sequence u64 |
//! | 24 | extents u32, other records u32 |
//! | 32 | MAC over the chain and the batch with MAC and CRC as zeros, 32 bytes |
//! | 64 | CRC32C of the batch with this field as zero, u32; 4 zero bytes |
//! | 72 | number of the batch over all openings u64 |
//! | 80 | extents: start u64, pages u64, layer u32, mark u32 (1 held, 2 zero) |
//! | | other records: kind u32, length u32, body |
//!
//! Batch s+1 is written only after s is durable: how the end is told from damage stands in [`super::log_replay`].

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use super::checkpoint::PAGES_LIMIT;
use crate::crypto::keyring::DiskKeys;
use crate::disk::stack::extent_map::Mark;
use crate::disk::transfer::write_full;
use crate::io::File;

pub(crate) const BLOCK: usize = 4096;
/// The preallocated file that becomes the next log.
pub(crate) const NEXT: &str = "log.next";
pub(super) const MAGIC: &[u8; 8] = b"SDISKLOG";
pub(super) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"SBAT");
pub(super) const VERSION: u32 = 0;
pub(super) const HEADER: usize = 116;
pub(super) const BATCH_HEADER: usize = 80;
pub(crate) const EXTENT: usize = 24;
pub(super) const HEADER_PURPOSE: &[u8] = b"sealdisk log header";
pub(super) const BATCH_PURPOSE: &[u8] = b"sealdisk log batch";
/// Bytes of the longest name of a snapshot.
pub(crate) const NAME_LIMIT: usize = 255;

pub(crate) type Chain = [u8; 32];

pub(crate) fn file_name(epoch: u64) -> String {
    format!("log.{epoch}")
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) pages: Range<u64>,
    pub(crate) layer: u32,
    pub(crate) mark: Mark,
}

/// A snapshot of a disk: the layers that it sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub id: u32,
    pub name: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// The highest layer id it may see.
    pub sees: u32,
    /// Pages of the blob when it was created.
    pub size: u64,
    /// Pages of the base seen through it.
    pub base_limit: u64,
}

impl Snapshot {
    /// Whether it is one of the user's snapshots. The program draws some for itself, for as long as a reader needs
    /// them; in their names there is a slash, and in no other.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        !self.name.contains('/')
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    SnapshotAdded(Snapshot),
    SnapshotRemoved(u32),
    /// Pages.
    Resize {
        size: u64,
        base_limit: u64,
    },
    /// Presence dropped, held and zero alike; extents that name the layer mean nothing from here on.
    LayerEmptied(u32),
    /// This batch closes the log: that of `epoch` follows, and must exist.
    NextLog {
        epoch: u64,
    },
}

/// What one round makes durable at once: extents first, then the others in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Its number, over all openings; a closing batch has none: 0.
    pub(crate) generation: u64,
    pub(crate) extents: Vec<Extent>,
    pub(crate) ops: Vec<Op>,
}

impl Op {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        let kind: u32 = match self {
            Op::SnapshotAdded(snapshot) => {
                snapshot.encode(&mut body);
                1
            }
            Op::SnapshotRemoved(id) => {
                body.extend_from_slice(&id.to_le_bytes());
                2
            }
            Op::Resize { size, base_limit } => {
                body.extend_from_slice(&size.to_le_bytes());
                body.extend_from_slice(&base_limit.to_le_bytes());
                3
            }
            Op::LayerEmptied(id) => {
                body.extend_from_slice(&id.to_le_bytes());
                4
            }
            Op::NextLog { epoch } => {
                body.extend_from_slice(&epoch.to_le_bytes());
                5
            }
        };
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&body);
    }

    pub(super) fn decode(kind: u32, mut body: &[u8]) -> Option<Self> {
        let input = &mut body;
        let op = match kind {
            1 => Op::SnapshotAdded(Snapshot::decode(input)?),
            2 => Op::SnapshotRemoved(take_u32(input)?),
            3 => Op::Resize { size: take_u64(input)?, base_limit: take_u64(input)? },
            4 => Op::LayerEmptied(take_u32(input)?),
            5 => Op::NextLog { epoch: take_u64(input)? },
            _ => return None,
        };
        body.is_empty().then_some(op)
    }
}

impl Snapshot {
    /// id u32, sees u32, created u64, size u64, base limit u64, name length u32, name.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.sees.to_le_bytes());
        for word in [self.created, self.size, self.base_limit] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&(self.name.len() as u32).to_le_bytes());
        out.extend_from_slice(self.name.as_bytes());
    }

    /// Whether any disk can have it.
    pub(crate) fn is_possible(&self) -> bool {
        self.size > 0 && self.size <= PAGES_LIMIT && self.base_limit <= self.size
    }

    pub(crate) fn decode(input: &mut &[u8]) -> Option<Self> {
        let (id, sees) = (take_u32(input)?, take_u32(input)?);
        let (created, size, base_limit) = (take_u64(input)?, take_u64(input)?, take_u64(input)?);
        let len = take_u32(input)? as usize;
        let name = (len <= NAME_LIMIT).then(|| input.split_off(..len)).flatten()?;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        Some(Snapshot { id, name, created, sees, size, base_limit })
    }
}

pub(crate) fn take_u32(input: &mut &[u8]) -> Option<u32> {
    let (head, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(u32::from_le_bytes(*head))
}

pub(crate) fn take_u64(input: &mut &[u8]) -> Option<u64> {
    let (head, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(u64::from_le_bytes(*head))
}

impl Batch {
    /// The stored form, padded to a block, and the MAC that the next batch chains to.
    pub(super) fn encode(&self, epoch: u64, sequence: u64, chain: &Chain, keys: &DiskKeys) -> (Vec<u8>, Chain) {
        let mut out = vec![0; BATCH_HEADER];
        for extent in &self.extents {
            out.extend_from_slice(&extent.pages.start.to_le_bytes());
            out.extend_from_slice(&(extent.pages.end - extent.pages.start).to_le_bytes());
            out.extend_from_slice(&extent.layer.to_le_bytes());
            let mark: u32 = match extent.mark {
                Mark::Held => 1,
                Mark::Zero => 2,
            };
            out.extend_from_slice(&mark.to_le_bytes());
        }
        for op in &self.ops {
            op.encode(&mut out);
        }
        let len = out.len() as u32;
        out[72..80].copy_from_slice(&self.generation.to_le_bytes());
        out[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&len.to_le_bytes());
        out[8..16].copy_from_slice(&epoch.to_le_bytes());
        out[16..24].copy_from_slice(&sequence.to_le_bytes());
        out[24..28].copy_from_slice(&(self.extents.len() as u32).to_le_bytes());
        out[28..32].copy_from_slice(&(self.ops.len() as u32).to_le_bytes());
        let mac = keys.mac(&[BATCH_PURPOSE, chain, &out]);
        out[32..64].copy_from_slice(&mac);
        let crc = crc32c::crc32c(&out);
        out[64..68].copy_from_slice(&crc.to_le_bytes());
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        (out, mac)
    }
}

/// Bytes of a batch and the closing one.
fn with_closing(extents: usize, ops_bytes: usize) -> u64 {
    ((BATCH_HEADER + extents * EXTENT + ops_bytes).next_multiple_of(BLOCK) + BLOCK) as u64
}

/// The log that batches are appended to. Only the committer holds it.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) file: Arc<dyn File>,
    pub(crate) epoch: u64,
    size: u64,
    tail: u64,
    sequence: u64,
    chain: Chain,
}

impl Log {
    /// Writes and syncs the header of a preallocated file; its name is the caller's business.
    pub(crate) fn begin(
        file: Arc<dyn File>,
        size: u64,
        epoch: u64,
        uuid: Uuid,
        chain: &Chain,
        keys: &DiskKeys,
    ) -> std::io::Result<Self> {
        let mut header = [0; BLOCK];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[24..40].copy_from_slice(uuid.as_bytes());
        header[40..48].copy_from_slice(&epoch.to_le_bytes());
        header[48..80].copy_from_slice(chain);
        let mac = keys.mac(&[HEADER_PURPOSE, &header[..80]]);
        header[80..112].copy_from_slice(&mac);
        let crc = crc32c::crc32c(&header[..112]);
        header[112..HEADER].copy_from_slice(&crc.to_le_bytes());
        write_full(&*file, &header, 0)?;
        file.sync_data()?;
        Ok(Self { file, epoch, size, tail: BLOCK as u64, sequence: 0, chain: mac })
    }

    /// Bytes of its file.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether a batch of `extents` extents and `ops_bytes` of other records leaves room for the closing one.
    pub(crate) fn fits(&self, extents: usize, ops_bytes: usize) -> bool {
        self.tail + with_closing(extents, ops_bytes) <= self.size
    }

    /// Whether less than half of what goes into it until such a batch does not fit is in it.
    pub(crate) fn fits_half(&self, extents: usize, ops_bytes: usize) -> bool {
        2 * self.tail <= self.size.saturating_sub(with_closing(extents, ops_bytes))
    }

    /// Writes a batch at the tail; the caller syncs [`Log::file`] before anybody is told, and before the next append.
    pub(crate) fn append(&mut self, batch: &Batch, keys: &DiskKeys) -> std::io::Result<()> {
        let (bytes, mac) = batch.encode(self.epoch, self.sequence, &self.chain, keys);
        if self.tail + bytes.len() as u64 > self.size {
            return Err(std::io::Error::new(std::io::ErrorKind::StorageFull, "the log has no room for a batch"));
        }
        write_full(&*self.file, &bytes, self.tail)?;
        self.tail += bytes.len() as u64;
        self.sequence += 1;
        self.chain = mac;
        Ok(())
    }

    /// What the closing batch that names `epoch` will chain to.
    pub(crate) fn closing_chain(&self, epoch: u64, keys: &DiskKeys) -> Chain {
        Self::closing(epoch).encode(self.epoch, self.sequence, &self.chain, keys).1
    }

    pub(crate) fn closing(epoch: u64) -> Batch {
        Batch { generation: 0, extents: Vec::new(), ops: vec![Op::NextLog { epoch }] }
    }
}
