//! `--key-credential`: a systemd credential (`LoadCredential=`, `LoadCredentialEncrypted=`): a file named NAME in the
//! directory `$CREDENTIALS_DIRECTORY`, which the service manager lets the service alone read.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Kek, KekSource, SourceRecord, decode, file};
use crate::{Error, ErrorKind, Result};

const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// See the module documentation.
#[derive(Debug)]
pub struct KeyCredential {
    name: String,
    /// The variable as this process was started with it.
    directory: Option<OsString>,
}

impl KeyCredential {
    /// [`ErrorKind::InvalidInput`] when `name` could leave the directory.
    pub fn new(name: &str) -> Result<Self> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            let what = format!("{name:?} is no name of a credential");
            return Err(Error::new(ErrorKind::InvalidInput, what).hint("give the NAME of LoadCredential=NAME:PATH"));
        }
        Ok(Self { name: name.to_owned(), directory: std::env::var_os(DIRECTORY) })
    }

    fn path(&self) -> Result<PathBuf> {
        match &self.directory {
            Some(directory) if !directory.is_empty() => Ok(PathBuf::from(directory).join(&self.name)),
            _ => Err(Error::new(ErrorKind::WrongKey, format!("no systemd credentials, so no key {:?}", self.name))
                .hint("the key comes with the service: start it by its unit, or name another source")),
        }
    }
}

impl KekSource for KeyCredential {
    fn obtain(&self) -> Result<Kek> {
        let path = self.path()?;
        // No check of the mode: systemd grants the service access by an ACL, which shows as group bits.
        file::read(&path, "systemd credential", |_| Ok(())).and_then(decode::decode).map_err(|error| {
            let error = match error.kind() {
                ErrorKind::NotFound => error.hint(format!("the unit needs LoadCredential={}:PATH", self.name)),
                _ => error,
            };
            error.at_path(path)
        })
    }

    fn record(&self) -> SourceRecord {
        SourceRecord::Credential { name: self.name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_named_file_of_the_directory() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::write(temporary.path().join("kek"), [7; 32]).unwrap();
        let credential = |name: &str| KeyCredential { name: name.into(), directory: Some(temporary.path().into()) };
        assert_eq!(credential("kek").obtain().unwrap().expose(), &[7; 32]);
        assert_eq!(credential("other").obtain().unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn without_a_directory_there_is_no_key() {
        for directory in [None, Some(OsString::new())] {
            let credential = KeyCredential { name: "kek".into(), directory };
            assert_eq!(credential.obtain().unwrap_err().kind(), ErrorKind::WrongKey);
        }
    }

    #[test]
    fn names_stay_in_the_directory() {
        for name in ["", ".", "..", "../kek", "a/b", "/kek"] {
            assert_eq!(KeyCredential::new(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
    }
}
