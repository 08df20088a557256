//! `key rotate-kek`: another key-encryption key for the account.

use std::fmt::{self, Display, Write as _};
use std::os::fd::AsFd;

use clap::Args;

use crate::account::failure::Failure;
use crate::account::key_life::{Depth, KekRotated, Older, ReencryptionEnded};
use crate::account::key_request::{KeyRequest, ProvenRequest};
use crate::account::lock::Hold;
use crate::account::owner::Owner;
use crate::account::reencrypt::Sweep;
use crate::account::refused::Refused;
use crate::account::registry::Keys;
use crate::account::session::{self, Session};
use crate::account::settings::Settings;
use crate::cli::context::{Context, Outcome};
use crate::cli::kek_options::{KekOptions, OldKekOptions};
use crate::cli::key_place::KeyPlace;
use crate::cli::new_key::NewKey;
use crate::cli::{reencrypt, size, unlock};
use crate::crypto::kek::{Kek, SourceRecord};
use crate::io::system;
use crate::{Error, ErrorKind, Result};

/// Put the account under another key-encryption key, of the same kind or another
///
/// The options name the new key; without one a new key file is made beside the first. Where root asks for another
/// user's account, that user has to be able to get the key, and owns the file that is made. No data is copied: only
/// what the key wraps is wrapped anew, while serving too. The old key opens the account until that is durable, and
/// never after. The key in use is asked for, also while the account is served.
///
/// --account-key also replaces the key between yours and the data keys, and stores what is written from then on under
/// fresh data keys: whoever has the old key and an old copy of the account reads nothing of it. --compromised
/// re-encrypts what was stored before, too, while clients go on. It may be broken off at any time: asked again it goes
/// on with what is left, under the key that was new then, unless another one is named.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk key rotate-kek
  sealdisk key rotate-kek --account-key --key-file /etc/sealdisk/kek.2
  sealdisk key rotate-kek --compromised --key-file /etc/sealdisk/kek.2
  sealdisk key rotate-kek --old-key-file ./kek.1 --passphrase
  sealdisk key rotate-kek --old-key-command 'kms get kek.1' --key-command 'kms get kek.2'")]
pub(in crate::cli) struct RotateKek {
    /// Replace the account key too, and take fresh data keys for what is written from now on
    #[arg(long)]
    account_key: bool,
    /// The key is in other hands: replace every key, and re-encrypt all that is stored
    #[arg(long)]
    compromised: bool,
    #[command(flatten)]
    new: KekOptions,
    #[command(flatten)]
    old: OldKekOptions,
}

impl RotateKek {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        // No new key is made for an account that takes none.
        let (settings, owner) = session::settings(&context.account)?;
        settings.check_not_erased()?;
        settings.check_not_revoked()?;
        if self.compromised && !settings.encryption() {
            return Err(Error::new(ErrorKind::InUse, "encryption is off, so nothing can be re-encrypted")
                .hint("`sealdisk encryption on` first; --account-key replaces the keys alone")
                .into());
        }
        let goes_on = self.compromised && settings.reencryption_pending();
        // Also where a server has the account open: who reaches it may not lock its owner out.
        let old = unlock::kek_for(Refused::RotateKek, context, &KekOptions::from(self.old), &settings, &owner)?;
        let (new, source) = match goes_on && !self.new.is_given() {
            true => (old.clone(), settings.kek_source().clone()),
            false => new_kek(context, &self.new, &settings, &owner)?,
        };
        let depth = match (self.compromised, self.account_key) {
            (true, _) => Depth::Compromised { id: system::uuid()? },
            (false, true) => Depth::AccountKey { id: system::uuid()? },
            (false, false) => Depth::Kek,
        };
        let unlock = |settings: &Settings, _: &Owner| Ok(Keys::Unlocked(settings.unlock(&old)?));
        let session =
            Session::open(&context.account, Hold::Exclusive, &unlock)?.logged(context.audit_log.as_deref())?;
        let named = self.new.is_given();
        let done = Rotation { context, session: &session, old, new, source, named, depth }.run();
        let closed = session.close();
        let (document, text) = done?;
        closed?;
        context.show(&document, text)
    }
}

/// The rotation of an account that is open.
struct Rotation<'a> {
    context: &'a Context,
    session: &'a Session,
    old: Kek,
    new: Kek,
    source: SourceRecord,
    /// The user has named the source just now.
    named: bool,
    depth: Depth,
}

