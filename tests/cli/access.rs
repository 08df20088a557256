//! `serve --access`: who may have which disk, by real users and real certificates.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sealdisk::nbd::wire::handshake::OptionType;
use sealdisk::nbd::wire::transmission::HeaderStyle;
use serde_json::Value;

use crate::client::Client;
use crate::raw::{Client as Raw, ERR};
use crate::shapes::answer;
use crate::support::{Account, Certificates, MIB, Server, program, run, stdout_of};

/// A user that owns nothing.
const STRANGER: u32 = 65534;

fn path_str(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn rules(account: &Account, text: &str) -> PathBuf {
    let path = account.scratch("access.toml");
    let temporary = account.scratch("access.new");
    fs::write(&temporary, text).expect("a file");
    fs::rename(&temporary, &path).expect("in its place");
    path
}

fn rule(who: &str, disks: &str, access: &str) -> String {
    format!("[[rule]]\n{who}\ndisks = [{disks}]\naccess = \"{access}\"\n")
}

/// Disks by name with whether they are read-only, as this client sees them.
fn listed(command: &mut Command, uri: &str) -> Vec<(String, bool)> {
    let list = stdout_of(command.args(["--json", "--list", uri]));
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let export = |export: &Value| {
        let name = export["export-name"].as_str().expect("a name").to_owned();
        (name, export["is_read_only"].as_bool().expect("a flag"))
    };
    list["exports"].as_array().expect("exports").iter().map(export).collect()
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// All replies to whatever can be asked about a name, byte for byte, with the name itself blotted out.
fn replies_about(server: &Server, name: &str) -> Vec<(u32, u32, String)> {
    let mut client = Raw::greeted(server.socket());
    client.negotiate(HeaderStyle::Structured);
    let mut replies = client.info(OptionType::Info, name, &[1, 2, 3]);
    for option in [OptionType::ListMetaContext, OptionType::SetMetaContext] {
        replies.extend(client.meta_context(option, name, &["base:allocation"]));
    }
    replies.extend(client.info(OptionType::Go, name, &[1, 2, 3]));
    let disk = name.split('@').next().unwrap_or(name);
    let text = |data: &[u8]| String::from_utf8_lossy(data).replace(disk, "NAME");
    replies.into_iter().map(|reply| (reply.option, reply.kind, text(&reply.data))).collect()
}

/// Whether the old way in lets a client have the disk; else the server hangs up.
fn has_by_export_name(server: &Server, name: &str) -> bool {
    let mut client = Raw::greeted(server.socket());
    client.send_option(OptionType::ExportName, name.as_bytes());
    client.stream.read_exact(&mut [0; 10]).is_ok()
}

#[test]
fn a_disk_that_a_client_may_not_have_answers_as_one_that_is_not_there() {
    let account = Account::new();
    for name in ["mine", "hidden", "web/shared"] {
        account.create(name, MIB);
    }
    for name in ["mine", "hidden"] {
        account.sealdisk(&["snapshot", "create", name, "snap"]);
    }
    let text = rule(&format!("uid = {}", me()), r#""mine""#, "rw") + &rule("anybody = true", r#""web/*""#, "ro");
    let path = rules(&account, &text);
    let server = account.serve_with(&["--access", path_str(&path)]);
    let expected = [("mine".to_owned(), false), ("web/shared".to_owned(), true)];
    assert_eq!(listed(&mut program("nbdinfo"), &server.uri("")), expected);
    let about = |name: &str| replies_about(&server, name);
    for (hidden, missing) in [("hidden", "missing"), ("vhds/hidden", "vhds/missing"), ("hidden@snap", "missing@snap")] {
        let (told, expected) = (about(hidden), about(missing));
        assert_eq!(told, expected, "{hidden} tells that it is there");
        assert!(told.len() == 4 && told.iter().all(|(_, kind, _)| *kind == ERR + 6), "{told:?}");
        assert!(!has_by_export_name(&server, hidden) && !has_by_export_name(&server, missing));
    }
    for name in ["mine", "mine@snap"] {
        assert!(about(name).iter().all(|(_, kind, _)| *kind < ERR) && has_by_export_name(&server, name));
    }
    assert_ne!(about("mine@none"), about("missing@none"), "of one's own disk one hears that it has no such snapshot");
    // The log says why, and of whom.
    let log = server.log_with("the access rules do not give it to this client");
    assert!(log.lines().any(|line| line.contains("access rules") && line.contains("peer=unix:uid=")), "{log}");
    let of_missing = log.lines().filter(|line| line.contains("missing"));
    assert!(!of_missing.clone().any(|line| line.contains("access rules")), "no rule is needed for no disk: {log}");
    assert!(of_missing.count() > 0, "{log}");

    let mut mine = Client::attach(&server, "mine");
    mine.write(0, &[1; 512]);
    let refused = run(program("qemu-io").args(["-f", "raw", "-c", "write 0 512", &server.uri("web/shared")]));
    assert!(!refused.status.success(), "it is read-only");
    // Verbs are the owner's as ever, and say that there are rules.
    let status = account.json(&["status"]);
    assert_eq!(status["server"]["access"].as_str(), Some(path_str(&path)));
    assert!(account.sealdisk(&["status"]).contains("access      by the rules of "));
    assert!(server.log().contains("access by the rules of "));
    account.sealdisk(&["verify", "hidden"]);
}

fn as_stranger(name: &str) -> Option<Command> {
    if me() != 0 {
        return None;
    }
    let mut command = program("setpriv");
    command.args(["--reuid", &STRANGER.to_string(), "--regid", "65534", "--clear-groups", name]);
    Some(command)
}

#[test]
fn users_are_told_apart_by_the_kernel() {
    let account = Account::new();
    account.create("mine", MIB);
    account.create("theirs", MIB);
    fs::set_permissions(account.scratch(""), fs::Permissions::from_mode(0o755)).expect("an open folder");
    let text =
        rule(&format!("uid = {STRANGER}"), r#""theirs""#, "rw") + &rule(&format!("uid = {}", me()), r#""*""#, "ro");
    let path = rules(&account, &text);
    // `serve_with` waits for a socket that it may open itself.
    let server = account.serve_with(&["--access", path_str(&path), "--socket-mode", "666"]);
    assert_eq!(
        listed(&mut program("nbdinfo"), &server.uri("")),
        [("mine".to_owned(), true), ("theirs".to_owned(), true)]
    );
    // Every user may connect, and has what a rule gives to that user: there is nothing to warn of.
    let log = server.log_with("listening for every user");
    assert!(!log.contains("nothing asks who they are"), "{log}");
    let Some(mut stranger) = as_stranger("nbdinfo") else { return };
    assert_eq!(listed(&mut stranger, &server.uri("")), [("theirs".to_owned(), false)]);
    // The only one that this user has is its default.
    let mut stranger = as_stranger("nbdinfo").expect("root");
    assert_eq!(stdout_of(stranger.args(["--size", &server.uri("")])).trim(), MIB.to_string());
    let mut stranger = as_stranger("nbdinfo").expect("root");
    assert!(!run(stranger.args(["--size", &server.uri("mine")])).status.success());
    let mut stranger = as_stranger("qemu-io").expect("root");
    stdout_of(stranger.args(["-f", "raw", "-c", "write 0 512", &server.uri("theirs")]));
}

#[test]
fn certificates_are_told_apart_by_their_names() {
    let account = Account::new();
    for name in ["web/a", "web/b", "db"] {
        account.create(name, MIB);
    }
    let certificates = Certificates::make();
    certificates.issue("guest", "ca", "subjectAltName=DNS:HV1.example.org", "-days 2");
    certificates.issue("by-mail", "ca", "subjectAltName=email:me@example.org,URI:urn:x", "-days 2");
    let text = rule(r#"certificate = "hv?.example.org""#, r#""web/*""#, "rw")
        + &rule(r#"certificate = "me@example.org""#, r#""db""#, "rw")
        + &rule(r#"certificate = "client""#, r#""*""#, "ro");
    let path = rules(&account, &text);
    let mut options = certificates.options();
    options.extend(["--listen", "127.0.0.1:0", "--access", path_str(&path), "--tls-client-ca"].map(str::to_owned));
    options.push(path_str(&certificates.path("ca-cert.pem")).to_owned());
    let server = account.serve_with(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let log = server.log_with("\nserving on 127.0.0.1:");
    let port = log.lines().find_map(|line| line.strip_prefix("serving on 127.0.0.1:")).expect("a port").to_owned();
    let uri = |name: &str, export: &str| {
        let folder = certificates.client_folder(name);
        format!("nbds://localhost:{port}/{export}?tls-certificates={}", folder.display())
    };
    let list = |name: &str| listed(&mut program("nbdinfo"), &uri(name, ""));
    let of = |disks: &[&str], read_only: bool| -> Vec<(String, bool)> {
        disks.iter().map(|disk| ((*disk).to_owned(), read_only)).collect()
    };
    assert_eq!(list("guest"), of(&["web/a", "web/b"], false), "by an alternative name, in lower case");
    assert_eq!(list("by-mail"), of(&["db"], false));
    assert_eq!(list("client"), of(&["db", "web/a", "web/b"], true), "by its common name");
    // On the unix socket there is no certificate, and so nothing.
    assert_eq!(listed(&mut program("nbdinfo"), &server.uri("")), []);

    // New rules are for who attaches from then on; who has more than they give is named, and stays.
    let mut stays = program("/usr/bin/python3")
        .args([
            "-c",
            "import sys, nbd\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\nh.connect_uri(sys.argv[1])\n\
            print(1, flush=True)\nsys.stdin.readline()\nh.pwrite(b'a' * 512, 0)",
            &uri("guest", "web/a"),
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut line = [0; 2];
    std::io::Read::read_exact(stays.stdout.as_mut().expect("piped"), &mut line).expect("attached");
    let status = account.json(&["status"]);
    assert_eq!(status["server"]["clients"][0]["certificate"][0], "guest", "{status}");
    rules(&account, "[[rule]]\nanybody = true\n");
    server.signal_hangup();
    server.log_with("what was in force stays in force");
    assert_eq!(list("guest").len(), 2);
    rules(&account, &rule("anybody = true", r#""db""#, "ro"));
    server.signal_hangup();
    let log = server.log_with("attached under older access rules");
    assert!(log.lines().any(|line| line.contains("attached under older") && line.contains("guest")), "{log}");
    assert_eq!(list("guest"), of(&["db"], true));
    std::io::Write::write_all(stays.stdin.as_mut().expect("piped"), b"\n").expect("it runs");
    assert!(stays.wait().expect("it ends").success(), "an attached client was cut off");
}

#[test]
fn rules_that_cannot_be_read_stop_the_start_with_their_place() {
    let account = Account::new();
    account.create("disk", MIB);
    let serve = |text: &str| {
        let path = rules(&account, text);
        let (document, code) = answer(&account, &["serve", "--access", path_str(&path)]);
        assert_eq!(code, Some(1));
        document["error"]["message"].as_str().expect("a text").to_owned()
    };
    let message = serve("[[rule]]\nuid = 0\ndisks = [\"*\"]\naccess = \"write\"\n");
    assert!(message.contains("access.toml: line 4, column 10"), "{message}");
    assert!(serve("# nothing\n").contains("there is no rule"));
    let path = rules(&account, &rule("anybody = true", r#""*""#, "rw"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("a mode");
    let (document, _) = answer(&account, &["serve", "--access", path_str(&path)]);
    assert!(document["error"]["message"].as_str().is_some_and(|text| text.contains("every user can change it")));
    let (document, _) = answer(&account, &["serve", "--access", "/nowhere/access.toml"]);
    assert_eq!(document["error"]["kind"], "NotFound", "{document}");
}

/// The example of the manual is one that a server takes.
#[test]
fn the_example_of_the_manual_is_valid() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/nbd.md")).expect("the manual");
    let (_, example) = page.split_once("```toml\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let account = Account::new();
    for disk in ["web/a", "scratch", "db"] {
        account.create(disk, MIB);
    }
    let path = rules(&account, example);
    let server: Server = account.serve_with(&["--access", path_str(&path)]);
    let list = listed(&mut program("nbdinfo"), &server.uri(""));
    let all = ["db", "scratch", "web/a"].map(|disk| (disk.to_owned(), false));
    if me() == 0 {
        assert_eq!(list, all);
    } else {
        assert_eq!(list, [("scratch".to_owned(), true)]);
    }
}
