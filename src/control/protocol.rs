//! What is said over a control socket: on each connection one question and one answer, a line of
//! JSON each.
//!
//! ```text
//! {"router":1,"version":"0.1.0","order":{"do":"reload"}}
//! {"router":1,"version":"0.1.0","done":null}            or "error":"what was wrong"
//! ```
//!
//! `router` is the protocol's number and comes first: whoever speaks another is told so, by name and
//! version, before anything else of the line is looked at.

use std::io;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The number of this protocol.
pub const PROTOCOL: u32 = 1;

/// The longest question, in bytes: the settings and environments of many apps.
pub const QUESTION_MAX: usize = 16 << 20;

/// The longest answer, in bytes.
pub const ANSWER_MAX: usize = 64 << 20;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize, Deserialize)]
struct Head {
    router: u32,
    #[serde(default)]
    version: String,
}

#[derive(Serialize, Deserialize)]
struct Question<T> {
    router: u32,
    version: String,
    order: T,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    router: u32,
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default)]
    done: Value,
}

/// Why there is no answer that says what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("nobody answers at {0}")]
    Nobody(PathBuf),
    /// It is somebody else's.
    #[error("{0} belongs to another user, or to root: only its owner and root may speak to it")]
    Forbidden(PathBuf),
    /// The other side speaks another version of the protocol.
    #[error(
        "the daemon is router {theirs} and speaks protocol {number}, this is router {VERSION} with \
         protocol {PROTOCOL}: use one version for both (`router kill` of the old one ends its \
         daemon; start the apps again with the new one)"
    )]
    Version {
        /// Its version.
        theirs: String,
        /// Its protocol.
        number: u32,
    },
    /// What answers is no router, or was cut off.
    #[error("what answers at {at} is no router: {why}")]
    Garbage {
        /// Where.
        at: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It could not or would not do it; for a person to read.
    #[error("{0}")]
    Refused(String),
    /// It ended before it had answered.
    #[error("it ended before it had answered")]
    Ended,
    /// The system did not let us.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// A question, with the end of its line.
///
/// # Errors
/// The order is nothing that JSON can say.
pub fn question<T: Serialize>(order: T) -> io::Result<Vec<u8>> {
    line(&Question { router: PROTOCOL, version: VERSION.to_owned(), order })
}

/// What a question asks.
///
/// # Errors
/// What to answer to one who speaks another version, or no sense.
pub fn read_question<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    let head: Head = serde_json::from_slice(line).map_err(|error| {
        format!("that was no question: {error}. Here answers router {VERSION}, protocol {PROTOCOL}")
    })?;
    if head.router != PROTOCOL {
        return Err(format!(
            "here answers router {VERSION}, which speaks protocol {PROTOCOL}; you are router {} with \
             protocol {}: use one version for both",
            head.version, head.router
        ));
    }
    let question: Question<T> = serde_json::from_slice(line).map_err(|error| {
        format!("router {VERSION} does not know that order of router {}: {error}", head.version)
    })?;
    Ok(question.order)
}

/// An answer, with the end of its line.
///
/// # Errors
/// It is nothing that JSON can say.
pub fn answer(outcome: Result<Value, String>) -> io::Result<Vec<u8>> {
    let (done, error) = match outcome {
        Ok(done) => (done, None),
        Err(error) => (Value::Null, Some(error)),
    };
    line(&Answer { router: PROTOCOL, version: VERSION.to_owned(), error, done })
}

/// What an answer from there says.
///
/// # Errors
/// It is none, of another version, or says that it was not done.
pub fn read_answer(at: &std::path::Path, line: &[u8]) -> Result<Value, AskError> {
    if line.is_empty() {
        return Err(AskError::Ended);
    }
    let garbage =
        |error: serde_json::Error| AskError::Garbage { at: at.to_owned(), why: error.to_string() };
    let head: Head = serde_json::from_slice(line).map_err(garbage)?;
    if head.router != PROTOCOL {
        return Err(AskError::Version { theirs: head.version, number: head.router });
    }
    let answer: Answer = serde_json::from_slice(line).map_err(garbage)?;
    answer.error.map_or(Ok(answer.done), |error| Err(AskError::Refused(error)))
}

fn line<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_question_and_its_answer_arrive() {
        let line = question("reload").expect("plain");
        assert_eq!(read_question::<String>(&line), Ok("reload".to_owned()));
        let line = answer(Ok(Value::from(3))).expect("plain");
        assert_eq!(read_answer(Path::new("/x"), &line).expect("it is done"), 3);
        let line = answer(Err("no".to_owned())).expect("plain");
        match read_answer(Path::new("/x"), &line) {
            Err(AskError::Refused(why)) => assert_eq!(why, "no"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn another_version_is_told_by_name_whatever_else_it_says() {
        let newer = br#"{"router":2,"version":"9.1.0","wish":["of","another","kind"]}"#;
        let told = read_question::<String>(newer).expect_err("another protocol");
        assert!(told.contains("9.1.0 with protocol 2") && told.contains(VERSION), "{told}");
        let told = read_answer(Path::new("/x"), newer).expect_err("another protocol").to_string();
        assert!(told.contains("router 9.1.0 and speaks protocol 2"), "{told}");
        let unknown = br#"{"router":1,"version":"0.9.0","order":{"do":"dance"}}"#;
        let told = read_question::<String>(unknown).expect_err("no such order");
        assert!(told.contains("does not know that order of router 0.9.0"), "{told}");
    }

    #[test]
    fn garbage_is_told_from_silence() {
        for line in [&b"GET / HTTP/1.1"[..], b"\xff\x00", b"[]", b"null", b"{}"] {
            assert!(read_question::<Value>(line).expect_err("no question").contains("no question"));
            let told = read_answer(Path::new("/x"), line).expect_err("no answer");
            assert!(matches!(told, AskError::Garbage { .. }), "{told}");
        }
        let told = read_answer(Path::new("/x"), b"").expect_err("nothing");
        assert!(matches!(told, AskError::Ended), "{told}");
    }
}
