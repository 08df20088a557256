//! `key rotate-kek`: another key-encryption key for the account.

use std::fmt::{self, Display};
use std::os::fd::AsFd;

use clap::Args;
use uuid::Uuid;

use crate::account::key_life::KekRotated;
use crate::account::key_request::ProvenRequest;
use crate::account::lock::Hold;
use crate::account::registry::Keys;
use crate::account::session::Session;
use crate::account::settings::Settings;
use crate::cli::context::{Context, Outcome};
use crate::cli::unlock;
use crate::crypto::kek::{self, Kek, KekOptions, KekSource, OldKekOptions, SourceRecord};
use crate::io::real::RealDir;
use crate::{Error, Result};

/// Put the account under another key-encryption key, of the same kind or another
///
/// The options name the new key; without one a new key file is made beside the first. No data is copied: only what the
/// key wraps is wrapped anew, while serving too. The old key opens the account until that is durable, and never after.
/// --account-key also replaces the key between yours and the data keys: needed when somebody else may have the old key
/// and an old copy of account.toml.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk key rotate-kek
  sealdisk key rotate-kek --account-key --key-file /etc/sealdisk/kek.2
  sealdisk key rotate-kek --old-key-file ./kek.1 --passphrase")]
pub(in crate::cli) struct RotateKek {
    /// Replace the account key too, for every disk
    #[arg(long)]
    account_key: bool,
    #[command(flatten)]
    new: KekOptions,
    #[command(flatten)]
    old: OldKekOptions,
}

impl RotateKek {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        // No new key is made for an account that takes none.
        let settings = Settings::load(&account(context)?)?;
        settings.check_not_erased()?;
        settings.check_not_revoked()?;
        // Also where a server has the account open: who reaches it may not lock its owner out.
        let old = unlock::kek(&KekOptions::from(self.old), &settings)?;
        let (new, source) = new_kek(context, &self.new)?;
        let session =
            Session::open(&context.account, Hold::Exclusive, &|settings| Ok(Keys::Unlocked(settings.unlock(&old)?)))?;
        // As it is now: another rotation may have come first.
        let settings = Settings::load(&account(context)?)?;
        let before = settings.kek_source().clone();
        let account_key = self.account_key.then(Uuid::new_v4);
        let handed_over = settings.derive(&new, account_key)?.hand_over()?;
        drop(new);
        let request = ProvenRequest::RotateKek { source, account_key };
        let rotated: std::result::Result<KekRotated, _> =
            unlock::ask_proven(&session, &settings, &old, request, &[handed_over.as_fd()]);
        let closed = session.close();
        let rotated = rotated?;
        closed?;
        context.show(&rotated, Text(&rotated, &before))
    }
}

fn account(context: &Context) -> Result<RealDir> {
    let path = &context.account;
    RealDir::open(path).map_err(|error| Error::io("cannot open the account", error).at_path(path))
}

/// The key that the options name, or one made for it. A file made here is never removed again: when something fails,
/// it may be the one that opens the account.
fn new_kek(context: &Context, options: &KekOptions) -> Result<(Kek, SourceRecord)> {
    if let Some(source) = options.new_source()? {
        if source.record().lies_in(&context.account) {
            context.note("warning: the key lies beside the data: whoever copies the account has both");
        }
        return Ok((kek::obtain_new(&*source)?, source.record()));
    }
    let settings = Settings::load(&account(context)?)?;
    let file = kek::make_next(settings.account(), settings.kek_version() + 1, &context.account)?;
    context.note(format_args!("note: a new key was made in {}", file.path().display()));
    Ok((kek::obtain_new(&file)?, file.record()))
}

struct Text<'a>(&'a KekRotated, &'a SourceRecord);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(rotated, before) = self;
        write!(f, "the account is opened by {} (version {})", rotated.key_source, rotated.kek_version)?;
        if rotated.kek_replaced {
            write!(f, "\nthe old one ({before}) opens it no more")?;
        } else {
            write!(f, "\nthe key is the same: as long as {before} still gives it, that opens the account too")?;
        }
        if rotated.account_key_replaced {
            write!(f, "\naccount key  {} (new)", rotated.account_key)?;
        }
        for left in &rotated.left {
            write!(f, "\nnot moved to the new account key: {}: {}", left.name, left.error.message)?;
        }
        if !rotated.left.is_empty() {
            write!(
                f,
                "\nthe old account key is kept for them, under the new key-encryption key; run this again later"
            )?;
        }
        Ok(())
    }
}
