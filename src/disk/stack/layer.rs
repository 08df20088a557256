//! A layer: a sparse file in which page n lies at byte n x 512, everything in it stored in one way.
//!
//! Invariant 1: the bytes of page n are a hole, or content under this layer's key (for a plain layer: plaintext);
//! nothing else, ever. This file is the only place that turns pages into stored bytes and back.
//!
//! Invariant 8, first half: every sync call on the file is serialised, and a failure sets the disk's poison before the
//! next may start, because the kernel reports a failed write-back once per open file.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
// A count that nothing waits for: no point of the simulated scheduler.
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex as PlainMutex;
use zeroize::Zeroizing;

use crate::crypto::xts::{self, XtsKey};
use crate::disk::commit::poison::Poison;
use crate::disk::table::settings::Kind;
use crate::disk::transfer::{read_full, try_read_full, write_full};
use crate::io::File;
use crate::io::mutant;
use crate::io::sync::atomic::{AtomicBool, Ordering};
use crate::io::sync::{Mutex, RwLock};
use crate::{Error, ErrorKind, PAGE, Result};

/// Encrypted writes go through pooled pieces of this many bytes, small enough to stay in the second-level cache.
const PIECE: usize = 256 << 10;
/// Pieces kept for reuse.
const POOLED: usize = 8;
/// Writes up to this many bytes are encrypted on the stack.
const SMALL: usize = 4096;
/// Pages that are stored for the first time go to the kernel in runs that end on multiples of this many bytes. What one
/// call brings into the page cache becomes one folio there, and every later small write walks all blocks of its folio:
/// a write of 4 KiB costs 1.9 us in one of 32 KiB, 3.1 in one of 256 KiB and 7.7 in one of 1 MiB (ext4, Linux 6.18).
/// Large reads and writes gain little by larger ones.
const FOLIO: usize = 32 << 10;

static POOL: PlainMutex<Vec<Box<[u8]>>> = PlainMutex::new(Vec::new());

pub(crate) struct Layer {
    pub(crate) id: u32,
    pub(crate) kind: Kind,
    /// Seconds since the epoch.
    pub(crate) created: u64,
    file: Arc<dyn File>,
    /// For messages.
    name: String,
    /// `None` in a plain layer, and once the keys are revoked.
    cipher: RwLock<Option<XtsKey>>,
    dirty: AtomicBool,
    /// Pages encrypted under the key, as far as is known: see `key_usage.rs`.
    encrypted_pages: AtomicU64,
    /// How many of them disk.toml knows.
    noted: AtomicU64,
    syncing: Mutex<()>,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layer({}, {:?})", self.id, self.kind)
    }
}

impl Layer {
    pub(crate) fn new(
        id: u32,
        kind: Kind,
        created: u64,
        file: Arc<dyn File>,
        name: String,
        cipher: Option<XtsKey>,
    ) -> Self {
        Self {
            id,
            kind,
            created,
            file,
            name,
            cipher: RwLock::new(cipher),
            dirty: AtomicBool::new(false),
            encrypted_pages: AtomicU64::new(0),
            noted: AtomicU64::new(0),
            syncing: Mutex::new(()),
        }
    }

    fn io(&self, what: &str, page: u64, error: io::Error) -> Error {
        Error::io(what, error).at_path(&self.name).at_offset(page * PAGE as u64)
    }

    fn keyless(&self) -> Error {
        Error::new(ErrorKind::Revoked, "the key of this layer is not here").at_path(&self.name)
    }

    /// Takes the data key, or with `None` lets go of it: then what is encrypted here can be neither read nor written.
    /// Waits for what is using it.
    pub(crate) fn set_key(&self, cipher: Option<XtsKey>) {
        *self.cipher.write() = cipher;
    }

    fn reveal(&self, first_page: u64, buf: &mut [u8]) -> Result<()> {
        match (self.kind, &*self.cipher.read()) {
            (Kind::Plain, _) => {}
            (Kind::Xts, Some(cipher)) => {
                cipher.decrypt_in_place(first_page, buf);
                // While the key is held: whoever takes it away leaves nothing of it.
                xts::wipe_stack();
            }
            (Kind::Xts, None) => return Err(self.keyless()),
        }
        Ok(())
    }

