//! Copying disks in and out: sparse, read back and compared, and able to go on after an interruption.
//!
//! A verb reads and writes files in its own process; disks it is handed as what can be read ([`Content`]) or written
//! ([`target::TargetDisk`]): a connection, served or not.
//!
//! - [`source`]: what is copied, piece by piece: anything that can be read at any place, or a stream.
//! - [`into_disk`]: into an unfinished disk. What is noted as done there is durable and was read back.
//! - [`out`]: to a stream. To a file: [`convert`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::Content;
use crate::{Error, ErrorKind, Result};

pub mod convert;
pub mod into_disk;
pub mod out;
pub mod source;
pub mod stream;
pub mod target;

/// Bytes looked at at a time.
pub const PIECE: usize = 4 << 20;

/// Whether the user wants no more of it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The user wants no more of it once `flag` is set.
    #[must_use]
    pub fn of(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// The program itself wants no more of it.
    pub fn now(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// [`ErrorKind::Cancelled`] once it is wanted.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Cancelled, "stopped"));
        }
        Ok(())
    }
}

/// Content that fails once a stop is wanted.
#[derive(Debug)]
pub struct Stoppable<C> {
    content: C,
    stop: Stop,
}

impl<C: Content> Stoppable<C> {
    pub fn new(content: C, stop: Stop) -> Self {
        Self { content, stop }
    }
}

impl<C: Content> Content for Stoppable<C> {
    fn size(&self) -> u64 {
        self.content.size()
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<u64>> {
        self.stop.check()?;
        self.content.next_data(offset)
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.stop.check()?;
        self.content.read_at(offset, buf)
    }
}
