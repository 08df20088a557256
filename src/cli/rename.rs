//! `rename`: another name for a disk.

use clap::Args;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use crate::account::name::BlobName;
use crate::account::report::DiskReport;
use crate::account::request::Request;

/// Give a disk another name; clients that have it attached go on
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk rename disk1 web/root.vhd")]
pub(super) struct Rename {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    /// The new name
    to: BlobName,
    #[command(flatten)]
    key: KekOptions,
}

impl Rename {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let Self { name, to, key } = self;
        let text = format!("{name} is now {to}");
        let report: DiskReport = context.ask(&key, Request::Rename { name, to }, &[])?;
        context.show(&report, text)
    }
}
