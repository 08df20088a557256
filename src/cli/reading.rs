//! What the verbs share that read images of files: what they say of them, and what they give up before they look into
//! one.
//!
//! An image comes from anywhere, and so do its parents' names. A verb that parses one confines itself first, as a
//! server does ([`crate::confine`]): it keeps the files that it was given, the folders in which parents may lie if the
//! image has any, the account, and the way to the account's server.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::context::Context;
use crate::account::session::Session;
use crate::base::{Format, OpenOptions, UntrackedImage, disagreement};
use crate::confine::{self, Needs, Network};
use crate::io::host_file::HostFile;
use crate::io::output::Output;
use crate::{Error, Result, text, vhd};

/// Says that a file is called otherwise than its format, where it is.
pub(super) fn note_name(context: &Context, path: &Path, format: Format) {
    if let Some(what) = disagreement(path, format) {
        context.note(format_args!("note: {}: {what}", path.display()));
    }
}

/// Lines that name the files an image is read from, each after a line break. One alone is named elsewhere.
#[must_use]
pub(super) fn text(files: &[PathBuf]) -> String {
    let mut lines = String::new();
    for file in files.iter().filter(|_| files.len() > 1) {
        let _ = write!(lines, "\nreads       {}", text::path(file)); // a String takes everything
    }
    lines
}

/// What it takes to open the image in `file`.
pub(super) fn image(file: &HostFile, options: &OpenOptions) -> Result<Needs> {
    Ok(Needs {
        files: vec![file.path().to_owned()],
        folders: UntrackedImage::parent_folders(file, options)?,
        ..Needs::default()
    })
}

/// What it takes to open the VHD at `path`.
pub(super) fn vhd(path: &Path, options: &vhd::OpenOptions) -> Result<Needs> {
    let folders = vhd::parent_folders(&HostFile::open(path)?, options)?;
    Ok(Needs { files: vec![path.to_owned()], folders, ..Needs::default() })
}

/// What it takes to change the VHD at `path`, which has to be there.
pub(super) fn vhd_in_place(path: &Path) -> Result<Needs> {
    HostFile::open(path)?;
    Ok(Needs { changed: vec![path.to_owned()], ..Needs::default() })
}

/// `needs`, with what it takes to give `output` its name.
#[must_use]
pub(super) fn and_output(mut needs: Needs, output: &Output) -> Needs {
    let folders = if output.has_name() { &mut needs.renamed_in } else { &mut needs.named_in };
    folders.push(output.folder().to_owned());
    needs
}

/// Confines this process, for good, to `needs` and the accounts that it has reached. As far as the kernel can.
pub(super) fn confine(accounts: &[(&Path, &Session)], mut needs: Needs) -> Result<()> {
    let mut network = Network::Nothing;
    for (path, session) in accounts {
        if session.is_served() {
            // A connection for each request.
            network = Network::Unix;
        } else {
            crate::disk::remember_system(path);
            needs.changed.push((*path).to_owned());
            needs.files.extend(session.images()?);
        }
    }
    confine::verb(&needs, network).map(|_| ())
}

/// Does `work` in a thread that is confined to `needs`, for a verb that reaches for its account afterwards.
pub(super) fn apart<T: Send>(needs: &Needs, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let confined = || confine::thread(needs).and_then(|_| work());
        let thread = std::thread::Builder::new().name("reading".to_owned()).spawn_scoped(scope, confined);
        let thread = thread.map_err(|e| Error::io("cannot start a thread", e))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
