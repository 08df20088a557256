//! What an account says of itself and its disks: the documents that `--json` prints and the text forms are made of.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::account::failure::Failure;
use crate::account::health::FaultReport;
use crate::base::{BaseRecord, FileIdentity, Format};
use crate::disk::{self, KeyUsage, PageState, Run, Usage};
use crate::serve::{Attached, Command, Counts};
use crate::{PAGE, text};

/// The encryption setting of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    On,
    Off,
}

impl From<bool> for Switch {
    fn from(on: bool) -> Self {
        if on { Switch::On } else { Switch::Off }
    }
}

impl Switch {
    #[must_use]
    pub fn is_on(self) -> bool {
        self == Switch::On
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        if self.is_on() { "on" } else { "off" }
    }
}

/// Bytes of a disk by state; together they are the blob, footer page included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    pub base_bytes: u64,
    pub plain_bytes: u64,
    pub encrypted_bytes: u64,
    pub zero_bytes: u64,
    /// No longer reachable, not yet given back; `null`: not known yet after an unclean end.
    pub pending_scrub_bytes: Option<u64>,
    /// Stored, and in no record of the disk; left out for 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unaccounted_bytes: u64,
}

pub(crate) fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl From<Usage> for Bytes {
    fn from(usage: Usage) -> Self {
        Self {
            base_bytes: usage.base,
            plain_bytes: usage.plain,
            encrypted_bytes: usage.encrypted,
            zero_bytes: usage.zero,
            pending_scrub_bytes: usage.pending_scrub,
            unaccounted_bytes: usage.unaccounted,
        }
    }
}

/// Bytes that layer files hold: what the disk, its snapshots or its clones read of them, each page once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub stored_plain_bytes: u64,
    pub stored_encrypted_bytes: u64,
}

impl From<disk::Stored> for Stored {
    fn from(stored: disk::Stored) -> Self {
        Self { stored_plain_bytes: stored.plain, stored_encrypted_bytes: stored.encrypted }
    }
}

/// What all layer files of an account hold, those of hidden disks too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    #[serde(flatten)]
    pub stored: Stored,
    /// No longer reachable, not yet given back; `null`: not known for some disk.
    pub pending_scrub_bytes: Option<u64>,
    /// Disks that could not be looked at, and are not counted.
    pub unknown_disks: usize,
}

impl Total {
    /// Adds up the disks and the hidden ones.
    #[must_use]
    pub fn of<'a>(states: impl Iterator<Item = &'a DiskState>) -> Self {
        let start = Self { pending_scrub_bytes: Some(0), ..Self::default() };
        states.fold(start, |total, state| match state {
            DiskState::Known { bytes, stored, .. } => Self {
                stored: Stored {
                    stored_plain_bytes: total.stored.stored_plain_bytes + stored.stored_plain_bytes,
                    stored_encrypted_bytes: total.stored.stored_encrypted_bytes + stored.stored_encrypted_bytes,
                },
                pending_scrub_bytes: total.pending_scrub_bytes.zip(bytes.pending_scrub_bytes).map(|(a, b)| a + b),
                ..total
            },
            DiskState::Failed { .. } => {
                Self { pending_scrub_bytes: None, unknown_disks: total.unknown_disks + 1, ..total }
            }
        })
    }
}

/// `status`: the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub encryption: Switch,
    /// Where the key-encryption key comes from; never the key.
    pub key_source: String,
    /// Counts the key-encryption keys that the account has had.
    pub kek_version: u32,
    /// The keys were taken back: nothing is served until `key restore`.
    pub revoked: bool,
    /// `key rotate-kek --compromised` was broken off: something is still under the keys of before.
    #[serde(default)]
    pub reencryption_pending: bool,
    /// Why the keys could not be unlocked; `None`: they are, and all that is shown was authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<Failure>,
    /// `None`: the account is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerReport>,
    pub disks: Vec<DiskStatus>,
    /// Deleted disks that clones still read from.
    #[serde(default)]
    pub hidden: Vec<HiddenStatus>,
    /// Of `disks` and `hidden` together.
    #[serde(default)]
    pub total: Total,
}

