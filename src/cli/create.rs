//! `create`: a new disk, empty or over a base image.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::values::ImageFormat;
use super::{reading, rebase, show, size};
use crate::Result;
use crate::account::failure::Failure;
use crate::account::name::BlobName;
use crate::account::report::DiskReport;
use crate::account::request::Request;
use crate::base::{self, BaseRecord, verify};
use crate::io::host_file::HostFile;
use crate::vhd::OptionNames;

const MIB: u64 = 1 << 20;

/// Make a disk: empty, or over an image that stays as it is
///
/// With --base the image is neither copied nor changed, and nothing in it becomes encrypted: what is written to the
/// disk from now on is stored apart, and encrypted while encryption is on. To have the content of an image encrypted
/// too, copy it: `sealdisk import`.
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("what").args(["size", "base"]).multiple(true).required(true)),
    after_help = "\
Examples:
  sealdisk create disk1 --size 10G
  sealdisk create web/root.vhd --base /images/debian.vhd
  sealdisk create web/big.vhd --base /images/debian.vhd --size 100G
  sealdisk create web/checked.vhd --base /images/debian.vhd --verify
  sealdisk create old --base-recover --base /images/cut-off.vhd"
)]
pub(super) struct Create {
    /// BLOB or CONTAINER/BLOB; the default container is vhds
    name: BlobName,
    /// Size of the disk: 10G, 512M, or bytes; over a base, the base's own if left out
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    size: Option<u64>,
    /// The image to lie under the disk: a VHD with its parents, or a raw image; a regular file
    #[arg(long, value_name = "IMAGE")]
    base: Option<PathBuf>,
    /// The format of the image; if left out, what is called .vhd or .avhd is a VHD, anything else is raw
    #[arg(long, value_name = "FORMAT", requires = "base")]
    base_format: Option<ImageFormat>,
    /// A further folder in which parents of a differencing VHD may lie
    #[arg(long, value_name = "DIR", requires = "base")]
    base_root: Vec<PathBuf>,
    /// Read a VHD by the copy of its footer where the footer itself is damaged
    #[arg(long, requires = "base")]
    base_recover: bool,
    /// Read the image whole and record its SHA-256, as `verify --base` does later; a file under fs-verity has a digest
    /// already, which is recorded in any case
    #[arg(long, requires = "base")]
    verify: bool,
    #[command(flatten)]
    key: KekOptions,
}

/// What hints call the options above.
pub(super) const NAMES: OptionNames =
    OptionNames { format: Some("--base-format"), root: Some("--base-root"), recover: Some("--base-recover") };

impl Create {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let Self { name, size, base, base_format: format, base_root: roots, base_recover: recover, verify, key } = self;
        let options = base::OpenOptions { format: format.map(Into::into), roots, recover, names: NAMES };
        let made = make(context, &key, (name, size), base, &options, verify)?;
        let report = &made.disk;
        if report.size_bytes % MIB != 0 {
            context.note(format_args!(
                "hint: the size is no whole number of MiB, which some clouds ask of a disk; --size gives another"
            ));
        }
        context.show(&made, format_args!("made a disk\n{}{}", show::Text(report), reading::text(&made.files)))
    }
}

/// Opens the base with the rights of the user, confined for good, and has the disk made.
fn make(
    context: &Context,
    key: &KekOptions,
    (name, size): (BlobName, Option<u64>),
    base: Option<PathBuf>,
    options: &base::OpenOptions,
    whole: bool,
) -> Result<Made, Failure> {
    let like = Request::Create { name: name.clone(), size, base: None };
    let Some(path) = base else {
        return Ok(Made { disk: context.ask(key, like, &[])?, files: Vec::new() });
    };
    // What is no file at all is told before a key is asked for.
    let needs = reading::image(&HostFile::open(&path)?, options)?;
    let (disk, record) = context.session(key, &like, |session| {
        reading::confine(&[(&context.account, session)], needs)?;
        let (mut record, opened) = open_base(&path, options)?;
        if whole {
            record = rebase::with_bar(|progress| verify::verify(&record, progress))?;
        }
        let opened: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
        let request = Request::Create { name, size, base: Some(record.clone()) };
        Ok((session.call(request, &opened)?, record))
    })?;
    reading::note_name(context, &path, record.format);
    Ok(Made::new(disk, record))
}

/// The same in a process that goes on to do other things: the base alone is opened by a confined thread.
pub(super) fn make_over(
    context: &Context,
    key: &KekOptions,
    name: BlobName,
    base: &Path,
    options: &base::OpenOptions,
) -> Result<Made, Failure> {
    let needs = reading::image(&HostFile::open(base)?, options)?;
    let (record, opened) = reading::apart(&needs, || open_base(base, options))?;
    let opened: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
    let request = Request::Create { name, size: None, base: Some(record.clone()) };
    let disk = context.ask(key, request, &opened)?;
    reading::note_name(context, base, record.format);
    Ok(Made::new(disk, record))
}

fn open_base(path: &Path, options: &base::OpenOptions) -> Result<(BaseRecord, Vec<OwnedFd>)> {
    let (_image, record) = base::open(path, options)?;
    let opened = base::open_files(&record)?;
    Ok((record, opened))
}

/// A new disk.
#[derive(Debug, Serialize)]
pub(super) struct Made {
    #[serde(flatten)]
    pub(super) disk: DiskReport,
    /// Every file that its base is read from: the image, its parent, and so on.
    pub(super) files: Vec<PathBuf>,
}

impl Made {
    fn new(disk: DiskReport, base: BaseRecord) -> Self {
        Self { disk, files: base.files.into_iter().map(|file| file.path).collect() }
    }
}
