//! `disk.toml`: what is settled about a disk outside its log: its name, its base, the table of its layers.
//!
//! Replaced atomically: written to a spare file, synced, exchanged with it, directory synced; so a replacement needs no
//! space, and the one before is the spare of the next. The file is TOML with a
//! last section `[seal]` that carries a CRC32C of all before it, and a MAC of the same bytes under the account key that
//! it names. A field that is not known is refused, never dropped by the next replacement. Size and base limit are not
//! here: they change in one batch with pages, so they live in the log.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::base::BaseRecord;
use crate::crypto::keyring::DiskKeys;
use crate::disk::Spec;
use crate::disk::transfer::{read_file, write_spare};
use crate::io::Dir;
use crate::io::mutant;
use crate::{Error, ErrorKind, Result};

pub(crate) const FILE: &str = "disk.toml";
/// What will be the next one: between replacements a file that keeps the space of the one before.
pub(crate) const TEMPORARY: &str = "disk.toml.new";
const SEAL: &str = "\n[seal]\n";
const PURPOSE: &[u8] = b"sealdisk disk.toml";
/// Layers of one disk at the most. The table of that many fits into [`SIZE_LIMIT`], and the file of wrapped data keys
/// has a slot for each.
pub(crate) const LAYERS_LIMIT: usize = 65_536;
/// Bytes of the file at the most.
const SIZE_LIMIT: u64 = 16 << 20;
const VERSION: u32 = 0;

/// How everything in a layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Plain,
    Xts,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRecord {
    pub id: u32,
    pub kind: Kind,
    /// Seconds since the epoch.
    pub created: u64,
    /// Pages encrypted under its key, when that was last noted.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[serde(rename = "sealed_pages")]
    pub encrypted_pages: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The snapshot of another disk of the account that a clone reads from what it does not hold itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    pub disk: Uuid,
    /// [`crate::disk::Snapshot::id`]; a name may come to mean another snapshot, an id never does.
    #[serde(rename = "line")]
    pub snapshot: u32,
    /// Bytes that the snapshot sees, without the footer page.
    pub size: u64,
    /// The snapshot was created for this clone alone, and goes when it goes.
    pub owned: bool,
}

/// The content of `disk.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSettings {
    version: u32,
    pub uuid: Uuid,
    /// `CONTAINER/BLOB`.
    pub name: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// Whether the last page of the blob is a fixed-VHD footer. Decided when the disk is made, never read off the
    /// content again: a guest could write a footer's cookie into its last sector.
    pub footer: bool,
    /// Counts replacements of this file.
    pub generation: u64,
    /// Layer ids below this one were given out; none is ever used again.
    pub next_layer: u32,
    /// Layers with smaller ids never take writes again: their key was rotated away.
    #[serde(rename = "sealed_below")]
    pub frozen_below: u32,
    /// The newest log known to exist: its absence is damage.
    pub epoch: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseRecord>,
    /// Of a clone, which has no base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Deleted by its owner, but clones read from it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// What is still being copied into the disk; until that has ended it is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Unfinished>,
}

/// A copy into a disk that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unfinished {
    /// What tells the source from others.
    pub source: String,
    /// Bytes of the disk that are there, durably.
    pub done: u64,
}

#[derive(Serialize, Deserialize)]
struct Seal {
    crc32c: u32,
    account_key: Uuid,
    mac: String,
}

impl DiskSettings {
    pub(crate) fn new(spec: &Spec, created: u64) -> Self {
        Self {
            version: VERSION,
            uuid: spec.uuid,
            name: spec.name.clone(),
            created,
            footer: true,
            generation: 0,
            next_layer: 1,
            frozen_below: 0,
            epoch: 0,
            layers: Vec::new(),
            base: spec.base.clone(),
            parent: spec.parent.clone(),
            hidden: false,
            unfinished: spec.unfinished.clone(),
        }
    }

