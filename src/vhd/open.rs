//! Opening a VHD of the host's file system with all its parents.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::bat::MAX_ENTRIES;
use super::chain::Chain;
use super::footer::to_vhd_time;
use super::image::Image;
use super::meta::{COPY_IS_VALID, Metadata, Notice};
use super::parent::Search;
use super::{DiskType, FOOTER, Fault, Warning};
use crate::io::host_file::HostFile;
use crate::io::source::Source;
use crate::io::system;
use crate::{Error, ErrorKind, Result};

/// The most files in a chain.
pub const MAX_DEPTH: usize = 128;

/// The options by which a user says how an image is opened, as the running verb calls them: what hints name. `None`:
/// the verb has no such option.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OptionNames {
    pub format: Option<&'static str>,
    /// A further folder for parents.
    pub root: Option<&'static str>,
    /// Reading by the footer copy.
    pub recover: Option<&'static str>,
}

impl OptionNames {
    /// The words that give the format `format`, quoted.
    pub(crate) fn giving_format(&self, format: &str) -> Option<String> {
        self.format.map(|option| format!("`{option} {format}`"))
    }

    /// `error`, with the option that reads by the footer copy where that is what would help.
    pub(crate) fn recovering(&self, error: Error) -> Error {
        match self.recover {
            Some(option) if error.hint_text() == Some(COPY_IS_VALID) => {
                error.hint(format!("{COPY_IS_VALID}, `{option}` reads by the copy"))
            }
            _ => error,
        }
    }
}

/// How a VHD is opened. The default reads only by the trailing footer and allows parents beside their child.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    pub names: OptionNames,
    /// Further folders in which parents may lie.
    pub roots: Vec<PathBuf>,
    /// Use the footer copy at offset 0 where the trailing footer is bad.
    pub recover: bool,
}

/// A chain and the files it is read from, in the same order.
#[derive(Debug)]
pub struct OpenChain {
    pub chain: Chain,
    pub files: Vec<Arc<HostFile>>,
}

/// Opens the VHD at `path` and its parents.
pub fn open(path: &Path, options: &OpenOptions) -> Result<OpenChain> {
    open_file(HostFile::open(path)?, options)
}

/// The same of a file that is open already.
pub fn open_file(file: HostFile, options: &OpenOptions) -> Result<OpenChain> {
    let mut builder = Builder::new(options.recover);
    builder.names = options.names;
    let file = Arc::new(file);
    let meta = builder.metadata(&file)?;
    builder.push(file, meta)?;
    while let Some((child, parent_id)) = builder.wants_parent()? {
        let mut search = Search::new(child, options)?;
        let (file, meta) = search.find(&builder.images[builder.images.len() - 1], |file| {
            builder.admit(&file, parent_id).map(|meta| (file, meta))
        })?;
        for notice in search.notices {
            builder.note(notice);
        }
        builder.push_parent(file, meta)?;
    }
    Ok(builder.finish())
}

/// The folders that [`open_file`] may look for parents in: none where nothing in the file says that it has any. Looks
/// at one field of a footer alone, and at no path in the file.
pub fn parent_folders(file: &HostFile, options: &OpenOptions) -> Result<Vec<PathBuf>> {
    let size = file.size();
    let mut has_parents = false;
    for at in [Some(0), size.checked_sub(FOOTER as u64), size.checked_sub(FOOTER as u64 - 1)].into_iter().flatten() {
        let mut kind = [0; 4];
        if at + 64 <= size {
            file.read_at(at + 60, &mut kind)?;
        }
        has_parents |= u32::from_be_bytes(kind) == DiskType::Differencing.code();
    }
    if !has_parents {
        return Ok(Vec::new());
    }
    let path = file.path().canonicalize().map_err(|e| Error::io("cannot resolve the path", e).at_path(file.path()))?;
    Ok(path.parent().map(Path::to_owned).into_iter().chain(options.roots.iter().cloned()).collect())
}

/// Opens only the file at `path`, be its parents where they may.
pub fn open_single(path: &Path, options: &OpenOptions) -> Result<OpenChain> {
    let mut builder = Builder::new(options.recover);
    builder.names = options.names;
    let file = Arc::new(HostFile::open(path)?);
    let meta = builder.metadata(&file)?;
    builder.push(file, meta)?;
    Ok(builder.finish())
}

/// Opens a chain of known files again, without following any name that lies in one of them.
pub fn open_files(files: Vec<Arc<HostFile>>, recover: bool) -> Result<OpenChain> {
    let mut builder = Builder::new(recover);
    for (index, file) in files.into_iter().enumerate() {
        let wanted = builder.wants_parent()?.map(|(_, id)| id);
        let meta = match wanted {
            None if index > 0 => {
                let what = "a disk that has no parent was recorded with one";
                return Err(Error::new(ErrorKind::BaseChanged, what).at_path(file.path()));
            }
            None => builder.metadata(&file)?,
            Some(id) => builder.admit(&file, id)?,
        };
        builder.push(file, meta)?;
    }
    if let Some((child, _)) = builder.wants_parent()? {
        return Err(Error::new(ErrorKind::BaseChanged, "was recorded without a parent").at_path(child.path()));
    }
    Ok(builder.finish())
}

