//! The hard disk footer: the last 512 bytes of every VHD.

use uuid::Uuid;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Fault;
use crate::Result;

/// Bytes in a footer.
pub const FOOTER: usize = 512;

const COOKIE: [u8; 8] = *b"conectix";
/// Must always be set (specification, "Hard Disk Footer Format").
const FEATURE_RESERVED: u32 = 2;
const FEATURE_TEMPORARY: u32 = 1;
/// Seconds from the Unix epoch to 2000-01-01 UTC, the epoch of VHD time stamps.
const EPOCH: u64 = 946_684_800;
const VERSION_1_0: u32 = 0x0001_0000;

/// The kinds of disk in use; the specification's other values are deprecated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskType {
    Fixed,
    Dynamic,
    Differencing,
}

impl DiskType {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DiskType::Fixed => "fixed",
            DiskType::Dynamic => "dynamic",
            DiskType::Differencing => "differencing",
        }
    }

    pub(super) fn code(self) -> u32 {
        match self {
            DiskType::Fixed => 2,
            DiskType::Dynamic => 3,
            DiskType::Differencing => 4,
        }
    }
}

/// Cylinders, heads and sectors per track of an emulated ATA disk. Informative: sizes never follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub cylinders: u16,
    pub heads: u8,
    pub sectors: u8,
}

impl Geometry {
    /// The geometry of a disk of `size` bytes, by the specification's appendix "CHS Calculation".
    #[must_use]
    pub fn of_size(size: u64) -> Self {
        let total = (size / 512).min(65_535 * 16 * 255);
        let (mut heads, mut sectors, mut tracks);
        if total >= 65_535 * 16 * 63 {
            (heads, sectors) = (16, 255);
            tracks = total / sectors;
        } else {
            sectors = 17;
            tracks = total / sectors;
            heads = tracks.div_ceil(1024).max(4);
            if tracks >= heads * 1024 || heads > 16 {
                (heads, sectors) = (16, 31);
                tracks = total / sectors;
            }
            if tracks >= heads * 1024 {
                (heads, sectors) = (16, 63);
                tracks = total / sectors;
            }
        }
        Self { cylinders: (tracks / heads) as u16, heads: heads as u8, sectors: sectors as u8 }
    }

    /// Bytes that the geometry spans, at most the size it was computed from.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors) * 512
    }
}

/// A footer, field by field as on disk, reserved bytes included, so that writing back what was read changes nothing.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Footer {
    cookie: [u8; 8],
    features: U32,
    version: U32,
    data_offset: U64,
    time_stamp: U32,
    creator_app: [u8; 4],
    creator_version: U32,
    creator_os: [u8; 4],
    original_size: U64,
    current_size: U64,
    cylinders: U16,
    heads: u8,
    sectors: u8,
    disk_type: U32,
    checksum: U32,
    unique_id: [u8; 16],
    saved_state: u8,
    reserved: [u8; 427],
}

const _: () = assert!(size_of::<Footer>() == FOOTER);

impl Footer {
    /// The footer of a fixed disk of `size` bytes, as Azure wants it. `unix_seconds` is the time of creation.
    #[must_use]
    pub fn fixed(size: u64, unique_id: Uuid, unix_seconds: u64) -> Self {
        Self::new(DiskType::Fixed, size, u64::MAX, unique_id, unix_seconds)
    }

    /// The footer of a dynamic or differencing disk of `size` bytes whose dynamic header lies at byte `header_offset`.
    #[must_use]
    pub fn sparse(kind: DiskType, size: u64, header_offset: u64, unique_id: Uuid, unix_seconds: u64) -> Self {
        debug_assert!(kind != DiskType::Fixed);
        Self::new(kind, size, header_offset, unique_id, unix_seconds)
    }

    fn new(kind: DiskType, size: u64, data_offset: u64, unique_id: Uuid, unix_seconds: u64) -> Self {
        let mut footer = Self {
            cookie: COOKIE,
            features: FEATURE_RESERVED.into(),
            version: VERSION_1_0.into(),
            data_offset: data_offset.into(),
            time_stamp: to_vhd_time(unix_seconds).into(),
            // `win `: older readers take the size from the geometry, which rounds it, unless they know the creator
            // as one that means the current size.
            creator_app: *b"win ",
            creator_version: 0x000A_0000.into(),
            creator_os: *b"Wi2k",
            original_size: size.into(),
            current_size: 0.into(),
            cylinders: 0.into(),
            heads: 0,
            sectors: 0,
            disk_type: kind.code().into(),
            checksum: 0.into(),
            unique_id: unique_id.into_bytes(),
            saved_state: 0,
            reserved: [0; 427],
        };
        footer.set_size(size);
        footer
    }

    /// Reads and checks everything that one footer alone can tell. Errors carry no offset: the caller knows it.
    pub fn parse(bytes: &[u8; FOOTER]) -> Result<Self> {
        let footer: Footer = zerocopy::transmute!(*bytes);
        if footer.cookie != COOKIE {
            return Err(Fault::NotVhd.error("no VHD footer (no \"conectix\")"));
        }
        let (stored, computed) = (footer.checksum.get(), footer.compute_checksum());
        if stored != computed {
            let what = format!("the footer's checksum is {stored:#010x}, its content has {computed:#010x}");
            return Err(Fault::BadFooterChecksum.error(what));
        }
        footer.check_fields()?;
        Ok(footer)
    }

