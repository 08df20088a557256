//! A verb's way to its account: here, under the lock, or there, through the server that holds it.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;
use serde::de::DeserializeOwned;

use super::bases;
use super::control::client::Client;
use super::failure::Failure;
use super::lock::{self, AccountLock, Hold};
use super::registry::{Keys, Registry, Setup};
use super::request::Request;
use super::settings::{self, Settings};
use crate::io::Dir;
use crate::io::real::RealDir;
use crate::{Error, ErrorKind, Result};

/// How long a verb waits for another verb, or for a server that is starting or stopping.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);

/// Gives the account's keys. Not asked where a server has them already.
pub type Unlock<'a> = dyn Fn(&Settings) -> Result<Keys> + 'a;

/// Hears which image files the disks lie over, once everything else of a server's start is read and before its first
/// thread.
pub type Ready<'a> = dyn Fn(Vec<PathBuf>) -> Result<()> + 'a;

/// An account to which requests can be put.
#[derive(Debug)]
pub enum Session {
    Here(Registry),
    There(Client),
}

impl Session {
    /// Reaches the account in `dir`.
    pub fn open(dir: &Path, hold: Hold, unlock: &Unlock<'_>) -> Result<Self> {
        let account = Arc::new(find(dir)?);
        match reach(&account, hold)? {
            Reached::Free(lock) => Ok(Self::Here(open(account, lock, unlock, None)?)),
            Reached::Served(client) => Ok(Self::There(client)),
        }
    }

    /// Reaches the account in `dir` to destroy all its keys: none is needed, and account.toml may be damaged.
    pub fn open_to_erase(dir: &Path) -> Result<Self> {
        let account = Arc::new(find(dir)?);
        let lock = match reach(&account, Hold::Exclusive)? {
            Reached::Free(lock) => lock,
            Reached::Served(client) => return Ok(Self::There(client)),
        };
        Settings::settle(&*account)?;
        let settings = match Settings::load(&*account) {
            Err(error) if settings::is_damage(&error) => Settings::unreadable(&*account),
            loaded => loaded?,
        };
        let locked = Error::new(ErrorKind::WrongKey, "the keys of this account are to be erased").into();
        Ok(Self::Here(Registry::over(account, lock, settings, Keys::Locked(locked), Setup::default())?))
    }

    /// The answer to `request`, whose documentation names its type. `files` belong to the request.
    pub fn call<T: DeserializeOwned>(
        &self,
        request: Request,
        files: &[BorrowedFd<'_>],
    ) -> std::result::Result<T, Failure> {
        let value = match self {
            Self::Here(registry) => {
                let files: io::Result<Vec<_>> = files.iter().map(BorrowedFd::try_clone_to_owned).collect();
                let files = files.map_err(|e| Error::io("cannot duplicate a descriptor", e))?;
                request.perform(registry, files)?
            }
            Self::There(client) => client.call(&request, files)?,
        };
        serde_json::from_value(value)
            .map_err(|error| Error::new(ErrorKind::Io, format!("the answer makes no sense: {error}")).into())
    }

    /// Closes what was opened here, durably.
    pub fn close(self) -> Result<()> {
        match self {
            Self::Here(registry) => registry.close(),
            Self::There(_) => Ok(()),
        }
    }
}

/// Opens the account in `dir` for a server, which holds it until it ends. [`ErrorKind::InUse`] at once if there is a
/// server already.
pub fn open_to_serve(dir: &Path, unlock: &Unlock<'_>, ready: &Ready<'_>) -> Result<Registry> {
    let account = Arc::new(find(dir)?);
    match reach(&account, Hold::Exclusive)? {
        Reached::Free(lock) => open(account, lock, unlock, Some(ready)),
        Reached::Served(_) => {
            let by = lock::holder(&account).map_or_else(String::new, |holder| format!(" by {holder}"));
            Err(Error::new(ErrorKind::InUse, format!("the account is already being served{by}"))
                .at_path(dir)
                .hint("its disks can be attached now; verbs reach it while it runs"))
        }
    }
}

fn open(account: Arc<RealDir>, lock: AccountLock, unlock: &Unlock<'_>, ready: Option<&Ready<'_>>) -> Result<Registry> {
    if lock.hold() == Hold::Exclusive {
        // What a killed process left may look durable and not be.
        Settings::settle(&*account)?;
    }
    let settings = Settings::load(&*account)?;
    let keys = unlock(&settings)?;
    if let Some(ready) = ready {
        crate::disk::remember_boot();
        ready(bases::recorded(&*account, &keys)?)?;
    }
    Registry::over(account, lock, settings, keys, Setup::default())
}

enum Reached {
    Free(AccountLock),
    Served(Client),
}

/// The account in `dir`, through which all of it is reached: its path is not looked up again.
fn find(dir: &Path) -> Result<RealDir> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::new(ErrorKind::NotFound, "there is no account here")
                .at_path(dir)
                .hint("`sealdisk init` makes one, --account DIR or SEALDISK_ACCOUNT names another")
        }
        _ => Error::io("cannot look into the account", error).at_path(dir),
    };
    let account = RealDir::open(dir).map_err(failed)?;
    match rustix::fs::statat(&account, settings::FILE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(account),
        Err(error) => Err(failed(error.into())),
    }
}

/// The lock decides whether the account is free; the socket is only tried when it is not.
fn reach(dir: &RealDir, hold: Hold) -> Result<Reached> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = AccountLock::try_take(dir, hold)? {
            return Ok(Reached::Free(lock));
        }
        let control = match lock::holder(dir) {
            Some(holder) => holder.control,
            // It had no space to tell.
            None => Some(dir.path().join(lock::CONTROL)),
        };
        if let Some(control) = control {
            match Client::connect(&control) {
                Ok(client) => return Ok(Reached::Served(client)),
                // Left by a server that is gone, or not yet there: whoever has the lock now will let go or listen.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {}
                Err(error) => return Err(Error::io("cannot reach the server of the account", error).at_path(&control)),
            }
        }
        if Instant::now() >= deadline {
            return Err(lock::in_use(dir));
        }
        std::thread::sleep(STEP);
    }
}
