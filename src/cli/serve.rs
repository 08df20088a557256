//! `serve`: the account's disks over NBD.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::activation::Handed;
use super::address;
use super::confine::ConfineOptions;
use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::limits::LimitOptions;
use super::log::{self, LogOptions};
use super::notify::Manager;
use super::service::{Opened, Plan, Reachable, Service};
use super::socket::SocketOptions;
use super::terminal::Terminal;
use super::unlock;
use crate::account::access_file::AccessFile;
use crate::account::admission::Admission;
use crate::account::audit_log::AuditLog;
use crate::account::name::BlobName;
use crate::account::request::KeyNeed;
use crate::account::session;
use crate::crypto::memlock;
use crate::metrics::MetricsServer;
use crate::nbd::Config;
use crate::serve::{Tls, TlsFiles};
use crate::text;
use crate::{Error, ErrorKind, Result};

/// Serve the disks of the account over NBD until SIGTERM or Ctrl-C
///
/// Each disk is an export of the same name; the only one is also the default export. Disks may be made and deleted, and
/// encryption switched, while serving: every verb reaches the server through the account's control socket.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk serve
  sealdisk serve disk1 --read-only --socket /run/user/1000/disk1.sock
  sealdisk --account /mnt/backup/web serve --read-only --socket /run/old.sock --control /run/old.control
  sealdisk serve --socket /run/sealdisk/web.sock --socket-group libvirt-qemu
  sealdisk serve --listen 0.0.0.0:10809 --tls-cert cert.pem --tls-key key.pem --tls-client-ca ca.pem
  sealdisk serve --access /etc/sealdisk/access.toml
  sealdisk serve --metrics 127.0.0.1:9434")]
pub(super) struct Serve {
    /// The disks to serve, instead of all
    names: Vec<BlobName>,
    #[command(flatten)]
    socket: SocketOptions,
    /// The control socket; ACCOUNT/control.sock if left out
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Listen on a TCP address too; beyond loopback only for clients that prove who they are, over TLS
    #[arg(long, value_name = "ADDR:PORT", value_parser = address::parse)]
    listen: Vec<SocketAddr>,
    /// Serve metrics for Prometheus at http://ADDR:PORT/metrics
    #[arg(long, value_name = "ADDR:PORT", value_parser = address::parse)]
    metrics: Option<SocketAddr>,
    /// Let the metrics be reachable from other machines: they name the disks and say how they are used
    #[arg(long)]
    insecure_metrics: bool,
    /// Let no client write; an account on a read-only mount is served so, with --socket and --control elsewhere
    #[arg(long)]
    read_only: bool,
    /// Give clients only the disks that the rules in this file give them, read-only or not
    #[arg(long, value_name = "FILE")]
    access: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsOptions,
    #[command(flatten)]
    limits: LimitOptions,
    #[command(flatten)]
    confine: ConfineOptions,
    #[command(flatten)]
    key: KekOptions,
    /// Do not start, and open no disk, where memory for keys cannot be locked: it might be swapped out
    #[arg(long)]
    require_locked_memory: bool,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS")]
struct TlsOptions {
    /// Offer TLS, with this certificate chain in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Turn TLS clients away that have no certificate of one of these authorities, and TCP clients without TLS
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Refuse client certificates that these lists of their authorities take back; every authority needs a list
    #[arg(long, value_name = "FILE", requires = "tls_client_ca")]
    tls_crl: Option<PathBuf>,
    /// Answer TCP clients nothing before TLS; unix sockets go on with or without it
    #[arg(long, requires = "tls_cert")]
    tls_required: bool,
    /// Let anybody who reaches the TCP address read and write the disks, in the open
    #[arg(long, conflicts_with_all = ["tls_required", "tls_client_ca"])]
    insecure_tcp: bool,
    /// With --tls-required: let anybody who reaches the TCP address read and write the disks, without a certificate
    #[arg(long, requires = "tls_required", conflicts_with = "tls_client_ca")]
    insecure_anonymous_clients: bool,
}

impl TlsOptions {
    fn apply(self, config: &mut Config) -> Result<()> {
        if let (Some(certificate), Some(key)) = (self.tls_cert, self.tls_key) {
            let files = TlsFiles { certificate, key, client_ca: self.tls_client_ca, crl: self.tls_crl };
            config.listeners.tls = Some(Tls::load(files)?);
        }
        config.listeners.tls_required = self.tls_required;
        config.listeners.insecure_tcp = self.insecure_tcp;
        config.listeners.insecure_anonymous_clients = self.insecure_anonymous_clients;
        Ok(())
    }
}

impl Serve {
    pub(super) fn run(self, context: &Context) -> Outcome {
        self.log.start()?;
        if self.require_locked_memory {
            memlock::require();
        }
        let mut config = Config { read_only: self.read_only, ..Config::default() };
        self.tls.apply(&mut config)?;
        let access = self.access.as_deref().map(AccessFile::load).transpose()?;
        self.limits.apply(&mut config);
        // Before the server is confined: it opens files that lie outside the account.
        let mut handed = Handed::take()?;
        let metrics = match (self.metrics, handed.metrics.take()) {
            (Some(addr), _) => Some(MetricsServer::bind(addr, self.insecure_metrics)?),
            (None, Some(socket)) => Some(MetricsServer::adopt(socket, self.insecure_metrics)?),
            (None, None) => None,
        };
        let only: BTreeSet<_> = self.names.into_iter().collect();
        let plan = Plan {
            only: (!only.is_empty()).then_some(only),
            read_only: self.read_only,
            socket: self.socket,
            control: self.control,
            listen: self.listen,
            confine: self.confine.confine.into(),
            handed,
            metrics,
            admission: Arc::new(Admission::new(config.listeners.tls.clone(), access)),
            config,
        };
        let opened = open(context, &self.key, &plan)?;
        let names = opened.registry.names();
        let missing = plan.only.iter().flatten().find(|name| !names.iter().any(|(there, _)| there == *name));
        if let Some(missing) = missing {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no disk \"{missing}\""))
                .hint("`sealdisk list` shows the disks")
                .into());
        }
        let service = Service::start(context, opened, plan)?;
        context.announce(&service.reachable, Text(&service.reachable))?;
        Ok(service.run()?)
    }
}