impl Rotation<'_> {
    /// What is to be said of it, for programs and for people.
    fn run(self) -> std::result::Result<(serde_json::Value, String), Failure> {
        let Self { context, session, old, new, source, named, depth } = self;
        // As it is now: another rotation may have come first.
        let (settings, _) = session::settings(&context.account)?;
        let before = settings.kek_source().clone();
        let id = match depth {
            Depth::Kek => None,
            Depth::AccountKey { id } | Depth::Compromised { id } => Some(id),
        };
        let handed_over = settings.derive(&new, id)?.hand_over()?;
        drop(new);
        let request = ProvenRequest::RotateKek { source: source.clone(), depth };
        let rotated: KekRotated = unlock::ask_proven(session, &settings, &old, request, &[handed_over.as_fd()])?;
        drop(old);
        if named {
            context.approve(settings.account(), &source);
        }
        let mut text = Text(&rotated, &before).to_string();
        let mut document = serde_json::to_value(&rotated).map_err(|error| Error::io("JSON failed", error.into()))?;
        if matches!(depth, Depth::Compromised { .. }) {
            // A note is one line.
            text.lines().for_each(|line| context.note(line));
            if let Some(left) = rotated.left.first() {
                let what = "nothing is re-encrypted before every disk is under the new account key";
                return Err(Error::new(ErrorKind::InUse, what)
                    .hint(format!("repair or delete {}, and ask again", left.name))
                    .into());
            }
            let ended = reencrypt_all(context, session)?;
            document["kept"] = serde_json::json!(ended.kept);
            let all = if ended.kept.is_empty() { "everything" } else { "everything but what follows" };
            text = format!("{all} is under keys that are new");
            for Older { name, bytes } in &ended.kept {
                let kept = size::human(*bytes);
                let _ = write!(text, "\n{name}: {kept} stay as they were, for snapshots or clones that read them");
            }
            if !ended.kept.is_empty() {
                text += "\ndelete those to be rid of it (`reencrypt CLONE --include-base` detaches a clone)";
            }
        }
        let place = KeyPlace::of(session::settings(&context.account)?.0.kek_source(), &context.account);
        document["key_place"] = serde_json::json!(place);
        let _ = write!(text, "\n\n{place}");
        Ok((document, text))
    }
}

/// Brings all that is stored under the current keys. A disk that fails keeps none of the others.
fn reencrypt_all(context: &Context, session: &Session) -> std::result::Result<ReencryptionEnded, Failure> {
    context.note("re-encrypting what is stored; if this is broken off, ask again: it goes on with what is left");
    let sweep = Sweep { include_base: false, rate: None };
    let mut failed = None;
    for name in reencrypt::all(session)? {
        match reencrypt::wait(context, session, name.clone(), sweep) {
            Ok(line) => context.note(line["text"].as_str().unwrap_or_default()),
            Err(failure) => {
                context.note(format_args!("{name}: {}", failure.message));
                failed = failed.or(Some(failure));
            }
        }
    }
    match failed {
        Some(failure) => {
            // Refused, for what is left: the log of acts says that it ended so.
            let _: std::result::Result<ReencryptionEnded, Failure> =
                session.call(KeyRequest::EndReencryption.into(), &[]);
            Err(failure)
        }
        None => session.call(KeyRequest::EndReencryption.into(), &[]),
    }
}

/// The key that the options name, or one made for it. A file made here is never removed again: when something fails,
/// it may be the one that opens the account.
fn new_kek(context: &Context, options: &KekOptions, settings: &Settings, owner: &Owner) -> Result<(Kek, SourceRecord)> {
    let new = NewKey::next(options, owner, settings, &context.account)?;
    if let Some(made) = new.made() {
        context.note(format_args!("note: a new key was made in {}", made.display()));
    } else if new.record.lies_in(&context.account) {
        context.note("warning: the key lies beside the data: whoever copies the account has both");
    }
    Ok(new.keep())
}

struct Text<'a>(&'a KekRotated, &'a SourceRecord);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(rotated, before) = self;
        let source_changed = rotated.key_source != before.to_string();
        write!(f, "the account is opened by {} (version {})", rotated.key_source, rotated.kek_version)?;
        if !rotated.kek_replaced && rotated.account_key_replaced {
            write!(f, "\nwhat was begun with this key is finished")?;
        } else if rotated.kek_replaced {
            write!(f, "\nthe old one ({before}) opens it no more")?;
        } else if source_changed {
            write!(f, "\nthe key is the same: as long as {before} still gives it, that opens the account too")?;
        }
        if rotated.account_key_replaced {
            write!(f, "\naccount key  {} (new)", rotated.account_key)?;
        }
        for Older { name, bytes } in &rotated.older {
            write!(f, "\n{name}: {} are still under older data keys", size::human(*bytes))?;
        }
        if !rotated.older.is_empty() {
            write!(f, "\n`sealdisk reencrypt --all` brings them under new ones")?;
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
