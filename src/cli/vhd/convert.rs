//! `vhd convert`: an image in another format.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::super::context::{Context, Outcome};
use super::super::values::ImageFormat;
use super::super::{progress, reading, size};
use super::Opening;
use crate::base::Format;
use crate::copy::convert::{self, ConvertOptions, Target};
use crate::io::host_file::HostFile;
use crate::io::output::Output;
use crate::text;
use crate::vhd::DEFAULT_BLOCK;

/// Copy an image into a new file of another format, sparse, and compare the two
///
/// The input may be a VHD of any kind, with its parents, or a raw image.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sealdisk vhd convert dynamic.vhd fixed.vhd --to fixed
  sealdisk vhd convert disk.img upload.vhd --to fixed --azure
  sealdisk vhd convert child.vhd whole.vhd --to dynamic --parent-root /images")]
pub(in crate::cli) struct Convert {
    /// The image to read: a VHD of any kind, or a raw image
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to make; none is overwritten
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// The format of the file to make
    #[arg(long, value_name = "FORMAT")]
    to: To,
    /// The format of the input; if left out, what is called .vhd or .avhd is a VHD, anything else is raw
    #[arg(long, value_name = "FORMAT")]
    from: Option<ImageFormat>,
    #[command(flatten)]
    opening: Opening,
    /// Size of the blocks of a dynamic disk: a power of two from 4K to 256M
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_negative_numbers = true)]
    block_size: Option<u64>,
    /// Round the virtual size up to what Azure takes: whole MiB, at least 20 of them
    #[arg(long)]
    azure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    Fixed,
    Dynamic,
    Raw,
}

impl Convert {
    pub(in crate::cli) fn run(self, context: &Context) -> Outcome {
        let target = match self.to {
            To::Raw => Target::Raw,
            To::Fixed => Target::Fixed,
            To::Dynamic => Target::Dynamic { block_size: self.block_size.unwrap_or(DEFAULT_BLOCK) },
        };
        let mut input = self.opening.image_options(self.from.map(Into::into));
        input.names.format = Some("--from");
        let options = ConvertOptions { input, target, azure: self.azure };
        let mut show = progress::phases();
        let source = HostFile::open_to_copy(&self.input)?;
        let output = Output::create(&self.output)?;
        reading::confine(&[], reading::and_output(reading::image(&source, &options.input)?, &output))?;
        let result = convert::convert_into(source, output, &self.output, &options, &mut show);
        drop(show);
        let made = result?;
        reading::note_name(context, &self.input, made.from);
        let format = if self.to == To::Raw { Format::Raw } else { Format::Vhd };
        reading::note_name(context, &self.output, format);
        let kind = match self.to {
            To::Fixed => "fixed",
            To::Dynamic => "dynamic",
            To::Raw => "raw",
        };
        let document = json!({
            "path": self.output.display().to_string(),
            "type": kind,
            "current_size": made.size,
            "stored_bytes": made.stored,
            "unique_id": made.unique_id,
            "verified": true,
            "from": made.from,
            "files": made.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>(),
        });
        let (all, stored) = (size::human(made.size), size::human(made.stored));
        let files = reading::text(&made.files);
        let text = format!("{}: {kind}, {all}, {stored} of it stored; compared{files}", text::path(&self.output));
        context.show(&document, text)
    }
}
