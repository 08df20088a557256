//! Finding and checking what describes one VHD file: its footer, footer copy and dynamic header.
//!
//! **The trailing footer decides.** Sector 0 of a fixed disk belongs to the guest, who can put a footer and a dynamic
//! header there and so make a careless reader open other files. The copy at offset 0 is used only where the caller asks
//! for recovery, and then only as one of a dynamic or differencing disk with a valid header.

use super::footer::{DiskType, FOOTER, Footer};
use super::header::{HEADER, Header};
use super::{Fault, SECTOR, Warning, locator};
use crate::io::source::Source;
use crate::{Error, Result};

/// The hint where only the trailing footer is bad.
pub(super) const COPY_IS_VALID: &str =
    "the footer copy at offset 0 is valid: `sealdisk vhd repair FILE` restores the footer";

/// A clock that is wrong by a time zone is no reason to warn.
const FUTURE_SLACK: u64 = 24 * 60 * 60;

/// A warning with its particulars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub warning: Warning,
    pub message: String,
    /// Byte of the file it is about.
    pub offset: Option<u64>,
}

impl Notice {
    pub(super) fn new(warning: Warning, offset: impl Into<Option<u64>>, message: impl Into<String>) -> Self {
        Self { warning, message: message.into(), offset: offset.into() }
    }
}

/// What describes one VHD file, checked as far as it goes without the block allocation table and the parents.
#[derive(Debug, Clone)]
pub struct Metadata {
    footer: Footer,
    end: u64,
    short: bool,
    header: Option<Header>,
    notices: Vec<Notice>,
}

impl Metadata {
    /// `recover`: use the footer copy at offset 0 where the trailing footer is bad. `now`: seconds since the Unix
    /// epoch, to tell a time stamp in the future.
    pub fn read(source: &dyn Source, recover: bool, now: u64) -> Result<Self> {
        let mut meta = match Trailing::find(source)? {
            Trailing::Valid { footer, at, short } => {
                Self { footer: *footer, end: at, short, header: None, notices: Vec::new() }
            }
            Trailing::Invalid { error, at } => Self::from_copy(source, recover, error, at)?,
            Trailing::None => Self::from_copy(source, recover, absent(source)?, source.size())?,
        };
        if meta.short {
            let what = "the footer has 511 bytes, as old versions of Virtual PC wrote it";
            meta.notices.push(Notice::new(Warning::ShortFooter, meta.end, what));
        }
        meta.note_footer(now);
        if meta.footer.is_fixed() {
            meta.check_fixed()?;
        } else {
            if meta.header.is_none() {
                meta.header = Some(read_header(source, &meta.footer, meta.end)?);
                meta.compare_copy(source)?;
            }
            meta.check_layout()?;
        }
        Ok(meta)
    }

    /// `error`: why the trailing footer is none; `end`: where it would lie.
    fn from_copy(source: &dyn Source, recover: bool, error: Error, end: u64) -> Result<Self> {
        let copy = read_footer(source, 0).and_then(|footer| {
            if footer.is_fixed() {
                return Err(Fault::NotVhd.error("a fixed disk has no footer copy"));
            }
            let header = read_header(source, &footer, end)?;
            Ok((footer, header))
        });
        let (footer, header) = match copy {
            Ok(copy) => copy,
            Err(_) => return Err(error),
        };
        if !recover {
            let kind = footer.kind().map_or("", DiskType::name);
            return Err(match error.kind() {
                crate::ErrorKind::Vhd(Fault::NotVhd) => {
                    let what = format!("a {kind} disk whose end is missing: no footer there");
                    Fault::Truncated.at(end, what)
                }
                _ => error,
            }
            .hint(COPY_IS_VALID));
        }
        let what = format!("read by the footer copy at offset 0: {}", error.what());
        let notices = vec![Notice::new(Warning::FooterRecovered, end, what)];
        Ok(Self { footer, end, short: false, header: Some(header), notices })
    }

