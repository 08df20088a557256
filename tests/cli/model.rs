//! What a disk must hold, page by page, and the check of everything that lies in the account against it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::client::Client;
use crate::layers::{Layers, PAGE};
use crate::support::Account;

/// How a page must be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Base,
    Plain,
    Encrypted,
    Zero,
}

/// Begins every page that a test writes, so that its plaintext is found wherever it lies.
const MARKER: &[u8; 16] = b"plaintext marker";

/// The disk as it must be.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    /// Without the footer page.
    content: Vec<u8>,
    states: Vec<State>,
    footer: State,
    /// The account's setting.
    encryption: bool,
    random: ChaCha8Rng,
}

impl Model {
    /// A disk of `size` bytes over `base`, made while encryption was on.
    pub(crate) fn new(name: &'static str, base: &[u8], size: usize) -> Self {
        let mut content = base.to_vec();
        content.resize(size, 0);
        let mut states = vec![State::Base; base.len() / PAGE];
        states.resize(size / PAGE, State::Zero);
        let random = ChaCha8Rng::seed_from_u64(7);
        Self { name, content, states, footer: State::Encrypted, encryption: true, random }
    }

    pub(crate) fn set_encryption(&mut self, on: bool) {
        self.encryption = on;
    }

    /// Writes whole pages that were never written before, through the client.
    pub(crate) fn write(&mut self, client: &mut Client, page: usize, pages: usize) {
        let mut data = vec![0; pages * PAGE];
        self.random.fill_bytes(&mut data);
        for page in data.chunks_mut(PAGE) {
            page[..MARKER.len()].copy_from_slice(MARKER);
        }
        self.write_bytes(client, page * PAGE, &data);
    }

    /// Writes bytes at any offset: every page that is touched is stored anew, whole.
    pub(crate) fn write_bytes(&mut self, client: &mut Client, offset: usize, data: &[u8]) {
        client.write(offset as u64, data);
        self.content[offset..offset + data.len()].copy_from_slice(data);
        let state = if self.encryption { State::Encrypted } else { State::Plain };
        self.states[offset / PAGE..(offset + data.len()).div_ceil(PAGE)].fill(state);
    }

    /// Writes a few pages at random places.
    pub(crate) fn scatter(&mut self, client: &mut Client, writes: usize) {
        for _ in 0..writes {
            let pages = self.random.random_range(1..9);
            let page = self.random.random_range(0..self.states.len() - pages);
            self.write(client, page, pages);
        }
    }

    /// Notes that a range of pages was cleared.
    pub(crate) fn cleared(&mut self, page: usize, pages: usize) {
        self.content[page * PAGE..(page + pages) * PAGE].fill(0);
        self.states[page..page + pages].fill(State::Zero);
    }

    pub(crate) fn check_reads(&self, client: &mut Client) {
        assert!(client.read(0, self.content.len()) == self.content, "the disk reads otherwise than it was written");
    }

    /// `map` calls every page what it must be, and the layer files hold exactly that. With `scrubbed`, nothing else.
    pub(crate) fn check_files(&self, account: &Account, scrubbed: bool) {
        let uuid = account.json(&["show", self.name])["uuid"].as_str().expect("a uuid").to_owned();
        let layers = Layers::open(account, &uuid);
        let files = layers.files();
        // Page by page: the layer that holds it, where one does.
        let mut holders: Vec<Option<u32>> = Vec::new();
        let map = account.json(&["map", self.name]);
        for run in map.as_array().expect("an array of runs") {
            let number = |field: &str| run[field].as_u64().expect("a number");
            assert_eq!(number("start"), holders.len() as u64, "a gap in {map}");
            let layer = run["layer"].as_u64().map(|layer| u32::try_from(layer).expect("a layer"));
            for page in number("start")..number("start") + number("pages") {
                let expected = *self.states.get(page as usize).unwrap_or(&self.footer);
                assert_eq!(run["state"], name_of(expected), "page {page} in {run}");
                assert_eq!(run["key"].is_string(), expected == State::Encrypted, "page {page} in {run}");
                let holder = layer.filter(|_| matches!(expected, State::Plain | State::Encrypted));
                assert_eq!(holder.is_some(), matches!(expected, State::Plain | State::Encrypted), "{run}");
                holders.push(holder);
            }
        }
        assert_eq!(holders.len(), self.states.len() + 1, "the map covers the blob, its footer page included");
        for (page, content) in self.content.chunks(PAGE).enumerate() {
            let Some(layer) = holders[page] else { continue };
            let (encrypted, file) = &files[&layer];
            let stored = &file[page * PAGE..][..PAGE];
            assert_eq!(*encrypted, self.states[page] == State::Encrypted, "page {page} in layer {layer}");
            if *encrypted {
                assert!(stored != content, "page {page} is not encrypted in layer {layer}");
                assert!(layers.decrypt(layer, page as u64, stored) == content, "page {page} in layer {layer}");
            } else {
                assert!(stored == content, "page {page} is not plain in layer {layer}");
            }
        }
        if scrubbed {
            for (layer, (_, file)) in &files {
                for (page, stored) in file.chunks(PAGE).enumerate() {
                    let held = holders[page] == Some(*layer);
                    assert!(held || stored.iter().all(|&byte| byte == 0), "page {page} is left in layer {layer}");
                }
            }
            self.check_plaintext(account, &holders);
        }
    }

    /// Nowhere in the account lies plaintext but that of plain pages, in the layer that the map says.
    fn check_plaintext(&self, account: &Account, holders: &[Option<u32>]) {
        for (path, bytes) in files_below(&account.dir()) {
            for at in find_all(&bytes, MARKER) {
                let page = at / PAGE;
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let right_place = at % PAGE == 0
                    && self.states.get(page) == Some(&State::Plain)
                    && holders[page].is_some_and(|layer| name == format!("{layer:08}.plain"));
                assert!(right_place, "plaintext at byte {at} of {}", path.display());
            }
        }
    }
}

fn name_of(state: State) -> &'static str {
    match state {
        State::Base => "base",
        State::Plain => "plain",
        State::Encrypted => "encrypted",
        State::Zero => "zero",
    }
}

/// All files below a folder with their content.
pub(crate) fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the account") {
            let entry = entry.expect("an entry");
            let kind = entry.file_type().expect("a type");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.insert(entry.path(), fs::read(entry.path()).expect("a file of the account"));
            }
        }
    }
    files
}

fn find_all(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == needle[0]);
    starts.map(|(at, _)| at).filter(|&at| bytes[at..].starts_with(needle)).collect()
}