/// Opens the account for a server, and confines this process to what the plan needs.
pub(super) fn open(context: &Context, key: &KekOptions, plan: &Plan) -> Result<Opened> {
    let (manager, terminal) = (Manager::from_env(), Terminal::of_this_process());
    let log = context.audit_log.as_deref().map(AuditLog::at);
    // A confined server opens no file outside the account.
    log.as_ref().map_or(Ok(()), AuditLog::open)?;
    let confined = Cell::default();
    let registry = session::open_to_serve(
        &context.account,
        plan.read_only,
        &|settings, owner| unlock::unlock(key, KeyNeed::Required, settings, owner),
        &|images| {
            confined.set(plan.confine(&context.account, images)?);
            log::write()
        },
    )?;
    if let Some(log) = log {
        registry.set_audit_log(log);
    }
    Ok(Opened { registry, confined: confined.get(), manager, terminal })
}

struct Text<'a>(&'a Reachable);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(at) = self;
        for (index, listener) in at.listeners.iter().enumerate() {
            write!(f, "{}{listener}", if index == 0 { "" } else { "\n" })?;
        }
        if let Some(access) = &at.access {
            write!(f, "\naccess by the rules of {}", text::path(access))?;
        }
        if let Some(url) = &at.metrics {
            write!(f, "\nmetrics at {url}")?;
        }
        for export in &at.exports {
            match &export.error {
                None => write!(f, "\n{}  {}", export.name, export.uri)?,
                Some(error) => write!(f, "\n{}  cannot be opened: {error}", export.name)?,
            }
        }
        if at.exports.is_empty() {
            f.write_str("\nno disks yet: `sealdisk create` makes one, and it is served at once")?;
        }
        Ok(())
    }
}
