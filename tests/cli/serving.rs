//! A server's sockets, signals and what it shows.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Client;
use crate::shapes::answer;
use crate::support::{Account, MIB, program, run, stdout_of};

fn error_of(account: &Account, arguments: &[&str]) -> (String, String) {
    let (document, code) = answer(account, arguments);
    assert_eq!(code, Some(1), "{document}");
    let text = |field: &str| document["error"][field].as_str().expect("a text").to_owned();
    (text("kind"), text("message"))
}

#[test]
fn only_what_is_asked_for_is_served_and_only_as_asked() {
    let account = Account::new();
    for name in ["one", "web/two", "three"] {
        account.create(name, MIB);
    }
    assert_eq!(error_of(&account, &["serve", "none"]).0, "NotFound");
    let server = account.serve_with(&["one", "web/two", "--read-only"]);
    let list = stdout_of(program("nbdinfo").args(["--json", "--list", &server.uri("")]));
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let exports = list["exports"].as_array().expect("exports");
    let names: Vec<_> = exports.iter().map(|export| export["export-name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["one", "web/two"]);
    assert!(exports.iter().all(|export| export["is_read_only"] == true));
    assert!(!run(program("nbdinfo").arg(server.uri("three"))).status.success());
    assert_eq!(Client::attach(&server, "vhds/one").read(0, 512), [0; 512]);
    // The verbs see the whole account all the same.
    assert_eq!(account.json(&["list"]).as_array().map(Vec::len), Some(3));
}

#[test]
fn all_that_an_account_makes_is_its_owners_alone_under_any_umask() {
    let folder = TempDir::new().expect("a folder");
    let script = r#"
        cd "$T"; umask 0; mkdir -m 700 home; export HOME=$T/home SEALDISK_ACCOUNT=$T/account SEALDISK_AUDIT_LOG=$T/audit.log
        unset XDG_CONFIG_HOME CREDENTIALS_DIRECTORY || true
        head -c 1M /dev/urandom >image
        "$B" init; "$B" create d --size 1M; "$B" create over --base image; "$B" import image copy
        "$B" snapshot create d s; "$B" clone d@s clone; "$B" resize d 2M; "$B" encryption off
        "$B" key rotate-kek --account-key; "$B" key rotate-data --all; "$B" scrub d --wait; "$B" encryption on
        "$B" serve >log 2>&1 & server=$!; trap 'kill -9 $server 2>/dev/null || true' EXIT
        for _ in $(seq 600); do grep -q "serving on" log && break; sleep .05; done
        "$B" create e --size 1M; "$B" clone copy copy2 --full; "$B" reencrypt over; "$B" snapshot rollback d s --yes
        "$B" export d out.vhd; "$B" key export copy --layer 1 --out layer.key --yes-reveal
        nbdcopy image "nbd+unix:///e?socket=$T/account/nbd.sock"
        check() { test -e account/account.toml; find account home audit.log out.vhd layer.key -perm /077; }
        open=$(check); kill $server; wait $server; open+=$(check)
        test -z "$open" || { echo "open to others: $open"; exit 1; }
    "#;
    let output = run(program("timeout")
        .args(["60", "bash", "-euo", "pipefail", "-c", script])
        .env("B", env!("CARGO_BIN_EXE_sealdisk"))
        .env("T", folder.path()));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
}

#[test]
fn sockets_are_private_and_replaced_only_when_stale() {
    let account = Account::new();
    account.create("disk", MIB);
    let (nbd, control) = (account.dir().join("nbd.sock"), account.dir().join("control.sock"));
    // Left by a server that was killed.
    drop(UnixListener::bind(&control).expect("a socket"));
    let server = account.serve();
    for socket in [server.socket(), &control] {
        let metadata = fs::metadata(socket).expect("a socket");
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{}", socket.display());
    }
    let socket = server.socket().to_owned();
    assert!(server.terminate().success());
    // One in the account goes. One elsewhere stays, as a confined server removes nothing there.
    assert!(socket.exists() && !control.exists() && !nbd.exists());

    let live = account.scratch("live.sock");
    let _listener = UnixListener::bind(&live).expect("a socket");
    let live = live.to_str().expect("UTF-8");
    assert_eq!(error_of(&account, &["serve", "--socket", live]).0, "InUse");
    let file = account.scratch("file");
    fs::write(&file, "mine").expect("a file");
    assert_eq!(error_of(&account, &["serve", "--control", file.to_str().expect("UTF-8")]).0, "AlreadyExists");
    assert_eq!(fs::read(&file).expect("a file"), b"mine");
    let long = format!("{}/{}", account.dir().display(), "x".repeat(120));
    let (kind, message) = error_of(&account, &["serve", "--socket", &long]);
    assert!(kind == "InvalidInput" && message.contains("107"), "{message}");
    assert_eq!(error_of(&account, &["serve", "--listen", "0.0.0.0:0"]).0, "InvalidInput");
    // After all that the account is as usable as before.
    account.serve();
}

#[test]
fn a_control_socket_elsewhere_is_found() {
    let account = Account::new();
    let control = account.scratch("elsewhere.sock");
    let server = account.serve_with(&["--control", control.to_str().expect("UTF-8")]);
    account.create("disk", MIB);
    assert_eq!(Client::attach(&server, "disk").read(0, 512), [0; 512]);
    assert!(control.exists() && !account.dir().join("control.sock").exists());
}

#[test]
fn what_a_server_says_when_it_is_ready_is_a_document() {
    let account = Account::new();
    account.create("disk", MIB);
    let mut child = account
        .command()
        .args(["serve", "--json", "--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("sealdisk starts");
    let mut text = String::new();
    let mut stdout = child.stdout.take().expect("stdout is piped");
    while serde_json::from_str::<Value>(&text).is_err() {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("a document");
        text.push(char::from(byte[0]));
    }
    let ready: Value = serde_json::from_str(&text).expect("JSON");
    let uri = ready["exports"][0]["uri"].as_str().expect("a URI").to_owned();
    assert_eq!(ready["exports"][0]["name"], "disk");
    assert_eq!(stdout_of(program("nbdinfo").args(["--size", &uri])).trim(), MIB.to_string());
    let tcp = format!("nbd://{}/disk", ready["listen"][0].as_str().expect("an address"));
    assert_eq!(stdout_of(program("nbdinfo").args(["--size", &tcp])).trim(), MIB.to_string());
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert!(child.wait().expect("it ends").success());
}

/// Clients write while the server is told to stop: it ends in time, with status 0, and what it acknowledged is there.
#[test]
fn sigterm_under_load_keeps_what_was_acknowledged() {
    let account = Account::new();
    account.create("disk", 8 * MIB);
    let server = account.serve();
    let writers: Vec<_> = (0..4u64)
        .map(|writer| {
            let mut client = Client::attach(&server, "disk");
            thread::spawn(move || {
                let mut acknowledged = 0;
                for page in 0..4096 {
                    if !client.try_write_volatile((page * 4 + writer) * 512, &[writer as u8 + 1; 512]) {
                        break;
                    }
                    acknowledged = page + 1;
                }
                acknowledged
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(100));
    assert!(server.terminate().success());
    let acknowledged: Vec<u64> = writers.into_iter().map(|writer| writer.join().expect("a writer ends")).collect();
    let server = account.serve();
    let mut client = Client::attach(&server, "disk");
    for (writer, pages) in acknowledged.into_iter().enumerate() {
        for page in 0..pages {
            let read = client.read((page * 4 + writer as u64) * 512, 512);
            assert!(read == [writer as u8 + 1; 512], "page {page} of writer {writer}, which has {pages}");
        }
    }
}

#[test]
fn the_switch_and_the_verbs_from_many_sides_at_once() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let started = Instant::now();
    thread::scope(|scope| {
        for side in 0..6 {
            let account = &account;
            scope.spawn(move || {
                for turn in 0..4 {
                    let word = if (side + turn) % 2 == 0 { "on" } else { "off" };
                    account.sealdisk(&["encryption", word]);
                    let name = format!("disk-{side}-{turn}");
                    account.create(&name, MIB);
                    account.json(&["status"]);
                    // Only one of all can have this name.
                    run(account.command().args(["create", "contested", "--size", "1M"]));
                    account.sealdisk(&["delete", &name, "--yes"]);
                }
            });
        }
        let server = &server;
        scope.spawn(move || {
            let mut client = Client::attach(server, "disk");
            for page in 0..2048 {
                client.write(page * 512, &[page as u8; 512]);
            }
            for page in 0..2048 {
                assert!(client.read(page * 512, 512) == [page as u8; 512], "page {page}");
            }
        });
    });
    assert!(started.elapsed() < Duration::from_secs(100));
    let status = account.json(&["status"]);
    let names: Vec<_> = status["disks"].as_array().expect("disks").iter().map(|disk| disk["name"].clone()).collect();
    assert_eq!(names, [json!("contested"), json!("disk")]);
    assert_eq!(
        status["disks"][1]["plain_bytes"]
            .as_u64()
            .zip(status["disks"][1]["encrypted_bytes"].as_u64())
            .map(|(p, e)| p + e),
        Some(MIB + 512)
    );
    assert!(server.terminate().success());
}

/// What reaches the control socket and is no request does no harm, and does not keep others out.
#[test]
fn noise_on_the_control_socket() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let control = account.dir().join("control.sock");
    let header = |body: u32, files: u32| [&b"sdctl\0\x01\0"[..], &body.to_le_bytes(), &files.to_le_bytes()].concat();
    let noise: [Vec<u8>; 9] = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 100_000],
        header(u32::MAX, 0),
        header(10, 0),
        header(2, 7),
        [header(2, 0), b"{}".to_vec()].concat(),
        [header(4, 0), b"\xff\xfe\xfd\xfc".to_vec()].concat(),
        [header(20, 0), vec![b'['; 20]].concat(),
        header(0, u32::MAX),
    ];
    for bytes in &noise {
        let mut stream = UnixStream::connect(&control).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        // It may hang up before it has read all.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut told = Vec::new();
        let _ = stream.read_to_end(&mut told);
        assert!(told.len() < 4096 && !told.windows(6).any(|word| word == b"\"done\""), "{bytes:?}");
    }
    // As many silent connections as there are places, less one.
    let silent: Vec<_> = (0..15).map(|_| UnixStream::connect(&control).expect("the server listens")).collect();
    assert_eq!(account.json(&["status"])["disks"][0]["name"], "disk");
    // Stopping does not wait for them.
    let before = Instant::now();
    assert!(server.terminate().success());
    assert!(before.elapsed() < Duration::from_secs(9), "the server waited for silent connections");
    drop(silent);
}

#[test]
fn leftovers_of_interrupted_verbs_go_and_damage_is_told() {
    let account = Account::new();
    account.create("disk", MIB);
    let disks = account.dir().join("disks");
    for name in [".new-0b0f5d3c-5a50-4ec4-b4a0-1f6f2a2cf2a5", ".gone-0b0f5d3c-5a50-4ec4-b4a0-1f6f2a2cf2a6"] {
        fs::create_dir(disks.join(name)).expect("a folder");
        fs::write(disks.join(name).join("disk.toml"), "half").expect("a file");
    }
    let damaged = disks.join("0b0f5d3c-5a50-4ec4-b4a0-1f6f2a2cf2a7");
    fs::create_dir(&damaged).expect("a folder");
    // Reading verbs change nothing.
    let status = account.json(&["status"]);
    assert_eq!(fs::read_dir(&disks).expect("a folder").count(), 4);
    assert_eq!(status["disks"][0]["zero_bytes"], MIB);
    assert!(status["disks"][1]["error"]["message"].as_str().is_some_and(|told| told.contains("f2a7")), "{status}");
    account.create("other", MIB);
    let left: Vec<_> =
        fs::read_dir(&disks).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(damaged.is_dir(), "what may be a disk is never removed");
    let server = account.serve();
    assert_eq!(Client::attach(&server, "disk").read(0, 512), [0; 512]);
}
