//! `quickstart`: everything that a first look needs, in one verb.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::address;
use super::context::{Context, Outcome};
use super::create;
use super::init;
use super::kek_options::KekOptions;
use super::log::LogOptions;
use super::reading;
use super::serve;
use super::service::{Plan, Reachable, Service};
use super::uri;
use crate::account::name::BlobName;
use crate::account::report::{Listed, Switch};
use crate::account::request::Request;
use crate::account::{session, settings};
use crate::base;
use crate::vhd::OptionNames;
use crate::{Error, ErrorKind, Result};

/// A small disk as another program made it.
const EXAMPLE: &[u8] = include_bytes!("../../fixtures/files.vhd");
/// Its name in the account directory.
const EXAMPLE_FILE: &str = "example.vhd";

/// Make an account and a disk if there are none, serve it, and print how to attach it
///
/// The disk lies over IMAGE, which stays as it is; without IMAGE over a small example. It is served on a unix socket
/// that only its user can open. Run again, it serves what is there. Ctrl-C ends it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk quickstart
  sealdisk quickstart /images/debian.vhd
  sealdisk quickstart --listen 127.0.0.1:10809
  sealdisk --account /srv/disks quickstart")]
pub(super) struct Quickstart {
    /// A VHD of any kind, or a raw image
    image: Option<PathBuf>,
    /// Listen on a loopback TCP address too: every user of this machine can attach there
    #[arg(long, value_name = "ADDR:PORT", value_parser = address::parse)]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    key: KekOptions,
    #[command(flatten)]
    log: LogOptions,
}

/// Quickstart itself has no such options.
pub(super) const NAMES: OptionNames = OptionNames {
    format: Some("sealdisk create NAME --base IMAGE --base-format"),
    root: Some("sealdisk create NAME --base IMAGE --base-root"),
    recover: Some("sealdisk create NAME --base IMAGE --base-recover"),
};

impl Quickstart {
    pub(super) fn run(self, context: &Context) -> Outcome {
        self.log.start()?;
        if !context.account.join(settings::FILE).exists() {
            let made = init::make(context, &self.key, Switch::On)?;
            context.note(format_args!("made an account in {}; its key: {}", made.account.display(), made.key_source));
            context
                .note("keep a copy of the key away from this machine; `sealdisk key rotate-kek --help` takes another");
        }
        let image = self.image.clone().unwrap_or_else(|| context.account.join(EXAMPLE_FILE));
        let name = name_for(&image);
        let (_, owner) = session::settings(&context.account)?;
        let made = self.image.is_none() && owner.act(|| example(&image))?;
        let disk = self.disk(context, &name, &image);
        if made && disk.is_err() {
            // Best effort: nothing lies over it, as there is no disk.
            let _: Result<()> = owner.act(|| {
                let _ = fs::remove_file(&image);
                Ok(())
            });
        }
        disk?;
        let plan = Plan { listen: self.listen, ..Plan::default() };
        let opened = serve::open(context, &self.key, &plan)?;
        let service = Service::start(context, opened, plan)?;
        let guide = Guide::new(context, &name, &service.reachable);
        context.announce(&guide, &guide)?;
        Ok(service.run()?)
    }

    /// Sees to it that there is a disk `name` over `image`.
    fn disk(&self, context: &Context, name: &BlobName, image: &Path) -> Outcome {
        let disks: Vec<Listed> = context.ask(&self.key, Request::List, &[])?;
        if let Some(disk) =
            disks.into_iter().find(|disk| disk.name.parse::<BlobName>().is_ok_and(|there| there == *name))
        {
            return Ok(check_same(&disk, image)?);
        }
        let options = base::OpenOptions { names: NAMES, ..base::OpenOptions::default() };
        let made = create::make_over(context, &self.key, name.clone(), image, &options)?;
        context.note(format_args!("made the disk {}", made.disk.name));
        reading::text(&made.files).lines().skip(1).for_each(|line| context.note(line));
        Ok(())
    }
}

/// The example as the file `path` of the account, as a base image must stay where it is. Whether it was made now.
fn example(path: &Path) -> Result<bool> {
    let folder = path.parent().unwrap_or(path);
    if fs::metadata(path).is_ok_and(|there| there.len() == EXAMPLE.len() as u64) {
        return Ok(false);
    }
    let temporary = folder.join(format!("{EXAMPLE_FILE}.new"));
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&temporary)?;
        file.write_all(EXAMPLE)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|e| Error::io("cannot write the example image", e).at_path(path))?;
    Ok(true)
}

