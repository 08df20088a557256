//! `snapshot`: the disk as it was at a moment.

use std::fmt;

use clap::{Args, Subcommand};

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::table::Table;
use super::{size, time};
use crate::account::name::BlobName;
use crate::account::request::Request;
use crate::account::snapshots::SnapshotReport;
use crate::account::view_name::SnapshotName;

mod rollback;

/// Take, list, delete snapshots of a disk, and roll back to one
///
/// A snapshot is taken at once, copies nothing, and is served read-only as NAME@SNAPSHOT. What is written afterwards is
/// stored under a fresh data key.
#[derive(Debug, Subcommand)]
pub(super) enum SnapshotVerb {
    Create(Create),
    List(List),
    Delete(Delete),
    Rollback(rollback::Rollback),
}

impl SnapshotVerb {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Create(verb) => verb.run(context),
            Self::List(verb) => verb.run(context),
            Self::Delete(verb) => verb.run(context),
            Self::Rollback(verb) => verb.run(context),
        }
    }
}

/// Take a snapshot of a disk, also while clients write
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk snapshot create disk1 monday")]
pub(super) struct Create {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    /// Name of the snapshot, without @ and /
    snapshot: SnapshotName,
    #[command(flatten)]
    key: KekOptions,
}

impl Create {
    fn run(self, context: &Context) -> Outcome {
        let Self { name, snapshot, key } = self;
        let text = format!("{name}@{snapshot}");
        let report: SnapshotReport = context.ask(&key, Request::SnapshotCreate { name, snapshot }, &[])?;
        context.show(&report, text)
    }
}

/// List the snapshots of a disk, oldest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk snapshot list disk1 --json")]
pub(super) struct List {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    #[command(flatten)]
    key: KekOptions,
}

impl List {
    fn run(self, context: &Context) -> Outcome {
        let snapshots: Vec<SnapshotReport> = context.ask(&self.key, Request::SnapshotList { name: self.name }, &[])?;
        context.show(&snapshots, Text(&snapshots))
    }
}

struct Text<'a>(&'a [SnapshotReport]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["SNAPSHOT", "TAKEN", "SIZE", "CLONES"], &[false, false, true, false]);
        for snapshot in self.0 {
            let clones = if snapshot.clones.is_empty() { "-".to_owned() } else { snapshot.clones.join(", ") };
            let (taken, size) = (time::utc(snapshot.created), size::human(snapshot.size_bytes));
            table.row(vec![snapshot.name.clone(), taken, size, clones]);
        }
        write!(f, "{table}")
    }
}

/// Delete a snapshot; the space of what only it had comes back in the background
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk snapshot delete disk1 monday")]
pub(super) struct Delete {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    /// The snapshot
    snapshot: SnapshotName,
    #[command(flatten)]
    key: KekOptions,
}

impl Delete {
    fn run(self, context: &Context) -> Outcome {
        let Self { name, snapshot, key } = self;
        let shown = format!("{name}@{snapshot}");
        let () = context.ask(&key, Request::SnapshotDelete { name, snapshot }, &[])?;
        context.show(&serde_json::json!({ "deleted": shown }), format_args!("deleted {shown}"))
    }
}
