//! Whoever looks on may be slow, stuck, full or gone: readers of the log and of standard output, the service manager.
//! The disks stay served, and the server ends in order.

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sealdisk::nbd::wire::transmission::HeaderStyle;

use crate::raw::Client;
use crate::scrape::Scrape;
use crate::support::{Account, MIB, run};

const LIMIT: Duration = Duration::from_secs(30);
/// Clients that come and go between two looks at what was lost.
const CLIENTS: usize = 2000;

/// A server whose standard output and error go where the test says. Killed when it goes out of scope.
struct Watched {
    child: Child,
    socket: PathBuf,
}

impl Watched {
    fn start(account: &Account, mut command: Command, options: &[&str]) -> Self {
        let socket = account.scratch("nbd.sock");
        command.args(["serve", "--socket"]).arg(&socket).args(options).stdin(Stdio::null());
        let watched = Self { child: command.spawn().unwrap(), socket };
        let began = Instant::now();
        while UnixStream::connect(&watched.socket).is_err() {
            assert!(began.elapsed() < LIMIT, "the server does not listen");
            std::thread::sleep(Duration::from_millis(2));
        }
        watched
    }

    /// A client writes and reads.
    fn serves(&self) {
        let mut client = Client::attached(&self.socket, HeaderStyle::Structured);
        client.write(0, &[7; 4096]);
        assert_eq!(client.read(0, 4096), [7; 4096]);
    }

    fn terminate(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn account() -> Account {
    let account = Account::new();
    account.create("a", MIB);
    account
}

/// A pipe that takes no more byte.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'.'; 4096]).is_ok() {}
    while writer.write(b".").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

#[test]
fn a_log_without_space_and_one_without_a_reader_end_no_disk() {
    let account = account();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (reader, gone) = std::io::pipe().unwrap();
    drop(reader);
    for log in [Stdio::from(full), Stdio::from(gone)] {
        let mut command = account.command();
        command.stdout(Stdio::null()).stderr(log);
        let server = Watched::start(&account, command, &[]);
        server.serves();
        server.serves();
        assert_eq!(server.terminate().code(), Some(0));
    }
}

#[test]
fn a_log_that_is_not_read_holds_up_no_client_and_what_was_lost_is_said_when_it_is() {
    let account = account();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = account.command();
    command.stdout(File::create(account.scratch("serve.log")).unwrap()).stderr(writer);
    let options = ["--log", "json", "--log-level", "trace", "--metrics", "127.0.0.1:0"];
    let server = Watched::start(&account, command, &options);
    let lost = |addr| Scrape::fresh(addr).value("sealdisk_log_lines_lost_total", &[]);
    let addr = crate::scrape::address(&account);
    let began = Instant::now();
    while lost(addr) == 0.0 {
        assert!(began.elapsed() < LIMIT, "the log takes everything");
        // At this level each of them leaves a line.
        for _ in 0..CLIENTS {
            drop(UnixStream::connect(&server.socket).unwrap());
        }
        server.serves();
    }
    let before = lost(addr);
    let reads = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).map(|_| log)
    });
    std::thread::sleep(Duration::from_millis(200));
    server.serves();
    assert_eq!(server.terminate().code(), Some(0));
    let log = reads.join().unwrap().unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let told: u64 = lines.filter_map(|line| line["fields"]["dropped"].as_u64()).sum();
    assert!(told as f64 >= before, "{told} of {before} lost lines are told");
}

