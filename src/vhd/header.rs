//! The dynamic disk header: 1,024 bytes that describe the blocks and the parent of a dynamic or differencing disk.

use uuid::Uuid;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::footer::{checksum, to_vhd_time};
use super::{Fault, SECTOR};
use crate::Result;

/// Bytes in a dynamic header.
pub const HEADER: usize = 1024;

/// Bytes in a block of a new disk, as every implementation has it.
pub const DEFAULT_BLOCK: u64 = 2 << 20;
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4 << 10..=256 << 20;

const COOKIE: [u8; 8] = *b"cxsparse";
const VERSION_1_0: u32 = 0x0001_0000;

/// One of the eight places of a header that say where a parent's path is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LocatorEntry {
    /// `W2ru`, `W2ku`, `MacX` and others; zeros: unused.
    pub(super) code: [u8; 4],
    /// Sectors by the specification, bytes as Windows writes it: only a hint.
    pub(super) space: U32,
    /// Bytes of the path.
    pub(super) length: U32,
    reserved: U32,
    /// Byte offset of the path in the file.
    pub(super) offset: U64,
}

/// A header, field by field as on disk.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    cookie: [u8; 8],
    data_offset: U64,
    table_offset: U64,
    version: U32,
    max_entries: U32,
    block_size: U32,
    checksum: U32,
    parent_id: [u8; 16],
    parent_time_stamp: U32,
    reserved: U32,
    parent_name: [u8; 512],
    locators: [LocatorEntry; 8],
    reserved2: [u8; 256],
}

const _: () = assert!(size_of::<Header>() == HEADER);

impl Header {
    /// The header of a dynamic disk with `entries` blocks of `block_size` bytes, its table at byte `table_offset`.
    #[must_use]
    pub fn new(table_offset: u64, entries: u32, block_size: u32) -> Self {
        let mut header = Self {
            cookie: COOKIE,
            data_offset: u64::MAX.into(),
            table_offset: table_offset.into(),
            version: VERSION_1_0.into(),
            max_entries: entries.into(),
            block_size: block_size.into(),
            checksum: 0.into(),
            parent_id: [0; 16],
            parent_time_stamp: 0.into(),
            reserved: 0.into(),
            parent_name: [0; 512],
            locators: [LocatorEntry::default(); 8],
            reserved2: [0; 256],
        };
        header.update_checksum();
        header
    }

    /// Names the parent. Of `name` as many UTF-16 units are kept as there is room for.
    pub(super) fn set_parent(&mut self, id: Uuid, unix_seconds: u64, name: &str) {
        self.parent_id = id.into_bytes();
        self.parent_time_stamp = to_vhd_time(unix_seconds).into();
        self.parent_name = [0; 512];
        for (unit, slot) in name.encode_utf16().zip(self.parent_name.chunks_exact_mut(2)) {
            slot.copy_from_slice(&unit.to_be_bytes());
        }
        self.update_checksum();
    }

    /// Says that locator `index` is `code` with its `length` bytes at `offset`; `space` bytes are set aside there.
    pub(super) fn set_locator(&mut self, index: usize, code: [u8; 4], offset: u64, length: u32, space: u32) {
        self.locators[index] = LocatorEntry {
            code,
            space: space.into(),
            length: length.into(),
            reserved: 0.into(),
            offset: offset.into(),
        };
        self.update_checksum();
    }