/// The server of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    #[serde(flatten)]
    pub limits: ServerLimits,
    /// The file with the rules of who may have what. `None`: whoever passes a listener may have everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<PathBuf>,
    /// That are attached, the first to attach first.
    pub clients: Vec<ClientReport>,
}

/// A client that is attached now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientReport {
    /// As it was called when the client attached it.
    pub export: String,
    /// User and process id, or address.
    pub peer: String,
    /// Names in its certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate: Vec<String>,
    pub tls: bool,
    pub read_only: bool,
    /// How long it has been attached.
    pub seconds: u64,
    pub requests: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

impl From<(Attached, Counts)> for ClientReport {
    fn from((client, counts): (Attached, Counts)) -> Self {
        let Attached { peer, export, identity, tls, read_only, since } = client;
        Self {
            export,
            peer,
            certificate: identity.certificate.clone(),
            tls,
            read_only,
            seconds: since.elapsed().as_secs(),
            requests: counts.requests(),
            read_bytes: counts.of(Command::Read).bytes,
            written_bytes: counts.of(Command::Write).bytes,
        }
    }
}

/// The limits that a server works within, as they are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerLimits {
    /// `None`: there is no limit.
    pub descriptors: Option<u64>,
    pub connections: usize,
    /// Disks that stay open though nobody uses them.
    pub idle_disks: usize,
    /// Buffers of all connections together.
    pub buffer_bytes: usize,
    /// Threads that wait for the disk.
    pub disk_threads: usize,
}

/// A disk in [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    pub name: String,
    /// `None`: it cannot be read as a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// What is known to be wrong with it, but for `error`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultReport>,
    #[serde(flatten)]
    pub state: DiskState,
}

/// A deleted disk in [`Status`]. Its numbers are of what the newest of its snapshots that a clone reads sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiddenStatus {
    /// As it was called. Another disk may be called so by now.
    pub name: String,
    /// Names it: `@UUID`.
    pub uuid: Uuid,
    /// Why it is kept. Empty: a disk that cannot be read may be a clone of it.
    pub clones: Vec<CloneReport>,
    /// As in [`DiskStatus`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultReport>,
    #[serde(flatten)]
    pub state: DiskState,
}

/// A clone that reads from a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneReport {
    pub name: String,
    pub uuid: Uuid,
    /// The snapshot that it reads; `None`: the disk could not be opened to look for it.
    pub snapshot: Option<String>,
    /// The clone is hidden itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
}

/// What a clone, or a snapshot of it, reads from the layers of another disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InheritedReport {
    pub name: String,
    pub uuid: Uuid,
    /// The other disk is deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// `None`: the clone could not be opened to look.
    pub plain_bytes: Option<u64>,
    pub encrypted_bytes: Option<u64>,
}

/// What could be learnt of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DiskState {
    Known {
        size_bytes: u64,
        #[serde(flatten)]
        bytes: Bytes,
        #[serde(flatten)]
        stored: Stored,
        /// What is encrypted, by data key; together they are `encrypted_bytes`.
        keys: Vec<KeyPages>,
    },
    Failed {
        error: Failure,
    },
}

/// What of a disk is under one data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPages {
    /// Id of the data key; in a clone it may be one of another disk.
    pub key: String,
    /// Pages that are read with it, footer page included; what only snapshots see is not counted.
    pub pages: u64,
    pub bytes: u64,
    /// What is written now comes under it.
    pub current: bool,
    /// AES blocks encrypted under it; a new one is due before 2^44. `None`: another disk counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_blocks: Option<u64>,
    /// More than half of those: a new one is due.
    #[serde(rename = "worn")]
    pub rotation_due: bool,
}

impl From<KeyUsage> for KeyPages {
    fn from(usage: KeyUsage) -> Self {
        let KeyUsage { disk, layer, pages, current, sealed_blocks, rotation_due } = usage;
        Self { key: key_id(disk, layer), pages, bytes: pages * PAGE as u64, current, sealed_blocks, rotation_due }
    }
}

