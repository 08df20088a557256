//! Nothing in an account directory starts a program.

use std::fs;

use crate::rig::as_root;
use crate::support::{Account, run, stderr_of_failure, stdout_of};

const KEY: &str = "--key-command=echo 5555555555555555555555555555555555555555555555555555555555555555";

/// Every verb with an account, as far as it needs no file of its own.
const VERBS: &[&[&str]] = &[
    &["list"],
    &["status"],
    &["show", "d"],
    &["map", "d"],
    &["audit", "d"],
    &["verify", "d"],
    &["serve"],
    &["create", "e", "--size", "1M"],
    &["rename", "d", "e"],
    &["resize", "d", "2M"],
    &["encryption", "off"],
    &["scrub", "d", "--wait"],
    &["snapshot", "list", "d"],
    &["snapshot", "create", "d", "s"],
    &["clone", "d", "e"],
    &["export", "d", "out"],
    &["reencrypt", "d"],
    &["key", "restore"],
    &["key", "revoke"],
    &["key", "rotate-data", "--all"],
    &["key", "rotate-kek"],
    &["delete", "d", "--yes"],
];

/// Those that need no key, and say so.
const SHOWN_UNPROVEN: &[&str] = &["status", "show", "map"];

/// The key of `account` comes from a command now that makes the file `mark`, if account.toml is believed.
fn forge(account: &Account, mark: &str) {
    let path = account.dir().join("account.toml");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("[kek.source]\n").unwrap();
    let (_, seal) = rest.split_once("\n[seal]\n").unwrap();
    let command = format!("\"/bin/sh\", \"-c\", \"touch {mark}; echo '\\u001b[2J'\"");
    let forged =
        format!("{before}[kek.source]\nkind = \"command\"\nargv = [{command}]\ntimeout_seconds = 30\n\n[seal]\n{seal}");
    fs::write(&path, forged).unwrap();
}

#[test]
fn no_verb_runs_a_command_that_stands_in_account_toml_alone() {
    let account = Account::new();
    account.create("d", 1 << 20);
    let mark = account.scratch("mark");
    forge(&account, mark.to_str().unwrap());
    for verb in VERBS {
        let output = run(account.command().args(*verb));
        assert!(!mark.exists(), "{verb:?} ran it");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!said.contains('\u{1b}'), "{verb:?}: {said:?}");
        if output.status.success() && !SHOWN_UNPROVEN.contains(&verb[0]) {
            continue;
        }
        assert!(said.contains("you have not approved it"), "{verb:?}: {said}");
        assert!(said.contains("-key-command "), "{verb:?}: {said}");
    }
    // The option that the hint names takes the words that it shows.
    let said = stderr_of_failure(account.command().args(["create", "e", "--size", "1M"]));
    let hint = said.lines().find(|line| line.starts_with("hint: ")).unwrap();
    let option = hint.split_once("--key-command ").unwrap().1.split_once("; or").unwrap().0;
    let words = shlex::split(&shlex::split(option).unwrap()[0]).unwrap();
    assert_eq!(words[..2], ["/bin/sh", "-c"]);
}

#[test]
fn init_and_rotate_kek_approve_their_command_for_this_account() {
    let account = Account::new();
    account.sealdisk(&["key", "rotate-kek", KEY]);
    account.create("d", 1 << 20);
    // Another user, or the same one on another machine, has approved nothing, and can.
    let elsewhere = |words: &[&str]| {
        let mut command = account.command();
        command.env("XDG_CONFIG_HOME", account.scratch("elsewhere")).args(words);
        command
    };
    let refused = stderr_of_failure(&mut elsewhere(&["create", "e", "--size", "1M"]));
    assert!(refused.contains("you have not approved it"), "{refused}");
    stdout_of(&mut elsewhere(&["create", "e", "--size", "1M", KEY]));
    let status = account.json(&["status"]);
    assert!(status["locked"].is_null(), "{status}");
    let list = fs::read_dir(account.scratch("config/sealdisk")).unwrap().map(|entry| entry.unwrap().path());
    let list = list.into_iter().find(|path| path.to_str().unwrap().ends_with(".commands.toml")).unwrap();
    fs::create_dir_all(account.scratch("elsewhere/sealdisk")).unwrap();
    fs::copy(&list, account.scratch("elsewhere/sealdisk").join(list.file_name().unwrap())).unwrap();
    stdout_of(&mut elsewhere(&["create", "f", "--size", "1M"]));
    // The old key of a rotation, and that of a second account, have options of their own.
    let moved = fs::remove_file(&list);
    assert!(moved.is_ok());
    let refused = stderr_of_failure(account.command().args(["key", "rotate-kek"]));
    assert!(refused.contains("--old-key-command "), "{refused}");
    account.sealdisk(&["key", "rotate-kek", &format!("--old-{}", &KEY[2..])]);
    account.create("g", 1 << 20);
}

