//! Words that options take, for what the rooms below call by types of their own.

use clap::ValueEnum;

use crate::{base, confine};

/// The format of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ImageFormat {
    Raw,
    Vhd,
}

impl From<ImageFormat> for base::Format {
    fn from(format: ImageFormat) -> Self {
        match format {
            ImageFormat::Raw => Self::Raw,
            ImageFormat::Vhd => Self::Vhd,
        }
    }
}

/// Whether a server confines itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ConfineMode {
    /// As far as the kernel can
    #[default]
    On,
    /// Or do not start
    Require,
    /// Not at all: for debuggers and tracers
    Off,
}

impl From<ConfineMode> for confine::Mode {
    fn from(mode: ConfineMode) -> Self {
        match mode {
            ConfineMode::On => Self::On,
            ConfineMode::Require => Self::Require,
            ConfineMode::Off => Self::Off,
        }
    }
}
