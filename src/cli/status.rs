//! `status`: the account.

use std::fmt;

use clap::Args;

use super::audit::names;
use super::context::{self, Context, Outcome};
use super::kek_options::KekOptions;
use super::show::{pending, share};
use super::size;
use super::table::Table;
use crate::account::report::{DiskState, HiddenStatus, ServerReport, Status as Report, Total};
use crate::account::request::Request;
use crate::text;

/// Clients that are shown at the most.
const SHOWN: usize = 32;

/// Show the account: its setting, its key, and how the bytes of its disks are stored
///
/// In numbers: base (in an image, as it came), plain (written while encryption was off), encrypted, zero (stored
/// nowhere), and what waits to be scrubbed: pages that were overwritten in another form and still lie in a file. Below,
/// the encrypted pages of each disk by data key; `current` is the key of what is written now. Where none is, encryption
/// is off, or the next write makes one. While the account is served, at the end who is attached.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk status
  sealdisk status --json")]
pub(super) struct Status {
    #[command(flatten)]
    key: KekOptions,
}

impl Status {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let report: Report = context.ask(&self.key, Request::Status, &[])?;
        context.show(&report, Text(&report))?;
        for disk in &report.disks {
            context.note_faults(&disk.name, &disk.faults);
            match &disk.state {
                DiskState::Failed { error } => {
                    context.note(format_args!("warning: {}: {}", disk.name, error.message));
                }
                DiskState::Known { keys, bytes, .. } => {
                    context.note_unaccounted(&disk.name, bytes.unaccounted_bytes);
                    for key in keys.iter().filter(|key| key.rotation_due) {
                        context.note_rotation_due(&disk.name, &key.key, key.sealed_blocks.unwrap_or_default());
                    }
                }
            }
        }
        if let Some(locked) = &report.locked {
            context.note_locked(locked);
        }
        Ok(())
    }
}

struct Text<'a>(&'a Report);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(account) = self;
        writeln!(f, "encryption  {}", account.encryption.name())?;
        let revoked = if account.revoked { ", revoked" } else { "" };
        writeln!(f, "key         {} (version {}{revoked})", text::line(&account.key_source), account.kek_version)?;
        if account.reencryption_pending {
            writeln!(f, "re-encrypt  unfinished: ask for `sealdisk key rotate-kek --compromised` again")?;
        }
        if let Some(server) = &account.server {
            let buffers = size::human(server.limits.buffer_bytes as u64);
            writeln!(
                f,
                "server      {} connections, {} idle disks, {buffers} of buffers, {} disk threads, {} descriptors",
                server.limits.connections,
                server.limits.idle_disks,
                server.limits.disk_threads,
                server.limits.descriptors.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string()),
            )?;
            if let Some(access) = &server.access {
                writeln!(f, "access      by the rules of {}", text::path(access))?;
            }
        }
        let Total { stored, pending_scrub_bytes, unknown_disks } = account.total;
        let (plain, encrypted) = (size::human(stored.stored_plain_bytes), size::human(stored.stored_encrypted_bytes));
        write!(f, "stored      {plain} plain, {encrypted} encrypted, {} to scrub", to_scrub(pending_scrub_bytes))?;
        if unknown_disks > 0 {
            write!(f, "; {unknown_disks} disks not counted")?;
        }
        write!(f, "\ndisks       {}", account.disks.len())?;
        if !account.hidden.is_empty() {
            write!(f, ", and {} deleted that clones read from", account.hidden.len())?;
        }
        if account.disks.is_empty() {
            return Ok(());
        }
        let heading = ["NAME", "SIZE", "BASE", "PLAIN", "ENCRYPTED", "ZERO", "TO SCRUB"];
        let mut table = Table::new(&heading, &[false, true, true, true, true, true, true]);
        for disk in &account.disks {
            let failed = matches!(disk.state, DiskState::Failed { .. });
            let mut row = vec![context::marked(&disk.name, &disk.faults, failed)];
            match &disk.state {
                DiskState::Known { size_bytes, bytes, .. } => {
                    let all = bytes.base_bytes + bytes.plain_bytes + bytes.encrypted_bytes + bytes.zero_bytes;
                    row.push(size::human(*size_bytes));
                    let parts = [bytes.base_bytes, bytes.plain_bytes, bytes.encrypted_bytes, bytes.zero_bytes];
                    row.extend(parts.map(|part| share(part, all)));
                    row.push(to_scrub(bytes.pending_scrub_bytes));
                }
                DiskState::Failed { .. } => row.extend(std::iter::repeat_n("?".to_owned(), 6)),
            }
            table.row(row);
        }
        write!(f, "\n\n{table}")?;
        hidden(f, &account.hidden)?;
        let heading = ["NAME", "KEY", "PAGES", "ENCRYPTED", "NEW WRITES"];
        let mut table = Table::new(&heading, &[false, false, true, true, false]);
        let mut any = false;
        for disk in &account.disks {
            let DiskState::Known { keys, .. } = &disk.state else { continue };
            for key in keys {
                any = true;
                let current = if key.current { "current" } else { "" };
                table.row(vec![
                    disk.name.clone(),
                    key.key.clone(),
                    key.pages.to_string(),
                    size::human(key.bytes),
                    current.to_owned(),
                ]);
            }
        }
        if any {
            write!(f, "\n\n{table}")?;
        }
        match &account.server {
            Some(server) if !server.clients.is_empty() => write!(f, "\n\n{}", clients(server)),
            _ => Ok(()),
        }
    }
}

fn to_scrub(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unknown".to_owned(), |bytes| pending(Some(bytes)))
}

/// Deleted disks, by the UUID that still names them.
fn hidden(f: &mut fmt::Formatter<'_>, disks: &[HiddenStatus]) -> fmt::Result {
    if !disks.is_empty() {
        write!(f, "\n\ndeleted, and kept because clones read from them")?;
    }
    for disk in disks {
        write!(f, "\n  @{} (was {})", disk.uuid, disk.name)?;
        match &disk.state {
            DiskState::Known { bytes, stored, .. } => {
                let (plain, encrypted) = (stored.stored_plain_bytes, stored.stored_encrypted_bytes);
                let scrub = to_scrub(bytes.pending_scrub_bytes);
                write!(
                    f,
                    "\n    {} plain, {} encrypted, {scrub} to scrub",
                    size::human(plain),
                    size::human(encrypted)
                )?;
            }
            DiskState::Failed { error } => write!(f, "\n    cannot be opened: {}", error.message)?,
        }
        write!(f, "\n    read by {}", names(&disk.clones))?;
    }
    Ok(())
}

/// Who is attached; JSON has all of them.
fn clients(server: &ServerReport) -> Table {
    let heading = ["ATTACHED", "CLIENT", "SECONDS", "REQUESTS", "READ", "WRITTEN", ""];
    let mut table = Table::new(&heading, &[false, false, true, true, true, true, false]);
    for client in server.clients.iter().take(SHOWN) {
        let mode = [(client.tls, "TLS"), (client.read_only, "read-only")];
        let mode: Vec<_> = mode.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
        table.row(vec![
            client.export.clone(),
            client.certificate.first().map_or_else(|| client.peer.clone(), |name| format!("{name} {}", client.peer)),
            client.seconds.to_string(),
            client.requests.to_string(),
            size::human(client.read_bytes),
            size::human(client.written_bytes),
            mode.join(", "),
        ]);
    }
    if let left @ 1.. = server.clients.len().saturating_sub(SHOWN) {
        let mut row = vec![String::new(); heading.len()];
        row[0] = format!("and {left} more");
        table.row(row);
    }
    table
}
