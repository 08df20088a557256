//! Copying an image into another format: sparse, and read back and compared before it gets its name.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::base::read_ahead::read_ahead;
use crate::base::{self, Content, Format, UntrackedImage};
use crate::io::host_file::HostFile;
use crate::io::output::Output;
use crate::io::real::RealFile;
use crate::io::sink::Sink;
use crate::io::zeros::is_zero;
use crate::io::{File, system};
use crate::vhd::azure::azure_size;
use crate::vhd::write::{self, SparseWriter};
use crate::vhd::{self, DEFAULT_BLOCK, Fault};
use crate::{Error, ErrorKind, Result};

/// Bytes read at a time; a whole number of default blocks.
const PIECE: u64 = DEFAULT_BLOCK;
/// A run of zeros of this length is left out of a flat file.
const GRAIN: usize = 64 << 10;

/// What to convert to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Raw,
    Fixed,
    /// In blocks of so many bytes.
    Dynamic {
        block_size: u64,
    },
}

/// How to convert.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// How the input is opened.
    pub input: base::OpenOptions,
    pub target: Target,
    /// Round the virtual size up to what Azure takes: whole MiB, at least 20 of them.
    pub azure: bool,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Converted {
    pub from: Format,
    /// The files that were read: the image, its parent, and so on.
    pub files: Vec<PathBuf>,
    /// Virtual size of the new file in bytes.
    pub size: u64,
    /// Of a VHD.
    pub unique_id: Option<Uuid>,
    /// Bytes that are stored: the rest is zeros that take no space.
    pub stored: u64,
}

/// What [`convert`] is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Copy,
    /// Reading back and comparing.
    Verify,
}

/// Copies the image at `input` to the new file `output`. `progress` hears the phase and the bytes done of `total`.
pub fn convert(
    input: &Path,
    output: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Phase, u64, u64),
) -> Result<Converted> {
    let source = HostFile::open_to_copy(input)?;
    convert_into(source, Output::create(output)?, output, options, progress)
}

/// The same between files that are open: nothing but parents of the image is opened. `path`: the name of the new file.
pub fn convert_into(
    source: HostFile,
    output: Output,
    path: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Phase, u64, u64),
) -> Result<Converted> {
    let source = UntrackedImage::of(source, &options.input)?;
    let mut size = source.size();
    if options.azure {
        size =
            azure_size(size).ok_or_else(|| Fault::BadSize.error("the virtual size is too large to be rounded up"))?;
    }
    let file = output.file();
    let made = write_out(&mut &source, (file, Sink::empty(file)), path, options.target, size, progress)?;
    output.publish()?;
    let (from, files) = (source.format(), source.paths());
    Ok(Converted { from, files, size, unique_id: made.unique_id, stored: made.stored })
}

/// What [`write_out`] made.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// Of a VHD.
    pub unique_id: Option<Uuid>,
    /// Bytes that are stored.
    pub stored: u64,
}

