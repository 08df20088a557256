//! Verbs and clients of one pid namespace, a server of another.

use crate::rig::as_root;

#[test]
fn a_server_in_another_pid_namespace_answers_verbs_and_clients() {
    as_root(
        r#"
        key kek; sd init --key-file kek
        inside() { unshare --pid --fork --kill-child --mount-proc "$@"; }
        # The server cannot see the processes outside of its namespace.
        serving inside "$B" --account "$A" serve
        sd create d --size 1M; sd status | grep -q d
        nbdinfo "nbd+unix:///d?socket=$A/nbd.sock" | grep -q 1048576
        grep -q 'attached peer=unix:uid=0 ' log
        refused "by process 1 of another pid namespace on this host" sd serve
        # Nor can these see the server.
        inside "$B" --account "$A" create e --size 1M
        stop
        # In order, as the first process of its namespace.
        ! grep -q pid account/lock
        serving sd serve
        inside "$B" --account "$A" create f --size 1M
        inside nbdinfo "nbd+unix:///f?socket=$A/nbd.sock" | grep -q 1048576
        refused "of the host or container" unshare --uts sh -c "hostname elsewhere; exec $B --account $A serve"
    "#,
    );
}
