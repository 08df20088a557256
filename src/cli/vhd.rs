//! `vhd`: work on VHD files themselves; no account is involved.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::{Context, Outcome};
use crate::account::failure::Failure;
use crate::base::{self, Format};
use crate::text;
use crate::vhd::{Notice, OpenOptions, OptionNames};

mod azure_check;
mod check;
mod convert;
mod create;
mod info;
mod repair;
mod resize;

/// Examine, check, make and convert VHD files
#[derive(Debug, Subcommand)]
pub(super) enum VhdCommand {
    Info(info::Info),
    Check(check::Check),
    Repair(repair::Repair),
    Create(create::Create),
    Convert(convert::Convert),
    Resize(resize::Resize),
    AzureCheck(azure_check::AzureCheck),
}

impl VhdCommand {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            VhdCommand::Info(verb) => verb.run(context),
            VhdCommand::Check(verb) => verb.run(context),
            VhdCommand::Repair(verb) => verb.run(context),
            VhdCommand::Create(verb) => verb.run(context),
            VhdCommand::Convert(verb) => verb.run(context),
            VhdCommand::Resize(verb) => verb.run(context),
            VhdCommand::AzureCheck(verb) => verb.run(context),
        }
    }
}

/// How a VHD that is there already is opened.
#[derive(Debug, Args)]
pub(super) struct Opening {
    /// Use the footer copy at the beginning of the file where the footer at its end is bad
    #[arg(long)]
    pub(super) recover: bool,
    /// A further folder in which parents of a differencing disk may lie; its own folder always may
    #[arg(long, value_name = "DIR")]
    pub(super) parent_root: Vec<PathBuf>,
}

impl Opening {
    fn options(&self) -> OpenOptions {
        OpenOptions { roots: self.parent_root.clone(), recover: self.recover, names: NAMES }
    }

    /// For an image whose format may be given by `--format`.
    pub(super) fn image_options(&self, format: Option<Format>) -> base::OpenOptions {
        let names = OptionNames { format: Some("--format"), ..NAMES };
        base::OpenOptions { format, roots: self.parent_root.clone(), recover: self.recover, names }
    }
}

/// What hints call the options above.
pub(super) const NAMES: OptionNames =
    OptionNames { format: None, root: Some("--parent-root"), recover: Some("--recover") };

fn notices_json(notices: &[Notice]) -> Vec<Value> {
    let json = |notice: &Notice| json!({ "kind": notice.warning, "message": notice.message, "offset": notice.offset });
    notices.iter().map(json).collect()
}

/// The names of the warnings, each once.
fn warnings_json(notices: &[Notice]) -> Value {
    let mut warnings: Vec<_> = notices.iter().map(|notice| notice.warning).collect();
    warnings.sort_unstable();
    warnings.dedup();
    json!(warnings)
}

/// Lines about warnings, for people.
fn notices_text(notices: &[Notice]) -> String {
    let line = |notice: &Notice| {
        let at = notice.offset.map(|offset| format!(" (byte {offset})")).unwrap_or_default();
        format!("warning: {:?}: {}{at}\n", notice.warning, text::line(&notice.message))
    };
    notices.iter().map(line).collect()
}

/// Adds warnings to what a failure's JSON document says.
fn with_warnings(mut failure: Failure, notices: &[Notice]) -> Failure {
    failure.details.insert("warnings".to_owned(), warnings_json(notices));
    failure.details.insert("notices".to_owned(), json!(notices_json(notices)));
    failure
}
