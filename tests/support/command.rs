//! Programs run to their end, in bounded time.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// No program that a test runs to its end may take longer.
const LIMIT: Duration = Duration::from_secs(120);

/// A client by the name of its program. `./test` installs the clients.
pub(crate) fn program(name: &str) -> Command {
    let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let path = std::env::split_paths(&search).map(|folder| folder.join(name)).find(|path| path.is_file());
    let Some(path) = path else { panic!("{name} is not installed (./test installs what the tests need)") };
    Command::new(path)
}

/// Runs a program to its end. Panics when it cannot be started or takes too long.
pub(crate) fn run(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let Some(status) = wait(&mut child, LIMIT) else {
        child.kill().expect("a child that runs can be killed");
        child.wait().expect("a killed child ends");
        let stderr = String::from_utf8_lossy(&stderr.join().expect("the reader ends")).into_owned();
        panic!("{command:?}: not done after {LIMIT:?}\n{stderr}");
    };
    let read = "the reader of a pipe ends with its writer";
    Output { status, stdout: stdout.join().expect(read), stderr: stderr.join().expect(read) }
}

/// Standard output of a program that has to succeed.
pub(crate) fn stdout_of(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, both(&output));
    String::from_utf8(output.stdout).unwrap_or_else(|_| panic!("{command:?}: its output is no UTF-8"))
}

/// Standard error of a program that has to fail.
pub(crate) fn stderr_of_failure(command: &mut Command) -> String {
    let output = run(command);
    assert!(!output.status.success(), "{command:?} should have failed\n{}", both(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for a child; `None` when it still runs after `limit`.
pub(super) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if started.elapsed() > limit {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A reader that fails has read what there was.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}
