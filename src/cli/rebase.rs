//! `rebase`: where a disk's base lies.

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::{progress, reading, unlock};
use crate::account::failure::Failure;
use crate::account::name::BlobName;
use crate::account::refused::Refused;
use crate::account::report::DiskReport;
use crate::account::request::Request;
use crate::base::{self, BaseRecord, verify};
use crate::io::host_file::HostFile;
use crate::vhd::OptionNames;
use crate::{Error, ErrorKind, text};

/// Tell a disk that its base image lies elsewhere now; the content must be the same
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk rebase disk1 --base /new/place/debian.vhd")]
pub(super) struct Rebase {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    /// The image, at its new place
    #[arg(long, value_name = "IMAGE")]
    base: PathBuf,
    /// A further folder in which parents of a differencing VHD may lie
    #[arg(long, value_name = "DIR")]
    base_root: Vec<PathBuf>,
    #[command(flatten)]
    key: KekOptions,
}

/// What hints call the options above.
pub(super) const NAMES: OptionNames = OptionNames { format: None, root: Some("--base-root"), recover: None };

impl Rebase {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let recorded = recorded(context, &self.key, &self.name).inspect_err(|failure| {
            unlock::tell_refused(Refused::Rebase { name: self.name.clone() }, context, &failure.message);
        })?;
        let options = base::OpenOptions { roots: self.base_root, names: NAMES, ..base::OpenOptions::default() };
        let known = base::OpenOptions { format: Some(recorded.format), ..options.clone() };
        let needs = reading::image(&HostFile::open(&self.base)?, &known)?;
        let relocate = || with_bar(|progress| verify::relocate(&recorded, &self.base, &options, progress));
        let found = reading::apart(&needs, relocate)?;
        let files: Vec<_> = found.files.iter().map(|file| file.path.clone()).collect();
        let text = format!("{} lies over {}{}", self.name, text::path(&found.path), reading::text(&files));
        let report = record(context, &self.key, self.name, found, false)?;
        context.show(&report, text)
    }
}

pub(super) fn recorded(context: &Context, key: &KekOptions, name: &BlobName) -> Result<BaseRecord, Failure> {
    let record: Option<BaseRecord> = context.ask(key, Request::Base { name: name.into() }, &[])?;
    let over_none = || Error::new(ErrorKind::InvalidInput, format!("the disk \"{name}\" lies over no image"));
    Ok(record.ok_or_else(over_none)?)
}

/// Has `base` recorded; `verified`: as [`Request::Rebase`] says.
pub(super) fn record(
    context: &Context,
    key: &KekOptions,
    name: BlobName,
    base: BaseRecord,
    verified: bool,
) -> Result<DiskReport, Failure> {
    let files = base::open_files(&base)?;
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    context.ask(key, Request::Rebase { name, base, verified }, &files)
}

pub(super) fn with_bar<T>(work: impl FnOnce(&mut verify::Progress<'_>) -> crate::Result<T>) -> crate::Result<T> {
    let mut bar = progress::bytes(0, "reading");
    let done = work(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        ControlFlow::Continue(())
    });
    drop(bar);
    done
}
