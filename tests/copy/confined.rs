//! A verb that parses what others made cannot open another file, run a program or make a socket meanwhile: tried from
//! inside, in the middle of it, by a debugger that makes the calls in its place.

use std::fs;

use crate::fixture::{image, text};
use crate::support::{Account, MIB, program, run};

/// Stops `sealdisk ARGUMENTS` at its first read of a file after it has confined itself, and makes calls there. The
/// answers of the kernel, as the C library gives them: -1 where it refused.
fn inside(account: &Account, arguments: &[&str], calls: &[(&str, String)]) -> Vec<(String, i64)> {
    let plain = account.command();
    // Two filters of system calls, each a call and a return from it.
    let mut script =
        "set pagination off\nset confirm off\ncatch syscall seccomp\nrun\ncontinue\ncontinue\ncontinue\ndelete\n\
                      catch syscall pread64\ncontinue\nset $text = (char*)$sp + 8192\n"
            .to_owned();
    for (name, call) in calls {
        script += &format!("{call}\nprintf \"\\n{name} is %ld\\n\", $answer\n");
    }
    script += "kill\n";
    let path = account.scratch("calls.gdb");
    fs::write(&path, script).unwrap();
    let mut gdb = program("gdb");
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => gdb.env(name, value),
            None => gdb.env_remove(name),
        };
    }
    gdb.args(["-nx", "-batch", "-x", text(&path), "--args"]).arg(plain.get_program()).args(plain.get_args());
    let output = run(gdb.args(arguments).current_dir(account.scratch("")));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = |(name, _): &(&str, String)| {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("{name} is ")));
        let line = line.unwrap_or_else(|| panic!("{name}: {said}{}", String::from_utf8_lossy(&output.stderr)));
        ((*name).to_owned(), line.trim().parse().unwrap())
    };
    calls.iter().map(answer).collect()
}

fn call(words: &str, text: &str) -> String {
    format!("set {{char[{}]}}$text = \"{text}\"\nset $answer = (long)syscall({words})", text.len() + 1)
}

#[test]
fn a_verb_in_the_middle_of_parsing_opens_no_other_file_and_runs_nothing() {
    let account = Account::new();
    let raw = image(&account, "image.img", 4 * MIB, &[(0, 4096)]);
    let (vhd, other) = (account.scratch("disk.vhd"), account.scratch("other.vhd"));
    for path in [&vhd, &other] {
        account.sealdisk(&["vhd", "convert", text(&raw), text(path), "--to", "dynamic"]);
    }
    account.create_over("over", &raw);
    let open = |path: &str| call(&format!("{}, {}, $text, 0", libc::SYS_openat, libc::AT_FDCWD), path);
    let socket = |family: i32| call(&format!("{}, {family}, {}, 0", libc::SYS_socket, libc::SOCK_STREAM), "");
    for (arguments, own) in [
        (&["vhd", "info", text(&vhd)][..], &vhd),
        (&["vhd", "check", text(&vhd)], &vhd),
        (&["vhd", "convert", text(&vhd), "out.img", "--to", "raw"], &vhd),
        (&["vhd", "azure-check", text(&vhd)], &vhd),
        (&["import", text(&vhd), "copy"], &vhd),
        (&["create", "disk", "--base", text(&vhd)], &vhd),
        (&["verify", "over", "--base"], &raw),
        (&["rebase", "over", "--base", text(&raw)], &raw),
        (&["export", "over", "export.img", "--to", "raw"], &raw),
        (&["clone", "over", "full", "--full"], &raw),
    ] {
        let answers = inside(
            &account,
            arguments,
            &[
                ("another file", open("/etc/passwd")),
                ("a file beside it", open(text(&other))),
                ("its own file", open(text(own))),
                ("a program", call(&format!("{}, $text, 0, 0", libc::SYS_execve), "/bin/true")),
                ("a TCP socket", socket(libc::AF_INET)),
                ("a unix socket", socket(libc::AF_UNIX)),
            ],
        );
        for (name, answer) in answers {
            assert_eq!(answer >= 0, name == "its own file", "{arguments:?}: {name}: {answer}");
        }
    }
}
