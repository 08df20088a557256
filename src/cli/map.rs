//! `map`: how each page of a disk is stored.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::context::{Context, Outcome};
use super::map_svg;
use super::table::Table;
use crate::Error;
use crate::account::name::BlobName;
use crate::account::report::{MapPart, MapRun};
use crate::account::request::Request;
use crate::crypto::kek::KekOptions;

/// Show how each page of a disk is stored, as runs of pages
///
/// A page is 512 bytes. The runs cover the whole blob, its footer page included, in order and without a gap. States:
/// base (in the base image), plain and encrypted (in a layer), zero (stored nowhere).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk map disk1
  sealdisk map disk1 --svg disk1.svg
  sealdisk map disk1 --json")]
pub(super) struct Map {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    /// Draw it into this new file, each state in its colour, per key
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    key: KekOptions,
}

impl Map {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let runs = context.session(&self.key, &request(&self.name, 0), |session| {
            let mut runs: Vec<MapRun> = Vec::new();
            let mut next = Some(0);
            while let Some(start) = next {
                let part: MapPart = session.call(request(&self.name, start), &[])?;
                for run in part.runs {
                    if !runs.last_mut().is_some_and(|last| last.absorb(&run)) {
                        runs.push(run);
                    }
                }
                next = part.next;
            }
            Ok(runs)
        })?;
        if let Some(path) = &self.svg {
            let failed = |error| Error::io("the picture cannot be written", error).at_path(path);
            let mut file = File::create_new(path).map_err(failed)?;
            file.write_all(map_svg::draw(&self.name.to_string(), &runs).as_bytes()).map_err(failed)?;
            return context.show(&serde_json::json!({ "svg": path }), format_args!("drew {}", path.display()));
        }
        let mut table = Table::new(&["START", "PAGES", "STATE", "LAYER", "KEY"], &[true, true, false, true, false]);
        if !context.json {
            for run in &runs {
                let layer = run.layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string());
                let key = run.key.clone().unwrap_or_else(|| "-".to_owned());
                table.row(vec![run.start.to_string(), run.pages.to_string(), run.state.name().to_owned(), layer, key]);
            }
        }
        context.show(&runs, table)
    }
}

fn request(name: &BlobName, start: u64) -> Request {
    Request::Map { name: name.clone(), start }
}
