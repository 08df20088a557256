//! How a server confines itself.

use std::path::{Path, PathBuf};

use clap::Args;

use super::service::Plan;
use super::values::ConfineMode;
use crate::Result;
use crate::confine::{Confinement, Needs};
use crate::serve::listen;

/// The option of `serve`.
#[derive(Debug, Clone, Args)]
pub(super) struct ConfineOptions {
    /// Give up what a server does not need: files outside the account and the recorded images, programs, sockets
    #[arg(long, value_enum, default_value = "on", value_name = "MODE")]
    pub(super) confine: ConfineMode,
}

impl Plan {
    /// Restricts files to those of the account in `account` and `images`, and what the plan still needs.
    ///
    /// Sockets outside the account are made later, but room for them now: to remove a file in their folder would be to
    /// remove any below it. So those that the server leaves behind at its end go when the next one starts.
    pub(super) fn confine(&self, account: &Path, images: Vec<PathBuf>) -> Result<Confinement> {
        let elsewhere = || self.socket.socket.iter().chain(&self.control);
        let handed = |socket: &&PathBuf| std::path::absolute(socket).ok() == self.handed.path;
        let own = |path: &'_ Option<PathBuf>| path.clone().filter(|path| !handed(&path));
        let (socket, control) = (own(&self.socket.socket), own(&self.control));
        let named = [("`--socket PATH`", &socket), ("`--control PATH`", &control)];
        let named: Vec<_> = named.into_iter().filter_map(|(words, path)| Some((words, path.as_deref()?))).collect();
        listen::check_lengths(&named)?;
        for (_, path) in named {
            listen::make_room(path)?;
        }
        let folder = |path: &PathBuf| {
            path.parent().map(|folder| if folder == Path::new("") { Path::new(".") } else { folder }.to_owned())
        };
        let needs = Needs {
            changed: vec![account.to_owned()],
            files: images,
            reread: self.admission.files(),
            socket_folders: elsewhere().filter_map(folder).chain([account.to_owned()]).collect(),
            ports: self.listen.iter().map(|addr| addr.port()).collect(),
            ..Needs::default()
        };
        Confinement::files(self.confine, &needs)
    }
}
