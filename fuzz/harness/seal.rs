//! Makes checksums and MACs of changed files right again, so that what lies behind them is reached. Written from
//! `docs/format.md`, and sharing nothing with the parsers but the key.

use sealdisk::crypto::keyring::DiskKeys;

const BLOCK: usize = 4096;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

fn double_word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

fn put_crc(bytes: &mut [u8], covered: usize) {
    let crc = crc32c::crc32c(&bytes[..covered]);
    bytes[covered..covered + 4].copy_from_slice(&crc.to_le_bytes());
}

/// `disk.toml`: the section `[seal]` is made anew, whatever stood there.
pub(crate) fn settings(file: &mut Vec<u8>, keys: &DiskKeys) {
    const SEAL: &[u8] = b"\n[seal]\n";
    let at = file.windows(SEAL.len()).rposition(|window| window == SEAL).unwrap_or(file.len());
    file.truncate(at);
    let mac = keys.mac(&[b"sealdisk disk.toml", file]);
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let crc = crc32c::crc32c(file);
    file.extend_from_slice(SEAL);
    let id = keys.account_key_id();
    file.extend_from_slice(format!("crc32c = {crc}\naccount_key = \"{id}\"\nmac = \"{hex}\"\n").as_bytes());
}

/// `keys`: the checksums of the header and of each copy of a slot.
pub(crate) fn keys(file: &mut [u8]) {
    if file.len() >= 36 {
        put_crc(file, 32);
    }
    if let Some(slots) = file.get_mut(BLOCK..) {
        for copy in slots.chunks_exact_mut(512).filter(|copy| copy.starts_with(b"SLOT")) {
            put_crc(copy, 96);
        }
    }
}

/// `checkpoint.E`: its last 36 bytes.
pub(crate) fn checkpoint(file: &mut [u8], keys: &DiskKeys) {
    let Some(body) = file.len().checked_sub(36) else { return };
    let mac = keys.mac(&[b"sealdisk checkpoint", &file[..body]]);
    file[body..body + 32].copy_from_slice(&mac);
    put_crc(file, body + 32);
}

/// `log.E`: the header, and the chain of batches from the first on, as far as there are any.
pub(crate) fn log(file: &mut [u8], keys: &DiskKeys) {
    if file.len() < 116 {
        return;
    }
    let mut chain = keys.mac(&[b"sealdisk log header", &file[..80]]);
    file[80..112].copy_from_slice(&chain);
    put_crc(file, 112);
    let mut at = BLOCK;
    while file.get(at..at + 4) == Some(b"SBAT") {
        let len = word(file, at + 4).unwrap_or(0) as usize;
        let Some(batch) = at.checked_add(len).filter(|_| len >= 80).and_then(|end| file.get_mut(at..end)) else {
            return;
        };
        batch[32..68].fill(0);
        chain = keys.mac(&[b"sealdisk log batch", &chain, batch]);
        batch[32..64].copy_from_slice(&chain);
        // The checksum field counts as zeros.
        let crc = crc32c::crc32c(batch);
        batch[64..68].copy_from_slice(&crc.to_le_bytes());
        at += len.next_multiple_of(BLOCK);
    }
}

/// `recent.E`: the header, every record that is not all zeros, and the checksums behind them where there are any.
#[allow(dead_code, reason = "not every user of this file wants it")]
pub(crate) fn recent(file: &mut [u8], keys: &DiskKeys) {
    if file.len() < BLOCK {
        return;
    }
    let mac = keys.mac(&[b"sealdisk recent header", &file[..80]]);
    file[80..112].copy_from_slice(&mac);
    let epoch: [u8; 8] = std::array::from_fn(|at| file[48 + at]);
    let places = double_word(file, 72).unwrap_or(0);
    let whole = ((file.len() - BLOCK) / 64) as u64;
    for (place, record) in (0..places.min(whole)).zip(file[BLOCK..].chunks_exact_mut(64)) {
        if record.iter().all(|&byte| byte == 0) {
            continue;
        }
        let mac = keys.mac(&[b"sealdisk recent record", &epoch, &place.to_le_bytes(), &record[..32]]);
        record[32..].copy_from_slice(&mac);
    }
    if places <= whole {
        let (head, rest) = file.split_at_mut((BLOCK + places as usize * 64).next_multiple_of(BLOCK).min(file.len()));
        checks(&head[..80], rest, keys);
    }
}

/// What an opening added to `recent.E`.
fn checks(header: &[u8], list: &mut [u8], keys: &DiskKeys) {
    if list.starts_with(b"SDISKCHK")
        && let Some(bytes) = double_word(list, 16).and_then(|count| usize::try_from(count).ok()?.checked_mul(8))
        && let Some(end) = bytes.checked_add(64).filter(|end| *end <= list.len())
    {
        let mac = keys.mac(&[b"sealdisk recent checks", header, &list[..32], &list[64..end]]);
        list[32..64].copy_from_slice(&mac);
    }
}
