//! TCP addresses to listen on, as people write them.

use std::net::SocketAddr;

use crate::{Error, ErrorKind, Result};

/// The address `text`: a number and a port, or `localhost` and a port. No other name is looked up: what it stands for
/// could change, and with it who reaches the server.
pub(super) fn parse(text: &str) -> Result<SocketAddr> {
    let numbers = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numbers.as_deref().unwrap_or(text).parse().map_err(|_| {
        let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
        Error::new(ErrorKind::InvalidInput, format!("\"{shown}\" is no address with a port"))
            .hint("for example 127.0.0.1:10809, [::1]:10809 or localhost:10809")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_localhost_are_addresses() {
        for (text, address) in [
            ("127.0.0.1:10809", "127.0.0.1:10809"),
            ("[::1]:9434", "[::1]:9434"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("localhost:10809", "127.0.0.1:10809"),
        ] {
            assert_eq!(parse(text).unwrap(), address.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn other_names_and_addresses_without_a_port_are_refused() {
        for text in ["", "10809", ":10809", "127.0.0.1", "127.0.0.1:99999", "example.org:10809", "localhost", "::1:1x"]
        {
            assert_eq!(parse(text).unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
