# Sourced by gdb in a confined server: makes system calls from inside it, as code of an attacker would.
# ATTACK (environment) is JSON: the numbers of the system calls, the process to leave alone, and paths.
# One line for each call that did what it was asked to, or failed for a reason of its own: "POSSIBLE what: errno".
import errno, json, os, struct

import gdb

attack = json.loads(os.environ["ATTACK"])
numbers, victim, place = attack["calls"], attack["victim"], attack["place"]
inferior = gdb.selected_inferior()
for setting in ("scheduler-locking on", "language c"):
    gdb.execute("set " + setting)
REFUSALS = (errno.EPERM, errno.ENOSYS, errno.EACCES)
tried = 0


def run(number, words):
    words = [number, *words, *[0] * (6 - len(words))]
    call = "((long(*)(long,long,long,long,long,long,long))syscall)(%s)" % ",".join("%dL" % word for word in words)
    result = int(gdb.parse_and_eval(call))
    return -struct.unpack("i", inferior.read_memory(errno_at, 4))[0] if result == -1 else result


# Where the thread that is selected has its errno.
def errno_here():
    return int(gdb.parse_and_eval("((long(*)())__errno_location)()"))


errno_at = errno_here()


def must(name, *words):
    result = run(numbers[name], words)
    assert result >= 0, (name, errno.errorcode[-result])
    return result


page = must("mmap", 0, 65536, 3, 0x22, -1, 0)
free = page


# Its place in the server.
def put(data):
    global free
    inferior.write_memory(free, data)
    at, free = free, free + (len(data) + 63 & ~63)
    assert free <= page + 65536
    return at


def text(string):
    return put(string.encode() + b"\0")


# Whether a call is refused. `also`: errors that mean the same here, such as that of a descriptor of another kind.
def attempt(what, name, *words, also=()):
    global tried
    number = name if isinstance(name, int) else numbers.get(name)
    if number is None:
        return
    tried += 1
    result = run(number, words)
    if -result not in REFUSALS + also:
        print("POSSIBLE %s: %s" % (what, errno.errorcode.get(-result, result) if result < 0 else result), flush=True)


assert must("getpid") == inferior.pid
AT_FDCWD = -100
RDWR, CREATE = 0o2, 0o101
here = text(place)
paths = {name: text(place + "/" + name) for name in ("secret", "new", "sockets/plain", "image")}
in_account = text(attack["account"] + "/moved")

# Files.
for name, flags in [("secret", 0), ("secret", RDWR), ("image", RDWR), ("image", 0o1000), ("new", CREATE)]:
    attempt("open of %s, %o" % (name, flags), "openat", AT_FDCWD, paths[name], flags, 0o600)
for path in ("/etc/passwd", "/proc/self/mem", "/proc/self/environ", "/proc/%d/mem" % victim, "/dev/null"):
    attempt("open of " + path, "openat", AT_FDCWD, text(path), 0)
attempt("openat2", "openat2", AT_FDCWD, paths["secret"], put(struct.pack("QQQ", 0, 0, 0)), 24)
for name in ("secret", "sockets/plain"):
    attempt("removing " + name, "unlinkat", AT_FDCWD, paths[name], 0)
    attempt("moving %s away" % name, "renameat2", AT_FDCWD, paths[name], AT_FDCWD, paths["new"], 0)
    attempt("moving %s into the account" % name, "renameat2", AT_FDCWD, paths[name], AT_FDCWD, in_account, 0, also=(errno.EXDEV,))
attempt("a symbolic link", "symlinkat", paths["secret"], AT_FDCWD, in_account)
attempt("a hard link", "linkat", AT_FDCWD, paths["secret"], AT_FDCWD, in_account, 0)
attempt("a device", "mknodat", AT_FDCWD, in_account, 0o20600, 0x103)
attempt("a folder", "mkdirat", AT_FDCWD, paths["new"], 0o700)
attempt("permissions", "fchmodat", AT_FDCWD, paths["secret"], 0o666)
attempt("an owner", "fchownat", AT_FDCWD, paths["secret"], 65534, 65534, 0)
attempt("times", "utimensat", AT_FDCWD, paths["secret"], 0, 0)
attempt("attributes", "setxattr", paths["secret"], text("user.x"), here, 1, 0)
for name, *words in [("truncate", paths["image"], 0), ("chroot", here), ("chdir", here), ("mount", here, here, 0, 4096, 0),
                     ("open_tree", AT_FDCWD, here, 1), ("pivot_root", here, here), ("name_to_handle_at", AT_FDCWD, here, page, page, 0),
                     ("fanotify_init", 0, 0), ("inotify_init1", 0), ("quotactl", 0, 0, 0, 0), ("swapon", here, 0)]:
    attempt(name, name, *words)

