//! The control socket.

pub mod frame;
