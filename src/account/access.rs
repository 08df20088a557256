//! Which client may have which disk, and how: the rules of `serve --access FILE`.
//!
//! The first rule that fits both client and disk counts; a client may not have a disk that no rule gives to it. A rule
//! is of disks: their snapshots go with them.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::glob::Glob;
use super::name::{BlobName, DEFAULT_CONTAINER};
use crate::serve::Identity;
use crate::{Error, ErrorKind, Result};

/// The rules of one file.
#[derive(Debug, Clone)]
pub struct Access {
    rules: Vec<Rule>,
    /// The user id that stands for every user who has none in this process's user namespace, and so for nobody in
    /// particular.
    nobody: Option<u32>,
}

/// What a client may do with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Right {
    #[serde(rename = "ro")]
    Read,
    #[serde(rename = "rw")]
    ReadWrite,
}

#[derive(Debug, Clone)]
struct Rule {
    who: Who,
    disks: Vec<Disks>,
    right: Right,
}

#[derive(Debug, Clone)]
enum Who {
    /// Any name of its certificate.
    Certificate(Glob),
    Uid(u32),
    Anybody,
}

/// `*`, or a pattern of names as [`BlobName`] has them: one without a slash is of the default container.
#[derive(Debug, Clone)]
struct Disks {
    container: Glob,
    blob: Glob,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    rule: Vec<Spanned<RuleText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    certificate: Option<String>,
    uid: Option<u32>,
    anybody: Option<bool>,
    disks: Vec<Spanned<String>>,
    access: Right,
}

impl Access {
    /// The rules in `text`; `nobody`: see [`Access::nobody`]. [`ErrorKind::InvalidInput`], with line and column, for
    /// what is no list of rules.
    pub fn parse(text: &str, nobody: Option<u32>) -> Result<Self> {
        let file: FileText = toml::from_str(text).map_err(|error| {
            let message = error.message().trim().replace('\n', ", ");
            wrong(text, error.span().unwrap_or_default(), &message)
        })?;
        if file.rule.is_empty() {
            return Err(wrong(text, 0..0, "there is no rule, so nobody could attach anything"));
        }
        let rule = |rule: Spanned<RuleText>| {
            let whole = rule.span();
            Rule::parse(rule.into_inner()).map_err(|(span, what)| wrong(text, span.unwrap_or(whole), &what))
        };
        Ok(Self { rules: file.rule.into_iter().map(rule).collect::<Result<_>>()?, nobody })
    }

    /// What `client` may do with `disk`; `None`: nothing, and it is not to learn that there is one.
    #[must_use]
    pub fn right(&self, client: &Identity, disk: &BlobName) -> Option<Right> {
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.who.is(client, self.nobody) && rule.disks.iter().any(|disks| disks.contains(disk)));
        rule.map(|rule| rule.right)
    }

    /// Whether rules name users.
    #[must_use]
    pub fn names_users(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.who, Who::Uid(_)))
    }

    /// Whether every rule says who its clients are, by user or certificate. Then a client of which nothing is known has
    /// nothing.
    #[must_use]
    pub fn names_every_client(&self) -> bool {
        !self.rules.iter().any(|rule| matches!(rule.who, Who::Anybody))
    }

    /// How many rules there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rules.len()
    }
}

impl Rule {
    /// What is wrong with it is `Err`, with its place in the file where that is less than the rule.
    fn parse(text: RuleText) -> std::result::Result<Self, (Option<Range<usize>>, String)> {
        let RuleText { certificate, uid, anybody, disks, access } = text;
        let who = match (certificate, uid, anybody) {
            (Some(name), None, None) if !name.is_empty() => Who::Certificate(Glob::new(&name)),
            (None, Some(uid), None) => Who::Uid(uid),
            (None, None, Some(true)) => Who::Anybody,
            _ => {
                let what = "a rule is of one of: certificate = \"NAME\", uid = NUMBER, anybody = true";
                return Err((None, what.to_owned()));
            }
        };
        if disks.is_empty() {
            return Err((None, "a rule names disks: disks = [\"*\"] is all of them".to_owned()));
        }
        let parse =
            |pattern: &Spanned<String>| Disks::parse(pattern.get_ref()).map_err(|what| (Some(pattern.span()), what));
        let disks = disks.iter().map(parse).collect::<std::result::Result<_, _>>()?;
        Ok(Self { who, disks, right: access })
    }
}

impl Who {
    fn is(&self, client: &Identity, nobody: Option<u32>) -> bool {
        match self {
            Self::Certificate(glob) => client.certificate.iter().any(|name| glob.matches(name)),
            Self::Uid(uid) => client.uid == Some(*uid) && nobody != Some(*uid),
            Self::Anybody => true,
        }
    }
}

impl Disks {
    fn parse(pattern: &str) -> std::result::Result<Self, String> {
        if pattern.contains('@') {
            return Err(format!("\"{pattern}\": snapshots go with their disk, so a pattern has no @"));
        }
        let (container, blob) = match pattern.split_once('/') {
            Some((container, blob)) => (container, blob),
            None if pattern == "*" => ("*", "*"),
            None => (DEFAULT_CONTAINER, pattern),
        };
        if container.is_empty() || blob.is_empty() {
            return Err(format!("\"{pattern}\" is the name of no disk: web1, db-*, CONTAINER/* or *"));
        }
        Ok(Self { container: Glob::new(container), blob: Glob::new(blob) })
    }

