//! `create`: a new disk, empty or over a base image.

use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;

use super::context::{Context, Outcome};
use super::{show, size};
use crate::account::failure::Failure;
use crate::account::name::BlobName;
use crate::account::report::DiskReport;
use crate::account::request::Request;
use crate::base;
use crate::crypto::kek::KekOptions;

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
  sealdisk create web/big.vhd --base /images/debian.vhd --size 100G"
)]
pub(super) struct Create {
    /// BLOB or CONTAINER/BLOB; the default container is vhds
    name: BlobName,
    /// Size of the disk: 10G, 512M, or bytes; over a base, the base's own if left out
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    size: Option<u64>,
    /// The image to lie under the disk: a VHD or a raw image
    #[arg(long, value_name = "IMAGE")]
    base: Option<PathBuf>,
    /// The format of the image, instead of detecting it
    #[arg(long, value_name = "FORMAT", requires = "base", value_parser = format)]
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

fn format(text: &str) -> Result<base::Format, String> {
    match text {
        "raw" => Ok(base::Format::Raw),
        "vhd" => Ok(base::Format::Vhd),
        _ => Err("raw or vhd".to_owned()),
    }
}

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
        let options = base::OpenOptions { format, roots, recover };
        let report = make(context, &key, Wanted { name, size, base, options })?;
        if report.size_bytes % MIB != 0 {
            context.note(format_args!(
                "hint: the size is no whole number of MiB, which some clouds ask of a disk; --size gives another"
            ));
        }
        context.show(&report, format_args!("made a disk\n{}", show::Text(&report)))
    }
}

/// Opens the base with the rights of the user, and has the disk made.
pub(super) fn make(context: &Context, key: &KekOptions, wanted: Wanted) -> Result<DiskReport, Failure> {
    let (record, files) = match &wanted.base {
        None => (None, Vec::new()),
        Some(path) => {
            let (_image, record) = base::open(path, &wanted.options)?;
            let files = base::open_files(&record)?;
            (Some(record), files)
        }
    };
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    context.ask(key, Request::Create { name: wanted.name, size: wanted.size, base: record }, &files)
}
