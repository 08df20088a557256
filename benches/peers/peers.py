"""The servers of the comparison: how each is made ready, started, filled and stopped."""

import dataclasses
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable

PASSPHRASE = "a passphrase of the benchmark"


@dataclasses.dataclass(frozen=True)
class Peer:
    """A server under measurement. `prepare` makes its files, `command` is its command line."""

    name: str
    label: str
    programs: tuple[str, ...]
    command: Callable
    prepare: Callable = lambda bench, folder: None
    filled: bool = True
    export: str = ""
    #: Makes a new, empty disk and serves it: for the job that writes each page for the first time.
    fresh: bool = False
    #: Goes into the background and leaves its process id in the file `pid`.
    daemon: bool = False


class Server:
    """A running peer."""

    def __init__(self, bench, peer, folder):
        self.bench, self.peer, self.folder = bench, peer, folder
        self.socket = folder / "nbd.sock"
        self.uri = f"nbd+unix:///{peer.export}?socket={self.socket}"
        peer.prepare(bench, folder)
        command = [str(word) for word in peer.command(bench, folder, self.socket)]
        self.log = open(folder / "log", "w")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=bench.environment
        )
        self.pid = self.process.pid
        deadline = time.monotonic() + 30
        if peer.daemon:
            self.pid = self._pid_of_daemon(deadline)
        while not self._listens():
            if not pathlib.Path(f"/proc/{self.pid}").exists() or time.monotonic() > deadline:
                self.stop()
                raise SystemExit(f"{peer.label} does not start: {(folder / 'log').read_text()}")
            time.sleep(0.01)

    def _pid_of_daemon(self, deadline):
        file = self.folder / "pid"
        while not file.exists() or not file.read_text().endswith("\n"):
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.peer.label} does not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.01)
        return int(file.read_text())

    def _listens(self):
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def fill(self):
        subprocess.run(["nbdcopy", "--flush", self.bench.data, self.uri], check=True)
        subprocess.run(["nbdcopy", self.uri, "null:"], check=True)

    def cpu_seconds(self):
        """User and system time of the process and of the children it has waited for or still has."""
        total = 0.0
        for pid in [self.pid, *_children(self.pid)]:
            try:
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except FileNotFoundError:
                continue
            total += sum(int(field) for field in fields[11:15])
        return total / os.sysconf("SC_CLK_TCK")

    def stop(self):
        if self.peer.daemon:
            os.kill(self.pid, signal.SIGTERM)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def _children(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []


class Bench:
    """What the servers share: the data, the folder, the programs."""

    def __init__(self, root, folder, size):
        self.root, self.folder, self.size = root, folder, size
        self.environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")}
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text(PASSPHRASE)
        self.data = folder / "data.raw"
        with open("/dev/urandom", "rb") as random, open(self.data, "wb") as file:
            for _ in range(size >> 20):
                file.write(random.read(1 << 20))
        self.base = folder / "base.vhd"
        subprocess.run(
            ["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on", self.data, self.base],
            check=True,
        )
        self.count = 0

    def find(self, program):
        """The path of a program: of this project's release build, unpacked beside it, or installed. None: missing."""
        target = self.root / "target"
        for folder in (target / "release", target / "release/examples", target / "peers/bin"):
            if (folder / program).exists():
                return str(folder / program)
        found = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        if not found and program == "nbd-server" and self._unpack(program):
            return self.find(program)
        return found

    def _unpack(self, package):
        """Unpacks a Debian package below target/, for one that would start a service when it is installed."""
        folder = self.root / "target/peers"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package], cwd=folder, check=True)
            for deb in folder.glob(f"{package}_*.deb"):
                subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
        except (OSError, subprocess.CalledProcessError):
            return False
        return (folder / "bin" / package).exists()

    def start(self, peer, fill=True):
        self.count += 1
        folder = self.folder / f"{self.count}-{peer.name}"
        folder.mkdir()
        server = Server(self, peer, folder)
        try:
            if fill and peer.filled:
                server.fill()
        except BaseException:
            server.stop()
            raise
        return server

    def secret(self):
        return f"secret,id=key,file={self.passphrase}"

    def qemu_img_create(self, *arguments):
        """Makes an image with LUKS. Tried again, since QEMU gives up when its clock is too coarse to time the key slot."""
        command = ["qemu-img", "create", "--object", self.secret(), *map(str, arguments)]
        for _ in range(20):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return
        raise SystemExit(f"qemu-img: {done.stderr}")


