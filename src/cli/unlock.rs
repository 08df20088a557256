//! The keys of an account for a verb, from the source that the account records or the options that override it.

use crate::account::registry::Keys;
use crate::account::request::KeyNeed;
use crate::account::settings::Settings;
use crate::crypto::kek::{KekOptions, SourceRecord};
use crate::{Error, ErrorKind, Result};

/// Unlocks the account, or says why not where the verb can do without. Such a verb does not ask for a passphrase of
/// its own accord.
pub(super) fn unlock(options: &KekOptions, need: KeyNeed, settings: &Settings) -> Result<Keys> {
    if need == KeyNeed::Optional
        && matches!(settings.kek_source(), SourceRecord::Passphrase(_))
        && options.new_source()?.is_none()
    {
        let error = Error::new(ErrorKind::WrongKey, "the account is locked: its key is made from a passphrase");
        return Ok(Keys::Locked(error.hint("--passphrase asks for it").into()));
    }
    // Nobody is asked for a key that would be of no use.
    let useful = settings.check_not_erased().and_then(|()| settings.check_not_revoked());
    let keys = useful.and_then(|()| settings.unlock(&options.obtain(settings.kek_source())?));
    match keys {
        Ok(keys) => Ok(Keys::Unlocked(keys)),
        // Damage is never passed over, only a key that is not at hand.
        Err(error) if need == KeyNeed::Optional && error.kind() != ErrorKind::Corrupt => Ok(Keys::Locked(error.into())),
        Err(error) => Err(error),
    }
}
