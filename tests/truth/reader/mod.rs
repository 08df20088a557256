//! A reader of account directories that shares no code with the program: written from docs/format.md and
//! docs/security.md alone, over OpenSSL. What it finds in the files is held against what the program says of them.
//!
//! It reads an account at rest, takes every checksum and MAC for what it is worth elsewhere (tests/keys,
//! tests/formats), and believes no notes of a killed process: it is asked after an end in order, or after a flush.

mod keys;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use keys::AccountKeys;
pub(crate) use stored::Line;

pub(crate) const PAGE: usize = 512;

/// A page of a layer: where the bytes of a page of a disk may lie.
pub(crate) type Place = (Uuid, u32, u64);

/// What answers for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A layer of a disk, which may be another than was asked about.
    Layer { disk: Uuid, layer: u32 },
    /// Zeros. The layer that says so, where it is one of the disk that was asked about.
    Zero(Option<u32>),
    /// The base image of a disk.
    Base { disk: Uuid },
}

/// Everything in an account directory.
pub(crate) struct Stored {
    pub(crate) disks: BTreeMap<Uuid, Disk>,
    /// Entries of `disks/` that are no disk.
    pub(crate) strays: Vec<String>,
}

pub(crate) struct Disk {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) hidden: bool,
    /// Path of a raw base image.
    pub(crate) base: Option<PathBuf>,
    pub(crate) parent: Option<Parent>,
    pub(crate) state: stored::State,
    pub(crate) layers: BTreeMap<u32, Layer>,
    /// Wrapped keys, of whatever layer and in whatever copy, that an account key at hand unwraps.
    pub(crate) opening: BTreeSet<u32>,
}

pub(crate) struct Parent {
    pub(crate) disk: Uuid,
    pub(crate) line: u32,
    /// Pages that are seen of it.
    pub(crate) pages: u64,
}

pub(crate) struct Layer {
    pub(crate) encrypted: bool,
    file: fs::File,
    /// `None`: no key of it is left.
    key: Option<[u8; 64]>,
}

/// Part of a stack that is looked at.
#[derive(Debug, Clone, Copy)]
struct View {
    sees: u32,
    pages: u64,
    base_limit: u64,
}

impl From<&Line> for View {
    fn from(line: &Line) -> Self {
        Self { sees: line.sees, pages: line.size, base_limit: line.base_limit }
    }
}

impl Stored {
    /// Reads the account in `dir`, opened by the 32 bytes of its key-encryption key.
    pub(crate) fn read(dir: &Path, kek: &[u8; 32]) -> Self {
        let account_keys = AccountKeys::open(&dir.join("account.toml"), kek);
        let (mut disks, mut strays) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(dir.join("disks")).expect("the folder of disks") {
            let entry = entry.expect("an entry of the folder of disks");
            let name = entry.file_name().into_string().expect("a name in UTF-8");
            match Uuid::parse_str(&name) {
                Ok(uuid) => drop(disks.insert(uuid, Disk::read(&entry.path(), uuid, &account_keys))),
                Err(_) => strays.push(name),
            }
        }
        Self { disks, strays }
    }

    pub(crate) fn named(&self, name: &str) -> &Disk {
        let canonical = if name.contains('/') { name.to_owned() } else { format!("vhds/{name}") };
        let known = |disk: &&Disk| !disk.hidden && (disk.name == canonical || disk.name == name);
        self.disks.values().find(known).unwrap_or_else(|| panic!("no disk {name} in the files"))
    }

    /// What answers for `page` of a disk as it is now.
    pub(crate) fn live(&self, disk: &Disk, page: u64) -> Answer {
        self.resolve(disk, disk.live(), page)
    }

    /// What answers for `page` of a disk as a snapshot sees it.
    pub(crate) fn at_snapshot_id(&self, disk: &Disk, line: &Line, page: u64) -> Answer {
        self.resolve(disk, View::from(line), page)
    }

    fn resolve(&self, disk: &Disk, view: View, page: u64) -> Answer {
        assert!(page < view.pages, "page {page} of {}", view.pages);
        for (&id, presence) in disk.state.layers.range(..=view.sees).rev() {
            if presence.held.contains(&page) {
                return Answer::Layer { disk: disk.uuid, layer: id };
            }
            if presence.zero.contains(&page) {
                return Answer::Zero(Some(id));
            }
        }
        let below = page < view.base_limit;
        match (&disk.parent, &disk.base) {
            (Some(parent), _) if below && page < parent.pages => {
                let source = &self.disks[&parent.disk];
                let line = source.line(parent.line);
                match self.at_snapshot_id(source, line, page) {
                    Answer::Zero(_) => Answer::Zero(None),
                    other => other,
                }
            }
            (None, Some(_)) if below => Answer::Base { disk: disk.uuid },
            _ => Answer::Zero(None),
        }
    }

    /// The content of a page, from where it lies.
    pub(crate) fn content(&self, answer: Answer, page: u64) -> [u8; PAGE] {
        match answer {
            Answer::Zero(_) => [0; PAGE],
            Answer::Base { disk } => {
                let path = self.disks[&disk].base.as_ref().expect("a base");
                let mut bytes = [0; PAGE];
                read_to_end_of(&fs::File::open(path).expect("the base image"), &mut bytes, page);
                bytes
            }
            Answer::Layer { disk, layer } => self.disks[&disk].layers[&layer].content(page),
        }
    }

