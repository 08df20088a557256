//! How a server confines itself.

use std::path::{Path, PathBuf};

use clap::Args;

use super::service::Plan;
use crate::Result;
use crate::confine::{Confinement, Mode, Needs};

/// The option of `serve`.
#[derive(Debug, Clone, Args)]
pub(super) struct ConfineOptions {
    /// Give up what a server does not need: files outside the account and the recorded images, programs, sockets
    #[arg(long, value_enum, default_value = "on", value_name = "MODE")]
    pub(super) confine: Mode,
}

impl Plan {
    /// Restricts files to those of the account in `account` and `images`, and what the plan still needs.
    pub(super) fn confine(&self, account: &Path, images: Vec<PathBuf>) -> Result<Confinement> {
        let folder = |path: &PathBuf| {
            path.parent().map(|folder| if folder == Path::new("") { Path::new(".") } else { folder }.to_owned())
        };
        let needs = Needs {
            account: account.to_owned(),
            images,
            socket_folders: self.socket.socket.iter().chain(&self.control).filter_map(folder).collect(),
            ports: self.listen.iter().map(|addr| addr.port()).collect(),
        };
        Confinement::files(self.confine, &needs)
    }
}
