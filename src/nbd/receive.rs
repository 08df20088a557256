//! Receiving: what has arrived while there is other work, and waiting for more when there is none.

use std::io;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use super::connection::{Connection, poll};
use super::input::Input;
use crate::serve::busy_poll::WATCH;
use crate::serve::channel::Channel;

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
        let received = receive_into(&mut self.input, &mut self.channel, wait)?;
        Ok(self.heed(received))
    }

    /// Notes when bytes came, or that none will come any more. `false`: nothing has come.
    fn heed(&mut self, received: Option<usize>) -> bool {
        match received {
            None => return false,
            Some(0) => self.closing = true,
            Some(_) => self.arrived = Instant::now(),
        }
        true
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
        let Some(place) = self.shared.lookouts.take() else { return Ok(false) };
        let since = Instant::now();
        let received = loop {
            let received = receive_into(&mut self.input, &mut self.channel, false)?;
            if received.is_some() || since.elapsed() >= WATCH {
                break received;
            }
        };
        drop(place);
        self.busy_poll.watched(received.is_some());
        Ok(self.heed(received))
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

/// Receives what has arrived, or with `wait` what arrives within a tick: so many bytes. 0: the client sends no more;
/// `None`: nothing has come.
fn receive_into(input: &mut Input, channel: &mut Channel, wait: bool) -> io::Result<Option<usize>> {
    let space = input.space();
    if space.is_empty() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    match channel.receive(space, wait) {
        Ok(received) => {
            input.received(received);
            Ok(Some(received))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
