//! `vhd repair`: footer, footer copy and checksums.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::context::{Context, Outcome};
use super::super::reading;
use crate::vhd::repair;

/// Restore the footer, its copy and the checksums of a VHD where one can be had from the other; nothing else
///
/// Writes only if the disk is sound with what is written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk vhd repair disk.vhd --dry-run
  sealdisk vhd repair disk.vhd")]
pub(in crate::cli) struct Repair {
    /// The VHD to repair, in place
    file: PathBuf,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Repair {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        reading::confine(&[], reading::vhd_in_place(&self.file)?)?;
        let repairs = repair::repair(&self.file, self.dry_run)?;
        let list: Vec<_> = repairs.iter().map(|r| json!({ "offset": r.offset, "what": r.what })).collect();
        let planned = if self.dry_run { "planned: " } else { "" };
        let mut text: Vec<_> = repairs.iter().map(|r| format!("{planned}{} (byte {})", r.what, r.offset)).collect();
        if text.is_empty() {
            text.push("nothing to repair".to_owned());
        } else if self.dry_run {
            text.push("nothing was written (--dry-run)".to_owned());
        }
        context.show(&json!({ "repairs": list, "dry_run": self.dry_run }), text.join("\n"))
    }
}
