//! XTS over runs of pages, the key hierarchy, sources of the key-encryption key.

pub mod keyring;
pub mod secret;
pub mod xts;
