//! One data key for an auditor, and the recipe of docs/security.md run as it stands there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::client::Client;
use crate::support::{Account, MIB, stderr_of_failure, stdout_of};

const SECRET: &[u8] = b"what the auditor is to find in page 2049";

/// The first block in the language `language` after the heading `heading`.
fn recipe(heading: &str, language: &str) -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md")).expect("docs/security.md");
    let section = text.split(heading).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    let block = section.split(&format!("```{language}\n")).nth(1).expect("a block");
    block.split("```").next().expect("its end").to_owned()
}

#[test]
fn the_auditor_reads_a_layer_with_its_key_and_other_tools() {
    let account = Account::new();
    account.create("disk1", 2 * MIB);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk1").expect("attached");
    let mut page = SECRET.to_vec();
    page.resize(512, b'.');
    client.write(2049 * 512, &page).expect("written");
    client.flush().expect("flushed");

    let out = account.scratch("layer1.key");
    let export = |words: &[&str]| {
        let mut command = account.command();
        command.args(["key", "export", "disk1", "--layer", "1", "--out"]).arg(&out).args(words);
        command
    };
    stderr_of_failure(&mut export(&[]));
    assert!(!out.exists(), "not without being told to reveal it");
    stdout_of(&mut export(&["--yes-reveal"]));
    let metadata = fs::metadata(&out).expect("the key");
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (64, 0o600));
    stderr_of_failure(&mut export(&["--yes-reveal"]));
    drop(server);

    let uuid = account.json(&["show", "disk1"])["uuid"].as_str().expect("a uuid").to_owned();
    let layer = account.dir().join("disks").join(uuid).join("layers/00000001.xts");
    assert!(account.files_with(SECRET).is_empty(), "it lies there encrypted");
    let python = recipe("### Check a layer with its key", "python");
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-c").arg(python).arg(&out).arg(&layer).arg("2049");
    let shown = stdout_of(&mut command);
    assert!(shown.contains(std::str::from_utf8(SECRET).expect("UTF-8")), "{shown}");
}

#[test]
fn a_layer_that_is_not_there_or_not_encrypted_has_no_key() {
    let account = Account::new();
    account.sealdisk(&["encryption", "off"]);
    account.create("disk1", MIB);
    for layer in ["1", "2", "4294967295"] {
        let out = account.scratch("out");
        let mut command = account.command();
        command.args(["key", "export", "disk1", "--yes-reveal", "--layer", layer, "--out"]).arg(&out);
        let refused = stderr_of_failure(&mut command);
        assert!(refused.contains("no encrypted layer"), "{refused}");
        assert!(!out.exists());
    }
}
