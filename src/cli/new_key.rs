//! The key that an account is to have from now on, for `init` and `key rotate-kek`.
//!
//! It is taken only if the owner of the account gets it again from what account.toml will record. Where root asks for
//! the account of another user, root's own rights prove nothing:
//!
//! - a file is opened with the owner's rights, both times that it is asked;
//! - a command is refused: root's list of approved commands is not the owner's, and no process of root's runs a command
//!   as the owner's verbs would;
//! - a descriptor and a passphrase are given anew each time, and a credential by the manager of the owner's service, so
//!   it does not matter who gives them first;
//! - a file that is made for the account is made by the owner, beside the present one where that is a file, else where
//!   the owner keeps its settings.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::kek_options::KekOptions;
use crate::account::owner::Owner;
use crate::account::settings::Settings;
use crate::crypto::kek::{self, Kek, KekSource, KeyFile, SourceRecord};
use crate::{Error, ErrorKind, Result};

/// See the module documentation. Dropping it removes the file that was made for it.
pub(super) struct NewKey {
    pub(super) kek: Kek,
    /// What account.toml is to record.
    pub(super) record: SourceRecord,
    made: Option<PathBuf>,
    owner: Owner,
}

impl NewKey {
    /// The key of the account `account` that is being made in `data`.
    pub(super) fn first(options: &KekOptions, owner: &Owner, account: Uuid, data: &Path) -> Result<Self> {
        Self::get(options, owner, || kek::make_first(&folder(owner, None, data)?, account, data))
    }

    /// The next key of the account in `data`, which has `settings`.
    pub(super) fn next(options: &KekOptions, owner: &Owner, settings: &Settings, data: &Path) -> Result<Self> {
        let make = || {
            let folder = folder(owner, Some(settings.kek_source()), data)?;
            kek::make_next(&folder, settings.account(), settings.kek_version() + 1, data)
        };
        Self::get(options, owner, make)
    }

    fn get(options: &KekOptions, owner: &Owner, make: impl FnOnce() -> Result<KeyFile>) -> Result<Self> {
        if let Some(source) = options.new_source()? {
            return Ok(Self {
                kek: obtain(&*source, owner)?,
                record: source.record(),
                made: None,
                owner: owner.clone(),
            });
        }
        let file = owner.act(make).map_err(|error| match owner.is_another() {
            true => error.hint(for_owner(owner)),
            false => error,
        })?;
        let kek = obtain(&file, owner).inspect_err(|_| remove(file.path(), owner))?;
        Ok(Self { kek, record: file.record(), made: Some(file.path().to_owned()), owner: owner.clone() })
    }

    /// The file that was made for the key.
    pub(super) fn made(&self) -> Option<&Path> {
        self.made.as_deref()
    }

    /// The key, and what is to be recorded of it; its file stays.
    pub(super) fn keep(mut self) -> (Kek, SourceRecord) {
        self.made = None;
        (self.kek.clone(), self.record.clone())
    }
}

impl Drop for NewKey {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            remove(made, &self.owner);
        }
    }
}

/// Asks a new source for its key as the owner of the account will. See the module documentation.
fn obtain(source: &dyn KekSource, owner: &Owner) -> Result<Kek> {
    if !owner.is_another() {
        return kek::obtain_new(source);
    }
    let uid = owner.uid();
    match source.record() {
        SourceRecord::Fd | SourceRecord::Passphrase(_) | SourceRecord::Credential { .. } => kek::obtain_new(source),
        SourceRecord::Command { .. } => {
            let what = format!("the account belongs to uid {uid}, who has not approved this key command");
            Err(Error::new(ErrorKind::InvalidInput, what).hint(format!(
                "nothing was changed; be that user, so that the command is approved where that user's verbs find it: \
                 {}",
                as_owner(owner)
            )))
        }
        SourceRecord::File { .. } => {
            owner.act(|| kek::obtain_new(source)).map_err(|error| match error.kind() {
                // There is a key, and no account should have it.
                ErrorKind::WrongKey => error,
                kind => Error::new(kind, format!("the owner of the account (uid {uid}) does not get the key: {error}"))
                    .hint(for_owner(owner)),
            })
        }
    }
}

/// Where a key file for the account in `data` is made, which has its key from `present` so far.
fn folder(owner: &Owner, present: Option<&SourceRecord>, data: &Path) -> Result<PathBuf> {
    if !owner.is_another() {
        return kek::default_directory();
    }
    if let Some(SourceRecord::File { path }) = present.filter(|present| !present.lies_in(data))
        && let Some(folder) = path.parent().filter(|folder| folder.is_absolute())
    {
        return Ok(folder.to_owned());
    }
    owner.home().map(kek::directory_in).ok_or_else(|| {
        let what = format!("the owner of the account (uid {}) has no home directory to keep a key in", owner.uid());
        Error::new(ErrorKind::NotFound, what)
    })
}

fn for_owner(owner: &Owner) -> String {
    let uid = owner.uid();
    format!(
        "nothing was changed; name a key file of that user's (chown {uid}, chmod 600): --key-file PATH; or be that \
         user: {}",
        as_owner(owner)
    )
}

fn as_owner(owner: &Owner) -> String {
    format!("sudo -u '#{}' sealdisk ...", owner.uid())
}

/// It opens nothing; that it stays behind would be untidy and no more.
fn remove(made: &Path, owner: &Owner) {
    let _: Result<()> = owner.act(|| {
        let _ = fs::remove_file(made);
        Ok(())
    });
}
