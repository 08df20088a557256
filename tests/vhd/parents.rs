//! Finding parents: where they may lie, and what an image may not make its reader open.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use sealdisk::ErrorKind;
use sealdisk::vhd::{Fault, MAX_DEPTH, OpenChain, OpenOptions, open, open_single};

use crate::build::{Held, Parent, Sparse, beside, fixed, utf16le};

const ID: u128 = 0x77;

fn child(parent: Parent) -> Sparse {
    Sparse { size: 64 << 10, block: 4 << 10, held: Held::None, id: 0x11, parent: Some(parent), ..Sparse::default() }
}

/// Names nothing but what `locator` says.
fn by(locator: ([u8; 4], Vec<u8>)) -> Parent {
    Parent { name: String::new(), locators: vec![locator], ..beside(ID, "") }
}

fn relative(text: &str) -> Parent {
    by((*b"W2ru", utf16le(text)))
}

fn write_parent(path: &Path) {
    fs::write(path, fixed(64 << 10, 5, ID).0).unwrap();
}

fn open_child(dir: &Path, parent: Parent, roots: &[PathBuf]) -> sealdisk::Result<OpenChain> {
    let path = dir.join("child.vhd");
    fs::write(&path, child(parent).build()).unwrap();
    open(&path, &OpenOptions { roots: roots.to_vec(), ..OpenOptions::default() })
}

