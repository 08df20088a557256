//! A Linux machine attaches a disk with `nbd-client` over the network and uses it as any other: file systems, its
//! trims, dm-crypt.

use std::net::TcpListener;
use std::path::PathBuf;

use crate::machine::{Setup, image};
use crate::support::{Account, MIB, sha256};

const ROOT: &str = "linux";
const DATA: &str = "data";

/// A port of loopback that nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

#[test]
fn nbd_client_makes_it_a_disk_like_any_other() {
    let account = Account::new();
    let base = image("disk.raw");
    let before = sha256(&base);
    account.create_over(ROOT, &base);
    account.create(DATA, 256 * MIB);
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let listen = ["--listen", &address];
    let server = account.serve_with(&listen);

    let mut guest = Setup::new().disk(&server, ROOT).network().boot();
    guest.run("modprobe virtio_net && ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0");
    let attach = format!("nbd-client -C 4 -N {DATA} 10.0.2.2 {port} /dev/nbd0");
    guest.run(&format!("modprobe nbd && {attach}"));
    assert_eq!(guest.run("cat /sys/block/nbd0/size").trim(), (256 * MIB / 512).to_string());

    // mkfs begins with a trim of the whole disk.
    guest.run("/usr/sbin/mke2fs -q -t ext4 -E discard /dev/nbd0 && mount /dev/nbd0 /mnt");
    guest.run("cp -r /usr /lib /mnt && dd if=/dev/urandom of=/mnt/noise bs=1M count=16 2>/dev/null");
    guest.run("cd /mnt && find . -type f -exec sha256sum {} + > /home/sums && cd / && sync");
    guest.run("umount /mnt && echo 3 > /proc/sys/vm/drop_caches && mount /dev/nbd0 /mnt");
    guest.run("cd /mnt && sha256sum -c /home/sums > /run/log || { grep -v OK /run/log; false; }");
    let full = account.usage(DATA);
    assert!(full.encrypted > 16 * MIB && full.plain == 0, "{full:?}");
    guest.run("cd / && rm /mnt/noise && sync && fstrim /mnt && umount /mnt");
    let trimmed = account.usage(DATA);
    assert!(trimmed.encrypted + 15 * MIB < full.encrypted, "{full:?}, then {trimmed:?}");

    // This client does not connect again by itself, so its requests fail when the server is gone. What was synced is
    // there when it is attached anew.
    guest.run("mount /dev/nbd0 /mnt && cp /usr/share/common-licenses/GPL-3 /mnt/kept && sync");
    server.kill();
    let server = account.serve_with(&listen);
    guest.run(&format!("umount /mnt; nbd-client -d /dev/nbd0; {attach} && mount /dev/nbd0 /mnt"));
    guest.run("cmp /usr/share/common-licenses/GPL-3 /mnt/kept && umount /mnt");

    // dm-crypt on top: another file system with its own key.
    let open = "cryptsetup open --key-file /run/key /dev/nbd0 vault";
    guest.run("echo -n 'a passphrase of the test' > /run/key");
    guest.run("cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /run/key /dev/nbd0");
    guest.run(&format!("{open} && /usr/sbin/mke2fs -q -t ext4 /dev/mapper/vault && mount /dev/mapper/vault /mnt"));
    guest.run("i=0; while [ $i -lt 4000 ]; do echo \"$i: known to the guest alone\"; i=$((i + 1)); done > /mnt/letter");
    guest.run("sha256sum /mnt/letter > /home/sums && umount /mnt && cryptsetup close vault");
    guest.run("nbd-client -d /dev/nbd0");
    guest
        .run(&format!("nbd-client -C 2 -N {DATA} 10.0.2.2 {port} /dev/nbd0 && {open} && mount /dev/mapper/vault /mnt"));
    guest.run("sha256sum -c /home/sums && umount /mnt && cryptsetup close vault && nbd-client -d /dev/nbd0");
    guest.power_off();
    assert!(server.terminate().success());

    assert_eq!(account.files_with(b"known to the guest alone"), Vec::<PathBuf>::new());
    assert_eq!(sha256(&base), before, "the base is never written");
}
