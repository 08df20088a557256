//! The account directory.