/// Copies `source` into a file, and a sink over it, that is called `path` in messages: sparse, on stable storage, read
/// back and compared when this returns. The disk has `size` bytes, as many as the source at least. `progress` hears the
/// phase and the bytes done of all.
pub fn write_out(
    source: &mut dyn Content,
    (file, sink): (&RealFile, Sink<'_>),
    path: &Path,
    target: Target,
    size: u64,
    progress: &mut dyn FnMut(Phase, u64, u64),
) -> Result<Made> {
    let (id, now) = (system::uuid()?, system::seconds());
    let at_path = |error: Error| if error.path().is_some() { error } else { error.at_path(path) };
    let total = source.size();
    let mut on_copy = |done| progress(Phase::Copy, done, total);
    let stored = match target {
        Target::Raw => {
            write::check_size(size)?;
            sink.set_len(size).map_err(at_path)?;
            copy_flat(source, sink, size, &mut on_copy).map_err(at_path)?
        }
        Target::Fixed => {
            // The footer first: it makes the file as long as it gets, and no space is missing for it at the end.
            write::fixed(sink, size, id, now).map_err(at_path)?;
            copy_flat(source, sink, size, &mut on_copy).map_err(at_path)?
        }
        Target::Dynamic { block_size } => {
            let mut writer = SparseWriter::new(sink, size, block_size, id, now, None).map_err(at_path)?;
            let stored = copy(source, block_size, &mut on_copy, &mut |at, data| {
                writer.put((at / block_size) as usize, data).map(|()| data.len() as u64)
            });
            let stored = stored.map_err(at_path)?;
            writer.finish().map_err(at_path)?;
            stored
        }
    };
    verify(source, file, path, target, size, &mut |done| progress(Phase::Verify, done, total))?;
    Ok(Made { unique_id: (target != Target::Raw).then_some(id), stored })
}

/// Calls `put` with every piece that is not all zeros: its offset, a multiple of `piece`, and its bytes, `piece` of
/// them but for the last. `put` says how many it stored; the sum is the answer.
fn copy(
    source: &mut dyn Content,
    piece: u64,
    progress: &mut dyn FnMut(u64),
    put: &mut dyn FnMut(u64, &[u8]) -> Result<u64>,
) -> Result<u64> {
    let size = source.size();
    let mut next = 0;
    let fill = |buf: &mut [u8]| {
        if next == size {
            return Ok(None);
        }
        let Some(data) = source.next_data(next)? else { return Ok(None) };
        let at = data / piece * piece;
        let data = &mut buf[..piece.min(size - at) as usize];
        source.read_at(at, data)?;
        next = at + data.len() as u64;
        Ok(Some((at, data.len(), is_zero(data))))
    };
    let mut stored = 0;
    read_ahead(piece.min(size) as usize, fill, |pieces| {
        while let Some((at, data, zero)) = pieces.take()? {
            if !zero {
                stored += put(at, data)?;
            }
            progress(at + data.len() as u64);
        }
        Ok(())
    })?;
    progress(size);
    Ok(stored)
}

/// Puts what is not zero where it belongs in a flat file that has its length, and nothing anywhere else of the first
/// `size` bytes; syncs it.
fn copy_flat(source: &mut dyn Content, sink: Sink<'_>, size: u64, progress: &mut dyn FnMut(u64)) -> Result<u64> {
    let mut clean = 0;
    let stored = copy(source, PIECE, progress, &mut |at, data| {
        let mut stored = 0;
        for (n, part) in data.chunks(GRAIN).enumerate() {
            if !is_zero(part) {
                let at = at + (n * GRAIN) as u64;
                sink.clear(clean, at)?;
                sink.put(part, at)?;
                clean = at + part.len() as u64;
                stored += part.len() as u64;
            }
        }
        Ok(stored)
    })?;
    sink.clear(clean, size)?;
    sink.sync()?;
    Ok(stored)
}

/// Opens what was written as any reader would, and compares it with the source, from the device.
fn verify(
    source: &mut dyn Content,
    file: &RealFile,
    path: &Path,
    target: Target,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let fail = |e| Error::io("cannot read back the file", e).at_path(path);
    // A hint; what was synced can be dropped from the cache.
    let _ = file.drop_cache();
    let written = HostFile::from_fd(file.as_fd().try_clone_to_owned().map_err(fail)?, path)?;
    let written = match target {
        Target::Raw => UntrackedImage::raw(written)?,
        Target::Fixed | Target::Dynamic { .. } => UntrackedImage::vhd(vhd::open_files(vec![Arc::new(written)], false)?),
    };
    let differs =
        |at: u64| Error::new(ErrorKind::Io, "what was written reads back differently").at_path(path).at_offset(at);
    if written.size() != size {
        return Err(differs(0));
    }
    let source_size = source.size();
    let mut next = 0;
    let fill = |buf: &mut [u8]| {
        if next == size {
            return Ok(None);
        }
        let Some(data) = first(source.next_data(next)?, written.next_data(next)?) else { return Ok(None) };
        let at = data / PIECE * PIECE;
        let len = PIECE.min(size - at) as usize;
        // The new disk may be larger: zeros past the end of the source.
        let inside = source_size.saturating_sub(at).min(len as u64) as usize;
        source.read_at(at, &mut buf[..inside])?;
        buf[inside..len].fill(0);
        next = at + len as u64;
        Ok(Some((at, len, ())))
    };
    let mut theirs = vec![0; PIECE as usize];
    read_ahead(PIECE as usize, fill, |pieces| {
        while let Some((at, ours, ())) = pieces.take()? {
            let theirs = &mut theirs[..ours.len()];
            written.read_at(at, theirs)?;
            if ours != theirs {
                let same = ours.iter().zip(theirs).take_while(|(ours, theirs)| ours == theirs).count();
                return Err(differs(at + same as u64));
            }
            progress((at + ours.len() as u64).min(source_size));
        }
        Ok(())
    })?;
    progress(source_size);
    Ok(())
}

fn first(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