#[test]
fn a_list_of_another_user_approves_nothing() {
    as_root(
        r#"
        key kek; sd init --key-command "cat $T/kek"; sd create d --size 1M
        list=$(echo home/config/sealdisk/*.commands.toml); test "$(stat -c %u:%a $list)" = 0:600
        chown 65534 $list; refused "belongs to another user (uid 65534)" sd create e --size 1M
        chown 0 $list; chmod 606 $list; refused "others may write it" sd create e --size 1M
        chmod 600 $list; sd create e --size 1M
    "#,
    );
}

#[test]
fn a_folder_of_another_user_runs_nothing_as_root() {
    as_root(
        r#"
        key kek; sd init --key-file kek; sd create d --size 1M
        mkdir -m 777 shared; cp -a account shared/sealdisk-account
        sed -i -e "s|^kind = \"file\"|kind = \"command\"|" -e "s|^path = .*|argv = [\"touch\", \"$T/mark\"]\ntimeout_seconds = 3|" shared/sealdisk-account/account.toml
        chown -R 65534 shared/sealdisk-account
        cd shared; for verb in list "create e --size 1M" serve "key restore"; do "$B" $verb >>"$T/said" 2>&1 || true; done
        test ! -e "$T/mark"
        grep -q "you have not approved it" "$T/said"
    "#,
    );
}

#[test]
fn without_a_key_no_base_image_is_opened() {
    let account = Account::new();
    let image = account.scratch("base.img");
    fs::write(&image, vec![7; 1 << 20]).unwrap();
    account.create_over("d", &image);
    let wrong = account.scratch("wrong.key");
    fs::write(&wrong, [9; 32]).unwrap();
    fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // With the key a disk whose image is gone is not shown; without it nobody has looked for the image.
    fs::remove_file(&image).unwrap();
    let gone = stderr_of_failure(account.command().args(["map", "d"]));
    assert!(gone.contains("the base image is gone"), "{gone}");
    let map = account.sealdisk(&["map", "d", "--key-file", wrong.to_str().unwrap()]);
    assert!(map.contains("base"), "{map}");
}

#[test]
fn what_is_no_file_is_not_opened_in_the_place_of_one() {
    let account = Account::new();
    account.create("d", 1 << 20);
    for name in ["account.toml", "lock"] {
        let path = account.dir().join(name);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        stdout_of(std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&path));
        let refused = stderr_of_failure(account.command().arg("list"));
        assert!(refused.contains(name) && refused.contains("not a regular file"), "{refused}");
        fs::remove_file(&path).unwrap();
        fs::write(&path, kept).unwrap();
    }
    // Nor where account.toml says that the key is.
    let text = fs::read_to_string(account.dir().join("account.toml")).unwrap();
    let path = text.lines().find(|line| line.starts_with("path = ")).unwrap();
    fs::write(account.dir().join("account.toml"), text.replace(path, "path = \"/dev/zero\"")).unwrap();
    let refused = stderr_of_failure(account.command().args(["create", "e", "--size", "1M"]));
    assert!(refused.contains("/dev/zero") && refused.contains("no regular file"), "{refused}");
    fs::write(account.dir().join("account.toml"), text.replace(path, "path = \"kek\"")).unwrap();
    let refused = stderr_of_failure(account.command().args(["create", "e", "--size", "1M"]));
    assert!(refused.contains("relative path"), "{refused}");
}
