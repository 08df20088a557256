//! Where a server's log goes: standard error, as text or one JSON object a line, through a [`spool`] that holds up no
//! thread of the server.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format;

use super::notes::NOTES;
use crate::spool::{self, LogLine};
use crate::{Error, ErrorKind, Result, text};

/// How long a process that ends waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The options of verbs that keep a log.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub(super) struct LogOptions {
    /// The form of the log, on standard error
    #[arg(long = "log", value_enum, default_value = "text", value_name = "FORM")]
    form: Form,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,sealdisk::nbd=debug
    #[arg(long = "log-level", default_value = "info", value_name = "FILTER")]
    level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

impl LogOptions {
    /// Starts the log of this process; once. Its lines wait for [`write`].
    pub(super) fn start(&self) -> Result<()> {
        let filter = EnvFilter::try_new(&self.level).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, format!("--log-level: {error}")).hint("--log-level info")
        })?;
        spool::LOG.open();
        spool::OUT.open();
        // Nothing below may write to standard error by itself: it could be held up there, or panic.
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .log_internal_errors(false)
            .with_writer(LogLine::new as fn() -> LogLine);
        match self.form {
            Form::Text => {
                // Whatever is in a field, an event is one line.
                let fields = format::debug_fn(|writer, field, value| write_field(writer, field.name(), value));
                log.with_ansi(io::stderr().is_terminal()).with_target(false).fmt_fields(fields.delimited(" ")).init();
            }
            Form::Json => log.json().init(),
        }
        std::panic::set_hook(Box::new(|panic| {
            let backtrace = std::backtrace::Backtrace::capture();
            tracing::error!(%panic, %backtrace, "a bug in this program");
            spool::LOG.finish(LAST_LINES);
        }));
        Ok(())
    }
}

fn write_field(writer: &mut format::Writer<'_>, name: &str, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    match name {
        "message" => write!(writer, "{}", text::line(&value)),
        // Lines of our own.
        "backtrace" => write!(writer, "{name}={}", text::lines(&value)),
        // How the `log` facade names where an event comes from.
        name if name.starts_with("log.") => Ok(()),
        name => write!(writer, "{name}={}", text::line(&value)),
    }
}

/// Writes the log, and what goes to standard output, from now on: to be called once the process is confined.
pub(super) fn write() -> Result<()> {
    let started = spool::LOG.start().and_then(|()| spool::OUT.start());
    started.map_err(|error| Error::io("cannot start a thread", error))
}

/// Waits for the last lines, of the log or the notes, for a bounded time.
pub(super) fn finish() {
    NOTES.finish(LAST_LINES);
    spool::OUT.finish(LAST_LINES);
    spool::LOG.finish(LAST_LINES);
}
