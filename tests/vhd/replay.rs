//! The committed inputs of the fuzz targets, and the corpus, through what the targets do.

use std::path::Path;

use crate::build::{Held, Sparse, beside, fixed, mix};

#[path = "../../fuzz/harness/vhd_file.rs"]
mod vhd_file;
#[path = "../../fuzz/harness/vhd_writer.rs"]
mod vhd_writer;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let seeds: Vec<_> = entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(!seeds.is_empty());
    seeds
}

/// Small disks as inputs of the target: `SEALDISK_WRITE_SEEDS=1` makes them files of `fuzz/seeds`.
fn generated() -> Vec<(&'static str, Vec<u8>)> {
    let small = Sparse { size: 8 << 10, block: 4 << 10, held: Held::Runs(3), ..Sparse::default() };
    let child = Sparse { id: 2, seed: 2, parent: Some(beside(0x0D, "p")), ..small.clone() };
    let long = Sparse { size: 12 << 10, held: Held::Edges, ..child.clone() };
    let one = |file: Vec<u8>| [&[1][..], &file].concat();
    let two = |file: Vec<u8>, parent: Vec<u8>| [&[5][..], &(file.len() as u32).to_be_bytes(), &file, &parent].concat();
    let mut short = small.build();
    short.pop();
    vec![
        ("fixed", one(fixed(2048, 1, 1).0)),
        ("dynamic", one(small.build())),
        ("dynamic-short-footer", one(short)),
        ("dynamic-empty", one(Sparse { held: Held::None, ..small.clone() }.build())),
        ("chain", two(child.build(), small.build())),
        ("chain-longer", two(long.build(), small.build())),
        ("recover", [&[3][..], &small.build()[..small.build().len() - 512]].concat()),
    ]
}

#[test]
fn seeds_of_vhd_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/vhd_file");
    if std::env::var_os("SEALDISK_WRITE_SEEDS").is_some() {
        for (name, input) in generated() {
            std::fs::write(folder.join(name), input).unwrap();
        }
    }
    for input in seeds("vhd_file") {
        vhd_file::run(&input);
    }
}

/// A little of what the fuzzer does, in every run: seeds with some bytes changed, in a fixed order.
#[test]
fn mutations_of_seeds_of_vhd_file() {
    let mut state = 1;
    let mut next = |bound: usize| {
        state = mix(state);
        state as usize % bound
    };
    for (_, seed) in generated() {
        for _ in 0..600 {
            let mut input = seed.clone();
            for _ in 0..1 + next(4) {
                // Mostly where something is described, not in content.
                let region = [input.len(), 2600, 2600, 600][next(4)].min(input.len());
                let at = if next(4) == 0 { input.len() - 1 - next(512) } else { next(region) };
                input[at] = [0, 1, 0x7F, 0x80, 0xFF, next(256) as u8][next(6)];
            }
            if next(8) == 0 {
                input.truncate(next(seed.len()) + 1);
            }
            vhd_file::run(&input);
        }
    }
}

#[test]
fn seeds_of_vhd_writer() {
    for input in seeds("vhd_writer") {
        vhd_writer::run(&input);
    }
    for n in 0..200 {
        let input: Vec<u8> = (0..3 + n % 60 * 3).map(|i| mix(n << 20 | i) as u8).collect();
        vhd_writer::run(&input);
    }
}
