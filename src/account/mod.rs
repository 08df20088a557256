//! The account directory.

pub mod control;
pub mod failure;
mod keys;
pub mod lock;
pub mod name;
pub mod settings;
