//! Whole verbs of the production account on a simulated disk: the power cut, the process killed and a call failing at
//! each of their steps, and in the recovery that follows. Afterwards the account is as it was before the verb or as it
//! is after it, with nothing half-made in it, and the verb can be asked for again.

#![cfg(sealdisk_sim)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cases;
#[path = "../digests/mod.rs"]
mod digests;
mod ends;
mod faults;
mod model;
mod mutants;
mod rig;
mod seen;
mod storm;

use cases::{Case, all};
use digests::Line;

/// Seeds with a digest: of each verb, and of the storm. In all more than a thousand, in some ten seconds of a core.
const VERB_SEEDS: u64 = 20;
const STORM_SEEDS: u64 = 300;
/// Verbs without a digest: an image lies outside of the simulated disk, and its path and times go into `disk.toml`.
const OVER_AN_IMAGE: [&str; 2] = ["create b over an image", "rebase b"];

fn among(names: &[&str], test: impl Fn(&Case) -> Result<u64, String>) {
    let wanted = std::env::var("SEALDISK_CRASH_CASE").ok();
    let chosen = |case: &&Case| {
        names.contains(&case.area) && wanted.as_ref().is_none_or(|wanted| case.name.contains(wanted.as_str()))
    };
    for case in all().iter().filter(chosen) {
        let start = std::time::Instant::now();
        let images = test(case).unwrap_or_else(|what| panic!("{}: {what}", case.name));
        eprintln!("{}: {images} in {:.2} s", case.name, start.elapsed().as_secs_f64());
    }
}

fn ends(area: &str) {
    among(&[area], |case| ends::run(case, 1, ends::Depth::Short));
}

#[test]
fn disks_come_and_go_whole() {
    ends("disks");
}

#[test]
fn disks_come_and_go_whole_among_many() {
    among(&["disks"], |case| ends::run(case, 2, ends::Depth::Short));
}

#[test]
fn snapshots_and_sizes_change_whole() {
    ends("snapshots");
}

#[test]
fn clones_come_and_go_whole() {
    ends("clones");
}

#[test]
fn copies_go_on_where_they_were() {
    ends("copies");
}

#[test]
fn keys_and_the_switch_change_whole() {
    ends("keys");
}

fn weather(seeds: impl Iterator<Item = u64>) {
    let only = std::env::var("SEALDISK_CRASH_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    let seeds: Box<dyn Iterator<Item = u64>> = only.map_or(Box::new(seeds), |seed| Box::new(std::iter::once(seed)));
    let start = std::time::Instant::now();
    let (mut lived, mut ends) = (0, 0);
    for seed in seeds {
        ends += storm::run(seed).unwrap_or_else(|what| {
            let again = format!("SEALDISK_CRASH_SEED={seed} tests/sim --test account_crash storm");
            panic!("seed {seed}: {what}\nrepeat: {again}")
        });
        lived += 1;
    }
    eprintln!("{lived} seeds, {ends} ends in {:.1} s", start.elapsed().as_secs_f64());
}

#[test]
fn storm() {
    weather(0..100);
}

/// For `SEALDISK_CRASH_SECONDS`, or ten minutes.
#[test]
#[ignore = "takes ten minutes"]
fn long_storm() {
    let seconds = std::env::var("SEALDISK_CRASH_SECONDS").ok().map_or(600, |seconds| seconds.parse().expect("seconds"));
    let start = std::time::Instant::now();
    weather((1000..).take_while(move |_| start.elapsed().as_secs() < seconds));
}

/// Every verb, with more ends and more recoveries that are stopped.
#[test]
#[ignore = "takes minutes"]
fn every_verb_at_length() {
    for seed in 0..8 {
        among(&cases::AREAS, |case| ends::run(case, 100 + seed, ends::Depth::Long));
    }
}

#[test]
fn every_call_of_every_verb_fails_once() {
    among(&cases::AREAS, faults::every_call);
}

#[test]
fn an_account_goes_on_where_the_file_system_is_full_at_every_call() {
    let tried = faults::full_at_every_call().unwrap_or_else(|what| panic!("{what}"));
    assert!(tried > 3, "{tried} verbs");
}

#[test]
fn every_call_of_opening_fails_once() {
    faults::every_call_of_opening().unwrap_or_else(|what| panic!("{what}"));
}

#[test]
fn every_mutant_is_found() {
    mutants::hunt_all();
}

/// Each verb by itself, and the storm.
#[test]
fn no_call_to_the_disk_moved_unnoticed() {
    let cases: Vec<_> = all().into_iter().filter(|case| !OVER_AN_IMAGE.contains(&case.name)).collect();
    let verbs: Vec<_> = cases.iter().map(|case| move |seed| ends::undisturbed(case, seed)).collect();
    let storm = |seed| storm::run(seed).map(drop);
    let verbs =
        cases.iter().zip(&verbs).map(|(case, run)| Line { what: case.name.to_owned(), seeds: 0..VERB_SEEDS, run });
    digests::compare("account_crash", &verbs.chain(Line::split("storm", 0..STORM_SEEDS, &storm)).collect::<Vec<_>>());
}

/// The keys of such a program are known to all who know the seed.
#[test]
fn a_program_built_for_the_simulator_refuses_to_start() {
    let ran = std::process::Command::new(env!("CARGO_BIN_EXE_sealdisk")).arg("--version").output().expect("it runs");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && ran.stdout.is_empty(), "{ran:?}");
    assert!(told.starts_with("error: this program was built for the crash tests"), "{told}");
}
