//! Files that a confined server reads again when others have taken their place.

use std::path::{Path, PathBuf};

/// From where `file` can be read when another one has taken its place: the folder in which it lies, and those of the
/// files that it links to, as certificate tools and Kubernetes replace links. Only the file itself where the folder has
/// what is none of a client's business: the root of everything, or the credentials of a service, which systemd does not
/// replace and among which the key-encryption key lies.
pub(super) fn from(file: &Path) -> Vec<PathBuf> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    from_beside(file, credentials.and_then(|folder| folder.canonicalize().ok()).as_deref())
}

/// The same; `credentials`: the real path of the folder with the credentials of this service.
fn from_beside(file: &Path, credentials: Option<&Path>) -> Vec<PathBuf> {
    /// Links that are followed: as the kernel does.
    const LINKS: usize = 40;
    if !file.is_file() {
        return Vec::new();
    }
    let mut from = Vec::new();
    let mut at = file.to_owned();
    for _ in 0..LINKS {
        let folder = match at.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let real = folder.canonicalize().ok();
        let whole = real.as_ref().is_some_and(|real| real.parent().is_some() && credentials != Some(real));
        from.push(if whole { folder.clone() } else { file.to_owned() });
        match std::fs::read_link(&at) {
            Ok(target) => at = folder.join(target),
            Err(_) => break,
        }
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_is_read_from_its_folder_and_those_of_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["live", "archive"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        std::fs::write(at("archive/key1.pem"), "").unwrap();
        std::os::unix::fs::symlink("../archive/key1.pem", at("live/key.pem")).unwrap();
        assert_eq!(from(&at("live/key.pem")), [at("live"), at("live/../archive")]);
        assert_eq!(from(&at("archive/key1.pem")), [at("archive")]);
        assert!(from(&at("missing")).is_empty() && from(Path::new("/dev/null")).is_empty());
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        assert!(from(&at("loop")).is_empty());
        assert_eq!(from(Path::new("Cargo.toml")), [PathBuf::from(".")]);
    }

    /// The key-encryption key may lie beside the certificate that is named.
    #[test]
    fn of_the_credentials_of_a_service_only_the_file_itself_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("credentials")).unwrap();
        for name in ["tls.key", "kek"] {
            std::fs::write(at("credentials").join(name), "").unwrap();
        }
        let real = at("credentials").canonicalize().unwrap();
        std::os::unix::fs::symlink("credentials", at("other-name")).unwrap();
        std::os::unix::fs::symlink("credentials/tls.key", at("link.key")).unwrap();
        for folder in ["credentials", "other-name"] {
            let file = at(folder).join("tls.key");
            assert_eq!(from_beside(&file, Some(&real)), [file]);
        }
        assert_eq!(from_beside(&at("link.key"), Some(&real)), [dir.path().to_owned(), at("link.key")]);
        assert_eq!(from_beside(&at("credentials/tls.key"), None), [at("credentials")]);
    }
}
