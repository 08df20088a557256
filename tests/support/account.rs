//! An account in a temporary directory.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::command::stdout_of;
use super::server::Server;

/// Removed with all that lies in it when it goes out of scope.
pub(crate) struct Account {
    scratch: TempDir,
    /// Where it lies, if not in `scratch`.
    elsewhere: Option<PathBuf>,
}

impl Account {
    /// A new account with encryption on, its key where `init` puts it by default (in the same temporary directory).
    pub(crate) fn new() -> Self {
        Self::made(None)
    }

    /// The same, with the account's own directory in `folder`.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self::made(Some(folder.join("account")))
    }

    fn made(elsewhere: Option<PathBuf>) -> Self {
        let account = Self { scratch: tempfile::tempdir().expect("a temporary directory"), elsewhere };
        account.sealdisk(&["init"]);
        account
    }

    /// The account's own directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.elsewhere.clone().unwrap_or_else(|| self.scratch("account"))
    }

    /// A path outside the account that lives as long as it does.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The program, set up for this account.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealdisk"));
        command
            .env_remove("SEALDISK_ACCOUNT")
            .env("HOME", self.scratch.path())
            .env("XDG_CONFIG_HOME", self.scratch("config"))
            .current_dir(self.scratch.path())
            .arg("--account")
            .arg(self.dir());
        command
    }

    /// The same, started by a program such as `prlimit`, whose name and arguments `wrapper` is.
    pub(crate) fn command_under(&self, wrapper: &[&str]) -> Command {
        let plain = self.command();
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(plain.get_program()).args(plain.get_args()).current_dir(self.scratch.path());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Runs a verb that has to succeed and gives its standard output.
    pub(crate) fn sealdisk(&self, arguments: &[&str]) -> String {
        stdout_of(self.command().args(arguments))
    }

    /// Runs a verb with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.sealdisk(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// A new disk of `size` bytes.
    pub(crate) fn create(&self, name: &str, size: u64) {
        self.sealdisk(&["create", name, "--size", &size.to_string()]);
    }

    /// A new disk over a base image.
    pub(crate) fn create_over(&self, name: &str, base: &Path) {
        self.sealdisk(&["create", name, "--base", path_str(base)]);
    }

    /// What `status` says of one disk, in bytes.
    pub(crate) fn usage(&self, name: &str) -> Usage {
        let status = self.json(&["status"]);
        let disks = status["disks"].as_array().expect("status lists disks");
        let disk = disks.iter().find(|disk| disk["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}"));
        let bytes = |field: &str| disk[field].as_u64().unwrap_or_else(|| panic!("no {field} in {disk}"));
        Usage {
            base: bytes("base_bytes"),
            plain: bytes("plain_bytes"),
            encrypted: bytes("encrypted_bytes"),
            zero: bytes("zero_bytes"),
        }
    }

    /// Serves all disks on a unix socket.
    pub(crate) fn serve(&self) -> Server {
        Server::start(self, &[], Stdio::null())
    }

    /// Serves all disks with more options of `serve`.
    pub(crate) fn serve_with(&self, options: &[&str]) -> Server {
        Server::start(self, options, Stdio::null())
    }

    /// Serves all disks, with `input` as standard input.
    pub(crate) fn serve_with_input(&self, options: &[&str], input: fs::File) -> Server {
        Server::start(self, options, input.into())
    }

    /// The same, by [`Account::command_under`].
    pub(crate) fn serve_under(&self, wrapper: &[&str], options: &[&str]) -> Server {
        Server::start_by(self, self.command_under(wrapper), options, Stdio::null())
    }

    /// The files of the account in which `needle` occurs.
    pub(crate) fn files_with(&self, needle: &[u8]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.dir()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of the account") {
                let entry = entry.expect("an entry of a folder of the account");
                let kind = entry.file_type().expect("the type of an entry");
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() && contains(&entry.path(), needle) {
                    found.push(entry.path());
                }
            }
        }
        found
    }
}

/// Bytes of a disk by state, its footer page included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) base: u64,
    pub(crate) plain: u64,
    pub(crate) encrypted: u64,
    pub(crate) zero: u64,
}

pub(super) fn path_str(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Whether `needle` occurs in a file, also across the borders of the chunks it is read in.
fn contains(path: &Path, needle: &[u8]) -> bool {
    let mut file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut buffer = vec![0; 1 << 20];
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if read == 0 {
            return false;
        }
        let filled = kept + read;
        if find(&buffer[..filled], needle) {
            return true;
        }
        kept = (needle.len() - 1).min(filled);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

fn find(mut haystack: &[u8], needle: &[u8]) -> bool {
    while let Some(at) = haystack.iter().position(|&byte| byte == needle[0]) {
        haystack = &haystack[at..];
        if haystack.starts_with(needle) {
            return true;
        }
        haystack = &haystack[1..];
    }
    false
}
