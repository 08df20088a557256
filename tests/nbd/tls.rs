//! TLS: with rustls as the client for what is to be exact, with the real clients for the rest.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use sealdisk::ErrorKind;
use sealdisk::nbd::Config;
use sealdisk::nbd::wire::handshake::{OptionHeader, OptionType};
use sealdisk::nbd::wire::transmission::{HeaderStyle, command};
use sealdisk::serve::{Limits, ListenerPolicy, Tls, TlsFiles};

use crate::fixture::{MIB, ServerFixture, Shelf};
use crate::raw::{ACK, Client, ERR};
use crate::support::Certificates;
use crate::transmission::pattern;

const ERR_INVALID: u32 = ERR + 3;
const ERR_TLS_REQD: u32 = ERR + 5;

/// The server's part of the certificates, which asks clients for theirs or not.
fn server(certificates: &Certificates, asks_clients: bool) -> Tls {
    let client_ca = asks_clients.then(|| certificates.path("ca-cert.pem"));
    Tls::load(TlsFiles { client_ca, ..server_files(certificates.folder()) }).unwrap()
}

/// A TLS client that trusts the authority and shows the certificate of `name`, if any.
fn client(with: &Certificates, name: Option<&str>, version: &'static SupportedProtocolVersion) -> ClientConnection {
    let certificates = |name: &str| -> Vec<_> {
        CertificateDer::pem_file_iter(with.path(name)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca-cert.pem"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match name {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(with.path(&format!("{name}-key.pem"))).unwrap();
            builder.with_client_auth_cert(certificates(&format!("{name}-cert.pem")), key).unwrap()
        }
    };
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// Of a server that asks nobody for a certificate, in the folder of some [`Certificates`].
pub(crate) fn server_files(folder: &Path) -> TlsFiles {
    let [certificate, key] = ["server-cert.pem", "server-key.pem"].map(|name| folder.join(name));
    TlsFiles { certificate, key, client_ca: None, crl: None }
}

fn fixture(tls: Tls, required: bool) -> ServerFixture {
    let (shelf, _disk) = Shelf::with_disk(8 * MIB);
    ServerFixture::new(
        &shelf,
        Config {
            listeners: ListenerPolicy { tls: Some(tls), tls_required: required, ..ListenerPolicy::default() },
            ..Config::default()
        },
    )
}

/// Greeted, STARTTLS acknowledged, TLS begun (the TLS handshake itself happens with the first bytes).
fn secured(socket: &Path, tls: ClientConnection, before: impl FnOnce(&mut Client)) -> Client {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut plain = Client::over(Box::new(stream.try_clone().unwrap()));
    plain.greet(3);
    before(&mut plain);
    assert_eq!(plain.option(OptionType::StartTls, &[])[0].kind, ACK);
    Client::over(Box::new(StreamOwned::new(tls, stream)))
}

#[test]
fn both_versions_serve_all_sizes_of_requests() {
    let certificates = Certificates::make();
    let fixture = fixture(server(&certificates, false), false);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for style in [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended] {
            let mut client = secured(&fixture.socket, client(&certificates, None, version), |_| {});
            client.negotiate(style);
            client.go("");
            for (offset, len) in [(0, 512), (100, 70_000), (MIB, 3 << 20)] {
                let data = pattern(len as u64, len);
                client.write(offset, &data);
                assert!(client.read(offset, len) == data, "{version:?} {style:?} {len}");
            }
            client.request(command::DISC, 0, 0, 0, &[]);
            client.assert_ended();
        }
    }
}

#[test]
fn tls_is_offered_or_required() {
    let certificates = Certificates::make();
    let offered = fixture(server(&certificates, false), false);
    Client::attached(&offered.socket, HeaderStyle::Structured).write(0, b"plain");

    // Asked for by word, and implied by a client authority.
    for asks_clients in [false, true] {
        let (shelf, _disk) = Shelf::with_disk(8 * MIB);
        let tls = Some(server(&certificates, asks_clients));
        let config = Config {
            listeners: ListenerPolicy { tls, tls_required: !asks_clients, ..ListenerPolicy::default() },
            ..Config::default()
        };
        let mut addr = None;
        let required = ServerFixture::with_server(&shelf, config, |server| {
            addr = Some(server.listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap());
        });
        let greeted = |flags| {
            let mut client = Client::connect_tcp(addr.unwrap());
            client.greet(flags);
            client
        };
        let mut client = greeted(3);
        for option in [3, 6, 7, 8, 9, 10, 11, 99] {
            assert_eq!(client.option(option.into(), &[])[0].kind, ERR_TLS_REQD, "{option}");
        }
        let mut client = greeted(3);
        client.send_option(OptionType::ExportName, b"disk");
        client.assert_ended();
        assert_eq!(greeted(3).option(OptionType::Abort, &[])[0].kind, ACK);
        // A client that is not fixed newstyle cannot start TLS.
        let mut client = greeted(0);
        client.send_option(OptionType::ExportName, b"disk");
        client.assert_ended();
        // The unix socket is not locked by what TCP needs.
        Client::attached(&required.socket, HeaderStyle::Structured).write(0, b"plain");
    }
    let tls = client(&certificates, None, &rustls::version::TLS13);
    let mut client = secured(&offered.socket, tls, |_| {});
    assert_eq!(client.option(OptionType::StartTls, &[])[0].kind, ERR_INVALID, "TLS within TLS");
    client.go("");
}

