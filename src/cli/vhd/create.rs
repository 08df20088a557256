//! `vhd create`: empty disks.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::super::context::{Context, Outcome};
use super::super::{reading, size};
use crate::confine::Needs;
use crate::io::output::Output;
use crate::text;
use crate::vhd::create::{self, New};
use crate::vhd::{DEFAULT_BLOCK, OpenOptions, OptionNames};

/// Make an empty VHD: fixed, dynamic, or differencing over a parent
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("what").args(["size", "parent"]).multiple(true).required(true)),
    after_help = "\
Examples:
  sealdisk vhd create disk.vhd --size 30G
  sealdisk vhd create disk.vhd --size 30G --type dynamic
  sealdisk vhd create child.vhd --parent disk.vhd"
)]
pub(in crate::cli) struct Create {
    /// The file to make; none is overwritten
    file: PathBuf,
    /// Virtual size: 10G, 512M, or bytes; of a differencing disk the parent's if left out
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    size: Option<u64>,
    /// The kind of disk; differencing if there is a parent, else fixed
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// The parent of a differencing disk
    #[arg(long, value_name = "FILE")]
    parent: Option<PathBuf>,
    /// A further folder in which parents of the parent may lie
    #[arg(long, value_name = "DIR", requires = "parent")]
    parent_root: Vec<PathBuf>,
    /// Size of the blocks of a dynamic or differencing disk: a power of two from 4K to 256M
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    block_size: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

impl Create {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        let block_size = self.block_size.unwrap_or(DEFAULT_BLOCK);
        let unfit = |what: &str| crate::Error::new(crate::ErrorKind::InvalidInput, what);
        let new = match (self.kind, self.parent, self.size) {
            (Some(Kind::Differencing) | None, Some(parent), size) => {
                let names = OptionNames { root: Some("--parent-root"), ..OptionNames::default() };
                let open = OpenOptions { roots: self.parent_root, recover: false, names };
                New::Differencing { parent, size, block_size, open }
            }
            (Some(Kind::Differencing), None, _) => return Err(unfit("a differencing disk needs --parent").into()),
            (Some(_), Some(_), _) => return Err(unfit("only a differencing disk has a parent").into()),
            (Some(Kind::Dynamic), None, Some(size)) => New::Dynamic { size, block_size },
            (_, None, Some(size)) if self.block_size.is_none() => New::Fixed { size },
            (_, None, Some(_)) => return Err(unfit("a fixed disk has no blocks").into()),
            (_, None, None) => return Err(unfit("--size is missing").into()),
        };
        let output = Output::create(&self.file)?;
        let needs = match &new {
            New::Differencing { parent, open, .. } => reading::vhd(parent, open)?,
            New::Fixed { .. } | New::Dynamic { .. } => Needs::default(),
        };
        reading::confine(&[], reading::and_output(needs, &output))?;
        let created = create::create_into(output, &self.file, &new)?;
        if created.parent_elsewhere {
            context.note(
                "note: the parent lies outside the disk's folder: to open it, name the parent's by --parent-root",
            );
        }
        let document = json!({
            "path": self.file.display().to_string(),
            "type": created.kind.name(),
            "current_size": created.size,
            "unique_id": created.unique_id,
        });
        let text = format!("{}: {} disk of {}", text::path(&self.file), created.kind.name(), size::human(created.size));
        context.show(&document, text)
    }
}
