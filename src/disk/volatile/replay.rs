//! The notes of recent changes as an opening finds them, and what of them is to be believed.
//!
//! A note says that a page was written to a layer, by a process that is dead and was never told whether the kernel
//! could store it: a failed write-back is told once, to whoever syncs next, and leaves a page that shows the new
//! content until the page cache drops it. So before an opening syncs anything it looks, through the page cache, at
//! every page that was noted as held in the end, and stores a checksum of what lies there behind the notes. After the
//! syncs, and with the cache dropped, a page is believed where its stored bytes still are what they were.
//!
//! An opening that finds such checksums keeps them: the one that made them may have dropped the cache, and have been
//! killed then. They stay right until the disk is served, because nobody writes meanwhile, and each opening that serves
//! has taken over what was noted. Like the notes they are never synced. Their room is allocated with the file; where
//! the pages are more than there is room for, a checksum is one of several pages, which are then believed together.
//!
//! | offset, from `Notes::checks_at` on | what |
//! |---|---|
//! | 0 | magic `SDISKCHK`, pages of a checksum u64, number of checksums u64, 8 zero bytes |
//! | 32 | MAC of the header of the notes, these fields and the checksums, 32 bytes |
//! | 64 | the checksums, u64 each: layer by layer in order of id, of the pages held there in order, anew with each layer |
//!
//! A checksum: in its low half the CRC32C of the first 256 bytes of each page, in its high half that of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use zeroize::Zeroizing;

use super::journal::{self, Notes};
use crate::crypto::keyring::DiskKeys;
use crate::disk::commit::log::{Batch, Extent, take_u64};
use crate::disk::stack::extent_map::{ExtentMap, Mark};
use crate::disk::stack::layer::Layer;
use crate::disk::stack::page_set::PageSet;
use crate::disk::stack::state::State;
use crate::disk::transfer::{read_full, write_full};
use crate::io::{Dir, File, Open, mutant};
use crate::{Error, ErrorKind, PAGE, Result};

const MAGIC: &[u8; 8] = b"SDISKCHK";
const FIELDS: usize = 32;
const HEAD: usize = 64;
const SUM: usize = 8;
const PURPOSE: &[u8] = b"sealdisk recent checks";
/// Pages that are read at once.
const STEP: u64 = 2048;

/// Bytes of the checksums of a file with `places` records: one for each, so that every layer can have one.
pub(super) fn room(places: u64) -> u64 {
    HEAD as u64 + places * SUM as u64
}

/// The notes of one file.
#[derive(Debug)]
pub(crate) struct Replay {
    epoch: u64,
    notes: Notes,
    /// What the notes call held in the end.
    held: BTreeMap<u32, Vec<Range<u64>>>,
    /// The layers of it that are there.
    files: BTreeMap<u32, Arc<dyn File>>,
    checks: Checks,
}

/// What was stored, before anything was synced, in the pages that are noted as held.
#[derive(Debug, Default, PartialEq, Eq)]
struct Checks {
    /// Pages of a checksum.
    each: u64,
    sums: Vec<u64>,
}

/// Looks at what was noted in the files of these epochs, before anything is synced. And whether the next opening will
/// see that: with `only_look` the account may lie where nothing can be written.
pub(crate) fn replay(
    dir: &dyn Dir,
    layers_dir: &dyn Dir,
    epochs: &[u64],
    boot: &[u8; 16],
    keys: &DiskKeys,
    only_look: bool,
) -> Result<(Vec<Replay>, bool)> {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let (mut all, mut writable) = (Vec::new(), true);
    for &epoch in epochs {
        let name = journal::file_name(epoch);
        let at = |error| Error::io("what was noted cannot be looked at", error).at_path(dir.path().join(&name));
        let file = match dir.open(&name, Open::ReadWrite) {
            Err(error) if only_look && matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => {
                writable = false;
                dir.open(&name, Open::Read)
            }
            opened => opened,
        };
        let file = file.map_err(at)?;
        if let Some(notes) = journal::read(&*file, boot, epoch, keys).map_err(at)? {
            all.push(Replay::look(&*file, writable, notes, epoch, layers_dir, keys).map_err(at)?);
        }
    }
    Ok((all, writable))
}

