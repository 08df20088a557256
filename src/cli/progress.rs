//! Progress bars: on standard error, and only where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `total` bytes with rate and time left.
pub(super) fn bytes(total: u64, what: &'static str) -> ProgressBar {
    bar(
        total,
        what,
        "{msg:8} {bar:30} {binary_bytes:>11} of {binary_total_bytes} {binary_bytes_per_sec:>13} {eta:>4} left",
    )
}

/// What is shown of bytes whose number nobody knows before the end.
pub(super) fn stream(what: &'static str) -> ProgressBar {
    bar(0, what, "{msg:8} {binary_bytes:>11} {binary_bytes_per_sec:>13} {elapsed:>4}")
}

/// A bar over `total` things.
pub(super) fn count(total: u64, what: &'static str) -> ProgressBar {
    bar(total, what, "{msg:8} {bar:30} {pos} of {len}, {eta:>4} left")
}

fn bar(total: u64, what: &'static str, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_message(what)
}
