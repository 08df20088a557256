//! Certificates as `docs/nbd.md` shows how to make them: an authority, a server, a client, and a stranger.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
const NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1";

/// A folder of them, removed when it goes out of scope.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    /// `server` and `client` of the authority `ca`, `other` of the authority `stranger`, each as `NAME-cert.pem` and
    /// `NAME-key.pem`.
    pub(crate) fn make() -> Self {
        let made = Self(TempDir::new().expect("a temporary directory"));
        for authority in ["ca", "stranger"] {
            made.openssl(&format!(
                "req -x509 {KEY} -days 2 -subj /CN={authority} -keyout {authority}-key.pem -out {authority}-cert.pem"
            ));
        }
        for (name, authority) in [("server", "ca"), ("client", "ca"), ("other", "stranger")] {
            made.issue(name, authority, NAMES, "-days 2");
        }
        made
    }

    /// A certificate of `authority` for CN=`name` with an extension `names`, valid as `validity` says to openssl x509.
    pub(crate) fn issue(&self, name: &str, authority: &str, names: &str, validity: &str) {
        self.openssl(&format!("req {KEY} -subj /CN={name} -addext {names} -keyout {name}-key.pem -out {name}.csr"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr {validity} -CA {authority}-cert.pem -CAkey {authority}-key.pem -CAcreateserial \
             -copy_extensions copy -out {name}-cert.pem"
        ));
    }

    /// The same by `openssl ca`, which takes any dates (`YYYYMMDDHHMMSSZ`) and remembers what it issued, so that it can
    /// be [revoked](Certificates::revoke).
    pub(crate) fn issue_dated(&self, name: &str, from: &str, until: &str) {
        self.openssl(&format!("req {KEY} -subj /CN={name} -addext {NAMES} -keyout {name}-key.pem -out {name}.csr"));
        self.ca(&format!("-in {name}.csr -out {name}-cert.pem -startdate {from} -enddate {until} -notext"));
    }

    /// Takes a certificate back; [`Certificates::list_revoked`] says so to others.
    pub(crate) fn revoke(&self, name: &str) {
        self.ca(&format!("-revoke {name}-cert.pem"));
    }

    /// Writes `crl.pem`.
    pub(crate) fn list_revoked(&self) {
        self.ca("-gencrl -out crl.pem");
    }

    fn ca(&self, words: &str) {
        let config = "[ca]\ndefault_ca = d\n[d]\ndatabase = index.txt\nserial = serial\ncrlnumber = crlnumber\n\
            new_certs_dir = .\ndefault_md = sha256\ndefault_crl_days = 2\ndefault_days = 2\npolicy = any\n\
            unique_subject = no\ncopy_extensions = copy\n[any]\ncommonName = supplied\n";
        for (file, content) in [("ca.cnf", config), ("index.txt", ""), ("serial", "1000\n"), ("crlnumber", "01\n")] {
            if !self.path(file).exists() {
                fs::write(self.path(file), content).expect("a file");
            }
        }
        self.openssl(&format!("ca -batch -config ca.cnf -cert ca-cert.pem -keyfile ca-key.pem {words}"));
    }

    /// The folder that libnbd and QEMU want for a client with the certificate of `name`.
    pub(crate) fn client_folder(&self, name: &str) -> PathBuf {
        let folder = self.path(&format!("pki-{name}"));
        fs::create_dir_all(&folder).expect("a folder");
        for (from, to) in [
            ("ca-cert.pem".to_owned(), "ca-cert.pem"),
            (format!("{name}-cert.pem"), "client-cert.pem"),
            (format!("{name}-key.pem"), "client-key.pem"),
        ] {
            fs::copy(self.path(&from), folder.join(to)).expect("a copy");
        }
        folder
    }

    /// Runs openssl in the folder, with words that have no spaces.
    pub(crate) fn openssl(&self, line: &str) {
        let done = Command::new("openssl").args(line.split_whitespace()).current_dir(self.folder()).output();
        let done = done.expect("openssl is installed");
        assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Options of `serve` for the server's certificate.
    pub(crate) fn options(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).to_str().expect("UTF-8").to_owned();
        vec!["--tls-cert".to_owned(), path("server-cert.pem"), "--tls-key".to_owned(), path("server-key.pem")]
    }
}