/// Opens a chain whose files lie anywhere: `sources`, the disk itself first. Parents are not looked for.
pub fn open_sources(sources: Vec<Arc<dyn Source>>, recover: bool) -> Result<Chain> {
    let mut budget = MAX_ENTRIES;
    let mut images: Vec<Image> = Vec::new();
    for source in sources {
        let meta = Metadata::read(&*source, recover, system::seconds())?;
        if let Some(child) = images.last() {
            check_id(child, &meta)?;
        }
        images.push(Image::new(source, meta, &mut budget, &mut ControlFlow::Break)?);
    }
    match images.last() {
        Some(last) if last.kind() != DiskType::Differencing => Ok(Chain::new(images)),
        _ => Err(Fault::ParentNotFound.error("the chain ends in a differencing disk")),
    }
}

fn check_id(child: &Image, parent: &Metadata) -> Result<()> {
    let wanted = child.meta().header().map(super::header::Header::parent_id).unwrap_or_default();
    let found = parent.footer().unique_id();
    if wanted != found {
        let what = format!("its unique id is {found}, the child's parent has {wanted}");
        return Err(Fault::ParentIdMismatch.at(parent.end() + 68, what));
    }
    Ok(())
}

/// A chain while it is put together.
struct Builder {
    recover: bool,
    names: OptionNames,
    now: u64,
    budget: u64,
    images: Vec<Image>,
    files: Vec<Arc<HostFile>>,
    /// Device and inode of each file.
    seen: Vec<(u64, u64)>,
}

impl Builder {
    fn new(recover: bool) -> Self {
        Self {
            recover,
            names: OptionNames::default(),
            now: system::seconds(),
            budget: MAX_ENTRIES,
            images: Vec::new(),
            files: Vec::new(),
            seen: Vec::new(),
        }
    }

    fn metadata(&self, file: &HostFile) -> Result<Metadata> {
        let meta = Metadata::read(file, self.recover, self.now);
        meta.map_err(|error| self.names.recovering(error).at_path(file.path()))
    }

    fn push(&mut self, file: Arc<HostFile>, meta: Metadata) -> Result<()> {
        let path = file.path().to_owned();
        let image = Image::new(file.clone(), meta, &mut self.budget, &mut ControlFlow::Break);
        self.images.push(image.map_err(|error| error.at_path(path))?);
        self.seen.push(file.identity()?);
        self.files.push(file);
        Ok(())
    }

    /// The last file of the chain and the id of its parent, if it has one.
    fn wants_parent(&self) -> Result<Option<(&Arc<HostFile>, Uuid)>> {
        let (Some(image), Some(file)) = (self.images.last(), self.files.last()) else { return Ok(None) };
        let header = match image.meta().header() {
            Some(header) if image.kind() == DiskType::Differencing => header,
            _ => return Ok(None),
        };
        let at = image.meta().footer().data_offset();
        let id = header.parent_id();
        if self.images.iter().any(|image| image.meta().footer().unique_id() == id) {
            let what = format!("its parent {id} is the disk itself or one that has it as a parent");
            return Err(Fault::ParentCycle.at(at + 40, what).at_path(file.path()));
        }
        if self.images.len() == MAX_DEPTH {
            let what = format!("a chain of more than {MAX_DEPTH} files");
            return Err(Fault::LimitExceeded.at(at + 40, what).at_path(file.path()));
        }
        Ok(Some((file, id)))
    }

    /// Whether `file` is the parent with the unique id `id`.
    fn admit(&self, file: &HostFile, id: Uuid) -> Result<Metadata> {
        if self.seen.contains(&file.identity()?) {
            return Err(Fault::ParentCycle.error("the file is its own parent or its parent's").at_path(file.path()));
        }
        let meta = self.metadata(file)?;
        let found = meta.footer().unique_id();
        if found != id {
            let what = format!("is not the parent: its unique id is {found}, the parent has {id}");
            return Err(Fault::ParentIdMismatch.at(meta.end() + 68, what).at_path(file.path()));
        }
        Ok(meta)
    }

    fn push_parent(&mut self, file: Arc<HostFile>, meta: Metadata) -> Result<()> {
        // The specification means the time the file was last changed; some writers take its footer's time stamp.
        let modified = to_vhd_time(file.modified()?.max(0) as u64);
        let child = self.images.last().map(|child| child.meta());
        if let Some((header, at)) = child.and_then(|meta| Some((meta.header()?, meta.footer().data_offset() + 56))) {
            let recorded = header.parent_time_stamp();
            if recorded != modified && recorded != meta.footer().time_stamp() {
                let what = format!("{} may have been changed since this disk was made over it", file.path().display());
                self.note(Notice::new(Warning::ParentTimestampMismatch, at, what));
            }
        }
        self.push(file, meta)
    }

    fn note(&mut self, notice: Notice) {
        if let Some(image) = self.images.last_mut() {
            image.notice(notice);
        }
    }

    fn finish(self) -> OpenChain {
        OpenChain { chain: Chain::new(self.images), files: self.files }
    }
}
