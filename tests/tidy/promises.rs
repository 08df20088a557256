//! The table at the end of `docs/security.md` names tests that are there.

use std::fs;
use std::path::Path;

/// Whether `source` has a test function of this name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let function = format!("fn {name}(");
    let attributes = |at: usize| lines[..at].iter().rev().take_while(|line| line.starts_with(['#', '/']));
    let is_test = |line: &str| line == "#[test]" || line.starts_with("#[") && line.ends_with("::test]");
    (0..lines.len()).any(|at| lines[at].starts_with(&function) && attributes(at).any(|line| is_test(line)))
}

/// What is wrong with a cell: places (`tests/FOLDER`, `tests/FILE.rs`, `src/...rs`), each with its tests behind it,
/// those of a folder as `module::name`. What no test shows is no row: prose says so.
fn fault(cell: &str) -> Option<String> {
    let (mut place, mut count) = (None, 0);
    for word in cell.split('`').skip(1).step_by(2) {
        if word.starts_with("tests/") || word.starts_with("src/") {
            place = Some(word);
            continue;
        }
        let Some(place) = place else { return Some(format!("`{word}` stands without a place")) };
        let (file, name) = match word.split_once("::") {
            Some((module, name)) => (format!("{place}/{module}.rs"), name),
            None => (place.to_owned(), word),
        };
        let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap_or_default();
        if !has_test(&source, name) {
            return Some(format!("{file} has no test `{name}`"));
        }
        count += 1;
    }
    let without = count == 0 || cell.contains("no test");
    without.then(|| "a part of it has no test: say in prose what is not promised".to_owned())
}

#[test]
fn each_promise_of_the_page_on_security_names_tests_that_are_there() {
    let page = include_str!("../../docs/security.md");
    let section = page.split("\n## Which test shows it\n").nth(1).expect("the section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|')?.split_once(" | "));
    // Without the head of the table, and the names of its parts.
    let is_promise = |&(promise, cell): &(&str, &str)| cell.trim() != "shown by" && !promise.starts_with("**");
    let rows: Vec<_> = rows.filter(is_promise).collect();
    let faults: Vec<_> =
        rows.iter().filter_map(|(promise, cell)| Some(format!("{promise}: {}", fault(cell)?))).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(rows.len() > 45, "{} rows", rows.len());
}

#[test]
fn names_without_a_test_and_rows_without_a_name_are_faults() {
    assert_eq!(fault("`tests/tidy` `promises::names_without_a_test_and_rows_without_a_name_are_faults`"), None);
    let half = "`tests/tidy` `promises::names_without_a_test_and_rows_without_a_name_are_faults`; of more no test";
    for cell in [
        "",
        "by thought",
        "no test of its own",
        half,
        "`tests/tidy`",
        "`a::b`",
        "`tests/tidy` `promises::fault`",
        "`src/none.rs` `name`",
    ] {
        assert!(fault(cell).is_some(), "{cell}");
    }
    assert!(has_test("#[tokio::test]\n/// Why.\nfn a() {}\n#[test]\nfn b() {}\nfn c() {}", "b"));
    assert!(!has_test("#[test]\nfn b() {}\nfn c() {}", "c"));
}
