"""A person at a terminal, who is asked for a passphrase.

Usage: terminal.py SCENARIO PROGRAM ARGUMENT...  Fails with what was not as it should be.
"""

import os
import pty
import select
import signal
import sys
import termios
import time

RIGHT, WRONG = b"correct horse battery\n", b"correct horse buttery\n"


class Terminal:
    """A program on a terminal of its own, which outlives it."""

    def __init__(self, argv):
        self.said = b""
        self.master, self.slave = pty.openpty()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.close(self.master)
            os.close(os.open(os.ttyname(self.slave), os.O_RDWR))
            for fd in (0, 1, 2):
                os.dup2(self.slave, fd)
            os.execv(argv[0], argv)

    def echoes(self):
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def read_until(self, what, times=1):
        deadline = time.time() + 60
        while self.said.count(what) < times:
            assert time.time() < deadline, f"no {what!r} in {self.said!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.said += os.read(self.master, 4096)

    def asked(self, times=1):
        self.read_until(b"assphrase: ", times)
        assert not self.echoes(), "it would show what is typed"

    def type(self, text):
        os.write(self.master, text)

    def wait(self, options=0):
        deadline = time.time() + 60
        while True:
            pid, status = os.waitpid(self.pid, options | os.WNOHANG)
            if pid:
                break
            assert time.time() < deadline, f"it goes on: {self.said!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.said += os.read(self.master, 4096)
        while select.select([self.master], [], [], 0.05)[0]:
            self.said += os.read(self.master, 4096)
        for secret in (RIGHT, WRONG):
            assert secret.strip() not in self.said, f"shown: {self.said!r}"
        return status


def broken_off(argv):
    breaks = [
        ("^C", lambda t: t.type(b"\x03"), signal.SIGINT),
        ("^\\", lambda t: t.type(b"\x1c"), signal.SIGQUIT),
        ("SIGTERM", lambda t: os.kill(t.pid, signal.SIGTERM), signal.SIGTERM),
        ("SIGHUP", lambda t: os.kill(t.pid, signal.SIGHUP), signal.SIGHUP),
    ]
    for name, do, expected in breaks:
        terminal = Terminal(argv)
        assert terminal.echoes()
        terminal.asked()
        terminal.type(b"correct ho")
        do(terminal)
        status = terminal.wait()
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == expected, (name, status, terminal.said)
        assert terminal.echoes(), f"{name} leaves the terminal without echo"


def stopped(argv):
    terminal = Terminal(argv)
    terminal.asked()
    terminal.type(b"half of a wor")
    terminal.type(b"\x1a")
    status = terminal.wait(os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    assert terminal.echoes(), "^Z leaves the terminal without echo"
    os.kill(terminal.pid, signal.SIGCONT)
    terminal.asked(2)
    terminal.type(RIGHT)
    status = terminal.wait()
    assert status == 0, (status, terminal.said)
    assert terminal.echoes()


def tries(argv):
    terminal = Terminal(argv)
    for attempt in range(3):
        terminal.asked(attempt + 1)
        terminal.type(WRONG if attempt < 2 else RIGHT)
    status = terminal.wait()
    assert status == 0, (status, terminal.said)
    assert terminal.said.count(b"wrong passphrase, try again") == 2, terminal.said

    terminal = Terminal(argv)
    for attempt in range(3):
        terminal.asked(attempt + 1)
        terminal.type(WRONG)
    status = terminal.wait()
    assert os.WEXITSTATUS(status) == 1, (status, terminal.said)
    assert terminal.said.count(b"assphrase: ") == 3, terminal.said
    assert b"error: " in terminal.said and terminal.said.count(b"wrong passphrase") == 3, terminal.said


def ended_later(argv):
    """A verb that goes on after the passphrase is ended by a signal as any other."""
    terminal = Terminal(argv)
    terminal.asked()
    terminal.type(RIGHT)
    terminal.read_until(b"serving on")
    terminal.type(b"\x03")
    status = terminal.wait()
    assert status == 0, (status, terminal.said)


globals()[sys.argv[1]](sys.argv[2:])
