//! Bad input, bad keys, bad luck: one clear line each, nothing lost, nothing half-made.

use std::fs;
use std::path::Path;

use sealdisk::account::lock::{AccountLock, Hold};
use sealdisk::io::real::RealDir;
use serde_json::Value;

use crate::client::Client;
use crate::model::files_below;
use crate::shapes::answer;
use crate::support::{Account, MIB, program, run, stderr_of_failure};

/// The verb fails with this kind and one line that says this, and leaves every file of the account as it was.
fn refused(account: &Account, arguments: &[&str], kind: &str, says: &str) {
    let before = files_below(&account.dir());
    let (document, code) = answer(account, arguments);
    assert_eq!((document["error"]["kind"].as_str(), code), (Some(kind), Some(1)), "{arguments:?}: {document}");
    let message = document["error"]["message"].as_str().expect("a text");
    assert!(message.contains(says) && !message.contains('\n'), "{arguments:?}: {message}");
    let mut after = files_below(&account.dir());
    // Says who held the account last; every changing verb writes it.
    let lock = account.dir().join("lock");
    after.insert(lock.clone(), before.get(&lock).cloned().unwrap_or_default());
    assert!(before == after, "{arguments:?} left something behind");
}

fn image(account: &Account, name: &str, content: &[u8]) -> String {
    let path = account.scratch(name);
    fs::write(&path, content).expect("an image");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn images_that_are_none() {
    let account = Account::new();
    let fixture = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/files.vhd")).expect("a fixture");
    let text = image(&account, "letter.vhd", &b"Dear Sir or Madam, ".repeat(400));
    let cut = image(&account, "cut.vhd", &fixture[..fixture.len() - 4096]);
    let mut broken = fixture.clone();
    let at = broken.len() - 400;
    broken[at] ^= 1;
    let broken = image(&account, "broken.vhd", &broken);
    let odd = image(&account, "odd.img", &[7; 1000]);
    let empty = image(&account, "empty.img", &[]);
    let folder = account.scratch("config").to_str().expect("UTF-8").to_owned();
    for (path, kind, says) in [
        (&text, "NotVhd", "letter.vhd"),
        (&cut, "NotVhd", "cut.vhd"),
        (&broken, "BadFooterChecksum", "checksum"),
        (&odd, "InvalidInput", "odd.img"),
        (&empty, "InvalidInput", "empty.img"),
        (&folder, "InvalidInput", "regular file"),
        (&"missing.vhd".to_owned(), "NotFound", "missing.vhd"),
    ] {
        refused(&account, &["create", "disk", "--base", path], kind, says);
    }
    assert_eq!(account.json(&["list"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn sizes_and_names() {
    let account = Account::new();
    account.create("there", MIB);
    let base = image(&account, "base.img", &[7; 4096]);
    refused(&account, &["create", "disk", "--size", "0"], "InvalidInput", "0 bytes");
    refused(&account, &["create", "disk", "--size", "1000"], "InvalidInput", "1000 bytes");
    refused(&account, &["create", "disk", "--base", &base, "--size", "512"], "InvalidInput", "smaller than its base");
    refused(&account, &["create", "there", "--size", "1M"], "AlreadyExists", "there");
    for name in ["", "a@b", "UPPER/x", "ab/x", "x.", "vhds/../x", "a\nb"] {
        let before = files_below(&account.dir());
        let output = run(account.command().args(["create", name, "--size", "1M"]));
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.starts_with("error: ") && error.lines().count() <= 2, "{error}");
        assert!(files_below(&account.dir()) == before, "{name:?}");
    }
}

#[test]
fn a_changed_base_shuts_its_disk_and_no_other() {
    let account = Account::new();
    let base = image(&account, "base.img", &vec![7; MIB as usize]);
    account.sealdisk(&["create", "over", "--base", &base]);
    account.create("other", MIB);
    let mut content = fs::read(&base).expect("the image");
    content[512 * 1000] ^= 1;
    fs::write(&base, &content).expect("the image");
    refused(&account, &["map", "over"], "BaseChanged", "base.img");
    refused(&account, &["scrub", "over", "--wait"], "BaseChanged", "base.img");
    let status = account.json(&["status"]);
    assert_eq!(status["disks"][0]["zero_bytes"], MIB, "{status}");
    assert_eq!(status["disks"][1]["error"]["kind"], "BaseChanged", "{status}");
    let server = account.serve();
    Client::attach(&server, "other").write(0, b"still works");
    let refused = run(program("nbdinfo").arg(server.uri("over")));
    assert!(!refused.status.success());
    // And nothing is lost once the image is back.
    content[512 * 1000] ^= 1;
    fs::write(&base, &content).expect("the image");
    assert_eq!(Client::attach(&server, "over").read(512 * 1000, 1), [7]);
}

#[test]
fn a_wrong_or_missing_key() {
    let account = Account::new();
    account.create("disk", MIB);
    let key = account.scratch("other.key");
    fs::write(&key, [9; 32]).expect("a key");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("mode");
    let wrong = ["--key-file", key.to_str().expect("UTF-8")];
    for verb in
        [&["create", "new", "--size", "1M"][..], &["encryption", "off"], &["scrub", "disk", "--wait"], &["serve"]]
    {
        refused(&account, &[verb, &wrong].concat(), "WrongKey", "key");
    }
    // What is not secret is shown all the same, and said to be unproven.
    let status = account.json(&[&["status"][..], &wrong].concat());
    assert_eq!((&status["locked"]["kind"], &status["disks"][0]["encrypted_bytes"]), (&"WrongKey".into(), &512.into()));
    let keys = account.scratch("config");
    let aside = account.scratch("aside");
    fs::rename(&keys, &aside).expect("moved");
    for verb in [&["create", "new", "--size", "1M"][..], &["encryption", "off"], &["serve"]] {
        refused(&account, verb, "NotFound", "key file");
    }
    assert_eq!(account.json(&["list"])[0]["name"], "disk");
    assert!(account.json(&["show", "disk"])["locked"].is_object());
    for verb in ["show", "map"] {
        let said = String::from_utf8(run(account.command().args([verb, "disk"])).stderr).expect("UTF-8");
        assert!(said.contains("nothing of this is authenticated"), "{verb}: {said}");
    }
    fs::rename(&aside, &keys).expect("moved back");
    assert!(account.json(&["show", "disk"])["locked"].is_null());
}

#[test]
fn an_account_or_a_disk_in_use() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let (twice, code) = answer(&account, &["serve"]);
    assert_eq!((twice["error"]["kind"].as_str(), code), (Some("InUse"), Some(1)), "{twice}");
    let says = twice["error"]["message"].as_str().expect("a text");
    assert!(says.contains(&server.pid().to_string()), "{says}");
    let mut client = Client::attach(&server, "disk");
    refused(&account, &["delete", "disk", "--yes"], "InUse", "disk");
    client.write(0, b"attached");
    drop(client);
    assert!(server.terminate().success());
    // Somebody holds the lock and answers no verb.
    let held = AccountLock::try_take(&RealDir::open(account.dir()).expect("an account"), Hold::Exclusive)
        .expect("no error")
        .expect("free");
    refused(&account, &["create", "new", "--size", "1M"], "InUse", &std::process::id().to_string());
    drop(held);
    account.create("new", MIB);
}

#[test]
fn places_that_are_no_account() {
    let account = Account::new();
    let elsewhere = account.scratch("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    let path = elsewhere.to_str().expect("UTF-8");
    let at = |arguments: &[&str]| answer(&account, &[&["--account", path][..], arguments].concat()).0;
    let kind = |document: Value| document["error"]["kind"].as_str().map(str::to_owned);
    for verb in [&["list"][..], &["serve"], &["create", "disk", "--size", "1M"], &["encryption", "on"]] {
        assert_eq!(kind(at(verb)).as_deref(), Some("NotFound"), "{verb:?}");
    }
    assert!(fs::read_dir(&elsewhere).expect("a folder").next().is_none());
    // That one cannot look is not that nothing is there.
    std::os::unix::fs::symlink("loop", elsewhere.join("loop")).expect("a link");
    let (closed, _) = answer(&account, &["--account", elsewhere.join("loop").to_str().expect("UTF-8"), "list"]);
    let says = closed["error"]["message"].as_str().expect("a text");
    assert!(says.contains("cannot look into the account"), "{says}");
    fs::remove_file(elsewhere.join("loop")).expect("removed");
    fs::write(elsewhere.join("thesis.txt"), "mine").expect("a file");
    assert_eq!(kind(at(&["init"])).as_deref(), Some("AlreadyExists"));
    refused(&account, &["init"], "AlreadyExists", "account");
    let keys = fs::read_dir(account.scratch("config").join("sealdisk")).expect("the folder of keys").count();
    assert_eq!(keys, 1, "a failed init leaves no key behind");
}

#[test]
fn addresses_sockets_and_folders_that_will_not_do() {
    let account = Account::new();
    account.create("disk", MIB);
    let socket = account.scratch("nowhere/nbd.sock");
    for (arguments, says) in [
        (["--listen", "0.0.0.0:0"], "--insecure-tcp"),
        (["--metrics", "0.0.0.0:0"], "--insecure-metrics"),
        (["--listen", "127.0.0.1"], "127.0.0.1:10809"),
        (["--listen", "example.org:10809"], "127.0.0.1:10809"),
        (["--socket", socket.to_str().expect("UTF-8")], "no such folder"),
    ] {
        let ended = run(account.command().arg("serve").args(arguments));
        let said = String::from_utf8(ended.stderr).expect("UTF-8");
        assert!(!ended.status.success() && said.contains(says), "{arguments:?}: {said}");
    }
}

#[test]
fn paths_of_sockets_that_are_too_long_are_told_together() {
    let account = Account::new();
    let long = account.scratch(&"a".repeat(100));
    let sealdisk = |arguments: &[&str]| {
        let ended = run(account.command().args(["--account", long.to_str().expect("UTF-8")]).args(arguments));
        (ended.status.success(), String::from_utf8(ended.stderr).expect("UTF-8"))
    };
    assert!(sealdisk(&["init"]).0);
    let (served, said) = sealdisk(&["serve"]);
    assert!(!served);
    for part in ["/nbd.sock", "/control.sock", "`--socket PATH`", "`--control PATH`"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (served, said) = sealdisk(&["serve", "--socket", "nbd.sock"]);
    assert!(!served && said.contains("`--control PATH`") && !said.contains("`--socket PATH`"), "{said}");
}

/// Runs a script of the shell in a mount namespace of its own.
pub(crate) fn in_namespace(script: &str) -> String {
    let map = if rustix::process::geteuid().is_root() { &["--mount"][..] } else { &["--mount", "--map-root-user"] };
    let output = run(program("unshare").args(map).args(["sh", "-euc", script]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The program for a shell, with an account at `account` whose key is made in `home`.
pub(crate) fn shell(account: &Path, home: &Path) -> String {
    let program = env!("CARGO_BIN_EXE_sealdisk");
    let words = ["env", "XDG_CONFIG_HOME=\"$H\"", program, "--account", "\"$A\""].join(" ");
    format!(
        "H='{}'; A='{}'; sealdisk() {{ {words} \"$@\"; }}; serving() {{ exec {words} serve \"$@\"; }};",
        home.display(),
        account.display()
    )
}

#[test]
fn a_file_system_without_holes() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mount = scratch.path().join("mount");
    fs::create_dir(&mount).expect("a folder");
    let script = format!(
        "{} mkdir -p \"$H\"; mount -t ramfs none '{}'; sealdisk init --json && exit 1; ls -A '{}'; find \"$H\" -type f | wc -l",
        shell(&mount.join("account"), &scratch.path().join("home")),
        mount.display(),
        mount.display()
    );
    let told = in_namespace(&script);
    assert!(told.contains("\"Unsupported\"") && told.contains("cannot punch holes"), "{told}");
    assert!(told.ends_with("}\n0\n"), "something is left: {told}");
}

#[test]
fn a_full_file_system() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mount = scratch.path().join("mount");
    fs::create_dir(&mount).expect("a folder");
    let script = format!(
        "{} mount -t tmpfs -o size=24m none '{mount}'; sealdisk init >&2; sealdisk create one --size 1M >&2;\
         head -c 30m /dev/zero > '{mount}/filler' || true;\
         sealdisk create two --size 1M --json && exit 1;\
         rm '{mount}/filler'; ls -A '{mount}/account/disks' | wc -l; sealdisk create two --size 1M >&2; sealdisk list",
        shell(&mount.join("account"), &scratch.path().join("home")),
        mount = mount.display()
    );
    let told = in_namespace(&script);
    assert!(told.contains("\"NoSpace\""), "{told}");
    assert!(told.contains("\n1\n"), "part of a disk is left: {told}");
    assert!(told.contains("one") && told.contains("two"), "{told}");
}

#[test]
fn a_disk_on_a_full_file_system() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mount = scratch.path().join("mount");
    fs::create_dir(&mount).expect("a folder");
    // The disk promises more than there is. A write without space is refused with the right error, the client stays
    // attached, what was written stays, and trimming makes room again.
    let script = format!(
        "{} mount -t tmpfs -o size=40m none '{mount}'; sealdisk init >&2; sealdisk create disk --size 64M >&2;\
         serving > '{mount}/log' 2>&1 & server=$!; trap 'kill $server' EXIT;\
         for step in $(seq 500); do [ -S \"$A/nbd.sock\" ] && break; sleep 0.02; done;\
         qemu-io -f raw -d unmap -c 'write -P 1 0 8M' -c flush -c 'write -P 2 8M 32M' -c 'read -P 1 0 8M' \
           -c 'discard 16M 32M' -c flush \"nbd+unix:///disk?socket=$A/nbd.sock\" 2>&1 || true;\
         sealdisk scrub disk --wait >&2;\
         qemu-io -f raw -c 'write -P 3 8M 4M' -c flush -c 'read -P 3 8M 4M' \"nbd+unix:///disk?socket=$A/nbd.sock\" 2>&1;\
         trap - EXIT; kill $server; wait $server; sealdisk status --json",
        shell(&mount.join("account"), &scratch.path().join("home")),
        mount = mount.display()
    );
    let told = in_namespace(&script);
    assert_eq!(told.matches("No space left on device").count(), 1, "{told}");
    assert!(told.contains("read 8388608/8388608") && told.contains("read 4194304/4194304"), "{told}");
    assert!(!told.contains("verification failed"), "{told}");
    assert!(told.contains("\"pending_scrub_bytes\": 0"), "{told}");
}

/// What the verb says when it fails on an account whose file `name` was changed by `damage`, which is put back then.
fn refused_with(account: &Account, name: &str, damage: impl FnOnce(&Path)) -> String {
    let (path, aside) = (account.dir().join(name), account.scratch("aside"));
    fs::copy(&path, &aside).expect("a copy");
    damage(&path);
    let said = stderr_of_failure(account.command().arg("list"));
    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    fs::rename(&aside, &path).expect("put back");
    said
}

#[test]
fn what_is_refused_says_what_to_do() {
    let account = Account::new();
    account.create("disk", MIB);
    let empty = image(&account, "empty.img", &[]);
    let huge = ["create", "huge", "--size", "4611686018427387904"];
    for (verb, says) in [
        (&["import", &empty, "copy"][..], "an empty file is no image"),
        (&["import", "/dev/null", "copy"], "not a regular file"),
        (&["create", "over", "--base", "/dev/null"], "not a regular file"),
        (&["import", "-", "copy"], "the stream is empty"),
        (&huge, "too many for a disk"),
        (&["create", "huge", "--size", "99999999T"], "too large"),
    ] {
        let said = stderr_of_failure(account.command().args(verb).stdin(std::process::Stdio::null()));
        assert!(said.contains(says) && said.contains("\nhint: "), "{verb:?}: {said}");
    }
    let settings = |from: &'static str, to: &'static str| {
        move |path: &Path| {
            let text = fs::read_to_string(path).expect("the settings");
            fs::write(path, text.replacen(from, to, 1)).expect("changed");
        }
    };
    let link = |path: &Path| {
        fs::remove_file(path).and_then(|()| std::os::unix::fs::symlink("elsewhere", path)).expect("a link");
    };
    let folder = |path: &Path| fs::remove_file(path).and_then(|()| fs::create_dir(path)).expect("a folder");
    let said = [
        ("has format version 7, this", refused_with(&account, "account.toml", settings("version = 0", "version = 7"))),
        ("has a damaged [seal]", refused_with(&account, "account.toml", settings("mac = \"", "mac = \"xx"))),
        ("has no [seal]", refused_with(&account, "account.toml", settings("[seal]", "[deal]"))),
        ("is a symbolic link", refused_with(&account, "account.toml", link)),
        ("not a regular file", refused_with(&account, "lock", folder)),
    ];
    for (says, said) in said {
        assert!(said.contains(says) && said.contains("\nhint: "), "{says}: {said}");
    }
    assert_eq!(account.json(&["list"])[0]["name"], "disk");
}
