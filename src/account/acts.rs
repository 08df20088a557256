//! Acts: requests that change an account, or take something out of it. Each leaves one line in the log of the server,
//! and in the audit log where there is one: the verb, the disk, who asked, and how it ended. One whose work goes on
//! after the request leaves two, when it begins and when it ends ([`super::under_way`]).

use serde_json::Value;

use super::audit_log::AuditLog;
use super::audit_log::line::{Entry, Outcome};
use super::failure::Failure;
use super::key_life::Depth;
use super::key_request::{KeyRequest, ProvenRequest};
use super::life_request::LifeRequest;
use super::lock::Hold;
use super::registry::{Registry, Shared};
use super::report::Switch;
use super::request::Request;
use super::settings::Settings;
use super::under_way::{End, Ticket};
use crate::crypto::keyring::{AuditKey, KeyRing};
use crate::io::system;
use crate::{Error, ErrorKind};

/// The act of an export or a copy that reads a disk.
const READ_OUT: &str = "read out";

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
    pub(super) verb: &'static str,
    /// The disk or snapshot; empty: the account.
    pub(super) on: String,
    pub(super) detail: String,
    /// It takes keys away, and is not refused for want of an audit log.
    pub(super) urgent: bool,
}

impl Act {
    pub(super) fn new(verb: &'static str, on: impl ToString) -> Self {
        Self { verb, on: on.to_string(), detail: String::new(), urgent: false }
    }

    pub(super) fn with(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    fn urgent(self) -> Self {
        Self { urgent: true, ..self }
    }

    /// The same act, with what its answer says it did not reach.
    fn but_for(&self, answer: &Value) -> Self {
        let left = answer["left"].as_array().map(Vec::as_slice).unwrap_or_default();
        let names: Vec<_> = left.iter().filter_map(|left| left["name"].as_str()).collect();
        if names.is_empty() {
            return self.clone();
        }
        let but = format!("but not for {}", names.join(", "));
        let parts = [self.detail.as_str(), &but].into_iter().filter(|part| !part.is_empty());
        self.clone().with(parts.collect::<Vec<_>>().join(", "))
    }

    /// How an act goes on that was stopped.
    pub(super) fn goes_on(&self) -> String {
        let on = &self.on;
        match self.verb {
            "reencrypt" => format!("`sealdisk reencrypt {on}` goes on with what is left"),
            "key rotate-kek" => "`sealdisk key rotate-kek --compromised` goes on with what is left".to_owned(),
            "import" => format!("the same copy goes on, `sealdisk delete {on}` drops it"),
            "scrub" => "the next server goes on with it".to_owned(),
            _ => "it may not be whole".to_owned(),
        }
    }

    /// Whether a connection does its work, and it is done when that ends.
    pub(super) fn ends_with_its_connection(&self) -> bool {
        self.verb == READ_OUT
    }

    /// `None`: the request changes nothing and takes nothing out.
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
            Request::Refused { what, .. } => what.act(),
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
            KeyRequest::Reencrypt { name, .. } => Self::new("reencrypt", name),
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
            LifeRequest::Read { view } => Self::new(READ_OUT, view),
            LifeRequest::Copy { name, source, .. } => Self::new("import", name).with(format!("from {source}")),
            LifeRequest::FinishCopy { name, .. } => Self::new("import", name).with("is whole"),
        })
    }
}

/// How a request belongs to its act.
enum Course {
    /// The act is done when the request is.
    Whole,
    /// The act has a line of its own when it begins, and goes on after the request.
    Begins,
    /// A piece of the act with this number, whose answer says whether it is the last.
    Piece(u64),
    /// The end of the act with this number.
    Ends(u64),
}

