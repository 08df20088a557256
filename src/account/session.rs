//! A verb's way to its account: here, under the lock, or there, through the server that holds it.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;
use serde::de::DeserializeOwned;

use super::acts::{self, Asker};
use super::audit_log::AuditLog;
use super::bases;
use super::control::client::Client;
use super::failure::Failure;
use super::lock::{self, AccountLock, Hold};
use super::owner::Owner;
use super::registry::{Keys, Registry, Setup};
use super::request::Request;
use super::settings::{self, Settings};
use crate::io::Dir;
use crate::io::real::RealDir;
use crate::serve::Attach;
use crate::{Error, ErrorKind, Result};

/// How long a verb waits for another verb, or for a server that is starting or stopping.
const TIMEOUT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);

/// Gives the account's keys. Not asked where a server has them already. Called with the caller's rights; what the
/// account itself names is the owner's to open.
pub type Unlock<'a> = dyn Fn(&Settings, &Owner) -> Result<Keys> + 'a;

/// Hears which image files the disks lie over, once everything else of a server's start is read and before its first
/// thread.
pub type Ready<'a> = dyn Fn(Vec<PathBuf>) -> Result<()> + 'a;

/// An account to which requests can be put. All that it reads and writes in the account it does as its [owner](Owner).
#[derive(Debug)]
pub struct Session {
    owner: Owner,
    route: Route,
}

#[derive(Debug)]
enum Route {
    Local(Registry),
    Served(Client),
}

impl Session {
    /// Reaches the account in `dir`.
    pub fn open(dir: &Path, hold: Hold, unlock: &Unlock<'_>) -> Result<Self> {
        let (account, owner) = find(dir)?;
        let route = match owner.act(|| reach(&account, &owner, hold))? {
            Acquired::Free(lock) => Route::Local(open(account, &owner, lock, unlock, None)?),
            Acquired::Served(client) => Route::Served(client),
        };
        Ok(Self { owner, route })
    }

    /// Reaches the account in `dir` to destroy all its keys: none is needed, and account.toml may be damaged.
    pub fn open_to_erase(dir: &Path) -> Result<Self> {
        let (account, owner) = find(dir)?;
        let route = owner.act(|| -> Result<Route> {
            let lock = match reach(&account, &owner, Hold::Exclusive)? {
                Acquired::Free(lock) => lock,
                Acquired::Served(client) => return Ok(Route::Served(client)),
            };
            Settings::make_durable(&*account)?;
            let settings = match Settings::load(&*account) {
                Err(error) if settings::is_damage(&error) => Settings::unreadable(&*account),
                loaded => loaded?,
            };
            let locked = Error::new(ErrorKind::WrongKey, "the keys of this account are to be erased").into();
            let registry = Registry::over(account, lock, settings, Keys::Locked(locked), Setup::default())?;
            Ok(Route::Local(registry))
        })?;
        Ok(Self { owner, route })
    }

    /// Whether a server has the account, which goes on when this process has ended.
    #[must_use]
    pub fn is_served(&self) -> bool {
        matches!(self.route, Route::Served(_))
    }

    /// The same; `attach` leads to the disks that are copied, where no server has the account.
    #[must_use]
    pub fn attaching_by(self, attach: impl FnOnce() -> Arc<dyn Attach>) -> Self {
        if let Route::Local(registry) = &self.route {
            registry.open_local_attach(attach());
        }
        self
    }

    /// The same, with a line in the audit log `log` for what is done in this process. A server has its own.
    pub fn logged(self, log: Option<&Path>) -> Result<Self> {
        if let (Route::Local(registry), Some(path)) = (&self.route, log) {
            let log = AuditLog::at(path);
            match log.open_as(&self.owner) {
                // What only looks needs none; an act will say so.
                Err(_) if registry.shared.lock.hold() == Hold::Shared => {}
                opened => opened?,
            }
            registry.set_audit_log(log);
        }
        Ok(self)
    }

