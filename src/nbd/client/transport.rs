//! The bytes to a server and from it, and how long they are waited for.
//!
//! Another program's server may be broken or hostile. What is waited for it in all is paid from a budget that holds
//! [`WaitBudget::idle`] at the most, and that only progress fills: a step of the handshake fills it up, a byte of the
//! export that became known, by its content or by its status, adds the time of one byte at [`LEAST_RATE`]. So one that
//! works as slowly as that is waited for as long as it takes, and neither silence nor any trickle of bytes holds
//! anybody for more than the budget.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::super::uri::{Place, Uri};
use crate::{Error, ErrorKind, Result};

/// How often the wish to stop is looked at while nothing comes. Also what one wait counts at the most: a process that
/// was stopped for an hour has not waited for it.
const TICK: Duration = Duration::from_millis(200);
/// Bytes of an export in a second that are progress enough.
pub const LEAST_RATE: u64 = 1024;
/// Characters of a server's own words that are shown.
const WORDS: usize = 200;

/// What a connection runs over. A read or write that takes long may fail with [`io::ErrorKind::WouldBlock`] and is
/// tried again.
pub(super) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// How long a server is waited for that may be anybody's.
pub struct WaitBudget {
    idle: Duration,
    left: Duration,
    /// Asked while nothing comes; its error ends the waiting.
    check: Box<dyn Fn() -> Result<()> + Send>,
}

impl WaitBudget {
    /// Of `idle`. `check` is called several times a second while a server is waited for.
    pub fn new(idle: Duration, check: impl Fn() -> Result<()> + Send + 'static) -> Self {
        Self { idle, left: idle, check: Box::new(check) }
    }

    /// Pays for a wait. `false`: it took the last.
    fn pay(&mut self, waited: Duration) -> Result<bool> {
        (self.check)()?;
        self.left = self.left.saturating_sub(waited.min(TICK));
        Ok(!self.left.is_zero())
    }

    fn earn(&mut self, bytes: u64) {
        let earned = Duration::from_micros(bytes.min(1 << 40) * 1_000_000 / LEAST_RATE);
        self.left = self.left.saturating_add(earned).min(self.idle);
    }
}

impl fmt::Debug for WaitBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitBudget").field("idle", &self.idle).field("left", &self.left).finish_non_exhaustive()
    }
}

/// A connection, and whose server is at its other end.
pub(super) struct Transport {
    stream: Box<dyn Stream>,
    /// As messages call the server.
    peer: String,
    /// `None`: it is one of this program, and waited for as long as it takes.
    budget: Option<WaitBudget>,
}

impl Transport {
    pub(super) fn new(stream: Box<dyn Stream>, peer: String, budget: Option<WaitBudget>) -> Self {
        Self { stream, peer, budget }
    }

