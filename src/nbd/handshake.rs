//! The handshake: fixed newstyle option haggling, over any byte stream.
//!
//! Bytes are read exactly as far as an option goes, never ahead: what a client sends after its last option belongs to
//! the transmission phase, and what it sends after STARTTLS must reach nobody but the TLS handshake.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use uuid::Uuid;

use super::context::Contexts;
use super::session::{Session, transmission_flags};
use super::wire::handshake::{
    EXPORT_NAME_ZEROES, InfoRequest, InfoType, Malformed, MetaContextRequest, OptionHeader, OptionType, ReplyType,
    export_name_answer, flag, greeting, info_block_size, info_export, put_reply, text,
};
use super::wire::transmission::HeaderStyle;
use super::{Config, Export, Exports};
use crate::{ErrorKind, PAGE, Result};

/// Bytes at which requests are efficient.
const PREFERRED_BLOCK: u32 = 4096;

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
    /// The server has no certificate.
    None,
    Offered,
    /// Nothing but STARTTLS and ABORT is answered.
    Required,
    Established,
}

/// The server's side of one handshake.
pub(super) struct Handshake<'a> {
    exports: &'a Arc<dyn Exports>,
    config: &'a Config,
    stopping: &'a AtomicBool,
    /// Claims a place among [`Config::max_connections`]; `false` when there is none left.
    admit: &'a mut (dyn FnMut() -> bool + Send + Sync),
    client: ClientFlags,
    options_left: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct ClientFlags {
    fixed: bool,
    no_zeroes: bool,
}

/// What options have settled. STARTTLS starts over with a fresh one.
struct Terms {
    style: HeaderStyle,
    /// The selected contexts, and the export they were selected for.
    contexts: Contexts,
    contexts_for: Option<(String, Uuid)>,
}

/// The answer to one option.
enum Answer {
    Continue,
    Finish(Outcome),
}

impl<'a> Handshake<'a> {
    /// Exchanges greeting and client flags. `None`: the client's flags are not ours, and it must be cut off.
    pub(super) async fn start<S: AsyncRead + AsyncWrite + Unpin>(
        stream: &mut S,
        exports: &'a Arc<dyn Exports>,
        config: &'a Config,
        stopping: &'a AtomicBool,
        admit: &'a mut (dyn FnMut() -> bool + Send + Sync),
    ) -> io::Result<Option<Self>> {
        stream.write_all(&greeting()).await?;
        stream.flush().await?;
        let flags = stream.read_u32().await?;
        let known = u32::from(flag::FIXED_NEWSTYLE | flag::NO_ZEROES);
        if flags & !known != 0 {
            return Ok(None);
        }
        let client = ClientFlags {
            fixed: flags & u32::from(flag::FIXED_NEWSTYLE) != 0,
            no_zeroes: flags & u32::from(flag::NO_ZEROES) != 0,
        };
        Ok(Some(Self { exports, config, stopping, admit, client, options_left: config.max_options }))
    }