    /// Like [`Footer::parse`] for a footer whose checksum does not hold: whether all else is plausible.
    pub fn parse_ignoring_checksum(bytes: &[u8; FOOTER]) -> Result<Self> {
        let mut footer: Footer = zerocopy::transmute!(*bytes);
        footer.update_checksum();
        Self::parse(&footer.to_bytes())
    }

    fn check_fields(&self) -> Result<()> {
        let version = self.version.get();
        if version >> 16 != 1 {
            let what = format!("VHD version {}.{} is not supported", version >> 16, version & 0xFFFF);
            return Err(Fault::UnsupportedVersion.error(what));
        }
        let Some(kind) = self.kind() else {
            return Err(Fault::UnsupportedDiskType.error(format!("disk type {} is not supported", self.disk_type)));
        };
        let size = self.size();
        if size == 0 || !size.is_multiple_of(512) {
            return Err(Fault::BadSize.error(format!("a virtual size of {size} bytes is no multiple of 512 above 0")));
        }
        if kind != DiskType::Fixed && size > super::MAX_SPARSE_SIZE {
            let what = format!("a virtual size of {size} bytes is over 2040 GiB, the most of a {} disk", kind.name());
            return Err(Fault::SizeTooLarge.error(what));
        }
        if kind != DiskType::Fixed && self.creator_app == *b"tap\0" && self.creator_version.get() == 1 {
            return Err(Fault::UnsupportedFeatures.error("sector bitmaps of tap 0.1 are little-endian"));
        }
        Ok(())
    }

    #[must_use]
    pub fn to_bytes(&self) -> [u8; FOOTER] {
        zerocopy::transmute!(self.clone())
    }

    /// Ones' complement of the sum of all bytes but the checksum's own.
    fn compute_checksum(&self) -> u32 {
        checksum(self.as_bytes(), self.checksum.as_bytes())
    }

    fn update_checksum(&mut self) {
        self.checksum = self.compute_checksum().into();
    }

    /// `None`: deprecated or unknown, never from [`Footer::parse`].
    pub fn kind(&self) -> Option<DiskType> {
        match self.disk_type.get() {
            2 => Some(DiskType::Fixed),
            3 => Some(DiskType::Dynamic),
            4 => Some(DiskType::Differencing),
            _ => None,
        }
    }

    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.kind() == Some(DiskType::Fixed)
    }

    /// Virtual size in bytes: the field "current size", whoever wrote the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.current_size.get()
    }

    /// Sets the virtual size and, with it, geometry and checksum.
    pub fn set_size(&mut self, size: u64) {
        let geometry = Geometry::of_size(size);
        self.current_size = size.into();
        self.cylinders = geometry.cylinders.into();
        self.heads = geometry.heads;
        self.sectors = geometry.sectors;
        self.update_checksum();
    }

    #[must_use]
    pub fn original_size(&self) -> u64 {
        self.original_size.get()
    }

    #[must_use]
    pub fn geometry(&self) -> Geometry {
        Geometry { cylinders: self.cylinders.get(), heads: self.heads, sectors: self.sectors }
    }

    /// Byte offset of the dynamic header; all ones in a fixed disk.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.data_offset.get()
    }

    #[must_use]
    pub fn unique_id(&self) -> Uuid {
        Uuid::from_bytes(self.unique_id)
    }

    /// Seconds since 2000-01-01 UTC.
    #[must_use]
    pub fn time_stamp(&self) -> u32 {
        self.time_stamp.get()
    }

    /// Time of creation in seconds since the Unix epoch.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        EPOCH + u64::from(self.time_stamp.get())
    }

    /// The four characters that name the creator, padding included; other than printable ones as they are in Latin-1.
    #[must_use]
    pub fn creator_app(&self) -> String {
        self.creator_app.iter().map(|&byte| char::from(byte)).collect()
    }

    /// Major and minor version of the creator.
    #[must_use]
    pub fn creator_version(&self) -> (u16, u16) {
        let version = self.creator_version.get();
        ((version >> 16) as u16, version as u16)
    }

    /// `Wi2k`, `Mac ` or another host system.
    #[must_use]
    pub fn creator_os(&self) -> String {
        self.creator_os.iter().map(|&byte| char::from(byte)).collect()
    }

    #[must_use]
    pub fn saved_state(&self) -> bool {
        self.saved_state != 0
    }

    #[must_use]
    pub fn reserved_feature_bit(&self) -> bool {
        self.features.get() & FEATURE_RESERVED != 0
    }

    /// Feature bits that the specification does not define.
    #[must_use]
    pub fn unknown_features(&self) -> u32 {
        self.features.get() & !(FEATURE_RESERVED | FEATURE_TEMPORARY)
    }

    /// Whether this program may change the file: not with features that it does not know.
    pub(super) fn check_writable(&self) -> Result<()> {
        match self.unknown_features() {
            0 => Ok(()),
            bits => {
                let what = format!("unknown feature bits {bits:#010x}: the file is not changed");
                Err(Fault::UnsupportedFeatures.error(what))
            }
        }
    }
}