/// A line of `list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    pub uuid: Uuid,
    /// `None`: see `error`.
    pub size_bytes: Option<u64>,
    pub base: Option<PathBuf>,
    /// Deleted; clones read from it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// `NAME@SNAPSHOT` that it is a clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_of: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// What is known to be wrong with it, but for `error`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultReport>,
}

/// `show`: one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    pub name: String,
    pub uuid: Uuid,
    /// Seconds since the epoch.
    pub created: u64,
    pub size_bytes: u64,
    /// With the footer page.
    pub blob_bytes: u64,
    pub base: Option<BaseReport>,
    /// `NAME@SNAPSHOT` that it is a clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_of: Option<String>,
    /// The disk that it is a clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_of_uuid: Option<Uuid>,
    /// Deleted; `clones` read from it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// The clones that read from it.
    #[serde(default)]
    pub clones: Vec<CloneReport>,
    /// In a clone: what it, or a snapshot of it, reads from other disks.
    #[serde(default)]
    pub inherited: Vec<InheritedReport>,
    #[serde(flatten)]
    pub bytes: Bytes,
    #[serde(flatten)]
    pub stored: Stored,
    /// Bottom to top.
    pub layers: Vec<LayerReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseReport {
    pub path: PathBuf,
    pub format: Format,
    pub size_bytes: u64,
    /// The image, its parent, and so on.
    pub files: Vec<BaseFileReport>,
}

/// A file of a base image, with what is recorded of its whole content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFileReport {
    pub path: PathBuf,
    pub sha256: Option<String>,
    /// `ALGORITHM:HEXADECIMAL`
    pub fs_verity: Option<String>,
}

impl BaseReport {
    /// What to tell of the files under fs-verity, a line each.
    #[must_use]
    pub fn verity_lines(&self) -> Vec<String> {
        let digest = |file: &BaseFileReport| Some((file.path.clone(), file.fs_verity.clone()?));
        let alone = self.files.len() == 1;
        let line =
            |(path, digest): (PathBuf, String)| if alone { digest } else { format!("{digest} {}", text::path(&path)) };
        self.files.iter().filter_map(digest).map(line).collect()
    }
}

impl From<BaseRecord> for BaseReport {
    fn from(base: BaseRecord) -> Self {
        let file = |FileIdentity { path, sha256, fs_verity, .. }| BaseFileReport { path, sha256, fs_verity };
        let files = base.files.into_iter().map(file).collect();
        Self { path: base.path, format: base.format, size_bytes: base.size, files }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    pub id: u32,
    pub state: State,
    /// Id of the data key that the layer is under.
    pub key: Option<String>,
    /// The account key that wraps that data key.
    pub account_key: Option<Uuid>,
    /// Seconds since the epoch.
    pub created: u64,
    /// What the disk reads from it.
    pub live_bytes: u64,
    /// All that it holds.
    pub held_bytes: u64,
    /// Left behind, not yet given back.
    pub pending_scrub_bytes: u64,
    /// AES blocks encrypted under the data key; a new one is due before 2^44.
    pub sealed_blocks: u64,
    /// More than half of those, and no new one was taken yet.
    #[serde(rename = "worn")]
    pub rotation_due: bool,
}

/// How pages are stored, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Base,
    Plain,
    Encrypted,
    Zero,
}

impl State {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Base => "base",
            State::Plain => "plain",
            State::Encrypted => "encrypted",
            State::Zero => "zero",
        }
    }
}

impl From<PageState> for State {
    fn from(state: PageState) -> Self {
        match state {
            PageState::Base { .. } => State::Base,
            PageState::Plain | PageState::Inherited { encrypted: false, .. } => State::Plain,
            PageState::Encrypted | PageState::Inherited { encrypted: true, .. } => State::Encrypted,
            PageState::Zero => State::Zero,
        }
    }
}

/// A line of `map`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRun {
    /// First page.
    pub start: u64,
    pub pages: u64,
    pub state: State,
    /// The layer that holds the run, or holds it as zero.
    pub layer: Option<u32>,
    /// Id of the data key.
    pub key: Option<String>,
    /// In a clone: the disk whose layer it is, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Uuid>,
}

