//! A base image under fs-verity: the kernel keeps its content, and every verb says by which digest.
//!
//! Where this kernel's ext4 has no fs-verity, what is checked is that an ordinary image is told to be one, by a
//! confined server too. How digests are compared is tested without a kernel in `base::verify`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::client::Client;
use crate::support::{Account, MIB, program, stdout_of};

/// An ext4 with fs-verity, mounted until it goes out of scope.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// `None`: this kernel has no fs-verity.
    fn new() -> Option<Self> {
        if !Path::new("/sys/fs/ext4/features/verity").exists() {
            println!("this kernel has no fs-verity in ext4: only an ordinary image is looked at");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary directory");
        let image = folder.path().join("image");
        fs::create_dir(folder.path().join("m")).expect("a directory");
        fs::File::create(&image).and_then(|file| file.set_len(32 * MIB)).expect("an image");
        stdout_of(program("mkfs.ext4").args(["-q", "-b", "4096", "-O", "verity"]).arg(&image));
        let mounted = Self(folder);
        stdout_of(program("mount").args(["-o", "loop"]).arg(&image).arg(mounted.path("")));
        Some(mounted)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("m").join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path("")).status();
    }
}

/// FS_IOC_ENABLE_VERITY, with SHA-256 over blocks of 4 KiB.
fn enable(path: &Path) {
    let script = "import fcntl, struct, sys\n\
                  with open(sys.argv[1], 'rb') as file:\n    \
                      fcntl.ioctl(file, 0x40806685, struct.pack('<III', 1, 1, 4096) + bytes(116))\n";
    stdout_of(program("python3").args(["-c", script]).arg(path));
}

fn digest_of(document: &Value) -> &Value {
    &document["files"][0]["fs_verity"]
}

#[test]
fn a_base_under_fs_verity_is_told_by_its_digest_and_is_not_replaced() {
    let account = Account::new();
    let plain = account.scratch("plain.img");
    fs::write(&plain, vec![7; MIB as usize]).expect("an image");
    account.create_over("plain", &plain);
    let server = account.serve();
    for document in [account.json(&["show", "plain"]), account.json(&["verify", "plain", "--base"])] {
        assert_eq!(digest_of(&document["base"]), &Value::Null, "{document}");
    }
    assert_eq!(account.json(&["audit", "plain"])["base"]["path"].as_str(), plain.to_str());
    assert!(!account.sealdisk(&["show", "plain"]).contains("fs-verity"));
    assert!(server.terminate().success());

    let Some(mounted) = Mounted::new() else { return };
    let image = mounted.path("base.img");
    fs::write(&image, vec![7; MIB as usize]).expect("an image");
    enable(&image);
    assert!(fs::OpenOptions::new().write(true).open(&image).is_err(), "nothing may write to it");
    account.create_over("kept", &image);
    let digest = digest_of(&account.json(&["show", "kept"])["base"]).as_str().expect("a digest").to_owned();
    assert!(digest.starts_with("sha256:") && digest.len() == "sha256:".len() + 64, "{digest}");
    // Asked by a server that is confined, as one is by default.
    let server = account.serve();
    for verb in [&["show", "kept"][..], &["audit", "kept"], &["verify", "kept"], &["verify", "kept", "--base"]] {
        let said = account.sealdisk(verb);
        assert!(
            said.contains(&format!("fs-verity {digest}")) || said.contains(&format!("fs-verity   {digest}")),
            "{said}"
        );
    }
    let verified = account.json(&["verify", "kept", "--base"]);
    assert_eq!(
        (digest_of(&verified["base"]), &verified["base"]["files"][0]["sha256"]),
        (&digest.clone().into(), &Value::Null)
    );
    assert_eq!(Client::attach(&server, "kept").read(0, 4), [7; 4]);
    assert!(server.terminate().success());
    // The same content without fs-verity is not the image that was recorded, until the owner takes it.
    fs::remove_file(&image).expect("removed");
    fs::write(&image, vec![7; MIB as usize]).expect("an image");
    let refused = crate::support::stderr_of_failure(account.command().args(["map", "kept"]));
    assert!(refused.contains("not under fs-verity any more") && refused.contains("\nhint: "), "{refused}");
    account.sealdisk(&["rebase", "kept", "--base", image.to_str().expect("UTF-8")]);
    account.sealdisk(&["map", "kept"]);
    enable(&image);
    account.sealdisk(&["rebase", "kept", "--base", image.to_str().expect("UTF-8")]);
    assert_eq!(digest_of(&account.json(&["show", "kept"])["base"]).as_str(), Some(&*digest));
}
