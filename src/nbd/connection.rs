//! Transmission: one client, one thread.
//!
//! The thread receives much at once, answers all complete requests in it, and sends the replies together. What the page
//! cache can answer is answered in place. What would wait for the disk goes to the [pool](crate::serve::workers) and is
//! answered when it comes back, in any order, by its cookie: a slow request never holds up a quick one.
//!
//! 1. Only this thread touches the socket, so a client that takes no replies holds up nobody but itself.
//! 2. It sleeps only when it has nothing to parse, nothing to write and nothing finished to answer.
//! 3. It never waits for memory: refused a buffer, it waits for a request of its own, or does the work itself in what
//!    is reserved for it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Config;
use super::input::Input;
use super::job::{Done, Job, Product, Tag, Work};
use super::output::{CONTROL, Output, ReplyTarget};
use super::read::{PIECE, Progress, ReadStream};
use super::request::{Cause, counted};
use super::session::Session;
use super::wire::transmission::Request;
use super::write::{Payload, Writing};
use crate::Error;
use crate::serve::buffers::{Buffers, Share};
use crate::serve::busy_poll::{BusyPoll, PollSlots};
use crate::serve::channel::Channel;
use crate::serve::client_log::Record;
use crate::serve::limits::Limits;
use crate::serve::workers::{CompletionQueue, Workers};

/// How long buffers are kept after the last request.
const REST_AFTER: Duration = Duration::from_secs(1);

/// What all connections of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) buffers: Arc<Buffers>,
    pub(super) workers: Arc<Workers>,
    /// New requests are answered "shutting down".
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) lookouts: PollSlots,
}

/// One client in transmission.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) session: Arc<Session>,
    pub(super) share: Arc<Share>,
    pub(super) channel: Channel,
    pub(super) input: Input,
    pub(super) output: Output,
    queue: Arc<CompletionQueue<Job>>,
    /// Jobs handed to the pool and not collected yet.
    jobs: usize,
    pub(super) finished: VecDeque<Done>,
    streams: VecDeque<ReadStream>,
    /// The request whose payload is arriving.
    pub(super) payload: Option<Payload>,
    /// Writes whose last byte has arrived but whose pieces are still with the pool.
    pub(super) writes: HashMap<u64, Writing>,
    pub(super) next_write: u64,
    /// No more requests are taken: the client said goodbye, or is gone.
    pub(super) closing: bool,
    /// When the last bytes were received. All complete requests are taken up before more is, so it is when any request
    /// that is taken up had arrived.
    pub(super) arrived: Instant,
    pub(super) busy_poll: BusyPoll,
    /// Requests taken up since there was last nothing to do.
    pub(super) taken: u32,
    /// It was one.
    pub(super) alone: bool,
    /// The [generation](Buffers::generation) of which no buffer is left here.
    generation: u64,
}

/// What stopped the parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stalled {
    /// More bytes of the client.
    Input,
    /// Room in the send buffer.
    Room,
    /// A request of this connection has to finish first.
    Job,
    /// Nothing is left to do but to finish.
    Nothing,
}

impl Connection {
    /// A tick, the longest time between two looks at the clock, for [`Channel::new`].
    pub(super) fn tick(limits: &Limits) -> Duration {
        REST_AFTER.min(limits.stall_timeout).min(limits.idle_timeout.unwrap_or(REST_AFTER))
    }

    pub(super) fn new(shared: Arc<Shared>, session: Session, channel: Channel, record: Record) -> io::Result<Self> {
        let share = Share::new(&shared.buffers);
        Ok(Self {
            session: Arc::new(session),
            input: Input::new(Arc::clone(&share)),
            output: Output::new(Arc::clone(&share), record),
            share,
            channel,
            queue: CompletionQueue::new()?,
            jobs: 0,
            finished: VecDeque::new(),
            streams: VecDeque::new(),
            payload: None,
            writes: HashMap::new(),
            next_write: 0,
            closing: false,
            arrived: Instant::now(),
            busy_poll: BusyPoll::new(),
            taken: 0,
            alone: false,
            generation: shared.buffers.generation(),
            shared,
        })
    }

