//! `vhd info`: what a VHD says of itself.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::super::context::{Context, Outcome};
use super::super::{reading, size};
use super::{Opening, notices_json, notices_text, warnings_json};
use crate::io::host_file::HostFile;
use crate::text;
use crate::vhd::{self, Image};

/// Show what a VHD is: type, size, creator, blocks, parents, and what is odd about it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk vhd info disk.vhd
  sealdisk vhd info child.vhd --parent-root /images --json")]
pub(in crate::cli) struct Info {
    /// A VHD of any kind
    file: PathBuf,
    #[command(flatten)]
    opening: Opening,
    /// Show a differencing disk without opening its parents
    #[arg(long)]
    no_parents: bool,
}

impl Info {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        reading::confine(&[], reading::vhd(&self.file, &self.opening.options())?)?;
        let opened = if self.no_parents {
            vhd::open_single(&self.file, &self.opening.options())?
        } else {
            vhd::open(&self.file, &self.opening.options())?
        };
        let images = opened.chain.images();
        let disk = &images[0];
        let mut document = describe(&opened.files[0], disk);
        let chain: Vec<_> =
            opened.files.iter().zip(images).skip(1).map(|(file, image)| describe(file, image)).collect();
        document["parent"] = json!(opened.files.get(1).map(|parent| parent.path().display().to_string()));
        document["chain"] = json!(chain);
        let mut text = text(&opened.files[0], disk);
        for (file, image) in opened.files.iter().zip(images).skip(1) {
            let _ = writeln!(text, "{:<12} {} ({})", "parent:", text::path(file.path()), image.kind().name());
        }
        text.push_str(&notices_text(disk.notices()));
        context.show(&document, text.trim_end())
    }
}

fn describe(file: &HostFile, image: &Image) -> Value {
    let footer = image.meta().footer();
    let header = image.meta().header();
    let differencing = image.kind() == vhd::DiskType::Differencing;
    let parent = header.filter(|_| differencing);
    let geometry = footer.geometry();
    json!({
        "path": file.path().display().to_string(),
        "type": image.kind().name(),
        "current_size": image.size(),
        "original_size": footer.original_size(),
        "block_size": header.map(vhd::Header::block_size),
        "blocks": image.bat().map(vhd::Bat::len),
        "allocated_blocks": image.bat().map(vhd::Bat::used),
        "creator_app": footer.creator_app(),
        "creator_version": version(footer),
        "creator_os": footer.creator_os(),
        "unique_id": footer.unique_id(),
        "created": footer.unix_seconds(),
        "geometry": { "cylinders": geometry.cylinders, "heads": geometry.heads, "sectors": geometry.sectors },
        "saved_state": footer.saved_state(),
        "parent_id": parent.map(vhd::Header::parent_id),
        "parent_name": parent.map(vhd::Header::parent_name),
        "warnings": warnings_json(image.notices()),
        "notices": notices_json(image.notices()),
    })
}

fn version(footer: &vhd::Footer) -> String {
    let (major, minor) = footer.creator_version();
    format!("{major}.{minor}")
}

fn text(file: &HostFile, image: &Image) -> String {
    let footer = image.meta().footer();
    let geometry = footer.geometry();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{:<12} {value}", format!("{name}:"));
    };
    line("file", text::path(file.path()));
    line("type", image.kind().name().to_owned());
    line("size", format!("{} ({} bytes)", size::human(image.size()), image.size()));
    if let (Some(header), Some(bat)) = (image.meta().header(), image.bat()) {
        line("blocks", format!("{} of {} allocated, {} each", bat.used(), bat.len(), size::human(header.block_size())));
    }
    let creator = footer.creator_app().escape_debug().to_string();
    line("creator", format!("{creator} {}, {}", version(footer), footer.creator_os().escape_debug()));
    line("unique id", footer.unique_id().to_string());
    line("geometry", format!("{}/{}/{}", geometry.cylinders, geometry.heads, geometry.sectors));
    if let Some(header) = image.meta().header().filter(|_| image.kind() == vhd::DiskType::Differencing) {
        line("parent id", header.parent_id().to_string());
        line("parent name", format!("{:?}", header.parent_name()));
    }
    text
}
