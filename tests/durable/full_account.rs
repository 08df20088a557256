//! An account on a file system without a free block, on tmpfs and on ext4: the program serves it, and gives space back.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::Client;
use crate::support::{Account, MIB, program, run, stdout_of};

/// A file system of 40 MiB, mounted in a temporary directory until it goes out of scope.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    fn tmpfs() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(folder.path().join("m")).expect("a directory");
        let mounted = Self { folder };
        stdout_of(program("mount").args(["-t", "tmpfs", "-o", "size=40m,mode=700", "tmpfs"]).arg(mounted.path()));
        mounted
    }

    fn ext4() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(folder.path().join("m")).expect("a directory");
        let image = folder.path().join("image");
        fs::File::create(&image).and_then(|file| file.set_len(40 * MIB)).expect("an image");
        stdout_of(program("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        let mounted = Self { folder };
        stdout_of(program("mount").args(["-o", "loop"]).arg(&image).arg(mounted.path()));
        mounted
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("m")
    }

    /// Takes every block there is.
    fn fill(&self) {
        let ballast = self.path().join("ballast");
        let mut file = OpenOptions::new().create(true).append(true).open(ballast).expect("a file");
        for piece in [MIB as usize, 4096, 512] {
            while file.write_all(&vec![1; piece]).and_then(|()| file.sync_all()).is_ok() {}
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn block(number: u8) -> Vec<u8> {
    vec![number; 4096]
}

/// Truncates the lock, as earlier versions left it.
fn empty_the_lock(account: &Path) {
    OpenOptions::new().write(true).open(account.join("lock")).and_then(|file| file.set_len(0)).expect("the lock");
}

fn goes_on(mounted: &Mounted) {
    let account = Account::in_folder(&mounted.path());
    for name in ["disk", "other"] {
        account.create(name, 8 * MIB);
    }
    let server = account.serve();
    for name in ["disk", "other"] {
        let mut client = Client::attach(&server, name);
        (0..64).for_each(|at| client.write(at * 4096, &block(1)));
        client.flush();
    }
    account.sealdisk(&["snapshot", "create", "other", "old"]);
    assert!(server.terminate().success());

    mounted.fill();
    for round in 2..5 {
        let server = account.serve();
        let mut client = Client::attach(&server, "disk");
        assert_eq!(client.read(0, 4096), block(round - 1));
        client.write(0, &block(round));
        client.write(MIB / 8, &block(round));
        client.flush();
        assert!(!client.try_write_volatile(4 * MIB, &block(9)), "there is no space for a new block");
        drop(client);
        mounted.fill();
        let uri = server.uri("disk");
        // Trims and zeroes, by a client of another author; then the space is taken by somebody else.
        let zeroed = ["-f", "raw", "-c", "discard 192k 4k", "-c", "write -z 200k 4k", "-c", "flush", &uri];
        stdout_of(program("qemu-io").args(zeroed));
        mounted.fill();
        let listed = account.json(&["status"]);
        assert!(listed["disks"].as_array().is_some_and(|disks| disks.len() == 2), "{listed}");
        mounted.fill();
        if round == 3 {
            server.kill();
        } else {
            assert!(server.terminate().success());
        }
        mounted.fill();
        account.sealdisk(&["map", "disk"]);
        account.sealdisk(&["scrub", "disk"]);
        mounted.fill();
    }
    empty_the_lock(&account.dir());
    mounted.fill();
    let server = account.serve();
    account.sealdisk(&["list"]);
    assert!(server.terminate().success());

    // What needs room says what to do about it.
    mounted.fill();
    let verbs =
        [&["create", "third", "--size", "1M"][..], &["snapshot", "create", "disk", "s"], &["encryption", "off"]];
    let refused = verbs.map(|verb| run(account.command().args(verb))).into_iter().filter(|done| !done.status.success());
    let said: Vec<_> = refused.map(|refused| String::from_utf8(refused.stderr).expect("UTF-8")).collect();
    assert!(!said.is_empty() && said.iter().all(|said| said.contains("\nhint: make room")), "{said:?}");

    // The remedies, at rest.
    empty_the_lock(&account.dir());
    mounted.fill();
    account.sealdisk(&["snapshot", "delete", "other", "old"]);
    mounted.fill();
    account.sealdisk(&["delete", "other", "--yes"]);
    let server = account.serve();
    let mut client = Client::attach(&server, "disk");
    client.write(4 * MIB, &block(7));
    client.flush();
    assert_eq!((client.read(0, 4096), client.read(4 * MIB, 4096)), (block(4), block(7)));
}

#[test]
fn an_account_on_a_full_tmpfs_is_served_and_gives_space_back() {
    goes_on(&Mounted::tmpfs());
}

#[test]
fn an_account_on_a_full_ext4_is_served_and_gives_space_back() {
    goes_on(&Mounted::ext4());
}
