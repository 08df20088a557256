//! What is held against what: the files as the reader finds them, the model, and the words of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use uuid::Uuid;

use crate::history::History;
use crate::model::{self, Form};
use crate::reader::{Answer, Disk, PAGE, Place, Stored};

/// Every page of every disk and snapshot is read as it was written and stored as the switch stood then, and `status`,
/// `map` and `audit` say of every page of the account, and of every byte that is left behind, what the files say.
pub(crate) fn at_rest(history: &History) {
    let status = history.account.json(&["status"]);
    let stored = read(history);
    assert!(stored.strays.is_empty(), "{:?}", stored.strays);
    let found = Found::of(&stored);
    let erased = history.model.disks.iter().filter(|(_, disk)| disk.erased).map(|(name, _)| stored.named(name).uuid);
    let erased: BTreeSet<Uuid> = erased.collect();
    for (name, expected) in history.model.disks.iter().filter(|(_, disk)| !disk.erased) {
        let disk = stored.named(name);
        content(&stored, disk, name, expected);
        map(history, &stored, disk, name);
        bytes(&stored, disk, by_uuid(&status, "disks", disk.uuid));
    }
    let mut total = Sums::default();
    for disk in stored.disks.values() {
        let said = by_uuid(&status, if disk.hidden { "hidden" } else { "disks" }, disk.uuid);
        clones(&stored, disk, said);
        if erased.contains(&disk.uuid) {
            assert!(disk.opening.is_empty(), "{}: keys of layers {:?} are left", disk.name, disk.opening);
            assert!(said["error"].is_object(), "{said}");
            continue;
        }
        total.add(found.check_sums(&stored, disk, said, history.killed));
        audit(history, &stored, disk, &found);
    }
    let count = |list: &str| status[list].as_array().expect("a list").len();
    assert_eq!(count("disks") + count("hidden"), stored.disks.len(), "{status}");
    total.check(&status["total"], erased.len());
}

/// Places of an account, by what they are to it.
struct Found {
    /// Read by a disk, a snapshot or a clone.
    seen: BTreeSet<Place>,
    /// Stored, and read by none.
    left: BTreeSet<Place>,
}

/// Bytes in the layer files of a disk, or of all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sums {
    plain: u64,
    encrypted: u64,
    /// As the program counts it; `None`: it does not know.
    pending: Option<u64>,
}

impl Sums {
    fn add(&mut self, other: Self) {
        let pending = self.pending.unwrap_or(0);
        *self = Self {
            plain: self.plain + other.plain,
            encrypted: self.encrypted + other.encrypted,
            pending: other.pending.map(|more| pending + more),
        };
    }

    fn check(&self, said: &Value, unknown: usize) {
        let found = (self.plain, self.encrypted, unknown as u64);
        let fields = ["stored_plain_bytes", "stored_encrypted_bytes", "unknown_disks"];
        let [plain, encrypted, unknown_said] = fields.map(|field| number(said, field));
        assert_eq!((plain, encrypted, unknown_said), found, "{said}");
    }
}

impl Found {
    fn of(stored: &Stored) -> Self {
        let seen = stored.seen();
        let left = stored.stored().difference(&seen).copied().collect();
        Self { seen, left }
    }

    /// What lies in the files of a disk is counted, and what no disk reads is counted as pending; what is pending may
    /// be zeros or punched already. After a kill the program may say that it does not know.
    fn check_sums(&self, stored: &Stored, disk: &Disk, said: &Value, killed: bool) -> Sums {
        let mut sums = Sums { pending: said["pending_scrub_bytes"].as_u64(), ..Sums::default() };
        for (_, layer, _) in self.seen.iter().filter(|(of, ..)| *of == disk.uuid) {
            let counted = if disk.layers[layer].encrypted { &mut sums.encrypted } else { &mut sums.plain };
            *counted += PAGE as u64;
        }
        let said_sums = (number(said, "stored_plain_bytes"), number(said, "stored_encrypted_bytes"));
        assert_eq!(said_sums, (sums.plain, sums.encrypted), "{}: {said}", disk.name);
        let left = self.left.iter().filter(|(of, ..)| *of == disk.uuid).count() as u64 * PAGE as u64;
        match sums.pending {
            Some(pending) => assert!(pending >= left, "{}: {left} bytes are left behind: {said}", disk.name),
            None => assert!(killed, "unknown after an end in order: {said}"),
        }
        assert!(stored.disks.contains_key(&disk.uuid));
        sums
    }
}

