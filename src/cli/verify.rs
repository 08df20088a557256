//! `verify`: whether a disk is whole.

use std::fmt;

use clap::Args;
use serde::Serialize;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::{audit, reading, rebase, size};
use crate::account::audit::AuditPiece;
use crate::account::disk_ref::DiskRef;
use crate::account::failure::Failure;
use crate::account::life_request::LifeRequest;
use crate::account::request::Request;
use crate::account::session;
use crate::base::{BaseRecord, verify};
use crate::confine::Needs;
use crate::{Error, ErrorKind, text};

/// Check a disk: its settings, log and checkpoint, its layers against what they should hold, and its base
///
/// Every checksum and MAC is checked, every layer is read. Of the base, samples are compared; with --base every byte:
/// the first time its digest (SHA-256) is recorded, afterwards it is compared. A file under fs-verity is not read: its
/// digest is what is recorded and compared. Changes nothing else.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk verify disk1
  sealdisk verify disk1 --base")]
pub(super) struct Verify {
    /// BLOB or CONTAINER/BLOB; @UUID also names a deleted disk that clones read from
    name: DiskRef,
    /// Read the base image whole
    #[arg(long)]
    base: bool,
    #[command(flatten)]
    key: KekOptions,
}

#[derive(Debug, Serialize)]
struct Report {
    name: String,
    layers: Vec<Layer>,
    base: Option<Base>,
}

#[derive(Debug, Serialize)]
struct Layer {
    id: u32,
    held_bytes: u64,
    /// Said to be held, and not there.
    missing_bytes: u64,
    /// Held in an encrypted layer, and nothing like ciphertext.
    clear_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Base {
    files: Vec<BaseFile>,
    /// The digests were recorded now; there was nothing to compare them with.
    first: bool,
    /// Every byte was read.
    whole: bool,
}

#[derive(Debug, Serialize)]
struct BaseFile {
    path: std::path::PathBuf,
    size_bytes: u64,
    sha256: Option<String>,
    fs_verity: Option<String>,
}

impl Verify {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let like: Request = LifeRequest::Verify { name: self.name.clone() }.into();
        let (disk, layers) = context.session(&self.key, &like, |session| {
            // Opening it is the first check: nothing damaged opens.
            session.call::<()>(like.clone(), &[])?;
            let (disk, read) = audit::read_layers(session, &self.name, "layers")?;
            let layers = disk.layers.iter().zip(read).map(|(layer, found)| {
                let AuditPiece { held_bytes, missing_bytes, clear_bytes, .. } = found;
                Layer { id: layer.id, held_bytes, missing_bytes, clear_bytes }
            });
            let layers: Vec<_> = layers.collect();
            Ok((disk, layers))
        })?;
        context.note_unaccounted(&disk.name, disk.bytes.unaccounted_bytes);
        if let Some(bad) = layers.iter().find(|layer| layer.missing_bytes + layer.clear_bytes > 0) {
            let what = format!(
                "layer {} of {}: {} are missing, {} are not ciphertext",
                bad.id,
                disk.name,
                size::human(bad.missing_bytes),
                size::human(bad.clear_bytes)
            );
            return Err(Error::new(ErrorKind::Corrupt, what).into());
        }
        let record: Option<BaseRecord> = context.ask(&self.key, Request::Base { name: self.name.clone() }, &[])?;
        let base = match (record, self.base) {
            (Some(record), true) => Some(self.read_base(context, &record)?),
            (Some(record), false) => Some(Base::new(&record, false, false)),
            (None, false) => None,
            (None, true) => {
                let what = format!("the disk \"{}\" lies over no image", self.name);
                return Err(Error::new(ErrorKind::InvalidInput, what).into());
            }
        };
        let report = Report { name: disk.name, layers, base };
        context.show(&report, Text(&report))
    }

    fn read_base(&self, context: &Context, record: &BaseRecord) -> Result<Base, Failure> {
        let first = record.files.iter().any(|file| !file.is_certain());
        if first && matches!(self.name, DiskRef::Uuid(_)) {
            let what = "no digest of the base is recorded yet, and none is for a disk that is named by its UUID";
            return Err(Error::new(ErrorKind::InvalidInput, what).hint("name the disk, or leave --base out").into());
        }
        // The paths are the account's word.
        let (_, owner) = session::settings(&context.account)?;
        let files = record.files.iter().map(|file| file.path.clone()).collect();
        let needs = Needs { files, ..Needs::default() };
        let read = || rebase::with_bar(|progress| verify::verify(record, progress));
        let found = owner.act(|| reading::apart(&needs, read))?;
        if let (true, DiskRef::Name(name)) = (first, &self.name) {
            rebase::record(context, &self.key, name.clone(), found.clone(), true)?;
        }
        Ok(Base::new(&found, first, true))
    }
}

impl Base {
    fn new(record: &BaseRecord, first: bool, whole: bool) -> Self {
        let files = record.files.iter().map(|file| BaseFile {
            path: file.path.clone(),
            size_bytes: file.size,
            sha256: file.sha256.clone(),
            fs_verity: file.fs_verity.clone(),
        });
        Self { files: files.collect(), first, whole }
    }
}

struct Text<'a>(&'a Report);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        let held = report.layers.iter().map(|layer| layer.held_bytes).sum();
        writeln!(f, "{}: settings, keys, checkpoint and log are whole", report.name)?;
        write!(f, "layers  {} in {}, all there", size::human(held), report.layers.len())?;
        if let Some(base) = &report.base {
            for file in &base.files {
                write!(f, "\nbase    {}: ", text::path(&file.path))?;
                match (&file.sha256, base.whole) {
                    _ if let Some(digest) = &file.fs_verity => {
                        let when = if base.first { "recorded now" } else { "as recorded" };
                        write!(f, "fs-verity {digest}, {when}")?;
                    }
                    (Some(digest), true) if base.first => write!(f, "SHA-256 {digest}, recorded now")?,
                    (Some(digest), true) => write!(f, "SHA-256 {digest}, as recorded")?,
                    _ => f.write_str("as recorded, by samples (--base reads all of it)")?,
                }
            }
        }
        Ok(())
    }
}
