//! Seccomp: which system calls a confined process may make.
//!
//! Two filters lie on one another. The first lets pass what the process needs; everything else is answered as by a
//! kernel that does not have it (ENOSYS), for which every library has another way: so an update of the C library breaks
//! nothing. The second answers EPERM to what is refused on purpose, so that an error says so; of two refusals the
//! filter that was added last decides. A call of another architecture (32 bits) ends the process; one of x32 has a
//! number of its own, which the first filter does not know.
//!
//! What a filter cannot see it cannot let pass in part:
//!
//! - `clone3` takes its flags in memory: it is left out, and threads are made by `clone`.
//! - `sendmsg` takes an address in memory, and a datagram socket (the one to the service manager, say) would send to
//!   any. A server makes do with `sendto` without an address, and writing.
//!
//! So that nothing reaches another process: of the commands of `fcntl` those are left out that choose who gets which
//! signal (F_SETOWN, F_SETSIG, O_ASYNC, leases, F_NOTIFY), and of `ioctl` all but five; sockets are streams only; and
//! MSG_FASTOPEN, which connects a TCP socket without `connect`, is refused wherever a message can be sent.

use std::collections::BTreeMap;

#[cfg(target_arch = "aarch64")]
use seccompiler::TargetArch::aarch64 as ARCH;
#[cfg(target_arch = "x86_64")]
use seccompiler::TargetArch::x86_64 as ARCH;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, apply_filter, apply_filter_all_threads};

use super::Network;
use super::arguments::{Argument, NEVER_OF_A_THREAD, all_of, one_of};
use crate::io::verity;
use crate::{Error, Result};

/// System calls by number; of one with rules, the calls that fit any of them.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// Allowed whatever their arguments.
#[rustfmt::skip]
const ALLOWED: &[i64] = &[
    // Files: open ones, and what landlock lets be opened.
    libc::SYS_close, libc::SYS_close_range, libc::SYS_dup, libc::SYS_dup3, libc::SYS_faccessat, libc::SYS_faccessat2,
    libc::SYS_fadvise64, libc::SYS_fallocate, libc::SYS_fdatasync, libc::SYS_flock, libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_fsync, libc::SYS_ftruncate, libc::SYS_getcwd, libc::SYS_getdents64, libc::SYS_lseek,
    libc::SYS_mkdirat, libc::SYS_newfstatat, libc::SYS_openat, libc::SYS_openat2, libc::SYS_pread64, libc::SYS_preadv,
    libc::SYS_preadv2, libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2, libc::SYS_read, libc::SYS_readahead,
    libc::SYS_readlinkat, libc::SYS_readv, libc::SYS_renameat2, libc::SYS_statx,
    libc::SYS_unlinkat, libc::SYS_write, libc::SYS_writev,
    // Sockets that are there: see `allowed` for the rest.
    libc::SYS_accept4, libc::SYS_getpeername, libc::SYS_getsockname, libc::SYS_getsockopt,
    libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_shutdown,
    // Waiting.
    libc::SYS_clock_nanosleep, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_futex, libc::SYS_nanosleep, libc::SYS_pipe2, libc::SYS_ppoll,
    libc::SYS_pselect6, libc::SYS_timerfd_create, libc::SYS_timerfd_gettime, libc::SYS_timerfd_settime,
    // Memory, but none that is executable: see `allowed`.
    libc::SYS_brk, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_mremap, libc::SYS_munlock,
    libc::SYS_munmap,
    // This process, its threads, signals to it, clocks, random bytes.
    libc::SYS_clock_getres, libc::SYS_clock_gettime, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_getcpu,
    libc::SYS_getegid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getrandom,
    libc::SYS_getrusage, libc::SYS_gettid, libc::SYS_gettimeofday, libc::SYS_getuid, libc::SYS_membarrier,
    libc::SYS_restart_syscall, libc::SYS_rseq, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn, libc::SYS_rt_sigtimedwait, libc::SYS_sched_getaffinity, libc::SYS_sched_yield,
    libc::SYS_set_robust_list, libc::SYS_sigaltstack, libc::SYS_sysinfo, libc::SYS_times, libc::SYS_umask,
    libc::SYS_uname,
];

/// Older calls like those above, which not every architecture has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_OLD: &[i64] = &[
    libc::SYS_access, libc::SYS_dup2, libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_eventfd,
    libc::SYS_getdents, libc::SYS_lstat, libc::SYS_mkdir, libc::SYS_open, libc::SYS_pipe, libc::SYS_poll,
    libc::SYS_readlink, libc::SYS_rename, libc::SYS_renameat, libc::SYS_rmdir, libc::SYS_select, libc::SYS_stat,
    libc::SYS_time, libc::SYS_unlink,
];
/// renameat, which the libc crate does not name here.
#[cfg(target_arch = "aarch64")]
const ALLOWED_OLD: &[i64] = &[38];

/// Refused whatever their arguments: a program, a new process, another process, a way to the outside.
const REFUSED: &[i64] = &[
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_kill,
    libc::SYS_listen,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_setns,
    libc::SYS_socket,
    libc::SYS_unshare,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_OLD: &[i64] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(target_arch = "aarch64")]
