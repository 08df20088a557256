//! Every act leaves one line in the log of the server and in the audit log: what, on what, by whom, how it ended. The
//! audit log is chained, so that `audit --log` finds what was changed; where it cannot be written acts are refused, and
//! clients go on.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sealdisk::nbd::wire::transmission::HeaderStyle;
use serde_json::Value;

use crate::raw::Client;
use crate::support::{Account, MIB, program, run, stderr_of_failure, stdout_of};

struct Logged {
    account: Account,
    log: PathBuf,
}

impl Logged {
    fn new() -> Self {
        let account = Account::new();
        let log = account.scratch("audit.log");
        Self { account, log }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.account.command();
        command.env("SEALDISK_AUDIT_LOG", &self.log).args(words);
        command
    }

    fn verb(&self, words: &[&str]) -> String {
        stdout_of(&mut self.command(words))
    }

    /// The lines as `verb on outcome`.
    fn acts(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap();
        let line = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| line[name].as_str().unwrap().to_owned();
            format!("{} {} {}", field("verb"), field("on"), field("outcome"))
        };
        text.lines().map(line).collect()
    }

    /// Waits until the lines behind the first `from` have `expected`, and answers them.
    fn wait_for(&self, from: usize, expected: &str) -> Vec<String> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let new = self.acts().split_off(from);
            if new.iter().any(|act| act == expected) {
                return new;
            }
            assert!(Instant::now() < until, "no line `{expected}`: {new:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last line of the log.
    fn last(&self) -> Value {
        serde_json::from_str(fs::read_to_string(&self.log).unwrap().lines().last().unwrap()).unwrap()
    }

    fn check(&self) -> Value {
        let path = self.log.to_str().unwrap();
        serde_json::from_str(&self.verb(&["audit", "--log", path, "--json"])).unwrap()
    }

    fn bad(&self) -> String {
        stderr_of_failure(&mut self.command(&["audit", "--log", self.log.to_str().unwrap()]))
    }
}

