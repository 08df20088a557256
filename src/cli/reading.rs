//! What the verbs share that read images of files: what they say of them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::context::Context;
use crate::base::{Format, disagreement};
use crate::text;

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
