//! `create`: a new disk, empty or over a base image.

use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::context::{Context, Outcome};
use super::{reading, show, size};
use crate::account::failure::Failure;
use crate::account::name::BlobName;
use crate::account::report::DiskReport;
use crate::account::request::Request;
use crate::base;
use crate::crypto::kek::KekOptions;
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
    base_format: Option<base::Format>,
    /// A further folder in which parents of a differencing VHD may lie
    #[arg(long, value_name = "DIR", requires = "base")]
    base_root: Vec<PathBuf>,
    /// Read a VHD by the copy of its footer where the footer itself is damaged
    #[arg(long, requires = "base")]
    base_recover: bool,
    #[command(flatten)]
    key: KekOptions,
}

/// What hints call the options above.
pub(super) const NAMES: OptionNames =
    OptionNames { format: Some("--base-format"), root: Some("--base-root"), recover: Some("--base-recover") };

/// What a new disk is made of, as the user names it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: BlobName,
    pub(super) size: Option<u64>,
    pub(super) base: Option<PathBuf>,
    pub(super) options: base::OpenOptions,
}

impl Create {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let Self { name, size, base, base_format: format, base_root: roots, base_recover: recover, key } = self;
        let options = base::OpenOptions { format, roots, recover, names: NAMES };
        let made = make(context, &key, Wanted { name, size, base, options })?;
        let report = &made.disk;
        if report.size_bytes % MIB != 0 {
            context.note(format_args!(
                "hint: the size is no whole number of MiB, which some clouds ask of a disk; --size gives another"
            ));
        }
        context.show(&made, format_args!("made a disk\n{}{}", show::Text(report), reading::text(&made.files)))
    }
}

/// Opens the base with the rights of the user, and has the disk made.
pub(super) fn make(context: &Context, key: &KekOptions, wanted: Wanted) -> Result<Made, Failure> {
    let (record, opened) = match &wanted.base {
        None => (None, Vec::new()),
        Some(path) => {
            let (_image, record) = base::open(path, &wanted.options)?;
            reading::note_name(context, path, record.format);
            let opened = base::open_files(&record)?;
            (Some(record), opened)
        }
    };
    let files = record.iter().flat_map(|record| &record.files).map(|file| file.path.clone()).collect();
    let opened: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
    let request = Request::Create { name: wanted.name, size: wanted.size, base: record };
    Ok(Made { disk: context.ask(key, request, &opened)?, files })
}

/// A new disk.
#[derive(Debug, Serialize)]
pub(super) struct Made {
    #[serde(flatten)]
    pub(super) disk: DiskReport,
    /// Every file that its base is read from: the image, its parent, and so on.
    pub(super) files: Vec<PathBuf>,
}
