//! `key`: the life of the account's keys.

use clap::Subcommand;

use super::context::{Context, Outcome};

mod erase;
mod export;
mod revoke;
mod rotate_data;
mod rotate_kek;

/// Rotate, revoke and erase keys
///
/// Three levels: your key-encryption key (KEK) opens the account key, which opens one data key per layer of a disk.
#[derive(Debug, Subcommand)]
pub(super) enum KeyVerb {
    RotateKek(rotate_kek::RotateKek),
    RotateData(rotate_data::RotateData),
    Revoke(revoke::Revoke),
    Restore(revoke::Restore),
    Erase(erase::Erase),
    Export(export::Export),
}

impl KeyVerb {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Self::RotateKek(verb) => verb.run(context),
            Self::RotateData(verb) => verb.run(context),
            Self::Revoke(verb) => verb.run(context),
            Self::Restore(verb) => verb.run(context),
            Self::Erase(verb) => verb.run(context),
            Self::Export(verb) => verb.run(context),
        }
    }
}
