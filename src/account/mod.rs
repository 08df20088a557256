//! The account directory.

pub mod control;
pub mod failure;
pub mod lock;
pub mod name;
pub mod settings;
