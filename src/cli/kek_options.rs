//! The key options that verbs share.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use super::prompt;
use crate::crypto::kek::{
    KekSource, KeyCommand, KeyCredential, KeyFd, KeyFile, Passphrase, Prompt, SourceRecord, Stretch,
};
use crate::{Error, ErrorKind, Result};

/// Where the key-encryption key comes from: one of them at most.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Key-encryption key")]
pub struct KekOptions {
    #[command(flatten)]
    source: Sources,
    /// Seconds that the key command may take
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = COMMAND_TIMEOUT,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    key_command_timeout: u64,
    /// How the verb calls these options
    #[arg(skip)]
    called: Called,
}

/// Seconds that a key command may take if nothing else is said.
const COMMAND_TIMEOUT: u64 = 30;

/// What the options of a key are called: a verb may take those of two keys.
#[derive(Debug, Clone, Copy, Default)]
enum Called {
    #[default]
    Key,
    OldKey,
    IntoKey,
}

impl Called {
    fn command(self) -> &'static str {
        match self {
            Self::Key => "--key-command",
            Self::OldKey => "--old-key-command",
            Self::IntoKey => "--into-key-command",
        }
    }
}

#[derive(Debug, Clone, Default, Args)]
#[group(multiple = false)]
struct Sources {
    /// A file that only you can read: 32 bytes, raw or in hex or base64
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
    /// An open descriptor that gives the key
    #[arg(long, value_name = "N")]
    key_fd: Option<u32>,
    /// A systemd credential of this service
    #[arg(long, value_name = "NAME")]
    key_credential: Option<String>,
    /// A command that prints the key, such as the client of a KMS; split into words, run without a shell
    #[arg(long, value_name = "COMMAND")]
    key_command: Option<String>,
    /// The same, run by /bin/sh
    #[arg(long, value_name = "COMMAND")]
    key_command_shell: Option<String>,
    /// Ask for a passphrase
    #[arg(long)]
    passphrase: bool,
    /// An open descriptor that gives a passphrase
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<u32>,
}

/// Where the key that an account has now comes from, for verbs whose [`KekOptions`] name a new one.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "The key that the account has now, if it is not where it was")]
#[group(multiple = false)]
pub struct OldKekOptions {
    /// A key file
    #[arg(long, value_name = "PATH")]
    old_key_file: Option<PathBuf>,
    /// An open descriptor that gives the key
    #[arg(long, value_name = "N")]
    old_key_fd: Option<u32>,
    /// A command that prints the key
    #[arg(long, value_name = "COMMAND")]
    old_key_command: Option<String>,
    /// An open descriptor that gives the passphrase
    #[arg(long, value_name = "N")]
    old_passphrase_fd: Option<u32>,
}

impl From<OldKekOptions> for KekOptions {
    fn from(old: OldKekOptions) -> Self {
        let source = Sources {
            key_file: old.old_key_file,
            key_fd: old.old_key_fd,
            key_command: old.old_key_command,
            passphrase_fd: old.old_passphrase_fd,
            ..Sources::default()
        };
        Self { source, key_command_timeout: COMMAND_TIMEOUT, called: Called::OldKey }
    }
}

/// Where the key of a second account comes from, for verbs that copy into one.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "The key of the account copied into, if it is not where that account says")]
#[group(multiple = false)]
pub struct IntoKekOptions {
    /// A key file
    #[arg(long, value_name = "PATH", requires = "into")]
    into_key_file: Option<PathBuf>,
    /// An open descriptor that gives the key
    #[arg(long, value_name = "N", requires = "into")]
    into_key_fd: Option<u32>,
    /// A command that prints the key
    #[arg(long, value_name = "COMMAND", requires = "into")]
    into_key_command: Option<String>,
    /// Ask for the passphrase
    #[arg(long, requires = "into")]
    into_passphrase: bool,
    /// An open descriptor that gives the passphrase
    #[arg(long, value_name = "N", requires = "into")]
    into_passphrase_fd: Option<u32>,
}

impl From<IntoKekOptions> for KekOptions {
    fn from(into: IntoKekOptions) -> Self {
        let source = Sources {
            key_file: into.into_key_file,
            key_fd: into.into_key_fd,
            key_command: into.into_key_command,
            passphrase: into.into_passphrase,
            passphrase_fd: into.into_passphrase_fd,
            ..Sources::default()
        };
        Self { source, key_command_timeout: COMMAND_TIMEOUT, called: Called::IntoKey }
    }
}

impl KekOptions {
    /// Whether one of the options names a source.
    #[must_use]
    pub fn is_given(&self) -> bool {
        let Sources { key_file, key_fd, key_credential, key_command, key_command_shell, passphrase, passphrase_fd } =
            &self.source;
        let named =
            key_file.is_some() || key_credential.is_some() || key_command.is_some() || key_command_shell.is_some();
        named || key_fd.is_some() || *passphrase || passphrase_fd.is_some()
    }

    /// The source of a new key; `None`: no option was given.
    pub fn new_source(&self) -> Result<Option<Box<dyn KekSource>>> {
        match self.prompt() {
            Some(prompt) => Ok(Some(Box::new(Passphrase::new(prompt, Stretch::recommended()?)))),
            None => self.unstretched(),
        }
    }