    /// Reads `disk.toml`. With `keys` the MAC must hold, and must be of their account key; without, only the CRC is
    /// checked and nothing of it may be trusted with data.
    pub fn load(dir: &dyn Dir, keys: Option<&DiskKeys>) -> Result<Self> {
        let path = dir.path().join(FILE);
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, what).at_path(&path);
        let content =
            read_file(dir, FILE, SIZE_LIMIT).map_err(|error| Error::io("cannot be read", error).at_path(&path))?;
        let text = String::from_utf8(content).map_err(|_| corrupt("is not UTF-8"))?;
        let (body, seal) = text.rsplit_once(SEAL).ok_or_else(|| corrupt("has no [seal] section"))?;
        let seal: Seal = toml::from_str(seal).map_err(|_| corrupt("has a malformed [seal] section"))?;
        if crc32c::crc32c(body.as_bytes()) != seal.crc32c {
            return Err(corrupt("fails its checksum"));
        }
        if let Some(keys) = keys {
            let mac: [u8; 32] = hex::decode(&seal.mac)
                .ok()
                .and_then(|mac| mac.try_into().ok())
                .ok_or_else(|| corrupt("malformed MAC"))?;
            if !keys.verify_mac(&[PURPOSE, body.as_bytes()], &mac) {
                return Err(corrupt("fails its MAC: it was changed by something other than sealdisk")
                    .hint("restore the account directory from a backup"));
            }
        }
        let unsupported = |version: i64| {
            Error::unknown_version(format!("has format version {version}, this program knows {VERSION}")).at_path(&path)
        };
        let settings: Self = toml::from_str(body).map_err(|error| {
            // Another version may have other fields.
            let version = toml::from_str::<toml::Table>(body).ok().and_then(|table| table.get("version")?.as_integer());
            match version {
                Some(version) if version != i64::from(VERSION) => unsupported(version),
                _ => corrupt(&format!("does not parse: {}", error.message().replace('\n', " "))),
            }
        })?;
        if settings.version != VERSION {
            return Err(unsupported(settings.version.into()));
        }
        let ordered = settings.layers.windows(2).all(|pair| pair[0].id < pair[1].id);
        if !ordered || settings.layers.last().is_some_and(|layer| layer.id >= settings.next_layer) {
            return Err(corrupt("has a layer table out of order"));
        }
        Ok(settings)
    }

    /// Replaces `disk.toml`; durable when it returns.
    pub(crate) fn store(&mut self, dir: &dyn Dir, keys: &DiskKeys) -> std::result::Result<(), StoreError> {
        let path = dir.path().join(FILE);
        let mut next = self.clone();
        next.generation += 1;
        let body = toml::to_string(&next).map_err(|error| {
            StoreError::Unchanged(Error::new(ErrorKind::InvalidInput, format!("settings: {error}")).at_path(&path))
        })?;
        let seal = Seal {
            crc32c: crc32c::crc32c(body.as_bytes()),
            account_key: keys.account_key_id(),
            mac: hex::encode(keys.mac(&[PURPOSE, body.as_bytes()])),
        };
        let text = toml::to_string(&seal).map(|seal| format!("{body}{SEAL}{seal}")).map_err(|error| {
            StoreError::Unchanged(Error::new(ErrorKind::InvalidInput, format!("settings: {error}")).at_path(&path))
        })?;
        write_spare(dir, TEMPORARY, text.as_bytes())
            .and_then(|()| put_in_place(dir))
            .map_err(|error| StoreError::Unchanged(Error::io("cannot be replaced", error).at_path(&path)))?;
        *self = next;
        if mutant!(SettingsNameNotSynced) {
            return Ok(());
        }
        dir.sync().map_err(|error| StoreError::Unknown(Error::io("cannot be made durable", error).at_path(&path)))
    }

    /// [`ErrorKind::LimitExceeded`] where the disk has all the layers that it may have; `dir` is its folder.
    pub(crate) fn check_layers(&self, dir: &Path) -> Result<()> {
        if self.layers.len() < LAYERS_LIMIT {
            return Ok(());
        }
        let what = format!("the disk has {} layers, the most that there may be", self.layers.len());
        Err(Error::new(ErrorKind::LimitExceeded, what).at_path(dir).hint(
            "a layer goes when nothing reads it: delete snapshots, `sealdisk reencrypt` the disk, then `sealdisk scrub` it",
        ))
    }

    /// The file name of a layer below `layers/`.
    pub(crate) fn layer_file(id: u32, kind: Kind) -> String {
        match kind {
            Kind::Plain => format!("{id:08}.plain"),
            Kind::Xts => format!("{id:08}.xts"),
        }
    }
}

