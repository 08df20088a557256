//! `vhd resize`: fixed disks, in place.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::context::{Context, Outcome};
use super::super::{reading, size};
use crate::text;
use crate::vhd::resize;

/// Change the virtual size of a fixed VHD in place
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk vhd resize disk.vhd 64G
  sealdisk vhd resize disk.vhd 20M --shrink")]
pub(in crate::cli) struct Resize {
    /// A fixed VHD that no disk or VHD lies over
    file: PathBuf,
    /// The new size: 10G, 512M, or bytes
    #[arg(value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    size: u64,
    /// Allow a smaller size: what lies behind it is lost
    #[arg(long)]
    shrink: bool,
}

impl Resize {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        reading::confine(&[], reading::vhd_in_place(&self.file)?)?;
        let old = resize::resize(&self.file, self.size, self.shrink)?;
        let document = json!({ "path": self.file.display().to_string(), "old_size": old, "current_size": self.size });
        let text = format!("{}: {} (was {})", text::path(&self.file), size::human(self.size), size::human(old));
        context.show(&document, text)
    }
}
