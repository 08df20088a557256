//! `encryption`: the account's setting.

use clap::{Args, ValueEnum};

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use crate::account::report::Switch;
use crate::account::request::Request;

/// Turn encryption on or off, or show how it is set
///
/// On: every later write of any page is stored encrypted. Off: every later write is stored in plaintext. Neither
/// touches what is stored already, and what can be read never changes. It takes effect at once, also while serving.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk encryption off
  sealdisk encryption on
  sealdisk encryption status --json")]
pub(super) struct Encryption {
    /// What to do
    #[arg(value_enum)]
    action: Action,
    #[command(flatten)]
    key: KekOptions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    On,
    Off,
    Status,
}

impl Encryption {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let set = match self.action {
            Action::On => Some(Switch::On),
            Action::Off => Some(Switch::Off),
            Action::Status => None,
        };
        let now: Switch = context.ask(&self.key, Request::Encryption { set }, &[])?;
        let how = if now.is_on() { "encrypted" } else { "in plaintext" };
        let text = format!("encryption is {}: what is written from now on is stored {how}", now.name());
        context.show(&serde_json::json!({ "encryption": now }), text)
    }
}