#[test]
fn a_server_whose_log_is_stuck_ends_in_order() {
    let account = account();
    let (_reader, writer) = full_pipe();
    let mut command = account.command();
    command.stdout(Stdio::null()).stderr(writer);
    let server = Watched::start(&account, command, &[]);
    server.serves();
    assert_eq!(server.terminate().code(), Some(0));

    // Nor does an error at the start need a reader.
    let (_reader, writer) = full_pipe();
    let mut command = account.command();
    command.args(["serve", "--tls-cert", "/none", "--tls-key", "/none"]).stdout(Stdio::null()).stderr(writer);
    let mut failing = command.stdin(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while failing.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < LIMIT, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(failing.wait().unwrap().code(), Some(1));
}

#[test]
fn control_connections_that_ask_nothing_hold_up_no_end() {
    let account = account();
    let server = account.serve();
    // One more than are served at once.
    let silent: Vec<_> = (0..17).map(|_| UnixStream::connect(account.dir().join("control.sock")).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    assert_eq!(server.terminate().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    drop(silent);
}

#[test]
fn standard_output_that_is_stuck_gone_or_full_ends_no_disk() {
    let account = account();
    let (_stuck, writer) = full_pipe();
    let (reader, gone) = std::io::pipe().unwrap();
    drop(reader);
    let full = File::options().write(true).open("/dev/full").unwrap();
    for (output, said) in [(Stdio::from(writer), false), (Stdio::from(gone), true), (Stdio::from(full), true)] {
        let log = account.scratch("log");
        let mut command = account.command();
        command.stdout(output).stderr(File::create(&log).unwrap());
        let server = Watched::start(&account, command, &[]);
        server.serves();
        assert_eq!(server.terminate().code(), Some(0));
        let log = fs::read_to_string(&log).unwrap();
        assert_eq!(log.contains("standard output cannot be written"), said, "{log}");
    }
}

#[test]
fn a_service_manager_that_does_not_listen_ends_no_disk() {
    let account = account();
    let path = account.scratch("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let noise = UnixDatagram::unbound().unwrap();
    noise.connect(&path).unwrap();
    noise.set_nonblocking(true).unwrap();
    while noise.send(b"noise").is_ok() {}
    let mut command = account.command();
    command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Watched::start(&account, command, &[]);
    server.serves();
    drop(manager);
    server.serves();
    assert_eq!(server.terminate().code(), Some(0));
}

/// On a file system of its own that is full, and then is not.
#[test]
fn a_log_on_a_full_file_system_goes_on_when_there_is_space() {
    let account = account();
    let folder = account.scratch("logs");
    fs::create_dir(&folder).unwrap();
    let script = r#"set -e
        mount -t tmpfs -o size=64k tmpfs "$1"
        shift
        exec "$@" 2>logs/log"#;
    let mut wrapper = namespace();
    wrapper.extend(["sh", "-c", script, "sh", folder.to_str().unwrap()]);
    let mut command = account.command_under(&wrapper);
    command.stdout(Stdio::null());
    let server = Watched::start(&account, command, &["--log", "json"]);
    let inside = inside(server.child.id(), &folder);
    // Whatever is left.
    let filler = inside.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    drop(file);
    for _ in 0..40 {
        server.serves();
    }
    fs::remove_file(&filler).unwrap();
    let log = || fs::read_to_string(inside.join("log")).unwrap();
    let began = Instant::now();
    // But for a line that broke off everything that waited comes, and nothing twice.
    let whole = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
    let attached = |log: &str| log.lines().filter(|line| line.contains("\"attached\"") && whole(line)).count();
    while attached(&log()) < 40 {
        assert!(began.elapsed() < LIMIT, "{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(attached(&log()), 40);
    server.serves();
    assert_eq!(server.terminate().code(), Some(0));
}

/// `unshare` with a file system view of its own, in which this user may mount.
fn namespace() -> Vec<&'static str> {
    let mut wrapper = vec!["unshare", "--mount"];
    if !rustix::process::geteuid().is_root() {
        wrapper.extend(["--user", "--map-root-user"]);
    }
    wrapper
}

/// `path` as the process sees it.
fn inside(pid: u32, path: &Path) -> PathBuf {
    Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap())
}

#[test]
fn verbs_end_quietly_with_their_reader_and_fail_where_nothing_can_be_written() {
    let account = account();
    for verb in [&["list"][..], &["status"], &["list", "--json"], &["--help"], &["list", "--help"], &["--version"]] {
        let program = account.command();
        let words: Vec<_> = program.get_args().map(|word| word.to_str().unwrap()).chain(verb.iter().copied()).collect();
        let sh = |to: &str| {
            let mut command = account.command_under(&["sh", "-c", &format!("\"$@\" {to}"), "sh"]);
            command.args(verb);
            run(&mut command)
        };
        let full = sh(">/dev/full");
        assert_eq!(full.status.code(), Some(1), "{words:?}: {full:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = account.command();
        command.args(verb).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(output.stderr.is_empty(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Standard error that is full changes nothing of how a verb ends.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = account.command();
    command.args(["show", "none"]).stdout(Stdio::null()).stderr(full);
    assert_eq!(command.status().unwrap().code(), Some(1));
}
