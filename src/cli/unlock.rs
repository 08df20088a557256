//! The keys of an account for a verb, from the source that the account records or the options that override it.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use serde::de::DeserializeOwned;

use super::context::Context;
use super::kek_options::KekOptions;
use crate::account::failure::Failure;
use crate::account::key_request::{KeyRequest, Proven, ProvenRequest};
use crate::account::lock::Hold;
use crate::account::owner::Owner;
use crate::account::refused::Refused;
use crate::account::registry::Keys;
use crate::account::request::{KeyNeed, Request};
use crate::account::session::Session;
use crate::account::settings::Settings;
use crate::crypto::kek::{Kek, SourceRecord};
use crate::{Error, ErrorKind, Result};

/// How often a passphrase may be typed.
const TRIES: u32 = 3;

/// Unlocks the account, or says why not where the verb can do without. Such a verb does not ask for a passphrase of
/// its own accord.
pub(super) fn unlock(options: &KekOptions, need: KeyNeed, settings: &Settings, owner: &Owner) -> Result<Keys> {
    if need == KeyNeed::Optional
        && matches!(settings.kek_source(), SourceRecord::Passphrase(_))
        && options.new_source()?.is_none()
    {
        let error = Error::new(ErrorKind::WrongKey, "the account is locked: its key is made from a passphrase");
        return Ok(Keys::Locked(error.hint("--passphrase asks for it").into()));
    }
    // Nobody is asked for a key that would be of no use.
    let useful = settings.check_not_erased().and_then(|()| settings.check_not_revoked());
    let keys = useful.and_then(|()| settings.unlock(&kek(options, settings, owner)?));
    match keys {
        Ok(keys) => Ok(Keys::Unlocked(keys)),
        // Damage is never passed over, only a key that is not at hand.
        Err(error) if need == KeyNeed::Optional && error.kind() != ErrorKind::Corrupt => Ok(Keys::Locked(error.into())),
        Err(error) => Err(error),
    }
}

/// The key-encryption key of the account: from where the options say, with the caller's rights; else from where the
/// account says, and what that names is opened with the rights of its owner. A passphrase that is typed may be
/// mistyped, twice.
pub(super) fn kek(options: &KekOptions, settings: &Settings, owner: &Owner) -> Result<Kek> {
    let record = settings.kek_source();
    let given = options.given(record)?;
    let is_owners = given.is_none() && matches!(record, SourceRecord::File { .. });
    let source = given.map_or_else(|| options.recorded(settings.account(), record), Ok)?;
    let ask = || match is_owners {
        true => owner.act(|| source.obtain()).map_err(|error| match error.is_denied() {
            true => error.hint("what account.toml names is opened as the owner of the account; name it yourself"),
            false => error,
        }),
        false => source.obtain(),
    };
    let mut left = if source.is_typed() { TRIES } else { 1 };
    loop {
        let kek = ask()?;
        left -= 1;
        match settings.check_kek(&kek) {
            Ok(()) => return Ok(kek),
            Err(error) if left == 0 => return Err(error),
            // Nobody is left to tell when standard error is closed.
            Err(error) => drop(writeln!(io::stderr(), "{}, try again", error.what())),
        }
    }
}

/// The key-encryption key for an act that has to be proven: without it the act is refused, and leaves a failed line
/// where the acts of the account leave theirs.
pub(super) fn kek_for(
    what: Refused,
    context: &Context,
    options: &KekOptions,
    settings: &Settings,
    owner: &Owner,
) -> Result<Kek> {
    kek(options, settings, owner).inspect_err(|error| {
        if error.kind() == ErrorKind::WrongKey {
            tell_refused(what, context, error.what());
        }
    })
}

/// Leaves the failed line of an act that is refused before the account is open for it. Best effort: the verb says
/// itself why it fails.
pub(super) fn tell_refused(what: Refused, context: &Context, why: &str) {
    let locked = || Error::new(ErrorKind::WrongKey, "no key is at hand");
    let session = Session::open(&context.account, Hold::Shared, &|_, _| Ok(Keys::Locked(locked().into())));
    if let Ok(session) = session.and_then(|session| session.logged(context.audit_log.as_deref())) {
        tell_refused_in(&session, what, why);
        let _ = session.close();
    }
}

/// The same where the account is open.
pub(super) fn tell_refused_in(session: &Session, what: Refused, why: &str) {
    // It is an error always.
    let _: Result<(), Failure> = session.call(Request::Refused { what, why: why.to_owned() }, &[]);
}

/// Has the holder of the account do what is done only for a verb that has its key.
pub(super) fn ask_proven<T: DeserializeOwned>(
    session: &Session,
    settings: &Settings,
    kek: &Kek,
    what: ProvenRequest,
    files: &[BorrowedFd<'_>],
) -> Result<T, Failure> {
    let challenge: String = session.call(KeyRequest::Challenge.into(), &[])?;
    let proven = Proven::new(what, &challenge, &settings.derive(kek, None)?.proof())?;
    session.call(KeyRequest::Proven(proven).into(), files)
}
