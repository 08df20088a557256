//! Who may attach at which socket of a server, and what its start says of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Account, Certificates, MIB, Server, program, run, stderr_of_failure, stdout_of};

/// Of a network for documentation: nobody has it, so nothing is bound.
const ELSEWHERE: &str = "192.0.2.1:10809";

/// The document that `serve --json` wrote.
fn said(server: &Server) -> Value {
    let log = server.log_with("\n}");
    let start = log.find("\n{\n").map_or(0, |at| at + 1);
    let end = log[start..].find("\n}\n").map_or(log.len(), |at| start + at + 2);
    serde_json::from_str(&log[start..end]).unwrap_or_else(|error| panic!("{error}: {log}"))
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().expect("an array").iter().map(|text| text.as_str().expect("a text")).collect()
}

#[test]
fn beyond_loopback_a_client_proves_who_it_is() {
    let account = Account::new();
    let certificates = Certificates::make();
    let serve = |address: &str, words: &[&str]| {
        let mut command = account.command();
        command.args(["serve", "--listen", address]);
        if words.iter().any(|word| word.starts_with("--tls")) {
            command.args(certificates.options());
        }
        stderr_of_failure(command.args(words))
    };
    let ca = certificates.path("ca-cert.pem");
    let ca = ["--tls-client-ca", ca.to_str().expect("UTF-8")];
    for address in [ELSEWHERE, "0.0.0.0:0", "[::]:0", "[::ffff:192.0.2.1]:0"] {
        let refused = serve(address, &[]);
        assert!(refused.contains("without TLS") && refused.contains("--insecure-tcp"), "{address}: {refused}");
        let refused = serve(address, &["--tls-required"]);
        let wanted = ["no client has to prove", "--tls-client-ca", "--insecure-anonymous-clients"];
        assert!(wanted.iter().all(|part| refused.contains(part)), "{address}: {refused}");
    }
    // With proof, or with the word that goes without: it is the address that cannot be had.
    for words in [&ca[..], &["--tls-required", "--insecure-anonymous-clients"], &["--insecure-tcp"]] {
        let refused = serve(ELSEWHERE, words);
        assert!(refused.contains("cannot listen on"), "{words:?}: {refused}");
    }
    // Words that take back what another one asks for.
    for words in [&["--insecure-tcp", "--tls-required"][..], &["--insecure-anonymous-clients"]] {
        assert!(!run(account.command().arg("serve").args(words)).status.success(), "{words:?}");
    }
}