/// A disk is called after its image, where that is a valid name.
fn name_for(image: &Path) -> BlobName {
    let stem = image.file_stem().and_then(|stem| stem.to_str()).filter(|stem| !stem.contains('/'));
    stem.and_then(|stem| stem.parse().ok()).unwrap_or_else(|| "disk1".parse().expect("a valid name"))
}

fn check_same(disk: &Listed, image: &Path) -> Result<()> {
    let image = fs::canonicalize(image).map_err(|e| Error::io("cannot open the image", e).at_path(image))?;
    if disk.base.as_ref() == Some(&image) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::AlreadyExists, format!("there is a disk \"{}\" already, not over this image", disk.name))
        .at_path(image)
        .hint("`sealdisk create NAME --base IMAGE` makes one of another name, `sealdisk serve` serves it"))
}

/// How to attach the disk.
#[derive(Debug, Serialize)]
struct Guide<'a> {
    #[serde(flatten)]
    reachable: &'a Reachable,
    uri: String,
    #[serde(skip)]
    account: PathBuf,
    #[serde(skip)]
    name: &'a BlobName,
}

impl<'a> Guide<'a> {
    fn new(context: &Context, name: &'a BlobName, reachable: &'a Reachable) -> Self {
        let uri = uri::unix(&name.to_string(), &reachable.socket);
        let account = std::path::absolute(&context.account).unwrap_or_else(|_| context.account.clone());
        Self { reachable, uri, account, name }
    }
}

impl fmt::Display for Guide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reachable, uri, account, name } = self;
        let socket = quoted(&reachable.socket.display().to_string());
        let export = quoted(&name.to_string());
        let account = quoted(&account.display().to_string());
        let uri = quoted(uri);
        for listener in &reachable.listeners {
            writeln!(f, "{listener}")?;
        }
        writeln!(
            f,
            "\nIn another terminal:\n\n\
             look at it      qemu-img info {uri}\n\
             boot it         qemu-system-x86_64 -m 1G -drive file={uri},format=raw,if=virtio\n\
             copy it         nbdcopy {uri} copy.img\n\
             convert it      qemu-img convert -O qcow2 {uri} copy.qcow2\n\
             read at random  fio --name=read --ioengine=nbd --uri={uri} --rw=randread --bs=4k --iodepth=32 --time_based --runtime=5\n\
             as a device     sudo modprobe nbd && sudo nbd-client -unix {socket} /dev/nbd0 -N {export}\n\
             detach it       sudo nbd-client -d /dev/nbd0"
        )?;
        let verb = format!("{} --account {account}", quoted(&program()));
        write!(
            f,
            "\nand, while it runs:\n\n\
             how it is stored       {verb} status\n\
             page by page           {verb} map {export}\n\
             write in plaintext     {verb} encryption off\n\
             write encrypted again  {verb} encryption on\n\n\
             Ctrl-C ends it."
        )
    }
}

/// This program as a shell in any folder finds it.
fn program() -> String {
    let Ok(this) = std::env::current_exe() else { return "sealdisk".to_owned() };
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).map(|folder| folder.join("sealdisk")).find(|path| path.is_file());
    let installed = found.and_then(|path| path.canonicalize().ok()).is_some_and(|path| path == this);
    if installed { "sealdisk".to_owned() } else { this.display().to_string() }
}

/// `text` as one word of a shell's command line.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/:@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_called_after_its_image() {
        for (image, name) in [
            ("/images/debian-12.vhd", "debian-12"),
            ("a b.img", "a b"),
            ("/images/x@y.vhd", "disk1"),
            ("/", "disk1"),
            ("..", "disk1"),
        ] {
            assert_eq!(name_for(Path::new(image)).to_string(), name, "{image}");
        }
    }

    #[test]
    fn words_of_a_shell_are_quoted() {
        assert_eq!(quoted("/srv/disks"), "/srv/disks");
        assert_eq!(quoted("nbd+unix:///a?socket=/b"), "'nbd+unix:///a?socket=/b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
