//! `audit`: what a disk really stores, and under which keys.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::audit_log;
use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::progress;
use super::size;
use super::table::Table;
use crate::account::audit::AuditPiece;
use crate::account::disk_ref::DiskRef;
use crate::account::failure::Failure;
use crate::account::key_request::KeyRequest;
use crate::account::report::{BaseReport, CloneReport, DiskReport, InheritedReport, LayerReport, State, Status};
use crate::account::request::Request;
use crate::account::session::Session;
use crate::{Error, ErrorKind, text};

/// How often layers that have come meanwhile are read before it is given up.
const TRIES: usize = 1000;

/// Read every layer and report what is encrypted, under which key, and what is not and why
///
/// Compares the bytes in the layer files with what they are said to hold: that every page is there, that what is called
/// encrypted looks like ciphertext, and what is left behind unscrubbed. Changes nothing. docs/security.md shows how to
/// check single pages without this program.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk audit disk1
  sealdisk audit @9d2c0f5e-1c1e-4c5c-9d5e-1a2b3c4d5e6f
  sealdisk audit disk1 --json
  sealdisk audit --log /var/log/sealdisk/audit.log")]
pub(super) struct Audit {
    /// BLOB or CONTAINER/BLOB; @UUID also names a deleted disk that clones read from
    #[arg(required_unless_present = "log")]
    name: Option<DiskRef>,
    /// Check this audit log instead (see --audit-log): whether every line is as it was written
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    log: Option<PathBuf>,
    #[command(flatten)]
    key: KekOptions,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    uuid: uuid::Uuid,
    /// Deleted; `clones` read from it.
    hidden: bool,
    clones: Vec<CloneReport>,
    kek_version: u32,
    key_source: String,
    /// Whether the metadata that this relies on was authenticated.
    authenticated: bool,
    /// What lies under the disk, which is in the open.
    base: Option<BaseReport>,
    layers: Vec<Layer>,
    /// In a clone: what it, or a snapshot of it, reads from other disks.
    inherited: Vec<InheritedReport>,
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
    #[serde(rename = "worn")]
    rotation_due: bool,
    held_pages: u64,
    held_bytes: u64,
    missing_bytes: u64,
    clear_bytes: u64,
    left_bytes: u64,
    unaccounted_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct Plaintext {
    /// Read from the base image.
    base_bytes: u64,
    /// Written while encryption was off.
    written_off_bytes: u64,
    /// Overwritten since, and held by snapshots alone.
    snapshot_bytes: u64,
    /// In a clone: in layers of the disks that it reads from.
    inherited_bytes: u64,
    /// Overwritten since, and waiting to be scrubbed.
    pending_scrub_bytes: u64,
    /// Stored, and in no record of the disk.
    unaccounted_bytes: u64,
}

impl Audit {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match (&self.name, &self.log) {
            (Some(name), _) => self.disk(context, name),
            (None, Some(log)) => audit_log::run(context, &self.key, log),
            (None, None) => Err(Error::new(ErrorKind::InvalidInput, "name a disk, or a log with --log").into()),
        }
    }

