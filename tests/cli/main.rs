//! The program as its users see it: verbs, answers, the switch, what a server leaves behind, what is refused.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod layers;
mod model;
mod switch;
