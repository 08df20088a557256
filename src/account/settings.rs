//! account.toml: the encryption setting, where the KEK comes from, and the account keys wrapped under it.
//!
//! What is not secret is read without the KEK ([`Settings::load`]); with it, [`Settings::unlock`] verifies the MAC and
//! gives the keys. The MAC stands in the last table and covers every byte before it, so an edit by hand is refused too:
//!
//! ```toml
//! version = 0
//! account = "9d2c0f5e-..."
//! created = 1764000000
//! encryption = "on"
//! revoked = false
//!
//! [[account_key]]
//! id = "51e0..."
//! created = 1764000000
//! wrapped = "AES-KW in hex"
//!
//! [kek]
//! version = 1
//! check = "key-check value in hex"
//!
//! [kek.source]
//! kind = "file"
//! path = "/home/me/.config/sealdisk/9d2c0f5e-....key"
//!
//! [seal]
//! mac = "HMAC-SHA256 in hex"
//! ```
//!
//! Invariants:
//! 1. The file is only ever replaced whole; the old one, and so the old wrapping, is good until the new one is durable.
//! 2. The first account key is current: the MAC and everything new is made under it. A second one is retiring.
//!    The current one listed twice: no other is retiring, but what was stored before it came has still to be
//!    re-encrypted.
//! 3. A field this program does not know is refused, never dropped by the next change.
//! 4. No account key at all: erased, for good. Such a file carries no MAC, as there is no key left to make it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::crypto::kek::{DerivedKeys, Kek, KeyCheck, SourceRecord};
use crate::crypto::keyring::{AccountKey, KeyRing, WrappedAccountKey};
use crate::io::{Dir, replace, system};
use crate::{Error, ErrorKind, Result};

/// Name of the file in the account directory.
pub const FILE: &str = "account.toml";

/// The only version so far.
const VERSION: u32 = 0;

/// Bytes; the file has a few hundred.
pub(super) const LIMIT: usize = 64 * 1024;

/// Starts the last table.
const SEAL: &str = "\n[seal]\n";