impl Replay {
    fn look(
        file: &dyn File,
        writable: bool,
        notes: Notes,
        epoch: u64,
        layers_dir: &dyn Dir,
        keys: &DiskKeys,
    ) -> io::Result<Self> {
        let held = held_in_the_end(&notes.records);
        let mut files = BTreeMap::new();
        for name in layers_dir.list()? {
            let id = name.split('.').next().and_then(|id| id.parse().ok());
            if let Some(id) = id.filter(|id| held.contains_key(id)) {
                files.insert(id, layers_dir.open(&name, Open::Read)?);
            }
        }
        let mut noted = Self { epoch, notes, held, files, checks: Checks::default() };
        let known = |noted: &Self| noted.load(file, keys).map(|checks| checks.filter(|_| !mutant!(ChecksMadeAnew)));
        if let Some(checks) = known(&noted)? {
            noted.checks = checks;
            return Ok(noted);
        }
        noted.checks = noted.look_at_pages()?;
        // Another process that only looks may have been faster, and have dropped the cache under this one.
        match known(&noted)? {
            Some(checks) => noted.checks = checks,
            None if writable => noted.store(file, keys)?,
            None => {}
        }
        Ok(noted)
    }

    fn mac_parts<'a>(&'a self, fields: &'a [u8], sums: &'a [u8]) -> [&'a [u8]; 4] {
        [PURPOSE, &self.notes.header, fields, sums]
    }

    /// What an earlier opening stored; `None`: nothing, or not all of it.
    fn load(&self, file: &dyn File, keys: &DiskKeys) -> io::Result<Option<Checks>> {
        let mut head = [0; HEAD];
        let ended = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
        match read_full(file, &mut head, self.notes.checks_at) {
            Err(error) if ended(&error) => return Ok(None),
            read => read?,
        }
        let (fields, mac) = head.split_at(FIELDS);
        let mut input = &fields[MAGIC.len()..];
        let (Some(each @ 1..), Some(count)) = (take_u64(&mut input), take_u64(&mut input)) else { return Ok(None) };
        if !fields.starts_with(MAGIC) || count > self.notes.places || each != pages_each(&self.held, self.notes.places)
        {
            return Ok(None);
        }
        let mut sums = vec![0; count as usize * SUM];
        match read_full(file, &mut sums, self.notes.checks_at + HEAD as u64) {
            Err(error) if ended(&error) => return Ok(None),
            read => read?,
        }
        let mut expected = [0; 32];
        expected.copy_from_slice(mac);
        let whole = keys.verify_mac(&self.mac_parts(fields, &sums), &expected);
        let sums = sums.chunks_exact(SUM).filter_map(|mut sum| take_u64(&mut sum)).collect();
        Ok(whole.then_some(Checks { each, sums }))
    }

    fn store(&self, file: &dyn File, keys: &DiskKeys) -> io::Result<()> {
        let checks = &self.checks;
        let sums: Vec<u8> = checks.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let mut fields = [0; FIELDS];
        fields[..8].copy_from_slice(MAGIC);
        fields[8..16].copy_from_slice(&checks.each.to_le_bytes());
        fields[16..24].copy_from_slice(&(checks.sums.len() as u64).to_le_bytes());
        let mac = keys.mac(&self.mac_parts(&fields, &sums));
        write_full(file, &[&fields[..], &mac, &sums].concat(), self.notes.checks_at)
    }

    fn look_at_pages(&self) -> io::Result<Checks> {
        let mut checks = Checks { each: pages_each(&self.held, self.notes.places), sums: Vec::new() };
        for (layer, runs) in &self.held {
            each_sum(self.file(*layer), runs, checks.each, |_, sum| checks.sums.push(sum))?;
        }
        Ok(checks)
    }

    /// The pages of these layers that still are what they were when an opening first looked.
    fn unchanged(&self, layers: &BTreeSet<u32>) -> io::Result<BTreeMap<u32, PageSet>> {
        let mut found: BTreeMap<u32, PageSet> = BTreeMap::new();
        let mut next = 0usize;
        for (layer, runs) in &self.held {
            let end = next.saturating_add(count(runs, self.checks.each) as usize);
            let sums = self.checks.sums.get(next..end).unwrap_or_default();
            next = end;
            if !layers.contains(layer) {
                continue;
            }
            let (found, mut sums) = (found.entry(*layer).or_default(), sums.iter());
            each_sum(self.file(*layer), runs, self.checks.each, |pages, sum| {
                if sums.next() == Some(&sum) || mutant!(NotesUnchecked) {
                    pages.iter().for_each(|pages| found.insert(pages.clone()));
                }
            })?;
        }
        Ok(found)
    }

    fn file(&self, layer: u32) -> Option<&dyn File> {
        self.files.get(&layer).map(|file| &**file)
    }

    /// Takes into `state` what is in none of the batches of which `durable` are durable. The layers were synced since.
    /// It stays pending, so that nothing is punched on the strength of it. Pages that are not there are left out: their
    /// write-back failed, and the process died before it could say so.
    pub(crate) fn take(&self, dir: &dyn Dir, state: &mut State, uuid: Uuid, durable: u64) -> Result<()> {
        let name = journal::file_name(self.epoch);
        let at = |error| Error::io("what was noted cannot be looked at", error).at_path(dir.path().join(&name));
        if self.notes.header[16..32] != *uuid.as_bytes() {
            return Ok(());
        }
        let new: Vec<_> = self.notes.records.iter().filter(|(tag, _)| *tag >= durable).collect();
        let Some(highest) = new.last().map(|(tag, _)| *tag) else { return Ok(()) };
        // A layer that is not there was emptied or removed since.
        let layers = new.iter().map(|(_, extent)| extent.layer).filter(|layer| state.index_of(*layer).is_some());
        let unchanged = self.unchanged(&layers.collect()).map_err(at)?;

        let mut extents = Vec::new();
        for (_, extent) in new {
            // What growth that is not durable made room for goes with it.
            let pages = extent.pages.start..extent.pages.end.min(state.size);
            let entry = state.index_of(extent.layer).map(|index| &state.entries[index]);
            let Some(entry) = entry.filter(|_| !pages.is_empty()) else { continue };
            if extent.mark == Mark::Zero {
                extents.push(Extent { pages, ..extent.clone() });
                continue;
            }
            for pages in unchanged.get(&extent.layer).into_iter().flat_map(|set| set.runs(pages.clone())) {
                let stored = stored_runs(&entry.layer, pages)?;
                extents.extend(stored.into_iter().map(|pages| Extent { pages, ..extent.clone() }));
            }
        }
        if extents.is_empty() {
            return Ok(());
        }
        for extent in &extents {
            state.pending.extents.entry(extent.layer).or_default().assign(extent.pages.clone(), extent.mark);
        }
        let batch = Batch { generation: 0, extents, ops: Vec::new() };
        state.apply(&batch).map_err(|what| Error::new(ErrorKind::Corrupt, what).at_path(dir.path().join(&name)))?;
        state.generation = state.generation.max(highest.saturating_add(1));
        Ok(())
    }
}

