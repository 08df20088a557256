//! `reencrypt`: what was stored before, under the current data key.

use std::time::{Duration, Instant};

use clap::Args;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::progress;
use super::size;
use crate::account::disk_ref::DiskRef;
use crate::account::failure::Failure;
use crate::account::key_request::KeyRequest;
use crate::account::reencrypt::{Reencrypted, Sweep};
use crate::account::report::{Listed, Switch};
use crate::account::request::Request;
use crate::account::session::Session;
use crate::{Error, ErrorKind};

/// How often to look whether encryption is on again.
const PAUSE: Duration = Duration::from_secs(1);

/// Encrypt what was stored before: pages in plaintext, and pages under an older data key
///
/// Clients go on meanwhile, and what they write wins. It can be ended at any time (Ctrl-C, a crash): started again it
/// goes on with what is left. It pauses while encryption is off, and nothing is ever decrypted. What a snapshot holds
/// stays as it is until the snapshot is deleted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk reencrypt disk1
  sealdisk reencrypt disk1 --include-base --rate 50M
  sealdisk reencrypt --all --detach")]
pub(super) struct Reencrypt {
    /// BLOB or CONTAINER/BLOB, or @UUID
    #[arg(required_unless_present = "all")]
    name: Option<DiskRef>,
    /// Every disk of the account
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// What is read from the base image, or in a clone from another disk, too: the disk then no longer needs it
    ///
    /// What is empty in an image stays empty. A clone is detached at the end from the disk that it is a clone of,
    /// unless a snapshot of it reads from there; what was kept of that disk for this clone alone goes.
    #[arg(long)]
    include_base: bool,
    /// Bytes a second at most: 50M
    #[arg(long, value_parser = size::parse, allow_negative_numbers = true)]
    rate: Option<u64>,
    /// Let the server do it, and return
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    key: KekOptions,
}

impl Reencrypt {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let like = Request::Encryption { set: Some(Switch::On) };
        let sweep = Sweep { include_base: self.include_base, rate: self.rate };
        let done = context.session(&self.key, &like, |session| {
            let names = match &self.name {
                Some(name) => vec![name.clone()],
                None => all(session)?,
            };
            if self.detach {
                return detach(session, names, sweep);
            }
            names.into_iter().map(|name| wait(context, session, name, sweep)).collect()
        })?;
        let text: Vec<String> = done.iter().map(|line| line["text"].as_str().unwrap_or_default().to_owned()).collect();
        let documents: Vec<_> = done.iter().map(|line| line["document"].clone()).collect();
        context.show(&documents, text.join("\n"))
    }
}

/// The disks of the account.
pub(super) fn all(session: &Session) -> Result<Vec<DiskRef>, Failure> {
    let listed: Vec<Listed> = session.call(Request::List, &[])?;
    listed.iter().map(|disk| disk.name.parse().map_err(Failure::from)).collect()
}

fn line(name: &DiskRef, text: String, document: &serde_json::Value) -> serde_json::Value {
    let mut document = document.clone();
    document["name"] = name.to_string().into();
    serde_json::json!({ "text": text, "document": document })
}

fn detach(session: &Session, names: Vec<DiskRef>, sweep: Sweep) -> Result<Vec<serde_json::Value>, Failure> {
    if !session.is_served() {
        return Err(Error::new(ErrorKind::InvalidInput, "no server has the account, so nobody would go on with it")
            .hint("without --detach it is done here")
            .into());
    }
    let started = names.into_iter().map(|name| {
        let () = session.call(KeyRequest::ReencryptDetached { name: name.clone(), sweep }.into(), &[])?;
        let text = format!("{name}: being re-encrypted; `sealdisk status` shows how far it is");
        Ok(line(&name, text, &serde_json::json!({ "detached": true })))
    });
    started.collect()
}

/// Re-encrypts a disk and shows how far it is; gives a line of text (`text`) and what it says for programs
/// (`document`).
pub(super) fn wait(
    context: &Context,
    session: &Session,
    name: DiskRef,
    sweep: Sweep,
) -> Result<serde_json::Value, Failure> {
    let mut bar = progress::bytes(0, "encrypt");
    let (mut page, mut total, mut stored, mut paused) = (0, None, 0, false);
    let end: Reencrypted = loop {
        let started = Instant::now();
        let request = KeyRequest::Reencrypt { name: name.clone(), page, sweep };
        let piece: Reencrypted = match session.call(request.into(), &[]) {
            // Refused at the start, waited for later on.
            Err(failure) if failure.kind == ErrorKind::InUse.name() && total.is_some() => {
                if !paused {
                    context.note(format_args!("{name}: paused: {}", failure.message));
                }
                paused = true;
                std::thread::sleep(PAUSE);
                continue;
            }
            answer => answer?,
        };
        paused = false;
        stored += piece.stored_bytes;
        let whole = *total.get_or_insert(piece.before_bytes);
        bar.set_length(whole);
        bar.set_position(whole.saturating_sub(piece.remaining_bytes));
        let Some(next) = piece.next else { break piece };
        page = next;
        std::thread::sleep(sweep.pace(piece.stored_bytes).saturating_sub(started.elapsed()));
    };
    drop(bar);
    let let_go = match (end.base_detached, end.parent_detached) {
        (true, _) => "; it no longer needs its base image",
        (_, true) => "; it is no longer a clone",
        _ => "",
    };
    let text = match end.remaining_bytes {
        0 if stored == 0 => format!("{name}: all that it holds itself was under the current key already{let_go}"),
        0 => format!(
            "{name}: {} encrypted anew; all that it holds itself is under the current key{let_go}",
            size::human(stored)
        ),
        left => format!("{name}: done, and {} were written in another way meanwhile{let_go}", size::human(left)),
    };
    let document = serde_json::json!({
        "total_bytes": total.unwrap_or_default(),
        "stored_bytes": stored,
        "remaining_bytes": end.remaining_bytes,
        "base_detached": end.base_detached,
        "parent_detached": end.parent_detached,
        "detached": false,
    });
    Ok(line(&name, text, &document))
}
