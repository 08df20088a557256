//! Whoever is turned away before being attached leaves a line at the default level, with who it was and why, and counts
//! in a metric: for the client itself is told little.

use std::net::SocketAddr;
use std::path::Path;

use sealdisk::nbd::wire::handshake::OptionType;
use sealdisk::nbd::wire::transmission::HeaderStyle;

use crate::raw::Client;
use crate::support::{Account, Certificates, MIB, Server, program, run};

fn account() -> Account {
    let account = Account::new();
    account.create("disk", MIB);
    account
}

/// The lines about it, once there are as many.
fn told(server: &Server, reason: &str, count: usize) -> Vec<String> {
    let started = std::time::Instant::now();
    let field = format!("reason=\"{reason}\"");
    loop {
        let log = server.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&field)).map(str::to_owned).collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(started.elapsed().as_secs() < 20, "no line with {field}: {log}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn this_peer() -> String {
    format!("peer=unix:uid={},pid={}", rustix::process::geteuid().as_raw(), std::process::id())
}

#[test]
fn the_limits_are_named() {
    let account = account();
    let options = ["--max-connections=1", "--max-options=4", "--max-handshakes=2", "--handshake-timeout=1"];
    let server = account.serve_with(&options);
    let mut attached = Client::attached(server.socket(), HeaderStyle::Simple);
    let mut second = Client::greeted(server.socket());
    second.info(OptionType::Go, "disk", &[]);
    for _ in 0..3 {
        second.option(OptionType::Unknown(99), &[]);
    }
    second.send_option(OptionType::Unknown(99), &[]);
    second.assert_ended();
    for (reason, why) in [("connections", "--max-connections"), ("options", "--max-options")] {
        let lines = told(&server, reason, 1);
        assert!(lines[0].contains(&this_peer()) && lines[0].contains(why) && lines[0].contains(" WARN "), "{lines:?}");
    }
    let mut silent = Client::greeted(server.socket());
    silent.assert_ended();
    assert!(told(&server, "timed_out", 1)[0].contains(&this_peer()));
    let mut waiting: Vec<_> = (0..3).map(|_| Client::greeted(server.socket())).collect();
    waiting.remove(0).assert_ended();
    assert!(told(&server, "handshakes", 1)[0].contains("--max-handshakes"));
    // A time-out in the handshake is none of a client that is attached.
    attached.read(0, 512);
}

#[test]
fn what_is_asked_for_and_is_not_there_is_named_and_forges_no_line() {
    let account = account();
    let server = account.serve();
    let output = run(program("nbdinfo").arg(server.uri("disc")));
    assert!(!output.status.success());
    assert!(told(&server, "unknown_export", 1)[0].contains("disc"));
    let mut forging = Client::greeted(server.socket());
    forging.info(OptionType::Go, "x\n2026-01-01T00:00:00Z  INFO all is well", &[]);
    let lines = told(&server, "unknown_export", 2);
    assert!(!server.log().lines().any(|line| line.starts_with("2026-01-01")), "{lines:?}");
    let mut noise = Client::connect(server.socket());
    noise.send(&[0xff; 64]);
    while noise.try_receive().is_some() {}
    told(&server, "protocol", 1);
    // Who looks whether the server is there, and who leaves in order, leaves no line.
    let before = server.log().matches("turned away").count();
    drop(std::os::unix::net::UnixStream::connect(server.socket()).unwrap());
    Client::greeted(server.socket()).option(OptionType::Abort, &[]);
    Client::greeted(server.socket());
    assert!(server.log_with("").matches("turned away").count() == before);
}

#[test]
fn refused_certificates_and_clients_without_tls_are_named() {
    let account = account();
    let certificates = Certificates::make();
    let file = |name: &str| certificates.folder().join(name).to_str().unwrap().to_owned();
    let [cert, key, ca] = ["server-cert.pem", "server-key.pem", "ca-cert.pem"].map(file);
    let server = account.serve_with(&[
        "--listen=127.0.0.1:0",
        &format!("--tls-cert={cert}"),
        &format!("--tls-key={key}"),
        &format!("--tls-client-ca={ca}"),
        "--tls-required",
    ]);
    let addr = tcp_address(&server);
    let plain = run(program("nbdinfo").arg(format!("nbd://{addr}/disk")));
    assert!(!plain.status.success());
    assert!(told(&server, "tls_required", 1)[0].contains("peer=127.0.0.1:"));
    let ask = |folder: &Path| {
        let uri = format!("nbds://localhost:{}/disk?tls-certificates={}", addr.port(), folder.display());
        run(program("nbdinfo").arg(uri))
    };
    assert!(ask(certificates.folder()).status.success());
    let strange = tempfile::tempdir().unwrap();
    std::fs::copy(file("ca-cert.pem"), strange.path().join("ca-cert.pem")).unwrap();
    for (from, to) in [("other-cert.pem", "client-cert.pem"), ("other-key.pem", "client-key.pem")] {
        std::fs::copy(file(from), strange.path().join(to)).unwrap();
    }
    assert!(!ask(strange.path()).status.success());
    let lines = told(&server, "tls", 1);
    assert!(lines[0].contains("peer=127.0.0.1:") && lines[0].contains("certificate"), "{lines:?}");
}

/// Where the server says that it listens.
fn tcp_address(server: &Server) -> SocketAddr {
    let log = server.log_with("serving on 127.0.0.1:");
    let (_, rest) = log.split_once("serving on 127.0.0.1:").unwrap();
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))
}
