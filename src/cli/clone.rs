//! `clone`: a disk that begins as another one is.

use clap::Args;

use super::context::{Context, Outcome};
use super::show;
use crate::account::life_request::LifeRequest;
use crate::account::name::BlobName;
use crate::account::report::DiskReport;
use crate::account::view_name::ViewName;
use crate::crypto::kek::KekOptions;

/// Make a disk that begins as another one is, or as one of its snapshots is
///
/// At once and without copying: the clone reads what it has not written itself from a snapshot of the source, which is
/// kept for it. The source can go on, and be renamed or deleted; what the clone needs of it stays until the clone is
/// deleted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk clone golden web1
  sealdisk clone disk1@before-upgrade rescue")]
pub(super) struct Clone {
    /// The disk, or its snapshot, to begin from
    #[arg(value_name = "NAME[@SNAPSHOT]")]
    source: ViewName,
    /// The name of the clone
    #[arg(value_name = "NEW")]
    name: BlobName,
    #[command(flatten)]
    key: KekOptions,
}

impl Clone {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let shown = self.source.to_string();
        let request = LifeRequest::Clone { source: self.source, name: self.name };
        let report: DiskReport = context.ask(&self.key, request.into(), &[])?;
        context.show(&report, format_args!("made a clone of {shown}\n{}", show::Text(&report)))
    }
}
