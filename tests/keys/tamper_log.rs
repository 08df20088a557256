//! The log, and what is noted besides it, changed or exchanged after a kill: the log is refused in one line and nothing
//! is changed; what was noted and is not as it was is not believed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::client::Client;
use crate::support::{Account, MIB, stderr_of_failure};
use crate::tamper::{folder, newest};

const BLOCK: usize = 4096;
/// Pages written and flushed, each in a batch of its own.
const FLUSHED: [u64; 3] = [0, 8, 16];
/// Written and not flushed.
const NOTED: u64 = 24;

fn page(number: u64) -> Vec<u8> {
    vec![number as u8 + 1; 512]
}

/// A disk whose server was killed, and the files of its folder as they were left.
struct Killed {
    account: Account,
    folder: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Killed {
    fn new() -> Self {
        let account = Account::new();
        account.create("a", MIB);
        let server = account.serve();
        let mut client = Client::attach(&server, "a").unwrap();
        for number in FLUSHED {
            client.write(number * 512, &page(number)).unwrap();
            client.flush().unwrap();
        }
        client.write(NOTED * 512, &page(NOTED)).unwrap();
        // Answered once a later request is.
        client.read(0, 512).unwrap();
        server.kill();
        let folder = folder(&account, "a");
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(&path).unwrap()));
        let files = files.collect();
        Self { account, folder, files }
    }

    fn log(&self) -> PathBuf {
        let names = self.files.iter().map(|(path, _)| path);
        let log = names.filter(|path| path.file_name().is_some_and(|name| name != "log.next" && is_log(path))).max();
        log.unwrap().clone()
    }

    fn content(&self, path: &Path) -> Vec<u8> {
        self.files.iter().find(|(known, _)| known == path).unwrap().1.clone()
    }

    fn pages(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
        let server = self.account.serve();
        let mut client = Client::attach(&server, "a").unwrap();
        numbers.into_iter().map(|number| client.read(number * 512, 512).unwrap()).collect()
    }

    /// Opening for writing fails with `says`, and leaves the file as it was.
    fn is_refused(&self, log: &Path, content: &[u8], says: &str) {
        assert_ne!(content, self.content(log), "nothing was changed for: {says}");
        fs::write(log, content).unwrap();
        let refused = stderr_of_failure(self.account.command().args(["scrub", "a", "--wait"]));
        let first = refused.lines().next().unwrap_or_default();
        assert!(first.starts_with("error: ") && first.contains(says), "{says}: {refused}");
        assert!(first.contains("log."), "the file is named: {first}");
        assert!(fs::read(log).unwrap() == content, "nothing was changed");
        fs::write(log, self.content(log)).unwrap();
    }
}

fn is_log(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log."))
}

