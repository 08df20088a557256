//! A machine with systemd as its first process, in namespaces over a copy-on-write view of this one: what a script
//! installs, starts and changes there is gone with it. It has no network but loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{program, run};

/// The script's folder inside: where the project's files for operators lie.
const PROJECT: &[&str] = &["dist", "docs"];

/// Runs `script` there with `bash -eux`, as root, in a folder with this project's `dist` and `docs`. Panics with what
/// it said when it fails.
pub(crate) fn run_in_machine(script: &str) -> String {
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
        .args(["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net", "--fork", "--kill-child", "bash"])
        .arg(project().join("tests/service/boot-systemd"))
        .arg(scratch.path()));
    let said = fs::read_to_string(at("said")).unwrap_or_default();
    let console = String::from_utf8_lossy(&output.stderr);
    assert!(at("passed").exists(), "the script failed:\n{said}\nthe console:\n{console}");
    said
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
