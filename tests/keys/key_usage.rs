//! A data key that has encrypted half of what one should: the real count of a real disk, put near its limit in
//! disk.toml under the MAC of the account, as 128 TiB of writes would have put it there.

use std::fs;

use hmac::{KeyInit, Mac};

use crate::client::Client;
use crate::secrets::{AccountKeys, kek_file, layers};
use crate::support::{Account, MIB, stdout_of};

/// Pages of half of the 2^44 blocks that IEEE 1619-2018 allows under a key.
const HALF: u64 = 1 << 38;

const WARNING: &str = "much was encrypted under one data key: `sealdisk key rotate-data` takes a new one";

/// Writes disk.toml anew with another count of pages for its only layer, sealed by the libraries alone as
/// docs/format.md says.
fn put_count(account: &Account, pages: u64) {
    let keys = AccountKeys::read(account, &kek_file(account));
    let (uuid, _) = layers(account, "disk")[0];
    let path = account.dir().join("disks").join(uuid.to_string()).join("disk.toml");
    let text = fs::read_to_string(&path).expect("disk.toml");
    let (body, seal) = text.split_once("\n[seal]\n").expect("a seal");
    let mut body: toml::Table = body.parse().expect("TOML");
    let count = i64::try_from(pages).expect("a count");
    let layer = &mut body["layers"].as_array_mut().expect("layers")[0];
    layer.as_table_mut().expect("a layer").insert("sealed_pages".to_owned(), count.into());
    let mut seal: toml::Table = seal.parse().expect("TOML");
    let body = toml::to_string(&body).expect("TOML");
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&keys.disk_mac_key(uuid)).expect("a key");
    mac.update(b"sealdisk disk.toml");
    mac.update(body.as_bytes());
    seal.insert("mac".to_owned(), hex::encode(mac.finalize().into_bytes()).into());
    seal.insert("crc32c".to_owned(), i64::from(crc32c::crc32c(body.as_bytes())).into());
    fs::write(path, format!("{body}\n[seal]\n{}", toml::to_string(&seal).expect("TOML"))).expect("disk.toml");
}

/// The one key of the disk in `status --json`, and what both verbs warn of.
fn reports(account: &Account) -> (serde_json::Value, bool) {
    let status = account.json(&["status"]);
    let rotation_due = account.json(&["audit", "disk"])["layers"][0]["worn"] == true;
    let [status_warns, audit_warns] = [&["status"][..], &["audit", "disk"]].map(|verb| {
        let output = crate::support::run(account.command().args(verb));
        assert!(output.status.success());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.is_empty() || stderr.contains("128 TiB of the 256 TiB"), "{stderr}");
        stderr.contains("`sealdisk key rotate-data disk` takes a new one")
    });
    assert_eq!([status_warns, audit_warns], [rotation_due, rotation_due]);
    (status["disks"][0]["keys"][0].clone(), rotation_due)
}

#[test]
fn a_server_warns_at_half_of_the_limit_and_reports_say_so_until_there_is_a_new_key() {
    let account = Account::new();
    account.create("disk", MIB);
    put_count(&account, HALF - 8);
    let warnings = |log: &str| log.matches(WARNING).count();

    // The pages that are one too many are noted when the server ends, and reported at once.
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    client.write(0, &[1; 7 * 512]).expect("written");
    let (key, rotation_due) = reports(&account);
    assert_eq!((key["sealed_blocks"].as_u64(), rotation_due), (Some((HALF - 1) * 32), false));
    client.write(0, &[2; 512]).expect("the same page counts again");
    let (key, rotation_due) = reports(&account);
    assert_eq!((key["sealed_blocks"].as_u64(), rotation_due), (Some(HALF * 32), true));
    assert_eq!(warnings(&server.log()), 0);
    drop(client);
    assert!(server.terminate().success());
    let log = || fs::read_to_string(account.scratch("serve.log")).expect("the log");
    assert_eq!(warnings(&log()), 1, "{}", log());
    assert!(log().contains("limit=17592186044416"), "{}", log());
    assert!(reports(&account).1, "also while it is not served");

    // A server that opens such a disk says so before anything is written.
    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    assert_eq!(client.read(0, 512).expect("read"), [2; 512]);
    server.log_with(WARNING);
    assert_eq!(warnings(&server.log()), 2, "{}", server.log());
    stdout_of(account.command().args(["key", "rotate-data", "disk"]));
    assert!(!reports(&account).1, "the key encrypts no more");
    client.write(0, &[3; 512]).expect("under the new key");
    drop(client);
    assert!(server.terminate().success());

    let server = account.serve();
    let mut client = Client::attach(&server, "disk").expect("attached");
    assert_eq!(client.read(0, 512).expect("read"), [3; 512]);
    drop(client);
    assert!(server.terminate().success());
    assert_eq!(warnings(&log()), 2, "{}", log());
}
