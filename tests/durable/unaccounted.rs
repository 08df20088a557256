//! What a power cut leaves of writes that were never durable: in a layer, and in no record of the disk.

use std::fs;

use crate::client::Client;
use crate::support::{Account, MIB};

const WRITTEN: u64 = 256 << 10;

#[test]
fn what_no_record_names_is_told_and_given_back_only_where_that_is_asked_for() {
    let account = Account::new();
    account.create("disk", 4 * MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk");
    client.write(0, &[1; 4096]);
    client.flush();
    assert!(client.try_write_volatile(MIB, &vec![2; WRITTEN as usize]));
    server.kill();
    drop(client);
    // A power cut takes the notes of what was answered, which are never synced, and may leave the pages.
    let uuid = account.json(&["list"])[0]["uuid"].as_str().expect("a uuid").to_owned();
    let folder = account.dir().join("disks").join(uuid);
    let names = fs::read_dir(&folder).expect("the disk").map(|entry| entry.expect("an entry").path());
    let notes: Vec<_> = names.filter(|path| path.to_string_lossy().contains("/recent.")).collect();
    assert!(!notes.is_empty());
    notes.iter().for_each(|path| fs::remove_file(path).expect("removed"));

    let left = |arguments: &[&str]| account.json(arguments)["unaccounted_bytes"].as_u64().expect("a number");
    assert_eq!(left(&["scrub", "disk", "--wait"]), WRITTEN);
    assert_eq!(left(&["scrub", "disk", "--unaccounted"]), WRITTEN, "without --yes it only says how much");
    let said = account.sealdisk(&["scrub", "disk", "--unaccounted"]);
    assert!(said.contains("in no record of the disk: 256 KiB") && said.contains("--unaccounted --yes"), "{said}");
    assert_eq!(left(&["scrub", "disk", "--unaccounted", "--yes"]), 0);
    assert_eq!(left(&["scrub", "disk", "--wait"]), 0);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk");
    assert_eq!((client.read(0, 4096), client.read(MIB, 512)), (vec![1; 4096], vec![0; 512]));
}
