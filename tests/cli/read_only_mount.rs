//! An account on a read-only mount: it is served to clients that read, and verbs read it.

use std::fs;
use std::path::Path;

use crate::refused::{in_namespace, shell};

/// Makes an account on a file system of its own with a disk `closed`, closed in order, and a disk `open`, whose server
/// was killed; has the mount read-only then, and runs `then`. Both disks begin with 64 KiB of sevens.
fn on_read_only_mount(scratch: &Path, then: &str) -> String {
    let mount = scratch.join("mount");
    fs::create_dir(&mount).expect("a folder");
    let script = format!(
        "{shell} S='{scratch}'; cd \"$S\"; server=;\
         trap '[ -z \"$server\" ] || kill -9 $server' EXIT;\
         start() {{ serving --socket \"$S/nbd\" --control \"$S/control\" \"$@\" > log 2>&1 & server=$!;\
           for step in $(seq 500); do [ -S nbd ] && return; kill -0 $server || break; sleep 0.02; done;\
           cat log >&2; exit 1; }};\
         stop() {{ kill \"$@\" $server; wait $server || true; server=; rm -f nbd control; }};\
         ask() {{ disk=$1; shift; qemu-io -f raw \"$@\" \"nbd+unix:///$disk?socket=$S/nbd\" 2>&1; }};\
         mount -t tmpfs none '{mount}'; sealdisk init >&2;\
         for disk in closed open; do sealdisk create $disk --size 1M >&2; done;\
         start; ask closed -c 'write -P 7 0 64k' >&2; sealdisk snapshot create closed kept >&2; stop -TERM;\
         start; ask open -c 'write -P 7 0 64k' -c flush >&2; stop -9;\
         mount -o remount,ro '{mount}'; ! touch '{mount}/account/lock' 2> /dev/null; {then}",
        shell = shell(&mount.join("account"), &scratch.join("home")),
        scratch = scratch.display(),
        mount = mount.display()
    );
    in_namespace(&script)
}

/// What is read of the account by verbs.
const READING: &str = "sealdisk list; sealdisk status >&2; sealdisk snapshot list closed;\
    for disk in closed open; do for verb in show map audit verify; do sealdisk $verb $disk >&2; done; done;\
    rm -f out.vhd; sealdisk export open out.vhd >&2; qemu-io -r -f raw -c 'read -P 7 0 64k' out.vhd 2>&1;";

#[test]
fn an_account_on_a_read_only_mount_is_served_and_read() {
    let scratch = tempfile::tempdir().expect("a folder");
    let told = on_read_only_mount(
        scratch.path(),
        &format!(
            "find \"$A\" -printf '%P %s %T@\\n' | sort > before; {READING} start --read-only;\
             for disk in closed closed@kept open; do ask $disk -r -c 'read -P 7 0 64k' -c 'read -P 0 64k 64k' -c flush; done;\
             ask open -c 'write -P 1 0 64k' && exit 1; {READING}\
             ask open -r -c 'read -P 7 0 64k'; stop -TERM; {READING}\
             find \"$A\" -printf '%P %s %T@\\n' | sort | diff before - && echo unchanged"
        ),
    );
    assert!(!told.contains("verification failed"), "{told}");
    assert_eq!(told.matches("read 65536/65536").count(), 3 * 2 + 1 + 3, "{told}");
    assert_eq!(told.matches("kept").count(), 3, "{told}");
    assert!(told.ends_with("unchanged\n"), "{told}");
}

#[test]
fn what_a_read_only_mount_does_not_take_is_refused_with_a_hint() {
    let scratch = tempfile::tempdir().expect("a folder");
    let told = on_read_only_mount(
        scratch.path(),
        "refused() { echo \"-- $*\"; sealdisk \"$@\" 2>&1 && exit 1 || true; };\
         refused serve --socket \"$S/nbd\" --control \"$S/control\"; refused serve --read-only;\
         refused serve --read-only --socket \"$S/nbd\"; start --read-only; refused create new --size 1M;\
         refused delete closed --yes; stop -TERM",
    );
    let said: Vec<_> = told.split("-- ").skip(1).collect();
    assert_eq!(said.len(), 5, "{told}");
    for (index, words) in [
        ["Read-only file system", "`serve --read-only`"],
        ["read-only mount", "`--socket PATH` and `--control PATH`"],
        ["read-only mount", "`--socket PATH` and `--control PATH`"],
        ["Read-only file system", "verbs that read work"],
        ["Read-only file system", "verbs that read work"],
    ]
    .into_iter()
    .enumerate()
    {
        assert!(words.iter().all(|word| said[index].contains(word)), "{}", said[index]);
    }
}
