//! The thread of a server that reads certificates again when it is told to, and looks at their time once a day. It is a
//! thread of its own: a file system that hangs holds up neither a signal nor a client.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use crate::account::admission::Admission;
use crate::{Error, Result};

/// How often the log is told of certificates that are due.
const DAILY: Duration = Duration::from_secs(24 * 3600);

/// Leads to the thread, which ends with it.
#[derive(Debug, Clone)]
pub(super) struct Reload(SyncSender<()>);

impl Reload {
    pub(super) fn start(admission: Arc<Admission>) -> Result<Self> {
        // One wish may wait: more of them want nothing else.
        let (sender, wishes) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("reload".into()).spawn(move || serve(&wishes, &admission));
        thread.map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(Self(sender))
    }

    /// Has everything read again, soon.
    pub(super) fn ask(&self) {
        // Full: it is about to be done. Without a thread nothing is left to be done.
        let _ = self.0.try_send(());
    }
}

fn serve(wishes: &Receiver<()>, admission: &Admission) {
    admission.tell_terms();
    loop {
        match wishes.recv_timeout(DAILY) {
            Ok(()) => admission.reload(),
            Err(RecvTimeoutError::Timeout) => admission.tell_terms(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
