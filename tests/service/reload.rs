//! SIGHUP: certificates are read again, whole or not at all, by a confined server whose clients stay; and what it means
//! to a server whose terminal goes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::scrape::{Scrape, serve as serve_metrics};
use crate::support::{Account, Certificates, MIB, Server, program, run, stderr_of_failure, stdout_of};

const STARTTLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service/starttls.py");

/// A client that stays, and reads when it is told to.
const STAYS: &str = r"
import sys, nbd
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.connect_uri(sys.argv[1])
h.pwrite(b'a' * 512, 0)
print('attached', flush=True)
for line in sys.stdin:
    assert h.pread(512, 0) == b'a' * 512
    print('read', flush=True)
";

struct Stays {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Stays {
    fn attach(uri: &str) -> Self {
        let mut child = program("/usr/bin/python3")
            .args(["-c", STAYS, uri])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        let mut stays = Self { child, said };
        assert_eq!(stays.line(), "attached\n");
        stays
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a line");
        line
    }

    fn reads(&mut self) {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("it runs");
        assert_eq!(self.line(), "read\n", "the client was cut off");
    }
}

impl Drop for Stays {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn path_str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The serial number of the certificate that the server shows to `client`; `Err`: what it said instead.
fn shown(certificates: &Certificates, port: u16, client: &str) -> Result<String, String> {
    let path = |name: &str| certificates.path(name);
    let mut python = program("/usr/bin/python3");
    python.arg(STARTTLS).arg(port.to_string()).arg(path("ca-cert.pem"));
    python.args([path(&format!("{client}-cert.pem")), path(&format!("{client}-key.pem"))]);
    let done = run(&mut python);
    match done.status.success() {
        true => Ok(String::from_utf8(done.stdout).unwrap().trim().to_owned()),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

fn serial(certificates: &Certificates, name: &str) -> String {
    let path = certificates.path(&format!("{name}-cert.pem"));
    let line = stdout_of(program("openssl").args(["x509", "-noout", "-serial", "-in", path_str(&path)]));
    line.trim().trim_start_matches("serial=").to_owned()
}

/// Sends SIGHUP and waits for the line that says what came of it.
fn reload(server: &Server, says: &str) {
    let before = server.log().matches(says).count();
    server.signal_hangup();
    let began = std::time::Instant::now();
    while server.log().matches(says).count() == before {
        assert!(began.elapsed().as_secs() < 30, "no \"{says}\": {}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

const DONE: &str = "read again, and in force";
const FAILED: &str = "what was in force stays in force";

/// Puts a file in the place of another, as tools that renew certificates do.
fn replace(from: &Path, to: &Path) {
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary).unwrap();
    fs::rename(&temporary, to).unwrap();
}

#[test]
fn renewed_certificates_are_read_again_whole_or_not_at_all_and_clients_stay() {
    let account = Account::new();
    account.create("disk", MIB);
    let certificates = Certificates::make();
    certificates.issue("renewed", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days 2");
    certificates.issue_dated("guest", "20200101000000Z", "20600101000000Z");
    certificates.list_revoked();
    // Links as certbot lays them out (a file), and as Kubernetes does (a folder).
    let at = |name: &str| account.scratch(name);
    for folder in ["live", "archive", "secret", "secret/..v1", "secret/..v2"] {
        fs::create_dir(at(folder)).unwrap();
    }
    fs::copy(certificates.path("server-cert.pem"), at("archive/cert1.pem")).unwrap();
    symlink("../archive/cert1.pem", at("live/cert.pem")).unwrap();
    fs::copy(certificates.path("server-key.pem"), at("secret/..v1/key.pem")).unwrap();
    symlink("..v1", at("secret/..data")).unwrap();
    symlink("..data/key.pem", at("secret/key.pem")).unwrap();
    let crl = at("crl.pem");
    fs::copy(certificates.path("crl.pem"), &crl).unwrap();
    let port = free_port();
    let server = account.serve_with(&[
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--tls-cert",
        path_str(&at("live/cert.pem")),
        "--tls-key",
        path_str(&at("secret/key.pem")),
        "--tls-client-ca",
        path_str(&certificates.path("ca-cert.pem")),
        "--tls-crl",
        path_str(&crl),
        "--confine",
        "require",
    ]);
    let folder = certificates.client_folder("guest");
    let mut guest = Stays::attach(&format!("nbds://localhost:{port}/disk?tls-certificates={}", folder.display()));
    let mut local = Stays::attach(&server.uri("disk"));
    let old = serial(&certificates, "server");
    assert_eq!(shown(&certificates, port, "guest"), Ok(old.clone()));

    // The certificate alone does not fit the key: nothing changes.
    fs::copy(certificates.path("renewed-cert.pem"), at("archive/cert2.pem")).unwrap();
    symlink("../archive/cert2.pem", at("live/new")).unwrap();
    fs::rename(at("live/new"), at("live/cert.pem")).unwrap();
    reload(&server, FAILED);
    assert_eq!(shown(&certificates, port, "guest"), Ok(old.clone()));
    // With the key, but beside a list that is half written.
    fs::copy(certificates.path("renewed-key.pem"), at("secret/..v2/key.pem")).unwrap();
    symlink("..v2", at("secret/..new")).unwrap();
    fs::rename(at("secret/..new"), at("secret/..data")).unwrap();
    fs::write(&crl, "-----BEGIN X509 CRL-----\nMIIB").unwrap();
    reload(&server, FAILED);
    assert!(server.log().contains("crl.pem: "), "{}", server.log());
    assert_eq!(shown(&certificates, port, "guest"), Ok(old));
    // Whole, and with the guest's own certificate taken back: it stays, and does not come again.
    certificates.revoke("guest");
    certificates.list_revoked();
    replace(&certificates.path("crl.pem"), &crl);
    reload(&server, DONE);
    assert_eq!(shown(&certificates, port, "client"), Ok(serial(&certificates, "renewed")));
    let refused = shown(&certificates, port, "guest").expect_err("a certificate that was taken back");
    assert!(refused.to_lowercase().contains("revoked"), "{refused}");
    guest.reads();
    local.reads();
    assert!(server.terminate().success());
}

#[test]
fn a_hangup_without_certificates_stops_nobody() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let mut client = Stays::attach(&server.uri("disk"));
    reload(&server, "no certificates or rules to read again");
    client.reads();
    assert!(server.terminate().success());
}

/// Runs a server in a terminal of its own, as its foreground process; sends it SIGHUP while the terminal is there, and
/// then takes the terminal away. Prints whether it was still there, and how it ended.
const TERMINAL: &str = r"
import os, pty, signal, socket, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
def serving():
    try:
        socket.socket(socket.AF_UNIX).connect(sys.argv[1])
        return True
    except OSError:
        return False
said = b''
deadline = time.time() + 30
while not serving():
    assert time.time() < deadline
    time.sleep(0.02)
os.kill(pid, signal.SIGHUP)
os.set_blocking(terminal, False)
while b'to read again' not in said:
    assert time.time() < deadline, said
    try:
        said += os.read(terminal, 65536)
    except BlockingIOError:
        time.sleep(0.02)
print('stayed', os.waitpid(pid, os.WNOHANG) == (0, 0))
os.close(terminal)
while time.time() < deadline:
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        print('ended', os.waitstatus_to_exitcode(status))
        break
    time.sleep(0.02)
    if sys.argv[1].endswith('outlives.sock') and serving() and time.time() > deadline - 28:
        print('outlived it')
        os.kill(pid, signal.SIGTERM)
        sys.argv[1] = ''
";

#[test]
fn a_server_ends_in_order_when_its_terminal_goes_and_not_before() {
    let account = Account::new();
    account.create("disk", MIB);
    let in_terminal = |wrapper: &[&str], socket: &str| {
        let socket = account.scratch(socket);
        let plain = account.command();
        let mut python = program("/usr/bin/python3");
        python.args(["-c", TERMINAL]).arg(&socket).args(wrapper);
        python.arg(plain.get_program()).args(plain.get_args()).args(["serve", "--socket", path_str(&socket)]);
        python.env("XDG_CONFIG_HOME", account.scratch("config"));
        stdout_of(&mut python)
    };
    assert_eq!(in_terminal(&[], "ends.sock"), "stayed True\nended 0\n");
    // What is told to outlive its terminal does, and reads again all the same.
    let outlives = ["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
    assert_eq!(in_terminal(&outlives, "outlives.sock"), "stayed True\noutlived it\nended 0\n");
}

#[test]
fn certificates_whose_time_is_not_now_are_told() {
    let account = Account::new();
    account.create("disk", MIB);
    let certificates = Certificates::make();
    let options = |name: &str| {
        let path = |kind: &str| path_str(&certificates.path(&format!("{name}-{kind}.pem"))).to_owned();
        ["--tls-cert".to_owned(), path("cert"), "--tls-key".to_owned(), path("key")]
    };
    let stamp = |days: &str| {
        let date = stdout_of(program("date").args(["-u", "-d", days, "+%Y%m%d%H%M%SZ"]));
        date.trim().to_owned()
    };
    for (name, from, until, says) in [
        ("old", "-40 days", "-3 days", Some("has expired")),
        ("soon", "-300 days", "10 days", Some("expires soon")),
        ("early", "5 days", "300 days", Some("is not valid yet")),
        ("good", "-5 days", "300 days", None),
    ] {
        certificates.issue_dated(name, &stamp(from), &stamp(until));
        let options = options(name);
        let (server, addr) = serve_metrics(&account, &options.each_ref().map(String::as_str));
        let scrape = Scrape::fresh(addr);
        let labels = [("part", "certificate")];
        let due = scrape.value("sealdisk_tls_due", &labels);
        assert_eq!(due, f64::from(u8::from(says.is_some())), "{name}");
        let left = scrape.value("sealdisk_tls_expires_seconds", &labels);
        assert_eq!(left < 0.0, name == "old", "{name}: {left}");
        match says {
            Some(says) => drop(server.log_with(&format!("{says} path="))),
            None => assert!(!server.log().contains("good-cert.pem")),
        }
        assert_eq!(scrape.value("sealdisk_reload_failed", &[]), 0.0);
        if name == "good" {
            fs::write(certificates.path("good-cert.pem"), "").unwrap();
            reload(&server, FAILED);
            let scrape = Scrape::fresh(addr);
            assert_eq!(scrape.value("sealdisk_reload_failed", &[]), 1.0);
            assert_eq!(scrape.value("sealdisk_reloads_total", &[]), 1.0);
        }
        assert!(server.terminate().success());
    }
}

#[test]
fn keys_that_every_user_can_read_or_that_need_a_passphrase_are_refused() {
    let account = Account::new();
    let certificates = Certificates::make();
    let serve = || stderr_of_failure(account.command().arg("serve").args(certificates.options()));
    let key = certificates.path("server-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let said = serve();
    assert!(said.contains("every user can get at the private key (mode 644)") && said.contains("chmod 600"), "{said}");
    certificates.openssl("pkey -in server-key.pem -aes256 -passout pass:x -out sealed.pem");
    certificates.openssl("ec -in server-key.pem -aes256 -passout pass:x -out older.pem");
    for sealed in ["sealed.pem", "older.pem"] {
        fs::rename(certificates.path(sealed), &key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let said = serve();
        assert!(said.contains("needs a passphrase") && said.contains("openssl pkey"), "{said}");
    }
}

/// What a mount for secrets shows is readable, for who has the mount: its mode is not theirs to set.
#[test]
fn a_key_on_a_mount_for_secrets_is_taken_at_any_mode() {
    let account = Account::new();
    account.create("disk", MIB);
    let certificates = Certificates::make();
    let mut script = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        script.arg("--map-root-user");
    }
    let sealdisk = account.command();
    let words: Vec<_> = sealdisk.get_args().map(|word| word.to_str().unwrap()).collect();
    script.args(["--mount", "sh", "-euc"]).arg(format!(
        "mkdir {secret}; mount -t tmpfs tmpfs {secret}; cp {folder}/server-key.pem {secret}/key; chmod 444 {secret}/key
         mount -o remount,ro,bind {secret}
         {program} {words} serve --tls-cert {folder}/server-cert.pem --tls-key {secret}/key & server=$!
         for _ in $(seq 300); do [ -S {account}/nbd.sock ] && break; sleep 0.1; done
         nbdinfo --size 'nbd+unix:///disk?socket={account}/nbd.sock'; kill $server; wait $server",
        secret = account.scratch("secret").display(),
        folder = certificates.folder().display(),
        program = env!("CARGO_BIN_EXE_sealdisk"),
        words = words.join(" "),
        account = account.dir().display(),
    ));
    script.env("XDG_CONFIG_HOME", account.scratch("config"));
    let said = stdout_of(&mut script);
    assert!(said.contains(&MIB.to_string()), "{said}");
}