    fn disk(&self, context: &Context, name: &DiskRef) -> Outcome {
        let like = Request::Status;
        let report = context.session(&self.key, &like, |session| {
            let status: Status = session.call(Request::Status, &[])?;
            let (disk, read) = read_layers(session, name, "audit")?;
            let layers = disk.layers.iter().zip(read).map(|(layer, found)| Layer::new(layer, found)).collect();
            Ok(Report::new(status, disk, layers))
        })?;
        for layer in report.layers.iter().filter(|layer| layer.rotation_due) {
            let key = layer.key.as_deref().unwrap_or_default();
            context.note_rotation_due(&report.name, key, layer.sealed_blocks);
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

/// The disk, and what each of its layers stores. Layers come and go while a served disk is read: one that has gone
/// since is left out, and one that has come is read too, so that the layers are those of one moment, the last.
pub(super) fn read_layers(
    session: &Session,
    name: &DiskRef,
    task: &'static str,
) -> Result<(DiskReport, Vec<AuditPiece>), Failure> {
    let show = || session.call::<DiskReport>(Request::Show { name: name.clone() }, &[]);
    let mut disk = show()?;
    let mut bar = progress::bytes(disk.layers.iter().map(|layer| layer.held_bytes).sum(), task);
    let mut read: BTreeMap<u32, AuditPiece> = BTreeMap::new();
    for _ in 0..TRIES {
        for layer in &disk.layers {
            if let Entry::Vacant(vacant) = read.entry(layer.id) {
                vacant.insert(read_layer(session, name, layer.id)?);
                bar.add(layer.held_bytes);
            }
        }
        disk = show()?;
        let found: Option<Vec<_>> = disk.layers.iter().map(|layer| read.get(&layer.id).copied()).collect();
        if let Some(found) = found {
            drop(bar);
            return Ok((disk, found));
        }
    }
    let what = format!("\"{name}\" gets new layers faster than they can be read");
    Err(Error::new(ErrorKind::InUse, what).hint("each switch, snapshot and rotation makes one: ask again later").into())
}

/// All of a layer; of one that has gone meanwhile what was read before.
fn read_layer(session: &Session, name: &DiskRef, layer: u32) -> Result<AuditPiece, Failure> {
    let mut all = AuditPiece { next: Some(0), ..AuditPiece::default() };
    while let Some(page) = all.next {
        let request = KeyRequest::Audit { name: name.clone(), layer, page };
        all = all.and(session.call(request.into(), &[])?);
    }
    Ok(all)
}

impl Layer {
    fn new(layer: &LayerReport, found: AuditPiece) -> Self {
        let AuditPiece { next: _, held_bytes, missing_bytes, clear_bytes, left_bytes, unaccounted_bytes } = found;
        Self {
            id: layer.id,
            state: layer.state,
            key: layer.key.clone(),
            account_key: layer.account_key,
            live_bytes: layer.live_bytes,
            sealed_blocks: layer.sealed_blocks,
            rotation_due: layer.rotation_due,
            held_pages: held_bytes / crate::PAGE as u64,
            held_bytes,
            missing_bytes,
            clear_bytes,
            left_bytes,
            unaccounted_bytes,
        }
    }
}

impl Report {
    fn new(status: Status, disk: DiskReport, layers: Vec<Layer>) -> Self {
        let mut plaintext = Plaintext { base_bytes: disk.bytes.base_bytes, ..Plaintext::default() };
        plaintext.inherited_bytes = disk.inherited.iter().filter_map(|from| from.plain_bytes).sum();
        for layer in layers.iter().filter(|layer| layer.state == State::Plain) {
            plaintext.written_off_bytes += layer.live_bytes;
            plaintext.snapshot_bytes += layer.held_bytes.saturating_sub(layer.live_bytes);
            plaintext.pending_scrub_bytes += layer.left_bytes;
            plaintext.unaccounted_bytes += layer.unaccounted_bytes;
        }
        Self {
            name: disk.name,
            uuid: disk.uuid,
            hidden: disk.hidden,
            clones: disk.clones,
            inherited: disk.inherited,
            kek_version: status.kek_version,
            key_source: status.key_source,
            authenticated: disk.locked.is_none(),
            base: disk.base,
            layers,
            plaintext,
        }
    }
}

/// Clones by name, for people.
pub(super) fn names(clones: &[CloneReport]) -> String {
    let name = |clone: &CloneReport| match &clone.snapshot {
        _ if clone.hidden => DiskRef::Uuid(clone.uuid).to_string(),
        Some(snapshot) if !snapshot.starts_with("clone-") => format!("{} ({snapshot})", clone.name),
        _ => clone.name.clone(),
    };
    match clones.is_empty() {
        true => "perhaps a disk that cannot be read".to_owned(),
        false => clones.iter().map(name).collect::<Vec<_>>().join(", "),
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
        if report.hidden {
            writeln!(f, "deleted; kept because clones read from it: {}", names(&report.clones))?;
        }
        for from in &report.inherited {
            let (encrypted, plain) = (from.encrypted_bytes.unwrap_or(0), from.plain_bytes.unwrap_or(0));
            let disk = if from.hidden { DiskRef::Uuid(from.uuid).to_string() } else { from.name.clone() };
            writeln!(f, "reads from {disk}\n  {} encrypted, {} plain", size::human(encrypted), size::human(plain))?;
        }
        if let Some(base) = &report.base {
            writeln!(f, "lies over {}", text::path(&base.path))?;
            base.verity_lines().iter().try_for_each(|line| writeln!(f, "  fs-verity {line}"))?;
        }
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
            ("inherited from other disks", plain.inherited_bytes),
            ("overwritten since, not scrubbed yet", plain.pending_scrub_bytes),
        ] {
            write!(f, "\n  {why:<38} {}", size::human(bytes))?;
        }
        if plain.unaccounted_bytes > 0 {
            write!(f, "\n  {:<38} {}", "in no record of the disk", size::human(plain.unaccounted_bytes))?;
        }
        Ok(())
    }
}
