//! `diff`: what changed since a snapshot.

use clap::Args;
use serde::Serialize;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::size;
use super::table::Table;
use crate::PAGE;
use crate::account::diff::{DiffPart, DiffRun, Kind};
use crate::account::life_request::LifeRequest;
use crate::account::name::BlobName;
use crate::account::view_name::SnapshotName;

/// Show what changed since a snapshot of a disk, as runs of pages
///
/// A page is 512 bytes. Nothing is read or compared: the layers tell. Every page that differs is shown; one that was
/// written again with what it held before is shown too. The footer page is left out.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk diff disk1 --from monday
  sealdisk diff disk1 --from monday --to tuesday --json")]
pub(super) struct Diff {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    /// The earlier snapshot
    #[arg(long, value_name = "SNAPSHOT")]
    from: SnapshotName,
    /// The later snapshot; without it, the disk as it is now
    #[arg(long, value_name = "SNAPSHOT")]
    to: Option<SnapshotName>,
    #[command(flatten)]
    key: KekOptions,
}

/// All parts together.
#[derive(Debug, Serialize)]
struct Document {
    from_bytes: u64,
    to_bytes: u64,
    written_bytes: u64,
    cleared_bytes: u64,
    runs: Vec<DiffRun>,
}

impl Diff {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let Self { name, from, to, key } = self;
        let request = |start| LifeRequest::Diff { name: name.clone(), from: from.clone(), to: to.clone(), start };
        let document = context.session(&key, &request(0).into(), |session| {
            let mut part: DiffPart = session.call(request(0).into(), &[])?;
            let mut runs = std::mem::take(&mut part.runs);
            while let Some(start) = part.next {
                part = session.call(request(start).into(), &[])?;
                runs.append(&mut part.runs);
            }
            let bytes = |kind| {
                let pages = runs.iter().filter(|run| run.change == kind).map(|run| run.pages);
                pages.sum::<u64>() * PAGE as u64
            };
            Ok(Document {
                from_bytes: part.from_bytes,
                to_bytes: part.to_bytes,
                written_bytes: bytes(Kind::Written),
                cleared_bytes: bytes(Kind::Cleared),
                runs,
            })
        })?;
        let mut text = format!(
            "written  {}\ncleared  {}",
            size::human(document.written_bytes),
            size::human(document.cleared_bytes)
        );
        if document.from_bytes != document.to_bytes {
            text += &format!("\nsize     {} before, {} after", document.from_bytes, document.to_bytes);
        }
        if !context.json && !document.runs.is_empty() {
            let mut table = Table::new(&["START", "PAGES", "CHANGE"], &[true, true, false]);
            for run in &document.runs {
                let change = if run.change == Kind::Written { "written" } else { "cleared" };
                table.row(vec![run.start.to_string(), run.pages.to_string(), change.to_owned()]);
            }
            text += &format!("\n\n{table}");
        }
        context.show(&document, text)
    }
}
