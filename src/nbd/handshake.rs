//! The handshake: fixed newstyle option haggling, over any byte stream.
//!
//! Bytes are read exactly as far as an option goes, never ahead: what a client sends after its last option belongs to
//! the transmission phase, and what it sends after STARTTLS must reach nobody but the TLS handshake.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use super::Config;
use super::clock::Clock;
use super::context::Contexts;
use super::session::{Session, transmission_flags};
use super::wire::handshake::{
    EXPORT_NAME_ZEROES, InfoRequest, InfoType, Malformed, MetaContextRequest, OptionHeader, OptionType, ReplyType,
    export_name_answer, flag, greeting, info_block_size, info_export, put_reply, text,
};
use super::wire::transmission::HeaderStyle;
use crate::serve::audience::TlsUse;
use crate::serve::server_stats::Stats;
use crate::serve::turned_away::{HandshakeEnd, Reason};
use crate::serve::{Export, Exports, Identity};
use crate::{Error, ErrorKind, PAGE};

/// Bytes at which requests are efficient.
const PREFERRED_BLOCK: u32 = 4096;
/// Exports that are listed in one piece.
const LISTED: usize = 64;
/// How long a client waits for a disk to be opened; it goes on being opened, and the next who asks finds it so.
const OPENING: Duration = Duration::from_secs(60);

/// How a round of haggling ended.
pub(super) enum Outcome {
    /// The client goes on to transmission.
    Transmit(Box<Session>),
    /// STARTTLS was acknowledged: the next byte is TLS, and nothing settled so far counts.
    StartTls,
    /// The client, or the protocol, ended the session.
    End,
}

/// What of TLS this connection has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Security {
    /// Nothing yet. Where TLS is required nothing but STARTTLS and ABORT is answered.
    Plain(TlsUse),
    Established,
}

/// The server's side of one handshake.
pub(super) struct Handshake<'a> {
    exports: &'a Arc<dyn Exports>,
    config: &'a Config,
    stopping: &'a AtomicBool,
    /// Claims a place among [`max_connections`](crate::serve::Limits::max_connections); `false`: there is none left.
    admit: &'a mut (dyn FnMut() -> bool + Send + Sync),
    /// Who it is, as the log says it.
    peer: &'a str,
    /// And as far as that is proven.
    identity: Arc<Identity>,
    stats: &'a Stats,
    client: ClientFlags,
    options_left: usize,
    clock: Clock,
    told_tls_required: bool,
    /// The last name that could not be opened: some clients ask for one several times.
    told_name: Option<String>,
}

/// Where a server has its exports, settings and counts.
#[derive(Clone, Copy)]
pub(super) struct ServerContext<'a> {
    pub(super) exports: &'a Arc<dyn Exports>,
    pub(super) config: &'a Config,
    pub(super) stopping: &'a AtomicBool,
    pub(super) stats: &'a Stats,
}

#[derive(Debug, Clone, Copy, Default)]
struct ClientFlags {
    fixed: bool,
    no_zeroes: bool,
}

/// What options have settled. STARTTLS starts over with a fresh one.
struct Negotiated {
    style: HeaderStyle,
    /// The selected contexts, and the export they were selected for.
    contexts: Contexts,
    contexts_for: Option<(String, Uuid)>,
}

/// The answer to one option.
enum OptionReply {
    Continue,
    /// All exports, which are not put together first.
    List,
    Finish(Outcome),
}

impl<'a> Handshake<'a> {
    /// Exchanges greeting and client flags with the client `peer`.
    pub(super) async fn start<S: AsyncRead + AsyncWrite + Unpin>(
        stream: &mut S,
        at: ServerContext<'a>,
        peer: &'a str,
        identity: Identity,
        admit: &'a mut (dyn FnMut() -> bool + Send + Sync),
    ) -> Result<Self, HandshakeEnd> {
        let mut clock = Clock::new(at.config.limits.handshake_timeout);
        let flags = clock
            .wait(async {
                stream.write_all(&greeting()).await?;
                stream.flush().await?;
                stream.read_u32().await
            })
            .await?;
        let known = u32::from(flag::FIXED_NEWSTYLE | flag::NO_ZEROES);
        if flags & !known != 0 {
            return Err(HandshakeEnd::away(
                Reason::Protocol,
                "unknown flags: it does not speak NBD, or one that is not known",
            ));
        }
        let client = ClientFlags {
            fixed: flags & u32::from(flag::FIXED_NEWSTYLE) != 0,
            no_zeroes: flags & u32::from(flag::NO_ZEROES) != 0,
        };
        let ServerContext { exports, config, stopping, stats } = at;
        let options_left = config.max_options;
        Ok(Self {
            exports,
            config,
            stopping,
            admit,
            peer,
            identity: Arc::new(identity),
            stats,
            client,
            options_left,
            clock,
            told_tls_required: false,
            told_name: None,
        })
    }

