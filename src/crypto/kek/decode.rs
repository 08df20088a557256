//! The three forms in which 32 bytes of key are written: raw, hex, base64.
//!
//! Exactly 32 bytes are the key itself and never trimmed: a raw key may end in any byte. Anything else is text, around
//! which white space is allowed, as shells and KMS clients leave it there. Random bytes are all printable once in 10^13
//! keys: 32 bytes of text are a passphrase, or a shorter key in hex or base64. They open an account that was made with
//! them, and are noted as text, so that no new account is (`new.rs`).

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::crypto::kek::Kek;
use crate::crypto::secret::{SecretBytes, SecretKey};
use crate::{Error, ErrorKind, Result};

/// Bytes that no written form of a key exceeds.
pub(super) const LIMIT: usize = 1024;

/// The key written in `content`. [`ErrorKind::WrongKey`] when it is none.
pub(super) fn decode(content: SecretBytes) -> Result<Kek> {
    let is_raw = content.len() == SecretKey::LEN;
    let key = if is_raw { content } else { decode_text(&content)? };
    if key.expose().iter().all(|&byte| byte == 0) {
        return Err(Error::new(ErrorKind::WrongKey, "the key is all zeros, so it is no key")
            .hint("32 random bytes are one: head -c 32 /dev/urandom"));
    }
    let is_text = is_raw && key.expose().iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    if is_text {
        tracing::warn!("the key is text and holds less than 256 bits: `sealdisk key rotate-kek` takes another");
    }
    Ok(Kek { is_text, ..Kek::new(key.try_into()?) })
}

fn decode_text(content: &SecretBytes) -> Result<SecretBytes> {
    let text = content.expose().trim_ascii();
    let mut key = SecretBytes::zeroed(LIMIT)?;
    if text.len() == 2 * SecretKey::LEN && hex::decode_to_slice(text, &mut key.expose_mut()[..SecretKey::LEN]).is_ok() {
        key.truncate(SecretKey::LEN);
        return Ok(key);
    }
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    for alphabet in [STANDARD, URL_SAFE] {
        let engine = GeneralPurpose::new(&alphabet, config);
        if engine.decode_slice(text, key.expose_mut()).is_ok_and(|len| len == SecretKey::LEN) {
            key.truncate(SecretKey::LEN);
            return Ok(key);
        }
    }
    let what = format!("holds {} bytes that are no key", content.len());
    Err(Error::new(ErrorKind::WrongKey, what).hint("a key is 32 bytes, raw or written in hex or base64"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(content: &[u8]) -> Result<Kek> {
        decode(SecretBytes::copy_of(content).unwrap())
    }

    proptest! {
        #[test]
        fn every_form_of_a_key_is_the_same_key(
            key in any::<[u8; 32]>().prop_filter("all zeros", |key| *key != [0; 32]),
            before in "[ \t\r\n]{0,3}",
            after in "[ \t\r\n]{0,3}",
        ) {
            let forms = [
                hex::encode(key),
                hex::encode_upper(key),
                base64::prelude::BASE64_STANDARD.encode(key),
                base64::prelude::BASE64_STANDARD_NO_PAD.encode(key),
                base64::prelude::BASE64_URL_SAFE.encode(key),
            ];
            prop_assert_eq!(*decoded(&key).unwrap().expose(), key);
            for form in forms {
                let text = format!("{before}{form}{after}");
                prop_assert_eq!(*decoded(text.as_bytes()).unwrap().expose(), key, "{}", text);
            }
        }

        #[test]
        fn what_is_no_key_is_refused(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let raw = content.len() == 32 && content.iter().any(|&byte| byte != 0);
            let text = content.trim_ascii();
            let written = (43..=44).contains(&text.len()) || text.len() == 64;
            prop_assume!(!written);
            prop_assert_eq!(decoded(&content).is_ok(), raw);
        }
    }

    #[test]
    fn raw_keys_are_never_trimmed() {
        for byte in *b" \n\r\t\0" {
            let mut key = [7; 32];
            key[31] = byte;
            assert_eq!(decoded(&key).unwrap().expose(), &key);
            let mut longer = key.to_vec();
            longer.push(b'\n');
            assert_eq!(decoded(&longer).unwrap_err().kind(), ErrorKind::WrongKey);
        }
    }

    #[test]
    fn zeros_and_near_misses_are_no_keys() {
        for content in [&[0; 32][..], b"", "0".repeat(64).as_bytes(), "a".repeat(63).as_bytes(), &[b'g'; 64]] {
            let error = decoded(content).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WrongKey);
        }
    }

    #[test]
    fn an_error_holds_nothing_of_the_content() {
        let error = decoded(b"correct horse battery staple").unwrap_err();
        assert!(!format!("{error:?} {:?}", error.hint_text()).contains("horse"));
    }
}
