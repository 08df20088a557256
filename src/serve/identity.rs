//! Who a client is, as far as it has proven that.

use std::fmt;

/// What is known of a client for certain. Nothing of it is the client's own word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Where it comes from, as the log names it: its user and process, or its address.
    pub peer: String,
    /// The user, on a unix socket, as the kernel says.
    pub uid: Option<u32>,
    /// Names in the certificate that it showed and that its authority vouches for. Empty: it showed none.
    pub certificate: Vec<String>,
}

impl Identity {
    /// The name by which people know it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.certificate.first().map(String::as_str)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer)?;
        self.name().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}