    /// Reaches the server of a URI.
    pub(super) fn reach(uri: &Uri, mut budget: WaitBudget) -> Result<Self> {
        let peer = format!("the NBD server of {uri}");
        let place = uri.place.clone();
        let (sender, receiver) = mpsc::channel();
        // In a thread of its own, which is left behind when it takes too long: looking up a name, or a listener whose
        // queue is full, cannot be interrupted.
        let dial = move || drop(sender.send(dial(&place)));
        let thread = std::thread::Builder::new().name("nbd-connect".to_owned()).spawn(dial);
        thread.map_err(|e| Error::io("cannot start a thread", e))?;
        let stream = loop {
            match receiver.recv_timeout(TICK) {
                Ok(stream) => break stream.map_err(|e| Error::io(format!("cannot reach {peer}"), e))?,
                Err(RecvTimeoutError::Timeout) if budget.pay(TICK)? => {}
                Err(_) => return Err(Error::new(ErrorKind::Io, format!("cannot reach {peer}: it does not answer"))),
            }
        };
        budget.left = budget.idle;
        Ok(Self::new(stream, peer, Some(budget)))
    }

    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// What the server said breaks the protocol.
    pub(super) fn broken(&self, what: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Io, format!("{} sent nonsense: {what}", self.peer))
    }

    /// A step is done that can only be done once.
    pub(super) fn step(&mut self) {
        if let Some(budget) = &mut self.budget {
            budget.left = budget.idle;
        }
    }

    /// So many bytes of the export became known.
    pub(super) fn progress(&mut self, bytes: u64) {
        if let Some(budget) = &mut self.budget {
            budget.earn(bytes);
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        self.budget.as_ref().map_or(Ok(()), |budget| (budget.check)())
    }

    pub(super) fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let sent = self.wait(|stream| stream.write(bytes))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// One attempt: the server may be gone.
    pub(super) fn send_if_possible(&mut self, bytes: &[u8]) {
        let _ = self.stream.write(bytes);
    }

    pub(super) fn fill(&mut self, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let got = self.wait(|stream| stream.read(buf))?;
            buf = &mut buf[got..];
        }
        Ok(())
    }

    /// Fills `buf` with content of the export, each byte of which is progress.
    pub(super) fn fill_content(&mut self, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let got = self.wait(|stream| stream.read(buf))?;
            self.progress(got as u64);
            buf = &mut buf[got..];
        }
        Ok(())
    }

    pub(super) fn receive<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// `len` bytes that are `what`, if there may be so many.
    pub(super) fn receive_vec(&mut self, len: u64, most: u64, what: &str) -> Result<Vec<u8>> {
        if len > most {
            return Err(self.broken(format_args!("{what} of {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Moves some bytes; at least one.
    fn wait(&mut self, mut step: impl FnMut(&mut dyn Stream) -> io::Result<usize>) -> Result<usize> {
        loop {
            let began = Instant::now();
            let moved = step(&mut *self.stream);
            let in_time = match &mut self.budget {
                Some(budget) => budget.pay(began.elapsed())?,
                None => true,
            };
            match moved {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                // Also where something came: otherwise a byte now and then would do.
                _ if !in_time => return Err(self.out_of_time()),
                Ok(bytes) => return Ok(bytes),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
                    _ => return Err(self.failed(error)),
                },
            }
        }
    }

    fn out_of_time(&self) -> Error {
        let idle = self.budget.as_ref().map_or(0, |budget| budget.idle.as_secs());
        let what = format!("{} was waited for in vain: nothing of use came for {idle} s", self.peer);
        Error::new(ErrorKind::Io, what).hint("if it only is slow: --nbd-timeout")
    }

    fn failed(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Error::new(ErrorKind::Shutdown, format!("{} ended the connection", self.peer))
            }
            _ => Error::io(format!("the connection to {} failed", self.peer), error),
        }
    }
}

/// Connects, with time-outs of a tick.
fn dial(place: &Place) -> io::Result<Box<dyn Stream>> {
    match place {
        Place::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TICK))?;
            stream.set_write_timeout(Some(TICK))?;
            Ok(Box::new(stream))
        }
        Place::Tcp(host, port) => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
            for address in (host.as_str(), *port).to_socket_addrs()? {
                match TcpStream::connect(address) {
                    Ok(stream) => {
                        stream.set_read_timeout(Some(TICK))?;
                        stream.set_write_timeout(Some(TICK))?;
                        stream.set_nodelay(true)?;
                        return Ok(Box::new(stream));
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

/// A server's own words, fit for one line of a terminal.
pub(super) fn words(bytes: &[u8]) -> String {
    let hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    String::from_utf8_lossy(bytes).chars().filter(|&c| !hidden(c)).take(WORDS).collect()
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}

pub(super) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that gives a byte each time it is asked, after so long.
    struct Drip(Duration);

    impl Read for Drip {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(self.0);
            buf[0] = 1;
            Ok(1)
        }
    }

    impl Write for Drip {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(every: Duration, idle: Duration) -> Transport {
        Transport::new(Box::new(Drip(every)), "the server".to_owned(), Some(WaitBudget::new(idle, || Ok(()))))
    }

    #[test]
    fn a_trickle_holds_nobody_and_content_at_the_least_rate_is_waited_for() {
        let (every, idle) = (Duration::from_millis(2), Duration::from_millis(40));
        // A byte in 2 ms is 500 a second: too slow, as content or as anything else.
        let mut buf = [0; 4096];
        for content in [false, true] {
            let mut transport = line(every, idle);
            let filled = if content { transport.fill_content(&mut buf) } else { transport.fill(&mut buf) };
            assert_eq!(filled.expect_err("too slow").kind(), ErrorKind::Io);
        }
        let mut fast = line(Duration::ZERO, Duration::from_millis(500));
        fast.fill_content(&mut buf).expect("fast enough");
        assert!(fast.budget.as_ref().is_some_and(|budget| !budget.left.is_zero()));
    }

    #[test]
    fn it_is_filled_by_progress_and_never_over_its_brim() {
        let mut budget = WaitBudget::new(Duration::from_secs(10), || Ok(()));
        for _ in 0..20 {
            // Stopped for an hour: that counts as one tick.
            assert!(budget.pay(Duration::from_secs(3600)).expect("paid"));
        }
        assert_eq!(budget.left, Duration::from_secs(6));
        budget.earn(LEAST_RATE);
        assert_eq!(budget.left, Duration::from_secs(7));
        budget.earn(u64::MAX);
        assert_eq!(budget.left, Duration::from_secs(10));
        let mut stopped = WaitBudget::new(Duration::from_secs(10), || Err(Error::new(ErrorKind::Cancelled, "stopped")));
        assert_eq!(stopped.pay(Duration::ZERO).expect_err("stopped").kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn words_are_one_plain_line() {
        assert_eq!(words(b"a\x1b[31mb\r\nc\xff"), "a[31mbc\u{fffd}");
        assert_eq!(words("\u{202e}x\u{2028}".as_bytes()), "x");
        assert_eq!(words(&[b'x'; 5000]).len(), WORDS);
    }
}
