//! The key of a source that is new to an account: taken only if later verbs will get it too.

use super::{Kek, KekSource, SourceRecord};
use crate::{Error, ErrorKind, Result};

/// Asks a new source for its key, twice: the second time through what account.toml will record of it, as every later
/// verb does. What was given then is the key. A descriptor cannot be asked again, and a passphrase is typed twice by
/// itself.
///
/// # Errors
/// [`ErrorKind::WrongKey`] for a source that gives another key the second time, and for a key that is text.
pub fn obtain_new(source: &dyn KekSource) -> Result<Kek> {
    let first = source.obtain()?;
    if first.is_text {
        let what = format!("{} gives 32 characters of text, which hold less than a key of 256 bits", source.record());
        return Err(Error::new(ErrorKind::WrongKey, what).hint(
            "a key is 32 random bytes (head -c 32 /dev/urandom), 64 digits of hex or 44 characters of base64; a \
             passphrase is given with --passphrase. To take this text all the same, write it in base64",
        ));
    }
    let record = recorded(&source.record())?;
    match record {
        SourceRecord::Fd | SourceRecord::Passphrase(_) => Ok(first),
        SourceRecord::File { .. } | SourceRecord::Credential { .. } | SourceRecord::Command { .. } => {
            let again = record.source()?.obtain()?;
            if again == first {
                return Ok(again);
            }
            let what = format!("{record} gives another key each time, so the account could never be opened again");
            Err(Error::new(ErrorKind::WrongKey, what).hint("name a source that keeps its key; nothing was changed"))
        }
    }
}

/// What a verb will read of `record` in account.toml.
fn recorded(record: &SourceRecord) -> Result<SourceRecord> {
    let written = toml::Value::try_from(record);
    let written =
        written.map_err(|error| Error::new(ErrorKind::InvalidInput, format!("cannot be recorded: {error}")))?;
    written.try_into().map_err(|error| Error::new(ErrorKind::InvalidInput, format!("cannot be recorded: {error}")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::crypto::kek::{KeyCommand, KeyFile};

    fn command(line: &str) -> Result<Kek> {
        obtain_new(&KeyCommand::shell(line, Duration::from_secs(60)).unwrap())
    }

    #[test]
    fn a_source_that_gives_another_key_each_time_is_refused() {
        let error = command("head -c 32 /dev/urandom").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongKey);
        assert!(error.to_string().contains("gives another key each time"), "{error}");
        let hex = hex::encode([7; 32]);
        assert_eq!(command(&format!("echo {hex}")).unwrap().expose(), &[7; 32]);
    }

    /// It is asked twice, and not once more: the third answer would be another one.
    #[test]
    fn a_source_is_asked_twice() {
        let temporary = tempfile::tempdir().unwrap();
        let count = temporary.path().join("count");
        let hex = hex::encode([7; 32]);
        command(&format!("echo >> '{}'; echo {hex}", count.display())).unwrap();
        assert_eq!(std::fs::read(count).unwrap(), b"\n\n");
    }

    #[test]
    fn text_is_no_new_key_unless_it_is_written_in_another_form() {
        let temporary = tempfile::tempdir().unwrap();
        let file = |content: &[u8]| {
            let path = temporary.path().join("kek");
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            KeyFile::new(&path).unwrap()
        };
        for text in [
            "0123456789abcdef0123456789abcdef",
            "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0",
            "one passphrase of 31 characters\n",
        ] {
            assert_eq!(text.len(), 32);
            let error = obtain_new(&file(text.as_bytes())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WrongKey, "{text}");
            assert!(!format!("{error:?} {:?}", error.hint_text()).contains(text.trim()), "{error:?}");
            // An account that has this key is opened with it.
            assert_eq!(file(text.as_bytes()).obtain().unwrap().expose(), text.as_bytes());
            assert_eq!(obtain_new(&file(hex::encode(text).as_bytes())).unwrap().expose(), text.as_bytes());
        }
    }
}