    /// Reads and checks all that the header alone can tell. Errors carry the offset within the header.
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Self> {
        let header: Header = zerocopy::transmute!(*bytes);
        if header.cookie != COOKIE {
            return Err(Fault::BadHeaderCookie.at(0, "no dynamic header (no \"cxsparse\") where the footer says"));
        }
        let (stored, computed) = (header.checksum.get(), checksum(bytes, header.checksum.as_bytes()));
        if stored != computed {
            let what = format!("the dynamic header's checksum is {stored:#010x}, its content has {computed:#010x}");
            return Err(Fault::BadHeaderChecksum.at(36, what));
        }
        let version = header.version.get();
        if version >> 16 != 1 {
            let what = format!("dynamic header version {}.{} is not supported", version >> 16, version & 0xFFFF);
            return Err(Fault::UnsupportedVersion.at(24, what));
        }
        let block_size = header.block_size.get();
        if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
            let what = format!("a block size of {block_size} bytes is no power of two from 4 KiB to 256 MiB");
            return Err(Fault::BadBlockSize.at(32, what));
        }
        if !header.table_offset().is_multiple_of(SECTOR) {
            let what = format!("the table offset {} is no multiple of 512", header.table_offset());
            return Err(Fault::BadBatOffset.at(16, what));
        }
        Ok(header)
    }

    /// Like [`Header::parse`] for a header whose checksum does not hold: whether all else is plausible.
    pub(super) fn parse_ignoring_checksum(bytes: &[u8; HEADER]) -> Result<Self> {
        let mut header: Header = zerocopy::transmute!(*bytes);
        header.update_checksum();
        Self::parse(&header.to_bytes())
    }

    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER] {
        zerocopy::transmute!(self.clone())
    }

    fn update_checksum(&mut self) {
        self.checksum = checksum(self.as_bytes(), self.checksum.as_bytes()).into();
    }

    /// Byte offset of the block allocation table.
    #[must_use]
    pub fn table_offset(&self) -> u64 {
        self.table_offset.get()
    }

    /// Entries of the table, at least as many as the disk has blocks.
    #[must_use]
    pub fn max_entries(&self) -> u32 {
        self.max_entries.get()
    }

    /// Bytes of a block, without its bitmap.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        u64::from(self.block_size.get())
    }

    /// Bytes of the sector bitmap before each block: a bit a sector, rounded up to a sector.
    #[must_use]
    pub fn bitmap_size(&self) -> u64 {
        (self.block_size() / SECTOR / 8).next_multiple_of(SECTOR)
    }

    #[must_use]
    pub fn parent_id(&self) -> Uuid {
        Uuid::from_bytes(self.parent_id)
    }

    /// Seconds since 2000-01-01 UTC.
    #[must_use]
    pub fn parent_time_stamp(&self) -> u32 {
        self.parent_time_stamp.get()
    }

    /// The parent's name as its creator wrote it, mostly a path of its host system. Broken UTF-16 is replaced.
    #[must_use]
    pub fn parent_name(&self) -> String {
        let units = self.parent_name.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        char::decode_utf16(units.take_while(|&unit| unit != 0))
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect()
    }

    /// The locators in use, with their index.
    pub(super) fn locators(&self) -> impl Iterator<Item = (usize, LocatorEntry)> {
        self.locators.iter().copied().enumerate().filter(|(_, locator)| locator.code != [0; 4])
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header")
            .field("table_offset", &self.table_offset())
            .field("max_entries", &self.max_entries())
            .field("block_size", &self.block_size())
            .field("parent_id", &self.parent_id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn fields_lie_where_the_specification_says() {
        let mut header = Header::new(1536, 16, 2 << 20);
        header.set_parent(Uuid::from_u128(9), 946_684_801, "pä.vhd");
        header.set_locator(1, *b"W2ru", 4096, 12, 512);
        let bytes = header.to_bytes();
        assert_eq!(&bytes[0..8], b"cxsparse");
        assert_eq!(bytes[8..16], [0xFF; 8]);
        assert_eq!(bytes[16..24], 1536u64.to_be_bytes());
        assert_eq!(bytes[24..28], [0, 1, 0, 0]);
        assert_eq!(bytes[28..32], 16u32.to_be_bytes());
        assert_eq!(bytes[32..36], (2u32 << 20).to_be_bytes());
        assert_eq!(bytes[55], 9);
        assert_eq!(bytes[56..60], 1u32.to_be_bytes());
        assert_eq!(bytes[64..70], [0, b'p', 0, 0xE4, 0, b'.']);
        assert_eq!(&bytes[600..604], b"W2ru");
        assert_eq!(bytes[616..624], 4096u64.to_be_bytes());
        let read = Header::parse(&bytes).unwrap();
        assert_eq!(read.parent_name(), "pä.vhd");
        assert_eq!(read.locators().map(|(index, _)| index).collect::<Vec<_>>(), [1]);
        assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn each_rule_refuses_with_its_name() {
        for (at, value, fault) in [
            (0, &b"cxsparsf"[..], Fault::BadHeaderCookie),
            (24, &[0, 2, 0, 0], Fault::UnsupportedVersion),
            (32, &[0, 0, 0, 0], Fault::BadBlockSize),
            (32, &[0, 0x30, 0, 0], Fault::BadBlockSize),
            (32, &[0, 0, 8, 0], Fault::BadBlockSize),
            (32, &[0x20, 0, 0, 0], Fault::BadBlockSize),
            (16, &[0, 0, 0, 0, 0, 0, 6, 1], Fault::BadBatOffset),
        ] {
            let mut bytes = Header::new(1536, 16, 2 << 20).to_bytes();
            bytes[at..at + value.len()].copy_from_slice(value);
            assert_eq!(Header::parse_ignoring_checksum(&bytes).unwrap_err().kind(), ErrorKind::Vhd(fault), "{at}");
        }
        let mut bytes = Header::new(1536, 16, 2 << 20).to_bytes();
        bytes[900] = 1;
        assert_eq!(Header::parse(&bytes).unwrap_err().kind(), ErrorKind::Vhd(Fault::BadHeaderChecksum));
    }

    #[test]
    fn bitmaps_are_rounded_up_to_a_sector() {
        assert_eq!(Header::new(1536, 1, 4 << 10).bitmap_size(), 512);
        assert_eq!(Header::new(1536, 1, 2 << 20).bitmap_size(), 512);
        assert_eq!(Header::new(1536, 1, 256 << 20).bitmap_size(), 64 << 10);
    }
}