    fn contains(&self, disk: &BlobName) -> bool {
        self.container.matches(disk.container()) && self.blob.matches(disk.blob())
    }
}

/// With the place in `text` where it is.
fn wrong(text: &str, span: Range<usize>, what: &str) -> Error {
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Error::new(ErrorKind::InvalidInput, format!("line {line}, column {column}: {what}"))
        .hint("docs/nbd.md has an example; [[rule]] begins each rule")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
# The hypervisors write, the backup reads.
[[rule]]
certificate = "hv*.example.org"
disks = ["web/*", "scratch"]
access = "rw"

[[rule]]
uid = 1000
disks = ["web/a*"]
access = "rw"

[[rule]]
certificate = "backup"
disks = ["*"]
access = "ro"

[[rule]]
uid = 1000
disks = ["web/*"]
access = "ro"

[[rule]]
anybody = true
disks = ["public"]
access = "ro"
"#;

    fn certificate(names: &[&str]) -> Identity {
        Identity { certificate: names.iter().map(|name| (*name).to_owned()).collect(), ..Identity::default() }
    }

    fn user(uid: u32) -> Identity {
        Identity { uid: Some(uid), ..Identity::default() }
    }

    #[test]
    fn the_first_rule_that_fits_counts_and_without_one_there_is_nothing() {
        let access = Access::parse(RULES, None).unwrap();
        let right = |client: &Identity, disk: &str| access.right(client, &disk.parse().unwrap());
        let (hypervisor, backup) = (certificate(&["x", "hv1.example.org"]), certificate(&["backup"]));
        for (client, disk, expected) in [
            (&hypervisor, "web/db", Some(Right::ReadWrite)),
            (&hypervisor, "web/a/b", Some(Right::ReadWrite)),
            (&hypervisor, "scratch", Some(Right::ReadWrite)),
            (&hypervisor, "vhds/scratch", Some(Right::ReadWrite)),
            (&hypervisor, "other/scratch", None),
            (&hypervisor, "scratch2", None),
            (&backup, "web/db", Some(Right::Read)),
            (&backup, "scratch", Some(Right::Read)),
            (&user(1000), "web/alpha", Some(Right::ReadWrite)),
            (&user(1000), "web/beta", Some(Right::Read)),
            (&user(1000), "scratch", None),
            (&user(0), "web/alpha", None),
            (&user(0), "public", Some(Right::Read)),
            (&Identity::default(), "public", Some(Right::Read)),
            (&certificate(&["backup2"]), "web/db", None),
            (&certificate(&["hv1.example.org.attacker.net"]), "web/db", None),
        ] {
            assert_eq!(right(client, disk), expected, "{client:?} {disk}");
        }
        assert!(access.names_users() && !access.names_every_client() && access.count() == 5);
    }

    /// In a user namespace that maps some users only, all others have one id: a rule must not give one's disk to them.
    #[test]
    fn the_user_id_of_unknown_users_is_nobodys() {
        let rules = "[[rule]]\nuid = 65534\ndisks = [\"*\"]\naccess = \"rw\"\n";
        let right = |nobody| Access::parse(rules, nobody).unwrap().right(&user(65534), &"disk".parse().unwrap());
        assert_eq!(right(None), Some(Right::ReadWrite));
        assert_eq!(right(Some(65534)), None);
    }

    #[test]
    fn what_is_no_list_of_rules_is_refused_with_its_place() {
        let rule = "[[rule]]\nuid = 1\ndisks = [\"*\"]\naccess = \"rw\"\n";
        for (text, place) in [
            (String::new(), "line 1, column 1"),
            ("rule = []".to_owned(), "line 1, column 1: there is no rule"),
            (format!("{rule}[[rule]]\nuid = 1\n  uid = 2\n"), "line 7, column 3"),
            (format!("{rule}disk = 1\n"), "line 5, column 1: unknown field"),
            (rule.replace("rw", "w"), "line 4, column 10"),
            (rule.replace("uid = 1", "uid = -1"), "line 2, column 7"),
            (rule.replace("uid = 1", "user = \"me\""), "line 2, column 1"),
            (rule.replace("uid = 1", ""), "one of: certificate"),
            (rule.replace("uid = 1", "uid = 1\nanybody = true"), "one of: certificate"),
            (rule.replace("uid = 1", "anybody = false"), "one of: certificate"),
            (rule.replace("uid = 1", "certificate = \"\""), "one of: certificate"),
            (format!("\n{}", rule.replace("[\"*\"]", "[]")), "line 2, column 1: a rule names disks"),
            (rule.replace("\"*\"", "\"a@b\""), "line 3, column 10: \"a@b\": snapshots go with their disk"),
            (rule.replace("\"*\"", "\"*\",\n  \"web/\""), "line 4, column 3: \"web/\" is the name of no disk"),
            (rule.replace("\"*\"", "\"*\"\u{0}"), "line 3"),
            ("[[rule]".to_owned(), "line 1"),
        ] {
            let error = Access::parse(&text, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let message = error.to_string();
            assert!(message.contains(place) && !message.contains('\n'), "{text:?}: {message}");
        }
    }
}
