//! The signals that stop a copy: it ends in order, and the same command goes on with it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::signals::EndSignals;
use crate::copy::Stop;
use crate::{Error, Result};

const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// A stop that is wanted once SIGINT or SIGTERM comes. A later one ends the process at once: see [`EndSignals`].
pub(super) fn on_signals() -> Result<Stop> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in SIGNALS {
        // In the handler itself: the call that it interrupts finds the flag set.
        flag::register(signal, Arc::clone(&flag)).map_err(|e| Error::io("cannot wait for signals", e))?;
    }
    EndSignals::take(&SIGNALS)?.hear(|_| false, |_| (), |signal| 128 + signal)?;
    Ok(Stop::of(flag))
}
