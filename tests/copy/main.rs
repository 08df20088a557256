//! Import, export and full copies with the real program: what comes out is what went in, whatever happened in between.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../vhd/build.rs"]
#[allow(dead_code, reason = "written for other tests")]
mod build;
#[path = "../vhd/corpus.rs"]
#[allow(dead_code, reason = "written for other tests")]
mod corpus;
#[path = "../support/mod.rs"]
mod support;

mod clones;
mod confined;
mod consistent;
mod exports;
mod fixture;
mod hidden;
mod hostile;
mod imports;
mod interrupted;
mod peer;
mod recipes;
mod refused;
mod sources;
mod streams;
