//! An image opened to be read once, such as by a conversion: no identity is taken and no change is looked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::identity::ImageFile;
use super::raw::RawImage;
use super::{BaseImage, BaseRun, Format, OpenOptions, detect, is_called_vhd};
use crate::Result;
use crate::io::host_file::HostFile;
use crate::vhd::OpenChain;

/// Bytes whose runs are asked for at a time when the next data is looked for.
const WINDOW: u64 = 64 << 20;

/// See the module documentation.
#[derive(Debug)]
pub struct UntrackedImage {
    image: Box<dyn BaseImage>,
    pub(super) files: Vec<ImageFile>,
    format: Format,
    /// Byte n of the (only) file is byte n of the disk.
    flat: bool,
}

impl UntrackedImage {
    /// Opens a regular file with its parents, or a block device.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        Self::of(HostFile::open_to_copy(path)?, options)
    }

    /// The folders in which parents of an image may be looked for when `file` is opened by [`UntrackedImage::of`].
    pub fn parent_folders(file: &HostFile, options: &OpenOptions) -> Result<Vec<PathBuf>> {
        let is_vhd = options.format.map_or_else(|| is_called_vhd(file.path()), |format| format == Format::Vhd);
        if is_vhd { crate::vhd::parent_folders(file, &options.of_vhd()) } else { Ok(Vec::new()) }
    }

    /// The same of a file that is open already.
    pub fn of(file: HostFile, options: &OpenOptions) -> Result<Self> {
        let format = match options.format {
            Some(format) => format,
            None => detect(&file, options)?,
        };
        match format {
            Format::Raw => Self::raw(file),
            Format::Vhd => Ok(Self::vhd(crate::vhd::open_file(file, &options.of_vhd())?)),
        }
    }

    pub fn raw(file: HostFile) -> Result<Self> {
        let file = Arc::new(file);
        let image = RawImage::new(file.clone())?;
        let files = vec![ImageFile { file, unique_id: None, metadata: Vec::new() }];
        Ok(Self { image: Box::new(image), files, format: Format::Raw, flat: true })
    }

    #[must_use]
    pub fn vhd(vhd: OpenChain) -> Self {
        let images = vhd.chain.images();
        let flat = images.len() == 1 && images[0].bat().is_none();
        let describe = |(file, image): (Arc<HostFile>, &crate::vhd::Image)| ImageFile {
            file,
            unique_id: Some(image.meta().footer().unique_id()),
            metadata: image.metadata_ranges(),
        };
        let files = vhd.files.into_iter().zip(images).map(describe).collect();
        Self { image: Box::new(vhd.chain), files, format: Format::Vhd, flat }
    }

    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The path of every file that the image is read from: itself, its parent, and so on.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.file.path().to_owned()).collect()
    }

    /// Nothing tells whether it was touched: a block device.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.files.iter().any(|file| file.file.is_device())
    }

    /// A device that something else has mounted or holds: it may change while it is read.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.files.iter().any(|file| file.file.is_in_use())
    }

    /// Virtual size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.image.size()
    }

    /// As [`BaseImage::read_at`].
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.image.read_at(offset, buf)
    }

    /// The first byte at or after `offset` that may be other than zero. Unlike [`BaseImage::runs`] it passes over holes
    /// of a flat file, which read as zeros like those of the format.
    pub fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        if self.flat {
            let next = self.files[0].file.next_data(offset)?;
            return Ok(next.map(|(start, _)| start).filter(|&start| start < self.size()));
        }
        let mut at = offset;
        while at < self.size() {
            let len = WINDOW.min(self.size() - at);
            let mut skipped = 0;
            let mut found = false;
            self.image.runs(at, len, &mut |run, bytes| {
                match run {
                    BaseRun::Data | BaseRun::Held { .. } => found = true,
                    BaseRun::Zero if !found => skipped += bytes,
                    BaseRun::Zero => {}
                }
                Ok(())
            })?;
            if found {
                return Ok(Some(at + skipped));
            }
            at += len;
        }
        Ok(None)
    }

    /// A text that stays the same as long as nothing touches the files that the image is read from.
    pub fn stamp(&self) -> Result<String> {
        let stamps: Result<Vec<_>> = self.files.iter().map(|file| file.file.stamp()).collect();
        Ok(stamps?.join("; "))
    }

    pub(super) fn into_parts(self) -> (Box<dyn BaseImage>, Vec<ImageFile>) {
        (self.image, self.files)
    }
}
