//! `export`: a copy of a disk, or of a snapshot, in a file.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::context::{Context, Outcome};
use super::kek_options::KekOptions;
use super::{copying, progress, reading, size, stop};
use crate::account::copies::Reading;
use crate::account::failure::Failure;
use crate::account::life_request::LifeRequest;
use crate::account::view_name::ViewName;
use crate::base::Format;
use crate::confine::Needs;
use crate::copy::convert::{self, Target};
use crate::copy::{Stoppable, out};
use crate::io::output::Output;
use crate::io::sink::Sink;
use crate::io::system;
use crate::nbd::client::Client;
use crate::vhd::azure::azure_size;
use crate::vhd::{DEFAULT_BLOCK, Footer};
use crate::{Error, ErrorKind, Result, text};

/// Copy a disk, or one of its snapshots, to a file, in plaintext
///
/// A disk that is being served is copied as it is at the beginning: through a snapshot that is taken for the copy and
/// deleted after it. Holes and zeros take no space; what was written is read back and compared. A fixed VHD is made for
/// upload to Azure: zeros are added up to whole MiB, and 20 of them, unless --exact-size is given. Until it is whole
/// the file is called FILE.sealdisk-part; when it was interrupted, the same command goes on with that. No file is
/// overwritten.
///
/// FILE may be -, for standard output: raw or fixed, every byte, and not compared.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk export disk1 upload.vhd
  sealdisk export disk1@monday monday.vhd --to dynamic
  sealdisk export disk1 - --to raw | xz > disk1.img.xz")]
pub(super) struct Export {
    /// The disk, or its snapshot
    #[arg(value_name = "NAME[@SNAPSHOT]")]
    source: ViewName,
    /// A new file, or - for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The format of the file
    #[arg(long, value_name = "FORMAT", default_value = "fixed")]
    to: To,
    /// Size of the blocks of a dynamic disk: a power of two from 4K to 256M
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    block_size: Option<u64>,
    /// Do not round the size of a fixed VHD up to what Azure takes
    #[arg(long)]
    exact_size: bool,
    #[command(flatten)]
    key: KekOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    Fixed,
    Dynamic,
    Raw,
}

impl To {
    fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Raw => "raw",
        }
    }
}

impl Export {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let stop = stop::on_signals()?;
        let like = LifeRequest::Read { view: self.source.clone() };
        context.session(&self.key, &like.into(), |session| {
            let to_stream = self.file.as_os_str() == "-";
            if to_stream {
                self.check_stream(context)?;
            }
            let output = if to_stream { None } else { Some(Output::resume(&self.file)?) };
            let needs = Needs::default();
            let needs = output.iter().fold(needs, reading::and_output);
            reading::confine(&[(&context.account, session)], needs)?;
            let (reading, client) = copying::read(session, &self.source)?;
            let size = match self.to {
                To::Fixed if !self.exact_size => azure_size(reading.size_bytes).ok_or_else(|| {
                    Error::new(ErrorKind::InvalidInput, "the disk is too large to be rounded up").hint("--exact-size")
                })?,
                _ => reading.size_bytes,
            };
            if size != reading.size_bytes {
                let added = size - reading.size_bytes;
                context.note(format_args!("note: {added} bytes of zeros are added, so that Azure takes the size"));
            }
            let mut content = Stoppable::new(client, stop);
            match output {
                None => self.to_stream(&mut content, size),
                Some(output) => self.to_file(context, &reading, content, output, size),
            }
        })
    }

    fn check_stream(&self, context: &Context) -> Result<()> {
        let invalid = |what: &str, hint: &str| Err(Error::new(ErrorKind::InvalidInput, what).hint(hint));
        if self.to == To::Dynamic {
            return invalid("a dynamic VHD cannot be written to a stream", "--to fixed or --to raw");
        }
        if context.json {
            return invalid("standard output is taken by the disk, so there is no JSON document", "name a file");
        }
        if io::stdout().is_terminal() {
            return invalid("standard output is a terminal", "pipe it to a program, or name a file");
        }
        Ok(())
    }

    fn to_stream(&self, content: &mut Stoppable<Client>, size: u64) -> Outcome {
        let footer = match self.to {
            To::Raw => Vec::new(),
            _ => Footer::fixed(size, system::uuid()?, system::seconds()).to_bytes().to_vec(),
        };
        let mut bar = progress::bytes(size, "copy");
        let written = out::write_all(content, size, &footer, &mut io::stdout().lock(), &mut |at| bar.set_position(at));
        drop(bar);
        Ok(written?)
    }

    fn to_file(
        &self,
        context: &Context,
        reading: &Reading,
        mut content: Stoppable<Client>,
        output: Output,
        size: u64,
    ) -> Outcome {
        let target = match self.to {
            To::Raw => Target::Raw,
            To::Fixed => Target::Fixed,
            To::Dynamic => Target::Dynamic { block_size: self.block_size.unwrap_or(DEFAULT_BLOCK) },
        };
        let mut show = progress::phases();
        let made = Sink::over(output.file()).and_then(|sink| {
            convert::write_out(&mut content, (output.file(), sink), &self.file, target, size, &mut show)
        });
        drop(show);
        let made = made.map_err(|error| unfinished(error, &output))?;
        output.publish()?;
        reading::note_name(context, &self.file, if self.to == To::Raw { Format::Raw } else { Format::Vhd });
        let (kind, path) = (self.to.name(), self.file.display());
        let document = json!({
            "source": self.source.to_string(),
            "temporary_snapshot": reading.temporary_snapshot,
            "path": path.to_string(),
            "type": kind,
            "size_bytes": size,
            "stored_bytes": made.stored,
            "unique_id": made.unique_id,
            "verified": true,
        });
        let (all, stored) = (size::human(size), size::human(made.stored));
        context
            .show(&document, format_args!("{}: {kind}, {all}, {stored} of it stored; compared", text::path(&self.file)))
    }
}

/// Says what is left of the file.
fn unfinished(error: Error, output: &Output) -> Failure {
    let mut failure = Failure::from(error);
    let Some(part) = output.part() else {
        if failure.kind == ErrorKind::Cancelled.name() {
            failure.message = "stopped; nothing was written".to_owned();
        }
        return failure;
    };
    if failure.kind == ErrorKind::Cancelled.name() {
        failure.message = format!("stopped; the beginning is kept in {}", part.display());
    }
    let go_on = format!("the same command goes on with {}; it may be removed", part.display());
    failure.hint = Some(match failure.hint {
        Some(hint) => format!("{hint}; then {go_on}"),
        None => go_on,
    });
    failure.details.insert("unfinished".to_owned(), part.display().to_string().into());
    failure
}