    /// The source that the options name for the key of an account that has recorded `recorded`; `None`: no option was
    /// given.
    pub fn given(&self, recorded: &SourceRecord) -> Result<Option<Box<dyn KekSource>>> {
        match (self.prompt(), recorded) {
            (Some(prompt), SourceRecord::Passphrase(stretch)) => {
                Ok(Some(Box::new(Passphrase::known(prompt, stretch.clone()))))
            }
            (Some(_), _) => {
                let what = format!("the key of this account is no passphrase but {recorded}");
                Err(Error::new(ErrorKind::WrongKey, what).hint("leave --passphrase away, or name where the key is now"))
            }
            (None, _) => self.unstretched(),
        }
    }

    /// The source that `account` recorded, as [`SourceRecord::approved_source`].
    pub fn recorded(&self, account: Uuid, recorded: &SourceRecord) -> Result<Box<dyn KekSource>> {
        recorded.approved_source(account, self.called.command(), prompt::ask)
    }

    fn prompt(&self) -> Option<Prompt> {
        let terminal = self.source.passphrase.then_some(Prompt::Terminal(prompt::ask));
        terminal.or(self.source.passphrase_fd.map(Prompt::Fd))
    }

    /// Every source but the passphrase.
    fn unstretched(&self) -> Result<Option<Box<dyn KekSource>>> {
        let timeout = Duration::from_secs(self.key_command_timeout);
        Ok(match &self.source {
            Sources { key_file: Some(path), .. } => Some(Box::new(KeyFile::new(path)?)),
            Sources { key_fd: Some(fd), .. } => Some(Box::new(KeyFd::new(*fd))),
            Sources { key_credential: Some(name), .. } => Some(Box::new(KeyCredential::new(name)?)),
            Sources { key_command: Some(line), .. } => Some(Box::new(KeyCommand::split(line, timeout)?)),
            Sources { key_command_shell: Some(line), .. } => Some(Box::new(KeyCommand::shell(line, timeout)?)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Verb {
        #[command(flatten)]
        kek: KekOptions,
    }

    fn options(line: &str) -> std::result::Result<KekOptions, clap::Error> {
        Verb::try_parse_from(shlex::split(&format!("verb {line}")).unwrap()).map(|verb| verb.kek)
    }

    #[test]
    fn every_option_names_its_source_and_what_is_recorded_names_it_again() {
        for (line, expected) in [
            ("--key-file /k/f", SourceRecord::File { path: "/k/f".into() }),
            ("--key-fd 3", SourceRecord::Fd),
            ("--key-credential kek", SourceRecord::Credential { name: "kek".into() }),
            (
                "--key-command 'kms get \"a b\"' --key-command-timeout 7",
                SourceRecord::Command { argv: vec!["kms".into(), "get".into(), "a b".into()], timeout_seconds: 7 },
            ),
            (
                "--key-command-shell 'kms | tr a b'",
                SourceRecord::Command {
                    argv: vec!["/bin/sh".into(), "-c".into(), "kms | tr a b".into()],
                    timeout_seconds: 30,
                },
            ),
        ] {
            let source = options(line).unwrap().new_source().unwrap().unwrap();
            assert_eq!(source.record(), expected, "{line}");
            match expected.approved_source(Uuid::new_v4(), "--key-command", prompt::ask) {
                Ok(again) => assert_eq!(again.record(), expected),
                // A descriptor has to be given again, and a command to be approved.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WrongKey);
                    assert!(matches!(expected, SourceRecord::Fd | SourceRecord::Command { .. }), "{expected:?}");
                }
            }
        }
    }

    #[test]
    fn options_override_what_is_recorded() {
        let recorded = SourceRecord::File { path: "/k/f".into() };
        assert!(options("").unwrap().given(&recorded).unwrap().is_none());
        assert_eq!(options("").unwrap().recorded(Uuid::new_v4(), &recorded).unwrap().record(), recorded);
        let given = options("--key-fd 3").unwrap().given(&recorded).unwrap();
        assert_eq!(given.unwrap().record(), SourceRecord::Fd);
        assert!(options("").unwrap().new_source().unwrap().is_none());
    }

    #[test]
    fn a_passphrase_is_stretched_as_it_was_when_it_was_new() {
        for line in ["--passphrase", "--passphrase-fd 4"] {
            let given = options(line).unwrap();
            let recorded = given.new_source().unwrap().unwrap().record();
            assert_eq!(given.given(&recorded).unwrap().unwrap().record(), recorded);
            assert_ne!(given.new_source().unwrap().unwrap().record(), recorded, "a new one has its own salt");
            let error = given.given(&SourceRecord::Fd).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WrongKey);
        }
    }

    #[test]
    fn a_command_is_called_as_the_verb_calls_it() {
        let record = SourceRecord::Command { argv: vec!["kms".into(), "a\u{1b}b c".into()], timeout_seconds: 30 };
        let refusal = |options: KekOptions| options.recorded(Uuid::new_v4(), &record).unwrap_err();
        let plain = refusal(options("").unwrap());
        assert!(plain.to_string().contains(r#"`kms "a\\u{1b}b c"`"#), "{plain}");
        for (option, error) in [
            ("--key-command", plain),
            ("--old-key-command", refusal(OldKekOptions::default().into())),
            ("--into-key-command", refusal(IntoKekOptions::default().into())),
        ] {
            assert_eq!(error.kind(), ErrorKind::WrongKey);
            let hint = error.hint_text().unwrap();
            assert!(hint.contains(&format!(" {option} ")) && !hint.contains('\u{1b}'), "{hint}");
        }
    }

    #[test]
    fn one_source_at_most() {
        for line in
            ["--key-file f --key-fd 3", "--passphrase --passphrase-fd 3", "--key-command a --key-command-shell b"]
        {
            assert!(options(line).is_err(), "{line}");
        }
    }
}
