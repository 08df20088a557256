//! What can be asked of an open account, in one place for both ways of asking.
//!
//! A verb that finds the account free performs its request here in its own process; one that finds it served sends the
//! same request over the control socket, and the server performs it here. So the answer cannot differ.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::acts::Act;
use super::attachment::Use;
use super::disk_ref::DiskRef;
use super::failure::Failure;
use super::health::{Fault, FaultReport};
use super::key_request::KeyRequest;
use super::life_request::LifeRequest;
use super::lock::Hold;
use super::name::BlobName;
use super::refused::Refused;
use super::registry::Registry;
use super::report::{
    Bytes, CloneReport, DiskReport, DiskState, DiskStatus, HiddenStatus, LayerReport, Listed, MapPart, MapRun,
    ServerReport, State, Status, Switch, Total, key_id,
};
use super::under_way::Ticket;
use super::view_name::SnapshotName;
use crate::base::{BaseRecord, PassedImage};
use crate::disk::Kind;
use crate::{Error, ErrorKind, PAGE, Result};

/// Runs in one answer to [`Request::Map`]: about 6 MiB of JSON.
pub const MAP_RUNS: usize = 32_768;

/// A request; its answer is named with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// `Vec<Listed>`
    List,
    /// [`Status`]
    Status,
    /// `Vec<Listed>`: the hidden disks
    ListHidden,
    /// [`DiskReport`]
    Show { name: DiskRef },
    /// [`MapPart`] from page `start` on, of the disk or of what a snapshot sees
    Map {
        name: DiskRef,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<SnapshotName>,
        start: u64,
    },
    /// [`Switch`]: the setting, after it was changed if `set` says so
    Encryption { set: Option<Switch> },
    /// [`DiskReport`]; the files of the base travel with the message
    Create { name: BlobName, size: Option<u64>, base: Option<BaseRecord> },
    /// [`Scrubbed`]
    Scrub {
        name: DiskRef,
        wait: bool,
        /// What no record names too, and wait for that.
        #[serde(default)]
        unaccounted: bool,
    },
    /// [`Deleted`]
    Delete { name: BlobName },
    /// [`DiskReport`] under the new name
    Rename { name: BlobName, to: BlobName },
    /// [`DiskReport`]; `shrink`: it may become smaller
    Resize { name: BlobName, size: u64, shrink: bool },
    /// [`DiskReport`]; the image, whose files travel with the message, must have the content that is recorded
    Rebase {
        name: BlobName,
        base: BaseRecord,
        /// Nothing but the digests in it is new: `verify --base` records them.
        #[serde(default)]
        verified: bool,
    },
    /// `Option<BaseRecord>`: what is recorded of the base
    Base { name: DiskRef },
    /// `Vec<SnapshotReport>`, oldest first
    SnapshotList { name: BlobName },
    /// [`SnapshotReport`]
    SnapshotCreate { name: BlobName, snapshot: SnapshotName },
    /// `null`
    SnapshotDelete { name: BlobName, snapshot: SnapshotName },
    /// An error always: the act that the verb has refused itself, for `why`
    Refused { what: Refused, why: String },
    /// As [`KeyRequest`] says
    Key { what: KeyRequest },
    /// As [`LifeRequest`] says
    Life { what: LifeRequest },
}

/// The answer to [`Request::Scrub`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    pub name: String,
    pub pending_scrub_bytes: Option<u64>,
    /// Stored, and in no record of the disk: all there is where `pending_scrub_bytes` is known.
    #[serde(default)]
    pub unaccounted_bytes: u64,
}

/// The answer to [`Request::Delete`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    pub deleted: String,
    /// The disk is kept, hidden: clones read from it.
    pub hidden: Option<Uuid>,
    /// Those clones.
    pub clones: Vec<CloneReport>,
}

/// What a request needs of the account's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyNeed {
    /// Shows only what is not secret, and says if it could not be authenticated.
    Optional,
    Required,
}

