//! The file seam under the core, and `sync` beside it.
