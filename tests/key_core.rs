//! What the kernel itself writes into the core file of a process with keys that is not hardened as the program is: the
//! measures one by one. The process is this test again, started with the name of a folder.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![cfg(not(sealdisk_sim))]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sealdisk::crypto::harden;
use sealdisk::crypto::kek::Kek;
use sealdisk::crypto::keyring::{AccountKey, KeyRing};
use sealdisk::crypto::secret::SecretKey;
use sealdisk::disk::{Access, Disk, Durability, Options, Spec};
use sealdisk::io::real::RealDir;
use uuid::Uuid;

const FOLDER: &str = "SEALDISK_TEST_CORE_FOLDER";
const FILTER: &str = "SEALDISK_TEST_CORE_FILTER";
/// Stands in no file of the program: it is made in ordinary memory.
fn marker() -> Vec<u8> {
    (0..64u8).map(|n| n.wrapping_mul(73) ^ 0xC5).collect()
}

/// The bytes of [`kek`], for the process that looks for them.
fn kek_bytes() -> [u8; 32] {
    std::array::from_fn(|n| (n as u8).wrapping_mul(29) ^ 0x6B)
}

/// A KEK that is told from everything else, made without a copy outside secret memory.
fn kek() -> Kek {
    Kek::new(
        SecretKey::fill_with(|bytes| {
            bytes.iter_mut().zip(0u8..).for_each(|(byte, n)| *byte = n.wrapping_mul(29) ^ 0x6B);
            Ok(())
        })
        .unwrap(),
    )
}

/// Opens a disk, uses it, and dies with its keys in memory.
fn die_with_keys(folder: &Path) -> ! {
    std::env::set_current_dir(folder).unwrap();
    let most = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: most, maximum: most }).unwrap();
    if std::env::var_os(FILTER).is_some() {
        harden::keep_memory_out_of_cores();
    }
    let kek = kek();
    let account = Uuid::from_u128(1);
    let key = AccountKey::generate(account).unwrap();
    fs::write("wrapped", key.wrap(&kek.derive_for(account, [key.id()]).unwrap()).unwrap()).unwrap();
    fs::write("id", key.id().as_bytes()).unwrap();
    fs::create_dir("disk").unwrap();
    let dir = Arc::new(RealDir::open(folder.join("disk")).unwrap());
    let keys = KeyRing::new(key, None).disk_keys(Uuid::from_u128(2)).unwrap();
    let spec = Spec::new(Uuid::from_u128(2), "vhds/d", 1 << 20);
    Disk::create(dir.clone(), &spec, keys.clone(), true, &Options::default()).unwrap();
    let disk = Disk::open(dir, Some(keys), None, Access::ReadWrite, true, Options::default()).unwrap();
    disk.write(0, &[1; 8192], Durability::Fua).unwrap();
    let marker = std::hint::black_box(marker());
    assert_eq!(marker.len(), 64);
    std::process::abort();
}

/// Which of the marker, the KEK and the account key are in the core file; `None`: the kernel wrote none.
fn found(filter: bool) -> Option<[bool; 3]> {
    use aes_kw::KeyInit;
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.arg("--exact").arg("the_kernel_leaves_secret_memory_out_of_a_core_file").env(FOLDER, folder);
    if filter {
        child.env(FILTER, "1");
    }
    let output = child.output().unwrap();
    assert_eq!(output.status.signal(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    let core = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let core = core.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("core"))?;
    let core = fs::read(core).unwrap();

    let kek = kek_bytes();
    let (wrapped, id) = (fs::read(folder.join("wrapped")).unwrap(), fs::read(folder.join("id")).unwrap());
    let (mut wrapping, mut account_key) = ([0; 32], [0; 32]);
    let account = Uuid::from_u128(1);
    let info: [&[u8]; 3] = [b"sealdisk/1 account-key-wrap\0", account.as_bytes(), &id];
    hkdf::Hkdf::<sha2::Sha256>::new(None, &kek).expand_multi_info(&info, &mut wrapping).unwrap();
    aes_kw::KwAes256::new(&wrapping.into()).unwrap_key(&wrapped, &mut account_key).unwrap();
    let holds = |needle: &[u8]| core.windows(needle.len()).any(|bytes| bytes[0] == needle[0] && bytes == needle);
    Some([holds(&marker()), holds(&kek), holds(&account_key)])
}

#[test]
fn the_kernel_leaves_secret_memory_out_of_a_core_file() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        die_with_keys(Path::new(&folder));
    }
    let Some(open) = found(false) else {
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
        println!("left out: the kernel writes no core file into the folder of a process here ({})", pattern.trim());
        return;
    };
    assert_eq!(open, [true, false, false], "ordinary memory is in it, and is searched; secret memory is not");
    assert_eq!(found(true), Some([false; 3]), "with the filter nothing of the process is");
}
