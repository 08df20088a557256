//! `import`: a disk that holds a copy of an image.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::context::{Context, Outcome};
use super::copying::{self, Copied, CopySource};
use super::kek_options::KekOptions;
use super::limits::seconds;
use super::values::ImageFormat;
use super::vhd::Opening;
use super::{reading, show, size, stop};
use crate::account::failure::Failure;
use crate::account::life_request::LifeRequest;
use crate::account::name::BlobName;
use crate::account::session::Session;
use crate::base::{Content, OpenOptions, UntrackedImage};
use crate::confine::Needs;
use crate::copy::source::Seekable;
use crate::copy::stream::Stream;
use crate::copy::{Stop, Stoppable};
use crate::io::host_file::HostFile;
use crate::nbd::client::{Client, LEAST_RATE, WaitBudget};
use crate::nbd::uri::Uri;
use crate::{Error, ErrorKind, Result, text};

/// Copy an image into a new disk; what is copied is encrypted while encryption is on
///
/// SOURCE is a VHD of any kind with its parents, a raw image, a block device, `nbd://HOST[:PORT]/EXPORT` or
/// `nbd+unix:///EXPORT?socket=PATH` of any NBD server, or `-`: standard input, a raw image or a fixed VHD. Holes and
/// zeros take no space. What was written is made durable, read back and compared. Until all of it is there the disk is
/// not served, and no verb but delete takes it. When it was interrupted, the same command goes on, as long as the
/// source has not changed; a stream is read from its beginning again and compared.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk import server.vhd web/root.vhd
  sealdisk import /dev/vg0/root-snapshot web/root
  sealdisk import nbd+unix:///disk1?socket=/run/nbd.sock copy
  xz -dc disk.img.xz | sealdisk import - disk1 --size 10G")]
pub(super) struct Import {
    /// A file, a block device, an NBD URI, or - for standard input
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// BLOB or CONTAINER/BLOB; the default container is vhds
    name: BlobName,
    /// The format of the source; if left out, a file that is called .vhd or .avhd is a VHD, anything else is raw
    #[arg(long, value_name = "FORMAT")]
    format: Option<ImageFormat>,
    /// Size of the disk, if it is to be larger than the image; a stream must hold an image of just this size
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    size: Option<u64>,
    /// How long an NBD server may take without getting on; at 1 KiB a second it gets on
    #[arg(long, value_name = "SECONDS", value_parser = timeout, default_value = "60")]
    nbd_timeout: Duration,
    #[command(flatten)]
    opening: Opening,
    #[command(flatten)]
    key: KekOptions,
}

/// What the help says of the rate.
const _: () = assert!(LEAST_RATE == 1024);

fn timeout(text: &str) -> Result<Duration> {
    let time = seconds(text)?;
    if time < Duration::from_secs(1) {
        return Err(Error::new(ErrorKind::InvalidInput, "less than a second is no time for a server"));
    }
    Ok(time)
}

