//! Repairing what is written twice or can be computed: the footer, its copy, and the checksums. Nothing else is
//! changed, and nothing at all unless the disk is sound with what would be written.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::footer::FOOTER;
use super::header::Header;
use super::image::Image;
use super::meta::{Metadata, Trailing, read_footer, read_header_bytes};
use super::{Fault, Footer, MAX_ENTRIES, SECTOR};
use crate::io::host_file::HostFile;
use crate::io::real::RealFile;
use crate::io::sink::{sync, write_all};
use crate::io::source::Source;
use crate::io::{File, system};
use crate::{Error, ErrorKind, Result};

/// One thing to write.
#[derive(Debug, Clone)]
pub struct Repair {
    /// Byte of the file.
    pub offset: u64,
    bytes: Vec<u8>,
    /// What is mended by it, in a few words.
    pub what: &'static str,
}

/// Mends the VHD at `path`, or with `dry_run` says what would be written. Empty: nothing was to be done.
pub fn repair(path: &Path, dry_run: bool) -> Result<Vec<Repair>> {
    let at_path = |error: Error| if error.path().is_some() { error } else { error.at_path(path) };
    let source = Arc::new(HostFile::open(path)?);
    let repairs = plan(&source).map_err(at_path)?;
    if dry_run || repairs.is_empty() {
        return Ok(repairs);
    }
    let file = fs::File::options().write(true).open(path);
    let file = file.map_err(|e| Error::io("cannot open the disk for writing", e).at_path(path))?;
    apply(&RealFile::new(file), &repairs).map_err(at_path)?;
    Ok(repairs)
}

/// Writes what [`repair`] found for the disk in `file`.
pub fn apply(file: &dyn File, repairs: &[Repair]) -> Result<()> {
    for repair in repairs {
        write_all(file, &repair.bytes, repair.offset)?;
    }
    sync(file)
}

fn plan(source: &Arc<HostFile>) -> Result<Vec<Repair>> {
    let mut repairs = Vec::new();
    let footer = match Trailing::find(&**source)? {
        Trailing::Valid { footer, at, short } => {
            if short {
                repairs.push(Repair::new(at, &footer.to_bytes(), "the footer is completed to 512 bytes"));
            }
            *footer
        }
        Trailing::Invalid { error, at } => {
            let footer = restored(source, at, error)?;
            repairs.push(Repair::new(at, &footer.to_bytes(), "the footer is restored"));
            footer
        }
        Trailing::None => {
            let at = source.size().next_multiple_of(SECTOR);
            let absent = Fault::NotVhd.at(at, "neither a footer nor a copy of one: nothing to restore it from");
            let footer = copy(source).ok_or(absent)?;
            repairs.push(Repair::new(at, &footer.to_bytes(), "the missing footer is appended"));
            footer
        }
    };
    footer.check_writable()?;
    if !footer.is_fixed() {
        let end = source.size().max(repairs.iter().map(Repair::end).max().unwrap_or(0)) - FOOTER as u64;
        let bytes = read_header_bytes(&**source, &footer, end)?;
        match Header::parse(&bytes) {
            Err(error) if error.kind() == ErrorKind::Vhd(Fault::BadHeaderChecksum) => {
                let header = Header::parse_ignoring_checksum(&bytes)?;
                let what = "the checksum of the dynamic header is corrected";
                repairs.push(Repair::new(footer.data_offset(), &header.to_bytes(), what));
            }
            other => {
                other?;
            }
        }
        let mut copy = [0; FOOTER];
        source.read_at(0, &mut copy)?;
        if copy != footer.to_bytes() {
            repairs.push(Repair::new(0, &footer.to_bytes(), "the footer copy is made equal to the footer"));
        }
    }
    // Whatever else is wrong must not be covered up: the disk must be sound as it would then be.
    let mended = Mended { source: source.clone(), repairs: repairs.clone() };
    let meta = Metadata::read(&mended, false, system::seconds())?;
    Image::new(Arc::new(mended), meta, &mut MAX_ENTRIES.clone(), &mut ControlFlow::Break)?;
    Ok(repairs)
}

/// What the footer at `at` is to be, that is refused with `error`: its copy, or itself with the right checksum where
/// the length of the file proves its most important field.
fn restored(source: &HostFile, at: u64, error: Error) -> Result<Footer> {
    if let Some(footer) = copy(source) {
        return Ok(footer);
    }
    let mut bytes = [0; FOOTER];
    let len = (source.size() - at).min(FOOTER as u64) as usize;
    source.read_at(at, &mut bytes[..len])?;
    match Footer::parse_ignoring_checksum(&bytes) {
        Ok(footer) if footer.is_fixed() && footer.size() == at => Ok(footer),
        _ => Err(error),
    }
}

/// The footer copy, if it is one of a disk that has one.
fn copy(source: &HostFile) -> Option<Footer> {
    let footer = read_footer(source, 0).ok().filter(|footer| !footer.is_fixed())?;
    let bytes = read_header_bytes(source, &footer, source.size()).ok()?;
    Header::parse_ignoring_checksum(&bytes).ok()?;
    Some(footer)
}

impl Repair {
    fn new(offset: u64, bytes: &[u8], what: &'static str) -> Self {
        Self { offset, bytes: bytes.to_vec(), what }
    }

    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// A file as it would be with some repairs.
#[derive(Debug)]
struct Mended {
    source: Arc<HostFile>,
    repairs: Vec<Repair>,
}

impl Source for Mended {
    fn size(&self) -> u64 {
        self.repairs.iter().map(Repair::end).max().unwrap_or(0).max(self.source.size())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let stop = offset + buf.len() as u64;
        if stop > self.size() {
            return Err(Error::new(ErrorKind::Io, "read past the end").at_offset(offset));
        }
        let inside = self.source.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        self.source.read_at(offset, &mut buf[..inside])?;
        buf[inside..].fill(0);
        for repair in &self.repairs {
            let (from, to) = (repair.offset.max(offset), repair.end().min(stop));
            if from < to {
                let bytes = &repair.bytes[(from - repair.offset) as usize..(to - repair.offset) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }
}
