//! Valid disks with known content: every kind, odd layouts, chains.

use std::path::{Path, PathBuf};

use crate::build::{Held, Model, Parent, Sparse, at, beside, fixed, flatten, footer, utf16le};

/// A disk of the corpus, written out, and what it shows.
pub(crate) struct Disk {
    pub name: &'static str,
    pub path: PathBuf,
    pub content: Vec<u8>,
    /// Sectors that some file of its chain holds.
    pub held: Vec<bool>,
    /// Readers that do not look at sector bitmaps see the same.
    pub plain_bitmaps: bool,
    pub chain: bool,
}

struct Writer<'a> {
    dir: &'a Path,
    visit: &'a mut dyn FnMut(Disk),
}

impl Writer<'_> {
    /// A disk of one file.
    fn single(&mut self, name: &'static str, file: &[u8], model: &Model, plain_bitmaps: bool) {
        self.chain(name, file, &[model], plain_bitmaps);
    }

    /// A disk whose parents lie in the folder already.
    fn chain(&mut self, name: &'static str, file: &[u8], models: &[&Model], plain_bitmaps: bool) {
        let path = self.dir.join(format!("{name}.vhd"));
        std::fs::write(&path, file).unwrap();
        let held = (0..models[0].len()).map(|n| at(models, n).is_some()).collect();
        let chain = models.len() > 1;
        (self.visit)(Disk { name, path, content: flatten(models), held, plain_bitmaps, chain });
    }

    fn sparse(&mut self, name: &'static str, spec: &Sparse) -> Model {
        let model = spec.model();
        // A reader that ignores bitmaps sees zeros in clear sectors unless there is junk.
        self.single(name, &spec.build(), &model, !spec.junk);
        model
    }
}

/// Writes the corpus into `dir`, one disk after the other, a parent before its children.
pub(crate) fn each(dir: &Path, mut visit: impl FnMut(Disk)) {
    let mut w = Writer { dir, visit: &mut visit };
    fixed_disks(&mut w);
    dynamic_disks(&mut w);
    chains(&mut w);
}

fn fixed_disks(w: &mut Writer<'_>) {
    let (file, model) = fixed(1 << 20, 10, 0x10);
    w.single("fixed", &file, &model, true);
    let (file, model) = fixed(512, 11, 0x11);
    w.single("fixed-one-sector", &file, &model, true);
    // The guest's sector 0 is a dynamic disk's footer copy and header: the trailing footer decides.
    let (mut file, mut model) = fixed(1 << 20, 12, 0x12);
    let forged = Sparse { id: 0x66, held: Held::None, ..Sparse::default() }.build();
    file[..2048].copy_from_slice(&forged[..2048]);
    for (n, sector) in model.iter_mut().enumerate().take(4) {
        *sector = Some(forged[n * 512..][..512].try_into().unwrap());
    }
    w.single("fixed-forged-start", &file, &model, true);
    // Old Virtual PC: a footer of 511 bytes.
    let (mut file, model) = fixed(64 << 10, 13, 0x13);
    file.pop();
    w.single("fixed-short-footer", &file, &model, true);
    // Data offset as some writers have it.
    let (mut file, model) = fixed(64 << 10, 14, 0x14);
    let at = file.len() - 512;
    file[at..].copy_from_slice(&footer(2, 64 << 10, 0xFFFF_FFFF, 0x14));
    w.single("fixed-data-offset-32-bit", &file, &model, true);
}

fn dynamic_disks(w: &mut Writer<'_>) {
    let base = Sparse::default();
    w.sparse("dynamic-full", &base);
    w.sparse("dynamic-empty", &Sparse { held: Held::None, ..base.clone() });
    w.sparse("dynamic-every-second", &Sparse { size: 9 << 20, held: Held::Blocks(2), ..base.clone() });
    w.sparse("dynamic-bitmaps", &Sparse { held: Held::Runs(3), ..base.clone() });
    w.sparse("dynamic-bitmaps-junk", &Sparse { held: Held::Runs(5), junk: true, ..base.clone() });
    w.sparse("dynamic-edges", &Sparse { held: Held::Edges, ..base.clone() });
    w.sparse("dynamic-reverse", &Sparse { reverse: true, ..base.clone() });
    w.sparse("dynamic-aligned", &Sparse { align: 4096, ..base.clone() });
    w.sparse("dynamic-spare-entries", &Sparse { spare: 1000, ..base.clone() });
    w.sparse("dynamic-header-elsewhere", &Sparse { header_at: 8192, table_at: 512, ..base.clone() });
    w.sparse("dynamic-table-far", &Sparse { table_at: 64 << 10, ..base.clone() });
    // A size that is no multiple of the block, and blocks of other sizes.
    w.sparse("dynamic-odd-end", &Sparse { size: (4 << 20) + 512 * 3, ..base.clone() });
    w.sparse("dynamic-block-4k", &Sparse { size: 1 << 20, block: 4 << 10, held: Held::Runs(2), ..base.clone() });
    w.sparse("dynamic-block-512k", &Sparse { block: 512 << 10, held: Held::Runs(100), ..base.clone() });
    w.sparse("dynamic-block-4m", &Sparse { size: 6 << 20, block: 4 << 20, held: Held::Runs(7), ..base.clone() });
    w.sparse("dynamic-one-sector", &Sparse { size: 512, block: 4 << 10, ..base.clone() });
    let short = Sparse { size: 1 << 20, block: 64 << 10, ..base.clone() };
    let mut file = short.build();
    file.pop();
    w.single("dynamic-short-footer", &file, &short.model(), true);
    // The copy is damaged, the footer is not.
    let spec = Sparse { size: 1 << 20, block: 64 << 10, ..base };
    let mut file = spec.build();
    file[100] ^= 0xFF;
    w.single("dynamic-copy-damaged", &file, &spec.model(), true);
}