#[test]
fn every_act_leaves_a_line_here_and_there() {
    let logged = Logged::new();
    logged.verb(&["create", "a", "--size", "1M"]);
    logged.verb(&["create", "b", "--size", "1M"]);
    let server = logged.account.serve_with(&["--audit-log", logged.log.to_str().unwrap()]);
    let out = logged.account.scratch("layer.key");
    let copy = logged.account.scratch("copy.raw");
    let acts: &[(&[&str], &str, &str)] = &[
        (&["encryption", "off"], "encryption off", ""),
        (&["encryption", "on"], "encryption on", ""),
        (&["create", "c", "--size", "1M"], "create", "c"),
        (&["snapshot", "create", "a", "s"], "snapshot create", "a@s"),
        (&["clone", "a@s", "d"], "clone", "d"),
        (&["rename", "d", "e"], "rename", "d"),
        (&["resize", "b", "2M"], "resize", "b"),
        (&["export", "a", copy.to_str().unwrap()], "read out", "a"),
        (&["key", "export", "a", "--layer", "1", "--out", out.to_str().unwrap(), "--yes-reveal"], "key export", "a"),
        (&["key", "rotate-data", "a"], "key rotate-data", "a"),
        (&["key", "rotate-kek", "--account-key"], "key rotate-kek", ""),
        (&["reencrypt", "a"], "reencrypt", "a"),
        (&["scrub", "a"], "scrub", "a"),
        (&["delete", "e", "--yes"], "delete", "e"),
        (&["snapshot", "rollback", "a", "s", "--yes"], "snapshot rollback", "a@s"),
        (&["snapshot", "delete", "a", "s"], "snapshot delete", "a@s"),
        (&["key", "revoke"], "key revoke", ""),
        (&["key", "restore"], "key restore", ""),
        (&["key", "erase", "b", "--yes-erase", "b"], "key erase", "b"),
        (&["delete", "b", "--yes"], "delete", "b"),
    ];
    for (words, verb, on) in acts {
        let before = logged.acts().len();
        let output = run(logged.account.command().args(*words));
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        logged.wait_for(before, &format!("{verb} {on} done"));
        // The log of the server is written by a thread of its own.
        let words = [&format!("verb=\"{verb}\""), "uid=", "outcome=\"done\"", *on];
        let until = Instant::now() + Duration::from_secs(30);
        while !server.log().lines().any(|line| words.iter().all(|word| line.contains(word))) {
            assert!(Instant::now() < until, "no line with {words:?}: {}", server.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // What fails has its line, what looks has none.
    let before = logged.acts().len();
    run(logged.account.command().args(["create", "a", "--size", "1M"]));
    logged.account.sealdisk(&["status"]);
    assert_eq!(logged.acts()[before..], ["create a failed"]);
    let last = logged.last();
    assert_eq!(last["uid"], rustix::process::geteuid().as_raw());
    assert!(last["error"].as_str().unwrap().contains("already"), "{last}");

    // So has what a verb refuses before it asks for the act: for another key, or after a look.
    let wrong = logged.account.scratch("wrong.key");
    fs::write(&wrong, [7; 32]).unwrap();
    fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let wrong = wrong.to_str().unwrap();
    let out = logged.account.scratch("none.key");
    let other_key = "not the one of this account";
    let export = ["key", "export", "a", "--layer", "1", "--yes-reveal", "--out", out.to_str().unwrap()];
    let refused: &[(&[&str], &str, &str, &str)] = &[
        (&["key", "restore", "--key-file", wrong], "key restore", "", other_key),
        (&["key", "rotate-kek", "--old-key-file", wrong], "key rotate-kek", "", other_key),
        (&[export.as_slice(), &["--key-file", wrong]].concat(), "key export", "a", other_key),
        (&["snapshot", "rollback", "a", "none", "--yes"], "snapshot rollback", "a@none", "none"),
        (&["resize", "none", "2M"], "resize", "none", "none"),
        (&["rebase", "a", "--base", copy.to_str().unwrap()], "rebase", "a", "no image"),
    ];
    for (words, verb, on, why) in refused {
        let before = logged.acts().len();
        assert!(!run(logged.account.command().args(*words)).status.success(), "{words:?}");
        assert_eq!(logged.acts()[before..], [format!("{verb} {on} failed")], "{words:?}");
        let last = logged.last();
        assert!(last["error"].as_str().unwrap().contains(why), "{last}");
    }
    let log = server.log_with("lies over no image");
    for (words, verb, _, why) in refused {
        let said = |line: &&str| line.contains(&format!("verb=\"{verb}\"")) && line.contains("outcome=\"failed\"");
        assert!(log.lines().any(|line| said(&line) && line.contains(why) && line.contains("uid=")), "{words:?}: {log}");
    }
    assert!(!out.exists());

    // It goes on over restarts and at rest, and is whole to whoever has the key.
    let lines = logged.acts().len() as u64;
    assert_eq!(logged.check()["lines"], lines);
    assert!(server.terminate().success());
    logged.verb(&["create", "f", "--size", "1M"]);
    let found = logged.check();
    assert_eq!((&found["lines"], &found["unproven"]), (&(lines + 1).into(), &0.into()));
    assert_eq!((&found["last"]["verb"], &found["last"]["on"]), (&"create".into(), &"f".into()));
}

/// A line never says done before the work is: a re-encryption by the server, by a verb and by a rotation, stopped with
/// the server, gone on with after its restart, and one that fails.
#[test]
fn an_act_whose_work_goes_on_has_a_line_when_it_begins_and_one_when_it_ends() {
    let logged = Logged::new();
    let image = logged.account.scratch("image");
    fs::write(&image, vec![7; 8 * MIB as usize]).unwrap();
    logged.verb(&["import", image.to_str().unwrap(), "a"]);
    assert_eq!(logged.acts(), ["import a begun", "import a done"]);
    logged.verb(&["key", "rotate-data", "a"]);
    let serve = || logged.account.serve_with(&["--audit-log", logged.log.to_str().unwrap()]);
    let sealdisk = |words: &[&str]| logged.account.sealdisk(words);

    let server = serve();
    let before = logged.acts().len();
    sealdisk(&["reencrypt", "a", "--rate", "1M", "--detach"]);
    assert_eq!(logged.acts()[before..], ["reencrypt a begun"]);
    assert!(logged.last()["detail"].as_str().unwrap().starts_with("begins"));
    assert!(server.terminate().success());
    assert_eq!(logged.acts()[before..], ["reencrypt a begun", "reencrypt a stopped"]);
    let stopped = logged.last();
    assert!(stopped["detail"].as_str().unwrap().contains("`sealdisk reencrypt a` goes on"), "{stopped}");

    let server = serve();
    let before = logged.acts().len();
    sealdisk(&["reencrypt", "a", "--detach"]);
    assert_eq!(logged.wait_for(before, "reencrypt a done"), ["reencrypt a begun", "reencrypt a done"]);

    // A verb drives it, and the server stops.
    sealdisk(&["key", "rotate-data", "a"]);
    let before = logged.acts().len();
    let mut verb = logged.account.command();
    verb.args(["reencrypt", "a", "--rate", "1M"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut verb = verb.spawn().unwrap();
    logged.wait_for(before, "reencrypt a begun");
    assert!(server.terminate().success());
    assert_eq!(logged.acts()[before..], ["reencrypt a begun", "reencrypt a stopped"]);
    assert!(!verb.wait().unwrap().success());

    // At rest, and served.
    let before = logged.acts().len();
    logged.verb(&["reencrypt", "a"]);
    assert_eq!(logged.acts()[before..], ["reencrypt a begun", "reencrypt a done"]);
    let rotated = ["key rotate-kek  begun", "reencrypt a begun", "reencrypt a done", "key rotate-kek  done"];
    let before = logged.acts().len();
    logged.verb(&["key", "rotate-kek", "--compromised"]);
    assert_eq!(logged.acts()[before..], rotated);
    let server = serve();
    let before = logged.acts().len();
    sealdisk(&["key", "rotate-kek", "--compromised"]);
    assert_eq!(logged.acts()[before..], rotated);

    // What is refused has begun and failed; what is read out ends with its reader.
    sealdisk(&["encryption", "off"]);
    let before = logged.acts().len();
    stderr_of_failure(logged.account.command().args(["reencrypt", "a"]));
    assert_eq!(logged.acts()[before..], ["reencrypt a begun", "reencrypt a failed"]);
    assert!(logged.last()["error"].as_str().unwrap().contains("encryption is off"));
    let (before, out) = (logged.acts().len(), logged.account.scratch("out"));
    sealdisk(&["export", "a", out.to_str().unwrap()]);
    assert_eq!(logged.wait_for(before, "read out a done"), ["read out a begun", "read out a done"]);
    let before = logged.acts().len();
    sealdisk(&["scrub", "a"]);
    assert_eq!(logged.wait_for(before, "scrub a done"), ["scrub a begun", "scrub a done"]);
    assert!(server.terminate().success());
    let before = logged.acts().len();
    fs::remove_file(&out).unwrap();
    logged.verb(&["export", "a", out.to_str().unwrap()]);
    assert_eq!(logged.acts()[before..], ["read out a begun", "read out a done"]);
    assert_eq!(logged.check()["unproven"], 0);
}

#[test]
fn what_was_changed_is_found_and_what_was_cut_off_is_not() {
    let logged = Logged::new();
    for name in ["a", "b", "c", "d"] {
        logged.verb(&["create", name, "--size", "1M"]);
    }
    let text = fs::read_to_string(&logged.log).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let whole = logged.check();
    assert_eq!(whole["lines"], 4);
    let put = |lines: &[&str]| fs::write(&logged.log, lines.join("\n") + "\n").unwrap();
    let changed = lines[1].replace("\"on\":\"b\"", "\"on\":\"x\"");
    put(&[lines[0], &changed, lines[2], lines[3]]);
    assert!(logged.bad().contains("line 2 is not as it was written"));
    put(&[lines[0], lines[2], lines[3]]);
    assert!(logged.bad().contains("line 2 is not as it was written"));
    put(&[lines[0], lines[1], lines[3], lines[2]]);
    assert!(logged.bad().contains("line 3 is not as it was written"));
    put(&[lines[1], lines[2], lines[3]]);
    assert!(logged.bad().contains("line 1 is not as it was written"));
    // Cut off at the end: seen by whoever knows the last line from elsewhere.
    put(&lines[..2]);
    assert_eq!(logged.check()["lines"], 2);
    assert_ne!(logged.check()["last"]["chain"], whole["last"]["chain"]);
    // The log of another account.
    put(&lines);
    let other = Account::new();
    let refused = stderr_of_failure(other.command().args(["audit", "--log"]).arg(&logged.log));
    assert!(refused.contains("another account"), "{refused}");
}

#[test]
fn a_full_audit_log_refuses_acts_and_no_client() {
    let logged = Logged::new();
    logged.account.create("a", MIB);
    let folder = logged.account.scratch("full");
    fs::create_dir(&folder).unwrap();
    let mut wrapper = vec!["unshare", "--mount"];
    if !rustix::process::geteuid().is_root() {
        wrapper.extend(["--user", "--map-root-user"]);
    }
    let mount = r#"mount -t tmpfs -o size=256k tmpfs "$1"; shift; exec "$@""#;
    wrapper.extend(["sh", "-ec", mount, "sh", folder.to_str().unwrap()]);
    let log = folder.join("audit.log");
    let server = logged.account.serve_under(&wrapper, &["--audit-log", log.to_str().unwrap()]);
    let inside = Path::new(&format!("/proc/{}/root", server.pid())).join(folder.strip_prefix("/").unwrap());
    fill(&inside.join("filler"));
    let mut client = Client::attached(server.socket(), HeaderStyle::Simple);
    // What is reserved lasts for a while; then nothing is changed.
    let mut done = 0;
    let refused = loop {
        let output = run(logged.account.command().args(["encryption", if done % 2 == 0 { "off" } else { "on" }]));
        if !output.status.success() {
            break String::from_utf8(output.stderr).unwrap();
        }
        done += 1;
        assert!(done < 1000, "it is never refused");
    };
    assert!(done > 20, "{done} acts find the space that was reserved");
    assert!(refused.contains("audit log") && refused.contains("hint:"), "{refused}");
    client.write(0, &[1; 512]);
    assert_eq!(client.read(0, 512), [1; 512]);
    let encryption = logged.account.json(&["encryption", "status"]);
    // But for what takes keys away.
    logged.account.sealdisk(&["key", "revoke"]);
    fs::remove_file(inside.join("filler")).unwrap();
    logged.account.sealdisk(&["key", "restore"]);
    assert_eq!(logged.account.json(&["encryption", "status"]), encryption);
    let text = fs::read_to_string(inside.join("audit.log")).unwrap();
    let verbs: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The first is the server's own.
    assert_eq!(verbs.len(), done + 3, "{text}");
    assert_eq!((&verbs[done + 1]["verb"], &verbs[done + 2]["verb"]), (&"key revoke".into(), &"key restore".into()));
    fs::copy(inside.join("audit.log"), &logged.log).unwrap();
    assert_eq!(logged.check()["unproven"], 0);
}

/// Takes all the space there is.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    while file.write(&[0]).is_ok_and(|written| written > 0) {}
}

#[test]
fn a_server_does_not_start_without_the_log_it_is_told_to_keep() {
    let account = Account::new();
    let refused = stderr_of_failure(account.command().args(["serve", "--audit-log", "/none/audit.log"]));
    assert!(refused.contains("cannot open the audit log"), "{refused}");
    let refused = stderr_of_failure(account.command().args(["serve", "--audit-log", "/dev/null"]));
    assert!(refused.contains("not a regular file"), "{refused}");
}

/// An account has its line from the beginning, and none is made where that cannot be written.
#[test]
fn a_new_account_has_a_line_or_is_not_made() {
    let logged = Logged::new();
    let other = logged.account.scratch("other");
    let init = |log: &Path| {
        let mut command = logged.account.command();
        command.env("SEALDISK_AUDIT_LOG", log).arg("--account").arg(&other).arg("init");
        command
    };
    let refused = stderr_of_failure(&mut init(Path::new("/none/audit.log")));
    assert!(refused.contains("cannot open the audit log") && !other.exists(), "{refused}");
    stdout_of(&mut init(&logged.log));
    assert_eq!(logged.acts(), ["init  done"]);
    let last = logged.last();
    assert_eq!((&last["detail"], &last["uid"]), (&"encryption on".into(), &rustix::process::geteuid().as_raw().into()));
    stdout_of(logged.account.command().arg("--account").arg(&other).args(["audit", "--log"]).arg(&logged.log));
}

#[test]
fn what_is_no_file_is_refused_as_a_log_at_once() {
    let account = Account::new();
    let fifo = account.scratch("fifo");
    let missing = stderr_of_failure(account.command().args(["audit", "--log", "/none/audit.log"]));
    assert!(missing.contains("/none/audit.log: cannot open") && missing.contains("hint:"), "{missing}");
    stdout_of(program("mkfifo").arg(&fifo));
    for path in [&*fifo, Path::new("/dev/zero"), &account.dir()] {
        let mut command = account.command_under(&["timeout", "20"]);
        let refused = stderr_of_failure(command.args(["audit", "--log"]).arg(path));
        assert!(refused.contains("not a regular file") && refused.contains("hint:"), "{refused}");
        assert!(refused.contains(path.to_str().unwrap()), "{refused}");
    }
}

/// The keys are taken back from the account, not from the owner of the key-encryption key.
#[test]
fn the_log_of_an_account_whose_keys_are_revoked_is_checked_with_the_key() {
    let logged = Logged::new();
    logged.verb(&["create", "a", "--size", "1M"]);
    let server = logged.account.serve_with(&["--audit-log", logged.log.to_str().unwrap()]);
    logged.account.sealdisk(&["key", "revoke"]);
    let served = logged.check();
    assert_eq!(
        (&served["lines"], &served["unproven"], &served["last"]["verb"]),
        (&2.into(), &0.into(), &"key revoke".into())
    );
    assert!(server.terminate().success());
    assert_eq!(logged.check(), served);
    let text = fs::read_to_string(&logged.log).unwrap();
    fs::write(&logged.log, text.replace("\"on\":\"a\"", "\"on\":\"b\"")).unwrap();
    assert!(logged.bad().contains("line 1 is not as it was written"));
    // With another key there is nothing to check it by.
    let other = logged.account.scratch("other.key");
    fs::write(&other, [7; 32]).unwrap();
    fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let key = ["audit", "--log", logged.log.to_str().unwrap(), "--key-file", other.to_str().unwrap()];
    let refused = stderr_of_failure(logged.account.command().args(key));
    assert!(refused.contains("not the one of this account"), "{refused}");
}

/// A line in a file that is not looked for is none: acts are refused until the file is back, or a restart begins a new
/// one. Keys can be taken away all the same.
#[test]
fn a_log_that_is_moved_or_removed_under_a_server_is_noticed() {
    let logged = Logged::new();
    let create = |name: &str| run(logged.account.command().args(["create", name, "--size", "1M"]));
    let refused = |name: &str| {
        let output = create(name);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("moved or removed") && said.contains("hint:"), "{said}");
    };
    let serve = || logged.account.serve_with(&["--audit-log", logged.log.to_str().unwrap()]);
    let server = serve();
    assert!(create("a").status.success());
    let aside = logged.account.scratch("audit.log.1");
    fs::rename(&logged.log, &aside).unwrap();
    refused("b");
    fs::write(&logged.log, "").unwrap();
    refused("b");
    fs::rename(&aside, &logged.log).unwrap();
    assert!(create("b").status.success());
    // What takes keys away is done; its line comes to the file that was moved, at the latest as the server ends.
    fs::rename(&logged.log, &aside).unwrap();
    logged.account.sealdisk(&["key", "revoke"]);
    assert!(server.terminate().success());
    assert!(!logged.log.exists());
    fs::rename(&aside, &logged.log).unwrap();
    assert_eq!(logged.acts(), ["serve  done", "create a done", "create b done", "key revoke  done"]);
    assert_eq!(logged.check()["unproven"], 0);
    logged.verb(&["key", "restore"]);
    // One that is removed is lost; a new one begins with the next server.
    let server = serve();
    fs::remove_file(&logged.log).unwrap();
    refused("c");
    assert!(server.terminate().success());
    let server = serve();
    assert!(create("c").status.success());
    assert_eq!(logged.acts(), ["serve  done", "create c done"]);
    drop(server);
}

/// A log begins with a line, of `init` or of the server that makes the file: one without lines is not whole.
#[test]
fn a_log_that_was_emptied_is_not_whole_and_a_new_one_is() {
    let logged = Logged::new();
    let serve = || logged.account.serve_with(&["--audit-log", logged.log.to_str().unwrap()]);
    let server = serve();
    assert_eq!(logged.acts(), ["serve  done"]);
    assert_eq!(logged.last()["detail"], "begins this audit log");
    assert_eq!((&logged.check()["lines"], &logged.check()["unproven"]), (&1.into(), &0.into()));
    File::create(&logged.log).unwrap();
    let said = logged.bad();
    assert!(said.contains("it is empty") && said.contains("hint:") && !said.contains("whole: 0"), "{said}");
    assert!(server.terminate().success());
    assert!(logged.bad().contains("it is empty"));
    let output = run(logged.command(&["audit", "--log", logged.log.to_str().unwrap(), "--json"]).stderr(Stdio::null()));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["audit_log"]["lines"], &said["error"]["kind"]), (&0.into(), &"Corrupt".into()));
    // A restart begins a new one, and no second time.
    for _ in 0..2 {
        assert!(serve().terminate().success());
        assert_eq!(logged.acts(), ["serve  done"]);
    }
}
