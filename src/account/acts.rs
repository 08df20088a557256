//! Acts: requests that change an account, or take something out of it. Each leaves one line in the log of the server,
//! and in the audit log where there is one: the verb, the disk, who asked, and how it ended.

use std::time::SystemTime;

use serde_json::Value;

use super::audit_log::line::Entry;
use super::failure::Failure;
use super::key_life::Depth;
use super::key_request::{KeyRequest, ProvenRequest};
use super::life_request::LifeRequest;
use super::lock::Hold;
use super::registry::Registry;
use super::request::Request;
use crate::crypto::keyring::AuditKey;
use crate::{Error, ErrorKind};

/// Who asks for an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The real user id: root's also where root acts with the rights of the owner of the account.
    pub uid: u32,
    /// `None`: the kernel does not tell.
    pub pid: Option<u32>,
}

impl Asker {
    /// A verb that works in its own process.
    #[must_use]
    pub fn this_process() -> Self {
        Self { uid: rustix::process::getuid().as_raw(), pid: Some(std::process::id()) }
    }
}

/// What a request does, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Act {
    /// As the command line calls it.
    verb: &'static str,
    /// The disk or snapshot; empty: the account.
    on: String,
    detail: String,
    /// It takes keys away, and is not refused for want of an audit log.
    urgent: bool,
}

impl Act {
    fn new(verb: &'static str, on: impl ToString) -> Self {
        Self { verb, on: on.to_string(), detail: String::new(), urgent: false }
    }

