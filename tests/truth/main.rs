//! What the program says of an account is what lies in its files: random histories of an account, told by a model that
//! knows what was asked for, and a reader of the files that shares no code with the program. See `reader`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "../cli/client.rs"]
mod client;
#[path = "../support/mod.rs"]
mod support;

mod check;
mod history;
mod model;
mod reader;

/// Histories of a run of `./test`.
const HISTORIES: u64 = 200;
/// Histories of a long run.
const LONG: u64 = 2_000;

#[test]
fn status_map_and_audit_agree_with_the_files_after_random_histories() {
    history::run(first(), number("SEALDISK_TRUTH_HISTORIES").unwrap_or(HISTORIES));
}

#[test]
#[ignore = "long"]
fn status_map_and_audit_agree_with_the_files_after_many_random_histories() {
    history::run(first() + HISTORIES, LONG);
}

/// `SEALDISK_TRUTH_SEED` repeats the history that a failure named, and goes on from there, for
/// `SEALDISK_TRUTH_HISTORIES`.
fn first() -> u64 {
    number("SEALDISK_TRUTH_SEED").unwrap_or(0)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}
