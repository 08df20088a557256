//! `scrub`: giving back what is stored but no longer reachable.

use std::fmt::Write;

use clap::Args;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::show::pending;
use super::size;
use crate::account::disk_ref::DiskRef;
use crate::account::request::{Request, Scrubbed};

/// Give back pages that were overwritten in another form, so that no old plaintext stays in the files
///
/// A server does this by itself in the background; with --wait it is done when the verb returns. On an account that is
/// not being served it is always waited for.
///
/// What no record of the disk names stays: a crash leaves such bytes, of writes that never were durable, and so does a
/// log that lost its end, of data. --unaccounted is about those (docs/durability.md).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk scrub disk1 --wait
  sealdisk scrub disk1 --unaccounted          say how much no record names
  sealdisk scrub disk1 --unaccounted --yes    give that back too, for good")]
pub(super) struct Scrub {
    /// BLOB or CONTAINER/BLOB; @UUID also names a deleted disk that clones read from
    name: DiskRef,
    /// Return when nothing is left to scrub
    #[arg(long)]
    wait: bool,
    /// Give back what no record of the disk names too
    #[arg(long)]
    unaccounted: bool,
    /// Do it: what no record names cannot be brought back afterwards
    #[arg(long, requires = "unaccounted")]
    yes: bool,
    #[command(flatten)]
    key: KekOptions,
}

impl Scrub {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let (name, wait) = (self.name, self.wait || self.unaccounted);
        let request = Request::Scrub { name, wait, unaccounted: self.unaccounted && self.yes };
        let done: Scrubbed = context.ask(&self.key, request, &[])?;
        let mut text = match done.pending_scrub_bytes {
            Some(0) => format!("{}: nothing is left to scrub", done.name),
            left => format!("{}: left to scrub: {}", done.name, pending(left)),
        };
        if self.unaccounted || done.unaccounted_bytes > 0 {
            let _ = write!(text, "\n{}: in no record of the disk: {}", done.name, size::human(done.unaccounted_bytes));
        }
        if done.unaccounted_bytes > 0 {
            text.push_str("\n`scrub --unaccounted --yes` gives that back for good; look first whether data is missing");
        }
        context.show(&done, text)
    }
}
