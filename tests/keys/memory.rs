//! What a core image of a server, its whole memory after a revocation, its log and its files give away of its keys.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::client::Client;
use crate::secrets::{self, AccountKeys};
use crate::support::{Account, MIB, Server, program, run, stderr_of_failure};

const PASSPHRASE: &str = "nine lives and no secrets";

/// What is looked for, by name.
struct Needles {
    all: Vec<(String, Vec<u8>)>,
    /// Whether some needle begins with these two bytes.
    begins: Vec<bool>,
}

impl Needles {
    fn new(all: Vec<(String, Vec<u8>)>) -> Self {
        let mut begins = vec![false; 1 << 16];
        for (_, needle) in &all {
            begins[usize::from(u16::from_le_bytes([needle[0], needle[1]]))] = true;
        }
        Self { all, begins }
    }

    fn in_bytes<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a str> {
        let may_begin = |at: &usize| self.begins[usize::from(u16::from_le_bytes([bytes[*at], bytes[*at + 1]]))];
        let places = (0..bytes.len().saturating_sub(1)).filter(may_begin);
        places.flat_map(move |at| {
            let here = self.all.iter().filter(move |(_, needle)| bytes[at..].starts_with(needle));
            here.map(|(name, _)| name.as_str())
        })
    }

    /// Names of what lies in the readable memory of a process, each once for memory that is locked (`true`) and memory
    /// that is not; only for root.
    fn in_memory_of(&self, pid: u32) -> Vec<(String, bool)> {
        const STEP: usize = 1 << 16;
        let memory = File::open(format!("/proc/{pid}/mem")).expect("root may look");
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("its mappings");
        let longest = self.all.iter().map(|(_, needle)| needle.len()).max().unwrap_or(0);
        let (mut buffer, zeros) = (vec![0; STEP + longest], vec![0; STEP + longest]);
        let mut found = Vec::new();
        // A mapping is a line with its range, and lines of the form "Name: value" up to its flags.
        let mut range = None;
        for line in smaps.lines() {
            let (first, rest) = line.split_once(' ').expect("two words");
            if let Some((start, end)) = first.split_once('-') {
                let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).expect("an address"));
                range = rest.starts_with('r').then_some((start, end));
            }
            let Some((start, end)) = range.filter(|_| first == "VmFlags:") else { continue };
            let locked = rest.split(' ').any(|flag| flag == "lo");
            for at in (start..end).step_by(STEP) {
                let len = ((end - at) as usize).min(buffer.len());
                let Ok(len) = memory.read_at(&mut buffer[..len], at) else { continue };
                if buffer[..len] != zeros[..len] {
                    found.extend(self.in_bytes(&buffer[..len]).map(|name| (name.to_owned(), locked)));
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

/// A core image of a process that runs on, made by gdb as it makes one for everybody.
fn gcore(account: &Account, pid: u32) -> Command {
    let mut gcore = program("gcore");
    gcore.arg("-o").arg(account.scratch("image")).arg(pid.to_string());
    gcore
}

fn use_disk(server: &Server) -> Client {
    let mut client = Client::attach(server, "disk").expect("attached");
    for page in 0..64 {
        client.write(page * 8192, &[1; 8192]).expect("written");
        assert_eq!(client.read(page * 8192, 8192).expect("read"), [1; 8192]);
    }
    client.flush().expect("flushed");
    client
}

/// A server that was given a passphrase and has encrypted and decrypted.
#[test]
fn no_key_in_a_core_image_nor_in_memory_after_a_revocation_nor_in_log_and_files() {
    let account = Account::new();
    account.create("disk", MIB);
    fs::write(account.scratch("phrase"), PASSPHRASE).expect("a file");
    let phrase = || File::open(account.scratch("phrase")).expect("the passphrase");
    let by_passphrase = |words: &[&str]| {
        let mut command = account.command();
        let output = command.args(words).args(["--passphrase-fd", "0"]).stdin(phrase()).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    by_passphrase(&["key", "rotate-kek"]);
    let server = account.serve_with_input(&["--passphrase-fd", "0", "--log-level", "trace"], phrase());
    let mut client = use_disk(&server);
    let kek = secrets::kek_of_passphrase(&account, PASSPHRASE);
    let mut all = AccountKeys::read(&account, &kek).all(&account, "disk");
    all.push(("KEK".to_owned(), kek));
    all.push(("passphrase".to_owned(), PASSPHRASE.into()));
    let needles = Needles::new(all);

    let root = rustix::process::geteuid().is_root();
    if root {
        // They are there, and would be found.
        let before = needles.in_memory_of(server.pid());
        for name in
            ["account key", "round key 0 of the data key of layer 1", "round key 14 of the tweak key of layer 1"]
        {
            assert!(before.iter().any(|(found, _)| found == name), "{name} is not even in use: {before:?}");
        }
        for name in ["KEK", "passphrase"] {
            assert!(!before.iter().any(|(found, _)| found == name), "{name} is not needed any more");
        }
        assert!(before.iter().all(|(_, locked)| *locked), "in memory that may be swapped out: {before:?}");
        let said = run(&mut gcore(&account, server.pid()));
        let image = fs::read(account.scratch(&format!("image.{}", server.pid())));
        let image = image.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&said.stderr)));
        assert!(image.starts_with(b"\x7fELF") && image.len() > 4096, "a core image");
        assert_eq!(needles.in_bytes(&image).collect::<Vec<_>>(), Vec::<&str>::new());
    } else {
        // The owner neither looks into an undumpable process nor gets an image of it.
        File::open(format!("/proc/{}/mem", server.pid())).expect_err("its memory");
        stderr_of_failure(&mut gcore(&account, server.pid()));
    }

    account.sealdisk(&["key", "revoke"]);
    if root {
        assert_eq!(needles.in_memory_of(server.pid()), Vec::new());
    }
    by_passphrase(&["key", "restore"]);
    assert_eq!(client.read(0, 512).expect("read"), [1; 512]);
    drop(server);

    let log = fs::read(account.scratch("serve.log")).expect("the log");
    assert!(!log.is_empty());
    for (name, key) in &needles.all {
        for form in [key.clone(), hex::encode(key).into_bytes(), hex::encode_upper(key).into_bytes()] {
            assert!(!log.windows(form.len()).any(|bytes| bytes == form), "{name} in the log");
            assert!(account.files_with(&form).is_empty(), "{name} in a file of the account");
        }
    }
}

/// What clients have written and read, by long and short requests, of whole pages and parts of them, plain and
/// encrypted; what a re-encryption has moved, and what an audit has looked at. A client that stayed goes on later.
#[test]
fn no_guest_data_in_memory_after_a_revocation() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root looks into the memory of another process");
        return;
    }
    let marker: Vec<u8> = (0..64u8).map(|n| n.wrapping_mul(151) ^ 0x9E).collect();
    let needles = Needles::new(vec![("guest data".to_owned(), marker.clone())]);
    let account = Account::new();
    account.create("disk", 16 * MIB);
    let server = account.serve();
    let mut clients: Vec<_> = (0..2).map(|_| Client::attach(&server, "disk").expect("attached")).collect();
    let mut use_all = || {
        for client in &mut clients {
            for (at, len) in
                [(0, 512), (8192, 4096), (65536, 65536), (MIB, 4 << 20), (700, 1200), (9 * MIB + 13, 70_000)]
            {
                let data: Vec<u8> = marker.iter().copied().cycle().take(len).collect();
                client.write(at, &data).expect("written");
                assert_eq!(client.read(at, len).expect("read"), data);
            }
            client.flush().expect("flushed");
        }
    };
    account.sealdisk(&["encryption", "off"]);
    use_all();
    account.sealdisk(&["encryption", "on"]);
    account.sealdisk(&["reencrypt", "disk"]);
    account.sealdisk(&["audit", "disk"]);
    use_all();
    let [mut busy, mut idle] = <[Client; 2]>::try_from(clients).ok().expect("two");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Its connection never rests, and so the server's buffers stay in use.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = busy.read(14 * MIB, 4096);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let ended = EndsWhenDropped(&done);
        assert!(!needles.in_memory_of(server.pid()).is_empty(), "it is there, and would be found");
        account.sealdisk(&["key", "revoke"]);
        // An idle connection looks up every second.
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(needles.in_memory_of(server.pid()), Vec::new());
        // Nor does it keep what it refuses.
        let data: Vec<u8> = marker.iter().copied().cycle().take(65536).collect();
        idle.write(0, &data).expect_err("revoked");
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(needles.in_memory_of(server.pid()), Vec::new());
        account.sealdisk(&["key", "restore"]);
        assert_eq!(idle.read(65536, 64).expect("read"), marker);
        drop(ended);
    });
}

/// Ends the client beside also where the test fails.
struct EndsWhenDropped<'a>(&'a AtomicBool);

impl Drop for EndsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Although whoever started it allows core files.
#[test]
fn an_aborted_server_leaves_no_core_file() {
    let most = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: most, maximum: most }).expect("core files of this process");
    let other = run(program("sh").current_dir("/").args(["-c", "cd \"$(mktemp -d)\" && (sleep 0.1; kill -ABRT $$)"]));
    if !other.status.core_dumped() {
        println!("core files are forbidden here: {}", other.status);
    }
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve();
    let _client = use_disk(&server);
    let status = server.abort();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
    let left = fs::read_dir(account.scratch("")).expect("where it ran");
    let names: Vec<_> = left.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    assert!(!names.iter().any(|name| name.starts_with("core")), "{names:?}");
}