#[test]
fn tls_for_tcp_leaves_the_unix_socket_as_it_is() {
    let account = Account::new();
    account.create("disk", MIB);
    let certificates = Certificates::make();
    let mut options = certificates.options();
    options.extend(["--listen", "127.0.0.1:0", "--tls-client-ca"].map(str::to_owned));
    options.push(certificates.path("ca-cert.pem").to_str().expect("UTF-8").to_owned());
    options.push("--json".to_owned());
    let server = account.serve_with(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let said = said(&server);
    let folder = certificates.client_folder("client");
    let uris = strings(&said["exports"][0]["uris"]);
    assert!(uris.len() == 2 && uris[1].starts_with("nbds://127.0.0.1:"), "{uris:?}");
    for (uri, shows) in
        [(uris[0].to_owned(), false), (format!("{}?tls-certificates={}", uris[1], folder.display()), true)]
    {
        let info = stdout_of(program("nbdinfo").arg(&uri));
        assert_eq!(info.contains("with TLS"), shows, "{uri}: {info}");
    }
    let tcp = uris[1].replace("nbds:", "nbd:");
    assert!(!run(program("nbdinfo").arg(&tcp)).status.success(), "TCP in plaintext");
    let clients: Vec<_> = said["listeners"].as_array().expect("listeners").iter().map(|at| &at["clients"]).collect();
    assert_eq!(clients[1], "certificate");
    assert!(!server.log().contains("whom nothing asks"), "{}", server.log());
}

/// A certificate has the name by which clients check it, and the URI that is shown has that name.
#[test]
fn the_uri_for_tls_has_the_name_of_the_certificate() {
    let account = Account::new();
    account.create("disk", MIB);
    let certificates = Certificates::make();
    certificates.issue("server", "ca", "subjectAltName=DNS:*.example.org,DNS:localhost", "-days 2");
    let mut options = certificates.options();
    options.extend(["--listen", "127.0.0.1:0", "--tls-required", "--json"].map(str::to_owned));
    let server = account.serve_with(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let said = said(&server);
    let uri = strings(&said["exports"][0]["uris"])[1].to_owned();
    assert!(uri.starts_with("nbds://localhost:"), "{uri}");
    let folder = certificates.path("trusted");
    fs::create_dir(&folder).expect("a folder");
    fs::copy(certificates.path("ca-cert.pem"), folder.join("ca-cert.pem")).expect("a copy");
    let info = stdout_of(program("nbdinfo").arg(format!("{uri}?tls-certificates={}", folder.display())));
    assert!(info.contains("with TLS"), "{info}");
}

#[test]
fn a_start_says_who_may_attach_and_warns_where_nobody_proves_anything() {
    let account = Account::new();
    account.create("disk", MIB);
    let server = account.serve_with(&["--listen", "127.0.0.1:0"]);
    let log = server.log_with("\n  nbd://127.0.0.1:");
    assert!(log.contains(&format!("serving on {}\n  for ", server.socket().display())), "{log}");
    assert!(log.contains("\n  for every user of this machine: no client certificate is asked for\n"), "{log}");
    let warning = log.lines().find(|line| line.contains("WARN") && line.contains("listening for"));
    assert!(warning.is_some_and(|line| line.contains("127.0.0.1:")), "{log}");
    let uri = log.lines().find_map(|line| line.strip_prefix("  nbd://")).expect("a URI").replace("NAME", "disk");
    assert_eq!(stdout_of(program("nbdinfo").args(["--size", &format!("nbd://{uri}")])).trim(), MIB.to_string());
}

/// A user that has nothing to do with the account. Root is asked to be it; others cannot.
fn as_stranger(group: &str) -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let mut command = program("setpriv");
    command.args(["--reuid", "65534", "--regid", group, "--clear-groups"]);
    Some(command)
}

#[test]
fn a_socket_for_the_group_of_the_hypervisor() {
    let account = Account::new();
    account.create("disk", MIB);
    let folder = account.scratch("run");
    fs::create_dir(&folder).expect("a folder");
    for path in [account.scratch(""), folder.clone()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("an open folder");
    }
    let mine = rustix::process::getegid().as_raw();
    let group = if rustix::process::geteuid().is_root() { 4711 } else { mine };
    let serve = |socket: &Path, words: &[&str]| {
        let mut command = account.command();
        command.args(["serve", "--socket", socket.to_str().expect("UTF-8")]).args(words);
        command
    };
    let socket = folder.join("nbd.sock");
    let mut child = serve(&socket, &["--socket-group", &group.to_string()]).spawn().expect("it starts");
    let began = std::time::Instant::now();
    while fs::metadata(&socket).map_or(true, |file| file.mode() & 0o777 != 0o660) {
        assert!(began.elapsed().as_secs() < 30, "no socket");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let file = fs::metadata(&socket).expect("a socket");
    assert_eq!((file.mode() & 0o777, file.gid()), (0o660, group));
    let uri = format!("nbd+unix:///disk?socket={}", socket.display());
    if let (Some(mut member), Some(mut stranger)) = (as_stranger("4711"), as_stranger("65534")) {
        stdout_of(member.args(["nbdinfo", "--size", &uri]));
        let refused = stderr_of_failure(stranger.args(["nbdinfo", "--size", &uri]));
        assert!(refused.contains("Permission denied"), "{refused}");
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    for words in [&["--socket-mode", "400"][..], &["--socket-group", "no-such-group-here"]] {
        let refused = stderr_of_failure(&mut serve(&socket, words));
        assert!(refused.contains(words[0]), "{refused}");
    }
}
