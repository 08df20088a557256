//! The thread of a server that reads certificates and access rules again when it is told to, and looks at their time
//! once a day. It is a thread of its own: a file system that hangs holds up neither a signal nor a client.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use crate::account::admission::Admission;
use crate::nbd::LocalAttach;
use crate::serve::Attach;
use crate::{Error, Result};

/// How often the log is told of certificates that are due.
const DAILY: Duration = Duration::from_secs(24 * 3600);

/// Leads to the thread, which ends with it.
#[derive(Debug, Clone)]
pub(super) struct Reload(SyncSender<()>);

impl Reload {
    pub(super) fn start(admission: Arc<Admission>, local_attach: LocalAttach) -> Result<Self> {
        // One wish may wait: more of them want nothing else.
        let (sender, wishes) = mpsc::sync_channel(1);
        let thread =
            std::thread::Builder::new().name("reload".into()).spawn(move || serve(&wishes, &admission, &local_attach));
        thread.map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(Self(sender))
    }

    /// Has everything read again, soon.
    pub(super) fn ask(&self) {
        // Full: it is about to be done. Without a thread nothing is left to be done.
        let _ = self.0.try_send(());
    }
}

fn serve(wishes: &Receiver<()>, admission: &Admission, local_attach: &LocalAttach) {
    admission.tell_terms();
    loop {
        match wishes.recv_timeout(DAILY) {
            Ok(()) if admission.reload().is_ok() => tell_who_exceeds(admission, local_attach),
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => admission.tell_terms(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Names the clients that have what the rules would not give them any more: they keep it until they leave.
fn tell_who_exceeds(admission: &Admission, local_attach: &LocalAttach) {
    let rules = admission.rules();
    for (client, _) in local_attach.clients() {
        if rules.exceeds(&client) {
            let (name, read_only) = (client.identity.name(), client.read_only);
            tracing::warn!(
                peer = %client.peer,
                client = name,
                export = %client.export,
                read_only,
                "attached under older access rules, which it keeps until it leaves"
            );
        }
    }
}