/// The old file becomes the spare. Where the file system cannot exchange names, the next replacement needs space.
fn put_in_place(dir: &dyn Dir) -> io::Result<()> {
    if mutant!(SpareNotKept) {
        return dir.rename(TEMPORARY, FILE);
    }
    match dir.exchange(TEMPORARY, FILE) {
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::NotFound) => {
            dir.rename(TEMPORARY, FILE)
        }
        exchanged => exchanged,
    }
}

/// Why [`DiskSettings::store`] failed.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// The old file is in place: only this operation failed.
    Unchanged(Error),
    /// The new file is in place, but maybe not after a crash: the disk must be poisoned.
    Unknown(Error),
}

impl StoreError {
    pub(crate) fn into_error(self) -> Error {
        match self {
            StoreError::Unchanged(error) | StoreError::Unknown(error) => error,
        }
    }
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use super::*;
    use crate::disk::Durability;
    use crate::disk::tests::{TestDisk, read};

    fn record(id: u32) -> LayerRecord {
        LayerRecord { id, kind: Kind::Plain, created: i64::MAX as u64, encrypted_pages: i64::MAX as u64 }
    }

    #[test]
    fn a_table_of_as_many_layers_as_there_may_be_fits() {
        let mut settings = DiskSettings::new(&Spec::new(Uuid::new_v4(), "a/b", 512), 0);
        let empty = toml::to_string(&settings).unwrap().len();
        settings.layers.push(record(u32::MAX));
        let one = toml::to_string(&settings).unwrap().len() - empty;
        assert!((LAYERS_LIMIT * one) as u64 <= SIZE_LIMIT / 2, "{one} bytes a layer");
    }

    #[test]
    fn a_disk_with_all_its_layers_refuses_what_wants_another_and_loses_nothing() {
        let place = TestDisk::new(1 << 20, 0, true);
        let disk = place.open(true);
        disk.write(0, &[1; 512], Durability::Fua).unwrap();
        let before = disk.admin().settings().layers;
        let fill = |upto: usize| {
            let mut table = disk.core.table.lock();
            table.settings.layers = (0..upto - 1).map(|id| record(id as u32 + 2)).collect();
            table.settings.layers.insert(0, before[0].clone());
        };
        fill(LAYERS_LIMIT);
        let refused = |result: Result<()>| {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LimitExceeded);
            assert!(error.to_string().contains("65536 layers"), "{error}");
            assert!(error.hint_text().unwrap().contains("scrub"));
        };
        refused(disk.admin().rotate_key());
        refused(disk.admin().create_snapshot("s").map(drop));
        refused(disk.admin().check_room());
        disk.write(512, &[2; 512], Durability::Fua).expect("the layer on top takes writes still");
        // As after the switch was turned without asking.
        disk.admin().set_encryption(false);
        refused(disk.write(512, &[3; 512], Durability::Fua));
        assert_eq!(read(&disk, 0, 1024), [[1; 512], [2; 512]].concat());

        fill(LAYERS_LIMIT - 1);
        disk.core.table.lock().settings.next_layer = LAYERS_LIMIT as u32 + 2;
        disk.write(512, &[3; 512], Durability::Fua).unwrap();
        assert_eq!(disk.admin().settings().layers.len(), LAYERS_LIMIT);
        assert_eq!(read(&disk, 0, 1024), [[1; 512], [3; 512]].concat());
        let stored = DiskSettings::load(&*place.dir(), Some(&place.keys)).expect("a full table is read again");
        assert_eq!(stored.layers.len(), LAYERS_LIMIT);
    }
}