const REFUSED_OLD: &[i64] = &[];

/// Options of sockets that a server and the libraries under it set. Others send packets, attach programs to sockets, or
/// open parts of the kernel that nothing here needs.
const SOCKET_OPTIONS: &[(libc::c_int, libc::c_int)] = &[
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, SO_RCVTIMEO_NEW),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::SOL_SOCKET, SO_SNDTIMEO_NEW),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
];
/// The time-outs with 64 bits of seconds, which the libc crate names on some targets only.
const SO_RCVTIMEO_NEW: libc::c_int = 66;
const SO_SNDTIMEO_NEW: libc::c_int = 67;

/// The process whose calls are filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FilteredProcess {
    /// A server whose sockets are bound.
    Server,
    /// A verb.
    Verb { network: Network },
    /// One thread of a verb, and those that it starts.
    Thread,
}

impl FilteredProcess {
    fn network(self) -> Network {
        match self {
            Self::Server | Self::Thread => Network::Nothing,
            Self::Verb { network } => network,
        }
    }
}

/// Filters the calls of every thread, or of this one where it is for a thread, for good. `false`: this kernel has no
/// filters.
pub(super) fn restrict(whose: FilteredProcess) -> Result<bool> {
    let unusable = |error: &dyn std::fmt::Display| {
        Error::io("cannot be confined by seccomp", std::io::Error::other(error.to_string()))
    };
    let programs = [
        program(allowed(whose), SeccompAction::Errno(libc::ENOSYS.cast_unsigned()), SeccompAction::Allow),
        program(refused(whose), SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.cast_unsigned())),
    ];
    for program in programs {
        let program = program.map_err(|error| unusable(&error))?;
        let applied = match whose {
            FilteredProcess::Thread => apply_filter(&program),
            FilteredProcess::Server | FilteredProcess::Verb { .. } => apply_filter_all_threads(&program),
        };
        match applied {
            Ok(()) => {}
            Err(seccompiler::Error::Seccomp(error))
                if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(unusable(&error)),
        }
    }
    Ok(true)
}

fn program(
    calls: seccompiler::Result<Calls>,
    others: SeccompAction,
    these: SeccompAction,
) -> seccompiler::Result<BpfProgram> {
    Ok(SeccompFilter::new(calls?, others, these, ARCH)?.try_into()?)
}

fn allowed(whose: FilteredProcess) -> seccompiler::Result<Calls> {
    let mut calls: Calls = [ALLOWED, ALLOWED_OLD].concat().into_iter().map(|call| (call, Vec::new())).collect();
    let this = std::process::id().cast_signed();

    // Open files: duplicates and flags, but none that has a signal sent.
    let commands = [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];
    let set_flags = all_of([Argument::is(1, libc::F_SETFL), Argument::masked(2, libc::O_ASYNC, 0)])?;
    calls.insert(libc::SYS_fcntl, [one_of(1, commands)?, set_flags].concat());
    let ioctls = [libc::FIONBIO, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ].map(|request| request as libc::c_int);
    // The last: what a file under fs-verity is measured by.
    let [a, b, c, d] = ioctls;
    calls.insert(libc::SYS_ioctl, one_of(1, [a, b, c, d, verity::MEASURE as libc::c_int])?);

    // Sockets: streams, to whom they are connected already.
    let flags_of_type = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let streams = [Argument::is(0, libc::AF_UNIX), Argument::masked(1, !flags_of_type, libc::SOCK_STREAM)];
    calls.insert(libc::SYS_socketpair, all_of(streams.clone())?);
    calls.insert(libc::SYS_sendto, all_of([Argument::masked(3, libc::MSG_FASTOPEN, 0), Argument::null(4)])?);
    let options = SOCKET_OPTIONS.iter().map(|&(level, name)| all_of([Argument::is(1, level), Argument::is(2, name)]));
    calls.insert(libc::SYS_setsockopt, options.collect::<seccompiler::Result<Vec<_>>>()?.concat());
    if whose != FilteredProcess::Server {
        // Open files travel to a server beside a message; an unnamed file gets its name.
        calls.insert(libc::SYS_sendmsg, all_of([Argument::masked(2, libc::MSG_FASTOPEN, 0)])?);
        calls.insert(libc::SYS_linkat, Vec::new());
    }
    match whose.network() {
        Network::Nothing => {}
        Network::Unix => {
            calls.insert(libc::SYS_socket, all_of(streams)?);
            calls.insert(libc::SYS_connect, Vec::new());
        }
        Network::Any => {
            let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
            calls.insert(libc::SYS_socket, one_of(0, families)?);
            for call in [libc::SYS_connect, libc::SYS_bind, libc::SYS_sendto, libc::SYS_sendmmsg] {
                calls.insert(call, Vec::new());
            }
        }
    }

    // Memory: none executable, no advice that takes physical pages away (root may: MADV_HWPOISON).
    calls.insert(libc::SYS_mmap, all_of([Argument::masked(2, libc::PROT_EXEC, 0)])?);
    calls.insert(libc::SYS_mprotect, all_of([Argument::masked(2, libc::PROT_EXEC, 0)])?);
    calls.insert(libc::SYS_madvise, all_of([Argument::below(2, libc::MADV_HWPOISON)])?);

    // Threads and their names; what the second filter takes; limits only to be read; signals only to this process.
    let thread = libc::CLONE_THREAD;
    calls.insert(libc::SYS_clone, all_of([Argument::masked(0, thread | NEVER_OF_A_THREAD, thread)])?);
    let of_a_thread = one_of(0, [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS])?;
    calls.insert(libc::SYS_prctl, of_a_thread.clone());
    if let FilteredProcess::Verb { .. } = whose {
        // Root's verb becomes the owner of the account for each access, and remains without core files. Nobody else
        // can become anybody by these.
        for call in [libc::SYS_setgroups, libc::SYS_setresgid, libc::SYS_setresuid] {
            calls.insert(call, Vec::new());
        }
        let undumpable = all_of([Argument::is(0, libc::PR_SET_DUMPABLE), Argument::is(1, 0)])?;
        calls.insert(libc::SYS_prctl, [of_a_thread, undumpable].concat());
    }
    let (filter, every_thread) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    let filter = [filter.cast_signed(), every_thread as libc::c_int];
    calls.insert(libc::SYS_seccomp, all_of([Argument::is(0, filter[0]), Argument::is(1, filter[1])])?);
    calls.insert(libc::SYS_prlimit64, all_of([Argument::is(0, 0), Argument::null(2)])?);
    calls.insert(libc::SYS_tgkill, all_of([Argument::is(0, this)])?);
    Ok(calls)
}

