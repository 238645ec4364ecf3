//! The language of a worker's channel: frames, the messages in them, and what the router says back.
//!
//! Owns both serializations of Node's child IPC and the vocabulary that Node's cluster, the sticky
//! sessions and the cluster adapter of Socket.IO speak over it. Pure: bytes in, values out. A worker
//! runs other people's code, so its bytes are hostile: nothing in this room may panic, allocate ahead
//! of what has arrived, or recurse as deep as a message says.
//!
//! | file | what it is |
//! |---|---|
//! | [`frame`] | cuts a stream into frames |
//! | [`message`] | what a frame means |
//! | [`packet`] | the cluster adapter's packets, known by their first and last bytes |
//! | `preload` | what the router's own script in the worker says |
//! | [`reply`] | the frames the router writes |
//! | `v8`, `json` | the two serializations, reading and writing |
//! | `value` | the little of a message that is ever looked at |
#![deny(clippy::indexing_slicing, clippy::expect_used, clippy::unwrap_used, clippy::panic)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::fmt;
use std::str::FromStr;

pub mod frame;
#[cfg(test)]
mod javascript;
pub(crate) mod json;
pub mod message;
pub mod packet;
mod preload;
pub mod reply;
pub(crate) mod v8;
pub(crate) mod value;

/// How a worker's channel writes its messages; fixed for the worker's life.
#[derive(
    Debug, Default, PartialEq, Eq, Hash, Clone, Copy, serde::Serialize, serde::Deserialize,
)]
pub enum Serialization {
    /// V8's structured clone behind a length: what Node calls `advanced`.
    #[default]
    Advanced,
    /// One line of JSON: Node's default, and the only one to speak with Bun.
    Json,
}

impl Serialization {
    /// The word for it, on the command line and in `NODE_CHANNEL_SERIALIZATION_MODE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Advanced => "advanced",
            Self::Json => "json",
        }
    }
}

impl fmt::Display for Serialization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Serialization {
    type Err = UnknownSerialization;

    fn from_str(word: &str) -> Result<Self, UnknownSerialization> {
        [Self::Advanced, Self::Json]
            .into_iter()
            .find(|serialization| serialization.as_str() == word)
            .ok_or_else(|| UnknownSerialization { got: word.to_owned() })
    }
}

/// A word that names no serialization.
#[derive(Debug, PartialEq, Eq, Clone, thiserror::Error)]
#[error("unknown serialization `{got}`: expected `advanced` or `json`")]
pub struct UnknownSerialization {
    /// The word.
    pub got: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serializations_are_written_as_they_are_read() {
        for serialization in [Serialization::Advanced, Serialization::Json] {
            assert_eq!(serialization.to_string().parse(), Ok(serialization));
        }
        let error = "JSON".parse::<Serialization>().unwrap_err();
        assert!(error.to_string().contains("`JSON`"), "{error}");
    }
}
