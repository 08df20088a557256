//! The state of a disk as its checkpoint and logs have it, by docs/format.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Pages of a part of a page set.
const PART: u64 = 4_194_304;

/// A snapshot, or a line that a clone reads through.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) sees: u32,
    /// Pages of the blob then.
    pub(crate) size: u64,
    pub(crate) base_limit: u64,
}

/// What a layer is said to hold, and to hold as zero.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    pub(crate) held: BTreeSet<u64>,
    pub(crate) zero: BTreeSet<u64>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) size: u64,
    pub(crate) base_limit: u64,
    pub(crate) lines: Vec<Line>,
    pub(crate) layers: BTreeMap<u32, Presence>,
    /// Layers that a rollback emptied: what a log says of them later means nothing.
    emptied: BTreeSet<u32>,
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        head
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes(2).try_into().expect("two bytes"))
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes(8).try_into().expect("eight bytes"))
    }

    fn line(&mut self) -> Line {
        let (id, sees, _created) = (self.u32(), self.u32(), self.u64());
        let (size, base_limit, len) = (self.u64(), self.u64(), self.u32() as usize);
        let name = String::from_utf8(self.bytes(len).to_vec()).expect("a name in UTF-8");
        Line { id, name, sees, size, base_limit }
    }

    fn page_set(&mut self) -> BTreeSet<u64> {
        let mut set = BTreeSet::new();
        for part in 0..u64::from(self.u32()) {
            let base = part * PART;
            match self.bytes(1)[0] {
                0 => {}
                1 => panic!("a part of 2 GiB is full: these disks are small"),
                2 => {
                    let len = self.u32() as usize;
                    set.extend(roaring(Input(self.bytes(len))).into_iter().map(|page| base + u64::from(page)));
                }
                other => panic!("part of kind {other}"),
            }
        }
        set
    }
}

/// The portable serialization of Roaring bitmaps, of 32-bit numbers:
/// <https://github.com/RoaringBitmap/RoaringFormatSpec>.
fn roaring(mut input: Input<'_>) -> BTreeSet<u32> {
    const NO_RUNS: u32 = 12_346;
    const RUNS: u16 = 12_347;
    let whole = input.0.len();
    let cookie = input.u32();
    let (containers, run_flags) = if cookie == NO_RUNS {
        (input.u32() as usize, Vec::new())
    } else {
        assert_eq!(cookie as u16, RUNS, "a cookie");
        let containers = (cookie >> 16) as usize + 1;
        (containers, input.bytes(containers.div_ceil(8)).to_vec())
    };
    let heads: Vec<(u16, usize)> = (0..containers).map(|_| (input.u16(), usize::from(input.u16()) + 1)).collect();
    if run_flags.is_empty() || containers >= 4 {
        input.bytes(4 * containers); // offsets
    }
    let mut numbers = BTreeSet::new();
    for (index, (key, count)) in heads.into_iter().enumerate() {
        let base = u32::from(key) << 16;
        if run_flags.get(index / 8).is_some_and(|flags| flags >> (index % 8) & 1 == 1) {
            for _ in 0..input.u16() {
                let (start, more) = (u32::from(input.u16()), u32::from(input.u16()));
                numbers.extend((start..=start + more).map(|low| base + low));
            }
        } else if count <= 4096 {
            numbers.extend((0..count).map(|_| base + u32::from(input.u16())));
        } else {
            for (byte, bits) in (0u32..).zip(input.bytes(8192)) {
                numbers.extend((0..8).filter(|bit| bits >> bit & 1 == 1).map(|bit| base + byte * 8 + bit));
            }
        }
    }
    assert!(input.0.is_empty(), "{} of {whole} bytes of a bitmap are left", input.0.len());
    numbers
}

/// Castagnoli, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
    }
    !crc
}

