//! A confined server under a service manager: sockets handed over, and word sent back.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Account, MIB, program, stdout_of};

const LIMIT: Duration = Duration::from_secs(30);

/// Ended when it goes out of scope.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn terminate(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        let started = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < LIMIT, "still runs after SIGTERM");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next message to the service manager.
fn word(manager: &UnixDatagram) -> String {
    let mut buf = [0; 512];
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    loop {
        match manager.recv(&mut buf) {
            Ok(len) => return String::from_utf8_lossy(&buf[..len]).into_owned(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("no word of the server: {error}"),
        }
    }
}

#[test]
fn the_service_manager_hears_of_start_and_end() {
    let account = Account::new();
    account.create("disk", MIB);
    let path = account.scratch("notify");
    let name = format!("sealdisk-test-{}", std::process::id());
    let in_file = UnixDatagram::bind(&path).unwrap();
    let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for (manager, address) in [(in_file, path.to_str().unwrap().to_owned()), (by_name, format!("@{name}"))] {
        let mut server =
            Running::start(account.command().args(["serve", "--confine", "require"]).env("NOTIFY_SOCKET", address));
        assert!(word(&manager).contains("READY=1"));
        account.sealdisk(&["encryption", "status"]);
        server.terminate();
        assert!(word(&manager).contains("STOPPING=1"));
    }
}

/// systemd's own program for it hands over a unix and a TCP socket; the server binds none itself but its control
/// socket.
#[test]
fn sockets_of_systemd_are_served() {
    let account = Account::new();
    account.create("disk", MIB);
    let socket = account.scratch("activated.sock");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let serve = account.command();
    let mut activate = program("systemd-socket-activate");
    activate.arg("-l").arg(&socket).args(["-l", &format!("127.0.0.1:{port}")]);
    for (name, value) in serve.get_envs() {
        if let Some(value) = value {
            activate.arg("-E").arg(format!("{}={}", name.display(), value.display()));
        }
    }
    activate.arg(serve.get_program()).args(serve.get_args()).args(["serve", "--confine", "require"]);
    let mut server = Running::start(activate.current_dir(account.scratch("")));
    let started = Instant::now();
    while !socket.exists() {
        assert!(started.elapsed() < LIMIT, "no socket");
        thread::sleep(Duration::from_millis(5));
    }
    // The first client has the server started.
    let uri = format!("nbd+unix:///disk?socket={}", socket.display());
    stdout_of(program("qemu-io").args(["-f", "raw", "-c", "write -P 9 0 4k", "-c", "flush", &uri]));
    let tcp = format!("nbd://127.0.0.1:{port}/disk");
    stdout_of(program("qemu-io").args(["-f", "raw", "-c", "read -P 9 0 4k", &tcp]));
    assert_eq!(account.usage("disk").encrypted, 4096 + 512);
    server.terminate();
}
