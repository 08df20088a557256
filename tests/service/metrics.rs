//! Metrics agree with what clients did, parse, and hold up nobody whoever scrapes.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sealdisk::nbd::wire::transmission::{HeaderStyle, command, command_flag as flag};

use crate::raw::Client;
use crate::scrape::{FRESH, Scrape, http, serve, text};
use crate::support::{Account, MIB, stderr_of_failure};

const STYLES: [HeaderStyle; 3] = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended];

/// Waits until nobody is attached any more: only then all is counted.
fn settled(addr: std::net::SocketAddr) -> Scrape {
    let began = Instant::now();
    loop {
        let scrape = Scrape::fresh(addr);
        if scrape.value("sealdisk_connections", &[]) == 0.0 {
            return scrape;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "a client is still attached");
    }
}

#[test]
fn metrics_agree_with_what_clients_did() {
    let account = Account::new();
    account.create("web/a", 8 * MIB);
    let (server, addr) = serve(&account, &[]);
    let mut expected = [0u64; 6];
    for style in STYLES {
        let mut client = Client::attached(server.socket(), style);
        for index in 0..10 {
            client.write(index * 4096, &[7; 4096]);
        }
        // Longer than a receive buffer: written in pieces.
        client.write(MIB, &vec![9; MIB as usize]);
        assert_eq!(client.read(0, 65536).len(), 65536);
        // Of several pieces, with a hole in it.
        assert_eq!(client.read(0, 3 * MIB as usize).len(), 3 * MIB as usize);
        assert_eq!(client.try_request(command::FLUSH, 0, 0, 0), 0);
        assert_eq!(client.try_request(command::TRIM, 0, 4 * MIB, 8192), 0);
        assert_eq!(client.try_request(command::WRITE_ZEROES, flag::NO_HOLE, 5 * MIB, 512), 0);
        assert_eq!(client.try_request(command::CACHE, 0, 0, 1024), 0);
        // Failures: past the end, and an unknown command.
        assert_eq!(client.try_request(command::TRIM, 0, 8 * MIB, 512), 22);
        assert_eq!(client.try_request(77, 0, 0, 0), 22);
        expected[0] += 11;
        expected[1] += 10 * 4096 + MIB;
        expected[2] += 2;
        expected[3] += 65536 + 3 * MIB;
        expected[4] += 2;
        expected[5] += 1;
    }
    let mut reader = Client::attached(server.socket(), HeaderStyle::Structured);
    reader.read(0, 512);
    let attached = Scrape::fresh(addr);
    assert_eq!(attached.value("sealdisk_connections", &[]), 1.0);
    assert_eq!(attached.value("sealdisk_requests_in_flight", &[("disk", "web/a")]), 0.0);
    drop(reader);

    let scrape = settled(addr);
    let requests = |command| scrape.value("sealdisk_requests_total", &[("disk", "web/a"), ("command", command)]);
    let bytes = |command| scrape.value("sealdisk_request_bytes_total", &[("disk", "web/a"), ("command", command)]);
    let [writes, written, reads, read, invalid, others] = expected.map(|count| count as f64);
    assert_eq!((requests("write"), bytes("write")), (writes, written));
    assert_eq!((requests("read"), bytes("read")), (reads + 1.0, read + 512.0));
    assert_eq!((requests("flush"), requests("cache"), bytes("cache")), (3.0, 3.0, 3.0 * 1024.0));
    // What failed is a request too, but moved no byte.
    assert_eq!((requests("trim"), bytes("trim")), (6.0, 3.0 * 8192.0));
    assert_eq!((requests("write_zeroes"), bytes("write_zeroes")), (3.0, 3.0 * 512.0));
    assert_eq!(requests("other"), others);
    assert_eq!(scrape.value("sealdisk_request_errors_total", &[("disk", "web/a"), ("errno", "EINVAL")]), invalid);
    assert_eq!(scrape.sum("sealdisk_request_errors_total"), invalid);
    assert_eq!(scrape.sum("sealdisk_request_duration_seconds_count"), scrape.sum("sealdisk_requests_total"));
    assert_eq!(scrape.value("sealdisk_connections_opened_total", &[]), 4.0);
    assert!(scrape.value("sealdisk_commit_rounds_total", &[("disk", "web/a")]) >= 1.0);
    assert!(scrape.value("sealdisk_sync_seconds_total", &[("disk", "web/a")]) > 0.0);
    let usage = account.usage("web/a");
    for (state, bytes) in
        [("base", usage.base), ("plain", usage.plain), ("encrypted", usage.encrypted), ("zero", usage.zero)]
    {
        let labels = [("disk", "web/a"), ("state", state)];
        assert_eq!(scrape.value("sealdisk_disk_bytes", &labels), bytes as f64, "{state}");
    }
    assert_eq!(scrape.value("sealdisk_encryption_enabled", &[]), 1.0);
    account.sealdisk(&["encryption", "off"]);
    let scrape = Scrape::fresh(addr);
    assert_eq!(scrape.value("sealdisk_encryption_enabled", &[]), 0.0);
    // What was counted goes on under the new name; what is deleted is forgotten.
    account.sealdisk(&["rename", "web/a", "web/b"]);
    let renamed = Scrape::fresh(addr);
    assert_eq!(renamed.value("sealdisk_requests_total", &[("disk", "web/b"), ("command", "write")]), writes);
    account.sealdisk(&["delete", "web/b", "--yes"]);
    let deleted = Scrape::fresh(addr);
    assert_eq!(deleted.sum("sealdisk_requests_total"), 0.0);
    assert!(deleted.sum("sealdisk_request_duration_seconds_count") >= writes);
}

