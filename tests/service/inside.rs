//! What a confined process can still do, tried from inside it. The process is this test binary, told by its environment
//! to confine itself as a server does.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use memmap2::MmapMut;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{PidfdFlags, Signal};
use rustix::thread::UnshareFlags;
use sealdisk::confine::{Confinement, Mode, Needs, Network};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tempfile::TempDir;

use crate::confined::wait_for;
use crate::manager::Running;
use crate::support::{Account, MIB, stderr_of_failure, stdout_of};

const PLACE: &str = "SEALDISK_TEST_CONFINED_PLACE";
const VERB_PLACE: &str = "SEALDISK_TEST_CONFINED_VERB";
/// Arguments, one a line: a program, and what it is to be given.
const WITHOUT_LANDLOCK: &str = "SEALDISK_TEST_WITHOUT_LANDLOCK";

/// Goes through everything when told to by the environment; otherwise there is nothing to test here.
#[test]
fn try_when_told_to() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (open, port) = (File::open(place.join("outside")).unwrap(), listener.local_addr().unwrap().port());
    // A thread from before landlock is not bound by it; by the filter of system calls it is.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (done, made) = std::sync::mpsc::channel::<()>();
    let missing = place.join("missing");
    let earlier = std::thread::spawn(move || {
        wait.recv().unwrap();
        fs::write(missing, "no image yet").unwrap();
        done.send(()).unwrap();
        wait.recv().unwrap();
        denied("a socket of an earlier thread", UdpSocket::bind("127.0.0.1:0"));
    });

    let needs = Needs {
        changed: vec![place.join("account")],
        files: vec![place.join("image"), place.join("missing")],
        socket_folders: vec![place.join("sockets"), place.join("account")],
        ports: vec![0],
        ..Needs::default()
    };
    let confined = Confinement::files(Mode::Require, &needs).unwrap();
    go.send(()).unwrap();
    made.recv().unwrap();
    files(&place);
    // A server binds what it was told to, and connects to nobody.
    drop(TcpListener::bind("127.0.0.1:0").unwrap());
    denied("connecting before the filter", TcpStream::connect(("127.0.0.1", port)));
    let socket = place.join("sockets/s");
    let unix = UnixListener::bind(&socket).unwrap();
    let client = UnixStream::connect(&socket).unwrap();

    let confined = confined.calls(Mode::Require).unwrap();
    println!("\n{confined:?}");
    files(&place);
    calls(&place, port);
    go.send(()).unwrap();
    earlier.join().unwrap();

    // What a server lives from goes on.
    std::thread::Builder::new().name("later".into()).spawn(|| ()).unwrap().join().unwrap();
    let (mut client, mut accepted) = (client, unix.accept().unwrap().0);
    client.write_all(b"to the server").unwrap();
    accepted.write_all(b"and back").unwrap();
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"and back");
    denied("removing a file beside the sockets", fs::remove_file(place.join("sockets/plain")));
    drop((open, listener));
    println!("all tried");
}

/// Not permitted, whichever way the kernel says so.
fn denied<T>(what: &str, result: io::Result<T>) {
    let error = result.err().unwrap_or_else(|| panic!("{what} is possible"));
    let refused = matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported);
    assert!(refused, "{what}: {error:?}");
}

/// `EPERM` and nothing else: the answer of a filter that means it.
fn refused<T>(what: &str, result: rustix::io::Result<T>) {
    assert_eq!(result.err(), Some(rustix::io::Errno::PERM), "{what}");
}

