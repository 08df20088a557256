//! The program as its users see it: verbs, answers, the switch, what a server leaves behind, what is refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod durable;
mod layers;
mod life;
mod listeners;
mod model;
mod quickstart;
mod refused;
mod served;
mod serving;
mod shapes;
mod switch;
mod terminal;