# Sockets of others, through every socket there is, by every way of sending to an address; the one to the service manager
# is a datagram socket.
unix = put(struct.pack("H", 1) + (place + "/datagram").encode() + b"\0")
unix_len = 2 + len(place) + len("/datagram") + 1
inet = put(struct.pack("=H", 2) + struct.pack("!H4s8x", attack["port"], bytes([127, 0, 0, 1])))
data = text("key material")
vector = put(struct.pack("QQ", data, 12))
FASTOPEN = 0x20000000
for family in (1, 2, 10, 16, 17, 38, 40):
    for kind in (1, 2, 3):
        attempt("a socket of family %d, type %d" % (family, kind), "socket", family, kind, 0)
pair = put(bytes(8))
for kind in (2, 5):
    attempt("a pair of type %d" % kind, "socketpair", 1, kind, 0, pair)
attempt("a pair of another family", "socketpair", 2, 1, 0, pair)
must("socketpair", 1, 1, 0, pair)
stream, peer = struct.unpack("ii", bytes(inferior.read_memory(pair, 8)))
folder = "/proc/%d/fd/" % inferior.pid
sockets = sorted(int(fd) for fd in os.listdir(folder) if os.readlink(folder + fd).startswith("socket:"))
assert len(sockets) >= 5, sockets
for fd in sockets:
    for address, length in ((unix, unix_len), (inet, 16)):
        header = put(struct.pack("QIxxxxQQQQi4x", address, length, vector, 1, 0, 0, 0))
        for flags in (0, FASTOPEN):
            attempt("sendto, descriptor %d" % fd, "sendto", fd, data, 12, flags, address, length)
            attempt("sendmsg, descriptor %d" % fd, "sendmsg", fd, header, flags)
            attempt("sendmmsg, descriptor %d" % fd, "sendmmsg", fd, header, 1, flags)
        attempt("connect, descriptor %d" % fd, "connect", fd, address, length)
        attempt("bind, descriptor %d" % fd, "bind", fd, address, length)
        free = page + 32768
    attempt("fast open, descriptor %d" % fd, "sendto", fd, data, 12, FASTOPEN, 0, 0)
    attempt("listen, descriptor %d" % fd, "listen", fd, 1)
    # Attaching a filter, joining a group (which tells the network), connecting with the next send, source routes.
    for level, option in ((1, 26), (1, 50), (0, 35), (6, 30), (6, 23), (0, 4), (6, 31), (1, 25), (41, 20)):
        attempt("option %d of level %d, descriptor %d" % (option, level, fd), "setsockopt", fd, level, option, inet, 4)

# Signals.
info = put(bytes(128))
for name, *words in [("kill", victim, 9), ("kill", -1, 0), ("tkill", victim, 9), ("tgkill", victim, victim, 9),
                     ("tgkill", inferior.pid, victim, 9), ("rt_sigqueueinfo", victim, 10, info),
                     ("rt_tgsigqueueinfo", victim, victim, 10, info), ("pidfd_open", victim, 0), ("pidfd_getfd", 3, 0, 0),
                     ("pidfd_send_signal", 3, 9, 0, 0), ("timer_create", 0, 0, info), ("mq_notify", 3, info),
                     ("mq_open", here, RDWR | CREATE, 0o600, 0), ("setpgid", 0, victim), ("setsid",)]:
    attempt(name, name, *words, also=(errno.ESRCH,) if name == "tgkill" and words[0] == inferior.pid else ())
owner = put(struct.pack("ii", 1, victim))
for fd in (stream, 0, 1, 2):
    for what, command, argument in (("F_SETOWN", 8, victim), ("F_SETSIG", 10, 9), ("F_SETOWN_EX", 15, owner), ("F_SETFL", 4, 0o20000),
                                    ("F_SETFL", 4, 0o24000), ("F_SETLEASE", 1024, 1), ("F_NOTIFY", 1026, 0x8000000f)):
        attempt("fcntl %s, descriptor %d" % (what, fd), "fcntl", fd, command, argument)
    for what, request in (("FIOSETOWN", 0x8901), ("SIOCSPGRP", 0x8902), ("FIOASYNC", 0x5452), ("TIOCSPGRP", 0x5410), ("TIOCSTI", 0x5412),
                          ("TIOCSCTTY", 0x540e), ("SIOCGIFCONF", 0x8912), ("FICLONE", 0x40049409)):
        attempt("ioctl %s, descriptor %d" % (what, fd), "ioctl", fd, request, owner)
