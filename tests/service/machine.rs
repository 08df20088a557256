//! A machine with systemd as its first process, in namespaces over a copy-on-write view of this one: what a script
//! installs, starts and changes there is gone with it. It has no network but loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{program, run};

/// The script's folder inside: where the project's files for operators lie.
const PROJECT: &[&str] = &["dist", "docs"];

const NAMESPACES: &[&str] = &["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net", "--fork", "--kill-child"];
/// What such a machine needs of the one below it: a container without rights may make none of it.
const PROBE: &str = "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && mkdir /mnt/changes /mnt/work /mnt/root &&
    mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/changes,workdir=/mnt/work /mnt/root &&
    mount -t proc proc /mnt/root/proc && mount -t sysfs sysfs /mnt/root/sys && mount -t cgroup2 cgroup2 /mnt/root/sys/fs/cgroup";

/// Runs `script` there with `bash -eux`, as root, in a folder with this project's `dist` and `docs`, and gives what it
/// said. Panics with that when it fails. `None`: not here, where nobody may mount anything.
pub(crate) fn run_in_machine(script: &str) -> Option<String> {
    let probe = run(as_root().args(NAMESPACES).args(["sh", "-c", PROBE]));
    if !probe.status.success() {
        eprintln!("LEFT OUT, no namespaces to boot systemd in: {}", String::from_utf8_lossy(&probe.stderr));
        return None;
    }
    let scratch = TempDir::new().unwrap();
    let at = |name: &str| scratch.path().join(name);
    fs::create_dir(at("machine")).unwrap();
    fs::create_dir(at("project")).unwrap();
    for folder in PROJECT {
        copy(&project().join(folder), &at("project").join(folder));
    }
    fs::copy(env!("CARGO_BIN_EXE_sealdisk"), at("sealdisk")).unwrap();
    fs::write(at("script"), script).unwrap();
    let output = run(as_root()
        .args(NAMESPACES)
        .arg("bash")
        .arg(project().join("tests/service/boot-systemd"))
        .arg(scratch.path()));
    let said = fs::read_to_string(at("said")).unwrap_or_default();
    let console = String::from_utf8_lossy(&output.stderr);
    assert!(at("passed").exists(), "the script failed:\n{said}\nthe console:\n{console}");
    Some(said)
}

/// `unshare`, by sudo where this is not root, as `./test` does.
fn as_root() -> Command {
    if rustix::process::geteuid().is_root() {
        return program("unshare");
    }
    let mut sudo = program("sudo");
    sudo.args(["-n", "unshare"]);
    sudo
}

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(done.success());
}
