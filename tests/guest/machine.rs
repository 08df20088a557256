//! A virtual machine, and the shell on its serial line.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::support::{Server, program, stdout_of};

/// The longest that a guest may be silent.
const LIMIT: Duration = Duration::from_secs(90);

/// A file of the guest image: `disk.raw`, `fixed.vhd` or `dynamic.vhd`. Made by the first test that asks.
pub(crate) fn image(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("guest");
        stdout_of(Command::new("bash").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/image")).arg(&folder));
        folder
    });
    folder.join(name)
}

/// A running guest. Killed when it goes out of scope; its console is shown when the test fails.
pub(crate) struct Machine {
    qemu: Child,
    keyboard: ChildStdin,
    lines: Receiver<String>,
    console: String,
}

/// A machine to be started.
pub(crate) struct Setup {
    qemu: Command,
    drives: u32,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let mut qemu = program("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none"]);
        qemu.args(["-serial", "stdio", "-no-reboot"]);
        Self { qemu, drives: 0 }
    }

    /// An export as the next virtio disk: `/dev/vda`, `/dev/vdb`. The machine boots from the first. A lost connection
    /// is made again for a minute, while the requests wait.
    pub(crate) fn disk(mut self, server: &Server, export: &str) -> Self {
        let node = format!("nbd{}", self.drives);
        let blockdev = serde_json::json!({
            "driver": "nbd", "node-name": node, "export": export, "reconnect-delay": 60, "discard": "unmap",
            "server": { "type": "unix", "path": server.socket() },
        });
        self.qemu.args(["-blockdev", &blockdev.to_string()]);
        self.drive(&node)
    }

    /// The same with QEMU's LUKS on top; the passphrase lies in a file.
    pub(crate) fn luks_disk(mut self, server: &Server, export: &str, passphrase: &str) -> Self {
        let node = format!("luks{}", self.drives);
        let blockdev = serde_json::json!({
            "driver": "luks", "node-name": node, "key-secret": "passphrase", "discard": "unmap",
            "file": {
                "driver": "nbd", "export": export, "reconnect-delay": 60, "discard": "unmap",
                "server": { "type": "unix", "path": server.socket() },
            },
        });
        self.qemu.args(["-object", &format!("secret,id=passphrase,file={passphrase}")]);
        self.qemu.args(["-blockdev", &blockdev.to_string()]);
        self.drive(&node)
    }

    /// A network card on QEMU's user-mode network, on which this machine's loopback is 10.0.2.2.
    pub(crate) fn network(mut self) -> Self {
        self.qemu.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        self
    }

    fn drive(mut self, node: &str) -> Self {
        self.drives += 1;
        let device = format!("virtio-blk-pci,drive={node},bootindex={},discard=on,write-zeroes=on", self.drives);
        self.qemu.args(["-device", &device]);
        self
    }

    /// Starts the machine and waits for its shell.
    pub(crate) fn boot(mut self) -> Machine {
        let mut qemu = self
            .qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.qemu));
        let keyboard = qemu.stdin.take().expect("stdin is piped");
        let output = BufReader::new(qemu.stdout.take().expect("stdout is piped"));
        let (sender, lines) = channel();
        // Ends with QEMU, or when nobody listens any more.
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()).is_err() {
                    break;
                }
            }
        });
        let mut machine = Machine { qemu, keyboard, lines, console: String::new() };
        machine.answer("the boot");
        machine
    }
}

impl Machine {
    /// Runs a line of shell that has to succeed and gives its output.
    pub(crate) fn run(&mut self, line: &str) -> String {
        self.start(line);
        self.answer(line)
    }

    /// Types a line of shell; [`Machine::answer`] waits for its end.
    pub(crate) fn start(&mut self, line: &str) {
        assert!(!line.contains('\n'), "one line: {line}");
        self.console.push_str(&format!("# {line}\n"));
        writeln!(self.keyboard, "{line}").expect("the serial line takes input");
    }

    /// The output up to the line that ends a command.
    pub(crate) fn answer(&mut self, what: &str) -> String {
        let mut output = String::new();
        loop {
            let line = match self.lines.recv_timeout(LIMIT) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => panic!("{what}: the guest is silent for {LIMIT:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("{what}: QEMU has ended"),
            };
            self.console.push_str(&line);
            self.console.push('\n');
            if let Some(status) = line.strip_prefix("guest: status ") {
                assert_eq!(status, "0", "{what}:\n{output}");
                return output;
            }
            output.push_str(&line);
            output.push('\n');
        }
    }

    /// Puts what is cached on the disk and switches the machine off.
    pub(crate) fn power_off(mut self) {
        self.run("sync");
        self.start("mount -o remount,ro /; poweroff -f");
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.console.push_str(&line);
            self.console.push('\n');
        }
        assert!(self.qemu.wait().expect("QEMU can be waited for").success());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if thread::panicking() {
            eprintln!("console of the guest:\n{}", self.console);
        }
    }
}
