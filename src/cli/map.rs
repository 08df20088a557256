//! `map`: how each page of a disk is stored.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::map_svg;
use super::table::Table;
use crate::account::disk_ref::ViewRef;
use crate::account::report::{MapPart, MapRun};
use crate::account::request::Request;
use crate::{Error, Result, text};

/// Show how each page of a disk is stored, as runs of pages
///
/// A page is 512 bytes. The runs cover the whole blob, its footer page included, in order and without a gap. States:
/// base (in the base image), plain and encrypted (in a layer), zero (stored nowhere).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk map disk1
  sealdisk map disk1 --svg disk1.svg
  sealdisk map disk1@monday
  sealdisk map disk1 --json")]
pub(super) struct Map {
    /// BLOB or CONTAINER/BLOB, or @UUID of a deleted disk that clones read from; with @SNAPSHOT what that sees
    name: ViewRef,
    /// Draw it, each state in its colour, per key, into this new file; - for standard output
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    key: KekOptions,
}

impl Map {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let (runs, locked) = context.session(&self.key, &request(&self.name, 0), |session| {
            let mut runs: Vec<MapRun> = Vec::new();
            let (mut next, mut locked) = (Some(0), None);
            while let Some(start) = next {
                let part: MapPart = session.call(request(&self.name, start), &[])?;
                for run in part.runs {
                    if !runs.last_mut().is_some_and(|last| last.absorb(&run)) {
                        runs.push(run);
                    }
                }
                (next, locked) = (part.next, part.locked);
            }
            Ok((runs, locked))
        })?;
        self.show(context, &runs)?;
        if let Some(locked) = &locked {
            context.note_locked(locked);
        }
        Ok(())
    }

    fn show(&self, context: &Context, runs: &[MapRun]) -> Outcome {
        if let Some(path) = &self.svg {
            let picture = map_svg::draw(&self.name.to_string(), runs);
            if path.as_os_str() == "-" {
                return context.show(&serde_json::json!({ "svg": picture }), picture.trim_end());
            }
            write_new(path, &picture)?;
            return context.show(&serde_json::json!({ "svg": path }), format_args!("drew {}", text::path(path)));
        }
        let mut table = Table::new(&["START", "PAGES", "STATE", "LAYER", "KEY"], &[true, true, false, true, false]);
        if !context.json {
            for run in runs {
                let layer = run.layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string());
                let key = run.key.clone().unwrap_or_else(|| "-".to_owned());
                table.row(vec![run.start.to_string(), run.pages.to_string(), run.state.name().to_owned(), layer, key]);
            }
        }
        context.show(&runs, table)
    }
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    let failed = |error: io::Error| {
        let taken = error.kind() == io::ErrorKind::AlreadyExists;
        let failure = Error::io("the picture cannot be written", error).at_path(path);
        if taken { failure.hint("remove it or choose another name: no file is overwritten") } else { failure }
    };
    File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
}

fn request(name: &ViewRef, start: u64) -> Request {
    Request::Map { name: name.disk.clone(), snapshot: name.snapshot.clone(), start }
}