    /// The client has shown a certificate with these names, which is good.
    pub(super) fn proven(&mut self, certificate: Vec<String>) {
        self.identity = Arc::new(Identity { certificate, ..(*self.identity).clone() });
    }

    /// Waits for the client as the [`Clock`] allows.
    pub(super) async fn wait<T>(&mut self, client: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        self.clock.wait(client).await
    }

    /// Answers options until one ends the haggling.
    pub(super) async fn haggle<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        security: Security,
    ) -> Result<Outcome, HandshakeEnd> {
        let mut terms = Negotiated { style: HeaderStyle::Simple, contexts: Contexts::default(), contexts_for: None };
        let mut out = Vec::new();
        loop {
            let mut header = [0; OptionHeader::LEN];
            self.clock.wait(stream.read_exact(&mut header)).await?;
            let Some(header) = OptionHeader::parse(&header) else {
                return Err(HandshakeEnd::away(Reason::Protocol, "no option starts here"));
            };
            if self.options_left == 0 {
                let most = self.config.max_options;
                return Err(HandshakeEnd::away(Reason::Options, format!("more than {most} options (--max-options)")));
            }
            self.options_left -= 1;
            let data = data(&mut self.clock, stream, header, self.config.max_option_bytes).await?;
            out.clear();
            let answer = self.answer(header.option, data.as_deref(), security, &mut terms, &mut out).await;
            if matches!(answer, OptionReply::List) {
                self.list(stream, &mut out).await?;
            }
            self.send(stream, &out).await?;
            self.clock.answered();
            if let OptionReply::Finish(outcome) = answer {
                return Ok(outcome);
            }
        }
    }

    async fn send<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, bytes: &[u8]) -> io::Result<()> {
        let sent = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        self.clock.wait(sent).await
    }

    async fn answer(
        &mut self,
        option: OptionType,
        data: Option<&[u8]>,
        security: Security,
        terms: &mut Negotiated,
        out: &mut Vec<u8>,
    ) -> OptionReply {
        let mut reply = |kind, message: &str| put_reply(out, option, kind, &[message.as_bytes()]);
        // EXPORT_NAME cannot be answered with an error, and a client that is not fixed newstyle understands no reply.
        if option != OptionType::ExportName && !self.client.fixed {
            return OptionReply::Finish(Outcome::End);
        }
        if option == OptionType::Abort {
            reply(ReplyType::Ack, "");
            return OptionReply::Finish(Outcome::End);
        }
        let barred = match () {
            () if security == Security::Plain(TlsUse::Required) && option != OptionType::StartTls => {
                Some((ReplyType::ErrTlsReqd, "this server requires TLS"))
            }
            () if self.stopping.load(Ordering::Relaxed) => Some((ReplyType::ErrShutdown, "the server is stopping")),
            () => None,
        };
        if let Some((kind, message)) = barred {
            if kind == ReplyType::ErrTlsReqd && !std::mem::replace(&mut self.told_tls_required, true) {
                self.stats.turned_away(self.peer, Reason::TlsRequired, "it does not use TLS");
            }
            if option == OptionType::ExportName {
                return OptionReply::Finish(Outcome::End);
            }
            reply(kind, message);
            return OptionReply::Continue;
        }
        if option == OptionType::ExportName {
            return OptionReply::Finish(self.export_name(data, terms, out).await);
        }
        let Some(data) = data else {
            reply(ReplyType::ErrTooBig, "the data of this option is too long");
            return OptionReply::Continue;
        };
        let bare = matches!(
            option,
            OptionType::List | OptionType::StartTls | OptionType::StructuredReply | OptionType::ExtendedHeaders
        );
        if bare && !data.is_empty() {
            reply(ReplyType::ErrInvalid, "this option takes no data");
            return OptionReply::Continue;
        }
        match option {
            OptionType::List => return OptionReply::List,
            OptionType::StartTls => match security {
                Security::Plain(TlsUse::Offered | TlsUse::Required) => {
                    reply(ReplyType::Ack, "");
                    return OptionReply::Finish(Outcome::StartTls);
                }
                Security::Established => reply(ReplyType::ErrInvalid, "TLS is in use already"),
                Security::Plain(TlsUse::Off) => reply(ReplyType::ErrPolicy, "this server has no certificate"),
            },
            OptionType::StructuredReply if terms.style == HeaderStyle::Extended => {
                reply(ReplyType::ErrExtHeaderReqd, "extended headers are in use already");
            }
            OptionType::StructuredReply => {
                terms.style = HeaderStyle::Structured;
                reply(ReplyType::Ack, "");
            }
            OptionType::ExtendedHeaders => {
                terms.style = HeaderStyle::Extended;
                reply(ReplyType::Ack, "");
            }
            OptionType::Info | OptionType::Go => {
                if let Some(session) = self.info(option, data, terms, out).await {
                    return OptionReply::Finish(Outcome::Transmit(Box::new(session)));
                }
            }
            OptionType::ListMetaContext | OptionType::SetMetaContext => {
                self.meta_context(option, data, terms, out).await;
            }
            OptionType::Unknown(_) | OptionType::ExportName | OptionType::Abort => {
                reply(ReplyType::ErrUnsup, "this server does not know the option");
            }
        }
        OptionReply::Continue
    }

    /// Sends all exports, some at a time, so that however many there are a handshake takes little memory; leaves the
    /// end of the answer in `out`.
    async fn list<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, out: &mut Vec<u8>) -> io::Result<()> {
        let mut after: Option<String> = None;
        loop {
            let (exports, client, from) = (Arc::clone(self.exports), Arc::clone(&self.identity), after.take());
            let listed = tokio::task::spawn_blocking(move || exports.list(&client, from.as_deref(), LISTED)).await;
            let listed = listed.unwrap_or_default();
            for export in &listed {
                let length = (export.name.len() as u32).to_be_bytes();
                let parts: [&[u8]; 3] = [&length, export.name.as_bytes(), export.description.as_bytes()];
                put_reply(out, OptionType::List, ReplyType::Server, &parts);
            }
            if listed.len() < LISTED {
                put_reply(out, OptionType::List, ReplyType::Ack, &[]);
                return Ok(());
            }
            after = listed.into_iter().last().map(|export| export.name);
            self.send(stream, out).await?;
            self.clock.answered();
            out.clear();
        }
    }

    async fn export_name(&mut self, data: Option<&[u8]>, terms: &Negotiated, out: &mut Vec<u8>) -> Outcome {
        // A client with extended headers must use GO.
        if terms.style == HeaderStyle::Extended {
            return Outcome::End;
        }
        let Some(Ok(name)) = data.map(|data| text(data, self.config.max_name)) else { return Outcome::End };
        let Ok(export) = self.open(name).await else { return Outcome::End };
        if !self.admitted() {
            return Outcome::End;
        }
        let session = session(&self.identity, export, terms);
        out.extend_from_slice(&export_name_answer(session.size, flags_of(&session)));
        if !self.client.no_zeroes {
            out.extend_from_slice(&[0; EXPORT_NAME_ZEROES]);
        }
        Outcome::Transmit(Box::new(session))
    }

    /// Answers INFO or GO; the session when it is a GO that succeeds.
    async fn info(
        &mut self,
        option: OptionType,
        data: &[u8],
        terms: &Negotiated,
        out: &mut Vec<u8>,
    ) -> Option<Session> {
        let request = match InfoRequest::parse(data, self.config.max_name) {
            Ok(request) => request,
            Err(fault) => {
                malformed(out, option, fault);
                return None;
            }
        };
        let export = match self.open(request.name).await {
            Ok(export) => export,
            Err(error) => {
                unopened(out, option, &error);
                return None;
            }
        };
        if option == OptionType::Go && !self.admitted() {
            put_reply(out, option, ReplyType::ErrPolicy, &[b"too many clients are connected"]);
            return None;
        }
        let session = session(&self.identity, export, terms);
        let mut info = |parts: &[&[u8]]| put_reply(out, option, ReplyType::Info, parts);
        info(&[&info_export(session.size, flags_of(&session))]);
        let wants = |info: InfoType| request.wanted.contains(&(info as u16));
        if wants(InfoType::Name) {
            info(&[&(InfoType::Name as u16).to_be_bytes(), session.export.name.as_bytes()]);
        }
        if wants(InfoType::Description) {
            info(&[&(InfoType::Description as u16).to_be_bytes(), session.export.description.as_bytes()]);
        }
        if wants(InfoType::BlockSize) {
            info(&[&info_block_size(PAGE as u32, PREFERRED_BLOCK, self.config.max_request)]);
        }
        put_reply(out, option, ReplyType::Ack, &[]);
        (option == OptionType::Go).then_some(session)
    }

    async fn meta_context(&mut self, option: OptionType, data: &[u8], terms: &mut Negotiated, out: &mut Vec<u8>) {
        let set = option == OptionType::SetMetaContext;
        if set {
            // Whatever comes of it, what was selected before is no longer.
            terms.contexts = Contexts::default();
            terms.contexts_for = None;
        }
        if terms.style == HeaderStyle::Simple {
            put_reply(out, option, ReplyType::ErrInvalid, &[b"structured replies must be negotiated first"]);
            return;
        }
        let parsed = MetaContextRequest::parse(data, self.config.max_name, self.config.max_queries);
        let request = match parsed {
            Ok(request) => request,
            Err(fault) => return malformed(out, option, fault),
        };
        let export = match self.open(request.name).await {
            Ok(export) => export,
            Err(error) => return unopened(out, option, &error),
        };
        let snapshots = export.disk.older_snapshots();
        let mut tell = |id: u32, name: &str| {
            put_reply(out, option, ReplyType::MetaContext, &[&id.to_be_bytes(), name.as_bytes()]);
        };
        let told = if set {
            Contexts::selected(&request.queries, &snapshots).map(|(contexts, named)| {
                named.iter().for_each(|(context, name)| tell(context.id(), name));
                terms.contexts = contexts;
                terms.contexts_for = Some((export.name, export.disk.uuid()));
            })
        } else {
            Contexts::listed(&request.queries, &snapshots).map(|names| names.iter().for_each(|name| tell(0, name)))
        };
        match told {
            Ok(()) => put_reply(out, option, ReplyType::Ack, &[]),
            Err(fault) => malformed(out, option, fault),
        }
    }

    /// Claims a place among the clients.
    fn admitted(&mut self) -> bool {
        let admitted = (self.admit)();
        if !admitted {
            let most = self.config.limits.max_connections;
            let why = format!("too many clients: {most} are allowed (--max-connections)");
            self.stats.turned_away(self.peer, Reason::Connections, why);
        }
        admitted
    }

    /// Opens an export off the runtime's threads: the registry may have to wait for a disk.
    async fn open(&mut self, asked: &str) -> crate::Result<Export> {
        let (exports, client, name) = (Arc::clone(self.exports), Arc::clone(&self.identity), asked.to_owned());
        let read_only = self.config.read_only;
        let opening = tokio::task::spawn_blocking(move || exports.open(&client, &name));
        let opened = match tokio::time::timeout(OPENING, opening).await {
            Ok(opened) => opened.unwrap_or_else(|_| Err(Error::new(ErrorKind::Shutdown, "the server is stopping"))),
            Err(_) => Err(Error::new(ErrorKind::Io, "the disk takes too long to open")),
        };
        match opened {
            Ok(mut export) => {
                export.read_only |= read_only || export.disk.read_only();
                Ok(export)
            }
            Err(error) => {
                let reason = match error.kind() {
                    ErrorKind::NotFound | ErrorKind::InvalidInput => Reason::UnknownExport,
                    _ => Reason::NotOpened,
                };
                if self.told_name.as_deref() != Some(asked) {
                    self.told_name = Some(asked.to_owned());
                    self.stats.turned_away(self.peer, reason, &error);
                }
                Err(error)
            }
        }
    }
}

