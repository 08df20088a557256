//! The account directory.

pub mod failure;
pub mod name;
pub mod settings;
