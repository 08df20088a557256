//! A server from start to end: sockets, signals, and an orderly close.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Resource, Rlimit};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::activation::Handed;
use super::context::Context;
use super::fit::fit;
use super::listeners::ListenerReport;
use super::notify::Manager;
use super::reload::Reload;
use super::signals::EndSignals;
use super::socket::SocketOptions;
use super::terminal::Terminal;
use super::uri;
use crate::account::acts::{self, Asker};
use crate::account::admission::Admission;
use crate::account::control::server::ControlServer;
use crate::account::exports::Served;
use crate::account::lock;
use crate::account::name::BlobName;
use crate::account::registry::Registry;
use crate::confine::{Confinement, Mode};
use crate::metrics::{MetricsServer, Observed};
use crate::nbd::{Config, Server};
use crate::serve::listen::check_lengths;
use crate::{Error, ErrorKind, Result};

/// Name of the NBD socket in an account directory.
const SOCKET: &str = "nbd.sock";
/// Threads for accepting and handshakes; requests have threads of their own.
const HANDSHAKE_THREADS: usize = 2;

/// What is served, and where.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Only these disks; `None`: all.
    pub(super) only: Option<BTreeSet<BlobName>>,
    pub(super) read_only: bool,
    pub(super) socket: SocketOptions,
    /// The control socket, if not the one in the account directory.
    pub(super) control: Option<PathBuf>,
    pub(super) listen: Vec<SocketAddr>,
    /// Sockets of the service manager.
    pub(super) handed: Handed,
    pub(super) confine: Mode,
    /// A bound endpoint for metrics.
    pub(super) metrics: Option<MetricsServer>,
    pub(super) config: Config,
    pub(super) admission: Arc<Admission>,
}

/// An account opened for a server, in a process whose files are those of the account.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) registry: Registry,
    pub(super) confined: Confinement,
    pub(super) manager: Manager,
    pub(super) terminal: Terminal,
}

/// Where a server can be reached.
#[derive(Debug, Serialize)]
pub(super) struct Reachable {
    pub(super) socket: PathBuf,
    pub(super) control: PathBuf,
    pub(super) listen: Vec<SocketAddr>,
    /// The file with the rules of who may have what; without one whoever passes a listener may have everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) access: Option<PathBuf>,
    /// All NBD sockets, those that were handed over too.
    pub(super) listeners: Vec<ListenerReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metrics: Option<String>,
    pub(super) exports: Vec<Reached>,
    pub(super) confined: Confinement,
}

