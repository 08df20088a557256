//! A confined server from outside, and what its verbs hand to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::manager::Running;
use crate::support::{
    Account, MIB, Server, file_system_image, program, run, sha256, stderr_of_failure, stdout_of, vhd_of,
};

/// A field of `/proc/PID/status` of every thread of a server; one that ends meanwhile has none.
fn of_each_thread(server: &Server, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let value = |status: String| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let status = |task: io::Result<fs::DirEntry>| match fs::read_to_string(task.unwrap().path().join("status")) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => None,
        read => Some(read.unwrap()),
    };
    tasks.filter_map(status).map(value).collect()
}

fn path_str(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn wait_for(socket: &Path) {
    let started = Instant::now();
    while !socket.exists() {
        assert!(started.elapsed() < Duration::from_secs(30), "no socket");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The content of an export, as a file.
fn copy_of(account: &Account, server: &Server, export: &str) -> PathBuf {
    let copy = account.scratch(&format!("{export}.copy"));
    let _ = fs::remove_file(&copy);
    stdout_of(program("nbdcopy").arg(server.uri(export)).arg(&copy));
    copy
}

#[test]
fn every_thread_is_confined_unless_a_flag_says_otherwise() {
    let account = Account::new();
    account.create("disk", MIB);
    for mode in [&[][..], &["--confine", "require"]] {
        let server = account.serve_with(&[mode, &["--json"]].concat());
        copy_of(&account, &server, "disk");
        assert!(of_each_thread(&server, "Threads:").len() > 3);
        for (field, value) in [("NoNewPrivs:", "1"), ("Seccomp:", "2")] {
            assert!(of_each_thread(&server, field).iter().all(|found| found == value), "{field}");
        }
        let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert!(core.split_whitespace().filter(|&word| word == "0").count() == 2, "{core}");
        let said = server.log_with("\"seccomp\":");
        assert!(said.contains("\"landlock\": 6") || said.contains("\"landlock\":"), "{said}");
        assert!(said.contains("\"seccomp\": true") && said.contains("confined: files by landlock"), "{said}");
        assert!(server.terminate().success());
    }
    let server = account.serve_with(&["--confine", "off"]);
    copy_of(&account, &server, "disk");
    assert!(of_each_thread(&server, "Seccomp:").iter().all(|found| found == "0"));
    server.log_with("not confined, as --confine off asks");
}

/// A differencing VHD and its parent, in different folders outside the account: every file of the chain is handed over.
#[test]
fn bases_elsewhere_are_handed_to_a_confined_server() {
    let account = Account::new();
    let (parents, children, moved) =
        (account.scratch("parents"), account.scratch("children"), account.scratch("moved"));
    for folder in [&parents, &children, &moved] {
        fs::create_dir(folder).unwrap();
    }
    let raw = parents.join("disk.img");
    file_system_image(&raw, 8 * MIB);
    let parent = vhd_of(&raw, "dynamic");
    let child = children.join("child.vhd");
    let roots = ["--parent-root", path_str(&parents)];
    stdout_of(account.command().args(["vhd", "create", path_str(&child), "--parent", path_str(&parent)]).args(roots));

    let server = account.serve();
    account.sealdisk(&["create", "raw", "--base", path_str(&raw)]);
    account.sealdisk(&["create", "chain", "--base", path_str(&child), "--base-root", path_str(&parents)]);
    let content = sha256(&raw);
    assert_eq!(sha256(&copy_of(&account, &server, "raw")), content);
    assert_eq!(sha256(&copy_of(&account, &server, "chain")), content);
    account.sealdisk(&["verify", "chain", "--base"]);
    // What a server was given it has until its end, wherever the file goes.
    let there = moved.join("disk.img");
    fs::rename(&raw, &there).unwrap();
    account.sealdisk(&["rebase", "raw", "--base", path_str(&there)]);
    assert_eq!(sha256(&copy_of(&account, &server, "raw")), content);
    assert!(server.terminate().success());

    // The next one allows itself what is recorded: the whole chain, and the new place.
    let server = account.serve();
    assert_eq!(sha256(&copy_of(&account, &server, "raw")), content);
    assert_eq!(sha256(&copy_of(&account, &server, "chain")), content);
    assert!(of_each_thread(&server, "Seccomp:").iter().all(|found| found == "2"));
}

/// With few descriptors a server keeps two disks open that nobody uses. The one whose base it was handed is closed, and
/// opened again without a path that it could follow.
#[test]
fn a_base_that_was_handed_over_outlives_the_closing_of_its_disk() {
    let account = Account::new();
    let image = account.scratch("image.img");
    fs::write(&image, vec![7; MIB as usize]).unwrap();
    let serve = account.command();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256; exec \"$@\"", "sh"]).arg(serve.get_program()).args(serve.get_args());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let server = Running::start(command.args(["serve", "--confine", "require"]).current_dir(account.scratch("")));
    let socket = account.dir().join("nbd.sock");
    wait_for(&socket);
    let held = || {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        descriptors.filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|path| path == image)).count()
    };
    account.create_over("over", &image);
    assert_eq!(held(), 2, "one to read, one to keep");
    for other in ["a", "b", "c", "d"] {
        account.create(other, MIB);
    }
    assert_eq!(held(), 1, "the disk is closed");
    let map = account.json(&["map", "over"]);
    assert_eq!(map[0]["state"], "base", "{map}");
    let copy = account.scratch("copy");
    stdout_of(program("nbdcopy").arg(format!("nbd+unix:///over?socket={}", socket.display())).arg(&copy));
    assert_eq!(sha256(&copy), sha256(&image));
}

