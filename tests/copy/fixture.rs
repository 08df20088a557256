//! What these tests share.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Account, program, run, stdout_of};

/// A long wait, for what takes a moment.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A pattern that no page repeats: `len` bytes of noise from a seed, never all zero in a page.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The content of a disk, through `export -`.
pub(crate) fn content(account: &Account, view: &str) -> Vec<u8> {
    let output = run(account.command().args(["export", view, "-", "--to", "raw"]));
    assert!(output.status.success(), "{view}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Bytes that a file takes.
pub(crate) fn taken(path: &Path) -> u64 {
    fs::metadata(path).expect("a file").blocks() * 512
}

/// Two images hold the same.
pub(crate) fn same(one: (&str, &Path), other: (&str, &Path)) {
    stdout_of(program("qemu-img").args(["compare", "-f", one.0, "-F", other.0]).args([one.1, other.1]));
}

/// The document of a verb that has to fail.
pub(crate) fn failure(account: &Account, arguments: &[&str]) -> Value {
    failure_of(&run(account.command().args(arguments).arg("--json")))
}

pub(crate) fn failure_of(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "should have failed: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

/// A line of a shell, in the account's folder, with `$sealdisk` for the program with its account.
pub(crate) fn shell(account: &Account, line: &str) -> Command {
    let mut command = program("bash");
    let sealdisk = format!("{} --account {}", env!("CARGO_BIN_EXE_sealdisk"), account.dir().display());
    command.env_remove("SEALDISK_ACCOUNT").env("HOME", account.scratch("")).env("sealdisk", sealdisk);
    command.env("XDG_CONFIG_HOME", account.scratch("config"));
    command.current_dir(account.scratch("")).args(["-e", "-o", "pipefail", "-c", line]);
    command
}

/// A verb that is interrupted.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self { child: child.expect("the program starts") }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child can be signalled");
    }

    /// Panics when the verb ends before.
    pub(crate) fn wait_until(&mut self, what: &str, ready: impl Fn() -> bool) {
        let started = Instant::now();
        while !ready() {
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "it ended before {what}");
            assert!(started.elapsed() < TIMEOUT, "{what}: not after {TIMEOUT:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on a little at a time until `there`, and stops it there. `false`: it ended before.
    pub(crate) fn stop_when(&mut self, there: impl Fn() -> bool) -> bool {
        loop {
            self.signal(Signal::STOP);
            if self.child.try_wait().expect("a child can be waited for").is_some() {
                return false;
            }
            if there() {
                return true;
            }
            self.signal(Signal::CONT);
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    pub(crate) fn end(self) -> Output {
        self.child.wait_with_output().expect("a child can be waited for")
    }
}

/// A verb that was stopped in the middle of its work: where `there` is reached and the end is not. One that was too
/// fast for us is undone and tried again.
pub(crate) fn midway(start: impl Fn() -> Running, there: impl Fn() -> bool, undo: impl Fn()) -> Running {
    for _ in 0..100 {
        let mut running = start();
        if running.stop_when(&there) {
            return running;
        }
        undo();
    }
    panic!("it always ends before it can be stopped");
}

/// The content of an exported file of a kind, through the program itself.
pub(crate) fn exported(account: &Account, path: &Path, kind: &str) -> Vec<u8> {
    let copy = account.scratch("exported-copy.img");
    let from = if kind == "raw" { "raw" } else { "vhd" };
    account.sealdisk(&["vhd", "convert", text(path), text(&copy), "--to", "raw", "--from", from]);
    let content = fs::read(&copy).expect("the copy");
    fs::remove_file(copy).expect("removed");
    content
}

/// Bytes that the layers of the account's disks take together.
pub(crate) fn layer_bytes(account: &Account) -> u64 {
    let mut sum = 0;
    let Ok(disks) = fs::read_dir(account.dir().join("disks")) else { return 0 };
    for disk in disks.flatten() {
        for layer in fs::read_dir(disk.path().join("layers")).into_iter().flatten().flatten() {
            sum += layer.metadata().map_or(0, |metadata| metadata.blocks() * 512);
        }
    }
    sum
}

/// A raw image with noise in `runs`: first byte and length.
pub(crate) fn image(account: &Account, name: &str, size: u64, runs: &[(u64, usize)]) -> PathBuf {
    use std::os::unix::fs::FileExt;
    let path = account.scratch(name);
    let file = fs::File::create(&path).expect("a file");
    file.set_len(size).expect("its length");
    for &(at, len) in runs {
        file.write_all_at(&noise(at + 1, len), at).expect("written");
    }
    path
}