impl Course {
    fn of(request: &Request, act: &Act, registry: &Registry, asker: Asker) -> Self {
        let begun = || registry.shared.under_way.find(act, asker);
        match request {
            Request::Key { what: KeyRequest::Reencrypt { .. } } => begun().map_or(Self::Begins, Self::Piece),
            Request::Key { what: KeyRequest::EndReencryption } => begun().map_or(Self::Whole, Self::Ends),
            Request::Life { what: LifeRequest::FinishCopy { .. } } => begun().map_or(Self::Whole, Self::Ends),
            Request::Key { what: KeyRequest::ReencryptDetached { .. } }
            | Request::Life { what: LifeRequest::Read { .. } | LifeRequest::Copy { .. } } => Self::Begins,
            Request::Key { what: KeyRequest::Proven(proven) } => match &proven.what {
                ProvenRequest::RotateKek { depth: Depth::Compromised { .. }, .. } => Self::Begins,
                _ => Self::Whole,
            },
            // A verb's own process has no background in which it could go on.
            Request::Scrub { wait: false, unaccounted: false, .. } if registry.is_served() => Self::Begins,
            _ => Self::Whole,
        }
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
    let Some(act) = Act::of(&request) else { return request.perform(registry, files, None) };
    let shared = &registry.shared;
    match Course::of(&request, &act, registry, asker) {
        Course::Piece(id) => {
            let done = request.perform(registry, files, None);
            piece_done(registry, id, &done);
            done
        }
        Course::Begins => {
            check_log(registry, &act)?;
            let detail = if act.detail.is_empty() { "begins".to_owned() } else { format!("begins, {}", act.detail) };
            tell(shared, &Act { detail, ..act.clone() }, asker, Outcome::Begun, None, None)?;
            let pieces = matches!(request, Request::Key { what: KeyRequest::Reencrypt { .. } });
            let id = shared.under_way.begin(act, asker);
            let done = request.perform(registry, files, Some(Ticket::new(shared, id)));
            shared.act_started(id, done.as_ref().err().map(|failure| &*failure.message));
            if pieces {
                piece_done(registry, id, &done);
            }
            done
        }
        course @ (Course::Whole | Course::Ends(_)) => {
            check_log(registry, &act)?;
            if let Course::Ends(begun) = course {
                shared.under_way.forget(begun);
            }
            let deleted = if let Request::Delete { name } = &request { Some(name.to_string()) } else { None };
            // Afterwards it may be gone, or not be the one that proves this line.
            let before = key(shared);
            let done = request.perform(registry, files, None);
            if let (Ok(_), Some(disk)) = (&done, deleted) {
                shared.end_acts_on(&disk);
            }
            let error = done.as_ref().err().map(|failure| failure.message.clone());
            let outcome = if error.is_none() { Outcome::Done } else { Outcome::Failed };
            let act = done.as_ref().map_or(act.clone(), |answer| act.but_for(answer));
            let told = tell(shared, &act, asker, outcome, error, before);
            done.and_then(|answer| told.map(|()| answer))
        }
    }
}

/// A piece of a re-encryption is done: the last one ends the act, and so does one that fails, but for want of
/// encryption, which is waited for.
fn piece_done(registry: &Registry, id: u64, done: &Result<Value, Failure>) {
    match done {
        Ok(answer) if answer["next"].is_null() => registry.shared.end_act(id, End::Done),
        Err(failure) if failure.kind != ErrorKind::InUse.name() => {
            registry.shared.end_act(id, End::Failed(failure.message.clone()));
        }
        _ => {}
    }
}

/// Without its log no act begins, but one that takes keys away.
fn check_log(registry: &Registry, act: &Act) -> Result<(), Failure> {
    let Some(Err(error)) = registry.audit_log().map(AuditLog::ready) else { return Ok(()) };
    tracing::error!(%error, verb = act.verb, "the audit log cannot be written");
    if act.urgent { Ok(()) } else { Err(error.into()) }
}

/// Tells of an act in the log of the server and in the audit log. `before`: the key that proves the line where the
/// account has none any more. A line that cannot be written is an error to a verb, which ends with it; a server keeps
/// it.
pub(super) fn tell(
    shared: &Shared,
    act: &Act,
    asker: Asker,
    outcome: Outcome,
    error: Option<String>,
    before: Option<AuditKey>,
) -> Result<(), Failure> {
    let Asker { uid, pid } = asker;
    let some = |text: &'_ str| if text.is_empty() { None } else { Some(text.to_owned()) };
    let (verb, on, detail, word) = (act.verb, some(&act.on), some(&act.detail), outcome.name());
    match &error {
        None => tracing::info!(verb, on, detail, uid, pid, outcome = word, "act"),
        Some(error) => tracing::warn!(verb, on, detail, uid, pid, outcome = word, %error, "act"),
    }
    let Some(log) = shared.audit_log.get() else { return Ok(()) };
    let failed = error.is_some();
    let entry = Entry {
        time: system::seconds(),
        account: shared.settings.read().account(),
        verb: act.verb.to_owned(),
        on: act.on.clone(),
        detail: act.detail.clone(),
        uid,
        pid,
        outcome,
        error,
    };
    let Err(error) = log.append(entry, key(shared).or(before)) else { return Ok(()) };
    tracing::error!(%error, verb = act.verb, "an act has no line in the audit log yet");
    if failed || shared.server.get().is_some() {
        return Ok(());
    }
    if outcome == Outcome::Begun {
        // Nothing is done yet.
        return Err(error.into());
    }
    Err(no_line(act.verb, outcome, &error).into())
}

/// Tells in an audit log that an account was made.
pub fn tell_made(settings: &Settings, ring: &KeyRing, log: &AuditLog, asker: Asker) -> Result<(), Error> {
    let entry = Entry {
        time: system::seconds(),
        account: settings.account(),
        verb: "init".to_owned(),
        on: String::new(),
        detail: format!("encryption {}", Switch::from(settings.encryption()).name()),
        uid: asker.uid,
        pid: asker.pid,
        outcome: Outcome::Done,
        error: None,
    };
    let told = log.append(entry, ring.audit_keys()?.into_iter().next());
    told.map_err(|error| no_line("init", Outcome::Done, &error))
}

/// Leaves the first line of an audit log that a server begins: so one without lines is one whose lines are gone.
pub fn begin_log(registry: &Registry, asker: Asker) -> Result<(), Error> {
    let Some(log) = registry.audit_log() else { return Ok(()) };
    if !log.is_empty()? {
        return Ok(());
    }
    let act = Act::new("serve", "").with("begins this audit log");
    // A line that cannot be written now is kept by the server.
    let _ = tell(&registry.shared, &act, asker, Outcome::Done, None, None);
    Ok(())
}

fn no_line(verb: &str, outcome: Outcome, error: &Error) -> Error {
    let what = format!("`{verb}` is {}, but has no line in the audit log: {error}", outcome.name());
    Error::new(ErrorKind::Io, what)
}

fn key(shared: &Shared) -> Option<AuditKey> {
    shared.require_keys().ok()?.audit_keys().ok()?.into_iter().next()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::account::lock::AccountLock;
    use crate::account::registry::{DISKS, Keys};
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
