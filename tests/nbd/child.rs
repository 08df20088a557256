//! A server in a process of its own, for tests that look at its memory and descriptors, and for programs that are to
//! meet it as they would in production. The process is this test binary, told by its environment to serve.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sealdisk::nbd::Config;
use sealdisk::serve::Tls;

use crate::fixture::{Counting, MIB, ServerFixture, Shelf};
use crate::tls::server_files;

const SIZE: &str = "SEALDISK_TEST_SERVE_SIZE";
const CONNECTIONS: &str = "SEALDISK_TEST_SERVE_CONNECTIONS";
const BUDGET: &str = "SEALDISK_TEST_SERVE_BUDGET";
/// The folder of the certificates of a server that offers TLS.
pub(crate) const CERTIFICATES: &str = "SEALDISK_TEST_SERVE_CERTIFICATES";

/// Serves when told to by the environment, until its standard input ends; otherwise there is nothing to test here.
#[test]
fn serve_when_told_to() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let Some(size) = number(SIZE) else { return };
    let shelf = Shelf::new();
    shelf.add("disk", size, Some(Counting(MIB)));
    let mut config = Config::default();
    config.limits.max_connections = number(CONNECTIONS).map_or(config.limits.max_connections, |n| n as usize);
    config.limits.budget = number(BUDGET).map_or(config.limits.budget, |n| n as usize);
    config.listeners.tls =
        std::env::var_os(CERTIFICATES).map(|folder| Tls::load(server_files(folder.as_ref())).unwrap());
    let fixture = ServerFixture::new(&shelf, config);
    println!("\nserving {}", fixture.socket.display());
    let _ = std::io::stdin().read(&mut [0]);
    drop(fixture);
    drop(Arc::into_inner(shelf));
}

pub(crate) struct Serving {
    process: Child,
    /// Held open: what it still says must go somewhere.
    _output: BufReader<ChildStdout>,
    pub(crate) socket: PathBuf,
}

impl Serving {
    /// Serves a new disk of `size` bytes, called "disk", whose first MiB comes from a base.
    pub(crate) fn start(size: u64, config: &Config) -> Self {
        Self::start_with(size, config, &[])
    }

    /// The same, in a process with more in its environment.
    pub(crate) fn start_with(size: u64, config: &Config, environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::serve_when_told_to", "--nocapture"])
            .env(SIZE, size.to_string())
            .env(CONNECTIONS, config.limits.max_connections.to_string())
            .env(BUDGET, config.limits.budget.to_string())
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let socket = (&mut output)
            .lines()
            .map_while(|line| line.ok())
            .find_map(|line| line.strip_prefix("serving ").map(PathBuf::from))
            .expect("the server says where it serves");
        Self { process, _output: output, socket }
    }

    /// Resident bytes now.
    pub(crate) fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most bytes that were ever resident.
    pub(crate) fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Time of the processor that it has used.
    pub(crate) fn processor(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        // Of what follows the name in brackets, user and system time.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    pub(crate) fn threads(&self) -> u64 {
        self.status("Threads:") >> 10
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// A field of `/proc/PID/status` in bytes, when it is given in KiB.
    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let ended = self.process.wait();
        assert!(ended.is_ok_and(|status| status.success()) || std::thread::panicking(), "the server did not end well");
    }
}
