//! Landlock: which files a confined process may open, and which TCP ports it may bind.
//!
//! What is open already stays open. Rules hold for the file or folder that lies at a path now, whatever lies there
//! later.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Needs, reread};
use crate::{Error, ErrorKind, Result};

/// The newest interface whose rights are handled here: a newer kernel restricts no more than was tried with this one.
const KNOWN: ABI = ABI::V6;
/// Its number.
pub(super) const WHOLE: u8 = 6;

/// What this program uses of each version after the first: the version, what it restricts, the Linux it came with.
const PARTS: &[(u8, &str, &str)] = &[
    (1, "files", "5.13"),
    (3, "cutting files off", "6.2"),
    (4, "TCP ports", "6.7"),
    (5, "commands to devices", "6.10"),
    (6, "signals and abstract sockets", "6.12"),
];

/// What landlock of `version` (`None`: no landlock) leaves unrestricted, in words.
pub(super) fn missing(version: Option<u8>) -> impl Iterator<Item = String> {
    let lacks = move |&&(since, _, _): &&(u8, &str, &str)| version.is_none_or(|version| version < since);
    PARTS.iter().filter(lacks).map(|(since, what, linux)| format!("{what} (landlock {since}, Linux {linux})"))
}

/// Restricts this thread and all that it starts. The version of the interface that is in force; `None`: the kernel has
/// none. With `network` TCP connections and abstract sockets are left alone.
pub(super) fn restrict(needs: &Needs, network: bool) -> Result<Option<u8>> {
    let failed = |error: RulesetError| Error::io("cannot be confined by landlock", std::io::Error::other(error));
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(KNOWN)).map_err(failed)?;
    let mut scope = Scope::from_all(KNOWN);
    if network {
        scope.remove(Scope::AbstractUnixSocket);
    } else {
        rules = rules.handle_access(AccessNet::from_all(KNOWN)).map_err(failed)?;
    }
    let mut rules = rules.scope(scope).and_then(Ruleset::create).map_err(failed)?;
    for path in &needs.changed {
        rules = allow(rules, path, if path.is_dir() { changed_folder() } else { changed_file() })?;
    }
    for folder in &needs.socket_folders {
        if !folder.exists() {
            let what = "there is no such folder, so no socket can be made in it";
            return Err(Error::new(ErrorKind::NotFound, what).at_path(folder).hint("make it, or name another path"));
        }
        rules = allow(rules, folder, AccessFs::MakeSock.into())?;
    }
    for folder in &needs.named_in {
        rules = allow(rules, folder, AccessFs::MakeReg.into())?;
    }
    for folder in &needs.renamed_in {
        rules = allow(rules, folder, AccessFs::MakeReg | AccessFs::RemoveFile)?;
    }
    for file in &needs.files {
        // What is there and no regular file is told when it is opened.
        if file.is_file() {
            rules = allow(rules, file, AccessFs::ReadFile.into())?;
        }
    }
    for folder in &needs.folders {
        if folder.is_dir() {
            rules = allow(rules, folder, AccessFs::ReadFile | AccessFs::ReadDir)?;
        }
    }
    for path in needs.reread.iter().flat_map(|file| reread::from(file)) {
        rules = allow(rules, &path, AccessFs::ReadFile.into())?;
    }
    for &port in &needs.ports {
        rules = rules.add_rule(NetPort::new(port, AccessNet::BindTcp)).map_err(failed)?;
    }
    let done = rules.restrict_self().map_err(failed)?;
    Ok(match (done.ruleset, done.landlock) {
        (RulesetStatus::NotEnforced, _) => None,
        (_, LandlockStatus::Available { effective_abi, .. }) => Some((effective_abi as u8).min(WHOLE)),
        _ => None,
    })
}

fn changed_folder() -> BitFlags<AccessFs> {
    changed_file()
        | AccessFs::ReadDir
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
}

fn changed_file() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate
}

fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated> {
    let fd = PathFd::new(path).map_err(|error| {
        Error::io("would be out of reach of the confined process", std::io::Error::other(error)).at_path(path)
    })?;
    rules
        .add_rule(PathBeneath::new(fd, access))
        .map_err(|error| Error::io("cannot be named in a landlock rule", std::io::Error::other(error)).at_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_can_be_changed_and_no_device_be_made_in_it() {
        let access = changed_folder();
        for never in [AccessFs::Execute, AccessFs::MakeChar, AccessFs::MakeBlock, AccessFs::MakeSym, AccessFs::IoctlDev]
        {
            assert!(!access.contains(never));
        }
    }

    #[test]
    fn what_an_older_landlock_lacks_is_named() {
        let missing = |version| missing(version).collect::<Vec<_>>();
        assert_eq!(missing(None).len(), PARTS.len());
        assert_eq!(
            missing(Some(4)),
            ["commands to devices (landlock 5, Linux 6.10)", "signals and abstract sockets (landlock 6, Linux 6.12)"]
        );
        assert!(missing(Some(WHOLE)).is_empty() && missing(Some(WHOLE - 1)).len() == 1);
    }
}
