//! Where a server's log goes: standard error, as text or one JSON object a line.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::{Error, ErrorKind, Result};

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
    /// Starts the log of this process; once.
    pub(super) fn start(&self) -> Result<()> {
        let filter = EnvFilter::try_new(&self.level).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, format!("--log-level: {error}")).hint("--log-level info")
        })?;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        match self.form {
            Form::Text => log.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
            Form::Json => log.json().init(),
        }
        Ok(())
    }
}