#[test]
fn a_parser_of_another_author_takes_them() {
    let account = Account::new();
    account.create("a", MIB);
    let (server, addr) = serve(&account, &[]);
    Client::attached(server.socket(), HeaderStyle::Simple).write(0, &[1; 512]);
    let script = "import sys\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
        print(sum(len(family.samples) for family in parse(sys.stdin.read())))";
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 of Debian");
    let text = text(addr);
    python.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("python reads");
    let output = python.wait_with_output().expect("python ends");
    assert!(output.status.success(), "python3-prometheus-client does not take:\n{text}");
    let samples: usize = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
    assert_eq!(samples, Scrape::of(&text).names().count());
}

#[test]
fn hostile_scrapers_hold_up_nobody() {
    let account = Account::new();
    account.create("a", MIB);
    let (server, addr) = serve(&account, &[]);
    let mut client = Client::attached(server.socket(), HeaderStyle::Simple);
    client.write(0, &[1; 512]);
    let before = Scrape::fresh(addr);
    // Silent ones, half a request, a head without an end, and one that takes no answer.
    let mut held: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(addr).expect("a connection")).collect();
    for (index, stream) in held.iter_mut().enumerate() {
        let _ = match index % 4 {
            0 => Ok(()),
            1 => stream.write_all(b"GET /metr"),
            2 => stream.write_all(&[b'x'; 40_000]),
            _ => stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        };
    }
    let began = Instant::now();
    let scrape = Scrape::fresh(addr);
    assert!(began.elapsed() < Duration::from_secs(10), "a scrape took {:?}", began.elapsed());
    // Connections beyond the bound were let go of.
    let (now, then) = (scrape.value("process_open_fds", &[]), before.value("process_open_fds", &[]));
    assert!(now < then + 30.0, "{then} descriptors became {now}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = http(addr, request);
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request:?}: {answer}");
    }
    // However many ask, a look is shared.
    let taken = Scrape::fresh(addr).value("sealdisk_metrics_taken_total", &[]);
    let began = Instant::now();
    for _ in 0..200 {
        text(addr);
    }
    let looks = Scrape::fresh(addr).value("sealdisk_metrics_taken_total", &[]) - taken;
    let most = began.elapsed().as_secs_f64() / 0.1 + 3.0;
    assert!(looks <= most, "{looks} looks in {:?}", began.elapsed());
    client.write(0, &[2; 512]);
    assert_eq!(client.read(0, 512), [2; 512]);
}

/// A page whose name its owner lets resolve to 127.0.0.1 is the same origin as the metrics, for a browser.
#[test]
fn a_page_of_another_host_does_not_read_the_metrics() {
    let account = Account::new();
    account.create("secret-name", MIB);
    let (server, addr) = serve(&account, &[]);
    let of = |host: &str| http(addr, &format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    for host in ["attacker.example", &format!("attacker.example:{}", addr.port()), "0.0.0.0"] {
        let answer = of(host);
        assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("sealdisk_"), "{host}: {answer}");
    }
    for host in ["localhost".to_owned(), addr.to_string(), format!("localhost:{}", addr.port())] {
        assert!(of(&host).starts_with("HTTP/1.1 200 "), "{host}");
    }
    assert!(server.terminate().success());
    let (_server, addr) = serve(&account, &["--insecure-metrics"]);
    std::thread::sleep(FRESH);
    let answer = http(addr, "GET /metrics HTTP/1.1\r\nhost: disks.example\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// The status of `/healthz`, and what it says.
fn health(addr: std::net::SocketAddr) -> (String, String) {
    std::thread::sleep(FRESH);
    let answer = http(addr, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned())
}

#[test]
fn a_server_without_keys_is_not_healthy() {
    let account = Account::new();
    account.create("disk", MIB);
    let (server, addr) = serve(&account, &[]);
    assert_eq!(health(addr), ("200".to_owned(), "ok\n".to_owned()));
    account.sealdisk(&["key", "revoke"]);
    assert_eq!(health(addr), ("503".to_owned(), "the keys of the account are not held\n".to_owned()));
    account.sealdisk(&["key", "restore"]);
    assert_eq!(health(addr).0, "200");
    assert!(server.terminate().success());
}

#[test]
fn only_this_machine_may_scrape_unless_it_is_said() {
    let account = Account::new();
    let refused = stderr_of_failure(account.command().args(["serve", "--metrics", "0.0.0.0:0"]));
    assert!(refused.contains("reachable from other machines"), "{refused}");
    let (_server, addr) = serve(&account, &["--insecure-metrics"]);
    std::thread::sleep(FRESH);
    assert!(text(addr).ends_with("# EOF\n"));
}
