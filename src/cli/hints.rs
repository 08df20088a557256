//! Hints name options that the verb has.
//!
//! Code that one verb alone reaches may name that verb's options. Code that several reach, above all what reads images,
//! gets the names from the verb ([`crate::vhd::OptionNames`]), or names a whole command: `sealdisk VERB --option`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use super::{Cli, create, quickstart, rebase, vhd};
use crate::vhd::OptionNames;

/// Verbs that reach code which is no verb's own: one of them at least has an option that a hint there names. Where
/// nothing is listed, any verb may have it.
const REACHED_BY: &[(&str, &[&str])] = &[
    ("account/life", &["create", "resize", "delete"]),
    ("crypto/kek", &["init"]),
    ("confine", &["serve"]),
    ("nbd/client", &["import"]),
    ("nbd", &["serve"]),
    ("vhd/resize", &["vhd resize"]),
    ("base", &[]),
    ("copy", &[]),
    ("vhd", &[]),
];

/// The options of a verb, by its words.
fn options(verb: &str) -> Option<BTreeSet<String>> {
    let mut command = Cli::command();
    command.build();
    let mut found = &command;
    for word in verb.split(' ') {
        found = found.find_subcommand(word)?;
    }
    Some(found.get_arguments().filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")).collect())
}

/// Every verb, by its words.
fn verbs(command: &clap::Command, before: &str) -> Vec<String> {
    let each = command.get_subcommands().flat_map(|verb| {
        let words = format!("{before}{}", verb.get_name());
        let below = verbs(verb, &format!("{words} "));
        std::iter::once(words).chain(below)
    });
    each.collect()
}

/// The words of `text` that are options.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
    words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect()
}

/// The verb of a command line that begins with the program's name, with the deepest noun.
fn verb_of(command: &str) -> Option<String> {
    let mut words = command.strip_prefix("sealdisk ").into_iter().flat_map(|rest| rest.split(' '));
    let first = words.next()?.to_owned();
    let second = words.next().map(|second| format!("{first} {second}"));
    second.filter(|verb| options(verb).is_some()).or(Some(first)).filter(|verb| options(verb).is_some())
}

/// What is wrong with a hint that the verbs `verbs` may show.
fn wrong(hint: &str, verbs: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, part) in hint.split('`').enumerate() {
        let theirs = match verb_of(part.trim()).filter(|_| number % 2 == 1) {
            Some(verb) => options(&verb).unwrap_or_default(),
            // Options of other programs, in commands of theirs.
            None if number % 2 == 1 && !part.starts_with("--") => continue,
            None => verbs.iter().filter_map(|verb| options(verb)).flatten().collect(),
        };
        wrong.extend(named(part).difference(&theirs).map(|option| format!("{option} in {hint:?}")));
    }
    wrong
}

/// The hints that a source file gives: what stands in string literals behind `hint(`, up to the parenthesis that
/// closes.
fn hints(source: &str) -> Vec<String> {
    let mut hints = Vec::new();
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    for (at, _) in code.match_indices("hint(\"").chain(code.match_indices("hint(format!(\"")) {
        let text = &code[at + code[at..].find('"').unwrap_or(0) + 1..];
        let mut end = 0;
        let bytes = text.as_bytes();
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        hints.push(text[..end.min(text.len())].to_owned());
    }
    hints
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            sources(&entry, into);
        } else if entry.extension().is_some_and(|ending| ending == "rs") {
            into.push(entry);
        }
    }
}

#[test]
fn hints_name_options_of_the_verb_that_shows_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let every = verbs(&Cli::command(), "");
    let (mut bad, mut seen) = (Vec::new(), 0);
    for file in files {
        let path = file.strip_prefix(&src).expect("in src").with_extension("").display().to_string();
        let own = path.strip_prefix("cli/").map(|path| path.replace('/', " ").replace('_', "-"));
        let verbs = match own.as_deref().filter(|own| options(own).is_some()) {
            Some(own) => vec![own],
            None => {
                let listed = REACHED_BY.iter().find(|(place, _)| path.starts_with(place));
                listed.map_or_else(|| every.iter().map(String::as_str).collect(), |(_, verbs)| verbs.to_vec())
            }
        };
        for hint in hints(&fs::read_to_string(&file).expect("a source")) {
            seen += 1;
            bad.extend(wrong(&hint, &verbs).into_iter().map(|what| format!("{path}: {what}")));
        }
    }
    assert!(seen > 100, "{seen} hints were found: they are looked for in another form");
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn the_names_that_verbs_hand_over_are_their_options() {
    let names = |names: OptionNames| [names.format, names.root, names.recover].into_iter().flatten();
    for (verb, given) in [("create", create::NAMES), ("rebase", rebase::NAMES), ("vhd info", vhd::NAMES)] {
        let own = options(verb).expect("a verb");
        assert!(names(given).all(|name| own.contains(name)), "{verb}: {given:?}");
    }
    for (verb, format) in [("import", "--format"), ("vhd convert", "--from")] {
        let own = options(verb).expect("a verb");
        assert!(own.contains(format) && names(vhd::NAMES).all(|name| own.contains(name)), "{verb}");
    }
    for name in names(quickstart::NAMES) {
        let verb = verb_of(name).expect("a whole command");
        assert!(named(name).is_subset(&options(&verb).expect("a verb")), "{name}");
    }
}

#[test]
fn a_hint_of_another_verb_is_found() {
    assert_eq!(wrong("`--parent-root DIR` allows a further folder", &["create"]).len(), 1);
    assert_eq!(wrong("`sealdisk create NAME --base IMAGE --recover`", &[]).len(), 1);
    assert_eq!(wrong("`sealdisk vhd info FILE --recover`, or `tar --list`; --base-root", &["create"]).len(), 0);
}
