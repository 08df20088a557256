//! What is refused, and that a refusal leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{failure, image, noise, text};
use crate::support::{Account, MIB, file_system_image, program, run, stdout_of, vhd_of};

#[test]
fn sources_that_are_none() {
    let account = Account::new();
    let raw = account.scratch("files.img");
    file_system_image(&raw, 8 * MIB);
    let fixed = vhd_of(&raw, "fixed");
    let dynamic = vhd_of(&raw, "dynamic");
    let cut = |from: &Path, name: &str, len: u64| -> PathBuf {
        let path = account.scratch(name);
        fs::write(&path, &fs::read(from).unwrap()[..len as usize]).unwrap();
        path
    };
    let dynamic_bytes = fs::metadata(&dynamic).unwrap().len();
    let qcow2 = account.scratch("some.qcow2");
    stdout_of(program("qemu-img").args(["convert", "-O", "qcow2", "-f", "raw", text(&raw), text(&qcow2)]));
    let folder = account.scratch("folder");
    fs::create_dir(&folder).unwrap();
    let socket = account.scratch("nobody.sock");
    let nobody = format!("nbd+unix:///x?socket={}", text(&socket));
    for path in [
        cut(&fixed, "cut-fixed.vhd", 5 * MIB),
        cut(&dynamic, "cut-dynamic.vhd", dynamic_bytes / 2 / 512 * 512),
        cut(&raw, "cut.img", MIB + 100),
        qcow2,
        folder,
        account.scratch("missing.vhd"),
        "/dev/null".into(),
        nobody.into(),
        "nbds://localhost/x".into(),
        "nbd+unix:///x".into(),
    ] {
        for served in [false, true] {
            let server = served.then(|| account.serve());
            let document = failure(&account, &["import", text(&path), "disk"]);
            assert_eq!(document["unfinished"], serde_json::Value::Null, "{}: {document}", path.display());
            assert_eq!(account.json(&["list"]), serde_json::json!([]), "{}", path.display());
            drop(server);
        }
    }
}

#[test]
fn names_and_sizes_that_do_not_do() {
    let account = Account::new();
    let raw = image(&account, "image.img", 2 * MIB, &[(0, 512)]);
    account.create("there", MIB);
    assert_eq!(failure(&account, &["import", text(&raw), "there"])["error"]["kind"], "AlreadyExists");
    assert_eq!(account.usage("there").zero, MIB, "it is as it was");
    assert_eq!(failure(&account, &["import", text(&raw), "new", "--size", "1M"])["error"]["kind"], "InvalidInput");
    let server = account.serve();
    let uri = server.uri("nobody");
    assert_eq!(failure(&account, &["import", &uri, "new"])["error"]["kind"], "NotFound");
    assert_eq!(failure(&account, &["export", "nobody", "out.vhd"])["error"]["kind"], "NotFound");
    assert_eq!(failure(&account, &["export", "there@never", "out.vhd"])["error"]["kind"], "NotFound");
    assert_eq!(failure(&account, &["clone", "nobody", "new", "--full"])["error"]["kind"], "NotFound");
    assert_eq!(failure(&account, &["clone", "there", "there", "--full"])["error"]["kind"], "AlreadyExists");
    assert_eq!(account.json(&["list"]).as_array().map(Vec::len), Some(1));
    assert!(server.terminate().success());
}

/// A small file system; `None`: this user may not mount.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs"]).arg(&at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_target_that_is_full_is_told_and_gone_on_with() {
    let account = Account::new();
    let Some(small) = Small::mount(account.scratch("small")) else {
        eprintln!("not run: this user may not mount a small file system");
        return;
    };
    let raw = account.scratch("image.img");
    fs::write(&raw, noise(8, 16 << 20)).unwrap();
    account.sealdisk(&["import", text(&raw), "disk"]);
    let filler = small.0.join("filler");
    fs::write(&filler, noise(9, 56 << 20)).unwrap();
    let out = small.0.join("out.vhd");
    let document = failure(&account, &["export", "disk", text(&out), "--exact-size"]);
    assert_eq!(document["error"]["kind"], "NoSpace", "{document}");
    assert!(!out.exists());
    fs::remove_file(&filler).unwrap();
    account.sealdisk(&["export", "disk", text(&out), "--exact-size"]);
    fs::remove_file(&out).unwrap();

    // An account there.
    let there = small.0.join("account");
    let sealdisk = |arguments: &[&str]| run(account.command().args(["--account", text(&there)]).args(arguments));
    assert!(sealdisk(&["init", "--key-file", text(&key(&account))]).status.success());
    fs::write(&filler, noise(9, 52 << 20)).unwrap();
    let full = sealdisk(&["import", text(&raw), "disk", "--json"]);
    let document = crate::fixture::failure_of(&full);
    assert_eq!(
        (&document["error"]["kind"], &document["unfinished"]),
        (&"NoSpace".into(), &"disk".into()),
        "{document}"
    );
    fs::remove_file(&filler).unwrap();
    let again = sealdisk(&["import", text(&raw), "disk"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let copied = sealdisk(&["export", "disk", "-", "--to", "raw"]);
    assert!(copied.stdout == fs::read(&raw).unwrap());
}

fn key(account: &Account) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = account.scratch("small.key");
    fs::write(&path, [0x89; 32]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}
