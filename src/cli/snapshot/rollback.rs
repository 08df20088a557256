//! `snapshot rollback`.

use std::fmt;

use clap::Args;

use crate::account::failure::Failure;
use crate::account::life_request::LifeRequest;
use crate::account::name::BlobName;
use crate::account::refused::Refused;
use crate::account::report::DiskReport;
use crate::account::snapshots::RollbackReport;
use crate::account::view_name::SnapshotName;
use crate::cli::context::{Context, Outcome};
use crate::cli::kek_options::KekOptions;
use crate::cli::{delete, size, unlock};

/// Make a disk what a snapshot sees, for good: later writes and later snapshots are dropped
///
/// Refused while a client has the disk attached: what it keeps in its caches would no longer fit the disk. The error
/// names the client.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk snapshot rollback disk1 before-upgrade
  sealdisk snapshot rollback disk1 before-upgrade --yes")]
pub(in crate::cli) struct Rollback {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    /// The snapshot
    snapshot: SnapshotName,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    key: KekOptions,
}

impl Rollback {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        let Self { name, snapshot, yes, key } = self;
        let refused = Refused::Rollback { name: name.clone(), snapshot: snapshot.clone() };
        let preview = LifeRequest::RollbackPreview { name: name.clone(), snapshot: snapshot.clone() };
        let rollback = LifeRequest::Rollback { name, snapshot, drops: Vec::new() };
        let (report, disk): (RollbackReport, DiskReport) =
            context.session(&key, &rollback.clone().into(), |session| {
                let report: RollbackReport = session
                    .call(preview.into(), &[])
                    .inspect_err(|failure: &Failure| unlock::tell_refused_in(session, refused, &failure.message))?;
                if !yes {
                    Text(&report, "drops").to_string().lines().for_each(|line| context.note(line));
                    delete::confirm(&format!("roll {} back to {}?", report.name, report.snapshot))?;
                }
                let LifeRequest::Rollback { name, snapshot, .. } = rollback else { unreachable!("made above") };
                let rollback = LifeRequest::Rollback { name, snapshot, drops: report.snapshots.clone() };
                Ok((report, session.call(rollback.into(), &[])?))
            })?;
        context.show(
            &disk,
            format_args!("rolled {} back to {}\n{}", report.name, report.snapshot, Text(&report, "dropped")),
        )
    }
}

/// What goes with a rollback, and the word for it.
struct Text<'a>(&'a RollbackReport, &'static str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report, drops) = self;
        write!(f, "{drops}: {} written or cleared since", size::human(report.changed_bytes))?;
        if report.size_bytes != report.size_then_bytes {
            let (now, then) = (size::human(report.size_bytes), size::human(report.size_then_bytes));
            write!(f, "\n{drops}: the size of {now}; it was {then}")?;
        }
        if !report.snapshots.is_empty() {
            write!(f, "\n{drops}: the later snapshots {}", report.snapshots.join(", "))?;
        }
        Ok(())
    }
}
