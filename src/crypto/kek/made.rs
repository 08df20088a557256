//! The key that `init` makes when no option names one: a file beside the user's other settings, never beside the data.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::KeyFile;
use crate::crypto::secret::SecretKey;
use crate::{Error, ErrorKind, Result};

/// Makes a random key for the account `account` in the file `ACCOUNT.key` of `directory`, durable when this returns.
/// `data` is the account directory. [`ErrorKind::AlreadyExists`] rather than replace a key.
pub fn make_first(directory: &Path, account: Uuid, data: &Path) -> Result<KeyFile> {
    make(directory, &format!("{account}.key"), data)
}

/// The same for an account whose KEK is to have the version `version`: `ACCOUNT.VERSION.key`, or the next number that
/// is free, as an attempt that was cut off may have left a key that is in use nowhere.
pub fn make_next(directory: &Path, account: Uuid, version: u32, data: &Path) -> Result<KeyFile> {
    let mut number = version;
    loop {
        match make(directory, &format!("{account}.{number}.key"), data) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number - version < 1000 => number += 1,
            made => return made,
        }
    }
}

/// Where the user keeps what concerns this program: `${XDG_CONFIG_HOME:-~/.config}/sealdisk`.
pub fn default_directory() -> Result<PathBuf> {
    directory(std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from), std::env::home_dir())
}

/// Where a user whose home directory is `home` keeps the same, as far as another user knows.
#[must_use]
pub fn directory_in(home: &Path) -> PathBuf {
    home.join(".config/sealdisk")
}

/// The XDG Base Directory Specification: a relative path is ignored.
fn directory(config: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf> {
    let config = config.filter(|path| path.is_absolute());
    let base = config.or_else(|| home.filter(|path| path.is_absolute()).map(|home| home.join(".config")));
    base.map(|base| base.join("sealdisk")).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "no home directory to keep a key in").hint("name a source: --key-file PATH")
    })
}

fn make(directory: &Path, name: &str, data: &Path) -> Result<KeyFile> {
    let path = directory.join(name);
    let failed = |source| {
        Error::io("the key cannot be kept", source)
            .at_path(&path)
            .hint("make one elsewhere, and name it: --key-file PATH")
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    if lies_in(directory, data).map_err(failed)? {
        return Err(Error::new(ErrorKind::InvalidInput, "the key would lie beside the data it opens")
            .at_path(&path)
            .hint("name a place apart: --key-file PATH"));
    }
    let key = SecretKey::random()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let written = file.write_all(key.expose()).and_then(|()| file.sync_all());
    let durable = written.and_then(|()| File::open(directory)?.sync_all());
    if let Err(error) = durable {
        // Best effort: half a key is of no use, and the account is not made.
        let _ = std::fs::remove_file(&path);
        return Err(failed(error));
    }
    KeyFile::new(&path)
}

/// Whether `directory`, which exists, is `data` or lies under it. `data` need not exist yet.
fn lies_in(directory: &Path, data: &Path) -> io::Result<bool> {
    match data.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        data => Ok(directory.canonicalize()?.starts_with(data?)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::crypto::kek::KekSource;

    #[test]
    fn makes_a_private_key_that_its_source_gives_again() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("new/config/sealdisk");
        let file = make(&directory, "a.key", &temporary.path().join("data")).unwrap();
        assert_eq!(file.path(), directory.join("a.key"));
        file.obtain().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(file.path()), mode(&directory)), (0o600, 0o700));
    }

    #[test]
    fn never_replaces_a_key() {
        let temporary = tempfile::tempdir().unwrap();
        let (account, data) = (Uuid::new_v4(), temporary.path().join("data"));
        let file = make(temporary.path(), "a.key", &data).unwrap();
        let kek = file.obtain().unwrap();
        let error = make(temporary.path(), "a.key", &data).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(file.obtain().unwrap(), kek);

        for number in 2..5 {
            let file = make_next(temporary.path(), account, 2, &data).unwrap();
            assert_eq!(file.path(), temporary.path().join(format!("{account}.{number}.key")));
        }
    }

    #[test]
    fn never_lies_beside_the_data() {
        let temporary = tempfile::tempdir().unwrap();
        for directory in [temporary.path().to_owned(), temporary.path().join("config/sealdisk")] {
            let error = make(&directory, "a.key", temporary.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn the_directory_follows_the_xdg_rules() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(directory(path("/config"), path("/home")).unwrap(), PathBuf::from("/config/sealdisk"));
        for config in [None, path("relative"), path("")] {
            assert_eq!(directory(config, path("/home")).unwrap(), PathBuf::from("/home/.config/sealdisk"));
        }
        assert_eq!(directory(None, None).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
