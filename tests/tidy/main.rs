//! What keeps the house in order and no compiler checks: which room may import which, how wide a line and how long a
//! file may be. The rooms are the folders of `src/`; ARCHITECTURE.md draws them.
//!
//! What does not keep to it today is listed beside this file, in `exceptions`. The list may only shrink: an entry that
//! nothing needs any more fails, as does a break that is not listed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod promises;

/// Rooms from the top floor to the ground. A room imports from floors below its own, never from its own floor.
const FLOORS: [&[&str]; 10] = [
    &["cli"],
    &["metrics"],
    &["nbd"],
    &["account"],
    &["copy"],
    &["serve"],
    &["disk"],
    &["base"],
    &["crypto", "vhd", "confine"],
    &["io", "error", "text", "spool"],
];

/// Every room may use the crate's error and page size, which stand at the root of the crate.
const ROOT: [&str; 5] = ["Error", "ErrorKind", "Result", "PAGE", "error"];

/// Columns of a comment; `cargo fmt` sees to the rest.
const WIDTH: usize = 120;
/// Lines of a file, its unit tests included.
const LENGTH: usize = 500;

/// Names that gave way to the field's: the glossary in CONTRIBUTING.md has those that are used.
const OLD_WORDS: [&str; 14] = [
    "Dice", "Door", "Growth", "House", "Lack", "Lookouts", "Noted", "PATIENCE", "Patience", "Thief", "Vitals",
    "settle", "vitals", "worn",
];

struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut folders) = (Vec::new(), vec![root.join(folder)]);
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        for path in paths {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).expect("a source file in UTF-8");
                let path =
                    path.strip_prefix(root).expect("below the root").to_str().expect("a name in UTF-8").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

/// The room of a file of `src/`.
fn room(path: &str) -> &str {
    let below = path.strip_prefix("src/").expect("a file of src/");
    below.split_once('/').map_or_else(|| below.trim_end_matches(".rs"), |(folder, _)| folder)
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The text without its unit tests.
fn product(text: &str) -> &str {
    ["#[cfg(test)]\nmod ", "#[cfg(test)]\n#[cfg(", "#[cfg(all(test, "]
        .iter()
        .fold(text, |text, tests| text.split(tests).next().unwrap_or_default())
}

/// The names after each `crate::` of the product code, the members of a group one by one.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String =
        product(text).lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut name) = (0, String::new());
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => drop(found.insert(first_name(&std::mem::take(&mut name)))),
                    letter if depth == 0 => name.push(letter),
                    _ => {}
                }
            }
            found.insert(first_name(&name));
        } else {
            found.insert(first_name(rest));
        }
    }
    found.remove("");
    found
}

fn first_name(path: &str) -> String {
    path.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// Holds what was found against the exceptions of a kind.
fn hold_against(kind: &str, found: BTreeSet<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tidy/exceptions");
    let text = fs::read_to_string(path).expect("the list of exceptions");
    let prefix = format!("{kind}: ");
    let listed: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    assert!(new.is_empty(), "{kind}: not allowed: {new:#?}");
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(gone.is_empty(), "{kind}: no longer needed, strike it off tests/tidy/exceptions: {gone:#?}");
}

#[test]
fn a_room_imports_from_the_floors_below_it_alone() {
    let mut found = BTreeSet::new();
    for source in sources("src") {
        let own = room(&source.path);
        // The binary, the crate's root, and signals, which the command line alone uses.
        let Some(own_floor) = floor(own) else { continue };
        for name in imports(&source.text) {
            if name == own || ROOT.contains(&&*name) {
                continue;
            }
            if floor(&name).is_none_or(|floor| floor <= own_floor) {
                found.insert(format!("{} -> {name}", source.path));
            }
        }
    }
    hold_against("import", found);
}

#[test]
fn the_command_line_alone_knows_clap() {
    let uses =
        |source: &Source| source.text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("clap"));
    let found = sources("src").into_iter().filter(|source| room(&source.path) != "cli" && uses(source));
    hold_against("clap", found.map(|source| source.path).collect());
}

#[test]
fn no_comment_is_wider_than_the_code_and_no_file_longer_than_one_job() {
    let (mut wide, mut long) = (BTreeSet::new(), BTreeSet::new());
    for source in ["src", "tests", "benches", "fuzz/harness"].into_iter().flat_map(sources) {
        let is_wide = |line: &str| line.trim_start().starts_with("//") && line.chars().count() > WIDTH;
        // A row of a table cannot be folded.
        if source.text.lines().any(|line| is_wide(line) && !line.contains('|')) {
            wide.insert(source.path.clone());
        }
        if source.path.starts_with("src/") && source.text.lines().count() > LENGTH {
            long.insert(source.path);
        }
    }
    hold_against("wide", wide);
    hold_against("long", long);
}

/// Else a simulated run would not repeat itself, or a key in the product would come from elsewhere than the kernel.
#[test]
fn random_numbers_come_through_one_door() {
    const DOOR: &str = "src/io/system.rs";
    let draws = |source: &Source| {
        let code = product(&source.text);
        let ways = ["getrandom::", "Uuid::new_v4", "rand::", "OsRng"];
        ways.iter().any(|way| code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(way)))
    };
    let found: Vec<_> = sources("src")
        .into_iter()
        .filter(|source| !source.path.ends_with("tests.rs") && draws(source))
        .map(|source| source.path)
        .collect();
    assert_eq!(found, [DOOR]);
}

/// The seeded source of random numbers, and the cipher that hides nothing, are in no build that does not ask for them.
#[test]
fn the_simulator_is_in_no_build_of_the_product() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(read("src/io/mod.rs").contains("#[cfg(sealdisk_sim)]\npub mod sim;"));
    let manifest = read("Cargo.toml");
    let (_, features) = manifest.split_once("\n[features]\n").expect("features");
    let (features, _) = features.split_once("\n[").expect("an end of the features");
    // A flag of the compiler brings it along, and no feature.
    let lines: Vec<_> = features.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!(lines, ["bench = []"]);
    assert_eq!(manifest.matches("shuttle").count(), 1);
    assert!(manifest.contains("[target.'cfg(sealdisk_sim)'.dependencies]\nshuttle"));
}

#[test]
fn no_name_is_of_the_old_words() {
    let mut found = BTreeSet::new();
    for source in ["src", "tests", "benches", "fuzz/harness"].into_iter().flat_map(sources) {
        let code = source.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            // What stands in quotes is told to users, or stands in a file.
            for bare in line.split('"').step_by(2) {
                let mut names = bare.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
                if let Some(name) = names.find(|name| OLD_WORDS.contains(name)) {
                    found.insert(format!("{}: {name}", source.path));
                }
            }
        }
    }
    hold_against("name", found);
}

#[test]
fn imports_are_found_in_groups_and_paths() {
    let text = "use crate::{Error, disk::{Disk, Kind}, io};\nuse crate::vhd::fault::Fault;\n// crate::cli\nlet x = crate::copy::y();\n";
    let found: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(found, ["Error", "copy", "disk", "io", "vhd"]);
    assert!(imports("a\n#[cfg(test)]\nmod tests {\n use crate::cli;\n}\n").is_empty());
}