    /// Fills `buf` (whole pages) with the content of the pages from `first_page` on, which the layer must hold.
    pub(crate) fn read(&self, first_page: u64, buf: &mut [u8]) -> Result<()> {
        read_full(&*self.file, buf, first_page * PAGE as u64)
            .map_err(|error| self.io("cannot read a layer", first_page, error))?;
        self.reveal(first_page, buf)
    }

    /// Like [`Layer::read`], but `Ok(false)` where it would wait for a device.
    pub(crate) fn try_read(&self, first_page: u64, buf: &mut [u8]) -> Result<bool> {
        let done = try_read_full(&*self.file, buf, first_page * PAGE as u64)
            .map_err(|error| self.io("cannot read a layer", first_page, error))?;
        if done {
            self.reveal(first_page, buf)?;
        }
        Ok(done)
    }

    /// Writes stored bytes; `first`: not all of these pages were stored before.
    fn put(&self, page: u64, mut bytes: &[u8], first: bool) -> Result<()> {
        let mut at = page * PAGE as u64;
        while !bytes.is_empty() {
            let len = if first { bytes.len().min(FOLIO - at as usize % FOLIO) } else { bytes.len() };
            let (part, rest) = bytes.split_at(len);
            write_full(&*self.file, part, at)
                .map_err(|error| self.io("cannot write a layer", at / PAGE as u64, error))?;
            at += len as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Stores whole pages from `first_page` on; `first`: not all of them were stored before. The caller marks the layer
    /// dirty afterwards, also when this fails: some of the pages may have been written.
    pub(crate) fn write(&self, first_page: u64, data: &[u8], first: bool) -> Result<()> {
        if self.kind == Kind::Plain {
            return self.put(first_page, data, first);
        }
        let cipher = self.cipher.read();
        let cipher = cipher.as_ref().ok_or_else(|| self.keyless())?;
        self.count_encrypted((data.len() / PAGE) as u64);
        if data.len() <= SMALL {
            let mut encrypted_pages = [0; SMALL];
            let encrypted_pages = &mut encrypted_pages[..data.len()];
            cipher.encrypt(first_page, data, encrypted_pages);
            xts::wipe_stack();
            return self.put(first_page, encrypted_pages, first);
        }
        let mut piece = POOL.lock().pop().unwrap_or_else(|| vec![0; PIECE].into_boxed_slice());
        let mut page = first_page;
        let done = data.chunks(PIECE).try_for_each(|chunk| {
            let encrypted_pages = &mut piece[..chunk.len()];
            cipher.encrypt(page, chunk, encrypted_pages);
            xts::wipe_stack();
            self.put(page, encrypted_pages, first)?;
            page += (chunk.len() / PAGE) as u64;
            Ok(())
        });
        let mut pool = POOL.lock();
        if pool.len() < POOLED {
            pool.push(piece);
        }
        done
    }

    pub(crate) fn count_encrypted(&self, pages: u64) {
        self.encrypted_pages.fetch_add(pages, Ordering::Relaxed);
    }

    /// Pages encrypted since disk.toml last said how many.
    pub(crate) fn wear_unnoted(&self) -> u64 {
        self.encrypted_pages().saturating_sub(self.noted.load(Ordering::Relaxed))
    }

    pub(crate) fn wear_noted(&self, pages: u64) {
        self.noted.store(pages, Ordering::Relaxed);
    }

    /// Pages encrypted under the key.
    pub(crate) fn encrypted_pages(&self) -> u64 {
        self.encrypted_pages.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_dirty(&self) {
        self.dirty.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::SeqCst)
    }

    /// Takes the dirty mark: whoever does must sync, or poison the disk.
    pub(crate) fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::SeqCst)
    }

    /// Everything written before this call on stable storage.
    pub(crate) fn sync(&self, poison: &Poison) -> Result<()> {
        let _one_at_a_time = (!mutant!(SyncsNotSerialised)).then(|| self.syncing.lock());
        poison.check()?;
        self.file.sync_data().map_err(|error| poison.set(Error::io("cannot sync a layer", error).at_path(&self.name)))
    }

    /// Takes space for the pages. They read as before: as zeros, where nothing was stored.
    pub(crate) fn allocate(&self, pages: Range<u64>) -> Result<()> {
        self.file
            .allocate(pages.start * PAGE as u64, (pages.end - pages.start) * PAGE as u64)
            .map_err(|error| self.io("cannot write a layer", pages.start, error))
    }