impl MapRun {
    /// The form that users see of a run of disk `disk`.
    #[must_use]
    pub fn new(disk: Uuid, run: &Run) -> Self {
        let state = State::from(run.state);
        let (of, layer) = match run.state {
            PageState::Inherited { disk, layer, .. } => (Some(disk), Some(layer)),
            _ => (None, run.layer),
        };
        let key = layer.filter(|_| state == State::Encrypted).map(|layer| key_id(of.unwrap_or(disk), layer));
        Self { start: run.start, pages: run.pages, state, layer, key, of }
    }

    /// Takes `next` into this run where it goes on in the same way.
    pub fn absorb(&mut self, next: &MapRun) -> bool {
        let same = (self.state, self.layer, &self.key, self.of) == (next.state, next.layer, &next.key, next.of);
        let joined = same && self.start + self.pages == next.start;
        if joined {
            self.pages += next.pages;
        }
        joined
    }
}

/// A part of `map`: a disk may have more runs than one message holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapPart {
    pub runs: Vec<MapRun>,
    /// The page to ask for next; `None`: that was all.
    pub next: Option<u64>,
    /// As in [`DiskReport`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<Failure>,
}

/// Names the data key of a layer: a layer has one key, made with it and never used elsewhere.
#[must_use]
pub fn key_id(disk: Uuid, layer: u32) -> String {
    format!("{disk}/{layer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_its_bytes_or_its_error() {
        let known = DiskStatus {
            name: "a".into(),
            uuid: Some(Uuid::nil()),
            faults: Vec::new(),
            state: DiskState::Known {
                size_bytes: 1024,
                bytes: Bytes { zero_bytes: 1024, encrypted_bytes: 512, ..Bytes::default() },
                stored: Stored { stored_plain_bytes: 0, stored_encrypted_bytes: 512 },
                keys: vec![KeyPages {
                    key: key_id(Uuid::nil(), 1),
                    pages: 1,
                    bytes: 512,
                    current: true,
                    sealed_blocks: Some(32),
                    rotation_due: false,
                }],
            },
        };
        let json = serde_json::to_value(&known).expect("json");
        let expected = serde_json::json!({
            "name": "a", "uuid": "00000000-0000-0000-0000-000000000000", "size_bytes": 1024, "base_bytes": 0, "plain_bytes": 0, "encrypted_bytes": 512,
            "zero_bytes": 1024, "pending_scrub_bytes": null,
            "stored_plain_bytes": 0, "stored_encrypted_bytes": 512,
            "keys": [{
                "key": "00000000-0000-0000-0000-000000000000/1", "pages": 1, "bytes": 512, "current": true,
                "sealed_blocks": 32, "worn": false,
            }],
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<DiskStatus>(json).expect("back"), known);
        let error = Failure { kind: "Corrupt".into(), message: "no".into(), ..Failure::default() };
        let failed =
            DiskStatus { name: "b".into(), uuid: None, faults: Vec::new(), state: DiskState::Failed { error } };
        let total = Total::of([&known.state, &failed.state].into_iter());
        assert_eq!((total.stored.stored_encrypted_bytes, total.unknown_disks), (512, 1));
        assert_eq!(total.pending_scrub_bytes, None);
        let json = serde_json::to_value(&failed).expect("json");
        assert_eq!(serde_json::from_value::<DiskStatus>(json).expect("back"), failed);
    }

    #[test]
    fn runs_that_look_alike_to_users_are_joined() {
        let disk = Uuid::nil();
        let run = |start, pages, state, layer| Run { start, pages, state, layer, depth: 0 };
        let mut first = MapRun::new(disk, &run(0, 2, PageState::Base { allocated: true }, None));
        assert!(first.absorb(&MapRun::new(disk, &run(2, 3, PageState::Base { allocated: false }, None))));
        assert_eq!(first.pages, 5);
        assert!(!first.absorb(&MapRun::new(disk, &run(5, 1, PageState::Encrypted, Some(1)))));
        let encrypted = MapRun::new(disk, &run(5, 1, PageState::Encrypted, Some(1)));
        assert_eq!(encrypted.key, Some(key_id(disk, 1)));
        assert_eq!(MapRun::new(disk, &run(5, 1, PageState::Zero, Some(1))).key, None);
    }
}
