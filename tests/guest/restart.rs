//! The server ends and starts again under a running guest: its requests wait, its files verify. Its second disk has
//! QEMU's own LUKS on top of ours.

use std::fs;
use std::path::PathBuf;

use crate::machine::{Setup, image};
use crate::support::{Account, MIB, Server, program, run, sha256, stderr_of_failure, stdout_of};

const ROOT: &str = "linux.vhd";
const VAULT: &str = "vault";

/// Opens the second disk as QEMU sees it below and above LUKS.
fn luks_options(server: &Server, passphrase: &str) -> [String; 2] {
    [
        format!("secret,id=passphrase,file={passphrase}"),
        format!(
            "driver=luks,key-secret=passphrase,file.driver=nbd,file.export={VAULT},file.server.type=unix,\
             file.server.path={}",
            server.socket().display()
        ),
    ]
}

/// Makes a LUKS header on a disk. Tried again, since QEMU gives up when its clock is too coarse to time the key slot.
fn format_luks(secret: &str, target: &str) {
    let options = "key-secret=passphrase,iter-time=10";
    let mut qemu_img = program("qemu-img");
    qemu_img.args(["create", "-f", "luks", "--object", secret, "-o", options, target, "20M"]);
    let done = (0..20).any(|_| run(&mut qemu_img).status.success());
    assert!(done, "{}", stderr_of_failure(&mut qemu_img));
}

#[test]
fn a_guest_goes_on_after_the_server_restarts() {
    let account = Account::new();
    let base = image("dynamic.vhd");
    let before = sha256(&base);
    account.create_over(ROOT, &base);
    account.create(VAULT, 24 * MIB);
    let passphrase = account.scratch("passphrase");
    fs::write(&passphrase, "a passphrase of the test").expect("a file");
    let passphrase = passphrase.to_str().expect("UTF-8");

    let server = account.serve();
    let [secret, vault] = luks_options(&server, passphrase);
    format_luks(&secret, &server.uri(VAULT));

    let mut guest = Setup::new().disk(&server, ROOT).luks_disk(&server, VAULT, passphrase).boot();
    let letter = "i=0; while [ $i -lt 4000 ]; do echo \"$i: known to the guest alone\"; i=$((i + 1)); done";
    guest.run(&format!("{letter} > /home/letter; sha256sum /home/letter > /home/sums; sync"));
    guest.run(&format!(
        "/usr/sbin/mke2fs -q -F -t ext4 /dev/vdb && mount /dev/vdb /mnt && {letter} > /mnt/letter && \
         (cd /mnt && sha256sum letter > sums) && sync"
    ));

    // An orderly end, with the guest asking for its disk meanwhile.
    assert!(server.terminate().success());
    guest.start("echo 3 > /proc/sys/vm/drop_caches; sha256sum -c /home/sums && (cd /mnt && sha256sum -c sums)");
    let server = account.serve();
    guest.answer("reading over a restart");
    guest.run(
        "dd if=/dev/urandom of=/home/noise bs=64k count=64 2>/dev/null; sha256sum /home/noise >> /home/sums; sync",
    );

    // A kill, after all was flushed.
    server.kill();
    guest.start("echo 3 > /proc/sys/vm/drop_caches; sha256sum -c /home/sums && (cd /mnt && sha256sum -c sums)");
    let server = account.serve();
    guest.answer("reading over a kill");
    guest.run("dd if=/dev/urandom of=/mnt/noise bs=64k count=32 2>/dev/null; cd /mnt; sha256sum noise >> sums; cd /");
    guest.run("umount /mnt && mount /dev/vdb /mnt && cd /mnt && sha256sum -c sums && cd / && umount /mnt");
    guest.power_off();

    // Below LUKS nobody finds the text, nor in any file of the account; above it is there.
    let below = account.scratch("below");
    let above = account.scratch("above");
    stdout_of(program("nbdcopy").arg(server.uri(VAULT)).arg(&below));
    stdout_of(
        program("qemu-img").args(["convert", "--object", &secret, "--image-opts", &vault, "-O", "raw"]).arg(&above),
    );
    let text = b"known to the guest alone";
    let occurs = |path: PathBuf| fs::read(path).expect("a copy").windows(text.len()).any(|window| window == text);
    assert!(!occurs(below), "plaintext below LUKS");
    assert!(occurs(above), "no plaintext above LUKS");
    assert_eq!(account.files_with(text), Vec::<PathBuf>::new());
    assert_eq!(sha256(&base), before, "the base is never written");
}
