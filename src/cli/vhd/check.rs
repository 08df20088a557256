//! `vhd check`: whether a VHD is sound.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::context::{Context, Outcome};
use super::super::{progress, reading};
use super::{Opening, notices_json, notices_text, warnings_json, with_warnings};
use crate::account::failure::Failure;
use crate::text;
use crate::vhd::check;

/// Check a VHD and its parents: every rule and every block; changes nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sealdisk vhd check disk.vhd")]
pub(in crate::cli) struct Check {
    /// A VHD of any kind
    file: PathBuf,
    #[command(flatten)]
    opening: Opening,
}

impl Check {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        reading::confine(&[], reading::vhd(&self.file, &self.opening.options())?)?;
        let mut bar = progress::count(0, "check");
        let report = check::check(&self.file, &self.opening.options(), &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        drop(bar);
        let report = report?;
        let faults: Vec<Failure> = report.faults.into_iter().map(Failure::from).collect();
        if let Some(first) = faults.first() {
            let list: Vec<_> = faults
                .iter()
                .map(|fault| json!({ "kind": fault.kind, "message": fault.message, "offset": fault.offset }))
                .collect();
            for fault in &faults[1..] {
                context.note(format_args!("fault: {}: {}", fault.kind, fault.message));
            }
            let mut failure = with_warnings(first.clone(), &report.notices);
            failure.details.insert("faults".to_owned(), json!(list));
            return Err(failure);
        }
        let document = json!({
            "ok": true,
            "type": report.kind.name(),
            "allocated_blocks": report.blocks.0,
            "blocks": report.blocks.1,
            "faults": [],
            "warnings": warnings_json(&report.notices),
            "notices": notices_json(&report.notices),
        });
        let text = format!("{}{}: sound", notices_text(&report.notices), text::path(&self.file));
        context.show(&document, text)
    }
}