fn stored_runs(layer: &Layer, pages: Range<u64>) -> Result<Vec<Range<u64>>> {
    layer.stored_runs(pages.start..pages.end.min(layer.pages()?))
}

fn held_in_the_end(records: &[(u64, Extent)]) -> BTreeMap<u32, Vec<Range<u64>>> {
    let mut maps: BTreeMap<u32, ExtentMap> = BTreeMap::new();
    for (_, extent) in records {
        maps.entry(extent.layer).or_default().assign(extent.pages.clone(), extent.mark);
    }
    let held = |map: ExtentMap| map.iter().filter(|(_, mark)| *mark == Mark::Held).map(|(pages, _)| pages).collect();
    let held = maps.into_iter().map(|(layer, map)| (layer, held(map)));
    held.filter(|(_, runs): &(u32, Vec<_>)| !runs.is_empty()).collect()
}

/// Checksums of `each` pages that the pages of a layer take.
fn count(runs: &[Range<u64>], each: u64) -> u64 {
    runs.iter().map(|run| run.end - run.start).sum::<u64>().div_ceil(each)
}

/// The least number of pages in a checksum with which there are no more than `most`.
fn pages_each(held: &BTreeMap<u32, Vec<Range<u64>>>, most: u64) -> u64 {
    let fits = |each: &u64| held.values().map(|runs| count(runs, *each)).fold(0, u64::saturating_add) <= most;
    (0..u64::BITS).map(|bit| 1 << bit).find(fits).unwrap_or(u64::MAX)
}