def sealdisk(encryption):
    def prepare(bench, folder):
        for verb in (["init", "--encryption", encryption], ["create", "disk", "--base", bench.base]):
            words = [bench.find("sealdisk"), "--account", folder / "account", *verb]
            subprocess.run(list(map(str, words)), check=True, env=bench.environment, stdout=subprocess.DEVNULL)

    def command(bench, folder, path):
        return [bench.find("sealdisk"), "--account", folder / "account", "serve", "--socket", path]

    return {"prepare": prepare, "command": command, "programs": ("sealdisk",), "export": "vhds/disk", "fresh": True}


def qemu_nbd(bench, path, *image):
    return [bench.find("qemu-nbd"), "-t", "-e", "8", "-k", path, "--object", bench.secret(), *image]


def overlay_prepare(bench, folder):
    options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"
    bench.qemu_img_create("-f", "qcow2", "-o", options, "-b", bench.base, "-F", "vpc", folder / "overlay.qcow2")


def overlay_command(bench, folder, path):
    image = f"driver=qcow2,encrypt.key-secret=key,file.driver=file,file.filename={folder / 'overlay.qcow2'}"
    return qemu_nbd(bench, path, "--image-opts", image)


def luks_prepare(bench, folder):
    options = "key-secret=key,iter-time=10"
    bench.qemu_img_create("-f", "luks", "-o", options, folder / "disk.luks", bench.size)


def luks_command(bench, folder, path):
    image = f"driver=luks,key-secret=key,file.driver=file,file.filename={folder / 'disk.luks'}"
    return qemu_nbd(bench, path, "--image-opts", image)


def raw_prepare(bench, folder):
    with open(folder / "disk.raw", "wb") as file:
        file.truncate(bench.size)


def nbdkit(*words):
    return lambda bench, folder, path: [
        *(bench.find("nbdkit"), "--foreground", "--exit-with-parent", "--unix", path),
        *(str(word).format(folder=folder, data=bench.data, passphrase=bench.passphrase) for word in words),
    ]


def nbd_server_prepare(bench, folder):
    raw_prepare(bench, folder)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]  # it insists on one, beside the unix socket
    (folder / "config").write_text(
        f"[generic]\nunixsock = {folder / 'nbd.sock'}\nlistenaddr = 127.0.0.1\nport = {port}\n"
        f"[disk]\nexportname = {folder / 'disk.raw'}\nmulticonn = true\nflush = true\nfua = true\ntrim = true\n"
    )


ALL = [
    Peer("sealdisk", "sealdisk", **sealdisk("on")),
    Peer("sealdisk-off", "sealdisk, encryption off", **sealdisk("off")),
    Peer("qcow2", "qemu-nbd, qcow2 + LUKS over a VHD", ("qemu-nbd",), overlay_command, overlay_prepare, fresh=True),
    Peer("luks", "qemu-nbd, raw LUKS", ("qemu-nbd",), luks_command, luks_prepare),
    Peer(
        "nbdkit-luks",
        "nbdkit file + luks",
        ("nbdkit",),
        nbdkit("--filter=luks", "file", "{folder}/disk.luks", "passphrase=+{passphrase}"),
        luks_prepare,
    ),
    Peer("nbdkit", "nbdkit file, plaintext", ("nbdkit",), nbdkit("file", "{folder}/disk.raw"), raw_prepare),
    Peer("cow", "nbdkit cow, plaintext, temporary", ("nbdkit",), nbdkit("--filter=cow", "file", "{data}")),
    Peer(
        "nbd-server",
        "nbd-server, plaintext",
        ("nbd-server",),
        lambda bench, folder, path: [bench.find("nbd-server"), "-C", folder / "config", "-p", folder / "pid"],
        nbd_server_prepare,
        export="disk",
        daemon=True,
    ),
    Peer(
        "limit",
        "the limit: answers, stores nothing",
        ("limit",),
        lambda bench, folder, path: [bench.find("limit"), path, bench.size],
        filled=False,
    ),
    Peer(
        "floor",
        "the limit with a file: stores, in plaintext",
        ("limit",),
        lambda bench, folder, path: [bench.find("limit"), path, bench.size, folder / "disk.raw"],
        fresh=True,
    ),
]