    /// Serves the client until it leaves, breaks the protocol, or is cut off. All requests it has sent before leaving
    /// are carried out.
    pub(super) fn run(mut self) {
        let end = self.serve();
        self.shared.workers.abandon(&self.queue);
        self.channel.close();
        self.output.end(end.as_ref().err());
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let stalled = self.work()?;
            self.output.record.record_latency(self.in_flight());
            let blocked = !self.send()?;
            self.heed_generation();
            if self.closing && !blocked && self.in_flight() == 0 && self.finished.is_empty() && self.output.is_empty() {
                return Ok(());
            }
            match stalled {
                _ if blocked => self.wait(stalled, true)?,
                Stalled::Room if self.output.capacity_for(0) == 0 => return Err(io::ErrorKind::OutOfMemory.into()),
                Stalled::Room => {}
                Stalled::Input if self.in_flight() == 0 => self.receive_waiting()?,
                Stalled::Input if self.receive()? => {}
                Stalled::Input | Stalled::Job | Stalled::Nothing => self.wait(stalled, false)?,
            }
        }
    }

    /// Gives buffers back that are to be forgotten, as soon as nothing in them is needed.
    fn heed_generation(&mut self) {
        let now = self.shared.buffers.generation();
        if now != self.generation && self.input.rest() & self.output.rest() {
            self.generation = now;
        }
    }

    /// Requests that are not answered yet.
    fn in_flight(&self) -> usize {
        self.jobs + self.streams.len() + self.writes.len()
    }

    /// Does all that can be done without waiting for anybody.
    fn work(&mut self) -> io::Result<Stalled> {
        self.collect();
        if self.streams.front().is_some_and(ReadStream::exclusive) && !self.advance_streams()? {
            return Ok(Stalled::Room);
        }
        if !self.answer_finished() {
            return Ok(Stalled::Room);
        }
        let stalled = self.parse()?;
        let before = self.in_flight();
        if !self.advance_streams()? {
            return Ok(Stalled::Room);
        }
        // What was waited for may have just been answered, with no job left to wait for: look again.
        if stalled == Stalled::Job && self.in_flight() < before { Ok(Stalled::Room) } else { Ok(stalled) }
    }

    fn collect(&mut self) {
        if self.jobs > 0 {
            let before = self.finished.len();
            self.queue.collect(&mut self.finished);
            self.jobs -= self.finished.len() - before;
        }
    }

    /// Answers finished jobs. `false`: the send buffer is full.
    fn answer_finished(&mut self) -> bool {
        while let Some(done) = self.finished.pop_front() {
            if !self.output.room(CONTROL) {
                self.finished.push_front(done);
                return false;
            }
            if let Some(again) = self.answer(done) {
                self.finished.push_front(again);
                return false;
            }
        }
        true
    }

    /// Answers a finished job; gives it back when the send buffer has no room for it.
    fn answer(&mut self, done: Done) -> Option<Done> {
        match (done.tag, done.result) {
            (Tag::Whole(to), Ok(_)) => self.output.success(to),
            (Tag::Whole(to) | Tag::BlockStatus { to, .. }, Err(error)) => self.fail(to, &error),
            (Tag::WritePiece { write }, result) => self.piece_written(write, result.err()),
            (Tag::Read(mut stream), result) => {
                match result {
                    Ok(Product::Data { buffer, len }) => stream.supply(buffer, len),
                    Ok(_) => stream.warmed(),
                    Err(error) => stream.fail(error),
                }
                self.streams.push_back(stream);
            }
            (Tag::BlockStatus { to, length, contexts, one }, Ok(product)) => {
                let Product::Status(status) = product else { unreachable!("a status job brings a status") };
                if !self.output.block_status(to, &status, length, contexts, one) {
                    let tag = Tag::BlockStatus { to, length, contexts, one };
                    return Some(Done { tag, result: Ok(Product::Status(status)) });
                }
            }
        }
        None
    }

    /// Goes on with reads that are neither done nor waited for. `false`: the send buffer is full.
    fn advance_streams(&mut self) -> io::Result<bool> {
        while let Some(mut stream) = self.streams.pop_front() {
            let progress = stream.advance(&self.session.export.disk, &mut self.output, false);
            let full = progress == Progress::Full;
            self.resume_read(stream, progress)?;
            if full {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does what a read that came to a stop asks for.
    pub(super) fn resume_read(&mut self, mut stream: ReadStream, progress: Progress) -> io::Result<()> {
        let (len, warm) = match progress {
            Progress::Done => return Ok(()),
            Progress::Broken => return Err(io::Error::other("the disk failed in the middle of a reply")),
            Progress::Full => {
                // One whose bytes must stay together goes on before anything else is written.
                match stream.exclusive() {
                    true => self.streams.push_front(stream),
                    false => self.streams.push_back(stream),
                }
                return Ok(());
            }
            Progress::Cold { len } => (len as u64, false),
            Progress::Warm => (stream.remaining(), true),
        };
        let offset = stream.position();
        let Some(buffer) = self.share.take(len.min(PIECE as u64) as usize) else {
            // No memory to wait in: this thread reads into its send buffer.
            let progress = stream.advance(&self.session.export.disk, &mut self.output, true);
            return self.resume_read(stream, progress);
        };
        let work = match warm {
            true => Work::Warm { offset, length: len, buffer },
            false => Work::Read { offset, len: len as usize, buffer },
        };
        self.submit(work, Tag::Read(stream));
        Ok(())
    }

    /// Parses and carries out requests until something is lacking.
    fn parse(&mut self) -> io::Result<Stalled> {
        loop {
            if self.closing {
                return Ok(Stalled::Nothing);
            }
            if self.in_flight() >= self.shared.config.limits.max_in_flight {
                return Ok(Stalled::Job);
            }
            // Room for any answer that is no data, so that no request is given up half done.
            if self.streams.front().is_some_and(ReadStream::exclusive) || !self.output.room(CONTROL) {
                return Ok(Stalled::Room);
            }
            if let Some(stalled) = if self.payload.is_some() { self.take_payload() } else { self.take_request()? } {
                return Ok(stalled);
            }
        }
    }

    pub(super) fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn to(&self, request: &Request) -> ReplyTarget {
        let &Request { command, cookie, offset, length, .. } = request;
        let command = counted(command);
        ReplyTarget { style: self.session.style, cookie, offset, length, command, arrived: self.arrived }
    }

    /// Answers with an error of the disk. Needs room, as all answers do.
    pub(super) fn fail(&mut self, to: ReplyTarget, error: &Error) {
        self.output.failure(to, Cause::Disk(error), None);
    }

    /// Whether a request of this connection is with the pool, so that waiting for it makes sense.
    pub(super) fn has_jobs(&self) -> bool {
        self.jobs > 0
    }

    pub(super) fn submit(&mut self, work: Work, tag: Tag) {
        self.jobs += 1;
        let (session, stopping) = (Arc::clone(&self.session), Arc::clone(&self.shared.stopping));
        self.shared.workers.submit(&self.queue, Job { session, stopping, work, tag });
    }

    /// Sends what there is, without waiting. `false`: some of it is left.
    fn send(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match self.channel.send(self.output.unsent()) {
                Ok(sent) => self.output.sent(sent),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        self.channel.flush()
    }

    /// Sleeps until a job has finished, or the client sends (when `stalled` asks for it) or takes replies (when it is
    /// `blocked`).
    fn wait(&mut self, stalled: Stalled, blocked: bool) -> io::Result<()> {
        let mut interest = PollFlags::empty();
        if blocked {
            interest |= PollFlags::OUT;
        } else if stalled == Stalled::Input {
            interest |= PollFlags::IN;
        }
        // A client may take as long as it likes between requests, but not within one.
        let mid_request = stalled == Stalled::Input && self.within_request();
        let limit = (blocked || mid_request).then_some(self.shared.config.limits.stall_timeout);
        let Some(wakeup) = self.queue.sleep() else { return Ok(()) };
        let mut fds =
            [PollFd::from_borrowed_fd(wakeup, PollFlags::IN), PollFd::from_borrowed_fd(self.channel.fd(), interest)];
        let used = if interest.is_empty() { &mut fds[..1] } else { &mut fds[..] };
        let polled = poll(used, limit);
        let rang = !fds[0].revents().is_empty();
        self.queue.wake(rang);
        if polled? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if stalled == Stalled::Input && !blocked && !fds[1].revents().is_empty() {
            self.receive()?;
        }
        Ok(())
    }
}

pub(super) fn poll(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<usize> {
    let limit = limit.map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() });
    match rustix::event::poll(fds, limit.as_ref()) {
        // As if something had happened: the caller looks again.
        Err(rustix::io::Errno::INTR) => Ok(1),
        other => Ok(other?),
    }
}
