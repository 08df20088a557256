//! `show`: one disk.

use std::fmt;

use clap::Args;

use super::audit::names;
use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::size;
use super::table::Table;
use super::time;
use crate::account::disk_ref::DiskRef;
use crate::account::report::{Bytes, DiskReport};
use crate::account::request::Request;
use crate::text;

/// Show one disk: size, base, layers, keys, and how its bytes are stored
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk show disk1
  sealdisk show @9d2c0f5e-1c1e-4c5c-9d5e-1a2b3c4d5e6f
  sealdisk show web/root.vhd --json")]
pub(super) struct Show {
    /// BLOB or CONTAINER/BLOB; @UUID also names a deleted disk that clones read from
    name: DiskRef,
    #[command(flatten)]
    key: KekOptions,
}

impl Show {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let report: DiskReport = context.ask(&self.key, Request::Show { name: self.name }, &[])?;
        context.show(&report, Text(&report))?;
        if let Some(locked) = &report.locked {
            context.note_locked(locked);
        }
        Ok(())
    }
}

/// A disk for people.
#[derive(Debug)]
pub(super) struct Text<'a>(pub(super) &'a DiskReport);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(disk) = self;
        writeln!(f, "name        {}", disk.name)?;
        writeln!(f, "uuid        {}", disk.uuid)?;
        writeln!(f, "made        {}", time::utc(disk.created))?;
        writeln!(
            f,
            "size        {} ({} bytes, {} with the footer page)",
            size::human(disk.size_bytes),
            disk.size_bytes,
            disk.blob_bytes
        )?;
        if let Some(base) = &disk.base {
            writeln!(f, "base image  {} ({})", text::path(&base.path), size::human(base.size_bytes))?;
            base.verity_lines().iter().try_for_each(|line| writeln!(f, "fs-verity   {line}"))?;
        }
        if let Some(source) = &disk.clone_of {
            writeln!(f, "clone of    {source}")?;
        }
        if disk.hidden {
            writeln!(f, "deleted     kept because clones read from it")?;
        }
        if !disk.clones.is_empty() {
            writeln!(f, "clones      {}", names(&disk.clones))?;
        }
        let Bytes { base_bytes, plain_bytes, encrypted_bytes, zero_bytes, pending_scrub_bytes, unaccounted_bytes } =
            disk.bytes;
        for (state, bytes) in
            [("base", base_bytes), ("plain", plain_bytes), ("encrypted", encrypted_bytes), ("zero", zero_bytes)]
        {
            writeln!(f, "{state:<10}  {}", share(bytes, disk.blob_bytes))?;
        }
        write!(f, "to scrub    {}", pending(pending_scrub_bytes))?;
        if unaccounted_bytes > 0 {
            write!(f, "\nno record   {}", size::human(unaccounted_bytes))?;
        }
        if disk.layers.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&["LAYER", "STATE", "LIVE", "MADE", "KEY"], &[true, false, true, false, false]);
        for layer in &disk.layers {
            let key = layer.key.clone().unwrap_or_else(|| "-".to_owned());
            table.row(vec![
                layer.id.to_string(),
                layer.state.name().to_owned(),
                size::human(layer.live_bytes),
                time::utc(layer.created),
                key,
            ]);
        }
        write!(f, "\n\n{table}")
    }
}

/// `bytes` and what part of `all` they are; never 0 % or 100 % where that is not exactly so.
pub(super) fn share(bytes: u64, all: u64) -> String {
    let thousandths = if all == 0 { 0 } else { (u128::from(bytes) * 1000 / u128::from(all)) as u64 };
    let part = match thousandths {
        0 if bytes > 0 => "<0.1".to_owned(),
        _ => format!("{}.{}", thousandths / 10, thousandths % 10),
    };
    format!("{} ({part} %)", size::human(bytes))
}

/// Bytes that wait to be scrubbed.
pub(super) fn pending(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unknown until the disk has been looked through".to_owned(), size::human)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_cut_off_and_never_vanish() {
        assert_eq!(share(0, 1024), "0 B (0.0 %)");
        assert_eq!(share(512, 512), "512 B (100.0 %)");
        assert_eq!(share(1, 1 << 40), "1 B (<0.1 %)");
        assert_eq!(share((1 << 40) - 512, 1 << 40), "1023.9 GiB (99.9 %)");
        assert_eq!(share(0, 0), "0 B (0.0 %)");
    }
}
