//! Checking a VHD as far as it can be: every rule, every block, every parent. Changes nothing.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::image::Image;
use super::meta::{Metadata, Notice};
use super::open::{self, OpenOptions};
use super::{DiskType, MAX_ENTRIES, Warning};
use crate::io::host_file::HostFile;
use crate::io::source::Source;
use crate::io::system;
use crate::io::zeros::is_zero;
use crate::{Error, ErrorKind, Result};

/// Faults of the table after which no more are listed.
const MAX_FAULTS: usize = 100;

/// What a check found.
#[derive(Debug)]
pub struct Report {
    pub kind: DiskType,
    /// Empty: the disk is sound.
    pub faults: Vec<Error>,
    pub notices: Vec<Notice>,
    /// Blocks in the file, of those that the disk has; zero for a fixed disk.
    pub blocks: (u64, u64),
}

/// Checks the VHD at `path`. Footer and header must be sound for a report; what is wrong with them is the error.
/// `progress` hears of blocks looked at and how many there are.
pub fn check(path: &Path, options: &OpenOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    let file = Arc::new(HostFile::open(path)?);
    let at_path = |error: Error| if error.path().is_some() { error } else { error.at_path(path) };
    let meta = Metadata::read(&*file, options.recover, system::seconds());
    let meta = meta.map_err(|error| at_path(options.names.recovering(error)))?;
    let mut faults = Vec::new();
    let mut report = |error: Error| {
        faults.push(error.at_path(path));
        if faults.len() < MAX_FAULTS {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(Error::new(ErrorKind::LimitExceeded, "too many faults"))
        }
    };
    let opened = Image::new(file.clone(), meta.clone(), &mut MAX_ENTRIES.clone(), &mut report);
    let image = match opened {
        Ok(image) if faults.is_empty() => image,
        Err(error) if faults.is_empty() => return Err(at_path(error)),
        _ => return Ok(Report { kind: meta.kind(), faults, notices: meta.notices().to_vec(), blocks: (0, 0) }),
    };
    let mut notices = image.notices().to_vec();
    if image.kind() == DiskType::Differencing {
        match open::open(path, options) {
            Ok(chain) => notices = chain.chain.images()[0].notices().to_vec(),
            Err(error) => faults.push(at_path(error)),
        }
    }
    if image.kind() == DiskType::Dynamic {
        notices.extend(hidden_data(&image, &file, progress).map_err(at_path)?);
    }
    let blocks = image.bat().map_or((0, 0), |bat| (bat.used() as u64, bat.len() as u64));
    Ok(Report { kind: image.kind(), faults, notices, blocks })
}

/// Data that a dynamic disk holds in sectors that its bitmaps call unused.
fn hidden_data(image: &Image, file: &HostFile, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Notice>> {
    let Some(bat) = image.bat() else { return Ok(None) };
    let mut buf = vec![0; 64 << 10];
    let mut first = None;
    let mut bytes = 0;
    // Holes are passed over: a file that takes no space may have terabytes of them.
    let mut data = 0..0;
    for block in 0..bat.len() {
        image.clear_runs(block, &mut |mut at, len| {
            let stop = at + len;
            while at < stop {
                if !data.contains(&at) {
                    let Some((start, end)) = file.next_data(at)? else { break };
                    data = start..end;
                    at = at.max(start);
                    continue;
                }
                let part = &mut buf[..(stop.min(data.end) - at).min(64 << 10) as usize];
                file.read_at(at, part)?;
                if !is_zero(part) {
                    first = first.or(Some(at));
                    bytes += part.len();
                }
                at += part.len() as u64;
            }
            Ok(())
        })?;
        progress(block as u64 + 1, bat.len() as u64);
    }
    Ok(first.map(|at| {
        let what = format!("up to {bytes} bytes that are not zero lie in sectors that the bitmaps call unused");
        Notice::new(Warning::ClearBitNonZeroData, at, what)
    }))
}