#[test]
fn starttls_forgets_what_was_negotiated_before() {
    let certificates = Certificates::make();
    let fixture = fixture(server(&certificates, false), false);
    let tls = client(&certificates, None, &rustls::version::TLS13);
    let mut client = secured(&fixture.socket, tls, |plain| {
        plain.negotiate(HeaderStyle::Structured);
        plain.meta_context(OptionType::SetMetaContext, "", &["base:allocation"]);
    });
    let refused = client.meta_context(OptionType::SetMetaContext, "", &["base:allocation"]);
    assert_eq!(refused[0].kind, ERR_INVALID, "no structured replies any more");
    client.go("");
    assert_eq!(client.read(0, 512), [0; 512], "in a simple reply");
    assert_eq!(client.try_request(command::BLOCK_STATUS, 0, 0, 512), 22);
}

#[test]
fn plaintext_behind_starttls_reaches_nobody() {
    let certificates = Certificates::make();
    let fixture = fixture(server(&certificates, false), false);
    let mut client = Client::greeted(&fixture.socket);
    // An attacker in the middle appends an option of its own.
    let mut bytes = OptionHeader { option: OptionType::StartTls, length: 0 }.emit().to_vec();
    bytes.extend(OptionHeader { option: OptionType::List, length: 0 }.emit());
    client.send(&bytes);
    assert_eq!(client.option_replies().last().unwrap().kind, ACK);
    // What follows is an alert of TLS, not the answer to LIST; then the end.
    let mut rest = Vec::new();
    let _ = client.stream.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest[0] == 0x15, "{rest:?}");
}

#[test]
fn with_a_client_authority_only_its_certificates_get_in() {
    let certificates = Certificates::make();
    let served = |asks_clients: bool, name: Option<&str>| {
        let fixture = fixture(server(&certificates, asks_clients), true);
        let tls = client(&certificates, name, &rustls::version::TLS13);
        let mut client = secured(&fixture.socket, tls, |_| {});
        // A refusal shows at the first answer.
        let list = OptionHeader { option: OptionType::List, length: 0 }.emit();
        client.stream.write_all(&list).and_then(|()| client.stream.read_exact(&mut [0; 20])).is_ok()
    };
    assert!(served(false, None));
    assert!(served(false, Some("other")), "nobody is asked");
    assert!(served(true, Some("client")));
    assert!(!served(true, None));
    assert!(!served(true, Some("other")));
}

#[test]
fn a_tls_handshake_has_its_time() {
    let certificates = Certificates::make();
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let config = Config {
        limits: Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() },
        listeners: ListenerPolicy { tls: Some(server(&certificates, false)), ..ListenerPolicy::default() },
        ..Config::default()
    };
    let fixture = ServerFixture::new(&shelf, config);
    let mut client = Client::greeted(&fixture.socket);
    assert_eq!(client.option(OptionType::StartTls, &[])[0].kind, ACK);
    client.assert_ended();
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let certificates = Certificates::make();
    let load = |certificate: &str, key: &str, ca: Option<&str>| {
        let path = |name: &str| certificates.path(name);
        let files = TlsFiles { certificate: path(certificate), key: path(key), client_ca: ca.map(path), crl: None };
        Tls::load(files).map(|_| ()).map_err(|error| (error.kind(), error.to_string()))
    };
    assert!(load("server-cert.pem", "server-key.pem", Some("ca-cert.pem")).is_ok());
    for (certificate, key, ca, named) in [
        ("server-key.pem", "server-key.pem", None, "server-key.pem"),
        ("server-cert.pem", "ca-cert.pem", None, "ca-cert.pem"),
        ("server-cert.pem", "client-key.pem", None, "server-cert.pem"),
        ("missing.pem", "server-key.pem", None, "missing.pem"),
        ("server-cert.pem", "server-key.pem", Some("client-key.pem"), "client-key.pem"),
    ] {
        let (kind, message) = load(certificate, key, ca).unwrap_err();
        let expected = if named == "missing.pem" { ErrorKind::NotFound } else { ErrorKind::InvalidInput };
        assert_eq!(kind, expected);
        assert!(message.contains(named) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn real_clients_over_tls() {
    let certificates = Certificates::make();
    let (shelf, disk) = Shelf::with_disk(8 * MIB);
    disk.write(0, &pattern(1, 3 << 20), sealdisk::disk::Durability::Volatile).unwrap();
    let mut port = 0;
    let tls = Some(server(&certificates, true));
    let fixture = ServerFixture::with_server(
        &shelf,
        Config {
            listeners: ListenerPolicy { tls, tls_required: true, ..ListenerPolicy::default() },
            ..Config::default()
        },
        |server| {
            port = server.listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap().port();
        },
    );
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let pki = certificates.client_folder("client");
    let pki = pki.to_str().unwrap();
    let copy = certificates.path("copy");
    for uri in [
        format!("nbds://localhost:{port}/disk?tls-certificates={pki}"),
        format!("nbds+unix://localhost/disk?socket={}&tls-certificates={pki}", fixture.socket.display()),
    ] {
        assert!(run("nbdinfo", &[&uri]).contains("with TLS"));
        run("nbdcopy", &[&uri, copy.to_str().unwrap()]);
        assert!(std::fs::read(&copy).unwrap()[..3 << 20] == pattern(1, 3 << 20));
    }
    let object = format!("tls-creds-x509,id=tls0,endpoint=client,dir={pki}");
    let image = format!("driver=nbd,host=127.0.0.1,port={port},export=disk,tls-creds=tls0,tls-hostname=localhost");
    let read = "read -P 0 4M 1M";
    let out = run(
        "qemu-io",
        &["--object", &object, "--image-opts", &image, "-c", read, "-c", "write -P 7 1M 2M", "-c", "read -P 7 1M 2M"],
    );
    assert!(!out.contains("failed"), "{out}");
}
