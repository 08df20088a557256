//! What keeps Azure from taking a file as a disk, and what mends it.
//!
//! Azure takes a page blob that is a fixed VHD: the content, a whole number of MiB and at least 20 of them, and the
//! footer as the last 512 bytes.

use std::path::Path;

use serde::Serialize;

use super::footer::{FOOTER, Footer};
use super::meta::{Metadata, Trailing, read_footer};
use super::{DiskType, Fault, Warning};
use crate::io::host_file::HostFile;
use crate::io::source::Source;
use crate::io::system;
use crate::vhd::foreign::{Foreign, HEAD};
use crate::{ErrorKind, Result};

/// Bytes before the end of a file's data in which a footer that is not last is looked for.
const SEARCH: u64 = 1 << 20;
const MIB: u64 = 1 << 20;
/// The least size that Azure takes.
const LEAST: u64 = 20 * MIB;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Cause {
    /// Neither a footer nor a format that is known.
    Raw,
    Vhdx,
    /// An image of another format under the name of a VHD.
    OtherFormat,
    Dynamic,
    Differencing,
    FooterMissing,
    FooterDamaged,
    /// A footer of 511 bytes.
    FooterShort,
    DataAfterFooter,
    /// Bytes between the end of the disk and the footer.
    DataBeforeFooter,
    DataOffset,
    SavedState,
    /// Content is missing; no command brings it back.
    Truncated,
    SizeNotWholeMib,
    /// The size was rounded to a geometry, as qemu-img does unless it is told `force_size`.
    SizeRoundedToGeometry,
    TooSmall,
}

/// A cause with one line about it and one command that mends it.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    pub cause: Cause,
    pub message: String,
    pub fix: String,
}

/// Everything that keeps Azure from taking the file at `path`, the first to be mended first. Empty: it is fine.
pub fn diagnose(path: &Path) -> Result<Vec<Problem>> {
    let file = HostFile::open(path)?;
    let fixes = Fixes { file: quote(path), out: quote(&beside(path)) };
    let trailing = match Trailing::find(&file) {
        Err(error) if error.kind() == ErrorKind::Vhd(Fault::TooSmall) => Trailing::None,
        other => other?,
    };
    match trailing {
        Trailing::None => Ok(vec![without_footer(&file, &fixes)?]),
        Trailing::Invalid { error, .. } => Ok(vec![Problem::new(
            Cause::FooterDamaged,
            format!("the footer is damaged: {}", error.what()),
            fixes.repair(),
        )]),
        Trailing::Valid { footer, .. } => match Metadata::read(&file, false, system::seconds()) {
            Ok(meta) => Ok(with_footer(&meta, &fixes)),
            Err(error) if error.kind() == ErrorKind::Vhd(Fault::Truncated) => {
                let what = format!("the footer says {} bytes, but the file holds fewer", footer.size());
                Ok(vec![Problem::new(Cause::Truncated, what, "copy the file again: content is missing".to_owned())])
            }
            Err(error) => Err(error.at_path(path)),
        },
    }
}

fn without_footer(file: &HostFile, fixes: &Fixes) -> Result<Problem> {
    let mut head = vec![0; HEAD.min(file.size() as usize)];
    file.read_at(0, &mut head)?;
    if let Some(foreign) = Foreign::of(&head) {
        let cause = if foreign.name == "VHDX" { Cause::Vhdx } else { Cause::OtherFormat };
        let what = format!("{}, whatever its name says", foreign.described());
        return Ok(Problem::new(cause, what, foreign.command(&fixes.file, &fixes.out)));
    }
    if read_footer(file, 0).is_ok_and(|footer| !footer.is_fixed()) {
        let what = "a dynamic disk whose footer at the end is missing";
        return Ok(Problem::new(Cause::FooterMissing, what, fixes.convert("--recover ")));
    }
    if let Some((at, behind)) = early_footer(file)? {
        let what = format!("{behind} bytes lie after the footer");
        let fix = format!("truncate -s {} {}", at + FOOTER as u64, fixes.file);
        return Ok(Problem::new(Cause::DataAfterFooter, what, fix));
    }
    let what = "no footer: a raw image, or a VHD that lost its end";
    if file.size() == 0 || !file.size().is_multiple_of(512) {
        let fix = format!("truncate -s %512 {}", fixes.file);
        return Ok(Problem::new(Cause::Raw, format!("{what}; and {} bytes are no whole pages", file.size()), fix));
    }
    Ok(Problem::new(Cause::Raw, what, fixes.convert("--from raw ")))
}