/// The data of an option, or `None` when it was longer than `most` and has been skipped.
async fn data<S: AsyncRead + Unpin>(
    clock: &mut Clock,
    stream: &mut S,
    header: OptionHeader,
    most: u32,
) -> io::Result<Option<Vec<u8>>> {
    if header.length <= most {
        let mut data = vec![0; header.length as usize];
        clock.wait(stream.read_exact(&mut data)).await?;
        return Ok(Some(data));
    }
    let (mut rest, mut sink) = (stream.take(header.length.into()), tokio::io::sink());
    let skipped = clock.wait(tokio::io::copy(&mut rest, &mut sink)).await?;
    if skipped < u64::from(header.length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(None)
}

fn session(client: &Arc<Identity>, export: Export, terms: &Negotiated) -> Session {
    // By uuid too: a snapshot of another disk that has the name by now is another one.
    let chosen_for = |(name, uuid): &(String, Uuid)| *name == export.name && *uuid == export.disk.uuid();
    let valid = terms.contexts_for.as_ref().is_some_and(chosen_for);
    let contexts = if valid { terms.contexts } else { Contexts::default() };
    Session { client: Arc::clone(client), size: export.disk.size(), export, style: terms.style, contexts }
}

fn flags_of(session: &Session) -> u16 {
    transmission_flags(session.export.read_only, session.style, session.contexts)
}

fn malformed(out: &mut Vec<u8>, option: OptionType, fault: Malformed) {
    let (kind, message): (_, &[u8]) = match fault {
        Malformed::Framing => (ReplyType::ErrInvalid, b"a length in this option does not fit its data"),
        Malformed::Text => (ReplyType::ErrInvalid, b"a string in this option is not allowed"),
        Malformed::TooMany => (ReplyType::ErrTooBig, b"too many queries"),
    };
    put_reply(out, option, kind, &[message]);
}

fn unopened(out: &mut Vec<u8>, option: OptionType, error: &Error) {
    let kind = match error.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidInput => ReplyType::ErrUnknown,
        ErrorKind::Shutdown => ReplyType::ErrShutdown,
        _ => ReplyType::ErrPolicy,
    };
    put_reply(out, option, kind, &[error.what().as_bytes()]);
}