/// Calls `seen` for each checksum with its pages, as far as the file has them, and the checksum of what is stored
/// there.
fn each_sum(
    file: Option<&dyn File>,
    runs: &[Range<u64>],
    each: u64,
    mut seen: impl FnMut(&[Range<u64>], u64),
) -> io::Result<()> {
    let end_of_file = file.map_or(Ok(0), |file| file.size())? / PAGE as u64;
    let mut bytes = Zeroizing::new(Vec::with_capacity(STEP as usize * PAGE));
    let (mut pages, mut left, mut sum) = (Vec::<Range<u64>>::new(), each, Sum::default());
    for run in runs {
        let mut at = run.start;
        while at < run.end {
            let mut end = run.end;
            bytes.clear();
            let there = file.filter(|_| at < end_of_file);
            if let Some(file) = there {
                end = end.min(end_of_file).min(at + STEP);
                bytes.resize((end - at) as usize * PAGE, 0);
                read_full(file, &mut bytes, at * PAGE as u64)?;
            }
            let mut stored = &bytes[..];
            while at < end {
                let part = at..end.min(at.saturating_add(left));
                let (now, later) = stored.split_at(stored.len().min(((part.end - at) as usize).saturating_mul(PAGE)));
                (at, left, stored) = (part.end, left - (part.end - at), later);
                sum.add(now);
                match pages.last_mut() {
                    _ if there.is_none() => {}
                    Some(last) if last.end == part.start => last.end = part.end,
                    _ => pages.push(part),
                }
                if left == 0 {
                    seen(&pages, std::mem::take(&mut sum).get());
                    (left, pages) = (each, Vec::new());
                }
            }
        }
    }
    if left < each {
        seen(&pages, sum.get());
    }
    Ok(())
}

/// A checksum in the making.
#[derive(Debug, Default)]
struct Sum(u32, u32);

impl Sum {
    fn add(&mut self, pages: &[u8]) {
        for page in pages.chunks(PAGE) {
            let (first, second) = page.split_at(PAGE / 2);
            (self.0, self.1) = (crc32c::crc32c_append(self.0, first), crc32c::crc32c_append(self.1, second));
        }
    }

    fn get(self) -> u64 {
        u64::from(self.1) << 32 | u64::from(self.0)
    }
}

#[cfg(test)]
#[cfg(not(sealdisk_sim))]
mod tests {
    use std::os::unix::fs::FileExt;

    use proptest::prelude::*;

    use super::*;
    use crate::disk::tests::{TestDisk, folder};
    use crate::disk::{Access, Disk, Durability, Options};
    use crate::io::real::RealDir;

    fn options(boot: u8) -> Options {
        // Room for 32 checksums.
        Options { recent_bytes: 2048, boot: Some([boot; 16]), ..Options::default() }
    }

    fn open(place: &TestDisk, access: Access) -> Disk {
        Disk::open(place.dir(), Some(place.keys.clone()), None, access, true, options(1)).unwrap()
    }

    fn fill(page: u64) -> [u8; PAGE] {
        [page as u8 + 1; PAGE]
    }

    /// Of the first so many pages of the disk, those that hold what was written.
    fn kept(disk: &Disk, pages: u64) -> Vec<u64> {
        let mut page = [0; PAGE];
        let mut is_kept = |&number: &u64| {
            disk.read(number * PAGE as u64, &mut page).unwrap();
            assert!(page == fill(number) || page == [0; PAGE], "page {number} holds neither what it held nor zeros");
            page == fill(number)
        };
        (0..pages).filter(|page| is_kept(page)).collect()
    }

    /// A disk of which so many pages were written and nothing was flushed by a process that is dead, after an opening
    /// that looked at it and was killed.
    fn looked_at(pages: u64) -> TestDisk {
        let place = TestDisk::new(1 << 20, 0, true);
        let disk = open(&place, Access::ReadWrite);
        let content: Vec<u8> = (0..pages).flat_map(fill).collect();
        disk.write(0, &content, Durability::Volatile).unwrap();
        drop(disk);
        drop(open(&place, Access::ReadOnly));
        place
    }

    /// As if the write-back of the page had failed, and the page cache had been dropped since.
    fn lose(place: &TestDisk, page: u64) {
        let layer = std::fs::read_dir(place.folder.path().join("layers")).unwrap().next().unwrap().unwrap();
        let layer = std::fs::OpenOptions::new().write(true).open(layer.path()).unwrap();
        layer.write_all_at(&[0xA5; PAGE], page * PAGE as u64).unwrap();
    }

    fn all_but(lost: Range<u64>, pages: u64) -> Vec<u64> {
        (0..pages).filter(|page| !lost.contains(page)).collect()
    }