/// A valid footer of a fixed disk near the end of the data, and the bytes behind it. Only one that lies right behind
/// its disk counts: a disk may hold disks.
fn early_footer(file: &HostFile) -> Result<Option<(u64, u64)>> {
    let size = file.size();
    // Where a disk was made larger and the power went, the rest of the file is one hole.
    let mut end = 0;
    while let Some((_, next)) = file.next_data(end)? {
        end = next.min(size);
    }
    let from = end.saturating_sub(SEARCH) / 512 * 512;
    let mut tail = vec![0; (end - from) as usize];
    file.read_at(from, &mut tail)?;
    for n in (0..(tail.len() + 1).saturating_sub(FOOTER)).step_by(512).rev() {
        let Ok(bytes) = <&[u8; FOOTER]>::try_from(&tail[n..n + FOOTER]) else { continue };
        let at = from + n as u64;
        if Footer::parse(bytes).is_ok_and(|footer| footer.is_fixed() && footer.size() == at) {
            return Ok(Some((at, size - at - FOOTER as u64)));
        }
    }
    Ok(None)
}

fn with_footer(meta: &Metadata, fixes: &Fixes) -> Vec<Problem> {
    let footer = meta.footer();
    let size = footer.size();
    match meta.kind() {
        DiskType::Fixed => {}
        DiskType::Dynamic => return vec![Problem::new(Cause::Dynamic, "a dynamic disk", fixes.convert(""))],
        DiskType::Differencing => {
            let what = "a differencing disk, which needs its parent";
            return vec![Problem::new(Cause::Differencing, what, fixes.convert(""))];
        }
    }
    let mut problems = Vec::new();
    for notice in meta.notices() {
        let (cause, fix) = match notice.warning {
            Warning::TrailingGap => (Cause::DataBeforeFooter, fixes.convert("")),
            Warning::DataOffsetNotAllOnes => (Cause::DataOffset, fixes.convert("")),
            Warning::ShortFooter => (Cause::FooterShort, fixes.repair()),
            Warning::SavedState => (Cause::SavedState, fixes.convert("")),
            _ => continue,
        };
        problems.push(Problem::new(cause, notice.message.clone(), fix));
    }
    let resize =
        || azure_size(size).map_or_else(String::new, |size| format!("sealdisk vhd resize {} {size}", fixes.file));
    if !size.is_multiple_of(MIB) {
        let rounded = footer.geometry().bytes() == size;
        let by = if footer.creator_app().starts_with("qem") { " by qemu-img" } else { "" };
        problems.push(if rounded {
            let what = format!("the size, {size} bytes, was rounded to a geometry{by} and is no whole number of MiB");
            Problem::new(Cause::SizeRoundedToGeometry, what, resize())
        } else {
            let what = format!("the size, {size} bytes, is no whole number of MiB");
            Problem::new(Cause::SizeNotWholeMib, what, resize())
        });
    } else if size < LEAST {
        problems.push(Problem::new(Cause::TooSmall, format!("{} MiB are less than 20", size / MIB), resize()));
    }
    problems
}

impl Problem {
    fn new(cause: Cause, message: impl Into<String>, fix: String) -> Self {
        Self { cause, message: message.into(), fix }
    }
}

/// Commands for one file.
struct Fixes {
    file: String,
    out: String,
}

impl Fixes {
    fn convert(&self, options: &str) -> String {
        format!("sealdisk vhd convert {options}{} {} --to fixed --azure", self.file, self.out)
    }

    fn repair(&self) -> String {
        format!("sealdisk vhd repair {}", self.file)
    }
}

/// The name of a mended copy.
fn beside(path: &Path) -> std::path::PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-azure.vhd"))
}

/// `path` as one word of a shell.
fn quote(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(&b);
    if text.bytes().all(plain) && !text.starts_with('-') {
        return text.into_owned();
    }
    let guarded = if text.starts_with('-') { format!("./{text}") } else { text.into_owned() };
    format!("'{}'", guarded.replace('\'', "'\\''"))
}

/// The least size that Azure takes for a disk that holds `size` bytes; `None`: there is none.
#[must_use]
pub fn azure_size(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(MIB).map(|size| size.max(LEAST))
}
