//! A guest boots from a disk over a fixed VHD, writes, is switched off, and finds its files in the next boot;
//! encryption is switched off and on under it, and snapshots, clones and new keys come and go.

use std::path::PathBuf;

use crate::machine::{Setup, image};
use crate::support::{Account, program, sha256, stdout_of};

const NAME: &str = "linux.vhd";

/// Shell that writes 200 KiB of lines with `text` in them to a file and notes its checksum.
fn write_letter(file: &str, text: &str) -> String {
    format!(
        "i=0; while [ $i -lt 4000 ]; do echo \"$i: {text} and so on, line by line\"; i=$((i + 1)); done > /home/{file}; \
         sha256sum /home/{file} >> /home/sums"
    )
}

/// Shell that checks what the image came with.
const VERIFY_IMAGE: &str = "(cd / && sha256sum -c etc/manifest.sha256) > /run/log || { grep -v OK /run/log; false; }";

/// Shell that reads everything anew from the disk and checks what was written since.
const VERIFY_LETTERS: &str = "sync && echo 3 > /proc/sys/vm/drop_caches && sha256sum -c /home/sums";

#[test]
fn boots_from_a_fixed_vhd_and_finds_its_files_again() {
    let account = Account::new();
    let base = image("fixed.vhd");
    let before = sha256(&base);
    account.create_over(NAME, &base);
    let blob = std::fs::metadata(&base).expect("the image").len();
    let server = account.serve();

    let mut guest = Setup::new().disk(&server, NAME).boot();
    guest.run(VERIFY_IMAGE);
    guest.run(&write_letter("first", "written while encryption is on"));
    guest.power_off();

    let usage = account.usage(NAME);
    assert_eq!(usage.plain, 0, "{usage:?}");
    assert!(usage.encrypted > 200 << 10, "{usage:?}");
    assert!(usage.base > 10 << 20, "{usage:?}");
    assert_eq!(usage.base + usage.encrypted + usage.zero, blob, "{usage:?}");
    assert_eq!(account.files_with(b"written while encryption is on"), Vec::<PathBuf>::new());

    let mut guest = Setup::new().disk(&server, NAME).boot();
    guest.run(VERIFY_LETTERS);
    account.sealdisk(&["encryption", "off"]);
    guest.run(&write_letter("second", "written while encryption is off"));
    guest.run("sync");
    let off = account.usage(NAME);
    assert!(off.plain > 200 << 10, "{off:?}");
    account.sealdisk(&["encryption", "on"]);
    guest.run(&write_letter("third", "written when encryption was on again"));
    let listing = guest.run(VERIFY_LETTERS);
    for file in ["first", "second", "third"] {
        assert!(listing.contains(&format!("/home/{file}: OK")), "{listing}");
    }
    // Snapshots, clones and new keys, one after the other, under a guest that writes and reads all the while.
    let noise = "for n in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/home/noise$n bs=64k count=8 2>/dev/null; \
                 sha256sum /home/noise$n >> /home/sums; sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum -c /home/sums \
                 > /run/log || exit 1; done";
    guest.start(&format!("({noise}) && {VERIFY_LETTERS}"));
    for round in 0..4 {
        let snapshot = format!("s{round}");
        account.sealdisk(&["snapshot", "create", NAME, &snapshot]);
        account.sealdisk(&["clone", &format!("{NAME}@{snapshot}"), &format!("copy{round}")]);
        account.sealdisk(&["key", "rotate-data", NAME]);
        account.sealdisk(&["clone", NAME, &format!("live{round}")]);
        if round > 0 {
            account.sealdisk(&["delete", &format!("copy{}", round - 1), "--yes"]);
            account.sealdisk(&["snapshot", "delete", NAME, &format!("s{}", round - 1)]);
        }
    }
    let listing = guest.answer("writing and reading through snapshots, clones and rotations");
    assert_eq!(listing.matches("/home/noise").count(), 8, "{listing}");
    guest.power_off();
    // A clone is what its snapshot is, and has the files of then.
    let copy_of = |export: &str| {
        let path = account.scratch(&export.replace('@', "-"));
        stdout_of(program("nbdcopy").arg(server.uri(export)).arg(&path));
        sha256(&path)
    };
    assert_eq!(copy_of("copy3"), copy_of(&format!("{NAME}@s3")));
    assert_ne!(copy_of("live3"), copy_of(NAME), "the guest wrote on");

    let on = account.usage(NAME);
    assert!(on.plain > 200 << 10 && on.plain <= off.plain, "plain pages stay until they are rewritten: {on:?}");
    assert!(on.encrypted > usage.encrypted, "{on:?}");
    assert_eq!(on.base + on.plain + on.encrypted + on.zero, blob, "{on:?}");
    assert_ne!(account.files_with(b"written while encryption is off"), Vec::<PathBuf>::new());
    for text in ["written while encryption is on", "written when encryption was on again"] {
        assert_eq!(account.files_with(text.as_bytes()), Vec::<PathBuf>::new(), "{text}");
    }
    assert!(server.terminate().success());
    assert_eq!(account.usage(NAME), on);
    assert_eq!(sha256(&base), before, "the base is never written");
}