fn files(place: &Path) {
    for outside in ["outside", "missing", "keys/kek", "sockets/plain"] {
        denied(outside, File::open(place.join(outside)));
    }
    denied("/etc/passwd", File::open("/etc/passwd"));
    denied("a file of the process", File::open("/proc/self/environ"));
    denied("a device", File::open("/dev/null"));
    denied("writing an image", File::options().write(true).open(place.join("image")));
    denied("cutting an image off", File::options().write(true).truncate(true).open(place.join("image")));
    denied("a new file outside", File::create(place.join("new")));
    denied("a new file beside the sockets", File::create(place.join("sockets/new")));
    denied("the list of a folder outside", fs::read_dir(place));
    denied("removing a file outside", fs::remove_file(place.join("outside")));
    denied("a link out of the account", std::os::unix::fs::symlink("/etc/passwd", place.join("account/link")));
    let escape = fs::rename(place.join("account/old"), place.join("escaped"));
    assert!(escape.is_err(), "a file leaves the account");
    // Through a symbolic link and the parent folder it is the same file.
    denied("a link that was there", File::open(place.join("account/way-out")));
    denied("the parent folder", File::open(place.join("account/../outside")));

    fs::read_dir(place.join("account")).unwrap();
    let (old, new) = (place.join("account/old"), place.join("account/sub/new"));
    fs::create_dir(place.join("account/sub")).unwrap();
    File::create_new(&new).unwrap().write_all(b"new").unwrap();
    fs::rename(&new, place.join("account/sub/renamed")).unwrap();
    File::options().write(true).truncate(true).open(&old).unwrap().write_all(b"old").unwrap();
    fs::remove_dir_all(place.join("account/sub")).unwrap();
    let mut text = String::new();
    File::open(place.join("image")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "an image");
}

fn calls(place: &Path, port: u16) {
    denied("a program", Command::new("/bin/true").spawn());
    denied("becoming a program", Err::<(), _>(Command::new("/bin/true").exec()));
    denied("a TCP client", TcpStream::connect(("127.0.0.1", port)));
    denied("a TCP server", TcpListener::bind("127.0.0.1:0"));
    denied("another unix server", UnixListener::bind(place.join("account/sock")));
    denied("a unix client", UnixStream::connect(place.join("sockets/s")));
    for family in [AddressFamily::UNIX, AddressFamily::INET, AddressFamily::INET6, AddressFamily::NETLINK] {
        refused("a socket", rustix::net::socket(family, SocketType::STREAM, None));
    }
    let this = rustix::process::getpid();
    refused("a signal", rustix::process::kill_process(this, Signal::USR1));
    refused("a signal to the parent", rustix::process::test_kill_process(rustix::process::getppid().unwrap()));
    #[allow(deprecated, reason = "its successor is unsafe, for effects that a refusal does not have")]
    let namespaces = rustix::thread::unshare(UnshareFlags::NEWUSER);
    refused("other namespaces", namespaces);
    let pidfd = rustix::process::pidfd_open(this, PidfdFlags::empty());
    assert_eq!(pidfd.err(), Some(rustix::io::Errno::NOSYS), "a process by descriptor");
    let page = MmapMut::map_anon(4096).unwrap();
    denied("executable memory", page.make_exec());
}

/// As `try_when_told_to`, for a verb: without a way to the network, and then with one.
#[test]
fn try_a_verb_when_told_to() {
    let Some(place) = std::env::var_os(VERB_PLACE).map(PathBuf::from) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let network = place.join("connects").exists();
    let needs = Needs {
        files: vec![place.join("image")],
        folders: vec![place.join("keys")],
        changed: vec![place.join("account"), place.join("outside")],
        ..Needs::default()
    };
    let (mut here, mut there) = UnixStream::pair().unwrap();
    // The thread of this test stands for the main thread of a verb: those started from here on are bound.
    let confined = sealdisk::confine::verb(&needs, if network { Network::Any } else { Network::Nothing }).unwrap();
    assert!(confined.seccomp, "{confined:?}");

    let changes = || {
        assert_eq!(fs::read_to_string(place.join("image")).unwrap(), "an image");
        assert_eq!(fs::read_to_string(place.join("keys/kek")).unwrap(), "secret");
        assert_eq!(fs::read_dir(place.join("keys")).unwrap().count(), 1);
        fs::write(place.join("outside"), "outside").unwrap();
        let (new, named) = (place.join("account/new"), place.join("account/named"));
        fs::write(&new, "new").unwrap();
        fs::rename(&new, &named).unwrap();
        fs::remove_file(named).unwrap();
        denied("writing an image", File::options().write(true).open(place.join("image")));
        denied("a new file where only reading is allowed", File::create(place.join("keys/new")));
        denied("a new file elsewhere", File::create(place.join("new")));
        denied("a file elsewhere", File::open(place.join("sockets/plain")));
        denied("a program", Command::new("/bin/true").spawn());
        denied("a server", TcpListener::bind("127.0.0.1:0"));
        refused("a signal", rustix::process::test_kill_process(rustix::process::getppid().unwrap()));
    };
    changes();
    std::thread::scope(|scope| scope.spawn(changes).join().unwrap());
    publish(&place.join("account"));
    let connected = TcpStream::connect(listener.local_addr().unwrap());
    if network {
        connected.unwrap().write_all(b"to a server").unwrap();
    } else {
        denied("a TCP client", connected);
        denied("a unix client", UnixStream::connect(place.join("sockets/plain")));
    }
    here.write_all(b"on").unwrap();
    there.read_exact(&mut [0; 2]).unwrap();
    println!("all tried");
}

