//! The life of the account key, as account.toml records it: re-wrapped, replaced, revoked, restored, erased.
//!
//! Each function makes one durable change of account.toml, atomic at any crash, or fails and changes nothing that
//! opens. The disks are the registry's business: it calls in this order.
//!
//! - Replacing the account key: [`Settings::add_account_key`]; then every disk is moved to the new key; then
//!   [`Settings::drop_retiring_key`]. A crash between leaves both keys in the file, and what was begun is finished
//!   first the next time.
//! - Replacing it because it is known to somebody else: the last of these steps also notes that everything has to be
//!   re-encrypted ([`Settings::drop_retiring_key`]), and [`Settings::end_reencryption`] that it was.
//! - Revoking: [`Settings::set_revoked`], and only then keys are let go of. So no restart brings them back.

use uuid::Uuid;

use super::settings::{FILE, LIMIT, Settings, WrappedKey};
use crate::crypto::kek::{DerivedKeys, SourceRecord};
use crate::crypto::keyring::{AccountKey, KeyRing, WrappedAccountKey};
use crate::io::{Dir, replace, system};
use crate::{Error, ErrorKind, Result};

impl Settings {
    /// Wraps the account key under another KEK. The old KEK opens the account until this is durable, and never after.
    ///
    /// `Ok(false)`: it is the KEK in use, from another source. Only the source is changed then, and nothing is promised
    /// of where it came from before. [`ErrorKind::InvalidInput`] when the source is the old one too.
    pub fn rotate_kek(
        &mut self,
        dir: &dyn Dir,
        ring: &KeyRing,
        kek: &DerivedKeys,
        source: SourceRecord,
    ) -> Result<bool> {
        let is_another = !self.is_opened_by(kek);
        if !is_another && source == self.body.kek.source {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{source} gives the key in use: nothing to change"),
            )
            .hint("name a source of another key; without an option a new key file is made"));
        }
        self.change(dir, ring, |next| match is_another {
            true => next.put_keys(ring, kek, source),
            false => {
                next.body.kek.source = source;
                Ok(())
            }
        })?;
        Ok(is_another)
    }

    /// Adds a new account key with the id `id`, current from now on; the old one is retiring. Both are wrapped under
    /// `kek`, a new KEK: under the one in use, whoever has that would still open everything
    /// ([`ErrorKind::InvalidInput`]). [`ErrorKind::InUse`] while an earlier replacement is unfinished.
    pub fn add_account_key(
        &mut self,
        dir: &dyn Dir,
        ring: &KeyRing,
        kek: &DerivedKeys,
        id: Uuid,
        source: SourceRecord,
    ) -> Result<KeyRing> {
        if ring.retiring().is_some() {
            return Err(Error::new(ErrorKind::InUse, "an earlier replacement of the account key is not finished")
                .at_path(dir.path()));
        }
        if self.is_opened_by(kek) {
            let what = format!("{source} gives the key in use, and a new account key needs a new key above it");
            return Err(Error::new(ErrorKind::InvalidInput, what)
                .hint("name a source of another key; without an option a new key file is made"));
        }
        if self.account_key_ids().any(|known| known == id) {
            return Err(Error::new(ErrorKind::InvalidInput, "a new account key needs a new id").at_path(dir.path()));
        }
        let new = AccountKey::generate_as(self.account(), id)?;
        let ring = KeyRing::new(new, Some(ring.current().clone())).opened_by(kek.proof());
        self.change(dir, &ring, |next| next.put_keys(&ring, kek, source))?;
        Ok(ring)
    }

    /// Forgets the retiring account key, which no disk needs any more. With `reencrypt` it is noted that a
    /// re-encryption of everything is to follow.
    pub fn drop_retiring_key(&mut self, dir: &dyn Dir, ring: &KeyRing, reencrypt: bool) -> Result<KeyRing> {
        let ring = ring.without_retiring();
        self.change(dir, &ring, |next| {
            next.body.account_key.truncate(1);
            if reencrypt {
                next.body.account_key.extend_from_within(..);
            }
            Ok(())
        })?;
        Ok(ring)
    }

    /// Notes that the re-encryption of everything has ended.
    pub fn end_reencryption(&mut self, dir: &dyn Dir, ring: &KeyRing) -> Result<()> {
        if !self.reencryption_pending() {
            return Ok(());
        }
        self.change(dir, ring, |next| {
            next.body.account_key.truncate(1);
            Ok(())
        })
    }

    /// Whether `kek` opens the account now.
    #[must_use]
    pub fn is_opened_by(&self, kek: &DerivedKeys) -> bool {
        kek.fits(&self.body.kek.check)
    }

    /// Revokes the keys, or takes that back. Where they are revoked already nothing is written.
    pub fn set_revoked(&mut self, dir: &dyn Dir, ring: &KeyRing, revoked: bool) -> Result<()> {
        if self.revoked() == revoked {
            return Ok(());
        }
        self.change(dir, ring, |next| {
            next.body.revoked = revoked;
            Ok(())
        })
    }

    /// Destroys the wrapped account keys: overwritten where they lie, synced, read back, and then gone from the file.
    /// No KEK is needed. Asked for again after a crash it finishes.
    ///
    /// Where the file is as this program writes it, only the keys are overwritten, so that a crash leaves an account.
    /// Of one that is damaged nobody knows where in it a key may lie: all of it goes.
    pub fn erase_account_keys(&mut self, dir: &dyn Dir) -> Result<()> {
        match replace::read(dir, FILE, LIMIT).ok().and_then(|content| Self::without_keys(dir, content)) {
            Some(text) => replace::overwrite(dir, FILE, text.as_bytes())?,
            None => replace::erase(dir, FILE)?,
        }
        self.body.account_key.clear();
        self.write(dir, None)
    }

    /// The same text with zeros for the wrapped keys; `None`: it cannot be told where they all are.
    fn without_keys(dir: &dyn Dir, content: Vec<u8>) -> Option<String> {
        const NOTHING: WrappedAccountKey = [0; 40];
        let parse = |text: &str| Self::parse(dir.path().join(FILE), text.as_bytes().to_vec()).ok();
        let mut text = String::from_utf8(content).ok()?;
        for key in parse(&text)?.body.account_key {
            text = text.replace(&hex::encode(key.wrapped), &hex::encode(NOTHING));
        }
        let all_gone = parse(&text)?.body.account_key.iter().all(|key| key.wrapped == NOTHING);
        all_gone.then_some(text)
    }

    fn put_keys(&mut self, ring: &KeyRing, kek: &DerivedKeys, source: SourceRecord) -> Result<()> {
        let created = |key: &AccountKey| {
            let known = self.body.account_key.iter().find(|known| known.id == key.id());
            known.map_or_else(system::seconds, |known| known.created)
        };
        let wrap = |key: &AccountKey| Ok(WrappedKey { id: key.id(), created: created(key), wrapped: key.wrap(kek)? });
        let mut keys = std::iter::once(ring.current()).chain(ring.retiring()).map(wrap).collect::<Result<Vec<_>>>()?;
        let stays = self.account_key_ids().next() == Some(ring.current().id());
        if stays && self.reencryption_pending() {
            keys.extend_from_within(..1);
        }
        self.body.account_key = keys;
        self.body.kek.version += 1;
        self.body.kek.check = *kek.check();
        self.body.kek.source = source;
        Ok(())
    }

    /// Changes a copy, and becomes the copy once it is durable.
    fn change(&mut self, dir: &dyn Dir, ring: &KeyRing, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let mut next = self.clone();
        change(&mut next)?;
        next.store(dir, ring)?;
        *self = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::crypto::kek::Kek;
    use crate::crypto::secret::SecretKey;
    use crate::io::real::RealDir;

    fn kek(byte: u8) -> Kek {
        Kek::new(SecretKey::filled(byte))
    }

    fn source(byte: u8) -> SourceRecord {
        SourceRecord::Credential { name: format!("kek{byte}") }
    }

    /// The id of the account key that a rotation adds.
    const NEW: Uuid = Uuid::from_u128(0x4e4557);

    fn derived(settings: &Settings, byte: u8) -> DerivedKeys {
        settings.derive(&kek(byte), Some(NEW)).unwrap()
    }

    struct Account {
        temporary: tempfile::TempDir,
        dir: RealDir,
        settings: Settings,
        ring: KeyRing,
    }

    fn account() -> Account {
        let temporary = tempfile::tempdir().unwrap();
        let dir = RealDir::open(temporary.path()).unwrap();
        let (settings, ring) = Settings::create(&dir, Uuid::new_v4(), &kek(1), source(1), true).unwrap();
        Account { temporary, dir, settings, ring }
    }

    impl Account {
        fn open(&self, byte: u8) -> Result<KeyRing> {
            Settings::load(&self.dir)?.unlock(&kek(byte))
        }

        fn rotate(&mut self, ring: KeyRing, byte: u8, source: SourceRecord) -> Result<bool> {
            let kek = derived(&self.settings, byte);
            self.settings.rotate_kek(&self.dir, &ring, &kek, source)
        }

        fn add(&mut self, ring: KeyRing, byte: u8, source: SourceRecord) -> Result<KeyRing> {
            let kek = derived(&self.settings, byte);
            self.settings.add_account_key(&self.dir, &ring, &kek, NEW, source)
        }

        fn text(&self) -> String {
            fs::read_to_string(self.temporary.path().join(FILE)).unwrap()
        }
    }

    #[test]
    fn a_new_kek_opens_what_the_old_one_did_and_the_old_one_is_refused() {
        let mut account = account();
        account.rotate(account.ring.clone(), 2, source(2)).unwrap();
        assert_eq!(account.open(2).unwrap().current().id(), account.ring.current().id());
        assert_eq!(account.open(1).unwrap_err().kind(), ErrorKind::WrongKey);
        assert_eq!((account.settings.kek_version(), account.settings.kek_source()), (2, &source(2)));
    }

    #[test]
    fn the_same_kek_again_is_no_rotation() {
        let mut account = account();
        let before = account.text();
        let error = account.rotate(account.ring.clone(), 1, source(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = account.add(account.ring.clone(), 1, source(2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(account.text(), before);
        assert_eq!(account.settings.kek_version(), 1);
    }

    #[test]
    fn the_same_kek_from_elsewhere_is_looked_for_there() {
        let mut account = account();
        assert!(!account.rotate(account.ring.clone(), 1, source(2)).unwrap());
        let settings = Settings::load(&account.dir).unwrap();
        assert_eq!((settings.kek_version(), settings.kek_source()), (1, &source(2)));
        assert_eq!(account.open(1).unwrap().current().id(), account.ring.current().id());
    }

    #[test]
    fn an_old_copy_of_the_file_opens_nothing_new_after_the_account_key_was_replaced() {
        let mut account = account();
        let old = account.open(1).unwrap();
        let during = account.add(account.ring.clone(), 2, source(2)).unwrap();
        assert_ne!(during.current().id(), old.current().id());
        let reopened = account.open(2).unwrap();
        assert_eq!(reopened.current().id(), during.current().id());
        assert_eq!(reopened.retiring().map(AccountKey::id), Some(old.current().id()));

        let error = account.add(during.clone(), 3, source(3)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);

        let after = account.settings.drop_retiring_key(&account.dir, &during, false).unwrap();
        assert!(account.open(2).unwrap().retiring().is_none());
        let disk = Uuid::new_v4();
        let mac = after.disk_keys(disk).unwrap().mac(&[b"x"]);
        assert!(!old.disk_keys(disk).unwrap().verify_mac(&[b"x"], &mac));
    }

    /// The KEK may be rotated again before the disks are done.
    #[test]
    fn both_account_keys_follow_a_new_kek() {
        let mut account = account();
        let during = account.add(account.ring.clone(), 2, source(2)).unwrap();
        account.rotate(during.clone(), 3, source(3)).unwrap();
        assert_eq!(account.open(2).unwrap_err().kind(), ErrorKind::WrongKey);
        let reopened = account.open(3).unwrap();
        assert_eq!(reopened.retiring().map(AccountKey::id), Some(account.ring.current().id()));
    }

    #[test]
    fn that_everything_is_to_be_reencrypted_is_noted_until_it_was() {
        let mut account = account();
        let during = account.add(account.ring.clone(), 2, source(2)).unwrap();
        assert!(!account.settings.reencryption_pending());
        let after = account.settings.drop_retiring_key(&account.dir, &during, true).unwrap();
        let pending = |account: &Account| Settings::load(&account.dir).unwrap().reencryption_pending();
        assert!(pending(&account) && account.open(2).unwrap().retiring().is_none());
        assert_eq!(account.settings.account_key_ids().collect::<Vec<_>>(), [NEW]);
        // Another KEK changes nothing of it, a revocation neither; another account key begins anew.
        account.rotate(after.clone(), 3, source(3)).unwrap();
        account.settings.set_revoked(&account.dir, &after, true).unwrap();
        account.settings.set_revoked(&account.dir, &after, false).unwrap();
        assert!(pending(&account) && account.open(3).is_ok());
        account.settings.end_reencryption(&account.dir, &after).unwrap();
        assert!(!pending(&account));
        account.open(3).unwrap();
    }

    #[test]
    fn revoked_keys_open_only_for_restoring() {
        let mut account = account();
        account.settings.set_revoked(&account.dir, &account.ring, true).unwrap();
        let error = account.open(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Revoked);
        assert!(error.hint_text().unwrap().contains("key restore"));

        let mut settings = Settings::load(&account.dir).unwrap();
        assert!(settings.revoked());
        assert_eq!(settings.unlock_revoked(&kek(2)).unwrap_err().kind(), ErrorKind::WrongKey);
        let ring = settings.unlock_revoked(&kek(1)).unwrap();
        settings.set_revoked(&account.dir, &ring, false).unwrap();
        account.open(1).unwrap();
    }

    #[test]
    fn taking_a_revocation_back_by_hand_is_refused() {
        let mut account = account();
        account.settings.set_revoked(&account.dir, &account.ring, true).unwrap();
        let text = account.text().replace("revoked = true", "revoked = false");
        fs::write(account.temporary.path().join(FILE), text).unwrap();
        assert_eq!(account.open(1).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn erased_keys_are_gone_from_the_file_and_from_where_it_lay() {
        let mut account = account();
        let wrapped: Vec<String> =
            account.settings.body.account_key.iter().map(|key| hex::encode(key.wrapped)).collect();
        let linked = account.temporary.path().join("linked");
        fs::hard_link(account.temporary.path().join(FILE), &linked).unwrap();
        account.settings.erase_account_keys(&account.dir).unwrap();
        assert!(account.settings.erased());
        let old = fs::read_to_string(linked).unwrap();
        assert!(wrapped.iter().all(|digits| !old.contains(digits) && !account.text().contains(digits)));
        let error = account.open(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Revoked);
        assert!(Settings::load(&account.dir).unwrap().unlock_revoked(&kek(1)).is_err());
    }

    /// Cut off, too long, no text, or with the key spelled otherwise: nothing of the old content stays where it lay.
    #[test]
    fn a_damaged_file_is_overwritten_whole() {
        let damages: [fn(String) -> Vec<u8>; 4] = [
            |text| text.as_bytes()[..text.len() / 2].to_vec(),
            |text| text.into_bytes().repeat(200),
            |text| [&[0xFF], text.as_bytes()].concat(),
            |text| {
                let (head, tail) = text.split_once("wrapped = \"").unwrap();
                let (key, tail) = tail.split_once('"').unwrap();
                format!("{head}wrapped = \"{}\"{tail}", key.to_uppercase()).into_bytes()
            },
        ];
        for damage in damages {
            let account = account();
            let path = account.temporary.path().join(FILE);
            let damaged = damage(account.text());
            fs::write(&path, &damaged).unwrap();
            let linked = account.temporary.path().join("linked");
            fs::hard_link(&path, &linked).unwrap();
            let mut settings = Settings::load(&account.dir).unwrap_or_else(|_| Settings::unreadable(&account.dir));
            settings.erase_account_keys(&account.dir).unwrap();
            assert_eq!(fs::read(linked).unwrap(), vec![0; damaged.len()]);
            assert!(Settings::load(&account.dir).unwrap().erased());
            assert_eq!(account.open(1).unwrap_err().kind(), ErrorKind::Revoked);
        }
    }

    #[test]
    fn erasing_a_revoked_or_erased_account_needs_no_kek_and_can_be_repeated() {
        let mut account = account();
        account.settings.set_revoked(&account.dir, &account.ring, true).unwrap();
        for _ in 0..2 {
            Settings::load(&account.dir).unwrap().erase_account_keys(&account.dir).unwrap();
        }
        assert!(Settings::load(&account.dir).unwrap().erased());
    }
}
