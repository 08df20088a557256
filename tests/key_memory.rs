//! Looks through all memory of the process for key bytes, as a core file would hold them. In a process of its own, one
//! test at a time: what another one looks at is copied, and would be found.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![cfg(not(sealdisk_sim))]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use parking_lot::Mutex;
use sealdisk::account::settings::Settings;
use sealdisk::crypto::kek::{KekSource, KeyFile};
use sealdisk::crypto::xts::{Backend, XtsKey, wipe_stack};
use sealdisk::disk::{Access, Disk, Durability, Options, Spec};
use sealdisk::io::Dir;
use sealdisk::io::real::RealDir;
use uuid::Uuid;

use aes::{SCHEDULE, expand};

#[path = "support/aes.rs"]
mod aes;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What is looked for is kept only in this disguise, so that it is not found in the test itself.
const MASK: u8 = 0x5A;

struct Needle {
    name: &'static str,
    masked: Vec<u8>,
}

impl Needle {
    fn new(name: &'static str, secret: &[u8]) -> Self {
        Self { name, masked: secret.iter().map(|byte| byte ^ MASK).collect() }
    }

    fn is_at(&self, memory: &[u8]) -> bool {
        memory.len() >= self.masked.len()
            && memory.iter().zip(&self.masked).all(|(byte, masked)| byte ^ MASK == *masked)
    }
}

/// The account key, unwrapped as docs/security.md says, by the libraries alone.
fn account_key(text: &str, kek_path: &std::path::Path) -> Needle {
    use aes_kw::KeyInit;
    let table: toml::Table = text.parse().unwrap();
    let entry = table["account_key"].as_array().unwrap()[0].as_table().unwrap();
    let id: Uuid = entry["id"].as_str().unwrap().parse().unwrap();
    let account: Uuid = table["account"].as_str().unwrap().parse().unwrap();
    let wrapped = hex::decode(entry["wrapped"].as_str().unwrap()).unwrap();
    let mut kek = std::fs::read(kek_path).unwrap();
    let (mut wrapping, mut key) = ([0; 32], [0; 32]);
    hkdf::Hkdf::<sha2::Sha256>::new(None, &kek)
        .expand_multi_info(&[b"sealdisk/1 account-key-wrap\0", account.as_bytes(), id.as_bytes()], &mut wrapping)
        .unwrap();
    aes_kw::KwAes256::new(&wrapping.into()).unwrap_key(&wrapped, &mut key).unwrap();
    let needle = Needle::new("account key", &key);
    for secret in [&mut kek[..], &mut wrapping, &mut key] {
        secret.fill(0);
        std::hint::black_box(&secret);
    }
    needle
}

/// The round keys of a data key and a tweak key. The first two round keys are the key itself; the last two share no
/// bytes with it.
fn round_keys(dek: &[u8]) -> [Needle; 4] {
    let (data, tweak) = dek.split_at(32);
    let last = |name, half: &[u8]| {
        let mut schedule = [0; SCHEDULE];
        expand(half, &mut schedule);
        let needle = Needle::new(name, &schedule[SCHEDULE - 32..]);
        schedule.fill(0);
        std::hint::black_box(&schedule);
        needle
    };
    [
        Needle::new("data key", data),
        Needle::new("tweak key", tweak),
        last("round keys of the data key", data),
        last("round keys of the tweak key", tweak),
    ]
}

/// Names of the needles that lie anywhere in readable memory, and what kind of memory that is.
fn found(needles: &[Needle]) -> Vec<String> {
    const STEP: usize = 1 << 20;
    let longest = needles.iter().map(|needle| needle.masked.len()).max().unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut buffer = vec![0u8; STEP + longest];
    let mut found = Vec::new();
    // A mapping is a line with its range, lines of the form "Name: value", and its flags.
    for mapping in smaps.split_inclusive("VmFlags:").zip(smaps.split("VmFlags:").skip(1)) {
        let heading = mapping.0.lines().find(|line| line.split_once(' ').is_some_and(|(range, _)| range.contains('-')));
        let mut fields = heading.unwrap().split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        let place = fields.nth(3).unwrap_or("anonymous");
        if !rights.starts_with('r') || place.starts_with("[v") {
            continue;
        }
        let flags = mapping.1.lines().next().unwrap();
        let locked = if flags.split_whitespace().any(|flag| flag == "lo") { "locked" } else { "not locked" };
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        for at in (start..end).step_by(STEP) {
            let len = ((end - at) as usize).min(buffer.len());
            let Ok(len) = memory.read_at(&mut buffer[..len], at) else { continue };
            for offset in 0..len {
                for needle in needles {
                    if buffer[offset] ^ MASK == needle.masked[0] && needle.is_at(&buffer[offset..len]) {
                        found.push(format!("{} in {place} ({rights}, {locked})", needle.name));
                    }
                }
            }
            // Else the copy would be found too.
            buffer.fill(0);
        }
    }
    found
}

