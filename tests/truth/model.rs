//! What an account should hold, by what was asked of it and answered.

use std::collections::BTreeMap;

use crate::reader::PAGE;

/// Names the content of a page. 0: zeros.
pub(crate) type Content = u64;

/// Contents of the base image are told from what was written by this bit.
pub(crate) const OF_BASE: Content = 1 << 60;

/// A page as it should be read, and how it should be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) content: Content,
    pub(crate) form: Form,
    /// Of a clone: it is the source's.
    pub(crate) inherited: bool,
}

impl Page {
    pub(crate) const ZERO: Self = Self::new(0, Form::Zero);

    pub(crate) const fn new(content: Content, form: Form) -> Self {
        Self { content, form, inherited: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Nowhere: zeros.
    Zero,
    Base,
    Plain,
    Encrypted,
}

#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// Without the footer page.
    pub(crate) pages: Vec<Page>,
    pub(crate) snapshots: BTreeMap<String, Vec<Page>>,
    /// The disk and snapshot that it is a clone of.
    pub(crate) parent: Option<(String, String)>,
    /// Its own data keys are destroyed.
    pub(crate) erased: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) disks: BTreeMap<String, Disk>,
    /// The disk and snapshot that a deleted clone was of. It is kept, with its parent, while other clones read from it.
    pub(crate) deleted: BTreeMap<String, (String, String)>,
    pub(crate) encryption: bool,
    pub(crate) last: Content,
}

/// The bytes that `content` stands for: text that is told from anything else, the same in every 64 bytes.
pub(crate) fn bytes(content: Content) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    if content != 0 {
        let text = format!("sealdisk truth test, page of content {content:020}, as plain text");
        page.chunks_mut(64).for_each(|chunk| chunk.copy_from_slice(&text.as_bytes()[..chunk.len()]));
    }
    page
}

impl Model {
    /// A content that no page has had.
    pub(crate) fn fresh(&mut self) -> Content {
        self.last += 1;
        self.last
    }

    /// How a page is stored that is written now.
    pub(crate) fn form(&self) -> Form {
        if self.encryption { Form::Encrypted } else { Form::Plain }
    }

    pub(crate) fn delete(&mut self, name: &str) {
        let disk = self.disks.remove(name).expect("a disk");
        self.deleted.extend(disk.parent.map(|parent| (name.to_owned(), parent)));
    }

    /// The disks and snapshots that clones read from, those also that only a deleted clone reads from.
    pub(crate) fn parents(&self) -> Vec<&(String, String)> {
        let mut found: Vec<_> = self.disks.values().filter_map(|disk| disk.parent.as_ref()).collect();
        let mut next = 0;
        while let Some((of, _)) = found.get(next) {
            found.extend(self.deleted.get(of));
            next += 1;
        }
        found
    }

    /// Whether a clone reads from a snapshot.
    pub(crate) fn is_pinned(&self, disk: &str, snapshot: &str) -> bool {
        self.parents().into_iter().any(|(of, at)| of == disk && at == snapshot)
    }
}
