//! `scrub`: giving back what is stored but no longer reachable.

use clap::Args;

use super::context::{Context, Outcome};
use super::show::pending;
use crate::account::disk_ref::DiskRef;
use crate::account::request::{Request, Scrubbed};
use crate::crypto::kek::KekOptions;

/// Give back pages that were overwritten in another form, so that no old plaintext stays in the files
///
/// A server does this by itself in the background; with --wait it is done when the verb returns. On an account that is
/// not being served it is always waited for.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk scrub disk1 --wait")]
pub(super) struct Scrub {
    /// BLOB or CONTAINER/BLOB; @UUID also names a deleted disk that clones read from
    name: DiskRef,
    /// Return when nothing is left to scrub
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    key: KekOptions,
}

impl Scrub {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let request = Request::Scrub { name: self.name, wait: self.wait };
        let done: Scrubbed = context.ask(&self.key, request, &[])?;
        let text = match done.pending_scrub_bytes {
            Some(0) => format!("{}: nothing is left to scrub", done.name),
            left => format!("{}: left to scrub: {}", done.name, pending(left)),
        };
        context.show(&done, text)
    }
}
