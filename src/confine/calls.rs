//! Seccomp: which system calls a running server may make.
//!
//! Two filters lie on one another. The first lets pass what a server calls; everything else is answered as by a kernel
//! that does not have it (ENOSYS), for which every library has another way: so an update of the C library breaks
//! nothing. The second answers EPERM to what is refused on purpose, so that an error says so; of two refusals the filter
//! that was added last decides.
//!
//! `clone3` passes its flags in memory, where no filter sees them: it is left out, and threads are made by `clone`.

use std::collections::BTreeMap;

#[cfg(target_arch = "aarch64")]
use seccompiler::TargetArch::aarch64 as ARCH;
#[cfg(target_arch = "x86_64")]
use seccompiler::TargetArch::x86_64 as ARCH;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

use crate::{Error, Result};

/// System calls by number; of one with rules, the calls that fit any of them.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// Allowed whatever their arguments.
#[rustfmt::skip]
const ALLOWED: &[i64] = &[
    // Files: open ones, and what landlock lets be opened.
    libc::SYS_close, libc::SYS_close_range, libc::SYS_dup, libc::SYS_dup3, libc::SYS_faccessat, libc::SYS_faccessat2,
    libc::SYS_fadvise64, libc::SYS_fallocate, libc::SYS_fcntl, libc::SYS_fdatasync, libc::SYS_flock, libc::SYS_fstat,
    libc::SYS_fstatfs, libc::SYS_fsync, libc::SYS_ftruncate, libc::SYS_getcwd, libc::SYS_getdents64, libc::SYS_lseek,
    libc::SYS_mkdirat, libc::SYS_newfstatat, libc::SYS_openat, libc::SYS_openat2, libc::SYS_pread64, libc::SYS_preadv,
    libc::SYS_preadv2, libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2, libc::SYS_read, libc::SYS_readahead,
    libc::SYS_readlinkat, libc::SYS_readv, libc::SYS_renameat2, libc::SYS_statx,
    libc::SYS_unlinkat, libc::SYS_write, libc::SYS_writev,
    // Sockets that are there.
    libc::SYS_accept4, libc::SYS_getpeername, libc::SYS_getsockname, libc::SYS_getsockopt,
    libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Waiting.
    libc::SYS_clock_nanosleep, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_futex, libc::SYS_nanosleep, libc::SYS_pipe2, libc::SYS_ppoll,
    libc::SYS_pselect6, libc::SYS_timerfd_create, libc::SYS_timerfd_gettime, libc::SYS_timerfd_settime,
    // Memory, but none that is executable: see `rules`.
    libc::SYS_brk, libc::SYS_madvise, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_mremap, libc::SYS_munlock,
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

/// Filters the calls of every thread, for good. `false`: this kernel has no filters.
pub(super) fn restrict() -> Result<bool> {
    let unusable = |error: &dyn std::fmt::Display| {
        Error::io("cannot be confined by seccomp", std::io::Error::other(error.to_string()))
    };
    let programs = [
        program(allowed(), SeccompAction::Errno(libc::ENOSYS.cast_unsigned()), SeccompAction::Allow),
        program(refused(), SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.cast_unsigned())),
    ];
    for program in programs {
        let program = program.map_err(|error| unusable(&error))?;
        match apply_filter_all_threads(&program) {
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

fn allowed() -> seccompiler::Result<Calls> {
    let mut calls: Calls = [ALLOWED, ALLOWED_OLD].concat().into_iter().map(|call| (call, Vec::new())).collect();
    let (thread, executable) = (flag(libc::CLONE_THREAD), flag(libc::PROT_EXEC));
    let this = u64::from(std::process::id());
    calls.insert(libc::SYS_clone, vec![rule(&[(0, thread.clone(), flag_value(libc::CLONE_THREAD))])?]);
    calls.insert(libc::SYS_mmap, vec![rule(&[(2, executable.clone(), 0)])?]);
    calls.insert(libc::SYS_mprotect, vec![rule(&[(2, executable, 0)])?]);
    calls.insert(libc::SYS_socketpair, vec![rule(&[(0, Is::Eq, flag_value(libc::AF_UNIX))])?]);
    // A thread's own name, and what the second filter takes; limits only to be read; signals only to this process (abort).
    let prctls = [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS].map(|option| rule(&[(0, Is::Eq, flag_value(option))]));
    calls.insert(libc::SYS_prctl, prctls.into_iter().collect::<seccompiler::Result<_>>()?);
    calls.insert(libc::SYS_seccomp, vec![rule(&[(0, Is::Eq, u64::from(libc::SECCOMP_SET_MODE_FILTER))])?]);
    calls.insert(libc::SYS_prlimit64, vec![rule(&[(0, Is::Eq, 0), (2, Is::Eq, 0)])?]);
    calls.insert(libc::SYS_tgkill, vec![rule(&[(0, Is::Eq, this)])?]);
    let ioctls = [libc::FIONBIO, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ];
    let ioctls = ioctls.into_iter().map(|request| rule(&[(1, Is::Eq, request)]));
    calls.insert(libc::SYS_ioctl, ioctls.collect::<seccompiler::Result<_>>()?);
    Ok(calls)
}

fn refused() -> seccompiler::Result<Calls> {
    let mut calls: Calls = [REFUSED, REFUSED_OLD].concat().into_iter().map(|call| (call, Vec::new())).collect();
    calls.insert(libc::SYS_clone, vec![rule(&[(0, flag(libc::CLONE_THREAD), 0)])?]);
    let executable = rule(&[(2, flag(libc::PROT_EXEC), flag_value(libc::PROT_EXEC))])?;
    calls.insert(libc::SYS_mmap, vec![executable.clone()]);
    calls.insert(libc::SYS_mprotect, vec![executable]);
    Ok(calls)
}

/// Looks at one bit of an argument.
fn flag(bit: libc::c_int) -> Is {
    Is::MaskedEq(flag_value(bit))
}

fn flag_value(value: libc::c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

/// Calls whose arguments (by index) all fit. The kernel reads `int` arguments as 32 bits.
fn rule(arguments: &[(u8, Is, u64)]) -> seccompiler::Result<SeccompRule> {
    let conditions = arguments.iter().map(|(index, is, value)| {
        // A pointer is null only as a whole.
        let width = if *index == 2 && *is == Is::Eq { Width::Qword } else { Width::Dword };
        SeccompCondition::new(*index, width, is.clone(), *value)
    });
    let conditions = conditions.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(SeccompRule::new(conditions)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_refused_whatever_its_arguments() {
        let (allowed, refused) = (allowed().unwrap(), refused().unwrap());
        for (call, rules) in &refused {
            let also = allowed.get(call);
            assert!(also.is_none_or(|also| !also.is_empty() && !rules.is_empty()), "system call {call}");
        }
        assert!(!allowed.contains_key(&libc::SYS_clone3) && !allowed.contains_key(&libc::SYS_io_uring_setup));
    }

    #[test]
    fn both_filters_fit_into_the_kernel() {
        for calls in [allowed(), refused()] {
            let program = program(calls, SeccompAction::Allow, SeccompAction::Errno(1)).unwrap();
            assert!(program.len() <= 4096, "{} instructions", program.len());
        }
    }
}
