//! Any records and page sets in frames that are right: what lies behind length, order, checksum and MAC of a log and of
//! a checkpoint.

use super::examine::{BLOCK, Format, examine};
use super::golden::{ENDED, MIXED, golden};
use super::seal;

/// Numbers out of the input, mostly small.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => (0..8).fold(0, |sum, _| sum << 8 | u64::from(self.byte())),
            254 => 1 << (self.byte() % 64),
            small => small.into(),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte()).min(self.0.len());
        self.0.split_off(..len).unwrap_or_default().to_vec()
    }
}

/// Batches of any records, rightly framed, chained and sealed, as the log of the disk that did not end well.
pub(crate) fn batches(data: &[u8]) {
    let dir = golden().disk(ENDED);
    let files = dir.files();
    let of = |format| files.keys().filter(move |name| Format::of(name) == format);
    of(Format::Recent).chain(of(Format::Log).skip(1)).for_each(|name| dir.take_away(name));
    let name = of(Format::Log).next().expect("a log");
    let mut log = files[name][..BLOCK].to_vec();
    let mut input = Numbers(data);
    let mut sequence: u64 = 0;
    while !input.0.is_empty() && sequence < 64 {
        let batch = batch(&mut input, sequence, &files[name][40..48]);
        log.extend(batch);
        log.resize(log.len().next_multiple_of(BLOCK), 0);
        sequence += 1;
    }
    seal::log(&mut log, &golden().keys(ENDED));
    dir.put(name, log);
    examine(ENDED, &dir, None);
}

fn batch(input: &mut Numbers<'_>, sequence: u64, epoch: &[u8]) -> Vec<u8> {
    let (mut extents, mut ops) = (Vec::new(), Vec::new());
    let (mut extent_count, mut op_count) = (0u32, 0u32);
    while !input.0.is_empty() {
        let what = input.byte() % 16;
        let mut body = Vec::new();
        match what {
            0..=6 => {
                for word in [input.number(), input.number()] {
                    extents.extend(word.to_le_bytes());
                }
                for word in [input.number() as u32, u32::from(input.byte()) % 8 % 3] {
                    extents.extend(word.to_le_bytes());
                }
                extent_count += 1;
                continue;
            }
            7 | 8 => {
                for word in [input.number() as u32, input.number() as u32] {
                    body.extend(word.to_le_bytes());
                }
                for word in [input.number(), input.number(), input.number()] {
                    body.extend(word.to_le_bytes());
                }
                let name = input.bytes();
                body.extend((name.len() as u32).to_le_bytes());
                body.extend(name);
            }
            9 | 12 => body.extend((input.number() as u32).to_le_bytes()),
            10 | 11 => {
                for word in [input.number(), input.number()] {
                    body.extend(word.to_le_bytes());
                }
            }
            13 => body.extend(input.number().to_le_bytes()),
            14 => body = input.bytes(),
            _ => break,
        }
        let kind: u32 = match what {
            7 | 8 => 1,
            9 => 2,
            10 | 11 => 3,
            12 => 4,
            13 => 5,
            _ => input.byte().into(),
        };
        ops.extend(kind.to_le_bytes());
        ops.extend((body.len() as u32).to_le_bytes());
        ops.extend(body);
        op_count += 1;
    }
    let mut batch = b"SBAT".to_vec();
    batch.extend(((80 + extents.len() + ops.len()) as u32).to_le_bytes());
    batch.extend(epoch);
    batch.extend(sequence.to_le_bytes());
    batch.extend(extent_count.to_le_bytes());
    batch.extend(op_count.to_le_bytes());
    batch.extend([0; 40]);
    batch.extend((sequence + 100).to_le_bytes());
    batch.extend(extents);
    batch.extend(ops);
    batch
}

/// Any bytes as the page sets of a checkpoint, rightly framed and sealed. Input: per layer and set the length (u16) and
/// the bytes.
pub(crate) fn page_sets(data: &[u8]) {
    /// Where the lines begin.
    const LINES: usize = 112;
    let dir = golden().disk(MIXED);
    let files = dir.files();
    let name = files.keys().find(|name| Format::of(name) == Format::Checkpoint).expect("a checkpoint");
    let mut content = files[name][..LINES].to_vec();
    content.extend(0u32.to_le_bytes());
    content.extend(5u32.to_le_bytes());
    let mut rest = data;
    for layer in 1u32..=5 {
        content.extend(layer.to_le_bytes());
        for _ in 0..3 {
            let (len, bytes) = rest.split_first_chunk().unwrap_or((&[0; 2], &[]));
            let (set, bytes) = bytes.split_at(usize::from(u16::from_le_bytes(*len)).min(bytes.len()));
            rest = bytes;
            // Nothing is the empty set.
            content.extend(if set.is_empty() { &[0; 4] } else { set });
        }
    }
    content.extend([0; 36]);
    seal::checkpoint(&mut content, &golden().keys(MIXED));
    dir.put(name, content);
    examine(MIXED, &dir, None);
}