    #[test]
    fn what_was_lost_after_an_opening_looked_is_left_out_and_nothing_else() {
        let place = looked_at(20);
        lose(&place, 7);
        assert_eq!(kept(&open(&place, Access::ReadOnly), 20), all_but(7..8, 20));
        assert_eq!(kept(&open(&place, Access::ReadWrite), 20), all_but(7..8, 20));
        // It is durable now, and believed without notes.
        assert_eq!(kept(&open(&place, Access::ReadWrite), 20), all_but(7..8, 20));
    }

    #[test]
    fn pages_that_are_more_than_the_checksums_are_believed_together() {
        let place = looked_at(100);
        lose(&place, 7);
        assert_eq!(kept(&open(&place, Access::ReadWrite), 100), all_but(4..8, 100));
    }

    #[test]
    fn checksums_that_are_not_whole_or_of_another_file_are_made_anew() {
        let place = looked_at(20);
        let recent = place.folder.path().join(journal::file_name(1));
        let good = std::fs::read(&recent).unwrap();
        let at = good.windows(8).position(|bytes| bytes == MAGIC).unwrap();
        for byte in [0, 8, 16, 32, 64, 64 + 19 * SUM] {
            let mut torn = good.clone();
            torn[at + byte] ^= 1;
            // In place: it must stay the same file.
            std::fs::write(&recent, &torn).unwrap();
            assert_eq!(kept(&open(&place, Access::ReadOnly), 20).len(), 20);
            assert!(std::fs::read(&recent).unwrap() == good, "byte {byte}");
        }
        std::fs::write(&recent, &good[..at]).unwrap();
        assert_eq!(kept(&open(&place, Access::ReadWrite), 20).len(), 20);
    }

    #[test]
    fn an_opening_without_keys_leaves_all_as_it_is() {
        let place = looked_at(20);
        let recent = place.folder.path().join(journal::file_name(1));
        let before = std::fs::read(&recent).unwrap();
        drop(Disk::open(place.dir(), None, None, Access::ReadOnly, true, options(1)).unwrap());
        assert!(std::fs::read(&recent).unwrap() == before);
    }

    proptest! {
        #[test]
        fn sums_are_of_all_pages_in_order(
            gaps in prop::collection::vec((0u64..5, 1u64..9), 1..9),
            each in 1u64..7,
            end_of_file in 0u64..60,
        ) {
            let folder = folder();
            let file = RealDir::open(folder.path()).unwrap().open("layer", Open::New).unwrap();
            let content: Vec<u8> = (0..end_of_file as usize * PAGE).map(|at| (at / 100) as u8).collect();
            write_full(&*file, &content, 0).unwrap();
            let mut at = 0;
            let runs: Vec<Range<u64>> = gaps.iter().map(|(gap, len)| {
                let start = at + gap + 1;
                at = start + len;
                start..at
            }).collect();
            let mut found = Vec::new();
            each_sum(Some(&*file), &runs, each, |pages, sum| found.push((pages.to_vec(), sum))).unwrap();
            prop_assert_eq!(found.len() as u64, count(&runs, each));

            let pages: Vec<u64> = runs.iter().cloned().flatten().collect();
            for (unit, (seen, sum)) in pages.chunks(each as usize).zip(&found) {
                let there: Vec<u64> = unit.iter().copied().filter(|page| *page < end_of_file).collect();
                let mut expected = Sum::default();
                for page in &there {
                    expected.add(&content[*page as usize * PAGE..][..PAGE]);
                }
                prop_assert_eq!(seen.iter().cloned().flatten().collect::<Vec<_>>(), there);
                prop_assert_eq!(*sum, expected.get());
            }
        }
    }

    #[test]
    fn every_layer_has_a_checksum_however_much_was_noted() {
        let run: Range<u64> = 5..1 << 62;
        let held: BTreeMap<u32, Vec<Range<u64>>> = (0..10).map(|layer| (layer, Vec::from([run.clone()]))).collect();
        for most in [10, 11, 19, 20, 1000] {
            let each = pages_each(&held, most);
            let sums: u64 = held.values().map(|runs| count(runs, each)).sum();
            assert!(sums <= most && sums * 2 > most.min(19) - 9, "{sums} of {most}");
        }
        assert_eq!(pages_each(&BTreeMap::from([(1, vec![0..3, 4..6])]), 5), 1);
        assert_eq!(pages_each(&BTreeMap::from([(1, vec![0..3, 4..6])]), 4), 2);
    }
}