    fn note_footer(&mut self, now: u64) {
        let footer = &self.footer;
        if !footer.reserved_feature_bit() {
            let what = "the feature bit that must always be set is clear";
            self.notices.push(Notice::new(Warning::ReservedFeatureBitClear, self.end + 8, what));
        }
        if footer.unknown_features() != 0 {
            let what = format!("unknown feature bits {:#010x}", footer.unknown_features());
            self.notices.push(Notice::new(Warning::UnknownFeatureBits, self.end + 8, what));
        }
        if footer.unix_seconds() > now.saturating_add(FUTURE_SLACK) {
            let what = format!("the time stamp is {} s ahead of the clock", footer.unix_seconds() - now);
            self.notices.push(Notice::new(Warning::TimestampInFuture, self.end + 24, what));
        }
        if footer.saved_state() {
            let what = "the disk belongs to a saved virtual machine; its content may be incomplete without it";
            self.notices.push(Notice::new(Warning::SavedState, self.end + 84, what));
        }
    }

    fn check_fixed(&mut self) -> Result<()> {
        let (size, end) = (self.footer.size(), self.end);
        if size > end {
            let what = format!("the footer says {size} bytes, but only {end} lie before it");
            return Err(Fault::Truncated.at(end + 48, what));
        }
        if size < end {
            let what = format!("{} bytes between the end of the disk and the footer", end - size);
            self.notices.push(Notice::new(Warning::TrailingGap, size, what));
        }
        if self.footer.data_offset() != u64::MAX {
            let what = format!("the data offset of a fixed disk is {:#x}, not all ones", self.footer.data_offset());
            self.notices.push(Notice::new(Warning::DataOffsetNotAllOnes, end + 16, what));
        }
        Ok(())
    }

    fn compare_copy(&mut self, source: &dyn Source) -> Result<()> {
        let notice = match read_footer(source, 0) {
            Err(error) if error.kind() == crate::ErrorKind::Io => return Err(error),
            Err(error) => {
                let what = format!("the footer copy at offset 0 is damaged: {}", error.what());
                Notice::new(Warning::FooterCopyBad, 0, what)
            }
            Ok(copy) => {
                let len = if self.short { FOOTER - 1 } else { FOOTER };
                let (ours, theirs) = (self.footer.to_bytes(), copy.to_bytes());
                let Some(at) = (0..len).find(|&at| ours[at] != theirs[at]) else { return Ok(()) };
                let what = format!("the footer copy at offset 0 differs from the footer from byte {at} on");
                Notice::new(Warning::FooterCopiesDiffer, at as u64, what)
            }
        };
        self.notices.push(notice);
        Ok(())
    }

    /// The table against the size, the end of the file and the other structures.
    fn check_layout(&self) -> Result<()> {
        let Some(header) = &self.header else { return Ok(()) };
        let at = self.footer.data_offset();
        let (blocks, entries) = (self.footer.size().div_ceil(header.block_size()), u64::from(header.max_entries()));
        if entries < blocks {
            let what = format!("the block allocation table has {entries} entries, the disk has {blocks} blocks");
            return Err(Fault::BatTooSmall.at(at + 28, what));
        }
        let table = header.table_offset();
        if table.checked_add(entries * 4).is_none_or(|end| end > self.end) {
            let what = format!("the block allocation table ({entries} entries at {table}) reaches past {}", self.end);
            return Err(Fault::BatOutOfFile.at(at + 16, what));
        }
        let structures = self.structures();
        for (index, (name, range)) in structures.iter().enumerate() {
            for (other_name, other) in &structures[..index] {
                if range.start < other.end && other.start < range.end {
                    let what = format!("the {name} at {} lies on the {other_name} at {}", range.start, other.start);
                    return Err(Fault::MetadataOverlap.at(range.start, what));
                }
            }
        }
        Ok(())
    }

    /// Footer copy, header, table and locators, in bytes of the file: where no block may lie.
    pub(super) fn structures(&self) -> Vec<(&'static str, std::ops::Range<u64>)> {
        let Some(header) = &self.header else { return Vec::new() };
        let at = self.footer.data_offset();
        let table = header.table_offset();
        let mut structures = vec![
            ("footer copy", 0..FOOTER as u64),
            ("dynamic header", at..at + HEADER as u64),
            ("block allocation table", table..table + u64::from(header.max_entries()) * 4),
        ];
        if self.kind() == DiskType::Differencing {
            // A locator that is itself bad claims no place.
            let locators = header.locators().filter_map(|(_, entry)| locator::range(&entry, self.end).ok());
            structures.extend(locators.map(|range| ("parent locator", range)));
        }
        structures
    }

