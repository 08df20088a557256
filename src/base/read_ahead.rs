//! Reading ahead: what is copied is read by a thread of its own, while what came before is written or compared.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::{Error, ErrorKind, Result};

/// Pieces that are read, waited for or worked on at a time, at the most.
const DEPTH: usize = 3;
/// Bytes of all of them, but for one that is larger alone.
const BUDGET: usize = 16 << 20;

/// A piece as the reader made it: its offset, the length of what is in the buffer, and what else it knows of it.
pub type Read<X> = (u64, usize, X);

/// What the reader sends: its buffer goes back to it.
type Sent<X> = Result<Option<(Vec<u8>, Read<X>)>>;

/// The pieces, in order.
#[derive(Debug)]
pub struct Ahead<X> {
    full: Receiver<Sent<X>>,
    empty: Sender<Vec<u8>>,
    current: Option<Vec<u8>>,
}

impl<X> Ahead<X> {
    /// The next piece: its offset, its bytes, and what the reader added. `None`: that was the last.
    pub fn take(&mut self) -> Result<Option<(u64, &[u8], X)>> {
        if let Some(buf) = self.current.take() {
            // A reader that has ended needs no buffer.
            let _ = self.empty.send(buf);
        }
        let ended = |_| Error::new(ErrorKind::Io, "the thread that reads ahead has ended");
        let Some((buf, (at, len, more))) = self.full.recv().map_err(ended)?? else { return Ok(None) };
        let buf = self.current.insert(buf);
        Ok(Some((at, &buf[..len], more)))
    }
}

/// Calls `fill` again and again in another thread, each time with a buffer of `size` bytes, until it has nothing more
/// or fails, and gives `body` what it made. When `body` returns early, a call of `fill` that is under way is waited
/// for.
pub fn read_ahead<X: Send, R>(
    size: usize,
    mut fill: impl FnMut(&mut [u8]) -> Result<Option<Read<X>>> + Send,
    body: impl FnOnce(&mut Ahead<X>) -> Result<R>,
) -> Result<R> {
    let (send_full, full) = channel::<Sent<X>>();
    let (empty, take_empty) = channel::<Vec<u8>>();
    for _ in 0..(BUDGET / size.max(1)).clamp(1, DEPTH) {
        // The other end is here.
        let _ = empty.send(Vec::new());
    }
    thread::scope(|scope| {
        let reader = move || {
            while let Ok(mut buf) = take_empty.recv() {
                buf.resize(size, 0);
                let made = fill(&mut buf).map(|made| made.map(|made| (buf, made)));
                let more = matches!(made, Ok(Some(_)));
                if send_full.send(made).is_err() || !more {
                    return;
                }
            }
        };
        let started = thread::Builder::new().name("read-ahead".to_owned()).spawn_scoped(scope, reader);
        started.map_err(|e| Error::io("cannot start a thread", e))?;
        let mut ahead = Ahead { full, empty, current: None };
        // Both ends of the channels are gone after that, which ends the reader.
        body(&mut ahead)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces 0, 1, 2... of their own number; `last` is an error, or the end.
    fn numbers(last: u64, fails: bool) -> impl FnMut(&mut [u8]) -> Result<Option<Read<u64>>> + Send {
        let mut n = 0;
        move |buf| {
            if n == last {
                return if fails { Err(Error::new(ErrorKind::Cancelled, "enough")) } else { Ok(None) };
            }
            buf.fill(n as u8);
            n += 1;
            Ok(Some((n - 1, (n as usize * 7) % buf.len(), n)))
        }
    }

    #[test]
    fn pieces_come_in_order_and_then_the_end_or_the_error() {
        for fails in [false, true] {
            let mut expected = 0;
            let ended = read_ahead(64, numbers(100, fails), |ahead| {
                while let Some((at, bytes, more)) = ahead.take()? {
                    assert_eq!((at, more, bytes.len()), (expected, expected + 1, ((expected as usize + 1) * 7) % 64));
                    assert!(bytes.iter().all(|&byte| byte == at as u8));
                    expected += 1;
                }
                Ok(())
            });
            assert_eq!((expected, ended.is_err()), (100, fails));
        }
    }

    #[test]
    fn a_body_that_ends_early_ends_the_reader() {
        let taken = read_ahead(64, numbers(u64::MAX, false), |ahead| Ok(ahead.take()?.map(|(at, ..)| at)));
        assert_eq!(taken.expect("taken"), Some(0));
    }
}
