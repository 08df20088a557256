//! Receiving: what has arrived while there is other work, and waiting for more when there is none.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use super::connection::{Connection, poll};
use crate::serve::busy_poll::WATCH;

impl Connection {
    /// Whether a request has begun to arrive and its end has not.
    pub(super) fn within_request(&self) -> bool {
        self.payload.is_some() || !self.input.is_empty()
    }

    /// Receives what has arrived. `false`: nothing has.
    pub(super) fn receive(&mut self) -> io::Result<bool> {
        self.receive_some(false)
    }

    fn receive_some(&mut self, wait: bool) -> io::Result<bool> {
        let space = self.input.space();
        if space.is_empty() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        match self.channel.receive(space, wait) {
            Ok(0) => self.closing = true,
            Ok(received) => {
                self.input.received(received);
                self.arrived = Instant::now();
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// Receives, with nothing else to do.
    pub(super) fn receive_waiting(&mut self) -> io::Result<()> {
        // What is to come of a request is waited for as the request was: clients send header and payload one by one.
        if !self.within_request() {
            self.alone = std::mem::take(&mut self.taken) == 1;
        }
        if !self.alone {
            return self.receive_sleeping();
        }
        if self.watch()? {
            return Ok(());
        }
        let since = Instant::now();
        self.receive_sleeping()?;
        self.busy_poll.slept(self.arrived.saturating_duration_since(since));
        Ok(())
    }

    /// Looks out for what comes at once, if that is likely. `false`: nothing has come.
    fn watch(&mut self) -> io::Result<bool> {
        if !self.busy_poll.worth_watching() {
            return Ok(false);
        }
        let shared = Arc::clone(&self.shared);
        let Some(_place) = shared.lookouts.take() else { return Ok(false) };
        let since = Instant::now();
        loop {
            let came = self.receive()?;
            if came || since.elapsed() >= WATCH {
                self.busy_poll.watched(came);
                return Ok(came);
            }
        }
    }

    /// One system call while the client is busy, and after a while of silence a sleep that holds no buffers.
    fn receive_sleeping(&mut self) -> io::Result<()> {
        let since = Instant::now();
        while !self.receive_some(true)? {
            if self.within_request() {
                if since.elapsed() >= self.shared.config.limits.stall_timeout {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                continue;
            }
            self.input.rest();
            self.output.rest();
            self.finished.shrink_to_fit();
            let left = self.shared.config.limits.idle_timeout.map(|limit| limit.saturating_sub(since.elapsed()));
            let mut fds = [PollFd::from_borrowed_fd(self.channel.fd(), PollFlags::IN)];
            if poll(&mut fds, left)? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}
