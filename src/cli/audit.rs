//! `audit`: what a disk really stores, and under which keys.

use std::fmt;

use clap::Args;
use serde::Serialize;

use super::context::{Context, Outcome};
use super::progress;
use super::size;
use super::table::Table;
use crate::account::audit::AuditPiece;
use crate::account::failure::Failure;
use crate::account::key_request::KeyRequest;
use crate::account::name::BlobName;
use crate::account::report::{DiskReport, LayerReport, State, Status};
use crate::account::request::Request;
use crate::account::session::Session;
use crate::crypto::kek::KekOptions;
use crate::{Error, ErrorKind, text};

/// Read every layer and report what is encrypted, under which key, and what is not and why
///
/// Compares the bytes in the layer files with what they are said to hold: that every page is there, that what is called
/// encrypted looks like ciphertext, and what is left behind unscrubbed. Changes nothing. docs/security.md shows how to
/// check single pages without this program.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk audit disk1
  sealdisk audit disk1 --json")]
pub(super) struct Audit {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    #[command(flatten)]
    key: KekOptions,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    kek_version: u32,
    key_source: String,
    /// Whether the metadata that this relies on was authenticated.
    authenticated: bool,
    layers: Vec<Layer>,
    /// Not encrypted, by reason.
    plaintext: Plaintext,
}

#[derive(Debug, Serialize)]
struct Layer {
    id: u32,
    state: State,
    key: Option<String>,
    account_key: Option<uuid::Uuid>,
    live_bytes: u64,
    /// AES blocks encrypted under the key; a new one is due before 2^44.
    sealed_blocks: u64,
    /// More than half of those, and no new one was taken yet.
    worn: bool,
    held_pages: u64,
    held_bytes: u64,
    missing_bytes: u64,
    clear_bytes: u64,
    left_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct Plaintext {
    /// Read from the base image.
    base_bytes: u64,
    /// Written while encryption was off.
    written_off_bytes: u64,
    /// Overwritten since, and held by snapshots alone.
    snapshot_bytes: u64,
    /// Overwritten since, and waiting to be scrubbed.
    pending_scrub_bytes: u64,
}

impl Audit {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let like = Request::Status;
        let report = context.session(&self.key, &like, |session| {
            let status: Status = session.call(Request::Status, &[])?;
            let disk: DiskReport = session.call(Request::Show { name: self.name.clone() }, &[])?;
            let bar = progress::bytes(disk.layers.iter().map(|layer| layer.held_bytes).sum(), "audit");
            let layers = disk.layers.iter().map(|layer| {
                let found = read(session, &self.name, layer.id)?;
                bar.inc(layer.held_bytes);
                Ok::<_, Failure>(Layer::new(layer, found))
            });
            let layers = layers.collect::<Result<Vec<_>, _>>()?;
            bar.finish_and_clear();
            Ok(Report::new(status, disk, layers))
        })?;
        for layer in report.layers.iter().filter(|layer| layer.worn) {
            let key = layer.key.as_deref().unwrap_or_default();
            context.note_worn(&report.name, key, layer.sealed_blocks);
        }
        let wrong: u64 = report.layers.iter().map(|layer| layer.missing_bytes + layer.clear_bytes).sum();
        if wrong == 0 {
            return context.show(&report, Text(&report));
        }
        let what = format!("{} are not stored as they are said to be", size::human(wrong));
        let mut failure = Failure::from(Error::new(ErrorKind::Corrupt, what));
        if context.json {
            let document = serde_json::to_value(&report).map_err(|error| Error::io("JSON failed", error.into()))?;
            failure.details.insert("audit".to_owned(), document);
        } else {
            context.show(&report, Text(&report))?;
        }
        Err(failure)
    }
}

/// All of a layer.
pub(super) fn read(session: &Session, name: &BlobName, layer: u32) -> Result<AuditPiece, Failure> {
    let mut all = AuditPiece { next: Some(0), ..AuditPiece::default() };
    while let Some(page) = all.next {
        let request = KeyRequest::Audit { name: name.clone(), layer, page };
        all = all.and(session.call(request.into(), &[])?);
    }
    Ok(all)
}

impl Layer {
    fn new(layer: &LayerReport, found: AuditPiece) -> Self {
        let AuditPiece { next: _, held_bytes, missing_bytes, clear_bytes, left_bytes } = found;
        Self {
            id: layer.id,
            state: layer.state,
            key: layer.key.clone(),
            account_key: layer.account_key,
            live_bytes: layer.live_bytes,
            sealed_blocks: layer.sealed_blocks,
            worn: layer.worn,
            held_pages: held_bytes / crate::PAGE as u64,
            held_bytes,
            missing_bytes,
            clear_bytes,
            left_bytes,
        }
    }
}

impl Report {
    fn new(status: Status, disk: DiskReport, layers: Vec<Layer>) -> Self {
        let mut plaintext = Plaintext { base_bytes: disk.bytes.base_bytes, ..Plaintext::default() };
        for layer in layers.iter().filter(|layer| layer.state == State::Plain) {
            plaintext.written_off_bytes += layer.live_bytes;
            plaintext.snapshot_bytes += layer.held_bytes.saturating_sub(layer.live_bytes);
            plaintext.pending_scrub_bytes += layer.left_bytes;
        }
        Self {
            name: disk.name,
            kek_version: status.kek_version,
            key_source: status.key_source,
            authenticated: disk.locked.is_none(),
            layers,
            plaintext,
        }
    }
}

struct Text<'a>(&'a Report);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        let authenticated = if report.authenticated { "" } else { "; not authenticated: the account is locked" };
        writeln!(
            f,
            "{}: opened by {} (version {}){authenticated}",
            report.name,
            text::line(&report.key_source),
            report.kek_version
        )?;
        let heading = ["LAYER", "STATE", "PAGES", "HELD", "LIVE", "UNSCRUBBED", "MISSING", "NOT CIPHERTEXT", "KEY"];
        let mut table = Table::new(&heading, &[true, false, true, true, true, true, true, true, false]);
        for layer in &report.layers {
            let bytes = [layer.held_bytes, layer.live_bytes, layer.left_bytes, layer.missing_bytes, layer.clear_bytes];
            let mut row = vec![layer.id.to_string(), layer.state.name().to_owned(), layer.held_pages.to_string()];
            row.extend(bytes.map(size::human));
            row.push(layer.key.clone().unwrap_or_else(|| "-".to_owned()));
            table.row(row);
        }
        write!(f, "{table}\n\nnot encrypted")?;
        let plain = &report.plaintext;
        for (why, bytes) in [
            ("in the base image", plain.base_bytes),
            ("written while encryption was off", plain.written_off_bytes),
            ("overwritten since, held by snapshots", plain.snapshot_bytes),
            ("overwritten since, not scrubbed yet", plain.pending_scrub_bytes),
        ] {
            write!(f, "\n  {why:<38} {}", size::human(bytes))?;
        }
        Ok(())
    }
}