    #[must_use]
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    #[must_use]
    pub fn kind(&self) -> DiskType {
        self.footer.kind().unwrap_or(DiskType::Fixed)
    }

    /// Byte offset of the trailing footer, or where it would lie: nothing else may reach past it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Of dynamic and differencing disks.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }
}

/// What lies at the end of a file.
pub(super) enum Trailing {
    Valid {
        footer: Box<Footer>,
        at: u64,
        short: bool,
    },
    /// A footer, but a bad one.
    Invalid {
        error: Error,
        at: u64,
    },
    None,
}

impl Trailing {
    /// Looks at the last 512 bytes, and at the last 511 of a file of an odd length that old Virtual PC left.
    pub(super) fn find(source: &dyn Source) -> Result<Self> {
        let size = source.size();
        if size < FOOTER as u64 - 1 {
            return Err(Fault::TooSmall.error(format!("a file of {size} bytes has no room for a footer")));
        }
        for len in [FOOTER, FOOTER - 1] {
            let short = len < FOOTER;
            let Some(at) = size.checked_sub(len as u64) else { continue };
            if short && !at.is_multiple_of(SECTOR) {
                continue;
            }
            let mut bytes = [0; FOOTER];
            source.read_at(at, &mut bytes[..len])?;
            match Footer::parse(&bytes) {
                Ok(footer) => return Ok(Trailing::Valid { footer: Box::new(footer), at, short }),
                Err(error) if error.kind() == crate::ErrorKind::Vhd(Fault::NotVhd) => {}
                Err(error) => return Ok(Trailing::Invalid { error: error.at_offset(at), at }),
            }
        }
        Ok(Trailing::None)
    }
}

/// Why a file without a trailing footer is refused.
fn absent(source: &dyn Source) -> Result<Error> {
    let mut start = [0; 8];
    source.read_at(0, &mut start)?;
    if &start == b"vhdxfile" {
        let hint = "`qemu-img convert -f vhdx -O vpc -o subformat=fixed,force_size=on IN OUT.vhd` makes a VHD of it";
        return Ok(Fault::IsVhdx.at(0, "a VHDX, not a VHD").hint(hint));
    }
    Ok(Fault::NotVhd
        .at(source.size() - FOOTER.min(source.size() as usize) as u64, "no VHD footer at the end of the file"))
}

pub(super) fn read_footer(source: &dyn Source, at: u64) -> Result<Footer> {
    let mut bytes = [0; FOOTER];
    if source.size() < at.saturating_add(FOOTER as u64) {
        return Err(Fault::NotVhd.at(at, "no room for a footer"));
    }
    source.read_at(at, &mut bytes)?;
    Footer::parse(&bytes).map_err(|error| error.at_offset(at))
}

/// The bytes of the header that `footer` points to, which must lie before `end`.
pub(super) fn read_header_bytes(source: &dyn Source, footer: &Footer, end: u64) -> Result<[u8; HEADER]> {
    let at = footer.data_offset();
    if !at.is_multiple_of(SECTOR) || at < SECTOR {
        return Err(Fault::BadHeaderOffset.at(end + 16, format!("the dynamic header cannot lie at {at:#x}")));
    }
    if at.checked_add(HEADER as u64).is_none_or(|header_end| header_end > end) {
        let what = format!("the dynamic header at {at} reaches past {end}, the end of the file's content");
        return Err(Fault::HeaderOutOfFile.at(end + 16, what));
    }
    let mut bytes = [0; HEADER];
    source.read_at(at, &mut bytes)?;
    Ok(bytes)
}

fn read_header(source: &dyn Source, footer: &Footer, end: u64) -> Result<Header> {
    let bytes = read_header_bytes(source, footer, end)?;
    Header::parse(&bytes).map_err(|error| {
        let at = footer.data_offset() + error.offset().unwrap_or(0);
        error.at_offset(at)
    })
}