/// Makes the checksum of a batch right again.
fn sum(batch: &mut [u8]) {
    let len = u32::from_le_bytes(*batch[4..].first_chunk().unwrap()) as usize;
    batch[64..68].fill(0);
    let crc = crc32c::crc32c(&batch[..len]);
    batch[64..68].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_log_that_was_changed_or_exchanged_is_refused() {
    let killed = Killed::new();
    let (path, good) = (killed.log(), killed.content(&killed.log()));
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut log = good.clone();
        change(&mut log);
        log
    };
    let batch = BLOCK..2 * BLOCK;
    assert!(FLUSHED.iter().enumerate().all(|(n, _)| good[BLOCK * (n + 1)..].starts_with(b"SBAT")), "three batches");

    // The first page of the first extent, and the checksum made right: for the last batch too, where damage could pass
    // for the torn end.
    for number in 1..=FLUSHED.len() {
        let moved = changed(&|log| {
            let batch = &mut log[number * BLOCK..(number + 1) * BLOCK];
            batch[80] ^= 4;
            sum(batch);
        });
        killed.is_refused(&path, &moved, "log batch fails its MAC");
    }
    let damaged = changed(&|log| log[BLOCK + 80] ^= 4);
    killed.is_refused(&path, &damaged, "whole batches behind the damage");
    let exchanged = changed(&|log| {
        let first = log[batch.clone()].to_vec();
        log.copy_within(2 * BLOCK..3 * BLOCK, BLOCK);
        log[2 * BLOCK..3 * BLOCK].copy_from_slice(&first);
    });
    killed.is_refused(&path, &exchanged, "whole batches behind the damage");
    // The second batch in the place of the first, made to look like it.
    let posing = changed(&|log| {
        log.copy_within(2 * BLOCK..3 * BLOCK, BLOCK);
        let first = &mut log[batch.clone()];
        first[16..24].fill(0);
        sum(first);
    });
    killed.is_refused(&path, &posing, "log batch fails its MAC");
    let following = changed(&|log| {
        log[48] ^= 1;
        let crc = crc32c::crc32c(&log[..112]);
        log[112..116].copy_from_slice(&crc.to_le_bytes());
    });
    killed.is_refused(&path, &following, "log header fails its MAC");
    let other = Killed::new();
    killed.is_refused(&path, &other.content(&other.log()), "log belongs to another disk");

    fs::remove_file(&path).unwrap();
    let refused = stderr_of_failure(killed.account.command().args(["scrub", "a", "--wait"]));
    assert!(refused.starts_with("error: ") && refused.contains("a log is missing"), "{refused}");
    fs::write(&path, &good).unwrap();

    // Put back, all is there.
    let all = FLUSHED.into_iter().chain([NOTED]);
    assert_eq!(killed.pages(all.clone()), all.map(page).collect::<Vec<_>>());
}

/// Alone it does not say that it is an older one: `disk.toml` knows which log was begun last.
#[test]
fn an_older_checkpoint_is_refused() {
    let account = Account::new();
    account.create("a", MIB);
    let folder = folder(&account, "a");
    let mut checkpoints = vec![newest(&folder, "checkpoint.")];
    let mut contents = vec![fs::read(&checkpoints[0]).unwrap()];
    for number in FLUSHED {
        let server = account.serve();
        Client::attach(&server, "a").unwrap().write(number * 512, &page(number)).unwrap();
        assert!(server.terminate().success());
        checkpoints.push(newest(&folder, "checkpoint."));
        contents.push(fs::read(checkpoints.last().unwrap()).unwrap());
    }
    let (last, older) = (checkpoints.pop().unwrap(), checkpoints);
    let good = contents.pop().unwrap();
    let refused = |says: &str| {
        for verb in [&["verify", "a"][..], &["scrub", "a", "--wait"]] {
            let refused = stderr_of_failure(account.command().args(verb));
            assert!(refused.contains(says), "{says}: {refused}");
        }
    };
    for (path, content) in older.iter().zip(&contents) {
        assert_ne!(*path, last, "each close makes a checkpoint");
        fs::remove_file(&last).unwrap();
        fs::write(path, content).unwrap();
        refused("a log is missing");
        fs::remove_file(path).unwrap();
        // Under the name of the present one.
        fs::write(&last, content).unwrap();
        refused("belongs to another disk or place");
        fs::write(&last, &good).unwrap();
    }
    let server = account.serve();
    let mut client = Client::attach(&server, "a").unwrap();
    assert!(FLUSHED.iter().all(|&number| client.read(number * 512, 512).unwrap() == page(number)));
}

#[test]
fn a_note_that_was_changed_is_not_believed() {
    let killed = Killed::new();
    let recent = newest(&killed.folder, "recent.");
    let mut content = killed.content(&recent);
    let notes = content[BLOCK..].chunks_mut(64);
    let mut changed = 0;
    for note in notes.filter(|note| note.starts_with(&NOTED.to_le_bytes())) {
        note[0] += 8;
        changed += 1;
    }
    assert!(changed > 0, "the write was noted");
    fs::write(&recent, content).unwrap();
    // Neither where it was written nor where the note was moved to; what was flushed is there.
    let zeros = vec![0; 512];
    assert_eq!(killed.pages([NOTED, NOTED + 8]), [zeros.clone(), zeros]);
    assert_eq!(killed.pages(FLUSHED), FLUSHED.map(page));
}
