//! An error as it leaves the library: the same three lines of text whether the work was done here or by the server of
//! the account, so that both print alike.

use serde::{Deserialize, Serialize};

use crate::Error;

/// What failed, for programs (`kind`) and for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// [`crate::ErrorKind::name`].
    pub kind: String,
    /// One line.
    pub message: String,
    /// What to do about it; not part of the JSON that users see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Byte of the file that the message is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What else the JSON document says beside the error.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub details: serde_json::Map<String, serde_json::Value>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind().name(),
            message: error.to_string(),
            hint: error.hint_text().map(str::to_owned),
            offset: error.offset(),
            ..Self::default()
        }
    }
}