/// Names a file that was made without a name, as a verb does with a whole result.
fn publish(folder: &Path) {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags};
    let fd = rustix::fs::open(folder, OFlags::RDWR | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR).unwrap();
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    rustix::fs::linkat(CWD, link, CWD, folder.join("published"), AtFlags::SYMLINK_FOLLOW).unwrap();
    fs::remove_file(folder.join("published")).unwrap();
}

#[test]
fn a_verb_keeps_what_it_names_and_no_more() {
    for network in [false, true] {
        let place = furnished();
        if network {
            fs::write(place.path().join("connects"), "").unwrap();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "inside::try_a_verb_when_told_to", "--nocapture"]).env(VERB_PLACE, place.path());
        let said = stdout_of(&mut command);
        assert!(said.contains("all tried"), "{said}");
    }
}

/// Becomes another program, on a kernel that has no landlock as far as this process can see.
#[test]
fn become_a_program_without_landlock_when_told_to() {
    let Ok(words) = std::env::var(WITHOUT_LANDLOCK) else { return };
    let calls = [(libc::SYS_landlock_create_ruleset, Vec::new())].into_iter().collect();
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()));
    let filter = SeccompFilter::new(calls, others, these, std::env::consts::ARCH.try_into().unwrap()).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&filter).unwrap();
    let mut words = words.lines();
    panic!("{}", Command::new(words.next().unwrap()).args(words).exec());
}

#[test]
fn require_starts_nothing_on_a_kernel_that_lacks_a_part_and_names_it() {
    let account = Account::new();
    account.create("disk", MIB);
    let serve = |options: &[&str]| {
        let mut serve = account.command();
        serve.args(["serve", "--socket"]).arg(account.scratch("s")).args(options);
        let words: Vec<_> = std::iter::once(serve.get_program()).chain(serve.get_args()).collect();
        let words = words.join(std::ffi::OsStr::new("\n"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "inside::become_a_program_without_landlock_when_told_to", "--nocapture"]);
        command.env(WITHOUT_LANDLOCK, words);
        command
    };
    let said = stderr_of_failure(&mut serve(&["--confine", "require"]));
    for part in [
        "--confine require asks for",
        "files (landlock 1, Linux 5.13)",
        "TCP ports (landlock 4, Linux 6.7)",
        "hint: --confine on",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut going_on = Running::start(&mut serve(&[]));
    wait_for(&account.scratch("s"));
    going_on.terminate();
}

/// A folder with things in it that are in reach, and things that are not.
fn furnished() -> TempDir {
    let place = TempDir::new().unwrap();
    let at = |name: &str| place.path().join(name);
    for folder in ["account", "sockets", "keys"] {
        fs::create_dir(at(folder)).unwrap();
    }
    for (file, text) in [
        ("outside", "outside"),
        ("image", "an image"),
        ("keys/kek", "secret"),
        ("account/old", "to be changed"),
        ("sockets/plain", "of another program"),
    ] {
        fs::write(at(file), text).unwrap();
    }
    std::os::unix::fs::symlink(at("outside"), at("account/way-out")).unwrap();
    place
}

#[test]
fn nothing_outside_is_in_reach() {
    let place = furnished();
    let at = |name: &str| place.path().join(name);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "inside::try_when_told_to", "--nocapture"]).env(PLACE, place.path());
    let said = stdout_of(&mut command);
    assert!(said.contains("all tried") && said.contains("seccomp: true"), "{said}");
    assert_eq!(fs::read_to_string(at("outside")).unwrap(), "outside");
    assert_eq!(fs::read_to_string(at("image")).unwrap(), "an image");
    assert_eq!(fs::read_to_string(at("account/old")).unwrap(), "old");
}
