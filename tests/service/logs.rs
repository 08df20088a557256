//! The log: what a client can bring into it is bounded, it says why requests fail, and it has no secret and no data.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use sealdisk::nbd::wire::transmission::{HeaderStyle, Request, command};
use serde_json::Value;

use crate::raw::Client;
use crate::scrape::{Scrape, serve};
use crate::support::{Account, MIB};

/// Failed requests of the hostile client.
const FAILURES: usize = 100_000;
const AT_ONCE: usize = 1000;

/// The lines of the server's log, which have to be JSON.
fn lines(account: &Account) -> Vec<Value> {
    let log = fs::read_to_string(account.scratch("serve.log")).expect("a log");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    log.lines().filter(|line| line.starts_with('{')).map(parse).collect()
}

fn about<'a>(lines: &'a [Value], message: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().map(|line| &line["fields"]).filter(move |fields| fields["message"] == message)
}

#[test]
fn a_client_that_fails_without_end_leaves_few_lines() {
    let account = Account::new();
    account.create("a", MIB);
    let (server, addr) = serve(&account, &["--log", "json"]);
    let mut hostile = Client::attached(server.socket(), HeaderStyle::Simple);
    let request = Request { flags: 0, command: command::TRIM, cookie: 7, offset: MIB, length: 512 };
    let batch: Vec<u8> = (0..AT_ONCE).flat_map(|_| request.emit(HeaderStyle::Simple)).collect();
    for _ in 0..FAILURES / AT_ONCE {
        hostile.send(&batch);
        hostile.receive(AT_ONCE * 16);
    }
    drop(hostile);
    // Many clients that fail a little, and many that come and go.
    for _ in 0..30 {
        let mut client = Client::attached(server.socket(), HeaderStyle::Simple);
        for _ in 0..5 {
            assert_eq!(client.try_request(command::TRIM, 0, MIB, 512), 22);
        }
    }
    for _ in 0..500 {
        drop(Client::attached(server.socket(), HeaderStyle::Simple));
    }
    let scrape = Scrape::fresh(addr);
    let failed = scrape.value("sealdisk_request_errors_total", &[("disk", "a"), ("errno", "EINVAL")]);
    assert_eq!(failed as usize, FAILURES + 150);
    let suppressed = scrape.value("sealdisk_log_lines_suppressed_total", &[]);
    assert!(server.terminate().success());

    let lines = lines(&account);
    println!("{} lines of log; {suppressed} left out", lines.len());
    let refused: Vec<_> = about(&lines, "request refused").collect();
    assert!((10..200).contains(&refused.len()), "{} lines about {FAILURES} failures", refused.len());
    let expected: [(&str, Value); 4] =
        [("command", "trim".into()), ("errno", "EINVAL".into()), ("offset", MIB.into()), ("length", 512.into())];
    for (field, value) in expected {
        assert_eq!(refused[0][field], value, "{field}");
    }
    assert_eq!((&refused[0]["export"], &refused[0]["error"]), (&"a".into(), &"past the end of the export".into()));
    assert!(refused[0]["peer"].as_str().is_some_and(|peer| peer.starts_with("unix:uid=")), "{}", refused[0]);
    // Threads end when they get round to it, so its line need not be the first.
    let end = about(&lines, "detached").find(|end| end["requests"] == FAILURES);
    let end = end.expect("a line about the hostile client");
    assert_eq!(end["failed"], FAILURES);
    assert!(end["unlogged"].as_u64().is_some_and(|left_out| left_out > FAILURES as u64 / 2), "{end}");
    assert!(end["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{end}");
    // Of 531 clients, two lines each: the burst, and what the rate gives.
    let coming = about(&lines, "attached").count() + about(&lines, "detached").count();
    assert!((200..600).contains(&coming), "{coming} lines about clients that came and went");
    assert!(lines.len() < 1000);
}

#[test]
fn a_request_that_the_disk_fails_is_logged_with_its_cause() {
    let account = Account::new();
    let base = account.scratch("base.raw");
    fs::write(&base, vec![5; 4 * MIB as usize]).expect("a base");
    account.create_over("a", &base);
    let (server, addr) = serve(&account, &["--log", "json"]);
    let mut client = Client::attached(server.socket(), HeaderStyle::Structured);
    // Gone from under the server.
    fs::File::options().write(true).open(&base).and_then(|file| file.set_len(MIB)).expect("the base is cut");
    assert_eq!(client.try_read(3 * MIB, 4096, 0), Err(5));
    drop(client);
    let scrape = Scrape::fresh(addr);
    assert_eq!(scrape.value("sealdisk_request_errors_total", &[("disk", "a"), ("errno", "EIO")]), 1.0);
    drop(server);
    let lines = lines(&account);
    let failed = about(&lines, "request failed").next().expect("a line about the failure");
    assert_eq!((&failed["command"], &failed["errno"]), (&"read".into(), &"EIO".into()));
    assert_eq!((&failed["offset"], &failed["length"]), (&(3 * MIB).into(), &4096.into()));
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("base.raw")), "{failed}");
}

#[test]
fn neither_secrets_nor_data_are_logged_at_any_level() {
    let account = Account::new();
    account.create("a", MIB);
    let key = find_key(&account.scratch("config"));
    let (server, _) = serve(&account, &["--log-level", "trace"]);
    let data = b"what a client stores stays between it and its disk";
    let mut client = Client::attached(server.socket(), HeaderStyle::Extended);
    client.write(0, data);
    client.read(0, 512);
    client.try_request(77, 0, 0, 0);
    drop(client);
    // Not a client at all.
    let mut noise = UnixStream::connect(server.socket()).expect("a connection");
    noise.write_all(data).expect("taken");
    let _ = noise.read(&mut [0; 64]);
    assert!(server.terminate().success());
    let log = fs::read(account.scratch("serve.log")).expect("a log");
    let has = |needle: &[u8]| log.windows(needle.len()).any(|window| window == needle);
    assert!(!has(data));
    assert!(!has(key.trim_ascii()), "the key-encryption key is in the log");
}

/// The key file that `init` made: the only one there.
fn find_key(folder: &std::path::Path) -> Vec<u8> {
    let first = fs::read_dir(folder).expect("a folder").next();
    let path = first.expect("no key").expect("an entry").path();
    if path.is_dir() { find_key(&path) } else { fs::read(path).expect("a key") }
}