fn refused(whose: FilteredProcess) -> seccompiler::Result<Calls> {
    let mut calls: Calls = [REFUSED, REFUSED_OLD].concat().into_iter().map(|call| (call, Vec::new())).collect();
    calls.insert(libc::SYS_clone, all_of([Argument::masked(0, libc::CLONE_THREAD, 0)])?);
    let executable = all_of([Argument::masked(2, libc::PROT_EXEC, libc::PROT_EXEC)])?;
    calls.insert(libc::SYS_mmap, executable.clone());
    calls.insert(libc::SYS_mprotect, executable);
    if whose == FilteredProcess::Server {
        calls.insert(libc::SYS_sendmsg, Vec::new());
    }
    if whose.network() == Network::Any {
        for call in [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind] {
            calls.remove(&call);
        }
    } else {
        calls.insert(libc::SYS_sendmmsg, Vec::new());
    }
    if whose.network() == Network::Unix {
        calls.remove(&libc::SYS_connect);
        let others = [Argument::unlike(0, libc::AF_UNIX)];
        calls.insert(libc::SYS_socket, all_of(others)?);
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [FilteredProcess; 5] = [
        FilteredProcess::Server,
        FilteredProcess::Thread,
        FilteredProcess::Verb { network: Network::Nothing },
        FilteredProcess::Verb { network: Network::Unix },
        FilteredProcess::Verb { network: Network::Any },
    ];

    #[test]
    fn no_call_is_both_allowed_and_refused_whatever_its_arguments() {
        for whose in ALL {
            let (allowed, refused) = (allowed(whose).unwrap(), refused(whose).unwrap());
            for (call, rules) in &refused {
                let also = allowed.get(call);
                assert!(also.is_none_or(|also| !also.is_empty() && !rules.is_empty()), "{whose:?}: system call {call}");
            }
        }
    }

    /// Of calls that reach other processes, or make the kernel do things later, none is allowed to anybody.
    #[test]
    fn nothing_is_allowed_whose_effect_no_filter_sees() {
        #[rustfmt::skip]
        let never = [
            libc::SYS_add_key, libc::SYS_bpf, libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_keyctl,
            libc::SYS_kill, libc::SYS_memfd_create, libc::SYS_mq_notify, libc::SYS_perf_event_open,
            libc::SYS_personality, libc::SYS_pidfd_getfd, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal,
            libc::SYS_pkey_mprotect, libc::SYS_process_vm_writev, libc::SYS_ptrace, libc::SYS_rt_sigqueueinfo,
            libc::SYS_rt_tgsigqueueinfo, libc::SYS_splice, libc::SYS_timer_create, libc::SYS_tkill,
            libc::SYS_userfaultfd, libc::SYS_vmsplice,
        ];
        for whose in ALL {
            let allowed = allowed(whose).unwrap();
            assert!(never.iter().all(|call| !allowed.contains_key(call)), "{whose:?}");
        }
        let server = allowed(FilteredProcess::Server).unwrap();
        assert!([libc::SYS_sendmsg, libc::SYS_sendmmsg].iter().all(|call| !server.contains_key(call)));
    }

    #[test]
    fn both_filters_fit_into_the_kernel() {
        for calls in ALL.into_iter().flat_map(|whose| [allowed(whose), refused(whose)]) {
            let program = program(calls, SeccompAction::Allow, SeccompAction::Errno(1)).unwrap();
            assert!(program.len() <= 4096, "{} instructions", program.len());
        }
    }
}
