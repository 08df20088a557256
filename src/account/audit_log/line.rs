//! A line of the audit log: one JSON object, `docs/security.md` says what is in it.
//!
//! The text up to `,"chain":` is what was done. `chain` is SHA-256 over `sealdisk/1 audit-log`, a zero byte, the chain
//! of the line before it (32 zero bytes before the first) and that text. `mac` is HMAC-SHA256 over `chain` under the
//! key `audit-log-mac` of the account key `key`; `null` where the account's keys were not at hand.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::crypto::keyring::AuditKey;
use crate::{Error, ErrorKind, Result};

/// Bytes of the longest line.
pub const LONGEST: usize = 64 << 10;
/// How every line begins.
pub const BEGIN: &[u8] = b"{\"n\":";
/// Characters of each text in it.
const LONGEST_TEXT: usize = 4096;
const PURPOSE: &[u8] = b"sealdisk/1 audit-log\0";
const CHAIN: &str = ",\"chain\":\"";

/// SHA-256 over a line and all before it.
pub type Chain = [u8; 32];

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Seconds since the epoch.
    pub time: u64,
    pub account: Uuid,
    pub verb: String,
    /// The disk or snapshot; empty: the account.
    pub on: String,
    pub detail: String,
    /// Who asked for it.
    pub uid: u32,
    /// `None`: a process that this one cannot see.
    pub pid: Option<u32>,
    pub outcome: Outcome,
    /// Why it failed.
    pub error: Option<String>,
}

/// Where a line stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// The first line is 1.
    pub n: u64,
    pub chain: Chain,
}

/// A line as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    text: String,
    fields: Fields,
}

/// In the order of the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    n: u64,
    time: u64,
    account: Uuid,
    verb: String,
    on: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
    uid: u32,
    pid: Option<u32>,
    outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The account key that `mac` is made under.
    key: Option<Uuid>,
    #[serde(with = "hex", skip_serializing)]
    chain: Chain,
    #[serde(skip_serializing)]
    mac: Option<Hex>,
}

/// What became of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It goes on after this line; another line tells its end.
    Begun,
    Done,
    Failed,
    /// It ended before it was done.
    Stopped,
}

