//! Writing new VHDs: fixed, dynamic and differencing.
//!
//! A file is written front to back and its footer last, into a file that has no name yet ([`crate::io::output`]):
//! whoever sees the name sees a whole disk. Layout of a dynamic or differencing disk: footer copy at 0, header at 512,
//! table at 1,536, parent locators, then the blocks, the data of each on a 4 KiB border, then the footer.

use uuid::Uuid;

use super::header::{HEADER, Header};
use super::{DiskType, FOOTER, Fault, Footer, MAX_SPARSE_SIZE, SECTOR, bitmap, locator};
use crate::Result;
use crate::io::sink::Sink;

const HEADER_AT: u64 = FOOTER as u64;
const TABLE_AT: u64 = HEADER_AT + HEADER as u64;
/// The border on which the data of each block begins.
const ALIGN: u64 = 4096;

/// What names the parent of a new differencing disk.
#[derive(Debug, Clone)]
pub struct Parent {
    pub unique_id: Uuid,
    /// When the parent's file was last changed, in seconds since the Unix epoch.
    pub modified: u64,
    /// Path of the parent as seen from the child's folder, with `/`.
    pub relative: String,
    /// Absolute path of the parent.
    pub absolute: String,
}

/// Makes `sink` a fixed disk of `size` bytes, of zeros where nothing is there, sparse, and syncs it.
pub fn fixed(sink: Sink<'_>, size: u64, unique_id: Uuid, unix_seconds: u64) -> Result<()> {
    check_size(size)?;
    sink.put(&Footer::fixed(size, unique_id, unix_seconds).to_bytes(), size)?;
    sink.cut(size + FOOTER as u64)?;
    sink.sync()
}

/// Refuses what is no size of a disk.
pub fn check_size(size: u64) -> Result<()> {
    // The most a file can have, less the footer.
    if size == 0 || !size.is_multiple_of(SECTOR) || size > i64::MAX as u64 - SECTOR {
        return Err(Fault::BadSize.error(format!("a virtual size of {size} bytes is no multiple of 512 above 0")));
    }
    Ok(())
}

/// A new dynamic or differencing disk, block by block.
#[derive(Debug)]
pub struct SparseWriter<'a> {
    sink: Sink<'a>,
    footer: Footer,
    header: Header,
    entries: Vec<u32>,
    /// The first byte of the file that nothing lies behind.
    end: u64,
    /// The bitmap of a block that is held whole.
    bitmap: Vec<u8>,
}

impl<'a> SparseWriter<'a> {
    /// `block_size`: bytes, a power of two from 4 KiB to 256 MiB. With a `parent`: differencing.
    pub fn new(
        sink: Sink<'a>,
        size: u64,
        block_size: u64,
        unique_id: Uuid,
        unix_seconds: u64,
        parent: Option<&Parent>,
    ) -> Result<Self> {
        check_size(size)?;
        if size > MAX_SPARSE_SIZE {
            let what = format!("{size} bytes are over 2040 GiB, the most of a dynamic or differencing disk");
            return Err(Fault::SizeTooLarge.error(what));
        }
        let blocks = size.div_ceil(block_size.max(1));
        if blocks > super::MAX_ENTRIES {
            let what = format!("{blocks} blocks of {block_size} bytes are over the limit of {}", super::MAX_ENTRIES);
            return Err(Fault::LimitExceeded.error(what).hint("choose larger blocks"));
        }
        let block_size = u32::try_from(block_size).unwrap_or(0);
        let mut header = Header::new(TABLE_AT, blocks as u32, block_size);
        Header::parse(&header.to_bytes())?;
        let kind = if parent.is_some() { DiskType::Differencing } else { DiskType::Dynamic };
        let footer = Footer::sparse(kind, size, HEADER_AT, unique_id, unix_seconds);
        let mut end = (TABLE_AT + blocks * 4).next_multiple_of(SECTOR);
        if let Some(parent) = parent {
            end = write_parent(sink, &mut header, parent, end)?;
        }
        let bitmap = bitmap::full(u64::from(block_size));
        Ok(Self { sink, footer, header, entries: vec![u32::MAX; blocks as usize], end, bitmap })
    }

    #[must_use]
    pub fn block_size(&self) -> u64 {
        self.header.block_size()
    }

    /// Writes block `index`, whole, with every sector held. Less than a block of `data` is followed by zeros. A block
    /// is written once.
    pub fn put(&mut self, index: usize, data: &[u8]) -> Result<()> {
        debug_assert!(self.entries[index] == u32::MAX && data.len() as u64 <= self.block_size());
        let data_at = (self.end + self.bitmap.len() as u64).next_multiple_of(ALIGN);
        let at = data_at - self.bitmap.len() as u64;
        let end = data_at + self.block_size();
        let Ok(entry) = u32::try_from(at / SECTOR) else {
            let what = "the file would pass 2 TiB, the most that a block allocation table can address";
            return Err(Fault::SizeTooLarge.error(what).hint("choose larger blocks"));
        };
        self.sink.clear(self.end, at)?;
        self.sink.put(&self.bitmap, at)?;
        self.sink.put(data, data_at)?;
        self.sink.clear(data_at + data.len() as u64, end)?;
        self.entries[index] = entry;
        self.end = end;
        Ok(())
    }

    /// Writes table, header and footers, and syncs the file.
    pub fn finish(self) -> Result<()> {
        let mut table: Vec<u8> = self.entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        // Unused, should a reader look at the rest of the last sector.
        table.resize(table.len().next_multiple_of(SECTOR as usize), 0xFF);
        let footer = self.footer.to_bytes();
        self.sink.put(&footer, 0)?;
        self.sink.put(&self.header.to_bytes(), HEADER_AT)?;
        self.sink.put(&table, TABLE_AT)?;
        self.sink.put(&footer, self.end)?;
        self.sink.cut(self.end + FOOTER as u64)?;
        self.sink.sync()
    }
}

/// Writes the locators behind the table; gives the end of them.
fn write_parent(sink: Sink<'_>, header: &mut Header, parent: &Parent, mut end: u64) -> Result<u64> {
    let name = parent.absolute.rsplit('/').next().unwrap_or_default();
    header.set_parent(parent.unique_id, parent.modified, name);
    let relative = format!(".\\{}", parent.relative.replace('/', "\\"));
    for (index, (code, path)) in [(*b"W2ru", &relative), (*b"W2ku", &parent.absolute)].into_iter().enumerate() {
        let bytes = locator::encode_utf16(path);
        let space = bytes.len().next_multiple_of(SECTOR as usize);
        sink.put(&bytes, end)?;
        // The space in bytes, as Windows has it.
        header.set_locator(index, code, end, bytes.len() as u32, space as u32);
        end += space as u64;
    }
    Ok(end)
}