impl Request {
    /// How the account must be locked for it.
    #[must_use]
    pub fn hold(&self) -> Hold {
        match self {
            Request::Life { what } => what.hold(),
            Request::Key { what } => what.hold(),
            Request::Refused { .. } => Hold::Shared,
            // All others read, or are acts that change the account.
            other if Act::of(other).is_none() => Hold::Shared,
            _ => Hold::Exclusive,
        }
    }

    #[must_use]
    pub fn key_need(&self) -> KeyNeed {
        match self {
            // A disk whose key is lost can still be deleted.
            Request::Delete { .. } => KeyNeed::Optional,
            Request::Key { what } => what.key_need(),
            Request::Life { what } => what.key_need(),
            request if request.hold() == Hold::Shared => KeyNeed::Optional,
            _ => KeyNeed::Required,
        }
    }

    /// Does what is asked. `files` came with the request; what goes on after it ends the act that `begun` stands for.
    pub fn perform(
        self,
        registry: &Registry,
        files: Vec<OwnedFd>,
        begun: Option<Ticket>,
    ) -> std::result::Result<Value, Failure> {
        let json = |value: serde_json::Result<Value>| value.map_err(|e| Error::io("JSON failed", e.into()).into());
        match self {
            Request::List => json(serde_json::to_value(list(registry))),
            Request::ListHidden => json(serde_json::to_value(list_hidden(registry))),
            Request::Status => json(serde_json::to_value(status(registry))),
            Request::Show { name } => json(serde_json::to_value(show(registry, &name)?)),
            Request::Map { name, snapshot, start } => {
                json(serde_json::to_value(map(registry, &name, snapshot.as_ref(), start)?))
            }
            Request::Encryption { set } => {
                if let Some(set) = set {
                    registry.set_encryption(set.is_on())?;
                }
                json(serde_json::to_value(Switch::from(registry.encryption())))
            }
            Request::Create { name, size, base } => {
                let base = base.map(|record| PassedImage::take(record, files)).transpose()?;
                registry.create(&name, size, base)?;
                json(serde_json::to_value(show(registry, &name.into())?))
            }
            Request::Scrub { name, wait, unaccounted } => {
                json(serde_json::to_value(scrub(registry, &name, wait, unaccounted, begun)?))
            }
            Request::Delete { name } => {
                let hidden = registry.delete(&name)?;
                let clones = hidden.map(|uuid| registry.clone_reports(uuid)).unwrap_or_default();
                json(serde_json::to_value(Deleted { deleted: name.to_string(), hidden, clones }))
            }
            Request::Rename { name, to } => {
                registry.rename(&name, &to)?;
                json(serde_json::to_value(show(registry, &to.into())?))
            }
            Request::Resize { name, size, shrink } => {
                registry.resize(&name, size, shrink)?;
                json(serde_json::to_value(show(registry, &name.into())?))
            }
            Request::Rebase { name, base, verified } => {
                registry.rebase(&name, PassedImage::take(base, files)?, verified)?;
                json(serde_json::to_value(show(registry, &name.into())?))
            }
            Request::Base { name } => json(serde_json::to_value(registry.base(&name)?)),
            Request::SnapshotList { name } => json(serde_json::to_value(registry.snapshots(&name)?)),
            Request::SnapshotCreate { name, snapshot } => {
                json(serde_json::to_value(registry.take_snapshot(&name, &snapshot)?))
            }
            Request::SnapshotDelete { name, snapshot } => {
                registry.delete_snapshot(&name, &snapshot)?;
                Ok(Value::Null)
            }
            Request::Refused { why, .. } => {
                Err(Error::new(ErrorKind::Cancelled, format!("the verb was refused: {why}")).into())
            }
            Request::Key { what } => what.perform(registry, files, begun),
            Request::Life { what } => what.perform(registry, files, begun),
        }
    }
}

fn list(registry: &Registry) -> Vec<Listed> {
    let disks = registry.names().into_iter();
    disks.map(|(name, uuid)| listed(registry, name.to_string(), DiskRef::Name(name), uuid)).collect()
}

