//! `list`: the disks of the account.

use clap::Args;

use super::context::{self, Context, Outcome};
use super::kek_options::KekOptions;
use super::size;
use super::table::Table;
use crate::account::disk_ref::DiskRef;
use crate::account::report::Listed;
use crate::account::request::Request;

/// List the disks
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk list
  sealdisk list --hidden
  sealdisk list --json")]
pub(super) struct List {
    /// Also deleted disks that clones still read from, by their UUID
    #[arg(long)]
    hidden: bool,
    #[command(flatten)]
    key: KekOptions,
}

impl List {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let disks = context.session(&self.key, &Request::List, |session| {
            let mut disks: Vec<Listed> = session.call(Request::List, &[])?;
            if self.hidden {
                let hidden: Vec<Listed> = session.call(Request::ListHidden, &[])?;
                disks.extend(hidden);
            }
            Ok(disks)
        })?;
        let mut table = Table::new(&["NAME", "SIZE", "BASE"], &[false, true, false]);
        for disk in &disks {
            let size = disk.size_bytes.map_or_else(|| "?".to_owned(), size::human);
            let base = disk.base.as_ref().map(|base| base.display().to_string()).or_else(|| disk.clone_of.clone());
            let base = base.unwrap_or_else(|| "-".to_owned());
            let name = if disk.hidden { DiskRef::Uuid(disk.uuid).to_string() } else { disk.name.clone() };
            let base = match (disk.hidden, base.as_str()) {
                (false, _) => base,
                (true, "-") => format!("deleted, was {}", disk.name),
                (true, _) => format!("{base} (deleted, was {})", disk.name),
            };
            table.row(vec![context::marked(&name, &disk.faults, disk.error.is_some()), size, base]);
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