#[test]
fn an_image_that_appears_later_is_out_of_reach_until_it_is_handed_over() {
    let account = Account::new();
    let (image, away) = (account.scratch("image.img"), account.scratch("away.img"));
    fs::write(&image, vec![7; MIB as usize]).unwrap();
    account.create_over("disk", &image);
    fs::rename(&image, &away).unwrap();
    let server = account.serve();
    let gone = stderr_of_failure(account.command().args(["map", "disk"]));
    assert!(gone.contains("the base image is gone"), "{gone}");

    fs::rename(&away, &image).unwrap();
    let refused = stderr_of_failure(account.command().args(["map", "disk"]));
    let wanted = ["cannot open the image", path_str(&image), "Permission denied", "sealdisk rebase NAME --base IMAGE"];
    assert!(wanted.iter().all(|part| refused.contains(part)), "{refused}");
    assert!(!run(program("nbdinfo").arg(server.uri("disk"))).status.success());

    account.sealdisk(&["rebase", "disk", "--base", path_str(&image)]);
    assert_eq!(sha256(&copy_of(&account, &server, "disk")), sha256(&image));
}

/// Keys and key files outside the account, read and written by the verbs.
#[test]
fn keys_reach_a_confined_server_through_its_verbs() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let write = |pattern: &str| {
        let commands = ["-c", pattern, "-c", "flush", &server.uri("disk")];
        stdout_of(program("qemu-io").args(["-f", "raw"]).args(commands));
    };
    write("write -P 7 0 64k");
    let key = account.scratch("new.key");
    stdout_of(Command::new("sh").args(["-c", "umask 077; head -c 32 /dev/urandom > \"$0\""]).arg(&key));
    account.sealdisk(&["key", "rotate-kek", "--account-key", "--key-file", path_str(&key)]);
    account.sealdisk(&["key", "revoke"]);
    assert!(!run(program("qemu-io").args(["-f", "raw", "-c", "read 0 512", &server.uri("disk")])).status.success());
    account.sealdisk(&["key", "restore"]);
    write("read -P 7 0 64k");
    let printed = format!("cat {}", path_str(&key));
    account.sealdisk(&["key", "rotate-kek"]);
    account.sealdisk(&["key", "rotate-kek", "--key-command", &printed]);
    let revealed = account.scratch("layer.key");
    account.sealdisk(&["key", "export", "disk", "--layer", "1", "--out", path_str(&revealed), "--yes-reveal"]);
    assert_eq!(fs::metadata(&revealed).unwrap().len(), 64);
    assert!(server.terminate().success());

    // A key command is run before the server confines itself.
    let server = account.serve();
    stdout_of(program("qemu-io").args(["-f", "raw", "-c", "read -P 7 0 64k", &server.uri("disk")]));
}

/// A right to remove the socket would be one to remove all that lies below its folder. So the file stays, and makes
/// room for the next server's.
#[test]
fn sockets_elsewhere_stay_behind_and_are_replaced_and_nothing_beside_them_can_be_removed() {
    let account = Account::new();
    account.create("disk", MIB);
    let folder = account.scratch("run");
    fs::create_dir(&folder).unwrap();
    let control = folder.join("control.sock");
    for listen in [&["--listen", "127.0.0.1:0"][..], &[]] {
        let server = account.serve_with(&[&["--control", path_str(&control)], listen].concat());
        assert!(control.exists());
        account.sealdisk(&["encryption", "off"]);
        if !listen.is_empty() {
            let said = server.log_with("serving on 127.0.0.1:");
            let address = said.lines().find_map(|line| line.strip_prefix("serving on 127.0.0.1:")).unwrap();
            stdout_of(program("nbdinfo").args(["--size", &format!("nbd://127.0.0.1:{address}/disk")]));
        }
        assert!(server.terminate().success());
        assert!(control.exists());
        // At rest verbs do not mind it.
        account.sealdisk(&["encryption", "on"]);
    }
    let another = folder.join("plain");
    fs::write(&another, "kept").unwrap();
    let refused = stderr_of_failure(account.command().args(["serve", "--control", path_str(&another)]));
    assert!(refused.contains("there is a file that is no socket"), "{refused}");
    assert_eq!(fs::read(&another).unwrap(), b"kept");
}

/// In the account itself nothing is left.
#[test]
fn sockets_in_the_account_are_removed_at_the_end() {
    let account = Account::new();
    let mut server = Running::start(account.command().args(["serve", "--confine", "require"]));
    let socket = account.dir().join("nbd.sock");
    wait_for(&socket);
    assert!(account.dir().join("control.sock").exists());
    server.terminate();
    assert!(!socket.exists() && !account.dir().join("control.sock").exists());
}