    /// The answer to `request`, whose documentation names its type. `files` belong to the request.
    pub fn call<T: DeserializeOwned>(
        &self,
        request: Request,
        files: &[BorrowedFd<'_>],
    ) -> std::result::Result<T, Failure> {
        // As the user who asks, not as the owner of the account.
        let asker = Asker::this_process();
        let value = self.owner.act(|| match &self.route {
            Route::Local(registry) => {
                let files: io::Result<Vec<_>> = files.iter().map(BorrowedFd::try_clone_to_owned).collect();
                let files = files.map_err(|e| Error::io("cannot duplicate a descriptor", e))?;
                acts::perform(request, registry, files, asker)
            }
            Route::Served(client) => client.call(&request, files),
        })?;
        serde_json::from_value(value)
            .map_err(|error| Error::new(ErrorKind::Io, format!("the answer makes no sense: {error}")).into())
    }

    /// The image files that this process may still have to open for the account.
    pub fn images(&self) -> Result<Vec<PathBuf>> {
        match &self.route {
            Route::Local(registry) => self.owner.act(|| registry.recorded_images()),
            Route::Served(_) => Ok(Vec::new()),
        }
    }

    /// Closes what was opened here, durably.
    pub fn close(self) -> Result<()> {
        let Self { owner, route } = self;
        match route {
            Route::Local(registry) => owner.act(|| registry.close()),
            Route::Served(_) => Ok(()),
        }
    }
}

/// Opens the account in `dir` for a server, which holds it until it ends, as its owner from now on.
/// [`ErrorKind::InUse`] at once if there is a server already. A server that is `read_only` holds an account on a
/// read-only mount shared, and changes nothing.
pub fn open_to_serve(dir: &Path, read_only: bool, unlock: &Unlock<'_>, ready: &Ready<'_>) -> Result<Registry> {
    let (account, owner) = find(dir)?;
    let reached = owner.act(|| {
        let shared = read_only && lock::is_on_read_only(&account);
        reach(&account, &owner, if shared { Hold::Shared } else { Hold::Exclusive })
    })?;
    match reached {
        Acquired::Free(lock) => open(account, &owner, lock, unlock, Some(ready)),
        Acquired::Served(_) => {
            let by = lock::holder(&account).map_or_else(String::new, |holder| format!(" by {holder}"));
            Err(Error::new(ErrorKind::InUse, format!("the account is already being served{by}"))
                .at_path(dir)
                .hint("its disks can be attached now; verbs reach it while it runs"))
        }
    }
}

/// What account.toml of the account in `dir` says, without a lock and without a key.
pub fn settings(dir: &Path) -> Result<(Settings, Owner)> {
    let (account, owner) = find(dir)?;
    let settings = owner.act(|| Settings::load(&*account))?;
    Ok((settings, owner))
}

fn open(
    account: Arc<RealDir>,
    owner: &Owner,
    lock: AccountLock,
    unlock: &Unlock<'_>,
    ready: Option<&Ready<'_>>,
) -> Result<Registry> {
    let settings = owner.act(|| {
        if lock.hold() == Hold::Exclusive {
            // What a killed process left may look durable and not be.
            Settings::make_durable(&*account)?;
        }
        Settings::load(&*account)
    })?;
    let keys = unlock(&settings, owner)?;
    if let Some(ready) = ready {
        // All that the caller named is open now.
        owner.become_for_good()?;
        crate::disk::remember_system(account.path());
        ready(bases::recorded(&*account, &keys)?)?;
        return Registry::over(account, lock, settings, keys, Setup::default());
    }
    owner.act(|| Registry::over(account, lock, settings, keys, Setup::default()))
}

enum Acquired {
    Free(AccountLock),
    Served(Client),
}

/// The account in `dir`, through which all of it is reached: its path is not looked up again.
fn find(dir: &Path) -> Result<(Arc<RealDir>, Owner)> {
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
        Ok(_) => {}
        Err(error) => return Err(failed(error.into())),
    }
    let owner = Owner::of(&account)?;
    Ok((Arc::new(account), owner))
}

/// The lock decides whether the account is free; the socket is only tried when it is not.
fn reach(dir: &RealDir, owner: &Owner, hold: Hold) -> Result<Acquired> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(lock) = AccountLock::try_take(dir, hold)? {
            return Ok(Acquired::Free(lock));
        }
        let control = match lock::holder(dir) {
            Some(holder) => holder.control,
            // It had no space to tell.
            None => Some(dir.path().join(lock::CONTROL)),
        };
        if let Some(control) = control {
            match Client::connect(&control, owner.uid()) {
                Ok(client) => return Ok(Acquired::Served(client)),
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