fn list_hidden(registry: &Registry) -> Vec<Listed> {
    let disks = registry.shared.hidden_entries().into_iter();
    let listed = disks.map(|entry| Listed {
        hidden: true,
        ..listed(registry, entry.name.to_string(), DiskRef::Uuid(entry.uuid), entry.uuid)
    });
    listed.collect()
}

/// What is known to be wrong with a disk, but for an error of opening it, which is told already.
fn other_faults(registry: &Registry, disk: &DiskRef) -> Vec<FaultReport> {
    registry.faults(disk).into_iter().filter(|known| known.fault != Fault::CannotOpen).collect()
}

fn listed(registry: &Registry, name: String, disk: DiskRef, uuid: Uuid) -> Listed {
    let listed = Listed {
        name,
        uuid,
        size_bytes: None,
        base: None,
        hidden: false,
        clone_of: None,
        error: None,
        faults: Vec::new(),
    };
    match registry.disk_of(&disk) {
        Ok(open) => Listed {
            size_bytes: Some(open.size()),
            base: open.admin().settings().base.map(|base| base.path),
            clone_of: registry.clone_of(&open),
            faults: other_faults(registry, &disk),
            ..listed
        },
        Err(error) => Listed { error: Some(error.into()), ..listed },
    }
}

fn status(registry: &Registry) -> Status {
    let known = |disk: &DiskRef| -> Result<DiskState> {
        let disk = registry.disk_of(disk)?;
        let (usage, keys) = disk.admin().usage_and_keys()?;
        let keys = keys.into_iter().map(Into::into).collect();
        Ok(DiskState::Known {
            size_bytes: disk.size(),
            bytes: usage.into(),
            stored: disk.admin().stored().into(),
            keys,
        })
    };
    let state = |disk: &DiskRef| known(disk).unwrap_or_else(|error| DiskState::Failed { error: error.into() });
    let disks = registry.names().into_iter().map(|(name, uuid)| DiskStatus {
        state: state(&(&name).into()),
        faults: other_faults(registry, &(&name).into()),
        name: name.to_string(),
        uuid: Some(uuid),
    });
    let damaged = registry.damaged().iter().map(|(folder, error)| DiskStatus {
        name: format!("disks/{folder}"),
        faults: Vec::new(),
        uuid: None,
        state: DiskState::Failed { error: error.clone() },
    });
    let disks: Vec<_> = disks.chain(damaged).collect();
    let hidden = registry.shared.hidden_entries().into_iter().map(|entry| HiddenStatus {
        name: entry.name.to_string(),
        uuid: entry.uuid,
        state: state(&DiskRef::Uuid(entry.uuid)),
        clones: registry.clone_reports(entry.uuid),
        faults: other_faults(registry, &DiskRef::Uuid(entry.uuid)),
    });
    let hidden: Vec<_> = hidden.collect();
    let states = disks.iter().map(|disk| &disk.state).chain(hidden.iter().map(|disk| &disk.state));
    Status {
        encryption: registry.encryption().into(),
        key_source: registry.key_source(),
        kek_version: registry.kek_version(),
        revoked: registry.revoked(),
        reencryption_pending: registry.reencryption_pending(),
        locked: registry.locked(),
        server: registry.shared.server.get().map(|&limits| {
            let clients = registry.clients().into_iter().map(Into::into).collect();
            let access = registry.admission().and_then(|admission| admission.access().map(Into::into));
            ServerReport { limits, access, clients }
        }),
        total: Total::of(states),
        disks,
        hidden,
    }
}