impl Outcome {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Hex(#[serde(with = "hex")] [u8; 32]);

impl Line {
    /// The line for `entry` after the one at `follows`.
    pub(super) fn new(entry: &Entry, key: Option<&AuditKey>, follows: Link) -> Result<Self> {
        let short = |text: &str| text.chars().take(LONGEST_TEXT).collect::<String>();
        let mut fields = Fields {
            n: follows.n + 1,
            time: entry.time,
            account: entry.account,
            verb: short(&entry.verb),
            on: short(&entry.on),
            detail: short(&entry.detail),
            uid: entry.uid,
            pid: entry.pid,
            outcome: entry.outcome,
            error: entry.error.as_deref().map(short),
            key: key.map(AuditKey::account_key),
            chain: Chain::default(),
            mac: None,
        };
        let json = serde_json::to_string(&fields).map_err(|error| Error::io("JSON failed", error.into()))?;
        let mut text = json.strip_suffix('}').unwrap_or(&json).to_owned();
        fields.chain = chained(&follows.chain, &text);
        fields.mac = key.map(|key| Hex(key.mac(&fields.chain)));
        let mac = fields.mac.map_or_else(|| "null".to_owned(), |mac| format!("\"{}\"", hex::encode(mac.0)));
        text.push_str(&format!("{CHAIN}{}\",\"mac\":{mac}}}", hex::encode(fields.chain)));
        Ok(Self { text, fields })
    }

    /// Takes a line apart, without its line break. [`ErrorKind::Corrupt`]: it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let corrupt = |what: String| Error::new(ErrorKind::Corrupt, what);
        if text.len() > LONGEST {
            return Err(corrupt(format!("a line of {} bytes", text.len())));
        }
        let fields: Fields =
            serde_json::from_str(text).map_err(|error| corrupt(format!("no line of an audit log: {error}")))?;
        let line = Self { text: text.to_owned(), fields };
        // In one form only: what is hashed is the text.
        if line.hashed().is_none_or(|hashed| line.written(hashed) != text) {
            return Err(corrupt("a line of an audit log in another form".to_owned()));
        }
        Ok(line)
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub fn link(&self) -> Link {
        Link { n: self.fields.n, chain: self.fields.chain }
    }

    #[must_use]
    pub fn entry(&self) -> Entry {
        let Fields { time, account, verb, on, detail, uid, pid, outcome, error, .. } = self.fields.clone();
        Entry { time, account, verb, on, detail, uid, pid, outcome, error }
    }

    /// The account key that its MAC is made under.
    #[must_use]
    pub fn key(&self) -> Option<Uuid> {
        self.fields.key
    }

    /// Whether its chain continues `follows`.
    #[must_use]
    pub fn continues(&self, follows: &Chain) -> bool {
        self.hashed().is_some_and(|hashed| chained(follows, hashed) == self.fields.chain)
    }

    /// Whether its MAC is the one of `key`.
    #[must_use]
    pub fn is_made_with(&self, key: &AuditKey) -> bool {
        self.fields.mac.is_some_and(|mac| key.verify(&self.fields.chain, &mac.0))
    }

    fn hashed(&self) -> Option<&str> {
        self.text.rfind(CHAIN).map(|at| &self.text[..at])
    }

    /// The text that the fields have after `hashed`, where that is theirs.
    fn written(&self, hashed: &str) -> String {
        let json = serde_json::to_string(&self.fields).unwrap_or_default();
        let mac = self.fields.mac.map_or_else(|| "null".to_owned(), |mac| format!("\"{}\"", hex::encode(mac.0)));
        let hashed = if json.strip_suffix('}') == Some(hashed) { hashed } else { "" };
        format!("{hashed}{CHAIN}{}\",\"mac\":{mac}}}", hex::encode(self.fields.chain))
    }
}

fn chained(before: &Chain, text: &str) -> Chain {
    let mut hash = Sha256::new();
    hash.update(PURPOSE);
    hash.update(before);
    hash.update(text.as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keyring::AccountKey;

    fn entry() -> Entry {
        Entry {
            time: 1_764_580_000,
            account: Uuid::from_u128(1),
            verb: "delete".into(),
            on: "a \",\"chain\":\"b".into(),
            detail: "line\nbreak".into(),
            uid: 1000,
            pid: None,
            outcome: Outcome::Failed,
            error: Some("no".into()),
        }
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let key = AccountKey::generate(Uuid::from_u128(1)).unwrap().audit_key().unwrap();
        let follows = Link { n: 6, chain: [7; 32] };
        let outcomes = [Outcome::Begun, Outcome::Done, Outcome::Failed, Outcome::Stopped];
        for (outcome, key) in outcomes.into_iter().zip([Some(&key), None, Some(&key), None]) {
            let entry = Entry { outcome, ..entry() };
            let line = Line::new(&entry, key, follows).unwrap();
            assert!(line.text().contains(&format!("\"outcome\":\"{}\"", outcome.name())));
            assert!(!line.text().contains('\n'));
            let again = Line::parse(line.text()).unwrap();
            assert_eq!((&again, again.entry(), again.link().n), (&line, entry, 7));
            assert!(again.continues(&[7; 32]) && !again.continues(&[8; 32]));
            assert_eq!(key.is_some_and(|key| again.is_made_with(key)), key.is_some());
        }
    }

    #[test]
    fn what_is_in_another_form_is_no_line() {
        let line = Line::new(&entry(), None, Link::default()).unwrap();
        let text = line.text();
        for other in [
            text.replace("\"n\":1,", "\"n\": 1,"),
            text.replace("{\"n\":1,", "{").replace(",\"chain\"", ",\"n\":1,\"chain\""),
            format!("{text} "),
            text.replace("null}", "null,\"more\":1}"),
            text[..text.len() - 1].to_owned(),
            String::new(),
            "{}".to_owned(),
            "x".repeat(LONGEST + 1),
        ] {
            assert_eq!(Line::parse(&other).unwrap_err().kind(), ErrorKind::Corrupt, "{other}");
        }
        let changed = Line::parse(&text.replace("delete", "create")).unwrap();
        assert!(!changed.continues(&Chain::default()));
    }

    #[test]
    fn long_texts_are_cut() {
        let long = Entry { detail: "ä".repeat(100_000), ..entry() };
        let line = Line::new(&long, None, Link::default()).unwrap();
        Line::parse(line.text()).unwrap();
    }
}