    /// Answers options until one ends the haggling.
    pub(super) async fn haggle<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        security: Security,
    ) -> io::Result<Outcome> {
        let mut terms = Terms { style: HeaderStyle::Simple, contexts: Contexts::default(), contexts_for: None };
        let mut out = Vec::new();
        loop {
            let mut header = [0; OptionHeader::LEN];
            stream.read_exact(&mut header).await?;
            let Some(header) = OptionHeader::parse(&header) else { return Ok(Outcome::End) };
            if self.options_left == 0 {
                return Ok(Outcome::End);
            }
            self.options_left -= 1;
            let data = self.data(stream, header).await?;
            out.clear();
            let answer = self.answer(header.option, data.as_deref(), security, &mut terms, &mut out).await;
            stream.write_all(&out).await?;
            stream.flush().await?;
            if let Answer::Finish(outcome) = answer {
                return Ok(outcome);
            }
        }
    }

    /// The data of an option, or `None` when it was too long and has been skipped.
    async fn data<S: AsyncRead + Unpin>(&self, stream: &mut S, header: OptionHeader) -> io::Result<Option<Vec<u8>>> {
        if header.length <= self.config.max_option_bytes {
            let mut data = vec![0; header.length as usize];
            stream.read_exact(&mut data).await?;
            return Ok(Some(data));
        }
        let skipped = tokio::io::copy(&mut stream.take(header.length.into()), &mut tokio::io::sink()).await?;
        if skipped < u64::from(header.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(None)
    }

    async fn answer(
        &mut self,
        option: OptionType,
        data: Option<&[u8]>,
        security: Security,
        terms: &mut Terms,
        out: &mut Vec<u8>,
    ) -> Answer {
        let mut reply = |kind, message: &str| put_reply(out, option, kind, &[message.as_bytes()]);
        // EXPORT_NAME cannot be answered with an error, and a client that is not fixed newstyle understands no reply.
        if option != OptionType::ExportName && !self.client.fixed {
            return Answer::Finish(Outcome::End);
        }
        if option == OptionType::Abort {
            reply(ReplyType::Ack, "");
            return Answer::Finish(Outcome::End);
        }
        let barred = match () {
            () if security == Security::Required && option != OptionType::StartTls => {
                Some((ReplyType::ErrTlsReqd, "this server requires TLS"))
            }
            () if self.stopping.load(Ordering::Relaxed) => Some((ReplyType::ErrShutdown, "the server is stopping")),
            () => None,
        };
        if let Some((kind, message)) = barred {
            if option == OptionType::ExportName {
                return Answer::Finish(Outcome::End);
            }
            reply(kind, message);
            return Answer::Continue;
        }
        if option == OptionType::ExportName {
            return Answer::Finish(self.export_name(data, terms, out).await);
        }
        let Some(data) = data else {
            reply(ReplyType::ErrTooBig, "the data of this option is too long");
            return Answer::Continue;
        };
        let bare = matches!(
            option,
            OptionType::List | OptionType::StartTls | OptionType::StructuredReply | OptionType::ExtendedHeaders
        );
        if bare && !data.is_empty() {
            reply(ReplyType::ErrInvalid, "this option takes no data");
            return Answer::Continue;
        }
        match option {
            OptionType::List => self.list(out).await,
            OptionType::StartTls => match security {
                Security::Offered | Security::Required => {
                    reply(ReplyType::Ack, "");
                    return Answer::Finish(Outcome::StartTls);
                }
                Security::Established => reply(ReplyType::ErrInvalid, "TLS is in use already"),
                Security::None => reply(ReplyType::ErrPolicy, "this server has no certificate"),
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
                    return Answer::Finish(Outcome::Transmit(Box::new(session)));
                }
            }
            OptionType::ListMetaContext | OptionType::SetMetaContext => {
                self.meta_context(option, data, terms, out).await;
            }
            OptionType::Unknown(_) | OptionType::ExportName | OptionType::Abort => {
                reply(ReplyType::ErrUnsup, "this server does not know the option");
            }
        }
        Answer::Continue
    }

    async fn list(&self, out: &mut Vec<u8>) {
        let exports = Arc::clone(self.exports);
        let listed = tokio::task::spawn_blocking(move || exports.list()).await.unwrap_or_default();
        for export in listed {
            let length = (export.name.len() as u32).to_be_bytes();
            let parts: [&[u8]; 3] = [&length, export.name.as_bytes(), export.description.as_bytes()];
            put_reply(out, OptionType::List, ReplyType::Server, &parts);
        }
        put_reply(out, OptionType::List, ReplyType::Ack, &[]);
    }

    async fn export_name(&mut self, data: Option<&[u8]>, terms: &Terms, out: &mut Vec<u8>) -> Outcome {
        // A client with extended headers must use GO.
        if terms.style == HeaderStyle::Extended {
            return Outcome::End;
        }
        let Some(Ok(name)) = data.map(|data| text(data, self.config.max_name)) else { return Outcome::End };
        let Ok(export) = self.open(name).await else { return Outcome::End };
        if !(self.admit)() {
            return Outcome::End;
        }
        let session = session(export, terms);
        out.extend_from_slice(&export_name_answer(session.size, flags_of(&session)));
        if !self.client.no_zeroes {
            out.extend_from_slice(&[0; EXPORT_NAME_ZEROES]);
        }
        Outcome::Transmit(Box::new(session))
    }

    /// Answers INFO or GO; the session when it is a GO that succeeds.
    async fn info(&mut self, option: OptionType, data: &[u8], terms: &Terms, out: &mut Vec<u8>) -> Option<Session> {
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
        if option == OptionType::Go && !(self.admit)() {
            put_reply(out, option, ReplyType::ErrPolicy, &[b"too many clients are connected"]);
            return None;
        }
        let session = session(export, terms);
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

    async fn meta_context(&self, option: OptionType, data: &[u8], terms: &mut Terms, out: &mut Vec<u8>) {
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

    /// Opens an export off the runtime's threads: the registry may have to wait for a disk.
    async fn open(&self, name: &str) -> Result<Export> {
        let (exports, name) = (Arc::clone(self.exports), name.to_owned());
        let read_only = self.config.read_only;
        let opened = tokio::task::spawn_blocking(move || exports.open(&name)).await;
        let mut export =
            opened.unwrap_or_else(|_| Err(crate::Error::new(ErrorKind::Shutdown, "the server is stopping")))?;
        export.read_only |= read_only || export.disk.read_only();
        Ok(export)
    }
}

fn session(export: Export, terms: &Terms) -> Session {
    // By uuid too: a snapshot of another disk that has the name by now is another one.
    let chosen_for = |(name, uuid): &(String, Uuid)| *name == export.name && *uuid == export.disk.uuid();
    let valid = terms.contexts_for.as_ref().is_some_and(chosen_for);
    let contexts = if valid { terms.contexts } else { Contexts::default() };
    Session { size: export.disk.size(), export, style: terms.style, contexts }
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

fn unopened(out: &mut Vec<u8>, option: OptionType, error: &crate::Error) {
    let kind = match error.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidInput => ReplyType::ErrUnknown,
        ErrorKind::Shutdown => ReplyType::ErrShutdown,
        _ => ReplyType::ErrPolicy,
    };
    put_reply(out, option, kind, &[error.what().as_bytes()]);
}