fn refused(dir: &Path, parent: Parent) -> Fault {
    match open_child(dir, parent, &[]).unwrap_err().kind() {
        ErrorKind::Vhd(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn outside_the_allowed_folders_nothing_is_opened() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("images");
    fs::create_dir_all(dir.join("sub")).unwrap();
    let outside = outer.path().join("p.vhd");
    write_parent(&outside);
    std::os::unix::fs::symlink(&outside, dir.join("link.vhd")).unwrap();
    std::os::unix::fs::symlink(outer.path(), dir.join("out")).unwrap();
    rustix::fs::mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let absolute = |path: &Path| by((*b"W2ku", utf16le(path.to_str().unwrap())));
    for parent in [
        relative("..\\p.vhd"),
        relative("..\\..\\..\\..\\etc\\passwd"),
        relative("sub\\..\\..\\p.vhd"),
        relative(".\\link.vhd"),
        relative("out/p.vhd"),
        relative(".\\fifo"),
        relative(".\\sub"),
        absolute(&outside),
        absolute(Path::new("/dev/zero")),
        absolute(Path::new("/proc/self/mem")),
        by((*b"W2ku", utf16le("\\\\server\\share\\p.vhd"))),
        by((*b"W2ku", utf16le("//server/share/p.vhd"))),
        by((*b"MacX", b"file:///dev/zero".to_vec())),
        by((*b"MacX", b"http://server/p.vhd".to_vec())),
        relative("json:{\"driver\":\"file\"}"),
    ] {
        let what = format!("{:?}", parent.locators);
        assert_eq!(refused(&dir, parent), Fault::ParentForbidden, "{what}");
    }
    // Allowed, the first ones are found.
    let roots = [outer.path().to_owned()];
    for parent in [relative("..\\p.vhd"), relative("sub\\..\\..\\p.vhd"), absolute(&outside)] {
        assert_eq!(open_child(&dir, parent, &roots).unwrap().files.len(), 2);
    }
    // So is a parent that is only known by its name, wherever its folder was.
    assert_eq!(open_child(&dir, relative("Z:\\old\\p.vhd"), &roots).unwrap().files.len(), 2);
    let elsewhere = by((*b"W2ku", utf16le("C:\\vm\\p.vhd")));
    assert_eq!(open_child(&dir, elsewhere.clone(), &roots).unwrap().files.len(), 2);
    assert_eq!(refused(&dir, elsewhere), Fault::ParentNotFound);
    // A child reached through a link has the folder in which it really lies.
    write_parent(&dir.join("here.vhd"));
    fs::write(dir.join("child.vhd"), child(relative(".\\here.vhd")).build()).unwrap();
    let link = outer.path().join("link-to-child");
    std::os::unix::fs::symlink(dir.join("child.vhd"), &link).unwrap();
    assert_eq!(open(&link, &OpenOptions::default()).unwrap().files.len(), 2);
}

#[test]
fn the_id_decides_and_each_failure_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(refused(dir, beside(ID, "p.vhd")), Fault::ParentNotFound);
    fs::write(dir.join("p.vhd"), fixed(64 << 10, 5, ID + 1).0).unwrap();
    assert_eq!(refused(dir, beside(ID, "p.vhd")), Fault::ParentIdMismatch);
    fs::write(dir.join("p.vhd"), [0; 4096]).unwrap();
    assert_eq!(refused(dir, beside(ID, "p.vhd")), Fault::NotVhd);
    write_parent(&dir.join("p.vhd"));
    assert_eq!(open_child(dir, beside(ID, "p.vhd"), &[]).unwrap().files.len(), 2);
    for bad in [vec![0; 8], b"odd".to_vec(), vec![]] {
        assert_eq!(refused(dir, by((*b"W2ru", bad))), Fault::BadParentLocator);
    }
    assert_eq!(refused(dir, Parent { locators: vec![], ..relative("") }), Fault::ParentNotFound);
    // A locator that points out of the file.
    let mut file = child(relative(".\\p.vhd")).build();
    let entry = 512 + 576;
    crate::build::put(&mut file, entry + 16, &u64::MAX.to_be_bytes());
    crate::build::seal_header(&mut file[512..1536]);
    fs::write(dir.join("child.vhd"), &file).unwrap();
    let error = open(&dir.join("child.vhd"), &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Vhd(Fault::BadParentLocator));
    // One that lies on the table.
    crate::build::put(&mut file, entry + 16, &1536u64.to_be_bytes());
    crate::build::seal_header(&mut file[512..1536]);
    fs::write(dir.join("child.vhd"), &file).unwrap();
    let error = open(&dir.join("child.vhd"), &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Vhd(Fault::MetadataOverlap));
    // Without its parents a child can still be looked at.
    fs::write(dir.join("child.vhd"), child(relative(".\\gone.vhd")).build()).unwrap();
    assert_eq!(open_single(&dir.join("child.vhd"), &OpenOptions::default()).unwrap().files.len(), 1);
}

#[test]
fn cycles_are_found_by_file_and_by_id() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Itself by id, and itself by file under a wrong id.
    assert_eq!(refused(dir, beside(0x11, "child.vhd")), Fault::ParentCycle);
    assert_eq!(refused(dir, relative(".\\child.vhd")), Fault::ParentCycle);
    fs::hard_link(dir.join("child.vhd"), dir.join("same.vhd")).unwrap();
    let path = dir.join("child.vhd");
    fs::write(&path, child(relative(".\\same.vhd")).build()).unwrap();
    let error = open(&path, &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Vhd(Fault::ParentCycle));
    // Two that are each other's parent.
    let other = Sparse { id: ID, ..child(beside(0x11, "child.vhd")) };
    fs::write(dir.join("other.vhd"), other.build()).unwrap();
    assert_eq!(refused(dir, beside(ID, "other.vhd")), Fault::ParentCycle);
}

#[test]
fn chains_have_a_limit_and_work_up_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: usize| dir.path().join(format!("{n}.vhd"));
    let (root, model) = fixed(64 << 10, 5, 1);
    fs::write(path(1), root).unwrap();
    for n in 2..=MAX_DEPTH + 1 {
        let spec = Sparse { id: n as u128, ..child(beside(n as u128 - 1, &format!("{}.vhd", n - 1))) };
        fs::write(path(n), spec.build()).unwrap();
    }
    let opened = open(&path(MAX_DEPTH), &OpenOptions::default()).unwrap();
    assert_eq!(opened.files.len(), MAX_DEPTH);
    let mut buf = vec![0; 64 << 10];
    opened.chain.read(0, &mut buf, true).unwrap();
    assert!(buf == model.into_iter().flatten().flatten().collect::<Vec<u8>>());
    let error = open(&path(MAX_DEPTH + 1), &OpenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Vhd(Fault::LimitExceeded));
}
