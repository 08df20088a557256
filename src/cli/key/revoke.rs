//! `key revoke` and `key restore`: the keys taken back, and given again.

use std::fmt::{self, Display};
use std::os::fd::AsFd;

use clap::Args;

use crate::account::key_life::{KeysRestored, KeysRevoked, Left};
use crate::account::key_request::KeyRequest;
use crate::account::lock::Hold;
use crate::account::refused::Refused;
use crate::account::registry::Keys;
use crate::account::session::{self, Session};
use crate::cli::context::{Context, Outcome};
use crate::cli::kek_options::KekOptions;
use crate::cli::unlock;
use crate::{Error, ErrorKind};

/// Take the keys back: nothing is served any more, and no restart changes that
///
/// Clients get an error for every request at once, for plaintext too. What was written gets half a second to become
/// durable, then every key in memory is overwritten. `sealdisk key restore` undoes it, and clients that stayed go on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk key revoke")]
pub(in crate::cli) struct Revoke {
    #[command(flatten)]
    key: KekOptions,
}

impl Revoke {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        let revoked: KeysRevoked = context.ask(&self.key, KeyRequest::Revoke.into(), &[])?;
        context.show(&revoked, Text(&revoked))
    }
}

struct Text<'a>(&'a KeysRevoked);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the keys of the account are revoked")?;
        for name in &self.0.unflushed {
            write!(f, "\nnot durable yet, kept in the server's memory: the last writes to {name}")?;
        }
        for name in &self.0.held {
            write!(f, "\na write that its device does not finish still holds the data key of {name}")?;
        }
        if self.0.account_key_held {
            write!(f, "\na flush that its device does not finish still holds the account key")?;
        }
        Ok(())
    }
}

/// Give revoked keys back
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk key restore
  sealdisk key restore --key-file ./kek")]
pub(in crate::cli) struct Restore {
    #[command(flatten)]
    key: KekOptions,
}

impl Restore {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        let path = &context.account;
        let (settings, owner) = session::settings(path)?;
        settings.check_not_erased()?;
        let kek = unlock::kek_for(Refused::RestoreKeys, context, &self.key, &settings, &owner)?;
        // The account is opened without its keys: the request brings what restores them.
        let session = Session::open(path, Hold::Exclusive, &|_, _| {
            Ok(Keys::Locked(Error::new(ErrorKind::Revoked, "the keys of this account are revoked").into()))
        })?;
        let session = session.logged(context.audit_log.as_deref())?;
        // As it is now that nobody else changes it.
        let handed_over = session::settings(path)?.0.derive(&kek, None)?.hand_over()?;
        drop(kek);
        let restored: Result<KeysRestored, _> = session.call(KeyRequest::Restore.into(), &[handed_over.as_fd()]);
        let closed = session.close();
        let restored = restored?;
        closed?;
        let said = if restored.were_revoked { "are restored" } else { "were not revoked" };
        let left: String =
            restored.left.iter().map(|Left { name, error }| format!("\n{name}: {}", error.message)).collect();
        context.show(&restored, format_args!("the keys of the account {said}{left}"))
    }
}
