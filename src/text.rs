//! What comes from elsewhere, on its way to a terminal or into a log: names of files, sources of keys, fields of TOML
//! files, names of peers, messages of foreign servers.
//!
//! A terminal obeys control characters, and what reads a log takes each line for one event. So everything that people
//! read passes one of these functions on its way out, at the one place that writes there:
//!
//! - standard output and standard error: [`lines`] for what has several lines of ours, [`line`] for a message;
//! - a text log: [`line`] for each field of an event;
//! - JSON: [`json`], for what its own escapes leave.
//!
//! A text of several lines is made of pieces: a piece from elsewhere that may hold a line break passes [`line`] before
//! it gets in ([`path`] for a path).

use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;

/// `text` on one line: what would act on a terminal, break the line or change the order of letters is escaped.
#[must_use]
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, acts, |c, into| match c {
        '\n' | '\r' | '\t' => into.extend(c.escape_debug()),
        c => into.extend(c.escape_unicode()),
    })
}

/// The same for a text of several lines: line breaks and tabs stay.
#[must_use]
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    let acts = |c: char| acts(c) && !matches!(c, '\n' | '\t');
    escaped(text, acts, |c, into| into.extend(c.escape_unicode()))
}

/// A JSON document without what JSON lets pass in strings and a terminal obeys, as JSON escapes.
#[must_use]
pub(crate) fn json(document: &str) -> Cow<'_, str> {
    let acts = |c: char| acts(c) && !matches!(c, '\n' | '\t');
    escaped(document, acts, |c, into| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(into, "\\u{unit:04x}"); // a String takes everything
        }
    })
}

/// A path on one line. What is not UTF-8 in it shows as U+FFFD.
#[must_use]
pub(crate) fn path(path: &Path) -> String {
    line(&path.to_string_lossy()).into_owned()
}

/// Control characters of either kind, line separators, what overrides the direction of text, and characters that are
/// not seen and only mark others.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn escaped(text: &str, acts: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let Some(first) = text.find(&acts) else { return Cow::Borrowed(text) };
    let mut safe = String::with_capacity(text.len() + 16);
    safe.push_str(&text[..first]);
    for c in text[first..].chars() {
        if acts(c) { escape(c, &mut safe) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str =
        "a\u{1b}[2J\u{1b}]0;title\u{7}\n2026 INFO forged\r\u{9b}31m\u{7f}\u{202e}gpj.exe\u{2066}\u{2028}\0";

    #[test]
    fn nothing_acts_on_a_terminal() {
        for text in [line(HOSTILE), lines(HOSTILE), json(HOSTILE)] {
            assert!(text.chars().all(|c| !acts(c) || c == '\n'), "{text:?}");
            assert!(text.contains("forged") && text.contains("gpj.exe"), "the rest stays: {text}");
        }
        assert!(!line(HOSTILE).contains('\n') && line("a\nb\tc") == "a\\nb\\tc" && line("\u{1b}") == "\\u{1b}");
        assert_eq!(lines("a\nb\tc"), "a\nb\tc");
    }

    #[test]
    fn what_people_write_stays() {
        for text in ["", "größer 磁盘 диск", "a\u{200d}b\u{200c}", "C:\\images\\a.vhd", "שלום"] {
            assert!(matches!(line(text), Cow::Borrowed(_)) && line(text) == text);
        }
    }

    #[test]
    fn escapes_of_json_are_read_back() {
        let value = serde_json::json!({ "path": format!("{HOSTILE}\u{e0041}") });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let safe = json(&text);
            assert!(safe.chars().all(|c| !acts(c) || c == '\n'));
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
    }
}
