//! How many lines a client can bring into the log: a burst, then so many a second; the rest is counted.

use std::time::Instant;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Limiter {
    burst: f64,
    per_second: f64,
    left: f64,
    since: Instant,
    suppressed: u64,
}

impl Limiter {
    pub(crate) fn new(burst: u32, per_second: f64, now: Instant) -> Self {
        Self { burst: burst.into(), per_second, left: burst.into(), since: now, suppressed: 0 }
    }

    /// `Some`: the line may be written, and so many before it were not. `None`: it may not.
    pub(crate) fn allow(&mut self, now: Instant) -> Option<u64> {
        let gained = now.saturating_duration_since(self.since).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.burst);
        self.since = now;
        if self.left < 1.0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Lines that were not written since the last one that was.
    pub(crate) fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn after_the_burst_lines_come_at_the_rate_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut limiter = Limiter::new(3, 2.0, start);
        let written = (0..100).filter(|_| limiter.allow(start) == Some(0)).count();
        assert_eq!((written, limiter.suppressed()), (3, 97));
        assert_eq!(limiter.allow(start + Duration::from_millis(400)), None);
        assert_eq!(limiter.allow(start + Duration::from_millis(500)), Some(98));
        // Time that passed in silence gives no more than a burst.
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| limiter.allow(later).is_some()).count(), 3);
    }
}
