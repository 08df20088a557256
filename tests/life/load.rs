//! Every live verb while fio writes and then checks what it wrote.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{Account, MIB, program, stdout_of};

#[test]
fn live_verbs_under_a_verifying_load() {
    let account = Account::new();
    account.create("disk", 64 * MIB);
    let server = account.serve();
    let folder = account.scratch("");
    let mut fio = program("fio");
    fio.current_dir(&folder)
        .args(["--name=job", "--ioengine=nbd", "--rw=randwrite", "--bsrange=512-64k", "--blockalign=512"])
        .args(["--size=48m", "--io_size=128m", "--iodepth=8", "--randseed=11", "--fsync=256", "--rate=16m"])
        .args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1"])
        .arg(format!("--uri={}", server.uri("disk")));
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            // Again, the same over it, where a busy machine takes longer for two rounds.
            for _ in 0..10 {
                stdout_of(&mut fio);
                if enough.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        thread::sleep(Duration::from_millis(300));
        let mut rounds = 0;
        while !load.is_finished() && rounds < 40 {
            let (snapshot, clone) = (format!("s{rounds}"), format!("c{rounds}"));
            account.sealdisk(&["snapshot", "create", "disk", &snapshot]);
            account.sealdisk(&["clone", &format!("disk@{snapshot}"), &clone]);
            account.sealdisk(&["encryption", if rounds % 2 == 0 { "off" } else { "on" }]);
            account.sealdisk(&["key", "rotate-data", "disk"]);
            account.sealdisk(&["diff", "disk", "--from", &snapshot, "--json"]);
            let context = format!("--map=sealdisk:diff:{snapshot}");
            stdout_of(program("nbdinfo").args([&context, &server.uri("disk")]));
            // What a snapshot has stays as it is, and so does what a clone has of it.
            let copies = ["one", "two", "three"].map(|name| account.scratch(name));
            let frozen = format!("disk@{snapshot}");
            for (export, copy) in [&frozen, &clone, &frozen].into_iter().zip(&copies) {
                stdout_of(program("nbdcopy").arg(server.uri(export)).arg(copy));
            }
            let [one, two, three] = copies.map(|copy| std::fs::read(copy).expect("a copy"));
            assert!(one == two && one == three, "{frozen} changes under the load");
            if rounds == 0 {
                // Copies of a moment, compared by the verbs themselves.
                let out = account.scratch("export.vhd");
                let exported = account.json(&["export", "disk", out.to_str().expect("UTF-8")]);
                let full = account.json(&["clone", "disk", "full", "--full"]);
                let back = account.json(&["import", out.to_str().expect("UTF-8"), "back"]);
                for document in [exported, full, back] {
                    assert_eq!(document["verified"], true, "{document}");
                }
            }
            account.sealdisk(&["snapshot", "list", "disk"]);
            account.sealdisk(&["map", "disk"]);
            account.sealdisk(&["verify", "disk"]);
            // Only behind what fio uses.
            account.sealdisk(&["resize", "disk", if rounds % 2 == 0 { "72M" } else { "56M" }, "--yes"]);
            account.sealdisk(&["rename", "disk", "other"]);
            account.sealdisk(&["rename", "other", "disk"]);
            if rounds % 2 == 1 {
                account.sealdisk(&["delete", &clone, "--yes"]);
                account.sealdisk(&["snapshot", "delete", "disk", &snapshot]);
            }
            rounds += 1;
            enough.store(rounds >= 2, Ordering::Relaxed);
        }
        println!("{rounds} rounds of every verb under the load");
        assert!(rounds >= 2, "the load ended before the verbs met it");
        load.join().expect("fio verifies");
    });
    assert!(server.terminate().success());
}
