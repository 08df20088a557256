//! Reading a log back.
//!
//! Invariant 6: a batch is valid when epoch, sequence, CRC and MAC fit, and batch s+1 is written only after s is
//! durable. So the first batch that does not fit is the torn end, unless a later one of the same epoch stands whole
//! behind it: that is damage, and refused.

use std::path::Path;

use uuid::Uuid;

use super::log::{
    BATCH_HEADER, BATCH_MAGIC, BATCH_PURPOSE, BLOCK, Batch, Chain, EXTENT, Extent, HEADER, HEADER_PURPOSE, MAGIC, Op,
    VERSION, take_u32, take_u64,
};
use crate::crypto::keyring::DiskKeys;
use crate::disk::stack::extent_map::Mark;
use crate::io::mutant;
use crate::{Error, ErrorKind, Result};

/// A batch whose magic, length and CRC fit.
struct RawBatch<'a> {
    /// Without padding.
    bytes: &'a [u8],
    epoch: u64,
    sequence: u64,
    extents: u32,
    ops: u32,
    mac: Chain,
}

impl<'a> RawBatch<'a> {
    /// The length that a header of `epoch` at `offset` claims, where that much is there.
    fn claimed(content: &[u8], offset: usize, epoch: u64) -> Option<usize> {
        let head = &mut content.get(offset..)?;
        let whole = head.len();
        (take_u32(head)? == BATCH_MAGIC).then_some(())?;
        let len = take_u32(head)? as usize;
        (take_u64(head)? == epoch && len <= whole).then_some(len)
    }

    fn at(content: &'a [u8], offset: usize) -> Option<Self> {
        let mut head = content.get(offset..)?;
        let whole = head;
        (take_u32(&mut head)? == BATCH_MAGIC).then_some(())?;
        let len = take_u32(&mut head)? as usize;
        (len >= BATCH_HEADER).then_some(())?;
        let bytes = whole.get(..len)?;
        let (epoch, sequence) = (take_u64(&mut head)?, take_u64(&mut head)?);
        let (extents, ops) = (take_u32(&mut head)?, take_u32(&mut head)?);
        let mac = *head.first_chunk()?;
        let crc = u32::from_le_bytes(*bytes[64..].first_chunk()?);
        let found = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&bytes[..64]), &[0; 4]), &bytes[68..]);
        (found == crc).then_some(Self { bytes, epoch, sequence, extents, ops, mac })
    }

    fn mac_holds(&self, chain: &Chain, keys: &DiskKeys) -> bool {
        keys.verify_mac(&[BATCH_PURPOSE, chain, &self.bytes[..32], &[0; 36], &self.bytes[68..]], &self.mac)
    }
}

impl Batch {
    fn decode(raw: &RawBatch<'_>) -> Option<Self> {
        let generation = take_u64(&mut raw.bytes.get(72..)?)?;
        let mut input = raw.bytes.get(BATCH_HEADER..)?;
        let mut extents = Vec::with_capacity((raw.extents as usize).min(input.len() / EXTENT));
        for _ in 0..raw.extents {
            let (start, len) = (take_u64(&mut input)?, take_u64(&mut input)?);
            let layer = take_u32(&mut input)?;
            let mark = match take_u32(&mut input)? {
                1 => Mark::Held,
                2 => Mark::Zero,
                _ => return None,
            };
            let pages = start..start.checked_add(len)?;
            (len > 0).then_some(())?;
            extents.push(Extent { pages, layer, mark });
        }
        let mut ops = Vec::new();
        for _ in 0..raw.ops {
            let (kind, len) = (take_u32(&mut input)?, take_u32(&mut input)? as usize);
            ops.push(Op::decode(kind, input.split_off(..len)?)?);
        }
        input.is_empty().then_some(Batch { generation, extents, ops })
    }
}

/// What a log file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogReplay {
    /// No header, and no batch: never begun.
    Unbegun,
    Begun {
        /// What its header says it follows.
        follows: Chain,
        batches: Vec<Batch>,
        /// What whatever follows this log must chain to.
        chain: Chain,
    },
}

/// What no torn end leaves at or behind `from`, and where: a whole batch of `epoch`, or headers that claim more than
/// anybody would look through. Each that begins no batch costs a look at all that it claims, so without that limit a
/// log of them would take the square of its length; a torn end leaves one.
fn damage_behind(content: &[u8], from: usize, epoch: u64) -> Option<(usize, &'static str)> {
    const LOOKS: usize = 4;
    if mutant!(DamageIsTheEnd) || mutant!(LogRecycled) {
        return None;
    }
    let mut left = LOOKS * content.len();
    for at in (from..content.len()).step_by(BLOCK) {
        let Some(claimed) = RawBatch::claimed(content, at, epoch) else { continue };
        if claimed > left {
            return Some((at, "more headers than batches behind"));
        }
        left -= claimed;
        if RawBatch::at(content, at).is_some() {
            return Some((at, "whole batches behind"));
        }
    }
    None
}

