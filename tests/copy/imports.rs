//! Everything that can be imported, into an account at rest and into one that is served.

use std::fs;
use std::process::Command;

use crate::corpus;
use crate::fixture::{content, image, noise, same, shell, text};
use crate::support::{Account, MIB, file_system_image, program, run, stdout_of, vhd_of};

#[test]
fn vhds_and_raw_images_of_files() {
    let account = Account::new();
    let raw = account.scratch("files.img");
    file_system_image(&raw, 32 * MIB);
    let images = [raw.clone(), vhd_of(&raw, "fixed"), vhd_of(&raw, "dynamic")];
    for served in [false, true] {
        let server = served.then(|| account.serve());
        for (n, image) in images.iter().enumerate() {
            let name = format!("disk{n}-{served}");
            let document = account.json(&["import", text(image), &name]);
            assert_eq!(document["size_bytes"], 32 * MIB);
            assert_eq!((&document["verified"], &document["resumed"]), (&true.into(), &false.into()));
            assert!(document["written_bytes"].as_u64() < Some(8 * MIB), "zeros are not written: {document}");
            let usage = account.usage(&name);
            assert_eq!((usage.base, usage.plain), (0, 0), "all of it is encrypted");
            assert!(usage.encrypted < 8 * MIB);
            if let Some(server) = &server {
                let uri = server.uri(&name);
                stdout_of(program("qemu-img").args(["compare", "-f", "raw", "-F", "raw", text(&raw), &uri]));
            }
            assert!(content(&account, &name) == fs::read(&raw).unwrap(), "{name}");
        }
        assert!(server.is_none_or(|server| server.terminate().success()));
    }
    assert_eq!(account.files_with(b"GNU GENERAL PUBLIC LICENSE"), Vec::<std::path::PathBuf>::new());
    // Off means plaintext here too.
    account.sealdisk(&["encryption", "off"]);
    account.sealdisk(&["import", text(&images[2]), "plain"]);
    assert_eq!(account.usage("plain").encrypted, 0);
    assert!(!account.files_with(b"GNU GENERAL PUBLIC LICENSE").is_empty());
}

#[test]
fn every_vhd_of_the_corpus_parents_included() {
    let account = Account::new();
    let folder = account.scratch("images");
    fs::create_dir(&folder).unwrap();
    let mut disks = Vec::new();
    corpus::each(&folder, |disk| disks.push(disk));
    let server = account.serve();
    for disk in &disks {
        account.sealdisk(&["import", text(&disk.path), disk.name]);
        assert!(content(&account, disk.name) == disk.content, "{}", disk.name);
    }
    assert!(server.terminate().success());
}

#[test]
fn a_disk_may_be_larger_than_its_image() {
    let account = Account::new();
    let raw = image(&account, "small.img", 3 * MIB + 512, &[(0, 512), (3 * MIB, 512)]);
    let document = account.json(&["import", text(&raw), "disk", "--size", "8M"]);
    assert_eq!(document["size_bytes"], 8 * MIB);
    let all = content(&account, "disk");
    assert!(
        all[..3 * MIB as usize + 512] == fs::read(&raw).unwrap()
            && all[3 * MIB as usize + 512..].iter().all(|&b| b == 0)
    );
    // Another size the second time, after an interruption, or none.
    assert_eq!(account.json(&["import", text(&raw), "exact"])["size_bytes"], 3 * MIB + 512);
}

/// Runs `line` with the URI of an nbdkit in `$uri`, which ends with it.
fn nbdkit(account: &Account, options: &[&str], line: &str) -> Command {
    let mut nbdkit = program("nbdkit");
    nbdkit.args(["--exit-with-parent", "-U", "-"]).args(options).args(["--run", line]);
    let model = shell(account, line);
    nbdkit.current_dir(account.scratch(""));
    for (key, value) in model.get_envs() {
        match value {
            Some(value) => nbdkit.env(key, value),
            None => nbdkit.env_remove(key),
        };
    }
    nbdkit
}

