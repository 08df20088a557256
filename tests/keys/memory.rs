//! The memory and the log of a server: no key is left in it after a revocation, and none is ever in its log.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::client::Client;
use crate::support::{Account, MIB, stdout_of};

/// Names of the needles in the readable memory of a process; `None`: it lets nobody look.
fn found(pid: u32, needles: &[(&str, Vec<u8>)]) -> Option<Vec<String>> {
    const STEP: usize = 1 << 20;
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let longest = needles.iter().map(|(_, needle)| needle.len()).max().unwrap_or(0);
    let mut buffer = vec![0; STEP + longest];
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next()?, words.next()?);
        let (start, end) = range.split_once('-')?;
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).expect("an address"));
        if !rights.starts_with('r') {
            continue;
        }
        for at in (start..end).step_by(STEP) {
            let len = ((end - at) as usize).min(buffer.len());
            let Ok(len) = memory.read_at(&mut buffer[..len], at) else { continue };
            for (name, needle) in needles {
                if buffer[..len].windows(needle.len()).any(|bytes| bytes == needle) {
                    found.push(format!("{name} at {range} {rights}"));
                }
            }
        }
    }
    Some(found)
}

#[test]
fn a_server_holds_no_key_after_a_revocation_and_logs_none() {
    let account = Account::new();
    account.create("disk", MIB);
    let key_file = account.scratch("layer.key");
    let mut export = account.command();
    stdout_of(export.args(["key", "export", "disk", "--layer", "1", "--yes-reveal", "--out"]).arg(&key_file));
    let dek = fs::read(key_file).expect("the data key");
    let settings = fs::read_to_string(account.dir().join("account.toml")).expect("account.toml");
    let kek_path = settings.split("path = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a path");
    let kek = fs::read(kek_path).expect("the KEK");
    let needles = [("KEK", kek.clone()), ("data key", dek[..32].to_vec()), ("tweak key", dek[32..].to_vec())];

    let server = account.serve_with(&["--log-level", "trace"]);
    let mut client = Client::attach(&server, "disk").expect("attached");
    for page in 0..64 {
        client.write(page * 8192, &[1; 8192]).expect("written");
    }
    client.flush().expect("flushed");
    match found(server.pid(), &needles) {
        // Without root's rights nobody looks into an undumpable process, its owner neither.
        None => assert!(!rustix::process::geteuid().is_root()),
        Some(before) => {
            for name in ["data key", "tweak key"] {
                assert!(before.iter().any(|found| found.starts_with(name)), "{name} is not even in use: {before:?}");
            }
            assert!(!before.iter().any(|found| found.starts_with("KEK")), "the KEK is not needed any more: {before:?}");
        }
    }
    account.sealdisk(&["key", "revoke"]);
    assert_eq!(found(server.pid(), &needles).unwrap_or_default(), Vec::<String>::new());
    account.sealdisk(&["key", "restore"]);
    assert_eq!(client.read(0, 512).expect("read"), [1; 512]);
    drop(server);

    let log = fs::read(account.scratch("serve.log")).expect("the log");
    assert!(!log.is_empty());
    for (name, key) in &needles {
        for form in [key.clone(), hex::encode(key).into_bytes(), hex::encode_upper(key).into_bytes()] {
            assert!(!log.windows(form.len()).any(|bytes| bytes == form), "{name} in the log");
        }
        assert!(account.files_with(key).is_empty(), "{name} in a file of the account");
    }
}
