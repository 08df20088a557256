//! The limits of a server, fitted to the descriptors that the system gives it.

use crate::account::registry::IDLE_DISKS;
use crate::account::report::ServerLimits;
use crate::serve::Limits;
use crate::{Error, ErrorKind, Result};

/// Sockets that listen, control connections, metrics, and what a verb opens for a while.
const FIXED: u64 = 96;
/// A socket and a wakeup.
const OF_CONNECTION: u64 = 2;
/// Directories, keys, log, the file of recent changes, base and a few layers. One with many snapshots takes more.
pub(super) const OF_DISK: u64 = 12;

/// Lowers the number of connections, and of idle disks, to what fits, if each client attaches a disk of its own.
/// [`ErrorKind::LimitExceeded`]: not even a few do.
pub(super) fn fit(descriptors: Option<u64>, limits: &mut Limits) -> Result<ServerLimits> {
    let mut idle_disks = IDLE_DISKS;
    if let Some(limit) = descriptors {
        let left = limit.saturating_sub(FIXED);
        // Clients that say nothing are to leave room for those that do.
        limits.max_handshakes = limits.max_handshakes.min((left / 4) as usize);
        let left = left - limits.max_handshakes as u64;
        idle_disks = idle_disks.min((left / 4 / OF_DISK) as usize);
        let left = left - idle_disks as u64 * OF_DISK;
        let connections = (left / (OF_CONNECTION + OF_DISK)) as usize;
        if connections < 4 {
            return Err(Error::new(ErrorKind::LimitExceeded, format!("{limit} descriptors are too few for a server"))
                .hint("raise the limit: `ulimit -n 1024`, or LimitNOFILE= in the unit"));
        }
        if connections < limits.max_connections {
            tracing::warn!(
                descriptors = limit,
                asked = limits.max_connections,
                connections,
                "the limit of descriptors allows fewer clients than asked for"
            );
            limits.max_connections = connections;
        }
    }
    Ok(ServerLimits {
        descriptors,
        connections: limits.max_connections,
        idle_disks,
        buffer_bytes: limits.budget,
        disk_threads: limits.workers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(descriptors: Option<u64>) -> (ServerLimits, usize) {
        let mut limits = Limits::default();
        (fit(descriptors, &mut limits).unwrap(), limits.max_handshakes)
    }

    #[test]
    fn what_fits_stays_within_the_descriptors() {
        for limit in [256, 1024, 2048, 4096] {
            let (fitted, handshakes) = fitted(Some(limit));
            let needed = FIXED
                + handshakes as u64
                + fitted.idle_disks as u64 * OF_DISK
                + fitted.connections as u64 * (OF_CONNECTION + OF_DISK);
            assert!(needed <= limit && fitted.idle_disks > 0, "{limit}: {fitted:?} take {needed}");
        }
    }

    #[test]
    fn nothing_is_lowered_without_need() {
        for limit in [None, Some(4096), Some(1 << 20)] {
            let (fitted, handshakes) = fitted(limit);
            assert_eq!((fitted.connections, fitted.idle_disks, handshakes), (100, IDLE_DISKS, 128), "{limit:?}");
        }
    }

    #[test]
    fn too_few_are_refused() {
        let error = fit(Some(100), &mut Limits::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    }
}
