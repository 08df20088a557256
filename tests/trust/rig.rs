//! Scripts of root's, in which other users are real.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use crate::support::{program, run};

/// What every script has: the program `$B`, a folder `$T`, the user of another (`other`, uid 65534), a key for `init`,
/// and the kind of the error of a verb that is refused.
const PRELUDE: &str = r#"
    umask 022; cd "$T"; mkdir home; export HOME=$T/home XDG_CONFIG_HOME=$T/home/config
    unset SEALDISK_ACCOUNT CREDENTIALS_DIRECTORY || true
    A=$T/account; S=0
    sd() { "$B" --account "$A" "$@"; }
    other() { setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/nonexistent XDG_CONFIG_HOME=/nonexistent "$@"; }
    key() { (umask 077; head -c 32 /dev/urandom >"$1"); }
    # refused WORD COMMAND...: it fails, and says the word.
    refused() { local word=$1; shift; if "$@" >"$T/said" 2>&1; then echo "not refused: $*"; cat "$T/said"; exit 1; fi
        grep -qF -- "$word" "$T/said" || { echo "does not say $word: $*"; cat "$T/said"; exit 1; }; }
    # serving COMMAND...: a server, until the script ends; S is its process, whatever started it.
    serving() { local child; "$@" >"$T/log" 2>&1 & S=$!
        for _ in $(seq 200); do grep -q "serving on" "$T/log" && break; kill -0 $S || break; sleep .05; done
        while child=$(cat /proc/$S/task/$S/children 2>/dev/null) && [ -n "$child" ]; do S=${child%% *}; done
        grep -q "serving on" "$T/log" || { cat "$T/log"; return 1; }; }
    stop() { if [ $S != 0 ]; then kill $S; wait || true; S=0; fi; }
    trap stop EXIT
"#;

/// Runs `script` with bash as root; it has to succeed. What it said.
pub(crate) fn as_root(script: &str) -> String {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Where the project lies no other user may get at it.
    let copy = folder.path().join("sealdisk");
    fs::copy(env!("CARGO_BIN_EXE_sealdisk"), &copy).unwrap();
    let work = folder.path().join("work");
    fs::create_dir(&work).unwrap();
    let mut command = match rustix::process::geteuid().is_root() {
        true => program("env"),
        false => {
            let mut sudo = program("sudo");
            sudo.args(["-n", "env"]);
            sudo
        }
    };
    command.arg(format!("B={}", copy.display())).arg(format!("T={}", work.display()));
    let output =
        run(command.args(["timeout", "60", "bash", "-euo", "pipefail", "-c"]).arg(format!("{PRELUDE}{script}")));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}
