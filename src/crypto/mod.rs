//! XTS over runs of pages, the key hierarchy, sources of the key-encryption key.

pub mod harden;
pub mod kek;
pub mod keyring;
mod locked;
pub mod memlock;
pub mod secret;
mod wrap;
pub mod xts;