/// Reads the content of the log of `epoch`. Without `keys` no MAC is checked.
pub(crate) fn replay(
    content: &[u8],
    epoch: u64,
    uuid: Uuid,
    keys: Option<&DiskKeys>,
    path: &Path,
) -> Result<LogReplay> {
    let corrupt =
        |what: &str, offset: usize| Error::new(ErrorKind::Corrupt, what).at_path(path).at_offset(offset as u64);
    let header = content
        .get(..HEADER)
        .filter(|header| &header[..8] == MAGIC && crc32c::crc32c(&header[..112]).to_le_bytes() == header[112..HEADER]);
    let Some(header) = header else {
        return match damage_behind(content, BLOCK, epoch) {
            Some((at, what)) => Err(corrupt(&format!("log has a damaged header, and {what} it"), at)),
            None => Ok(LogReplay::Unbegun),
        };
    };
    if header[8..12] != VERSION.to_le_bytes() || header[20..24] != [0; 4] {
        return Err(Error::unknown_version("log has an unknown version or feature").at_path(path));
    }
    if &header[24..40] != uuid.as_bytes() || header[40..48] != epoch.to_le_bytes() {
        return Err(corrupt("log belongs to another disk or place", 24));
    }
    let mut chain: Chain = [0; 32];
    chain.copy_from_slice(&header[80..112]);
    if keys.is_some_and(|keys| !keys.verify_mac(&[HEADER_PURPOSE, &header[..80]], &chain)) {
        return Err(corrupt("log header fails its MAC", 80));
    }
    let mut follows: Chain = [0; 32];
    follows.copy_from_slice(&header[48..80]);

    let (mut batches, mut at, mut sequence) = (Vec::new(), BLOCK, 0);
    loop {
        let raw = RawBatch::at(content, at)
            .filter(|raw| (raw.epoch == epoch || mutant!(LogRecycled)) && raw.sequence == sequence);
        let Some(raw) = raw else {
            // A torn batch may have covered any number of blocks, but nothing is written behind it.
            return match damage_behind(content, at, epoch) {
                Some((behind, what)) => Err(corrupt(&format!("log is damaged, with {what} the damage"), behind)),
                None => Ok(LogReplay::Begun { follows, batches, chain }),
            };
        };
        if !mutant!(LogRecycled) && keys.is_some_and(|keys| !raw.mac_holds(&chain, keys)) {
            return Err(corrupt("log batch fails its MAC", at));
        }
        let batch = Batch::decode(&raw).ok_or_else(|| corrupt("log batch does not parse", at))?;
        chain = raw.mac;
        sequence += 1;
        at += raw.bytes.len().next_multiple_of(BLOCK);
        batches.push(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of two batches, of which the second is torn, with `false_headers` of the same epoch behind it.
    fn torn(false_headers: usize) -> Result<LogReplay> {
        let (keys, epoch, path) = (DiskKeys::ephemeral()?, 3_u64, Path::new("log.3"));
        let mut content = vec![0; 64 * BLOCK];
        content[..8].copy_from_slice(MAGIC);
        content[40..48].copy_from_slice(&epoch.to_le_bytes());
        let mut chain = keys.mac(&[HEADER_PURPOSE, &content[..80]]);
        content[80..112].copy_from_slice(&chain);
        let crc = crc32c::crc32c(&content[..112]);
        content[112..HEADER].copy_from_slice(&crc.to_le_bytes());
        for (sequence, at) in [(0, BLOCK), (1, 2 * BLOCK)] {
            let (batch, next) =
                Batch { generation: sequence, ..Batch::default() }.encode(epoch, sequence, &chain, &keys);
            content[at..at + batch.len()].copy_from_slice(&batch);
            chain = next;
        }
        content[2 * BLOCK + 72] ^= 1;
        for at in (3 * BLOCK..).step_by(BLOCK).take(false_headers) {
            let claimed = (content.len() - at) as u32;
            content[at..at + 4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
            content[at + 4..at + 8].copy_from_slice(&claimed.to_le_bytes());
            content[at + 8..at + 16].copy_from_slice(&epoch.to_le_bytes());
        }
        replay(&content, epoch, Uuid::nil(), Some(&keys), path)
    }

    #[test]
    fn a_log_of_false_headers_is_refused_and_not_looked_through_for_each() {
        for few in [0, 1, 3] {
            assert!(matches!(torn(few), Ok(LogReplay::Begun { batches, .. }) if batches.len() == 1), "{few}");
        }
        let error = torn(60).expect_err("no torn end leaves that");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("more headers than batches"), "{error}");
    }
}