impl Import {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let stop = stop::on_signals()?;
        let shown = self.source.display().to_string();
        let copied = match self.source.to_str() {
            Some("-") => self.stream(context, stop)?,
            Some(text) if Uri::is_one(text) => self.nbd(context, &Uri::parse(text)?, stop)?,
            _ => self.file(context, HostFile::open_to_copy(&self.source)?, stop)?,
        };
        let shown = if shown == "-" { "standard input" } else { &shown };
        let files = reading::text(&copied.files);
        let text = format!("{}\n{}{files}", copying::text(&copied, shown), show::Text(&copied.disk));
        context.show(&copied, text)
    }

    fn file(&self, context: &Context, file: HostFile, stop: Stop) -> Result<Copied, Failure> {
        let path = &self.source;
        let (options, shown) = (self.options(), text::path(path));
        if file.is_in_use() {
            context.note(format_args!(
                "warning: {shown} is in use: what is written to it meanwhile makes the copy a mixture; a snapshot \
                 (lvcreate --snapshot) or an unmounted device does not change"
            ));
        }
        let needs = reading::image(&file, &options)?;
        self.session(context, |session| {
            reading::confine(&[(&context.account, session)], needs)?;
            let plain = UntrackedImage::of(file, &options)?;
            reading::note_name(context, path, plain.format());
            let stamp = plain.stamp()?;
            let absolute = std::path::absolute(path).map_err(|e| Error::io("no absolute path", e).at_path(path))?;
            let label = format!("{}: {stamp}", absolute.display());
            let changed = || {
                let error = Error::new(ErrorKind::Io, "the image was changed while it was copied").at_path(path);
                Ok((plain.stamp()? != stamp).then_some(error))
            };
            let mut pieces = Seekable(Stoppable::new(&plain, stop.clone()));
            // Nothing tells whether a device was changed since an earlier attempt.
            let stable = !plain.is_device();
            let source = CopySource { pieces: &mut pieces, label, stable, stop, changed: &changed };
            Ok(Copied { files: plain.paths(), ..self.copy(context, session, source)? })
        })
    }

    fn options(&self) -> OpenOptions {
        self.opening.image_options(self.format.map(Into::into))
    }

    fn nbd(&self, context: &Context, uri: &Uri, stop: Stop) -> Result<Copied, Failure> {
        if self.format == Some(ImageFormat::Vhd) {
            let what = "an NBD export is taken as it is, as a raw image";
            return Err(Error::new(ErrorKind::InvalidInput, what).hint("leave --format out").into());
        }
        let asked = stop.clone();
        let budget = WaitBudget::new(self.nbd_timeout, move || asked.check());
        self.session(context, |session| {
            let confine = || reading::confine(&[(&context.account, session)], Needs::default());
            let client = Client::connect_and(uri, budget, confine)?;
            let size = client.size();
            if size == 0 || !size.is_multiple_of(crate::PAGE as u64) {
                let what = format!("the export of {uri} has {size} bytes: no whole number of 512-byte pages");
                let error = Error::new(ErrorKind::InvalidInput, what);
                return Err(error
                    .hint("have its server serve a copy that was rounded up: `truncate -s %512 FILE`")
                    .into());
            }
            let mut pieces = Seekable(Stoppable::new(client, stop.clone()));
            let label = format!("{uri}: {size} bytes");
            let source = CopySource { pieces: &mut pieces, label, stable: true, stop, changed: &|| Ok(None) };
            self.copy(context, session, source)
        })
    }

    fn stream(&self, context: &Context, stop: Stop) -> Result<Copied, Failure> {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            let error = Error::new(ErrorKind::InvalidInput, "standard input is a terminal");
            return Err(error.hint("pipe an image into it, or name a file").into());
        }
        self.session(context, |session| {
            reading::confine(&[(&context.account, session)], Needs::default())?;
            let mut pieces = Stream::open(&stdin, self.options(), self.size, stop.clone())?;
            let label = "a stream".to_owned();
            let source = CopySource { pieces: &mut pieces, label, stable: false, stop, changed: &|| Ok(None) };
            self.copy(context, session, source)
        })
    }

    /// The account, reached before anything of the source is read: its key may come from a program or a terminal.
    fn session(
        &self,
        context: &Context,
        body: impl FnOnce(&Session) -> Result<Copied, Failure>,
    ) -> Result<Copied, Failure> {
        // Any copy needs it the same way.
        let like = LifeRequest::Copied { name: self.name.clone(), done: 0, size: None };
        context.session(&self.key, &like.into(), body)
    }

    fn copy(&self, context: &Context, session: &Session, source: CopySource<'_>) -> Result<Copied, Failure> {
        let (size, known) = (self.size, source.pieces.size());
        if let (Some(size), Some(known)) = (size, known)
            && size < known
        {
            let what = format!("a disk of {size} bytes is smaller than the image, which has {known}");
            return Err(Error::new(ErrorKind::InvalidInput, what).hint("leave --size out").into());
        }
        copying::copy(context, session, &self.name, source, size)
    }
}