    /// Every place that some disk, snapshot or clone reads from. Of a deleted disk only clones read.
    pub(crate) fn seen(&self) -> BTreeSet<Place> {
        let mut seen = BTreeSet::new();
        for disk in self.disks.values() {
            if !disk.hidden {
                self.see(disk, disk.live(), &mut seen);
            }
            for line in &disk.state.lines {
                // The snapshots of a deleted disk are deleted with it, but for those that clones read from.
                if !disk.hidden || self.is_read_from(disk.uuid, line.id) {
                    self.see(disk, View::from(line), &mut seen);
                }
            }
        }
        seen
    }

    /// Every place that a disk, or a snapshot of it, reads from.
    pub(crate) fn read_by(&self, disk: &Disk) -> BTreeSet<Place> {
        let mut seen = BTreeSet::new();
        self.see(disk, disk.live(), &mut seen);
        disk.state.lines.iter().for_each(|line| self.see(disk, View::from(line), &mut seen));
        seen
    }

    fn see(&self, disk: &Disk, view: View, seen: &mut BTreeSet<Place>) {
        for page in 0..view.pages {
            if let Answer::Layer { disk, layer } = self.resolve(disk, view, page) {
                seen.insert((disk, layer, page));
            }
        }
    }

    /// Whether a clone reads from a snapshot.
    fn is_read_from(&self, disk: Uuid, line: u32) -> bool {
        let parents = self.disks.values().filter_map(|disk| disk.parent.as_ref());
        parents.into_iter().any(|parent| (parent.disk, parent.line) == (disk, line))
    }

    /// Every place with something stored other than zeros.
    pub(crate) fn stored(&self) -> BTreeSet<Place> {
        let mut stored = BTreeSet::new();
        for disk in self.disks.values() {
            for (&id, layer) in &disk.layers {
                stored.extend(layer.stored_pages().into_iter().map(|page| (disk.uuid, id, page)));
            }
        }
        stored
    }
}

impl Disk {
    fn read(folder: &Path, uuid: Uuid, account_keys: &AccountKeys) -> Self {
        let text = fs::read_to_string(folder.join("disk.toml")).expect("disk.toml");
        let (body, _) = text.rsplit_once("\n[seal]\n").expect("a [seal]");
        let table: toml::Table = body.parse().expect("disk.toml is TOML");
        assert_eq!(table["uuid"].as_str(), Some(uuid.to_string().as_str()));
        let keys = account_keys.data_keys(&folder.join("keys"), uuid);
        let records = table.get("layers").and_then(toml::Value::as_array).into_iter().flatten();
        let layers: BTreeMap<u32, Layer> = records
            .map(|record| {
                let id = integer(record, "id") as u32;
                let encrypted = record["kind"].as_str() == Some("xts");
                let name = format!("{id:08}.{}", if encrypted { "xts" } else { "plain" });
                let file = fs::File::open(folder.join("layers").join(name)).expect("the file of a layer");
                (id, Layer { encrypted, file, key: keys.get(&id).copied() })
            })
            .collect();
        let names = fs::read_dir(folder.join("layers")).expect("the layers").count();
        assert_eq!(names, layers.len(), "files in {} that no layer of disk.toml names", folder.display());
        let base = table.get("base").map(|base| {
            assert_eq!(base["format"].as_str(), Some("raw"), "this reader knows raw images");
            PathBuf::from(base["path"].as_str().expect("a path"))
        });
        let parent = table.get("parent").map(|parent| Parent {
            disk: parent["disk"].as_str().and_then(|id| id.parse().ok()).expect("a uuid"),
            line: integer(parent, "line") as u32,
            pages: integer(parent, "size") as u64 / PAGE as u64,
        });
        Self {
            uuid,
            name: table["name"].as_str().expect("a name").to_owned(),
            hidden: table.get("hidden").and_then(toml::Value::as_bool).unwrap_or(false),
            base,
            parent,
            state: stored::State::read(folder, &layers.keys().copied().collect()),
            layers,
            opening: keys.into_keys().collect(),
        }
    }

    fn live(&self) -> View {
        View { sees: u32::MAX, pages: self.state.size, base_limit: self.state.base_limit }
    }

    /// Of the blob, its footer page included.
    pub(crate) fn pages(&self) -> u64 {
        self.state.size
    }

    pub(crate) fn line(&self, id: u32) -> &Line {
        self.state.lines.iter().find(|line| line.id == id).expect("a line that a clone reads from")
    }

    pub(crate) fn snapshot(&self, name: &str) -> &Line {
        self.state.lines.iter().find(|line| line.name == name).unwrap_or_else(|| panic!("no snapshot {name}"))
    }
}

impl Layer {
    /// The bytes of a page as they lie.
    fn raw(&self, page: u64) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        read_to_end_of(&self.file, &mut bytes, page);
        bytes
    }

    fn content(&self, page: u64) -> [u8; PAGE] {
        let raw = self.raw(page);
        if !self.encrypted {
            return raw;
        }
        keys::decrypt(self.key.as_ref().expect("the data key of a layer that is read"), page, &raw)
    }

    fn stored_pages(&self) -> Vec<u64> {
        let pages = self.file.metadata().expect("its length").len() / PAGE as u64;
        (0..pages).filter(|&page| self.raw(page).iter().any(|&byte| byte != 0)).collect()
    }
}

/// What lies behind the end of a file reads as zeros.
fn read_to_end_of(file: &fs::File, bytes: &mut [u8; PAGE], page: u64) {
    let mut at = 0;
    while at < PAGE {
        match file.read_at(&mut bytes[at..], page * PAGE as u64 + at as u64).expect("a read") {
            0 => return,
            read => at += read,
        }
    }
}

fn integer(table: &toml::Value, field: &str) -> i64 {
    table[field].as_integer().unwrap_or_else(|| panic!("no {field} in {table}"))
}
