//! A verb asks who serves an account before it sends anything, and a server who asks before it answers.

use crate::rig::as_root;

/// Holds the lock of the account in `$1`, listens, and notes what it is sent.
const POSING: &str = r#"
cat >posing.py <<'END'
import fcntl, json, os, socket, sys
account, socket_path, heard = sys.argv[1:]
lock = open(account + "/lock", "r+"); fcntl.flock(lock, fcntl.LOCK_EX)
lock.write(json.dumps({"pid": os.getpid(), "control": socket_path})); lock.truncate(); lock.flush()
os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_UNIX); s.bind(socket_path); s.listen(5)
print("serving on", flush=True)
while True:
    c, _ = s.accept()
    data = c.recv(4096)
    if data:
        open(heard, "ab").write(data)
    c.close()
END
PY=/usr/bin/python3; [ -x $PY ] || PY=python3
mkdir -m 777 theirs
"#;

#[test]
fn a_server_of_another_user_is_sent_nothing() {
    as_root(&format!(
        "{POSING}{}",
        r#"
        key kek; key new; sd init --key-file kek
        serving $PY posing.py "$A" "$T/theirs/posing.sock" "$T/theirs/heard"
        for verb in "list" "status" "create d --size 1M" "key rotate-kek --key-file new --old-key-file kek" "key restore"; do
            refused "a process of uid 65534 listens there, and the account is uid 0's" sd $verb
        done
        test ! -e theirs/heard
    "#
    ));
}

/// Also where the permissions of the socket let that user connect, and the account lets it look.
#[test]
fn no_process_of_another_user_is_answered_at_the_control_socket() {
    as_root(
        r#"
        key kek; sd init --key-file kek; sd create d --size 1M; chmod -R a+rX account
        serving sd serve
        chmod 666 account/control.sock
        only="only the user who runs the server may use its control socket"
        for verb in list status "show d"; do refused "$only" other "$B" --account "$A" $verb; done
        # So for a program of its own: it is told that, whatever it asks, and no more.
        cat >asking.py <<'END'
import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])
heard = b""
while data := s.recv(4096):
    heard += data
print(heard.decode(errors="replace"))
END
        PY=/usr/bin/python3; [ -x $PY ] || PY=python3
        other $PY asking.py "$A/control.sock" >heard; grep -qF "$only" heard; test "$(stat -c %s heard)" -lt 500
        sd list | grep -q d
        # And no other than root: the server of another user answers root, and that user.
        stop
        install -d -o 65534 -g 65534 -m 755 theirs; key theirs.key; chown 65534 theirs.key
        theirs() { "$@" "$B" --account "$T/theirs" list; }
        other "$B" --account "$T/theirs" init --key-file theirs.key; other "$B" --account "$T/theirs" create d --size 1M
        serving other "$B" --account "$T/theirs" serve; chmod 666 theirs/control.sock
        theirs other | grep -q d; theirs env | grep -q d
        refused "another user" setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/nonexistent "$B" --account "$T/theirs" list
        "#,
    );
}