/// Nothing is stored that no disk, snapshot or clone reads, in whatever disk.
pub(crate) fn scrubbed(history: &History) {
    let stored = read(history);
    let left: Vec<Place> = stored.stored().difference(&stored.seen()).copied().collect();
    assert!(left.is_empty(), "left after a scrub: {left:?}");
}

/// What a re-encryption changes in a model.
pub(crate) fn reencrypted(disk: &mut model::Disk, with_base: bool) {
    for page in &mut disk.pages {
        if page.form == Form::Plain && (with_base || !page.inherited) || page.form == Form::Base && with_base {
            *page = model::Page::new(page.content, Form::Encrypted);
        }
    }
}

fn read(history: &History) -> Stored {
    let folder = history.account.scratch("config").join("sealdisk");
    let key = fs::read_dir(folder).expect("the folder of keys").map(|entry| entry.expect("an entry").path());
    let key = key.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "key")).expect("a key file");
    let text = fs::read(key).expect("the key file");
    let kek = <[u8; 32]>::try_from(&text[..]).ok().or_else(|| hex::decode(text.trim_ascii()).ok()?.try_into().ok());
    Stored::read(&history.account.dir(), &kek.expect("32 bytes"))
}

fn content(stored: &Stored, disk: &Disk, name: &str, expected: &model::Disk) {
    assert_eq!(disk.pages(), expected.pages.len() as u64 + 1, "{name}: pages, with the footer");
    for (number, page) in (0..).zip(&expected.pages) {
        let answer = stored.live(disk, number);
        assert_eq!(form(stored, answer), page.form, "{name}, page {number}: {answer:?}");
        assert_eq!(stored.content(answer, number), model::bytes(page.content), "{name}, page {number}: {answer:?}");
    }
    for (snapshot, pages) in &expected.snapshots {
        let line = disk.snapshot(snapshot);
        for (number, page) in (0..).zip(pages) {
            let answer = stored.at_snapshot_id(disk, line, number);
            assert_eq!(form(stored, answer), page.form, "{name}@{snapshot}, page {number}: {answer:?}");
            assert_eq!(stored.content(answer, number), model::bytes(page.content), "{name}@{snapshot}, page {number}");
        }
    }
}

fn form(stored: &Stored, answer: Answer) -> Form {
    match answer {
        Answer::Zero(_) => Form::Zero,
        Answer::Base { .. } => Form::Base,
        Answer::Layer { disk, layer } if stored.disks[&disk].layers[&layer].encrypted => Form::Encrypted,
        Answer::Layer { .. } => Form::Plain,
    }
}

fn form_name(form: Form) -> &'static str {
    match form {
        Form::Zero => "zero",
        Form::Base => "base",
        Form::Plain => "plain",
        Form::Encrypted => "encrypted",
    }
}

fn map(history: &History, stored: &Stored, disk: &Disk, name: &str) {
    let map = history.account.json(&["map", name]);
    let runs = map.get("runs").unwrap_or(&map).as_array().expect("runs").clone();
    let mut next = 0;
    for run in runs {
        assert_eq!(number(&run, "start"), next, "{name}: {run}");
        next += number(&run, "pages");
        for page in number(&run, "start")..next {
            let answer = stored.live(disk, page);
            let (of, layer) = match answer {
                Answer::Layer { disk: of, layer } => ((of != disk.uuid).then_some(of), Some(layer)),
                Answer::Zero(layer) => (None, layer),
                Answer::Base { .. } => (None, None),
            };
            let form = form(stored, answer);
            let key =
                layer.filter(|_| form == Form::Encrypted).map(|layer| format!("{}/{layer}", of.unwrap_or(disk.uuid)));
            let found = (form_name(form), layer.map(u64::from), key, of.map(|of| of.to_string()));
            let text = |field: &str| run.get(field).and_then(Value::as_str).map(str::to_owned);
            let said = (run["state"].as_str().expect("a state"), run["layer"].as_u64(), text("key"), text("of"));
            assert_eq!(said, found, "{name}, page {page}: {answer:?}");
        }
    }
    assert_eq!(next, disk.pages(), "{name}: the map ends early");
}

