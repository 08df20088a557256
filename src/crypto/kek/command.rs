//! `--key-command`: a command that prints the key: the client of any key-management service.
//!
//! It is run without a shell, with no standard input, and with the user's rights; what it says on standard error is
//! the user's to read. It leads a process group of its own, so that at the time-out everything it started ends too.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::{Kek, KekSource, SourceRecord, decode, pipe};
use crate::crypto::secret::SecretBytes;
use crate::{Error, ErrorKind, Result};

/// The longest time-out that may be asked for.
const LONGEST: Duration = Duration::from_secs(3600);

/// See the module documentation.
#[derive(Debug)]
pub struct KeyCommand {
    /// The program and its arguments; never empty.
    argv: Vec<String>,
    timeout: Duration,
}

impl KeyCommand {
    /// Runs `argv` itself. [`ErrorKind::InvalidInput`] when it is empty.
    pub fn new(argv: Vec<String>, timeout: Duration) -> Result<Self> {
        if argv.first().is_none_or(String::is_empty) {
            return Err(
                Error::new(ErrorKind::InvalidInput, "the key command is empty").hint("give a program and its words")
            );
        }
        Ok(Self { argv, timeout })
    }

    /// Splits `line` into words as a shell does (quotes, backslashes), but expands nothing and runs no shell.
    pub fn split(line: &str, timeout: Duration) -> Result<Self> {
        let argv = shlex::split(line).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "the key command has an open quote")
                .hint("quotes and backslashes are those of a shell")
        })?;
        Self::new(argv, timeout)
    }

    /// Has `/bin/sh` run `line`.
    pub fn shell(line: &str, timeout: Duration) -> Result<Self> {
        Self::new(vec!["/bin/sh".into(), "-c".into(), line.into()], timeout)
    }

    fn run(&self) -> Result<SecretBytes> {
        // What account.toml says of it is not authenticated yet.
        let deadline = Instant::now() + self.timeout.min(LONGEST);
        let mut child = Command::new(&self.argv[0])
            .args(&self.argv[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| {
                Error::io("cannot be started", error).hint("the program is looked for in PATH, and run without a shell")
            })?;
        let output = match child.stdout.take() {
            Some(stdout) => pipe::read_to_end(stdout, decode::LIMIT, deadline),
            None => Err(Error::new(ErrorKind::Io, "has no standard output")),
        };
        let status = output.is_ok().then(|| wait(&mut child, deadline)).transpose();
        if !matches!(status, Ok(Some(_))) {
            end(&mut child);
        }
        match status? {
            Some(status) if !status.success() => {
                Err(Error::new(ErrorKind::WrongKey, format!("gave no key and failed ({status})"))
                    .hint("what it says itself stands above; run it by hand"))
            }
            _ => output,
        }
    }
}

impl KekSource for KeyCommand {
    fn obtain(&self) -> Result<Kek> {
        self.run().and_then(decode::decode).map_err(|error| {
            let what = format!("the key command `{}`: {error}", self.argv[0]);
            let default = || match error.is_timed_out() {
                true => format!("it had {} s: --key-command-timeout gives it more", self.timeout.as_secs()),
                false => "it is to print 32 bytes, raw or in hex or base64, and end with status 0".to_owned(),
            };
            Error::new(error.kind(), what).hint(error.hint_text().map_or_else(default, str::to_owned))
        })
    }

    fn record(&self) -> SourceRecord {
        SourceRecord::Command { argv: self.argv.clone(), timeout_seconds: self.timeout.as_secs() }
    }
}

/// Waits for the end of a child that has closed its output, and so is about to end.
fn wait(child: &mut Child, deadline: Instant) -> Result<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().map_err(|error| Error::io("cannot be waited for", error))? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(pipe::timed_out());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Kills the child and what it started, and reaps it.
fn end(child: &mut Child) {
    if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
        // Fails only when all of the group are gone.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn obtain(line: &str) -> Result<Kek> {
        KeyCommand::shell(line, LONG).unwrap().obtain()
    }

    #[test]
    fn prints_a_key() {
        let hex = hex::encode([7; 32]);
        assert_eq!(obtain(&format!("echo {hex}")).unwrap().expose(), &[7; 32]);
        let direct = KeyCommand::split(&format!("printf '%s\\n' \"{hex}\""), LONG).unwrap();
        assert_eq!(direct.obtain().unwrap().expose(), &[7; 32]);
    }

    #[test]
    fn is_split_without_a_shell() {
        let command = KeyCommand::split(r#"kms get 'a b' "$HOME;" c\ d"#, LONG).unwrap();
        assert_eq!(command.argv, ["kms", "get", "a b", "$HOME;", "c d"]);
        for line in ["", "   ", "kms 'open"] {
            assert_eq!(KeyCommand::split(line, LONG).unwrap_err().kind(), ErrorKind::InvalidInput, "{line:?}");
        }
    }

    #[test]
    fn failures_are_told_without_what_was_printed() {
        let hex = hex::encode([7; 32]);
        for line in ["echo secret", &format!("echo {hex}; exit 3"), "yes", "true", &format!("echo {hex}; kill -9 $$")] {
            let error = obtain(line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WrongKey, "{line}");
            let shown = format!("{error:?}");
            assert!(!shown.contains("secret") && !shown.contains(&hex), "{shown}");
        }
        let forever = KeyCommand::shell(&format!("echo {hex}"), Duration::MAX).unwrap();
        assert_eq!(forever.obtain().unwrap().expose(), &[7; 32], "whatever a damaged account.toml says");
        let missing = KeyCommand::new(vec!["/no/such/program".into()], LONG).unwrap();
        assert_eq!(missing.obtain().unwrap_err().kind(), ErrorKind::NotFound);
    }

    /// With its output open, and with it closed; a grandchild that holds the pipe does not keep us waiting either.
    #[test]
    fn is_ended_at_the_time_out_with_all_it_started() {
        for line in ["sleep 1000", "exec >&-; sleep 1000", "sleep 1000 & exit 0"] {
            let error = KeyCommand::shell(line, Duration::from_millis(50)).unwrap().obtain().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{line}");
            assert!(error.to_string().contains("timed out"), "{error}");
        }
    }
}
