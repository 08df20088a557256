//! `snapshot`: the disk as it was at a moment.

use std::fmt;

use clap::{Args, Subcommand};

use super::context::{Context, Outcome};
use super::delete::confirm;
use super::table::Table;
use super::{show, size, time};
use crate::account::name::BlobName;
use crate::account::report::DiskReport;
use crate::account::request::Request;
use crate::account::snapshots::SnapshotReport;
use crate::crypto::kek::KekOptions;

/// Take, list, delete snapshots of a disk, and roll back to one
///
/// A snapshot is taken at once, copies nothing, and is served read-only as NAME@SNAPSHOT. What is written afterwards is
/// stored under a fresh data key.
#[derive(Debug, Subcommand)]
pub(super) enum SnapshotVerb {
    Create(Create),
    List(List),
    Delete(Delete),
    Rollback(Rollback),
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
    snapshot: String,
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
        let mut table = Table::new(&["SNAPSHOT", "TAKEN", "SIZE"], &[false, false, true]);
        for snapshot in self.0 {
            table.row(vec![snapshot.name.clone(), time::utc(snapshot.created), size::human(snapshot.blob_bytes)]);
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
    snapshot: String,
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

/// Make a disk what a snapshot of it holds, size included; later changes and later snapshots are gone for good
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk snapshot rollback disk1 monday --yes")]
pub(super) struct Rollback {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    snapshot: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    key: KekOptions,
}

impl Rollback {
    fn run(self, context: &Context) -> Outcome {
        let Self { name, snapshot, yes, key } = self;
        if !yes {
            let all: Vec<SnapshotReport> = context.ask(&key, Request::SnapshotList { name: name.clone() }, &[])?;
            let later = all.into_iter().map(|other| other.name).skip_while(|other| *other != snapshot).skip(1);
            let later: Vec<_> = later.collect();
            let lost = if later.is_empty() { String::new() } else { format!(", and {}", later.join(", ")) };
            confirm(&format!("drop what was written to {name} since {snapshot}{lost}?"))?;
        }
        let text = format!("{name} is what {snapshot} holds");
        let report: DiskReport = context.ask(&key, Request::SnapshotRollback { name, snapshot }, &[])?;
        context.show(&report, format_args!("{text}\n{}", show::Text(&report)))
    }
}
