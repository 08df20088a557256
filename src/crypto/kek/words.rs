//! Words of a command line as a shell takes them, in a message.

use std::borrow::Cow;

use crate::text;

/// Characters of a word that a message shows at most.
const SHOWN: usize = 400;

/// The words `argv` as one line that a shell splits into them again, with control characters escaped.
pub(super) fn join(argv: &[String]) -> String {
    argv.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// `text` as one word of a shell, with control characters escaped.
pub(super) fn quote(text: &str) -> String {
    let text = text::line(text);
    let text = match text.char_indices().nth(SHOWN) {
        Some((end, _)) => Cow::Owned(format!("{} ...", &text[..end])),
        None => text,
    };
    // Only a zero byte cannot be quoted, and that has been escaped.
    shlex::try_quote(&text).map_or_else(|_| text.to_string(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_and_orders_to_a_terminal_are_shown() {
        let argv = ["/bin/sh", "-c", "a 'b' \"$c\" | d", ""].map(str::to_owned);
        assert_eq!(shlex::split(&join(&argv)).expect("words"), argv);
        assert!(quote(&"x".repeat(100_000)).len() < 500);
        assert!(!join(&["\u{1b}]0;title\u{7}".to_owned()]).chars().any(char::is_control));
    }
}
