//! What the writer writes, the reader reads; and a reader as plain as can be agrees with the real one on anything that
//! the generator can make.

use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use sealdisk::base;
use sealdisk::copy::convert::{ConvertOptions, Target, convert};
use sealdisk::io::source::Source;
use sealdisk::vhd::{Stored, open_sources};

use crate::build::{Held, Model, Sparse, at, beside, flatten, mix, sector};

fn held() -> impl Strategy<Value = Held> {
    prop_oneof![
        Just(Held::All),
        Just(Held::None),
        (1u64..4).prop_map(Held::Blocks),
        (1u64..40).prop_map(Held::Runs),
        Just(Held::Edges),
    ]
}

fn sparse() -> impl Strategy<Value = Sparse> {
    let layout = (prop_oneof![Just((512, 1536)), Just((8192, 512)), Just((512, 65536))], 0u32..300, 0u64..3);
    let place = (any::<bool>(), any::<bool>(), prop_oneof![Just(512u64), Just(4096)]);
    (1u64..400, 12u32..17, any::<u64>(), held(), layout, place).prop_map(
        |(sectors, shift, seed, held, ((header_at, table_at), spare, gap), (junk, reverse, align))| Sparse {
            size: sectors * 512,
            block: 1 << shift,
            seed,
            id: u128::from(seed) << 64,
            held,
            junk,
            reverse,
            align,
            header_at,
            table_at,
            spare,
            gap: gap * 512,
            parent: None,
        },
    )
}

/// Disks over one another, the topmost first.
fn chain() -> impl Strategy<Value = Vec<Sparse>> {
    prop::collection::vec(sparse(), 1..5).prop_map(|mut specs| {
        for n in 0..specs.len() {
            specs[n].id = n as u128 + 1;
            if n + 1 < specs.len() {
                specs[n].parent = Some(beside(n as u128 + 2, "p.vhd"));
                // Locators lie behind the table.
                specs[n].table_at = specs[n].table_at.max(1536);
            }
        }
        specs
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn chains_read_as_the_model(specs in chain(), reads in prop::collection::vec((any::<u64>(), any::<u64>()), 20)) {
        let models: Vec<Model> = specs.iter().map(Sparse::model).collect();
        let models: Vec<&Model> = models.iter().collect();
        let content = flatten(&models);
        let sources = specs.iter().map(|spec| Arc::new(spec.build()) as Arc<dyn Source>).collect();
        let chain = open_sources(sources, false).unwrap();
        prop_assert_eq!(chain.size() as usize, content.len());
        let sectors = chain.size() / 512;
        for (start, len) in reads {
            let start = start % sectors;
            let len = 1 + len % (sectors - start);
            let mut buf = vec![0xAA; len as usize * 512];
            prop_assert!(chain.read(start * 512, &mut buf, true).unwrap());
            prop_assert!(buf == content[start as usize * 512..][..buf.len()]);
            let mut runs = Vec::new();
            let mut last = None;
            chain.runs(start * 512, len * 512, &mut |stored, bytes| {
                assert!(last != Some(stored), "neighbours differ");
                last = Some(stored);
                runs.extend(std::iter::repeat_n(stored == Stored::Data, bytes as usize / 512));
                Ok(())
            }).unwrap();
            prop_assert_eq!(runs, (start..start + len).map(|n| at(&models, n as usize).is_some()).collect::<Vec<_>>());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_converted_reads_the_same(sectors in 1u64..600, seed: u64, run in 1u64..200, shift in 12u32..20, from_vhd: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut content = vec![0; sectors as usize * 512];
        for n in (0..sectors).filter(|n| mix(seed ^ (n / run)) & 1 == 0) {
            content[n as usize * 512..][..512].copy_from_slice(&sector(seed, n));
        }
        let input = dir.path().join("in.raw");
        fs::write(&input, &content).unwrap();
        let to = |input: &std::path::Path, name: &str, target| {
            let options = ConvertOptions { input: base::OpenOptions::default(), target, azure: false };
            let output = dir.path().join(name);
            let made = convert(input, &output, &options, &mut |_, _, _| {}).unwrap();
            assert_eq!(made.size as usize, content.len());
            output
        };
        let dynamic = to(&input, "dynamic.vhd", Target::Dynamic { block_size: 1 << shift });
        let fixed = to(if from_vhd { &dynamic } else { &input }, "fixed.vhd", Target::Fixed);
        for path in [&dynamic, &fixed] {
            let (image, _) = base::open(path, &base::OpenOptions::default()).unwrap();
            let mut buf = vec![0xAA; content.len()];
            image.read_at(0, &mut buf).unwrap();
            prop_assert!(buf == content);
        }
        let raw = to(&fixed, "out.raw", Target::Raw);
        prop_assert!(fs::read(raw).unwrap() == content);
    }
}

/// Killed at any moment, `convert` leaves the whole disk or nothing.
#[test]
fn a_killed_convert_leaves_nothing_half_made() {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..32 << 11).flat_map(|n| sector(9, n)).collect();
    fs::write(dir.path().join("in.raw"), &content).unwrap();
    let out = dir.path().join("out.vhd");
    let mut cut_short = 0;
    for (round, to) in ["dynamic", "fixed", "raw"].into_iter().cycle().take(18).enumerate() {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sealdisk"));
        command.args(["vhd", "convert", "in.raw", "out.vhd", "--from", "raw", "--to", to, "--json"]);
        let null = std::process::Stdio::null;
        let mut child = command.current_dir(dir.path()).stdout(null()).stderr(null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(mix(round as u64) % 200));
        child.kill().unwrap();
        child.wait().unwrap();
        match fs::read(&out) {
            Err(_) => cut_short += 1,
            Ok(file) if to == "raw" => assert!(file == content),
            Ok(file) => {
                let chain = open_sources(vec![Arc::new(file)], false).unwrap();
                let mut shown = vec![0; content.len()];
                chain.read(0, &mut shown, true).unwrap();
                assert!(chain.images()[0].notices().is_empty() && shown == content, "{to}");
            }
        }
        let _ = fs::remove_file(&out);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["in.raw"]);
    }
    assert!(cut_short > 0);
}
