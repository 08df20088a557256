//! `key export`: the data key of one layer, for an auditor.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;

use crate::account::failure::Failure;
use crate::account::key_request::ProvenRequest;
use crate::account::lock::Hold;
use crate::account::name::BlobName;
use crate::account::refused::Refused;
use crate::account::registry::Keys;
use crate::account::session::{self, Session};
use crate::cli::context::{Context, Outcome};
use crate::cli::kek_options::KekOptions;
use crate::cli::unlock;
use crate::{Error, ErrorKind, text};

/// Write the data key of one layer to a file, for an auditor
///
/// 64 bytes: an AES-256-XTS key, as dm-crypt's aes-xts-plain64 and others take it. Whoever has it reads all that the
/// layer holds. The key-encryption key is asked for, also while the account is served. docs/security.md shows how to
/// check a layer with it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk key export disk1 --layer 3 --out ./layer3.key --yes-reveal")]
pub(in crate::cli) struct Export {
    /// BLOB or CONTAINER/BLOB
    name: BlobName,
    /// The layer; `sealdisk show` lists them
    #[arg(long, value_name = "ID")]
    layer: u32,
    /// A file that does not exist yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The key is to leave the account
    #[arg(long, required = true)]
    yes_reveal: bool,
    #[command(flatten)]
    key: KekOptions,
}

impl Export {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        let path = &context.account;
        let (settings, owner) = session::settings(path)?;
        settings.check_not_erased()?;
        settings.check_not_revoked()?;
        // Also where a server has the account open.
        let refused = Refused::ExportKey { name: self.name.clone(), layer: self.layer };
        let kek = unlock::kek_for(refused, context, &self.key, &settings, &owner)?;
        let out = &self.out;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out).map_err(|error| {
            let error = Error::io("cannot be made", error).at_path(out);
            if error.kind() == ErrorKind::AlreadyExists {
                error.hint("name a file that is not there yet")
            } else {
                error
            }
        })?;
        let reveal = || -> Result<(), Failure> {
            let session =
                Session::open(path, Hold::Exclusive, &|settings, _| Ok(Keys::Unlocked(settings.unlock(&kek)?)))?;
            let session = session.logged(context.audit_log.as_deref())?;
            let request = ProvenRequest::Export { name: self.name.clone(), layer: self.layer };
            let revealed: Result<(), Failure> = unlock::ask_proven(&session, &settings, &kek, request, &[file.as_fd()]);
            let closed = session.close();
            revealed?;
            Ok(closed?)
        };
        let revealed = reveal();
        if revealed.is_err() {
            // Best effort: it is empty.
            let _ = std::fs::remove_file(out);
        }
        revealed?;
        let document = serde_json::json!({ "name": self.name.to_string(), "layer": self.layer, "file": out });
        context.show(&document, format_args!("the data key of layer {} is in {}", self.layer, text::path(out)))
    }
}