impl State {
    /// The newest checkpoint, and the logs from its epoch on. `known`: the layers of disk.toml.
    pub(super) fn read(folder: &Path, known: &BTreeSet<u32>) -> Self {
        let mut epochs: Vec<u64> = fs::read_dir(folder)
            .expect("the folder of a disk")
            .filter_map(|entry| {
                entry.expect("an entry").file_name().to_str()?.strip_prefix("checkpoint.")?.parse().ok()
            })
            .collect();
        epochs.sort_unstable();
        let mut epoch = *epochs.last().expect("a checkpoint");
        let mut state = Self::checkpoint(&fs::read(folder.join(format!("checkpoint.{epoch}"))).expect("a checkpoint"));
        while let Ok(log) = fs::read(folder.join(format!("log.{epoch}"))) {
            state.replay(&log, epoch);
            epoch += 1;
        }
        // Removed layers were empty then.
        state.layers.retain(|id, _| known.contains(id));
        state
    }

    fn checkpoint(content: &[u8]) -> Self {
        let (body, seal) = content.split_at(content.len() - 36);
        assert_eq!(crc32c(&content[..content.len() - 4]).to_le_bytes(), seal[32..], "the checksum of a checkpoint");
        let mut input = Input(body);
        assert_eq!(input.bytes(8), b"SDISKCKP");
        assert_eq!(input.u32(), 0, "version 0");
        input.bytes(12 + 16 + 8 + 4 + 32);
        let (size, base_limit) = (input.u64(), input.u64());
        input.bytes(4 + 8);
        let lines = (0..input.u32()).map(|_| input.line()).collect();
        let layers = (0..input.u32())
            .map(|_| {
                let (id, held, zero, _dead) = (input.u32(), input.page_set(), input.page_set(), input.page_set());
                (id, Presence { held, zero })
            })
            .collect();
        assert!(input.0.is_empty(), "bytes behind the end of a checkpoint");
        Self { size, base_limit, lines, layers, emptied: BTreeSet::new() }
    }

    fn replay(&mut self, log: &[u8], epoch: u64) {
        if !log.starts_with(b"SDISKLOG") {
            return; // Its header was never written.
        }
        let (mut at, mut sequence) = (4096, 0);
        while let Some(batch) = whole_batch(log, at, epoch, sequence) {
            self.apply(batch);
            at += batch.len().next_multiple_of(4096);
            sequence += 1;
        }
    }

    fn apply(&mut self, batch: &[u8]) {
        let mut head = Input(&batch[24..]);
        let (extents, others) = (head.u32(), head.u32());
        let mut input = Input(&batch[80..]);
        for _ in 0..extents {
            let (start, pages, layer, mark) = (input.u64(), input.u64(), input.u32(), input.u32());
            if self.emptied.contains(&layer) {
                continue;
            }
            let presence = self.layers.entry(layer).or_default();
            let (to, from) = match mark {
                1 => (&mut presence.held, &mut presence.zero),
                2 => (&mut presence.zero, &mut presence.held),
                other => panic!("mark {other}"),
            };
            for page in start..start + pages {
                to.insert(page);
                from.remove(&page);
            }
        }
        for _ in 0..others {
            let (kind, len) = (input.u32(), input.u32() as usize);
            let mut body = Input(input.bytes(len));
            match kind {
                1 => self.lines.push(body.line()),
                2 => {
                    let id = body.u32();
                    self.lines.retain(|line| line.id != id);
                }
                3 => (self.size, self.base_limit) = (body.u64(), body.u64()),
                4 => {
                    let layer = body.u32();
                    self.layers.insert(layer, Presence::default());
                    self.emptied.insert(layer);
                }
                5 => {}
                other => panic!("record of kind {other}"),
            }
        }
        assert!(input.0.is_empty(), "bytes behind the records of a batch");
    }
}

/// The batch at `at`, without its padding; `None`: the log ends there.
fn whole_batch(log: &[u8], at: usize, epoch: u64, sequence: u64) -> Option<&[u8]> {
    let rest = log.get(at..).filter(|rest| rest.len() >= 4096 && rest.starts_with(b"SBAT"))?;
    let mut head = Input(&rest[4..]);
    let len = head.u32() as usize;
    if (head.u64(), head.u64()) != (epoch, sequence) || !(80..=rest.len()).contains(&len) {
        return None;
    }
    let (batch, stored) = (&rest[..len], u32::from_le_bytes(rest[64..68].try_into().ok()?));
    let mut zeroed = batch.to_vec();
    zeroed[64..68].fill(0);
    (crc32c(&zeroed) == stored).then_some(batch)
}
