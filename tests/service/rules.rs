//! The alert rules and the dashboard in `dist/`: Prometheus takes them, and every metric they use exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sealdisk::nbd::wire::transmission::{HeaderStyle, command};

use crate::raw::Client;
use crate::scrape::{Scrape, serve};
use crate::support::{Account, Certificates, MIB, stdout_of};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What `./test` unpacks from Debian's package of Prometheus where it is not installed.
fn promtool() -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prometheus/usr/bin");
    let folders = std::env::split_paths(&path).chain([unpacked, project("target/tmp/prometheus/usr/bin")]);
    let found = folders.map(|folder| folder.join("promtool")).find(|path| path.is_file());
    Command::new(found.expect("promtool is not installed (./test fetches it)"))
}

/// The expressions of the dashboard, with Grafana's variables filled in.
fn dashboard() -> Vec<String> {
    let text = fs::read_to_string(project("dist/grafana-dashboard.json")).expect("a dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let expressions = targets.map(|target| target["expr"].as_str().expect("an expression"));
    let filled = |text: &str| text.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$disk", ".*");
    expressions.map(filled).collect()
}

/// Names of metrics in a text: of the server's, and of its process.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("sealdisk_") || word.starts_with("process_")).collect()
}

#[test]
fn prometheus_takes_the_rules_and_the_expressions_of_the_dashboard() {
    let rules = project("dist/prometheus-alerts.yml");
    let checked = stdout_of(promtool().arg("check").arg("rules").arg(&rules));
    assert!(checked.contains("SUCCESS"), "{checked}");
    stdout_of(promtool().arg("test").arg("rules").arg(project("tests/service/alerts.yml")));
    let expressions = dashboard();
    assert!(expressions.len() > 20);
    let mut recorded = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (index, expression) in expressions.iter().enumerate() {
        recorded += &format!("  - record: panel:{index}\n    expr: {}\n", serde_json::to_string(expression).unwrap());
    }
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let path = scratch.path().join("dashboard.yml");
    fs::write(&path, recorded).expect("written");
    stdout_of(promtool().arg("check").arg("rules").arg(&path));
}

#[test]
fn every_metric_they_use_exists() {
    let account = Account::new();
    account.create("a", MIB);
    let certificates = Certificates::make();
    let options = certificates.options();
    let (server, addr) = serve(&account, &options.iter().map(String::as_str).collect::<Vec<_>>());
    let mut client = Client::attached(server.socket(), HeaderStyle::Simple);
    client.write(0, &[1; 512]);
    assert_eq!(client.try_request(command::FLUSH, 0, 0, 0), 0);
    let scrape = Scrape::fresh(addr);
    let there: BTreeSet<_> = scrape.names().collect();
    let rules = fs::read_to_string(project("dist/prometheus-alerts.yml")).expect("rules");
    let panels = dashboard().join("\n");
    let used: BTreeSet<_> = metrics_in(&rules).into_iter().chain(metrics_in(&panels)).collect();
    assert!(used.len() > 20, "{used:?}");
    let missing: Vec<_> = used.difference(&there).collect();
    assert!(missing.is_empty(), "there is no {missing:?}");
    // And what the manual explains is what there is.
    let manual = fs::read_to_string(project("docs/operate.md")).expect("the manual");
    let explained = metrics_in(&manual);
    let histogram = |name: &str| name.ends_with("_bucket") || name.ends_with("_sum") || name.ends_with("_count");
    let unexplained: Vec<_> = there.iter().filter(|name| !explained.contains(*name) && !histogram(name)).collect();
    assert!(unexplained.is_empty(), "docs/operate.md says nothing of {unexplained:?}");
}
