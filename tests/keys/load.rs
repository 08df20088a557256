//! One load of an ordinary client that checks all it wrote, through everything that happens to keys. Its requests pass
//! through nbdkit's filter for retrying: while the keys are revoked requests fail, and that filter asks again on the
//! same connection until they are restored, as a patient client does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::support::{Account, MIB, Server, program, stdout_of};

/// Bytes that the load covers; the disk goes on behind them.
const LOAD: u64 = 24 * MIB;

/// nbdkit between a client and the server, ended with this.
struct Patient {
    child: Child,
    socket: PathBuf,
}

impl Patient {
    fn start(account: &Account, server: &Server) -> Self {
        let socket = account.scratch("patient.sock");
        let mut nbdkit = program("nbdkit");
        nbdkit.args(["--foreground", "--exit-with-parent", "--unix"]).arg(&socket);
        nbdkit.args(["--filter=retry-request", "nbd", &format!("uri={}", server.uri("disk"))]);
        nbdkit.args(["retry-request-retries=60", "retry-request-delay=1"]);
        let child = nbdkit.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("nbdkit starts");
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "nbdkit does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, socket }
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fio(uri: &str, folder: &Path, words: &[&str]) -> Command {
    let mut fio = program("timeout");
    fio.current_dir(folder).args(["--kill-after=5", "110", "fio", "--name=load", "--ioengine=nbd", "--rw=randwrite"]);
    fio.args(["--bsrange=512-64k", "--blockalign=512", "--iodepth=8", "--verify=crc32c", "--verify_fatal=1"]);
    fio.args(["--randseed=7", "--fsync=32", &format!("--size={LOAD}"), &format!("--uri={uri}")]).args(words);
    fio
}

#[test]
fn fio_finds_all_it_wrote_through_rotation_re_encryption_revocation_and_restoring() {
    let account = Account::new();
    let image = account.scratch("base.img");
    let base: Vec<u8> = (0..32 * MIB / 8).flat_map(|n| (n ^ 0xB45E).to_le_bytes()).collect();
    fs::write(&image, &base).expect("a base image");
    account.create_over("disk", &image);
    let server = account.serve();
    let patient = Patient::start(&account, &server);
    let (uri, folder) = (patient.uri(), account.scratch(""));
    let enough = Arc::new(AtomicBool::new(false));
    let load = std::thread::spawn({
        let enough = Arc::clone(&enough);
        // Again, the same over it, where a busy machine takes longer for two rounds.
        move || {
            for _ in 0..10 {
                stdout_of(&mut fio(&uri, &folder, &["--rate=2m", "--do_verify=1"]));
                if enough.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    });

    let mut rounds = 0;
    while !load.is_finished() {
        account.sealdisk(&["key", "rotate-kek"]);
        account.sealdisk(&["key", "rotate-data", "disk"]);
        account.sealdisk(&["encryption", "off"]);
        std::thread::sleep(Duration::from_millis(300));
        account.sealdisk(&["encryption", "on"]);
        let revoked = account.json(&["key", "revoke"]);
        assert_eq!(revoked["held"], serde_json::json!([]), "{revoked}");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(account.json(&["key", "restore"])["were_revoked"], true);
        account.sealdisk(&["key", "rotate-kek", "--account-key"]);
        let words: &[&str] =
            if rounds % 2 == 0 { &["reencrypt", "disk"] } else { &["reencrypt", "disk", "--include-base"] };
        let done = account.json(words);
        assert_eq!(done[0]["remaining_bytes"], 0, "{done}");
        rounds += 1;
        enough.store(rounds >= 2, Ordering::Relaxed);
    }
    load.join().expect("fio finds what it wrote");
    println!("{rounds} rounds of every change during one load");
    assert!(rounds >= 2, "the keys changed during the load");
    let usage = account.usage("disk");
    assert_eq!((usage.base, usage.plain), (0, 0), "{usage:?}");
    drop(patient);
    assert!(server.terminate().success());

    // After a restart too, without anybody in between, and without the base; and the rest of the disk is as it was.
    fs::remove_file(&image).expect("the base goes");
    let server = account.serve();
    stdout_of(&mut fio(&server.uri("disk"), &account.scratch(""), &["--verify_only=1"]));
    let mut client = Client::attach(&server, "disk").expect("attached");
    let rest = client.read(LOAD, (32 * MIB - LOAD) as usize).expect("read");
    assert!(rest == base[LOAD as usize..], "behind the load the content of the base");
}