fn chains(w: &mut Writer<'_>) {
    let root = Sparse { size: 3 << 20, block: 64 << 10, seed: 20, id: 0x20, held: Held::Runs(11), ..Sparse::default() };
    let root_model = w.sparse("chain-root", &root);
    let child = Sparse {
        block: 2 << 20,
        seed: 21,
        id: 0x21,
        held: Held::Runs(3),
        parent: Some(beside(0x20, "chain-root.vhd")),
        ..root.clone()
    };
    let child_model = child.model();
    w.chain("chain-child", &child.build(), &[&child_model, &root_model], false);
    let blocks = Sparse {
        block: 4 << 10,
        seed: 0x2B,
        id: 0x2B,
        held: Held::Runs(2),
        parent: Some(beside(0x21, "chain-child.vhd")),
        ..root.clone()
    };
    w.chain("chain-block-4k", &blocks.build(), &[&blocks.model(), &child_model, &root_model], false);
    // Longer than its parent.
    let longer = Sparse {
        size: (4 << 20) + 512,
        block: 4 << 10,
        seed: 22,
        id: 0x22,
        held: Held::Runs(9),
        parent: Some(beside(0x21, "chain-child.vhd")),
        ..root.clone()
    };
    let longer_model = longer.model();
    w.chain("chain-longer", &longer.build(), &[&longer_model, &child_model, &root_model], false);
    let shorter = Sparse {
        size: 1 << 20,
        seed: 23,
        id: 0x23,
        held: Held::Blocks(3),
        parent: Some(beside(0x22, "chain-longer.vhd")),
        ..root.clone()
    };
    let shorter_model = shorter.model();
    w.chain("chain-shorter", &shorter.build(), &[&shorter_model, &longer_model, &child_model, &root_model], false);
    let empty =
        Sparse { seed: 24, id: 0x24, held: Held::None, parent: Some(beside(0x20, "chain-root.vhd")), ..root.clone() };
    w.chain("chain-empty", &empty.build(), &[&empty.model(), &root_model], false);

    let (file, fixed_model) = fixed(2 << 20, 25, 0x25);
    w.single("chain-fixed-root", &file, &fixed_model, true);
    let over = |id, parent: Parent| Sparse {
        size: 2 << 20,
        seed: id as u64,
        id,
        held: Held::Runs(17),
        parent: Some(parent),
        ..root.clone()
    };
    let spec = over(0x26, beside(0x25, "chain-fixed-root.vhd"));
    w.chain("chain-over-fixed", &spec.build(), &[&spec.model(), &fixed_model], false);
    let spec = Sparse { junk: true, ..over(0x2A, beside(0x25, "chain-fixed-root.vhd")) };
    w.chain("chain-junk", &spec.build(), &[&spec.model(), &fixed_model], false);
    // Found only by the name in the header, which is a path of Windows.
    let named = Parent { name: "C:\\vm\\chain-fixed-root.vhd".into(), locators: vec![], ..beside(0x25, "") };
    let spec = over(0x27, named);
    w.chain("chain-by-name", &spec.build(), &[&spec.model(), &fixed_model], false);
    // A locator of a Macintosh.
    let url = format!("file://localhost{}", w.dir.join("chain-fixed-root.vhd").display()).replace('-', "%2D");
    let mac = Parent { name: "x".into(), locators: vec![(*b"MacX", url.into_bytes())], ..beside(0x25, "") };
    let spec = over(0x28, mac);
    w.chain("chain-by-url", &spec.build(), &[&spec.model(), &fixed_model], false);
    // The first locator leads to a disk with another id, the second to the right one.
    let wrong = vec![(*b"W2ru", utf16le(".\\chain-root.vhd")), (*b"W2ru", utf16le(".\\chain-fixed-root.vhd"))];
    let spec = over(0x29, Parent { locators: wrong, ..beside(0x25, "nowhere") });
    w.chain("chain-second-locator", &spec.build(), &[&spec.model(), &fixed_model], false);
}