    fn with(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    fn urgent(self) -> Self {
        Self { urgent: true, ..self }
    }

    /// `None`: the request changes nothing and takes nothing out, or is a piece of an act that was told at its
    /// beginning.
    pub(super) fn of(request: &Request) -> Option<Self> {
        Some(match request {
            Request::List
            | Request::ListHidden
            | Request::Status
            | Request::Show { .. }
            | Request::Map { .. }
            | Request::Base { .. }
            | Request::SnapshotList { .. }
            | Request::Encryption { set: None } => return None,
            Request::Encryption { set: Some(set) } => {
                Self::new(if set.is_on() { "encryption on" } else { "encryption off" }, "")
            }
            Request::Create { name, size, base } => {
                let size = size.map(|size| format!("{size} bytes"));
                let base = base.as_ref().map(|base| format!("over {}", base.path.display()));
                Self::new("create", name).with([size, base].into_iter().flatten().collect::<Vec<_>>().join(" "))
            }
            Request::Scrub { name, .. } => Self::new("scrub", name),
            Request::Delete { name } => Self::new("delete", name),
            Request::Rename { name, to } => Self::new("rename", name).with(format!("to {to}")),
            Request::Resize { name, size, .. } => Self::new("resize", name).with(format!("{size} bytes")),
            Request::Rebase { name, base, verified: true } => {
                Self::new("verify --base", name).with(format!("records the digests of {}", base.path.display()))
            }
            Request::Rebase { name, base, .. } => {
                Self::new("rebase", name).with(format!("over {}", base.path.display()))
            }
            Request::SnapshotCreate { name, snapshot } => Self::new("snapshot create", format!("{name}@{snapshot}")),
            Request::SnapshotDelete { name, snapshot } => Self::new("snapshot delete", format!("{name}@{snapshot}")),
            Request::Key { what } => return Self::of_keys(what),
            Request::Life { what } => return Self::of_life(what),
        })
    }

    fn of_keys(request: &KeyRequest) -> Option<Self> {
        Some(match request {
            KeyRequest::Challenge | KeyRequest::Audit { .. } | KeyRequest::CheckLog => return None,
            KeyRequest::Proven(proven) => match &proven.what {
                ProvenRequest::RotateKek { depth, .. } => Self::new("key rotate-kek", "").with(match depth {
                    Depth::Kek => "",
                    Depth::AccountKey { .. } => "with a new account key",
                    Depth::Compromised { .. } => "with new keys and re-encryption of everything",
                }),
                ProvenRequest::Export { name, layer } => {
                    Self::new("key export", name).with(format!("the data key of layer {layer}"))
                }
            },
            KeyRequest::RotateData { name } => {
                Self::new("key rotate-data", name.as_ref().map(ToString::to_string).unwrap_or_default())
            }
            KeyRequest::EndReencryption => Self::new("key rotate-kek", "").with("everything is re-encrypted"),
            KeyRequest::Revoke => Self::new("key revoke", "").urgent(),
            KeyRequest::Restore => Self::new("key restore", ""),
            KeyRequest::Erase { name } => {
                Self::new("key erase", name.as_ref().map(ToString::to_string).unwrap_or_default()).urgent()
            }
            KeyRequest::Reencrypt { name, page: 0, .. } => Self::new("reencrypt", name),
            KeyRequest::Reencrypt { .. } => return None,
            KeyRequest::ReencryptDetached { name, .. } => Self::new("reencrypt", name).with("by the server"),
        })
    }

    fn of_life(request: &LifeRequest) -> Option<Self> {
        Some(match request {
            LifeRequest::RollbackPreview { .. }
            | LifeRequest::Verify { .. }
            | LifeRequest::Diff { .. }
            | LifeRequest::Copied { .. } => return None,
            LifeRequest::Rollback { name, snapshot, drops } => {
                let drops = if drops.is_empty() { String::new() } else { format!("drops {}", drops.join(", ")) };
                Self::new("snapshot rollback", format!("{name}@{snapshot}")).with(drops)
            }
            LifeRequest::Clone { source, name } => Self::new("clone", name).with(format!("of {source}")),
            LifeRequest::Read { view } => Self::new("read out", view),
            LifeRequest::Copy { name, source, .. } => Self::new("import", name).with(format!("begins, from {source}")),
            LifeRequest::FinishCopy { name, .. } => Self::new("import", name).with("is whole"),
        })
    }
}

/// Does what is asked, as [`Request::perform`], and tells of it where it is an act. What changes the account is refused
/// where it is held shared.
pub fn perform(
    request: Request,
    registry: &Registry,
    files: Vec<std::os::fd::OwnedFd>,
    asker: Asker,
) -> Result<Value, Failure> {
    if request.hold() == Hold::Exclusive && registry.is_shared() {
        let error = Error::new(ErrorKind::InUse, "the account is only read by this process, and is not changed");
        return Err(error.hint("change it where its file system is mounted for writing, with no server here").into());
    }
    let Some(act) = Act::of(&request) else { return request.perform(registry, files) };
    let log = registry.audit_log();
    if let Some(log) = log
        && let Err(error) = log.ready()
    {
        tracing::error!(%error, verb = act.verb, "the audit log cannot be written");
        if !act.urgent {
            return Err(error.into());
        }
    }
    // Afterwards it may be gone, or not be the one that proves this line.
    let before = key(registry);
    let done = request.perform(registry, files);
    let error = done.as_ref().err().map(|failure| failure.message.clone());
    let Asker { uid, pid } = asker;
    let some = |text: &'_ str| if text.is_empty() { None } else { Some(text.to_owned()) };
    let (verb, on, detail) = (act.verb, some(&act.on), some(&act.detail));
    match &error {
        None => tracing::info!(verb, on, detail, uid, pid, outcome = "done", "act"),
        Some(error) => tracing::warn!(verb, on, detail, uid, pid, outcome = "failed", %error, "act"),
    }
    let Some(log) = log else { return done };
    let entry = Entry {
        time: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
        account: registry.id(),
        verb: act.verb.to_owned(),
        on: act.on,
        detail: act.detail,
        uid,
        pid,
        error,
    };
    if let Err(error) = log.append(entry, key(registry).or(before)) {
        tracing::error!(%error, verb = act.verb, "an act has no line in the audit log yet");
        // A server keeps the line; a verb ends with it.
        if done.is_ok() && !registry.is_served() {
            let what = format!("`{}` is done, but has no line in the audit log: {error}", act.verb);
            return Err(Error::new(ErrorKind::Io, what).into());
        }
    }
    done
}

fn key(registry: &Registry) -> Option<AuditKey> {
    registry.audit_keys().ok()?.into_iter().next()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::account::lock::AccountLock;
    use crate::account::registry::{DISKS, Keys};
    use crate::account::report::Switch;
    use crate::account::settings::Settings;
    use crate::crypto::kek::{Kek, SourceRecord};
    use crate::crypto::secret::SecretKey;
    use crate::io::real::RealDir;

    #[test]
    fn what_only_looks_is_no_act_and_what_takes_keys_away_is_urgent() {
        let name: crate::account::name::BlobName = "a".parse().expect("a name");
        assert_eq!(Act::of(&Request::Status), None);
        assert_eq!(Act::of(&Request::Encryption { set: None }), None);
        let off = Act::of(&Request::Encryption { set: Some(Switch::Off) }).expect("an act");
        assert_eq!((off.verb, off.urgent), ("encryption off", false));
        assert!(Act::of(&KeyRequest::Revoke.into()).is_some_and(|act| act.urgent));
        let delete = Act::of(&Request::Delete { name }).expect("an act");
        assert_eq!((delete.verb, delete.on.as_str()), ("delete", "a"));
    }

    #[test]
    fn who_holds_an_account_shared_changes_nothing_in_it() {
        let folder = tempfile::tempdir().expect("dir");
        std::fs::create_dir(folder.path().join(DISKS)).expect("a folder");
        let dir = RealDir::open(folder.path()).expect("opened");
        let kek = Kek::new(SecretKey::filled(1));
        let (settings, ring) =
            Settings::create(&dir, Uuid::new_v4(), &kek, SourceRecord::Fd, true).expect("an account");
        let lock = AccountLock::try_take(&dir, Hold::Shared).expect("a lock").expect("free");
        let registry = Registry::open(folder.path(), lock, settings, Keys::Unlocked(ring)).expect("opened");
        let asked = |request: Request| perform(request, &registry, Vec::new(), Asker::this_process());
        asked(Request::List).expect("it only reads");
        let name = || "a".parse().expect("a name");
        let create = Request::Create { name: name(), size: Some(1 << 20), base: None };
        let off = Request::Encryption { set: Some(Switch::Off) };
        for request in [create, off, Request::Delete { name: name() }, KeyRequest::Revoke.into()] {
            let failure = asked(request).expect_err("a change");
            assert!(failure.message.contains("only read by this process"), "{}", failure.message);
        }
        assert!(registry.encryption() && registry.names().is_empty() && !registry.revoked());
    }
}