impl std::fmt::Debug for Footer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Footer")
            .field("kind", &self.kind())
            .field("size", &self.size())
            .field("data_offset", &self.data_offset())
            .field("unique_id", &self.unique_id())
            .finish_non_exhaustive()
    }
}

/// Checksum of footer and header: ones' complement of the byte sum of `whole` without the bytes of `field` in it.
pub(super) fn checksum(whole: &[u8], field: &[u8]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    !(sum(whole) - sum(field))
}

/// Seconds since 2000-01-01 UTC, clamped to what the field holds.
pub(super) fn to_vhd_time(unix_seconds: u64) -> u32 {
    u32::try_from(unix_seconds.saturating_sub(EPOCH)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const GIB: u64 = 1 << 30;

    fn fault_of(bytes: &[u8; FOOTER]) -> ErrorKind {
        Footer::parse(bytes).unwrap_err().kind()
    }

    /// `bytes` with a field changed and the checksum made right again.
    fn with(at: usize, value: &[u8]) -> [u8; FOOTER] {
        let mut bytes = Footer::fixed(GIB, Uuid::from_u128(7), EPOCH + 5).to_bytes();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes[64..68].fill(0);
        let sum = !bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        bytes[64..68].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn fixed_footer_as_the_field_table_has_it() {
        let bytes = Footer::fixed(30 * GIB, Uuid::from_u128(0x0102), EPOCH + 0x1234).to_bytes();
        assert_eq!(&bytes[0..8], b"conectix");
        assert_eq!(bytes[8..12], [0, 0, 0, 2]);
        assert_eq!(bytes[12..16], [0, 1, 0, 0]);
        assert_eq!(bytes[16..24], [0xFF; 8]);
        assert_eq!(bytes[24..28], 0x1234u32.to_be_bytes());
        assert_eq!(&bytes[28..32], b"win ");
        assert_eq!(&bytes[36..40], b"Wi2k");
        assert_eq!(bytes[40..48], (30 * GIB).to_be_bytes());
        assert_eq!(bytes[48..56], (30 * GIB).to_be_bytes());
        assert_eq!(bytes[56..60], [0xF3, 0xCF, 16, 63]);
        assert_eq!(bytes[60..64], [0, 0, 0, 2]);
        assert_eq!(bytes[82..84], [1, 2]);
        let footer = Footer::parse(&bytes).unwrap();
        assert_eq!(footer.to_bytes(), bytes);
        assert_eq!((footer.size(), footer.is_fixed()), (30 * GIB, true));
    }

    #[test]
    fn each_rule_refuses_with_its_name() {
        let good = with(511, &[0]);
        assert!(Footer::parse(&good).is_ok());
        let mut flipped = good;
        flipped[300] ^= 1;
        assert_eq!(fault_of(&flipped), ErrorKind::Vhd(Fault::BadFooterChecksum));
        assert!(Footer::parse_ignoring_checksum(&flipped).is_ok());
        assert_eq!(fault_of(&[0; FOOTER]), ErrorKind::Vhd(Fault::NotVhd));
        for (at, value, fault) in [
            (12, &2u32.rotate_left(16).to_be_bytes()[..], Fault::UnsupportedVersion),
            (60, &5u32.to_be_bytes(), Fault::UnsupportedDiskType),
            (60, &0u32.to_be_bytes(), Fault::UnsupportedDiskType),
            (48, &0u64.to_be_bytes(), Fault::BadSize),
            (48, &513u64.to_be_bytes(), Fault::BadSize),
        ] {
            assert_eq!(fault_of(&with(at, value)), ErrorKind::Vhd(fault), "at {at}");
        }
        assert!(Footer::parse(&with(48, &(3u64 << 40).to_be_bytes())).is_ok(), "fixed disks have no limit of 2040 GiB");
        let mut big = with(48, &(2041 * GIB).to_be_bytes());
        big[60..64].copy_from_slice(&3u32.to_be_bytes());
        assert_eq!(Footer::parse_ignoring_checksum(&big).unwrap_err().kind(), ErrorKind::Vhd(Fault::SizeTooLarge));
    }

    #[test]
    fn reserved_bytes_survive() {
        let bytes = with(100, b"something of the creator's");
        assert_eq!(Footer::parse(&bytes).unwrap().to_bytes(), bytes);
    }

    /// Values computed by hand from the appendix, one for each of its branches.
    #[test]
    fn geometry_by_the_appendix() {
        for (size, cylinders, heads, sectors) in [
            (1 << 20, 30, 4, 17),
            (20 << 20, 602, 4, 17),
            (127 << 20, 1019, 15, 17),
            (200 << 20, 825, 16, 31),
            (10 * GIB, 20805, 16, 63),
            (127 * GIB, 65278, 16, 255),
            (3 << 40, 65535, 16, 255),
        ] {
            assert_eq!(Geometry::of_size(size), Geometry { cylinders, heads, sectors }, "{size}");
        }
    }
}
