//! `clone`: a disk that begins as another one is.

use std::path::{Path, PathBuf};

use clap::Args;

use super::context::{Context, Outcome};
use super::copying::{self, Copied, CopySource};
use super::kek_options::{IntoKekOptions, KekOptions};
use super::{reading, show, stop};
use crate::account::failure::Failure;
use crate::account::life_request::LifeRequest;
use crate::account::name::BlobName;
use crate::account::report::DiskReport;
use crate::account::session::Session;
use crate::account::view_name::ViewName;
use crate::confine::Needs;
use crate::copy::source::Seekable;
use crate::copy::{Stop, Stoppable};

/// Make a disk that begins as another one is, or as one of its snapshots is
///
/// At once and without copying: the clone reads what it has not written itself from a snapshot of the source, which is
/// kept for it. The source can go on, and be renamed or deleted; what the clone needs of it stays until the clone is
/// deleted. Clones of clones can go on to the 31st generation.
///
/// With --full everything is copied, so that the new disk needs nothing of the source, nor of its base image, and all
/// of it is encrypted while encryption is on. With --into the copy is made in another account, under the keys of that
/// one. What was written is read back and compared. Until it is whole the new disk is not served, and no verb but
/// delete takes it; when it was interrupted, the same command goes on. A disk that is being served is copied as it is
/// at the beginning.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk clone golden web1
  sealdisk clone disk1@before-upgrade rescue
  sealdisk clone disk1 disk1-sealed --full
  sealdisk clone disk1 disk1 --full --into /mnt/usb/account
  sealdisk clone disk1 disk1 --full --into /mnt/usb/account --into-key-command 'kms get usb'")]
pub(super) struct Clone {
    /// The disk, or its snapshot, to begin from
    #[arg(value_name = "NAME[@SNAPSHOT]")]
    source: ViewName,
    /// The name of the clone
    #[arg(value_name = "NEW")]
    name: BlobName,
    /// Copy everything
    #[arg(long)]
    full: bool,
    /// The account to make the copy in
    #[arg(long, value_name = "ACCOUNT", requires = "full")]
    into: Option<PathBuf>,
    #[command(flatten)]
    key: KekOptions,
    #[command(flatten)]
    into_key: IntoKekOptions,
}

impl Clone {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let shown = self.source.to_string();
        if self.full {
            let copied = self.copy(context)?;
            return context.show(&copied, format!("{}\n{}", copying::text(&copied, &shown), show::Text(&copied.disk)));
        }
        let request = LifeRequest::Clone { source: self.source, name: self.name };
        let report: DiskReport = context.ask(&self.key, request.into(), &[])?;
        context.show(&report, format_args!("made a clone of {shown}\n{}", show::Text(&report)))
    }

    fn copy(self, context: &Context) -> Result<Copied, Failure> {
        let Self { source, name, into, key, into_key, .. } = self;
        let stop = stop::on_signals()?;
        let reads = LifeRequest::Read { view: source.clone() };
        let writes = LifeRequest::Copied { name: name.clone(), done: 0, size: None };
        match into.filter(|into| !is_same(into, &context.account)) {
            // One session for both: it may hold the account.
            None => context.session(&key, &writes.into(), |session| {
                reading::confine(&[(&context.account, session)], Needs::default())?;
                copy(context, (session, &source), (session, &name), stop)
            }),
            Some(account) => {
                let other = Context { account, ..context.clone() };
                context.session(&key, &reads.into(), |here| {
                    other.session(&into_key.into(), &writes.into(), |there| {
                        reading::confine(&[(&context.account, here), (&other.account, there)], Needs::default())?;
                        copy(context, (here, &source), (there, &name), stop)
                    })
                })
            }
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().ok().is_some_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

fn copy(
    context: &Context,
    (here, view): (&Session, &ViewName),
    (there, name): (&Session, &BlobName),
    stop: Stop,
) -> Result<Copied, Failure> {
    let (reading, client) = copying::read(here, view)?;
    let mut pieces = Seekable(Stoppable::new(client, stop.clone()));
    let source =
        CopySource { pieces: &mut pieces, label: reading.source, stable: reading.stable, stop, changed: &|| Ok(None) };
    copying::copy(context, there, name, source, None)
}