for option, argument in ((1, 9), (4, 1), (8, 1), (15 + 0x59616d61, victim), (0x59616d61, victim), (22, 2), (38 + 1, 0), (53, 1)):
    attempt("prctl %d" % option, "prctl", option, argument, 0, 0, 0)

# Other processes, programs and the kernel.
argv = put(struct.pack("QQ", text("/bin/true"), 0))
THREAD = 0x10900
for name, *words in [("ptrace", 16, victim), ("process_vm_readv", victim, vector, 1, vector, 1, 0),
                     ("process_vm_writev", victim, vector, 1, vector, 1, 0), ("process_madvise", 3, vector, 1, 4, 0), ("kcmp", victim, victim, 0, 0, 0),
                     ("execve", text("/bin/true"), argv, 0), ("execveat", AT_FDCWD, text("/bin/true"), argv, 0, 0), ("fork",), ("vfork",),
                     ("clone", 17, 0), ("clone", THREAD | 0x10000000, 0), ("clone", THREAD | 0x20000, 0), ("clone", THREAD | 0x2000, 0),
                     ("clone3", info, 64), ("memfd_create", here, 0), ("memfd_secret", 0), ("mmap", 0, 4096, 7, 0x22, -1, 0),
                     ("mprotect", page, 4096, 7), ("pkey_mprotect", page, 4096, 7, -1), ("remap_file_pages", page, 4096, 0, 0, 0),
                     ("shmget", 1, 4096, 0o1600), ("shmat", 0, 0, 0), ("personality", 0x400000), ("userfaultfd", 0), ("io_uring_setup", 1, info),
                     ("bpf", 0, info, 32), ("perf_event_open", info, 0, -1, -1, 0), ("keyctl", 0, -3), ("add_key", here, here, 0, 0, -3),
                     ("request_key", here, here, 0, -3), ("unshare", 0x10000000), ("setns", 3, 0), ("landlock_create_ruleset", 0, 0, 1),
                     ("seccomp", 1, 8, info), ("seccomp", 2, 0, info), ("prlimit64", victim, 7, 0, info), ("prlimit64", 0, 7, info, 0), ("setrlimit", 7, info),
                     ("setuid", 0), ("setresuid", 0, 0, 0), ("capset", info, info), ("setpriority", 0, victim, 19), ("sched_setaffinity", victim, 8, info),
                     ("migrate_pages", victim, 1, info, info), ("kexec_load", 0, 0, 0, 0), ("init_module", 0, 0, here), ("reboot", 0, 0, 0, 0),
                     ("syslog", 3, info, 64), ("acct", 0), ("sethostname", here, 1), ("settimeofday", 0, 0), ("splice", 0, 0, 1, 0, 1, 0),
                     ("vmsplice", 1, vector, 1, 0), ("tee", 0, 1, 1, 0), ("sendfile", 1, 0, 0, 1), ("copy_file_range", 0, 0, 1, 0, 1, 0),
                     ("madvise", page, 4096, 100), ("madvise", page, 4096, 101), ("lookup_dcookie", 0, info, 64), ("vhangup",), ("iopl", 3),
                     ("ioperm", 0, 1, 1), ("modify_ldt", 0, info, 16)]:
    attempt(name, name, *words)
if os.uname().machine == "x86_64":
    # The x32 ABI: getpid, execve.
    attempt("getpid of x32", 0x40000000 + 39)
    attempt("execve of x32", 0x40000000 + 520, text("/bin/true"), argv, 0)

# A file is out of reach from every thread.
for thread in inferior.threads():
    thread.switch()
    errno_at = errno_here()
    attempt("a file, thread %s" % thread.name, "openat", AT_FDCWD, paths["secret"], 0)
print("TRIED %d" % tried, flush=True)

if os.uname().machine == "x86_64":
    # A system call of 32 bits (int 0x80, getpid) ends the process.
    at = int(gdb.parse_and_eval("$pc"))
    inferior.write_memory(at, b"\xcd\x80")
    gdb.execute("set var $rax = 20")
    gdb.execute("set var $orig_rax = -1")
    gdb.execute("set scheduler-locking off")
    gdb.execute("continue")
    print("ENDED BY", gdb.convenience_variable("_exitsignal"), flush=True)
