//! Landlock: which files a server may open, and which TCP ports it may bind.
//!
//! What is open already stays open. Rules hold for the file or folder that lies at a path now, whatever lies there later.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::Needs;
use crate::{Error, ErrorKind, Result};

/// The newest interface whose rights are handled here: a newer kernel restricts no more than was tried with this one.
const KNOWN: ABI = ABI::V6;
/// Its number.
pub(super) const WHOLE: u8 = 6;

/// The version of the interface that is in force; `None`: the kernel has none.
pub(super) fn restrict(needs: &Needs) -> Result<Option<u8>> {
    let failed = |error: RulesetError| Error::io("cannot be confined by landlock", std::io::Error::other(error));
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    rules = allow(rules, &needs.account, account_access())?;
    for folder in &needs.socket_folders {
        if !folder.exists() {
            let what = "there is no such folder, so no socket can be made in it";
            return Err(Error::new(ErrorKind::NotFound, what).at_path(folder).hint("make it, or name another path"));
        }
        rules = allow(rules, folder, AccessFs::MakeSock | AccessFs::RemoveFile)?;
    }
    for image in &needs.images {
        // What is there and no regular file is told when the disk is opened.
        if image.is_file() {
            rules = allow(rules, image, AccessFs::ReadFile.into())?;
        }
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

fn account_access() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::ReadDir
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
}

fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated> {
    let fd = PathFd::new(path).map_err(|error| {
        Error::io("would be out of reach of a confined server", std::io::Error::other(error)).at_path(path)
    })?;
    rules
        .add_rule(PathBeneath::new(fd, access))
        .map_err(|error| Error::io("cannot be named in a landlock rule", std::io::Error::other(error)).at_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_can_be_changed_and_no_device_be_made_in_it() {
        let access = account_access();
        for never in [AccessFs::Execute, AccessFs::MakeChar, AccessFs::MakeBlock, AccessFs::MakeSym, AccessFs::IoctlDev]
        {
            assert!(!access.contains(never));
        }
    }
}
