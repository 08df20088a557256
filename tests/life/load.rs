//! Every live verb while fio writes and then checks what it wrote.

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
        .args(["--size=48m", "--io_size=96m", "--iodepth=8", "--randseed=11", "--fsync=64", "--rate=24m"])
        .args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1"])
        .arg(format!("--uri={}", server.uri("disk")));
    thread::scope(|scope| {
        let load = scope.spawn(|| stdout_of(&mut fio));
        thread::sleep(Duration::from_millis(300));
        let mut rounds = 0;
        while !load.is_finished() && rounds < 40 {
            let (snapshot, clone) = (format!("s{rounds}"), format!("c{rounds}"));
            account.sealdisk(&["snapshot", "create", "disk", &snapshot]);
            account.sealdisk(&["clone", &format!("disk@{snapshot}"), &clone]);
            account.sealdisk(&["encryption", if rounds % 2 == 0 { "off" } else { "on" }]);
            account.sealdisk(&["key", "rotate-data", "disk"]);
            account.sealdisk(&["diff", "disk", "--from", &snapshot, "--json"]);
            // Only behind what fio uses.
            account.sealdisk(&["resize", "disk", if rounds % 2 == 0 { "72M" } else { "56M" }, "--yes"]);
            account.sealdisk(&["rename", "disk", "other"]);
            account.sealdisk(&["rename", "other", "disk"]);
            if rounds % 2 == 1 {
                account.sealdisk(&["delete", &clone, "--yes"]);
                account.sealdisk(&["snapshot", "delete", "disk", &snapshot]);
            }
            rounds += 1;
        }
        assert!(rounds >= 2, "the load ended before the verbs met it");
        load.join().expect("fio verifies");
    });
    assert!(server.terminate().success());
}
