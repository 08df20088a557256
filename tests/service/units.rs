//! The systemd units, as systemd itself judges them.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::machine::run_in_machine;
use crate::support::{program, run, stdout_of};

/// The exposure that a unit may have, of ten.
const EXPOSURE: f64 = 2.0;

fn unit(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dist/systemd").join(name)
}

#[test]
fn systemd_finds_nothing_wrong_and_little_exposed() {
    let scratch = TempDir::new().unwrap();
    // The units name the program at its place, which need not be installed here.
    let program_path = env!("CARGO_BIN_EXE_sealdisk");
    for name in ["sealdisk@.service", "sealdisk@.socket", "sealdisk-metrics@.socket"] {
        let text = fs::read_to_string(unit(name)).unwrap();
        let text = text.replace("/usr/local/bin/sealdisk", program_path);
        fs::write(scratch.path().join(name), text).unwrap();
    }
    let output = run(program("systemd-analyze").args(["verify", "--man=no"]).args(
        ["sealdisk@web.service", "sealdisk@web.socket", "sealdisk-metrics@web.socket"]
            .map(|name| scratch.path().join(name)),
    ));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));

    let mut judge = program("systemd-analyze");
    let output = run(judge.args(["security", "--offline=yes", "--no-pager"]).arg(unit("sealdisk@.service")));
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{said}"));
    let level: f64 = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    println!("exposure {level}");
    assert!(level <= EXPOSURE, "{said}");
}

/// What the server log says must be in force inside the unit too, whose own filter lies around it.
#[test]
fn the_service_runs_under_systemd_with_all_of_its_confinement() {
    let Some(said) = run_in_machine(
        "
        SEALDISK_PROGRAM=/srv/test/sealdisk dist/install
        systemd-sysusers
        systemctl daemon-reload
        install -d -m 700 /etc/sealdisk/web
        install -d /var/lib/sealdisk
        (umask 077 && head -c 32 /dev/urandom > /etc/sealdisk/web/kek)
        export SEALDISK_ACCOUNT=/var/lib/sealdisk/web
        CREDENTIALS_DIRECTORY=/etc/sealdisk/web sealdisk init --key-credential kek
        chown -R sealdisk: $SEALDISK_ACCOUNT
        systemctl start sealdisk@web.socket
        test $(stat -c %U:%G:%a /run/sealdisk/web.sock) = sealdisk:sealdisk:660
        systemctl start sealdisk@web.service
        sealdisk create disk1 --size 64M
        pid=$(systemctl show --property MainPID --value sealdisk@web.service)
        grep -E '^(CapBnd|CapEff):\\s+0+$' /proc/$pid/status
        test $(awk '/^Uid/ { print $2 }' /proc/$pid/status) = $(id -u sealdisk)
        kill -9 $pid
        for _ in $(seq 100); do
            now=$(systemctl show --property MainPID --value sealdisk@web.service)
            test $now != $pid && systemctl is-active -q sealdisk@web.service && break
            sleep 0.1
        done
        sealdisk status
        journalctl --unit sealdisk@web.service --output cat
        systemctl stop sealdisk@web.service sealdisk@web.socket
        test $(systemctl show --property Result --value sealdisk@web.service) = success
        ",
    ) else {
        return;
    };
    assert!(said.matches("confined: files by landlock").count() >= 2, "{said}");
    assert!(!said.contains("confines in part"), "{said}");
}

#[test]
fn the_unit_names_the_source_of_the_key_itself() {
    let text = fs::read_to_string(unit("sealdisk@.service")).unwrap();
    let start = text.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    assert!(start.contains(" --key-credential kek "), "{start}");
    assert!(text.contains("\nLoadCredential=kek:/etc/sealdisk/%i/kek\n"));
}

/// What the pages and files for containers have the program do, it can.
#[test]
fn the_commands_for_containers_are_those_of_the_program() {
    let project = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let help = stdout_of(std::process::Command::new(env!("CARGO_BIN_EXE_sealdisk")).args(["serve", "--help"]));
    let mut found = 0;
    for file in ["dist/Containerfile", "docs/containers.md"] {
        let text = fs::read_to_string(project.join(file)).unwrap();
        for line in text.lines().filter(|line| line.contains("[\"serve\"")) {
            let words: Vec<String> = serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap();
            let options: Vec<_> = words[1..].iter().filter(|word| word.starts_with("--")).collect();
            assert!(
                !options.is_empty()
                    && options
                        .iter()
                        .all(|option| help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n"))),
                "{file}: {line}"
            );
            found += 1;
        }
        assert!(text.contains("10001"), "{file} names the user");
    }
    assert_eq!(found, 3);
}
