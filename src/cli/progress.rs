//! Progress bars: on standard error, and only where that is a terminal.
//!
//! A terminal may be stopped (Ctrl-S), or be read slowly or not at all. That holds up the thread that draws, and never
//! the work: the work stores numbers, and waits at its end for a bounded time until the bar is cleared.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::copy::convert::Phase;

/// The time between two drawings.
const REDRAW: Duration = Duration::from_millis(100);
/// How long the end of the work waits for a terminal that takes nothing.
const CLEAR_TIMEOUT: Duration = Duration::from_millis(500);

/// A bar over `total` bytes with rate and time left.
pub(super) fn bytes(total: u64, what: &'static str) -> Progress {
    Progress::new(
        total,
        what,
        "{msg:8} {bar:30} {binary_bytes:>11} of {binary_total_bytes} {binary_bytes_per_sec:>13} {eta:>4} left",
    )
}

/// What is shown of bytes whose number nobody knows before the end.
pub(super) fn stream(what: &'static str) -> Progress {
    Progress::new(0, what, "{msg:8} {binary_bytes:>11} {binary_bytes_per_sec:>13} {elapsed:>4}")
}

/// A bar over `total` things.
pub(super) fn count(total: u64, what: &'static str) -> Progress {
    Progress::new(total, what, "{msg:8} {bar:30} {pos} of {len}, {eta:>4} left")
}

/// What shows a copy and then its comparison: a bar for each.
pub(super) fn phases() -> impl FnMut(Phase, u64, u64) {
    let (mut bar, mut shown) = (bytes(0, "copy"), Phase::Copy);
    move |phase, done, total| {
        if phase != shown {
            shown = phase;
            bar = bytes(0, if phase == Phase::Copy { "copy" } else { "compare" });
        }
        bar.set_length(total);
        bar.set_position(done);
    }
}

/// How far some work has come, and the bar that shows it from the first position on. Dropping it clears the bar.
#[derive(Debug)]
pub(super) struct Progress {
    reached: Arc<Reached>,
    what: &'static str,
    template: &'static str,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    NotYet,
    Drawn(Drawing),
    /// No terminal, or no thread.
    Unseen,
}

#[derive(Debug)]
struct Reached {
    position: AtomicU64,
    length: AtomicU64,
}

/// The thread that draws, as the work sees it.
#[derive(Debug)]
struct Drawing {
    /// Dropping it tells the thread to end.
    end: Sender<()>,
    /// The thread's end of this goes when the bar is cleared.
    cleared: Receiver<()>,
}

impl Progress {
    fn new(total: u64, what: &'static str, template: &'static str) -> Self {
        let reached = Reached { position: AtomicU64::new(0), length: AtomicU64::new(total) };
        Self { reached: Arc::new(reached), what, template, shown: Shown::NotYet }
    }

    pub(super) fn set_length(&self, total: u64) {
        self.reached.length.store(total, Ordering::Relaxed);
    }

    pub(super) fn set_position(&mut self, position: u64) {
        self.reached.position.store(position, Ordering::Relaxed);
        if matches!(self.shown, Shown::NotYet) {
            self.shown = self.draw().map_or(Shown::Unseen, Shown::Drawn);
        }
    }

    /// Adds to the position.
    pub(super) fn add(&mut self, more: u64) {
        self.set_position(self.reached.position.load(Ordering::Relaxed).saturating_add(more));
    }

    /// Starts to draw, where there is a terminal and a thread can be had.
    fn draw(&self) -> Option<Drawing> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let (what, template, reached) = (self.what, self.template, Arc::clone(&self.reached));
        let ((end, ended), (clearing, cleared)) = (mpsc::channel(), mpsc::channel());
        let thread = std::thread::Builder::new().name("progress".into());
        let drawing = move || {
            let _clearing = clearing;
            draw_until(&ended, &reached, what, template);
        };
        thread.spawn(drawing).ok()?;
        Some(Drawing { end, cleared })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Drawn(Drawing { end, cleared }) = std::mem::replace(&mut self.shown, Shown::Unseen) {
            drop(end);
            // Where the terminal takes nothing, the thread stays behind.
            let _: std::result::Result<(), RecvTimeoutError> = cleared.recv_timeout(CLEAR_TIMEOUT);
        }
    }
}

/// Draws the bar anew until the other end of `ended` is dropped, and clears it.
fn draw_until(ended: &Receiver<()>, reached: &Reached, what: &'static str, template: &str) {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let bar = bar.with_style(style.progress_chars("=> ")).with_message(what);
    while ended.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
        bar.set_length(reached.length.load(Ordering::Relaxed));
        bar.set_position(reached.position.load(Ordering::Relaxed));
        bar.tick();
    }
    bar.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_counts_from_the_last_position() {
        let mut bar = bytes(10, "copy");
        bar.set_position(3);
        bar.add(4);
        bar.set_length(20);
        assert_eq!(bar.reached.position.load(Ordering::Relaxed), 7);
        assert_eq!(bar.reached.length.load(Ordering::Relaxed), 20);
    }
}
