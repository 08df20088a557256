//! `vhd azure-check`: whether Azure would take a file.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::context::{Context, Outcome};
use super::super::reading;
use crate::account::failure::Failure;
use crate::confine::Needs;
use crate::text;
use crate::vhd::azure;

/// Say whether Azure would take a file as a disk; if not, why not and the command that mends it
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sealdisk vhd azure-check upload.vhd")]
pub(in crate::cli) struct AzureCheck {
    /// The file that is to be uploaded
    file: PathBuf,
}

impl AzureCheck {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        reading::confine(&[], Needs { files: vec![self.file.clone()], ..Needs::default() })?;
        let problems = azure::diagnose(&self.file)?;
        let Some(first) = problems.first() else {
            let text = format!("{}: fit for Azure", text::path(&self.file));
            return context.show(&json!({ "ok": true, "problems": [] }), text);
        };
        for problem in &problems[1..] {
            context.note(format_args!("also: {}", problem.message));
        }
        let mut failure = Failure {
            kind: format!("{:?}", first.cause),
            message: format!("{}: {}", self.file.display(), first.message),
            hint: Some(first.fix.clone()),
            ..Failure::default()
        };
        failure.details.insert("ok".to_owned(), json!(false));
        failure.details.insert("problems".to_owned(), json!(problems));
        Err(failure)
    }
}
