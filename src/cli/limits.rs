//! The limits of the NBD server as options of `serve`.

use std::time::Duration;

use clap::Args;

use super::size;
use crate::nbd::Config;
use crate::{Error, ErrorKind, Result};

/// Every one left out keeps the default of [`Config`].
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitOptions {
    /// Clients attached at once [default: 100]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Handshakes under way at once; the oldest makes room [default: 128]
    #[arg(long, value_name = "N")]
    max_handshakes: Option<usize>,
    /// Time that a client may take for a handshake [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    handshake_timeout: Option<Duration>,
    /// Options in one handshake [default: 65536]
    #[arg(long, value_name = "N")]
    max_options: Option<usize>,
    /// Data of one option [default: 64K]
    #[arg(long, value_name = "SIZE", value_parser = bytes_u32)]
    max_option_bytes: Option<u32>,
    /// Bytes of an export name or a metadata query [default: 4096]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_name: Option<usize>,
    /// Metadata queries in one option [default: 256]
    #[arg(long, value_name = "N")]
    max_queries: Option<u32>,
    /// One read or write [default: 32M]
    #[arg(long, value_name = "SIZE", value_parser = bytes_u32)]
    max_request: Option<u32>,
    /// Requests of one client that wait for the disk [default: 1024]
    #[arg(long, value_name = "N")]
    max_in_flight: Option<usize>,
    /// Buffers of all clients together [default: 96M]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    buffer_budget: Option<usize>,
    /// Threads that wait for the disk [default: 64]
    #[arg(long, value_name = "N")]
    disk_threads: Option<usize>,
    /// Let go a client that asks nothing for so long [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle_timeout: Option<Duration>,
    /// Cut off a client that stops within a request, or takes no replies [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    stall_timeout: Option<Duration>,
    /// Answer attached clients "shutting down" for so long at the end; 0 lets clients that attach again by themselves
    /// go on over a restart [default: 0.5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    shutdown_grace: Option<Duration>,
}

impl LimitOptions {
    pub(super) fn apply(self, config: &mut Config) {
        fn set<T>(value: Option<T>, limit: &mut T) {
            if let Some(value) = value {
                *limit = value;
            }
        }
        set(self.max_connections, &mut config.limits.max_connections);
        set(self.max_handshakes, &mut config.limits.max_handshakes);
        set(self.handshake_timeout, &mut config.limits.handshake_timeout);
        set(self.max_options, &mut config.max_options);
        set(self.max_option_bytes, &mut config.max_option_bytes);
        set(self.max_name, &mut config.max_name);
        set(self.max_queries, &mut config.max_queries);
        set(self.max_request, &mut config.max_request);
        set(self.max_in_flight, &mut config.limits.max_in_flight);
        set(self.buffer_budget, &mut config.limits.budget);
        set(self.disk_threads, &mut config.limits.workers);
        set(self.idle_timeout.map(Some), &mut config.limits.idle_timeout);
        set(self.stall_timeout, &mut config.limits.stall_timeout);
        set(self.shutdown_grace, &mut config.limits.shutdown_grace);
    }
}

/// Seconds, also with a fraction; at most a year.
/// A time, as people write it: whole seconds or parts of them.
pub(super) fn seconds(text: &str) -> Result<Duration> {
    let parsed = text.parse().ok().filter(|seconds: &f64| (0.0..=3.2e7).contains(seconds));
    parsed
        .map(Duration::from_secs_f64)
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "no time in seconds").hint("as in 30 or 0.5"))
}

fn bytes(text: &str) -> Result<usize> {
    usize::try_from(size::parse(text)?).map_err(|_| too_large())
}

fn bytes_u32(text: &str) -> Result<u32> {
    u32::try_from(size::parse(text)?).map_err(|_| too_large())
}

fn too_large() -> Error {
    Error::new(ErrorKind::InvalidInput, "a size that is too large")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        limits: LimitOptions,
    }

    fn parse(arguments: &[&str]) -> std::result::Result<Config, clap::Error> {
        let line = Line::try_parse_from([&["serve"], arguments].concat())?;
        let mut config = Config::default();
        line.limits.apply(&mut config);
        Ok(config)
    }

    #[test]
    fn every_option_sets_its_limit() {
        let arguments = "--max-connections=1 --max-handshakes=2 --handshake-timeout=0.25 --max-options=3 \
            --max-option-bytes=4K --max-name=5 --max-queries=6 --max-request=1M --max-in-flight=7 --buffer-budget=8M \
            --disk-threads=9 --idle-timeout=10 --stall-timeout=11 --shutdown-grace=0";
        let config = parse(&arguments.split_whitespace().collect::<Vec<_>>()).unwrap();
        let counts = [config.limits.max_connections, config.limits.max_handshakes, config.max_options, config.max_name];
        assert_eq!(counts, [1, 2, 3, 5]);
        assert_eq!((config.max_option_bytes, config.max_queries, config.max_request), (4096, 6, 1 << 20));
        assert_eq!((config.limits.max_in_flight, config.limits.budget, config.limits.workers), (7, 8 << 20, 9));
        assert_eq!(config.limits.handshake_timeout, Duration::from_millis(250));
        assert_eq!(config.limits.idle_timeout, Some(Duration::from_secs(10)));
        assert_eq!(
            (config.limits.stall_timeout, config.limits.shutdown_grace),
            (Duration::from_secs(11), Duration::ZERO)
        );
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for wrong in ["--idle-timeout=-1", "--idle-timeout=nan", "--max-request=5G", "--max-connections=x"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