/// An export and where it is: on the unix socket, and on every socket.
#[derive(Debug, Serialize)]
pub(super) struct Reached {
    pub(super) name: String,
    pub(super) uri: String,
    pub(super) uris: Vec<String>,
    /// Why it cannot be opened, as far as its settings and the files of its base tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// A server whose sockets are bound: clients may connect, and are answered from [`Service::run`] on.
#[derive(Debug)]
pub(super) struct Service {
    registry: Arc<Registry>,
    manager: Manager,
    control: ControlServer,
    server: Server,
    metrics: Option<MetricsServer>,
    runtime: Runtime,
    signals: EndSignals,
    terminal: Terminal,
    admission: Arc<Admission>,
    pub(super) reachable: Reachable,
}

impl Service {
    /// Binds the sockets for the account of `context`, and then lets go of the system calls that this took.
    pub(super) fn start(context: &Context, opened: Opened, plan: Plan) -> Result<Self> {
        let Opened { registry, confined, manager, terminal } = opened;
        let mut config = plan.config;
        let limits = fit(raise_descriptor_limit(), &mut config.limits)?;
        tracing::info!(
            descriptors = limits.descriptors,
            connections = limits.connections,
            idle_disks = limits.idle_disks,
            buffer_bytes = limits.buffer_bytes,
            disk_threads = limits.disk_threads,
            "limits"
        );
        registry.set_server(limits);
        acts::begin_log(&registry, Asker::this_process())?;
        let admission = plan.admission;
        registry.set_admission(Arc::clone(&admission));
        let account = absolute(&context.account)?;
        let handed = plan.handed;
        // A socket of the service manager takes the place of our own, unless one is asked for.
        let socket = match (&plan.socket.socket, &handed.path) {
            (Some(path), _) | (None, Some(path)) => absolute(path)?,
            (None, None) => account.join(SOCKET),
        };
        let control = plan.control.as_deref().map_or_else(|| Ok(account.join(lock::CONTROL)), absolute)?;
        let own = (handed.path.as_ref() != Some(&socket)).then_some(("`--socket PATH`", socket.as_path()));
        let paths: Vec<_> = own.into_iter().chain([("`--control PATH`", control.as_path())]).collect();
        if registry.is_shared() && paths.iter().any(|(_, path)| path.parent() == Some(account.as_path())) {
            return Err(Error::new(ErrorKind::Unsupported, "no socket can be made in an account on a read-only mount")
                .at_path(&account)
                .hint("name both sockets in a folder elsewhere: `--socket PATH` and `--control PATH`"));
        }
        check_lengths(&paths)?;
        // From here on a signal ends the server in order; before, there is nothing to put in order.
        let signals = EndSignals::take(&[SIGTERM, SIGINT, SIGHUP])?;
        let registry = Arc::new(registry);
        let served = Arc::new(Served {
            registry: Arc::clone(&registry),
            only: plan.only,
            read_only: plan.read_only,
            admission: Arc::clone(&admission),
        });
        let names: Vec<_> = served.names(|_| true, None, usize::MAX).iter().map(ToString::to_string).collect();

        let mut server = Server::new(served, config)?;
        registry.open_local_attach(Arc::new(server.local_attach()));
        // First, so that whoever sees the server listen finds that verbs reach it.
        let control_server = ControlServer::start(&control, Arc::clone(&registry))?;
        registry.tell_control(control.clone())?;
        if handed.path.as_ref() != Some(&socket) {
            server.listen_unix_for(&socket, plan.socket.access())?;
        }
        for socket in handed.sockets {
            server.adopt(socket)?;
        }
        let listen = plan.listen.into_iter().map(|addr| server.listen_tcp(addr)).collect::<Result<_>>()?;
        let listeners: Vec<_> = server.listening().into_iter().map(|at| ListenerReport::new(at, &admission)).collect();
        listeners.iter().for_each(ListenerReport::log);
        let reached = |name: String| Reached {
            uri: uri::unix(&name, &socket),
            uris: listeners.iter().filter_map(|listener| listener.uri(&name)).collect(),
            error: name.parse().ok().and_then(|name| registry.look_at(&name)).map(|error| error.to_string()),
            name,
        };
        let exports = names.into_iter().map(reached).collect();
        let runtime = Builder::new_multi_thread()
            .worker_threads(HANDSHAKE_THREADS)
            .thread_name("nbd-accept")
            .enable_all()
            .build()
            .map_err(|e| Error::io("cannot start threads", e))?;
        let confined = confined.calls(plan.confine)?;
        report(plan.confine, confined);
        let url = plan.metrics.as_ref().map(|metrics| format!("http://{}/metrics", metrics.addr()));
        let access = admission.access().map(Path::to_owned);
        let reachable = Reachable { socket, control, listen, access, listeners, metrics: url, exports, confined };
        let metrics = plan.metrics;
        Ok(Self {
            registry,
            manager,
            control: control_server,
            server,
            metrics,
            runtime,
            signals,
            terminal,
            admission,
            reachable,
        })
    }

    /// Serves until a signal comes; then accepts no more, finishes what is in flight, flushes and closes every disk.
    /// A later signal ends the process at once, as a crash would: see [`EndSignals`]. SIGHUP has certificates read
    /// again, unless the terminal is gone: see [`Terminal`].
    pub(super) fn run(self) -> Result<()> {
        let Self { registry, manager, control, server, mut metrics, runtime, signals, .. } = self;
        if let Some(metrics) = &mut metrics {
            metrics.start(Observed { registry: Arc::clone(&registry), stats: server.stats() })?;
        }
        let (stop, stopped) = oneshot::channel();
        let asked = move |signal| {
            tracing::info!(signal, "stopping");
            // Nobody waits for it any more when the server has failed.
            let _ = stop.send(());
        };
        let (terminal, reload) = (self.terminal, Reload::start(self.admission, server.local_attach())?);
        let reads_again = move |signal| {
            let reads_again = signal == SIGHUP && !terminal.is_gone();
            if reads_again {
                reload.ask();
            }
            reads_again
        };
        let hearing = signals.hear(reads_again, asked, |_| 1)?;
        registry.inspect()?;
        manager.ready();
        let served = runtime.block_on(server.run_until(async {
            let _ = stopped.await;
        }));
        manager.stopping();
        control.stop();
        drop(metrics);
        let closed = registry.close();
        runtime.shutdown_background();
        hearing.end();
        served.and(closed)
    }
}

fn report(mode: Mode, confined: Confinement) {
    match mode {
        Mode::Off => tracing::warn!("not confined, as --confine off asks"),
        _ if confined.is_partial() => {
            tracing::warn!("this kernel confines in part: {confined}; missing: {}", confined.missing().join(", "));
        }
        _ => tracing::info!("confined: {confined}"),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("no absolute path", e).at_path(path))
}

/// Every open disk and client takes descriptors. The limit in force, raised where it can be; `None`: there is none.
fn raise_descriptor_limit() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    rustix::process::getrlimit(Resource::Nofile).current
}