/// The content of account.toml. See the module documentation.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of the file, for messages.
    path: PathBuf,
    pub(super) body: Body,
    /// What was read: the bytes under the MAC, and the MAC. `None` after a change that is not stored.
    read: Option<(String, Option<[u8; 32]>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    pub(super) version: u32,
    pub(super) account: Uuid,
    /// Seconds since the epoch.
    pub(super) created: u64,
    pub(super) encryption: Switch,
    pub(super) revoked: bool,
    pub(super) account_key: Vec<WrappedKey>,
    pub(super) kek: KekTable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Switch {
    On,
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrappedKey {
    pub(super) id: Uuid,
    /// Seconds since the epoch.
    pub(super) created: u64,
    #[serde(with = "hex")]
    pub(super) wrapped: WrappedAccountKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KekTable {
    /// Counts the KEKs this account has had.
    pub(super) version: u32,
    #[serde(with = "hex")]
    pub(super) check: KeyCheck,
    pub(super) source: SourceRecord,
}

impl Settings {
    /// A new account `account` in `dir`, durable when this returns. [`ErrorKind::AlreadyExists`] where there is one.
    pub fn create(
        dir: &dyn Dir,
        account: Uuid,
        kek: &Kek,
        source: SourceRecord,
        encryption: bool,
    ) -> Result<(Self, KeyRing)> {
        if dir.list().is_ok_and(|names| names.iter().any(|name| name == FILE)) {
            return Err(Error::new(ErrorKind::AlreadyExists, "there is an account already").at_path(dir.path()));
        }
        let key = AccountKey::generate(account)?;
        let kek = kek.derive_for(account, [key.id()])?;
        let created = system::seconds();
        let body = Body {
            version: VERSION,
            account,
            created,
            encryption: if encryption { Switch::On } else { Switch::Off },
            revoked: false,
            account_key: vec![WrappedKey { id: key.id(), created, wrapped: key.wrap(&kek)? }],
            kek: KekTable { version: 1, check: *kek.check(), source },
        };
        let mut settings = Self { path: dir.path().join(FILE), body, read: None };
        let ring = KeyRing::new(key, None).opened_by(kek.proof());
        settings.store(dir, &ring)?;
        Ok((settings, ring))
    }

    /// Reads account.toml; no KEK is needed and no MAC is checked.
    pub fn load(dir: &dyn Dir) -> Result<Self> {
        let content = replace::read(dir, FILE, LIMIT).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "no account here")
                .at_path(dir.path())
                .hint("`sealdisk init` makes one; `--account DIR` names another"),
            _ => error,
        })?;
        let path = dir.path().join(FILE);
        Self::parse(path.clone(), content).map_err(|error| error.at_path(path))
    }

    /// Stands for a file that cannot be read, for the one verb that can go on then: destroying all keys. What it stores
    /// says of the account only that it is erased.
    #[must_use]
    pub fn unreadable(dir: &dyn Dir) -> Self {
        let source = SourceRecord::Credential { name: "unknown".to_owned() };
        let kek = KekTable { version: 0, check: KeyCheck::default(), source };
        let body = Body {
            version: VERSION,
            account: Uuid::nil(),
            created: system::seconds(),
            encryption: Switch::On,
            revoked: true,
            account_key: Vec::new(),
            kek,
        };
        Self { path: dir.path().join(FILE), body, read: None }
    }

    /// Everything before the last `[seal]` is the body; what follows has one form only.
    pub(super) fn parse(path: PathBuf, content: Vec<u8>) -> Result<Self> {
        let corrupt = |what: String| Error::new(ErrorKind::Corrupt, what);
        let content = String::from_utf8(content).map_err(|_| corrupt("is no text".into()))?;
        let (text, seal) = content.rsplit_once(SEAL).ok_or_else(|| corrupt("has no [seal]: it is cut off".into()))?;
        let version = text.parse::<toml::Table>().ok().and_then(|table| table.get("version")?.as_integer());
        if let Some(version) = version.filter(|&version| version != i64::from(VERSION)) {
            let what = format!("has format version {version}, this program knows {VERSION}");
            return Err(Error::unknown_version(what));
        }
        let body: Body =
            toml::from_str(text).map_err(|error| corrupt(format!("is no account.toml: {}", error.message())))?;
        let mac = match seal.strip_prefix("mac = \"").and_then(|rest| rest.strip_suffix("\"\n")) {
            Some("") => None,
            Some(digits) => {
                let mut mac = [0; 32];
                hex::decode_to_slice(digits, &mut mac).map_err(|_| corrupt("has a damaged [seal]".into()))?;
                Some(mac)
            }
            None => return Err(corrupt("has a damaged [seal]".into())),
        };
        if body.account_key.len() > 2 || body.account_key.is_empty() != mac.is_none() {
            return Err(corrupt("has account keys that do not fit its [seal]".into()));
        }
        let read = Some((text.to_owned(), mac));
        Ok(Self { path, body, read })
    }

    /// The account keys. [`ErrorKind::WrongKey`] when the KEK is another one, [`ErrorKind::Revoked`] when the keys are
    /// revoked or erased, [`ErrorKind::Corrupt`] when the file is not as this program left it.
    pub fn unlock(&self, kek: &Kek) -> Result<KeyRing> {
        self.check_not_erased()?;
        self.check_not_revoked()?;
        self.unlock_revoked(kek)
    }

    /// [`ErrorKind::Revoked`] for keys that are revoked.
    pub fn check_not_revoked(&self) -> Result<()> {
        if self.body.revoked {
            return Err(Error::new(ErrorKind::Revoked, "the keys of this account are revoked")
                .at_path(&self.path)
                .hint("`sealdisk key restore` with the key-encryption key brings them back"));
        }
        Ok(())
    }

    /// [`ErrorKind::Revoked`] for keys that are erased, whatever key is at hand.
    pub fn check_not_erased(&self) -> Result<()> {
        if self.erased() {
            return Err(erased().at_path(&self.path));
        }
        Ok(())
    }

    /// What of `kek` the holder of this account needs: to open it, and to wrap another account key with the id `new`.
    pub fn derive(&self, kek: &Kek, new: Option<Uuid>) -> Result<DerivedKeys> {
        kek.derive_for(self.body.account, self.account_key_ids().chain(new))
    }

    /// [`ErrorKind::WrongKey`] when the KEK is not the one of this account.
    pub fn check_kek(&self, kek: &Kek) -> Result<()> {
        self.check_derived(&kek.derive_for(self.body.account, [])?)
    }

    fn check_derived(&self, kek: &DerivedKeys) -> Result<()> {
        if kek.account() == self.body.account && kek.fits(&self.body.kek.check) {
            return Ok(());
        }
        let (what, hint) = match &self.body.kek.source {
            SourceRecord::Passphrase(_) => {
                ("wrong passphrase", "an account is opened by one passphrase only".to_owned())
            }
            source => (
                "this key-encryption key is not the one of this account",
                format!("it is opened by the key that came from {source} when that was named"),
            ),
        };
        Err(Error::new(ErrorKind::WrongKey, what).at_path(&self.path).hint(hint))
    }

    /// [`Settings::unlock`] for the one verb that may open what is revoked.
    pub fn unlock_revoked(&self, kek: &Kek) -> Result<KeyRing> {
        self.unlock_derived(&self.derive(kek, None)?)
    }

    /// [`Settings::unlock_revoked`] by what was derived of the KEK for this account.
    pub fn unlock_derived(&self, kek: &DerivedKeys) -> Result<KeyRing> {
        self.check_not_erased()?;
        self.check_derived(kek)?;
        let (current, others) = self.body.account_key.split_first().expect("checked: not erased");
        let retiring = others.iter().find(|key| key.id != current.id);
        let unwrap =
            |key: &WrappedKey| AccountKey::unwrap(kek, key.id, &key.wrapped).map_err(|error| error.at_path(&self.path));
        let ring = KeyRing::new(unwrap(current)?, retiring.map(unwrap).transpose()?).opened_by(kek.proof());
        let Some((text, Some(mac))) = &self.read else {
            return Err(Error::new(ErrorKind::Corrupt, "has no MAC").at_path(&self.path));
        };
        if !ring.current().verify_mac(&[text.as_bytes()], mac)? {
            return Err(Error::new(ErrorKind::Corrupt, "does not match its MAC: it was changed by something else")
                .at_path(&self.path)
                .hint("put the file back as it was, from a backup"));
        }
        Ok(ring)
    }

    /// Makes what [`Settings::load`] read durable, for whoever holds the account alone and is going to act on it.
    pub fn make_durable(dir: &dyn Dir) -> Result<()> {
        replace::make_durable(dir, FILE)
    }

    /// Makes the settings durable, under a new MAC; the old file is good until they are.
    pub fn store(&mut self, dir: &dyn Dir, ring: &KeyRing) -> Result<()> {
        self.write(dir, Some(ring.current()))
    }

    /// `key`: the current account key; `None`: there is none any more.
    pub(super) fn write(&mut self, dir: &dyn Dir, key: Option<&AccountKey>) -> Result<()> {
        let ids = self.account_key_ids().next();
        assert_eq!(key.map(AccountKey::id), ids, "the first account key is the current one");
        let text = toml::to_string(&self.body)
            .map_err(|error| Error::new(ErrorKind::InvalidInput, format!("settings cannot be written: {error}")))?;
        let mac = key.map(|key| key.mac(&[text.as_bytes()])).transpose()?;
        let digits = mac.map_or_else(String::new, hex::encode);
        replace::replace_and_wipe(dir, FILE, format!("{text}{SEAL}mac = \"{digits}\"\n").as_bytes())?;
        self.read = Some((text, mac));
        Ok(())
    }

    #[must_use]
    pub fn account(&self) -> Uuid {
        self.body.account
    }

    /// When the account was made, in seconds since the epoch.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.body.created
    }

    /// How new writes are stored.
    #[must_use]
    pub fn encryption(&self) -> bool {
        self.body.encryption == Switch::On
    }

    pub fn set_encryption(&mut self, on: bool) {
        self.body.encryption = if on { Switch::On } else { Switch::Off };
    }

    #[must_use]
    pub fn revoked(&self) -> bool {
        self.body.revoked
    }

    /// No key is left that could open the account.
    #[must_use]
    pub fn erased(&self) -> bool {
        self.body.account_key.is_empty()
    }

    /// Where the KEK comes from.
    #[must_use]
    pub fn kek_source(&self) -> &SourceRecord {
        &self.body.kek.source
    }

    /// Counts the KEKs this account has had, from 1.
    #[must_use]
    pub fn kek_version(&self) -> u32 {
        self.body.kek.version
    }

    /// A re-encryption of everything was begun with the current account key, and has not ended.
    #[must_use]
    pub fn reencryption_pending(&self) -> bool {
        matches!(&self.body.account_key[..], [current, other] if current.id == other.id)
    }

    /// When the current account key was made, in seconds since the epoch; `None`: there is none any more.
    #[must_use]
    pub fn account_key_created(&self) -> Option<u64> {
        self.body.account_key.first().map(|key| key.created)
    }

    /// Ids of the account keys, the current one first.
    pub fn account_key_ids(&self) -> impl Iterator<Item = Uuid> {
        let current_again = usize::from(self.reencryption_pending());
        self.body.account_key.iter().skip(current_again).map(|key| key.id)
    }
}