pub(super) fn show(registry: &Registry, name: &DiskRef) -> Result<DiskReport> {
    let disk = registry.disk_of(name)?;
    let settings = disk.admin().settings();
    let layers = disk.admin().layers().into_iter().map(|layer| {
        let (state, key) = match layer.kind {
            Kind::Plain => (State::Plain, None),
            Kind::Xts => (State::Encrypted, Some(key_id(settings.uuid, layer.id))),
        };
        LayerReport {
            id: layer.id,
            state,
            key,
            account_key: layer.account_key,
            created: layer.created,
            live_bytes: layer.live,
            held_bytes: layer.held,
            pending_scrub_bytes: layer.dead,
            sealed_blocks: layer.sealed_blocks,
            rotation_due: layer.rotation_due,
        }
    });
    Ok(DiskReport {
        name: settings.name,
        uuid: settings.uuid,
        created: settings.created,
        size_bytes: disk.size(),
        blob_bytes: disk.blob_size(),
        bytes: Bytes::from(disk.admin().usage()?),
        stored: disk.admin().stored().into(),
        clone_of: registry.clone_of(&disk),
        clone_of_uuid: settings.parent.map(|parent| parent.disk),
        hidden: settings.hidden,
        clones: registry.clone_reports(settings.uuid),
        inherited: registry.inherited_reports(&disk)?,
        layers: layers.collect(),
        base: settings.base.map(Into::into),
        locked: registry.locked(),
    })
}

fn map(registry: &Registry, name: &DiskRef, snapshot: Option<&SnapshotName>, start: u64) -> Result<MapPart> {
    let disk = registry.view_of(name, snapshot)?;
    let uuid = disk.admin().settings().uuid;
    let page = PAGE as u64;
    let offset = start.saturating_mul(page).min(disk.blob_size());
    let found = disk.runs(offset, disk.blob_size() - offset, MAP_RUNS)?;
    let end = found.last().map_or(start, |run| run.start + run.pages);
    let mut runs: Vec<MapRun> = Vec::with_capacity(found.len());
    for run in &found {
        let run = MapRun::new(uuid, run);
        if !runs.last_mut().is_some_and(|last| last.absorb(&run)) {
            runs.push(run);
        }
    }
    let next = (end < disk.blob_size() / page && !found.is_empty()).then_some(end);
    Ok(MapPart { runs, next, locked: registry.locked() })
}

fn scrub(
    registry: &Registry,
    name: &DiskRef,
    wait: bool,
    unaccounted: bool,
    begun: Option<Ticket>,
) -> Result<Scrubbed> {
    let disk = registry.attach_ref(name, Use::Verb("scrub"))?;
    if disk.admin().settings().hidden {
        // What nothing reads is to scrub too, where it could not be dropped before.
        registry.trim(disk.uuid())?;
    }
    if unaccounted {
        disk.admin().scrub_unaccounted()?;
    } else if wait || !registry.is_served() {
        disk.admin().scrub()?;
    } else {
        if let Some(begun) = begun {
            registry.shared.under_way.scrub_begins(disk.uuid(), begun);
        }
        registry.nudge(disk.uuid());
    }
    let (name, usage) = (disk.admin().settings().name, disk.admin().usage()?);
    Ok(Scrubbed { name, pending_scrub_bytes: usage.pending_scrub, unaccounted_bytes: usage.unaccounted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_bounded_by_their_form() {
        let request = Request::Map { name: "a".parse().expect("name"), snapshot: None, start: 7 };
        let json = serde_json::to_string(&request).expect("json");
        assert_eq!(json, r#"{"verb":"map","name":"a","start":7}"#);
        assert_eq!(serde_json::from_str::<Request>(&json).expect("back"), request);
        for bad in [
            r#"{"verb":"map","name":"../x","start":7}"#,
            r#"{"verb":"map","name":"a","start":-1}"#,
            r#"{"verb":"map","name":"a","start":1,"more":2}"#,
            r#"{"verb":"stop"}"#,
        ] {
            serde_json::from_str::<Request>(bad).expect_err(bad);
        }
    }

    #[test]
    fn what_changes_holds_the_account_alone() {
        let name: BlobName = "a".parse().expect("name");
        assert_eq!(Request::Status.hold(), Hold::Shared);
        assert_eq!(Request::Encryption { set: None }.hold(), Hold::Shared);
        assert_eq!(Request::Encryption { set: Some(Switch::On) }.hold(), Hold::Exclusive);
        assert_eq!(Request::Delete { name: name.clone() }.key_need(), KeyNeed::Optional);
        assert_eq!(Request::Scrub { name: name.into(), wait: true, unaccounted: false }.key_need(), KeyNeed::Required);
    }
}
