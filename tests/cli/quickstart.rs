//! `quickstart`, and the lines that it prints, pasted into a shell.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{program, run, sha256};

struct Quickstart {
    child: Child,
    guide: String,
}

impl Quickstart {
    /// Starts it in a folder and reads what it prints until it serves.
    fn start(folder: &std::path::Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sealdisk"))
            .env_remove("SEALDISK_ACCOUNT")
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .current_dir(folder)
            .arg("quickstart")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sealdisk starts");
        let mut guide = String::new();
        for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
            let line = line.expect("UTF-8");
            guide += &line;
            guide.push('\n');
            if line.starts_with("Ctrl-C") {
                break;
            }
        }
        Self { child, guide }
    }

    /// The command that the guide gives under this title.
    fn command(&self, title: &str) -> &str {
        let line = self.guide.lines().find(|line| line.starts_with(title));
        line.unwrap_or_else(|| panic!("no \"{title}\" in {}", self.guide))[title.len()..].trim()
    }

    /// Pastes a command into a shell in `folder`.
    fn paste(&self, folder: &std::path::Path, title: &str) -> String {
        let command = self.command(title);
        let output = run(program("sh").current_dir(folder).args(["-euc", command]));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
        assert!(self.child.wait().expect("it ends").success(), "exit status after SIGINT");
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// TCP sockets that a process holds, by the kernel's table.
fn tcp_sockets_of(pid: u32) -> usize {
    let held: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("its descriptors")
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
    let inodes = tables.iter().flat_map(|table| table.lines().filter_map(|line| line.split_whitespace().nth(9)));
    inodes.filter(|inode| held.iter().any(|held| held == inode)).count()
}

#[test]
fn every_line_works_when_pasted() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let elsewhere = folder.join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    let quickstart = Quickstart::start(folder, &[]);
    let info = quickstart.paste(&elsewhere, "look at it");
    assert!(info.contains("virtual size: 960 KiB"), "{info}");
    quickstart.paste(&elsewhere, "copy it");
    let fixture = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/files.vhd")).expect("the fixture");
    assert!(fs::read(elsewhere.join("copy.img")).expect("the copy") == fixture[..fixture.len() - 512]);
    quickstart.paste(&elsewhere, "convert it");
    quickstart.paste(&elsewhere, "read at random");
    let status = quickstart.paste(&elsewhere, "how it is stored");
    assert!(status.contains("encryption  on") && status.contains("example"), "{status}");
    assert!(quickstart.paste(&elsewhere, "page by page").contains("base"));
    assert!(quickstart.paste(&elsewhere, "write in plaintext").contains("encryption is off"));
    assert!(quickstart.paste(&elsewhere, "write encrypted again").contains("encryption is on"));
    assert!(!quickstart.guide.contains("nbd://"), "no TCP unasked: {}", quickstart.guide);
    assert_eq!(tcp_sockets_of(quickstart.child.id()), 0);
    quickstart.stop();
    // Again: it serves what is there, and where it is asked to.
    let again = Quickstart::start(folder, &["--listen", "127.0.0.1:0"]);
    let tcp = again.guide.lines().find_map(|line| line.strip_prefix("  nbd://")).expect("a TCP address");
    let tcp = tcp.replace("NAME", "example");
    let listed = run(program("nbdinfo").args(["--size", &format!("nbd://{tcp}")]));
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), "983040");
    again.stop();
    let disks = fs::read_dir(folder.join("sealdisk-account/disks")).expect("the disks").count();
    assert_eq!(disks, 1);
}

#[test]
fn an_image_of_the_users_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let image = folder.join("my disk.img");
    fs::write(&image, [7; 8192]).expect("an image");
    let sum = sha256(&image);
    let quickstart = Quickstart::start(folder, &["my disk.img"]);
    let info = quickstart.paste(folder, "look at it");
    assert!(info.contains("8 KiB"), "{info}");
    let map = quickstart.paste(folder, "page by page");
    assert!(map.contains("base"), "{map}");
    quickstart.stop();
    assert_eq!(sha256(&image), sum);
}
