//! `list`: the disks of the account.

use clap::Args;

use super::context::{self, Context, Outcome};
use super::size;
use super::table::Table;
use crate::account::report::Listed;
use crate::account::request::Request;
use crate::crypto::kek::KekOptions;

/// List the disks
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk list
  sealdisk list --json")]
pub(super) struct List {
    #[command(flatten)]
    key: KekOptions,
}

impl List {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let disks: Vec<Listed> = context.ask(&self.key, Request::List, &[])?;
        let mut table = Table::new(&["NAME", "SIZE", "BASE"], &[false, true, false]);
        for disk in &disks {
            let size = disk.size_bytes.map_or_else(|| "?".to_owned(), size::human);
            let base = disk.base.as_ref().map(|base| base.display().to_string()).or_else(|| disk.clone_of.clone());
            let base = base.unwrap_or_else(|| "-".to_owned());
            table.row(vec![context::marked(&disk.name, &disk.faults, disk.error.is_some()), size, base]);
        }
        context.show(&disks, table)?;
        for disk in &disks {
            if let Some(error) = &disk.error {
                context.note(format_args!("warning: {}: {}", disk.name, error.message));
            }
            context.note_faults(&disk.name, &disk.faults);
        }
        Ok(())
    }
}