#[test]
fn exports_of_nbdkit_by_what_is_allocated() {
    let account = Account::new();
    let server = account.serve();
    // 8 TiB, of which the server says that next to nothing is there: reading it all would take hours.
    let data = "data=@0x100000 (1 2 3 4)*256 @0x7fffffff000 (5)*4096";
    stdout_of(&mut nbdkit(&account, &["data", data, "size=8T"], "$sealdisk import \"$uri\" sparse"));
    let usage = account.usage("sparse");
    assert_eq!(usage.encrypted, 4096 + 4096 + 512);
    assert_eq!(account.json(&["show", "sparse"])["size_bytes"], 8 * MIB * MIB);
    let uri = server.uri("sparse");
    let read = ["-c", "read -P 5 0x7fffffff000 4096", "-c", "read -v 0x100000 4"];
    let text = stdout_of(program("qemu-io").args(["-r", "-f", "raw"]).args(read).arg(&uri));
    assert!(text.contains("01 02 03 04") && !text.contains("verification failed"), "{text}");
    // Servers that know less: no structured replies, no block status, small requests only.
    for (n, filters) in
        [&["--no-sr"][..], &["--filter=noextents"], &["--filter=blocksize-policy", "blocksize-maximum=64k"]]
            .into_iter()
            .enumerate()
    {
        let name = format!("disk{n}");
        let policy = filters.get(1).copied();
        let mut options = vec![filters[0], "pattern", "size=5M"];
        options.extend(policy);
        stdout_of(&mut nbdkit(&account, &options, &format!("$sealdisk import \"$uri\" {name}")));
        let pattern: Vec<u8> = (0..5 * MIB / 8).flat_map(|n| (n * 8).to_be_bytes()).collect();
        assert!(content(&account, &name) == pattern, "{filters:?}");
    }
    assert!(server.terminate().success());
}

#[test]
fn exports_of_qemu_nbd_and_of_our_own_server() {
    let account = Account::new();
    let raw = image(&account, "some.img", 16 * MIB, &[(0, 4096), (5 * MIB, MIB as usize), (16 * MIB - 512, 512)]);
    let qcow2 = account.scratch("some.qcow2");
    stdout_of(program("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&qcow2)]));
    let socket = account.scratch("qemu.sock");
    let mut qemu = program("qemu-nbd");
    qemu.args(["--fork", "-r", "-f", "qcow2", "-x", "a b", "-k", text(&socket), text(&qcow2)]);
    assert!(run(&mut qemu).status.success());
    // qemu-nbd ends when its one client has left.
    let uri = format!("nbd+unix:///a%20b?socket={}", text(&socket));
    account.sealdisk(&["import", &uri, "first"]);
    assert!(content(&account, "first") == fs::read(&raw).unwrap());
    assert!(account.usage("first").encrypted <= 2 * MIB);

    // From another account's server, over TCP, into one at rest.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = account.serve_with(&["--listen", &format!("127.0.0.1:{port}")]);
    let other = Account::new();
    let document = other.json(&["import", &format!("nbd://127.0.0.1:{port}/first"), "second"]);
    assert_eq!(document["written_bytes"], 4096 + MIB + 4096, "in units of 4 KiB");
    assert!(content(&other, "second") == fs::read(&raw).unwrap());
    // And from itself.
    account.sealdisk(&["import", &server.uri("first"), "third"]);
    assert!(content(&account, "third") == fs::read(&raw).unwrap());
    assert!(server.terminate().success());
    same(("raw", &raw), ("raw", &export(&other, "second")));
}

fn export(account: &Account, name: &str) -> std::path::PathBuf {
    let path = account.scratch("exported.img");
    account.sealdisk(&["export", name, text(&path), "--to", "raw"]);
    path
}

#[test]
fn what_was_imported_is_on_the_disk_encrypted() {
    let account = Account::new();
    let needle = noise(7, 4096);
    let raw = account.scratch("secret.img");
    fs::write(&raw, needle.repeat(64)).unwrap();
    account.sealdisk(&["import", text(&raw), "disk"]);
    assert_eq!(account.files_with(&needle[..64]), Vec::<std::path::PathBuf>::new());
    let audited = account.json(&["audit", "disk"]);
    assert!(audited.to_string().contains("encrypted"), "{audited}");
}
