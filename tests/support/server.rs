//! A running `sealdisk serve`.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::account::{Account, path_str};
use super::command::wait;

/// A server has this long to answer after its start and to end after SIGTERM.
const LIMIT: Duration = Duration::from_secs(30);

/// Killed when it goes out of scope; its log is shown when the test fails.
pub(crate) struct Server {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts a server and waits until it takes connections.
    pub(super) fn start(account: &Account, options: &[&str], input: Stdio) -> Self {
        Self::start_by(account, account.command(), options, input)
    }

    pub(super) fn start_by(account: &Account, mut command: Command, options: &[&str], input: Stdio) -> Self {
        let socket = account.scratch("nbd.sock");
        let log = account.scratch("serve.log");
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = command
            .args(["serve", "--socket", path_str(&socket)])
            .args(options)
            .stdin(input)
            .stdout(file.try_clone().expect("a second handle of the log file"))
            .stderr(file)
            .spawn()
            .expect("sealdisk starts");
        let mut server = Self { child, socket, log };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let started = Instant::now();
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("sealdisk serve ended: {status}");
            }
            assert!(started.elapsed() < LIMIT, "sealdisk serve does not listen after {LIMIT:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the server has said so far, on standard output and in its log; that of the account's earlier servers too.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log file")
    }

    /// What it has said, once `text` and the rest of its line are part of it.
    pub(crate) fn log_with(&self, text: &str) -> String {
        let started = Instant::now();
        loop {
            let log = self.log();
            if log.split_once(text).is_some_and(|(_, rest)| rest.contains('\n')) {
                return log;
            }
            assert!(started.elapsed() < LIMIT, "no \"{text}\" in the log after {LIMIT:?}: {log}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The NBD URI of an export.
    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// SIGTERM, and the exit status it leads to.
    pub(crate) fn terminate(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// The exit status of a server that was signalled.
    pub(crate) fn ended(mut self) -> ExitStatus {
        wait(&mut self.child, LIMIT).unwrap_or_else(|| panic!("sealdisk serve still runs {LIMIT:?} after its signal"))
    }

    /// SIGKILL while clients are attached; it is waited for when it goes out of scope.
    pub(crate) fn signal_kill(&self) {
        self.signal(Signal::KILL);
    }

    /// SIGTERM while clients are attached.
    pub(crate) fn signal_terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGHUP while clients are attached.
    pub(crate) fn signal_hangup(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a running child can be signalled");
    }

    /// SIGABRT, as from a failed assertion, and what it leads to.
    pub(crate) fn abort(mut self) -> ExitStatus {
        self.signal(Signal::ABORT);
        self.child.wait().expect("an aborted child ends")
    }

    /// SIGKILL: nothing is finished, flushed or closed.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a running child can be killed");
        self.child.wait().expect("a killed child ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("log of the server:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
