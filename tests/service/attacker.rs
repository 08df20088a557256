//! Code that runs inside a confined server, and what it cannot do. A debugger makes the system calls, in the place of a
//! fault in the server.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use crate::support::{Account, MIB, program, run, stderr_of_failure};

/// Calls by name, as the script asks for them.
macro_rules! numbers {
    ($($name:ident)*) => { [$((stringify!($name).trim_start_matches("SYS_"), libc::$name)),*] };
}

fn calls() -> BTreeMap<&'static str, i64> {
    #[rustfmt::skip]
    let everywhere = numbers!(
        SYS_acct SYS_add_key SYS_bind SYS_bpf SYS_capset SYS_chdir SYS_chroot SYS_clone SYS_clone3 SYS_connect
        SYS_copy_file_range SYS_execve SYS_execveat SYS_fanotify_init SYS_fchmodat SYS_fchownat SYS_fcntl SYS_getpid
        SYS_init_module SYS_inotify_init1 SYS_io_uring_setup SYS_ioctl SYS_kcmp SYS_kexec_load SYS_keyctl SYS_kill
        SYS_landlock_create_ruleset SYS_linkat SYS_listen SYS_lookup_dcookie SYS_madvise SYS_memfd_create
        SYS_memfd_secret SYS_migrate_pages SYS_mkdirat SYS_mknodat SYS_mmap SYS_mount SYS_mprotect SYS_mq_notify
        SYS_mq_open SYS_name_to_handle_at SYS_open_tree SYS_openat SYS_openat2 SYS_perf_event_open SYS_personality
        SYS_pidfd_getfd SYS_pidfd_open SYS_pidfd_send_signal SYS_pivot_root SYS_pkey_mprotect SYS_prctl SYS_prlimit64
        SYS_process_madvise SYS_process_vm_readv SYS_process_vm_writev SYS_ptrace SYS_quotactl SYS_reboot
        SYS_remap_file_pages SYS_renameat2 SYS_request_key SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo
        SYS_sched_setaffinity SYS_seccomp SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_sethostname SYS_setns
        SYS_setpgid SYS_setpriority SYS_setresuid SYS_setrlimit SYS_setsid SYS_setsockopt SYS_settimeofday SYS_setuid
        SYS_setxattr SYS_shmat SYS_shmget SYS_socket SYS_socketpair SYS_splice SYS_swapon SYS_symlinkat SYS_syslog
        SYS_tee SYS_tgkill SYS_timer_create SYS_tkill SYS_truncate SYS_unlinkat SYS_unshare SYS_userfaultfd
        SYS_utimensat SYS_vhangup SYS_vmsplice
    );
    #[cfg(target_arch = "x86_64")]
    let old = numbers!(SYS_fork SYS_vfork SYS_iopl SYS_ioperm SYS_modify_ldt);
    #[cfg(not(target_arch = "x86_64"))]
    let old: [(&str, i64); 0] = [];
    everywhere.into_iter().chain(old).collect()
}

/// A process that is to live on.
struct Bystander(Child);

impl Bystander {
    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The debugger at work in the process `pid`.
fn debugger(pid: u32, attack: &str) -> Command {
    let mut gdb = program("gdb");
    gdb.args(["-q", "-nx", "-batch", "-ex", "set pagination off", "-p", &pid.to_string()]);
    gdb.args(["-x", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service/attacker.py")]).env("ATTACK", attack);
    gdb
}

#[test]
fn code_inside_a_confined_server_reaches_no_file_socket_or_process_of_others() {
    let account = Account::new();
    account.create("disk", MIB);
    let place = account.scratch("place");
    fs::create_dir_all(place.join("sockets")).unwrap();
    let image = "i".repeat(512);
    let files = [("secret", "secret"), ("image", image.as_str()), ("sockets/plain", "of another")];
    for (name, text) in files {
        fs::write(place.join(name), text).unwrap();
    }
    account.create_over("over", &place.join("image"));
    let datagrams = UnixDatagram::bind(place.join("datagram")).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    let manager = UnixDatagram::bind(place.join("manager")).unwrap();
    let network = TcpListener::bind("127.0.0.1:0").unwrap();
    network.set_nonblocking(true).unwrap();
    let mut bystander = Bystander(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap());

    let notify = format!("NOTIFY_SOCKET={}", place.join("manager").display());
    let control = place.join("sockets/control");
    let options = ["--confine", "require", "--listen", "127.0.0.1:0", "--control", control.to_str().unwrap()];
    let server = account.serve_under(&["env", &notify], &options);
    manager.recv(&mut [0; 64]).unwrap();
    let attack = serde_json::json!({
        "calls": calls(),
        "victim": bystander.0.id(),
        "place": place,
        "account": account.dir(),
        "port": network.local_addr().unwrap().port(),
    });
    let mut gdb = debugger(server.pid(), &attack.to_string());
    if !rustix::process::geteuid().is_root() {
        // Nobody gets in here: the process is undumpable.
        return drop(stderr_of_failure(&mut gdb));
    }
    let output = run(&mut gdb);
    let said = String::from_utf8_lossy(&output.stdout);
    let complete = format!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let possible: Vec<_> = said.lines().filter(|line| line.starts_with("POSSIBLE")).collect();
    assert!(possible.is_empty(), "{possible:#?}");
    let tried = said.lines().find_map(|line| line.strip_prefix("TRIED ")).map(|tried| tried.parse::<usize>().unwrap());
    assert!(tried.is_some_and(|tried| tried > 500), "{complete}");
    #[cfg(target_arch = "x86_64")]
    assert!(said.contains("ENDED BY 31"), "a call of 32 bits ends the process by SIGSYS: {complete}");

    assert!(bystander.lives());
    assert!(datagrams.recv(&mut [0; 64]).is_err(), "a datagram arrived");
    assert!(network.accept().is_err(), "a connection arrived");
    for (name, text) in files {
        assert_eq!(fs::read_to_string(place.join(name)).unwrap(), text, "{name}");
    }
}
