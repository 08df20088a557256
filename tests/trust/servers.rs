//! A verb asks who serves an account before it sends anything.

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
