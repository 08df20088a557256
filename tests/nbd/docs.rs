//! What the book says of tests: each row of the tables in `docs/nbd.md` that say which test shows a demand names tests
//! that are there.

use std::fs;
use std::path::Path;

/// The names of the tests in a source file.
fn tests_of(file: &Path) -> Vec<String> {
    let source = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut lines = source.lines().map(str::trim_start);
    let mut names = Vec::new();
    while let Some(line) = lines.next() {
        if line == "#[test]" {
            let function = lines.find_map(|line| line.strip_prefix("fn ")).unwrap();
            names.push(function.split('(').next().unwrap().to_owned());
        }
    }
    names
}

/// Whether `name`, a test or a pattern such as `status::*` or `handshake::*limit*`, is one that exists.
fn exists(name: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if name.ends_with(".py") {
        return root.join("tests/nbd").join(name).exists();
    }
    let (module, test) = name.rsplit_once("::").unwrap_or_else(|| panic!("`{name}` is no name of a test"));
    let file = match module.strip_prefix("wire::") {
        Some(module) => root.join(format!("src/nbd/wire/{module}.rs")),
        None => root.join(format!("tests/nbd/{module}.rs")),
    };
    let tests = tests_of(&file);
    match test.split_once('*') {
        None => tests.iter().any(|other| other == test),
        Some((start, rest)) => {
            tests.iter().any(|other| other.starts_with(start) && other.contains(rest.trim_end_matches('*')))
        }
    }
}

#[test]
fn each_row_of_the_book_names_tests_that_exist() {
    let book = include_str!("../../docs/nbd.md");
    let tables = book.split("\n## What the protocol demands, and what shows it\n").nth(1).unwrap();
    let rows = tables.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |"));
    let (mut count, mut named_before) = (0, false);
    for row in rows {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        // Functions of the tests' own client, and fuzz targets, are said besides.
        let names: Vec<_> =
            cell.split('`').skip(1).step_by(2).filter(|name| name.contains("::") || name.contains(".py")).collect();
        let shown_by_all = cell.contains("every raw client") || names.contains(&"raw::Client::read_reply");
        assert!(!names.is_empty() || shown_by_all || cell.starts_with("the same") && named_before, "no test: {row}");
        for name in names.iter().filter(|name| !name.starts_with("raw::")) {
            assert!(exists(name), "there is no test `{name}`: {row}");
        }
        named_before = true;
        count += 1;
    }
    assert!(count > 60, "{count} rows");
}
