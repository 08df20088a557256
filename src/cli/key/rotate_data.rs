//! `key rotate-data`: a fresh data key for what is written from now on.

use clap::Args;

use crate::account::key_request::KeyRequest;
use crate::account::name::BlobName;
use crate::cli::context::{Context, Outcome};
use crate::cli::kek_options::KekOptions;

/// Store what is written from now on under a fresh data key
///
/// What is stored already stays under the key it has; `sealdisk reencrypt` brings it under the new one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk key rotate-data disk1
  sealdisk key rotate-data --all")]
pub(in crate::cli) struct RotateData {
    /// BLOB or CONTAINER/BLOB
    #[arg(required_unless_present = "all")]
    name: Option<BlobName>,
    /// Every disk of the account
    #[arg(long, conflicts_with = "name")]
    all: bool,
    #[command(flatten)]
    key: KekOptions,
}

impl RotateData {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        let rotated: Vec<String> = context.ask(&self.key, KeyRequest::RotateData { name: self.name }.into(), &[])?;
        let text = match &rotated[..] {
            [] => "the account has no disks".to_owned(),
            names => format!("a fresh data key for {}", names.join(", ")),
        };
        context.show(&serde_json::json!({ "rotated": rotated }), text)
    }
}
