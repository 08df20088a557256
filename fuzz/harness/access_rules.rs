//! Any bytes as a file of access rules: refused in one line, or read as the model beside it reads it.

use sealdisk::ErrorKind;
use sealdisk::account::access::{Access, Right};
use sealdisk::account::name::BlobName;
use sealdisk::serve::Identity;

/// Longer ones take the model's matcher too long.
const MOST: usize = 4096;

const NAMES: [&str; 6] = ["web1", "vhds/web1", "web/db", "web/a/b", "scratch", "w*b"];

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(&data[..data.len().min(MOST)]) else { return };
    let access = match Access::parse(text, Some(65534)) {
        Ok(access) => access,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().starts_with("line ") && !error.to_string().contains('\n'), "{error}");
            return;
        }
    };
    let rules = text.parse::<toml::Table>().expect("TOML, as it was read");
    let rules = rules["rule"].as_array().expect("a list of rules");
    assert!(access.count() == rules.len() && !rules.is_empty());
    let client = |uid, names: &[&str]| {
        let certificate = names.iter().map(|&name| name.into()).collect();
        Identity { uid, certificate, ..Identity::default() }
    };
    let clients = [
        client(None, &[]),
        client(Some(0), &[]),
        client(Some(1000), &["web1"]),
        client(Some(65534), &[]),
        client(None, &["backup", "backup.example.org"]),
    ];
    for client in &clients {
        for name in NAMES {
            let Ok(disk) = name.parse::<BlobName>() else { continue };
            let expected = rules.iter().find_map(|rule| {
                let fits = is(rule, client) && has(rule, &disk);
                fits.then(|| if rule["access"].as_str() == Some("rw") { Right::ReadWrite } else { Right::Read })
            });
            assert_eq!(access.right(client, &disk), expected, "{client:?} {name}");
        }
    }
}

fn is(rule: &toml::Value, client: &Identity) -> bool {
    if let Some(pattern) = rule.get("certificate").and_then(toml::Value::as_str) {
        return client.certificate.iter().any(|name| glob(pattern, name));
    }
    match rule.get("uid").and_then(toml::Value::as_integer) {
        Some(uid) => uid != 65534 && client.uid.is_some_and(|own| i64::from(own) == uid),
        None => true,
    }
}

fn has(rule: &toml::Value, disk: &BlobName) -> bool {
    rule["disks"].as_array().into_iter().flatten().filter_map(toml::Value::as_str).any(|pattern| {
        let (container, blob) =
            pattern.split_once('/').unwrap_or(if pattern == "*" { ("*", "*") } else { ("vhds", pattern) });
        glob(container, disk.container()) && glob(blob, disk.blob())
    })
}

/// Row by row: which beginnings of the name the pattern so far matches.
fn glob(pattern: &str, name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let mut row = vec![false; name.len() + 1];
    row[0] = true;
    for c in pattern.chars() {
        let mut next = vec![false; name.len() + 1];
        for at in 0..=name.len() {
            next[at] = match c {
                '*' => row[at] || (at > 0 && next[at - 1]),
                c => at > 0 && row[at - 1] && (c == '?' || c == name[at - 1]),
            };
        }
        row = next;
    }
    row[name.len()]
}
