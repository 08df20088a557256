//! `docs/operate.md`: its commands are run, in order, and the errors that it explains are those of the program.

use std::fs;
use std::path::{Path, PathBuf};

use crate::machine::run_in_machine;

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(project().join("docs/operate.md")).unwrap()
}

/// The commands of the page: what lies between "```sh" and "```".
fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("\n```sh\n").skip(1);
    blocks.map(|block| block.split("\n```").next().unwrap()).collect()
}

#[test]
fn the_commands_of_the_page_do_what_it_says() {
    let page = page();
    let commands = commands(&page);
    assert!(commands.len() >= 10 && page.matches("```").count() >= 2 * commands.len());
    // Programs are not built in there.
    let mut script = "export SEALDISK_PROGRAM=/srv/test/sealdisk\n".to_owned();
    for block in commands {
        script.push_str(block);
        script.push('\n');
    }
    // The disk that was put back is the disk that was copied out.
    script.push_str(
        "
        test $(systemctl show --property User --value sealdisk@web.service) = sealdisk
        nbdcopy \"$uri\" /srv/restored.img
        cmp /srv/restored.img /srv/backup/disk1.img
        ! cmp /etc/sealdisk/web/kek /etc/sealdisk/web.old/kek
        systemctl is-active sealdisk@web.socket sealdisk@web.service
        journalctl --unit 'sealdisk@*' --output cat
        ",
    );
    let Some(said) = run_in_machine(&script) else { return };
    assert!(said.contains("\nsealdisk_encryption_enabled 1\n") && said.contains("\n# EOF\n"), "{said}");
    assert!(said.contains("read 1048576/1048576 bytes"), "{said}");
    assert!(!said.contains("Pattern verification failed"), "{said}");
    assert!(said.matches("confined: files by landlock").count() >= 5, "{said}");
}

/// Every text in the first column of the table of errors is in the source, or one of the system's own.
#[test]
fn the_errors_of_the_page_are_those_of_the_program() {
    let page = page();
    let table = page.split("\n## Errors\n").nth(1).unwrap();
    let quoted: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| line.split(" | ").next().unwrap().split('`').skip(1).step_by(2))
        .collect();
    assert!(quoted.len() > 20, "{quoted:?}");
    let mut source = String::new();
    read_all(&project().join("src"), &mut source);
    for text in quoted {
        let of_the_system =
            ["File too large", "Permission denied", "No space left on device", "Read-only file system"].contains(&text);
        assert!(of_the_system || source.contains(text), "no error of the program has: {text}");
    }
}

fn read_all(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, text);
        } else {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