    /// Frees the pages. Not durable until the next sync.
    pub(crate) fn punch(&self, pages: Range<u64>) -> Result<()> {
        self.file
            .punch(pages.start * PAGE as u64, (pages.end - pages.start) * PAGE as u64)
            .map_err(|error| self.io("cannot punch a layer", pages.start, error))
    }

    /// Extends or cuts the file to `pages`, durably. What is cut off is punched first: the new length may reach the
    /// device without what became of the bytes behind it, and then nobody would look for them there.
    pub(crate) fn resize(&self, pages: u64, poison: &Poison) -> Result<()> {
        let before = self.pages()?;
        if pages < before {
            self.punch(pages..before)?;
            self.sync(poison)?;
        }
        self.file
            .set_size(pages * PAGE as u64)
            .map_err(|error| Error::io("cannot size a layer", error).at_path(&self.name))?;
        self.sync(poison)
    }

    /// Length in whole pages.
    pub(crate) fn pages(&self) -> Result<u64> {
        let size = self.file.size().map_err(|error| Error::io("cannot stat a layer", error).at_path(&self.name))?;
        Ok(size / PAGE as u64)
    }

    pub(crate) fn read_ahead(&self, pages: Range<u64>) -> Result<()> {
        self.file
            .read_ahead(pages.start * PAGE as u64, (pages.end - pages.start) * PAGE as u64)
            .map_err(|error| self.io("cannot read ahead in a layer", pages.start, error))
    }

    /// The stored bytes of the pages, as they lie there.
    pub(crate) fn read_stored(&self, first_page: u64, buf: &mut [u8]) -> Result<()> {
        read_full(&*self.file, buf, first_page * PAGE as u64)
            .map_err(|error| self.io("cannot read a layer", first_page, error))
    }

    /// The runs of `pages` in which something is stored that this layer can have written.
    pub(crate) fn stored_runs(&self, pages: Range<u64>) -> Result<Vec<Range<u64>>> {
        const STEP: u64 = 2048;
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut at = pages.start;
        while let Some(data) = self.next_data(at)?.filter(|data| data.start < pages.end) {
            let part = data.start.max(at)..data.end.min(pages.end).min(data.start.max(at) + STEP);
            at = part.end;
            let mut bytes = Zeroizing::new(vec![0; (part.end - part.start) as usize * PAGE]);
            self.read_stored(part.start, &mut bytes)?;
            for (page, number) in bytes.chunks(PAGE).zip(part) {
                // Ciphertext is never all zeros.
                if self.kind == Kind::Xts && page.iter().all(|&byte| byte == 0) {
                    continue;
                }
                match runs.last_mut() {
                    Some(run) if run.end == number => run.end += 1,
                    _ => runs.push(number..number + 1),
                }
            }
        }
        Ok(runs)
    }

    /// Pages stored from `page` on, not counting zeros, that `counts`.
    pub(crate) fn stored_from(&self, page: u64, counts: &mut dyn FnMut(u64) -> bool) -> Result<u64> {
        const STEP: u64 = 2048;
        let (end, mut at, mut found) = (self.pages()?, page, 0);
        while let Some(data) = self.next_data(at)? {
            let part = data.start.max(at)..data.end.min(end).min(data.start.max(at) + STEP);
            if part.is_empty() {
                break;
            }
            at = part.end;
            let mut bytes = Zeroizing::new(vec![0; (part.end - part.start) as usize * PAGE]);
            self.read_stored(part.start, &mut bytes)?;
            let stored = bytes.chunks(PAGE).zip(part).filter(|(page, _)| page.iter().any(|&byte| byte != 0));
            found += stored.filter(|(_, number)| counts(*number)).count() as u64;
        }
        Ok(found)
    }

    /// The next run of whole pages at or after `page` in which something may be stored.
    pub(crate) fn next_data(&self, page: u64) -> Result<Option<Range<u64>>> {
        let run = self
            .file
            .next_data(page * PAGE as u64)
            .map_err(|error| self.io("cannot look for data in a layer", page, error))?;
        Ok(run.map(|(start, end)| start / PAGE as u64..end.div_ceil(PAGE as u64)))
    }
}
