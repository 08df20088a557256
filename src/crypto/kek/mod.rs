//! The key-encryption key: the owner's own. It comes from one of the sources below and never reaches a file of ours.
//!
//! | file | where the key comes from |
//! |---|---|
//! | `file.rs` | a file only its owner can read |
//! | `made.rs` | the file made by default, beside the user's other settings |
//! | `fd.rs` | an open descriptor |
//! | `credential.rs` | a systemd credential |
//! | `command.rs` | the standard output of a command: any KMS client |
//! | `passphrase.rs` | a passphrase, stretched by argon2id; typed at `terminal.rs` |
//! | `approved.rs` | which of the commands that accounts record may run |
//!
//! A new key is taken only from a source that gives it again (`new.rs`). Asking a source and using the key are apart
//! ([`KekSource::obtain`] gives the key and nothing else): a client asks with its user's rights, and hands the process
//! that serves the account what it needs of the key, which is not the key itself (`derived.rs`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

mod approved;
mod command;
mod credential;
mod decode;
mod derived;
mod fd;
mod file;
mod made;
mod new;
mod passphrase;
mod pipe;
mod words;

pub use approved::approve;
pub use command::KeyCommand;
pub use credential::KeyCredential;
pub use derived::{DerivedKeys, Nonce, ProofKey};
pub use fd::KeyFd;
pub use file::KeyFile;
pub use made::{default_directory, directory_in, make_first, make_next};
pub use new::obtain_new;
pub use passphrase::{Ask, Passphrase, Prompt, Stretch};

use crate::crypto::secret::SecretKey;
use crate::{Error, ErrorKind, Result, text};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Tells a KEK that does not fit from a wrapped key that is damaged; may be stored in the open.
pub type KeyCheck = [u8; 16];

/// The 256-bit key that wraps the account key. Cheap to clone; the last clone to go zeroizes it.
#[derive(Clone)]
pub struct Kek {
    key: Arc<SecretKey>,
    /// Its source gave 32 characters of text as the key itself.
    is_text: bool,
}

impl PartialEq for Kek {
    /// In constant time; how the key was written makes no other key of it.
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Kek {}

impl Kek {
    #[must_use]
    pub fn new(key: SecretKey) -> Self {
        Self { key: Arc::new(key), is_text: false }
    }

    /// The key itself.
    #[cfg(test)]
    pub(crate) fn expose(&self) -> &[u8; SecretKey::LEN] {
        self.key.expose()
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(redacted)")
    }
}

/// Where a KEK comes from.
pub trait KekSource: fmt::Debug {
    /// Asks for the key, each time anew: a file is read, a command run, a passphrase asked for. Errors name the source
    /// and never hold a byte of what it gave: [`ErrorKind::WrongKey`](crate::ErrorKind::WrongKey) for anything that is
    /// no key, [`ErrorKind::Io`](crate::ErrorKind::Io) and others where it could not be asked.
    fn obtain(&self) -> Result<Kek>;

    /// What account.toml keeps, so that the key can be asked for again.
    fn record(&self) -> SourceRecord;

    /// Whether a person answers on a terminal, who may mistype and be asked again.
    fn is_typed(&self) -> bool {
        false
    }
}

/// Where a KEK comes from, as account.toml records it: enough to ask for it again, never the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SourceRecord {
    /// A file of 32 bytes, or of their hex or base64 form.
    File { path: PathBuf },
    /// A descriptor of the process that asked: it must be given again.
    Fd,
    /// A systemd credential.
    Credential { name: String },
    /// The standard output of a command.
    Command { argv: Vec<String>, timeout_seconds: u64 },
    /// A passphrase, and how it is stretched.
    Passphrase(Stretch),
}

impl SourceRecord {
    /// Whether the key lies in a file below the directory `data`: then who has the data has the key.
    #[must_use]
    pub fn lies_in(&self, data: &Path) -> bool {
        let Self::File { path } = self else { return false };
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        real(path).starts_with(real(data))
    }

    /// The source that `account` recorded, if it may be asked: nothing proves yet who wrote the record. `option`: that
    /// of a verb which names a command itself; `ask`: how a passphrase is asked for.
    ///
    /// # Errors
    /// [`ErrorKind::WrongKey`] for a command that the user has not [approved](approve), and as
    /// [`SourceRecord::source`].
    pub fn approved_source(&self, account: Uuid, option: &str, ask: Ask) -> Result<Box<dyn KekSource>> {
        let argv = match self {
            Self::Passphrase(stretch) => {
                return Ok(Box::new(Passphrase::known(Prompt::Terminal(ask), stretch.clone())));
            }
            Self::Command { argv, .. } => argv,
            _ => return self.source(),
        };
        if let Some(command) = approved::find(account, argv)? {
            return Ok(Box::new(command));
        }
        let what = format!("{self} stands in account.toml, but you have not approved it: it was not run");
        Err(Error::new(ErrorKind::WrongKey, what).hint(format!(
            "if you know it, name it yourself: {option} {}; or approve it in {}",
            words::quote(&words::join(argv)),
            text::path(&approved::path(account)),
        )))
    }

    /// The source that is recorded, whoever recorded it. [`ErrorKind::WrongKey`] for a descriptor, which only an option
    /// can name, and for a passphrase, which is asked for.
    pub(super) fn source(&self) -> Result<Box<dyn KekSource>> {
        Ok(match self {
            Self::File { path } if path.is_relative() => {
                let what = "account.toml names a key file by a relative path, which this program never does";
                return Err(Error::new(ErrorKind::Corrupt, what).hint("name it yourself: --key-file PATH"));
            }
            Self::File { path } => Box::new(KeyFile::new(path)?),
            Self::Fd => {
                return Err(Error::new(ErrorKind::WrongKey, "this account takes its key from a descriptor")
                    .hint("give it again: --key-fd N"));
            }
            Self::Credential { name } => Box::new(KeyCredential::new(name)?),
            Self::Command { argv, timeout_seconds } => {
                Box::new(KeyCommand::new(argv.clone(), Duration::from_secs(*timeout_seconds))?)
            }
            Self::Passphrase(_) => {
                return Err(Error::new(ErrorKind::WrongKey, "the key of this account is stretched from a passphrase")
                    .hint("give it again: --passphrase"));
            }
        })
    }
}

impl fmt::Display for SourceRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path } => write!(f, "the key file {}", text::path(path)),
            Self::Fd => f.write_str("a key from a descriptor"),
            Self::Credential { name } => write!(f, "the systemd credential {}", text::line(name)),
            Self::Command { argv, .. } => write!(f, "the key command `{}`", words::join(argv)),
            Self::Passphrase(_) => f.write_str("a passphrase"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kek_of(byte: u8) -> Kek {
        Kek::new(SecretKey::filled(byte))
    }

    #[test]
    fn a_key_beside_the_data_is_noticed() {
        let temporary = tempfile::tempdir().unwrap();
        let data = temporary.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for (path, beside) in [("data/kek", true), ("data/../data/kek", true), ("data2/kek", false), ("kek", false)] {
            let path = temporary.path().join(path);
            let _ = std::fs::write(&path, "");
            assert_eq!(SourceRecord::File { path }.lies_in(&data), beside);
        }
        assert!(!SourceRecord::Fd.lies_in(&data));
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", kek_of(0xAB)), "Kek(redacted)");
    }
}
