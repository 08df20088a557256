//! `resize`: another size for a disk.

use clap::Args;

use super::context::{Context, Outcome};
use super::delete::confirm;
use super::kek_options::KekOptions;
use super::{show, size, unlock};
use crate::account::failure::Failure;
use crate::account::name::BlobName;
use crate::account::refused::Refused;
use crate::account::report::DiskReport;
use crate::account::request::Request;
use crate::disk::check_size;

/// Make a disk larger, or smaller
///
/// What a smaller size cuts off is gone for good: made larger again, the disk reads as zeros there, also over a base.
/// Clients that have it attached see the new size when they attach again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk resize disk1 20G
  sealdisk resize disk1 5G --yes")]
pub(super) struct Resize {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    /// The new size: 20G, 512M, or bytes
    #[arg(value_parser = size::parse, allow_negative_numbers = true)]
    size: u64,
    /// Do not ask before making it smaller
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    key: KekOptions,
}

impl Resize {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let Self { name, size, yes, key } = self;
        check_size(size)?;
        let show = Request::Show { name: (&name).into() };
        let now: DiskReport = context.ask(&key, show, &[]).inspect_err(|failure: &Failure| {
            unlock::tell_refused(Refused::Resize { name: name.clone(), size }, context, &failure.message);
        })?;
        let lost = now.size_bytes.saturating_sub(size);
        if lost > 0 && !yes {
            confirm(&format!("cut off the last {} of {name} for good?", size::human(lost)))?;
        }
        let request = Request::Resize { name, size, shrink: lost > 0 };
        let report: DiskReport = context.ask(&key, request, &[])?;
        context.show(&report, show::Text(&report))
    }
}