/// Bytes by state and by key.
fn bytes(stored: &Stored, disk: &Disk, said: &Value) {
    let (mut by_form, mut by_key): (BTreeMap<&str, u64>, BTreeMap<String, u64>) = Default::default();
    for page in 0..disk.pages() {
        let answer = stored.live(disk, page);
        let form = form(stored, answer);
        *by_form.entry(form_name(form)).or_default() += PAGE as u64;
        if let (Answer::Layer { disk, layer }, Form::Encrypted) = (answer, form) {
            *by_key.entry(format!("{disk}/{layer}")).or_default() += 1;
        }
    }
    for state in ["base", "plain", "encrypted", "zero"] {
        let found = by_form.get(state).copied().unwrap_or(0);
        assert_eq!(number(said, &format!("{state}_bytes")), found, "{}: {said}", disk.name);
    }
    let keys = said["keys"].as_array().expect("keys").iter();
    let keys: BTreeMap<String, u64> = keys
        .map(|key| (key["key"].as_str().expect("an id").to_owned(), number(key, "pages")))
        .filter(|(_, pages)| *pages > 0)
        .collect();
    assert_eq!(keys, by_key, "{}", disk.name);
}

/// The disks that read from this one.
fn clones(stored: &Stored, disk: &Disk, said: &Value) {
    let reads = |clone: &&Disk| clone.parent.as_ref().is_some_and(|parent| parent.disk == disk.uuid);
    let found: BTreeSet<String> = stored.disks.values().filter(reads).map(|clone| clone.uuid.to_string()).collect();
    if disk.hidden {
        let clones = said["clones"].as_array().expect("clones").iter();
        let clones: BTreeSet<String> = clones.map(|clone| clone["uuid"].as_str().expect("a uuid").to_owned()).collect();
        assert_eq!(clones, found, "{}: {said}", disk.name);
        assert!(!found.is_empty(), "{}: kept for no clone", disk.name);
    }
}

/// Layer by layer what is stored, and what a clone reads elsewhere.
fn audit(history: &History, stored: &Stored, disk: &Disk, found: &Found) {
    let audit = history.account.json(&["audit", &format!("@{}", disk.uuid)]);
    let layers = audit["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), disk.layers.len(), "{}: {audit}", disk.name);
    let mut left_in_plain = 0;
    for layer in layers {
        let id = number(layer, "id") as u32;
        let count = |places: &BTreeSet<Place>| {
            places.iter().filter(|(of, layer, _)| (*of, *layer) == (disk.uuid, id)).count() as u64 * PAGE as u64
        };
        let stored = [count(&found.seen), 0, 0, count(&found.left)];
        let said = ["held_bytes", "missing_bytes", "clear_bytes", "left_bytes"].map(|field| number(layer, field));
        assert_eq!(said, stored, "{}, layer {id}: {layer}", disk.name);
        left_in_plain += if disk.layers[&id].encrypted { 0 } else { stored[3] };
    }
    let mut inherited: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (of, layer, _) in stored.read_by(disk).into_iter().filter(|(of, ..)| *of != disk.uuid) {
        let bytes = inherited.entry(of.to_string()).or_default();
        let counted = if stored.disks[&of].layers[&layer].encrypted { &mut bytes.1 } else { &mut bytes.0 };
        *counted += PAGE as u64;
    }
    let said: BTreeMap<String, (u64, u64)> = audit["inherited"]
        .as_array()
        .expect("inherited")
        .iter()
        .map(|from| {
            let uuid = from["uuid"].as_str().expect("a uuid").to_owned();
            (uuid, (number(from, "plain_bytes"), number(from, "encrypted_bytes")))
        })
        .filter(|(_, bytes)| *bytes != (0, 0))
        .collect();
    assert_eq!(said, inherited, "{}: {audit}", disk.name);
    let plaintext = &audit["plaintext"];
    let in_plain: u64 = inherited.values().map(|(plain, _)| plain).sum();
    assert_eq!(number(plaintext, "inherited_bytes"), in_plain, "{}: {audit}", disk.name);
    assert_eq!(number(plaintext, "pending_scrub_bytes"), left_in_plain, "{}: {audit}", disk.name);
}

fn by_uuid<'a>(status: &'a Value, list: &str, uuid: Uuid) -> &'a Value {
    let disks = status[list].as_array().unwrap_or_else(|| panic!("no {list} in {status}"));
    disks
        .iter()
        .find(|disk| disk["uuid"] == uuid.to_string())
        .unwrap_or_else(|| panic!("{uuid} is in the files, and not among the {list} of {status}"))
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no {field} in {value}"))
}