/// Whether this is why account.toml cannot be read: what is in it, not the way to it.
#[must_use]
pub fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)
}

/// What a verb that needs keys of an account gets once there are none.
pub(super) fn erased() -> Error {
    Error::new(ErrorKind::Revoked, "the keys of this account are erased: no key opens it again")
        .hint("`sealdisk delete` removes what is left, `sealdisk init` makes a new account elsewhere")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::crypto::secret::SecretKey;
    use crate::io::real::RealDir;

    struct Account {
        temporary: tempfile::TempDir,
        dir: RealDir,
        kek: Kek,
    }

    impl Account {
        fn new() -> Self {
            let temporary = tempfile::tempdir().unwrap();
            let dir = RealDir::open(temporary.path()).unwrap();
            let account = Self { temporary, dir, kek: Kek::new(SecretKey::filled(1)) };
            Settings::create(&account.dir, Uuid::new_v4(), &account.kek, source(), true).unwrap();
            account
        }

        fn text(&self) -> String {
            fs::read_to_string(self.temporary.path().join(FILE)).unwrap()
        }

        fn write(&self, text: &str) {
            fs::write(self.temporary.path().join(FILE), text).unwrap();
        }

        fn open(&self) -> Result<KeyRing> {
            Settings::load(&self.dir)?.unlock(&self.kek)
        }
    }

    fn source() -> SourceRecord {
        SourceRecord::File { path: "/keys/a \"quoted\" one\n[seal]\n".into() }
    }

    #[test]
    fn what_was_stored_is_loaded_without_the_kek_and_unlocked_with_it() {
        let account = Account::new();
        let mut settings = Settings::load(&account.dir).unwrap();
        assert!(settings.encryption() && !settings.revoked() && !settings.erased());
        assert_eq!(settings.kek_version(), 1);
        assert_eq!(settings.kek_source(), &source());
        let ring = settings.unlock(&account.kek).unwrap();
        assert_eq!(settings.account_key_ids().collect::<Vec<_>>(), [ring.current().id()]);

        settings.set_encryption(false);
        settings.store(&account.dir, &ring).unwrap();
        assert!(!Settings::load(&account.dir).unwrap().encryption());
        assert_eq!(account.open().unwrap().current().id(), ring.current().id());
    }

    #[test]
    fn an_account_is_made_once() {
        let account = Account::new();
        let before = account.text();
        let error = Settings::create(&account.dir, Uuid::new_v4(), &account.kek, source(), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(account.text(), before);
    }

    #[test]
    fn another_kek_is_refused_and_the_right_one_named() {
        let account = Account::new();
        let settings = Settings::load(&account.dir).unwrap();
        let error = settings.unlock(&Kek::new(SecretKey::filled(2))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongKey);
        assert!(error.hint_text().unwrap().contains("/keys/a"), "{error:?}");
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let account = Account::new();
        let good = fs::read(account.temporary.path().join(FILE)).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let opened = Settings::parse(FILE.into(), bad).and_then(|settings| settings.unlock(&account.kek));
            // Hex digits have two cases; the MAC itself may be spelled in either.
            let same = good[bit / 8].is_ascii_alphabetic() && bit % 8 == 5 && bit / 8 > good.len() - 70;
            assert_eq!(opened.is_ok(), same, "bit {} of byte {}", bit % 8, bit / 8);
        }
    }

    #[test]
    fn every_cut_is_refused() {
        let account = Account::new();
        let good = fs::read(account.temporary.path().join(FILE)).unwrap();
        for len in 0..good.len() {
            assert!(Settings::parse(FILE.into(), good[..len].to_vec()).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_setting_changed_by_hand_is_refused() {
        let account = Account::new();
        for (from, to) in [
            ("encryption = \"on\"", "encryption = \"off\""),
            ("revoked = false", "revoked = true"),
            ("version = 1", "version = 2"),
            ("/keys/a", "/keys/b"),
        ] {
            let text = account.text();
            assert!(text.contains(from), "{text}");
            account.write(&text.replacen(from, to, 1));
            let settings = Settings::load(&account.dir).unwrap();
            let error = settings.unlock_revoked(&account.kek).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{to}");
            account.write(&text);
        }
        account.open().unwrap();
    }

    #[test]
    fn the_wrapped_keys_of_another_account_are_refused() {
        let (account, other) = (Account::new(), Account::new());
        let wrapped = |text: &str| text.split("wrapped = \"").nth(1).unwrap()[..80].to_owned();
        let (from, to) = (wrapped(&account.text()), wrapped(&other.text()));
        account.write(&account.text().replace(&from, &to));
        assert_eq!(account.open().unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn unknown_versions_and_fields_are_refused() {
        let account = Account::new();
        let text = account.text();
        account.write(&text.replacen("version = 0", "version = 1", 1));
        assert_eq!(Settings::load(&account.dir).unwrap_err().kind(), ErrorKind::Unsupported);
        account.write(&format!("surprise = 1\n{text}"));
        assert_eq!(Settings::load(&account.dir).unwrap_err().kind(), ErrorKind::Corrupt);
        account.write("");
        assert_eq!(Settings::load(&account.dir).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn no_account_is_told_as_such() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = RealDir::open(temporary.path()).unwrap();
        let error = Settings::load(&dir).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint_text().unwrap().contains("init"));
    }

    #[test]
    fn no_key_in_the_file_or_in_debug() {
        let account = Account::new();
        let settings = Settings::load(&account.dir).unwrap();
        let shown = format!("{settings:?}{}", account.text());
        assert!(!shown.contains(&"01".repeat(8)), "{shown}");
        assert!(!shown.contains("1, 1, 1, 1"), "{shown}");
    }
}
