//! What the verbs share that copy: a connection to a disk, and a copy into a new one from begin to end.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::Serialize;

use super::context::Context;
use super::{progress, size};
use crate::account::copies::{Copying, Reading};
use crate::account::failure::Failure;
use crate::account::life_request::LifeRequest;
use crate::account::name::BlobName;
use crate::account::report::DiskReport;
use crate::account::session::Session;
use crate::account::view_name::ViewName;
use crate::copy::Stop;
use crate::copy::into_disk::{self, Begin, Target};
use crate::copy::source::Pieces;
use crate::nbd::client::Client;
use crate::{Error, ErrorKind, Result, text};

/// Bytes that a disk has at first whose size only the end of its source tells.
const GROWING: u64 = 1 << 30;

/// What is copied.
pub(super) struct CopySource<'a> {
    pub(super) pieces: &'a mut dyn Pieces,
    /// What tells it from others.
    pub(super) label: String,
    /// It reads the same another time.
    pub(super) stable: bool,
    /// What its reading ends by.
    pub(super) stop: Stop,
    /// Called at the end: the error to report when it is no longer what it was.
    pub(super) changed: &'a dyn Fn() -> Result<Option<Error>>,
}

/// What a copy made.
#[derive(Debug, Serialize)]
pub(super) struct Copied {
    #[serde(flatten)]
    pub(super) disk: DiskReport,
    /// Bytes that were stored: the rest is zeros, or was there from an earlier attempt.
    pub(super) written_bytes: u64,
    /// It went on with what an earlier attempt had begun.
    pub(super) resumed: bool,
    pub(super) verified: bool,
    /// The files that an image was read from: itself, its parent, and so on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) files: Vec<PathBuf>,
}

fn pair() -> Result<(UnixStream, UnixStream)> {
    UnixStream::pair().map_err(|e| Error::io("cannot make a pair of sockets", e))
}

/// Attaches what `view` names.
pub(super) fn read(session: &Session, view: &ViewName) -> Result<(Reading, Client), Failure> {
    let (near, far) = pair()?;
    let request = LifeRequest::Read { view: view.clone() };
    let reading: Reading = session.call(request.into(), &[far.as_fd()])?;
    let client = Client::attached(near, reading.size_bytes, reading.terms());
    Ok((reading, client))
}

/// Copies into the disk `name`: a new one, or the one that an earlier attempt began. It has `size` bytes at the end, if
/// not as many as the source.
pub(super) fn copy(
    context: &Context,
    session: &Session,
    name: &BlobName,
    source: CopySource<'_>,
    size: Option<u64>,
) -> Result<Copied, Failure> {
    let total = source.pieces.size();
    let first = size.or(total).unwrap_or(GROWING);
    let (near, far) = pair()?;
    let request = LifeRequest::Copy { name: name.clone(), size: first, source: source.label };
    let copying: Copying = session.call(request.into(), &[far.as_fd()])?;
    drop(far);
    let begin = match (copying.resumed, source.stable) {
        (false, _) => Begin::New,
        (true, true) => Begin::After(copying.done_bytes),
        (true, false) => Begin::Compare,
    };
    if let (true, Begin::After(done)) = (copying.resumed, begin) {
        context.note(format_args!("going on after {}", size::human(done)));
    }
    let mut client = Client::attached(near, copying.size_bytes, copying.terms());
    let mut bar = match total {
        Some(total) => progress::bytes(total, "copy"),
        None => progress::stream("copy"),
    };
    let reached = Cell::new(0);
    let mut note = |done, size| {
        let request = LifeRequest::Copied { name: name.clone(), done, size };
        // The server's own words say more than an error without its hint.
        session.call::<()>(request.into(), &[]).map_err(|failure| {
            let error = Error::new(ErrorKind::Io, failure.message);
            failure.hint.into_iter().fold(error, Error::hint)
        })
    };
    let target = Target { disk: &mut client, note: &mut note };
    let copied = into_disk::copy(source.pieces, target, begin, &source.stop, &mut |done| {
        reached.set(done);
        bar.set_position(done);
    });
    drop(bar);
    // Also after a failure: what is left can only be gone on with from the same source.
    let changed = (source.changed)();
    let is_changed = matches!(changed, Ok(Some(_)));
    let copied = copied.and_then(|copied| changed?.map_or(Ok(copied), Err));
    // Its connection ends before anything else is asked about the disk.
    drop(client);
    let finish = |copied: into_disk::Done| -> Result<DiskReport, Failure> {
        let size = Some(size.unwrap_or(copied.size));
        session.call(LifeRequest::FinishCopy { name: name.clone(), size }.into(), &[])
    };
    match copied.map_err(Failure::from).and_then(|copied| Ok((finish(copied)?, copied.written))) {
        Ok((disk, written_bytes)) => {
            let resumed = copying.resumed;
            Ok(Copied { disk, written_bytes, resumed, verified: true, files: Vec::new() })
        }
        Err(failure) => Err(unfinished(failure, name, reached.get(), is_changed)),
    }
}

/// Says what became of the disk, and what can be done with it.
fn unfinished(mut failure: Failure, name: &BlobName, reached: u64, source_changed: bool) -> Failure {
    if failure.kind == ErrorKind::Cancelled.name() {
        failure.message = format!("stopped after {}", size::human(reached));
    }
    failure.message += &format!("; the disk \"{name}\" is unfinished, and nobody else can use it");
    failure.hint = Some(match (failure.hint, source_changed) {
        // What is there is of a source that no longer exists.
        (_, true) => format!("`sealdisk delete {name}` drops it; then copy again, from a source that stays as it is"),
        (Some(hint), false) => format!("{hint}; then the same command goes on, `sealdisk delete {name}` drops it"),
        (None, false) => format!("the same command goes on, `sealdisk delete {name}` drops it"),
    });
    failure.details.insert("unfinished".to_owned(), name.to_string().into());
    failure
}

/// What a copy made, for people.
pub(super) fn text(copied: &Copied, from: &str) -> String {
    let (all, written) = (size::human(copied.disk.size_bytes), size::human(copied.written_bytes));
    format!("copied {} to {}: {all}, {written} of it written; compared", text::line(from), copied.disk.name)
}
