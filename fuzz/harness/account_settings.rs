//! Any bytes as account.toml, behind its MAC too.
//!
//! Input: one byte of flags (1: the seal is made right; 2: the rest is the file, else edits of the golden one as
//! [`super::edit`] has them), and the rest.

use sealdisk::account::settings::{FILE, Settings};
use sealdisk::crypto::kek::SourceRecord;
use sealdisk::{Error, ErrorKind};

use super::edit::edit;
use super::golden::{Golden, golden};

const SEAL: &[u8] = b"\n[seal]\n";

pub(crate) fn run(data: &[u8]) {
    let [flags, rest @ ..] = data else { return };
    let Golden { account, kek, ring, .. } = golden();
    let good = account.files()[FILE].clone();
    let mut bytes = if flags & 2 != 0 { rest.to_vec() } else { edit(good.clone(), rest) };
    let body = |bytes: &[u8]| bytes.windows(SEAL.len()).rposition(|window| window == SEAL).unwrap_or(bytes.len());
    if flags & 1 != 0 {
        bytes.truncate(body(&bytes));
        let mac = ring.current().mac(&[&bytes]).expect("memory for a key");
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.extend_from_slice(SEAL);
        bytes.extend_from_slice(format!("mac = \"{hex}\"\n").as_bytes());
    }
    let dir = account.copy();
    dir.put(FILE, bytes.clone());
    let mut settings = match Settings::load(&dir) {
        Err(error) => return check_refusal(&error),
        Ok(settings) => settings,
    };
    let opened = match settings.unlock(kek) {
        Err(error) => return check_refusal(&error),
        Ok(opened) => opened,
    };
    if flags & 1 == 0 {
        let (changed, good) = (&bytes[..body(&bytes)], &good[..body(&good)]);
        assert!(changed == good, "another body passes under the MAC of the first");
    }
    // What is understood is written and read again as the same.
    settings.set_encryption(!settings.encryption());
    settings.store(&dir, &opened).expect("a directory in memory");
    let again = Settings::load(&dir).expect("what was written is sound");
    let ids = |settings: &Settings| settings.account_key_ids().collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&settings));
    assert_eq!(again.encryption(), settings.encryption());
    assert_eq!(again.kek_source(), settings.kek_source());
    assert_eq!((again.kek_version(), again.account()), (settings.kek_version(), settings.account()));
    again.unlock(kek).expect("what was written opens");
    // A source that was recorded is made ready to be asked, or refused.
    if !matches!(again.kek_source(), SourceRecord::Passphrase(_)) {
        drop(
            again
                .kek_source()
                .approved_source(again.account(), "--key-command", |_, _| unreachable!("no passphrase is recorded")),
        );
    }
}

fn check_refusal(error: &Error) {
    let allowed = [ErrorKind::Corrupt, ErrorKind::Unsupported, ErrorKind::WrongKey, ErrorKind::Revoked];
    assert!(allowed.contains(&error.kind()), "{error:?}");
}