/// The wrapped data key in the first slot of the disk's `keys` file.
fn first_wrapped_key(folder: &std::path::Path) -> [u8; 72] {
    let content = std::fs::read(folder.join("keys")).unwrap();
    *content[4096 + 24..].first_chunk().unwrap()
}

/// Whatever the cipher keeps its round keys in: all of it is locked while it is used, and nothing is left afterwards.
#[test]
fn round_keys_lie_in_locked_memory_alone_and_go_with_it() {
    let _alone = ONE_AT_A_TIME.lock();
    for backend in Backend::available() {
        let mut dek: [u8; 64] = std::array::from_fn(|n| (n as u8).wrapping_mul(91).wrapping_add(17));
        let needles = round_keys(&dek);
        let key = XtsKey::with_backend(&dek, backend).unwrap();
        dek.fill(0);
        std::hint::black_box(&dek);
        let mut pages = vec![7; 16 << 10];
        for _ in 0..20 {
            key.encrypt(1, &pages.clone(), &mut pages);
            key.decrypt_in_place(1, &mut pages);
        }
        wipe_stack();
        assert_eq!(pages, [7; 16 << 10]);
        let used = found(&needles);
        for needle in &needles {
            assert!(used.iter().any(|found| found.starts_with(needle.name)), "{}: {used:?}", backend.name());
        }
        assert!(used.iter().all(|found| found.ends_with(", locked)")), "{}: {used:?}", backend.name());
        drop(key);
        assert_eq!(found(&needles), Vec::<String>::new(), "{}", backend.name());
    }
}

#[test]
fn no_key_is_left_in_memory_once_the_keys_are_let_go_of() {
    let _alone = ONE_AT_A_TIME.lock();
    let folder = tempfile::tempdir().unwrap();
    let kek_path = folder.path().join("kek");
    let mut needles = Vec::new();
    {
        let mut kek: Vec<u8> = (0..32).map(|n: u8| n.wrapping_mul(37).wrapping_add(11)).collect();
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&kek_path).unwrap();
        file.write_all(&kek).unwrap();
        needles.push(Needle::new("KEK", &kek));
        kek.fill(0);
        std::hint::black_box(&kek);
    }
    let (account, uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let account_dir = RealDir::open(folder.path()).unwrap();
    let source = KeyFile::new(&kek_path).unwrap();
    let disk_folder = folder.path().join("disk");
    std::fs::create_dir(&disk_folder).unwrap();
    let disk_dir: Arc<dyn Dir> = Arc::new(RealDir::open(&disk_folder).unwrap());

    // As `init`, `create` and `serve` do.
    Settings::create(&account_dir, account, &source.obtain().unwrap(), source.record(), true).unwrap();
    needles.push(account_key(&std::fs::read_to_string(folder.path().join("account.toml")).unwrap(), &kek_path));
    let kek = source.obtain().unwrap();
    let settings = Settings::load(&account_dir).unwrap();
    let ring = settings.unlock(&kek).unwrap();
    let keys = ring.disk_keys(uuid).unwrap();
    let spec = Spec::new(uuid, "vhds/d", 1 << 20);
    Disk::create(Arc::clone(&disk_dir), &spec, keys.clone(), true, &Options::default()).unwrap();
    let disk = Disk::open(disk_dir, Some(keys.clone()), None, Access::ReadWrite, true, Options::default()).unwrap();
    for _ in 0..20 {
        disk.write(4096, &[1; 65536], Durability::Fua).unwrap();
    }
    {
        let dek = keys.reveal(1, &first_wrapped_key(&disk_folder)).unwrap();
        needles.extend(round_keys(dek.expose()));
    }

    let before = found(&needles);
    for needle in &needles {
        assert!(
            before.iter().any(|found| found.starts_with(needle.name)),
            "{} is not even in use: {before:?}",
            needle.name
        );
    }

    disk.admin().suspend();
    disk.admin().final_flush().unwrap();
    disk.admin().forget_keys();
    drop((kek, ring, keys));
    assert_eq!(found(&needles), Vec::<String>::new());
    assert!(disk.read(0, &mut [0; 512]).is_err());
}
