//! The key commands that a user has approved, for each account: `ACCOUNT.commands.toml` beside the user's other
//! settings.
//!
//! account.toml is read before any key is at hand, so nothing proves who wrote it: a command that it records runs only
//! if it stands here too. `init` and `key rotate-kek` write it; so does whoever wants a command run that another user
//! of the account, or another machine, recorded. Root may approve for all users, in [`SYSTEM`].
//!
//! ```toml
//! [[command]]
//! argv = ["vault", "kv", "get", "-field=kek", "secret/sealdisk"]
//! timeout_seconds = 30
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::made::default_directory;
use super::{KeyCommand, SourceRecord};
use crate::{Error, ErrorKind, Result};

/// Where root approves commands for every user.
const SYSTEM: &str = "/etc/sealdisk";
/// Bytes of a file; a command has some hundred.
const LIMIT: u64 = 64 << 10;

/// See the module documentation.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Approved {
    #[serde(default)]
    command: Vec<Command>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    argv: Vec<String>,
    timeout_seconds: u64,
}

/// The command `argv` as the user has approved it for `account`; `None`: not at all.
pub(super) fn find(account: Uuid, argv: &[String]) -> Result<Option<KeyCommand>> {
    let own = default_directory().ok();
    find_in(own.iter().map(PathBuf::as_path).chain([Path::new(SYSTEM)]), account, argv)
}

fn find_in<'a>(folders: impl Iterator<Item = &'a Path>, account: Uuid, argv: &[String]) -> Result<Option<KeyCommand>> {
    for folder in folders {
        let found = read(&folder.join(file_name(account)))?.command.into_iter().find(|command| command.argv == argv);
        if let Some(Command { argv, timeout_seconds }) = found {
            return KeyCommand::new(argv, Duration::from_secs(timeout_seconds)).map(Some);
        }
    }
    Ok(None)
}

/// Where the user's own approvals for `account` stand, for messages.
pub(super) fn path(account: Uuid) -> PathBuf {
    default_directory().unwrap_or_else(|_| SYSTEM.into()).join(file_name(account))
}

/// Lets the command of `source` run for `account` from now on, beside those that may already. Other sources need no
/// approval.
pub fn approve(account: Uuid, source: &SourceRecord) -> Result<()> {
    let SourceRecord::Command { argv, timeout_seconds } = source else { return Ok(()) };
    approve_in(&default_directory()?, account, Command { argv: argv.clone(), timeout_seconds: *timeout_seconds })
}

fn approve_in(folder: &Path, account: Uuid, command: Command) -> Result<()> {
    let path = folder.join(file_name(account));
    let mut approved = read(&path)?;
    if approved.command.contains(&command) {
        return Ok(());
    }
    approved.command.retain(|known| known.argv != command.argv);
    approved.command.push(command);
    let text = toml::to_string(&approved)
        .map_err(|error| Error::new(ErrorKind::InvalidInput, format!("the key command cannot be noted: {error}")))?;
    let temporary = folder.join(format!("{}.new", file_name(account)));
    let write = || -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let _ = std::fs::remove_file(&temporary);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| Error::io("the key command cannot be noted", error).at_path(&path))
}

fn file_name(account: Uuid) -> String {
    format!("{account}.commands.toml")
}

/// The approvals in the file `path`, which only its owner may write, the caller or root. None where there is no file.
fn read(path: &Path) -> Result<Approved> {
    let failed = |error| Error::io("the approved key commands cannot be read", error).at_path(path);
    let refused = |what: String| {
        Err(Error::new(ErrorKind::InvalidInput, what).at_path(path).hint("make it your own file, with mode 600"))
    };
    // NONBLOCK: a FIFO must not hang.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Approved::default());
        }
        // A folder that root keeps to itself approves nothing for other users.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.starts_with(SYSTEM) => {
            return Ok(Approved::default());
        }
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if !metadata.is_file() || metadata.len() > LIMIT {
        return refused("is no list of approved key commands".to_owned());
    }
    if mode & 0o022 != 0 {
        return refused(format!("others may write it (mode {mode:03o}), so it approves no key command"));
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return refused(format!("belongs to another user (uid {owner}), so it approves no key command"));
    }
    let mut text = String::new();
    file.take(LIMIT).read_to_string(&mut text).map_err(failed)?;
    toml::from_str(&text).or_else(|error| refused(format!("is no list of approved key commands: {}", error.message())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn command(words: &[&str]) -> Command {
        Command { argv: words.iter().map(ToString::to_string).collect(), timeout_seconds: 7 }
    }

    fn is_approved(folder: &Path, account: Uuid, command: &Command) -> Result<bool> {
        Ok(find_in([folder].into_iter(), account, &command.argv)?.is_some())
    }

    #[test]
    fn a_command_is_approved_for_one_account_word_by_word() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("config/sealdisk");
        let (account, other) = (Uuid::new_v4(), Uuid::new_v4());
        let (first, second) = (command(&["kms", "get"]), command(&["other", "\"\n[[command]]"]));
        assert!(!is_approved(&folder, account, &first).unwrap());
        for command in [&first, &second, &first] {
            approve_in(&folder, account, command.clone()).unwrap();
        }
        for known in [&first, &second] {
            assert!(is_approved(&folder, account, known).unwrap());
            assert!(!is_approved(&folder, other, known).unwrap());
        }
        assert!(!is_approved(&folder, account, &command(&["kms", "get", "more"])).unwrap());
        assert_eq!(read(&folder.join(file_name(account))).unwrap().command, [first, second]);
        let mode = std::fs::metadata(folder.join(file_name(account))).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_list_that_others_may_write_approves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let account = Uuid::new_v4();
        approve_in(folder.path(), account, command(&["kms"])).unwrap();
        let path = folder.path().join(file_name(account));
        for mode in [0o620, 0o602, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = is_approved(folder.path(), account, &command(&["kms"])).unwrap_err();
            assert!(error.to_string().contains("others may write"), "{error}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(is_approved(folder.path(), account, &command(&["kms"])).unwrap());
        std::fs::write(&path, "surprise = 1").unwrap();
        assert_eq!(
            is_approved(folder.path(), account, &command(&["kms"])).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}
