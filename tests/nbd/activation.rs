//! The program, started with its socket already open: the way of systemd, which libnbd takes too.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const SCRIPT: &str = r#"
import sys
import nbd
handle = nbd.NBD()
handle.set_export_name("disk")
handle.connect_systemd_socket_activation(sys.argv[1:])
handle.pwrite(b"activated" * 512, 4096)
handle.flush()
assert handle.pread(9 * 512, 4096) == b"activated" * 512
handle.shutdown()
"#;

fn program(home: &Path, name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("HOME", home).env("XDG_CONFIG_HOME", home).env_remove("SEALDISK_ACCOUNT").current_dir(home);
    command
}

#[test]
fn a_socket_of_the_service_manager_is_served() {
    let home = TempDir::new().unwrap();
    let sealdisk = env!("CARGO_BIN_EXE_sealdisk");
    let run = |command: &mut Command| {
        let done = command.output().unwrap();
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run(program(home.path(), sealdisk).arg("init"));
    run(program(home.path(), sealdisk).args(["create", "disk", "--size", "1M"]));
    // libnbd makes the socket, starts the server with it, and ends the server when it is done.
    run(program(home.path(), "/usr/bin/python3").args(["-c", SCRIPT, sealdisk, "serve"]));
}
