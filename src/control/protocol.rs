//! What is said over a control socket: on each connection one question and one answer, a line of
//! JSON each.
//!
//! ```text
//! {"router":1,"version":"0.1.0","order":{"do":"reload"}}
//! {"router":1,"version":"0.1.0","done":null}            or "error":"what was wrong"
//! ```
//!
//! `router` is the protocol's number and comes first: whoever speaks another is told so, by name and
//! version, before anything else of the line is looked at. But for the few orders that bring two
//! versions together again, or end one of them ([`Lasting`]): these stay as they are in every
//! version, and so do `error` and `done` of an answer.

use std::io;
use std::path::{Path, PathBuf};

use super::socket::SILENCE_MAX;
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

/// Orders, some of which every version takes from every other.
pub trait Lasting {
    /// Whether it is such an order: what it looks like will never change.
    fn lasts(&self) -> bool;
}

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
    /// Whether anybody is there is not to be seen.
    #[error("{directory} is closed to this user, and with it {at}: name another with ROUTER_HOME")]
    Closed {
        /// Where somebody would be asked.
        at: PathBuf,
        /// On the way there.
        directory: PathBuf,
    },
    /// The other side speaks another version of the protocol.
    #[error(
        "the daemon is router {theirs} and speaks protocol {number}, this is router {VERSION} with \
         protocol {PROTOCOL}: `router update` has the daemon and its apps go on as the program that \
         lies where theirs lay, `router kill` ends them"
    )]
    Version {
        /// Its version.
        theirs: String,
        /// Its protocol.
        number: u32,
    },
    /// It is there, and says nothing.
    #[error("no answer, and no sign of life within {SILENCE_MAX:?}, of {0}")]
    Silent(String),
    /// It is another process than the one that is meant.
    #[error("another process has taken {0}")]
    Another(PathBuf),
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
pub fn read_question<T: DeserializeOwned + Lasting>(line: &[u8]) -> Result<T, String> {
    let head: Head = serde_json::from_slice(line).map_err(|error| {
        format!("that was no question: {error}. Here answers router {VERSION}, protocol {PROTOCOL}")
    })?;
    let question: Result<Question<T>, _> = serde_json::from_slice(line);
    if head.router != PROTOCOL {
        if let Ok(Question { order, .. }) = question
            && order.lasts()
        {
            return Ok(order);
        }
        return Err(format!(
            "here answers router {VERSION}, which speaks protocol {PROTOCOL}; you are router {} with \
             protocol {}: use one version for both",
            head.version, head.router
        ));
    }
    let order = question.map(|question| question.order);
    order.map_err(|error| {
        format!("router {VERSION} does not know that order of router {}: {error}", head.version)
    })
}

/// What a question asks, by its name; empty when it has none. What else it says may be secret.
#[must_use]
pub fn name(line: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Named {
        order: Order,
    }
    #[derive(Deserialize)]
    struct Order {
        #[serde(rename = "do")]
        name: String,
    }
    let named: Result<Named, _> = serde_json::from_slice(line);
    named.map(|named| named.order.name).unwrap_or_default()
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

/// What an answer from there says; `lasts` if the order was one that does.
///
/// # Errors
/// It is none, of another version, or says that it was not done.
pub fn read_answer(at: &Path, line: &[u8], lasts: bool) -> Result<Value, AskError> {
    if line.is_empty() {
        return Err(AskError::Ended);
    }
    let garbage =
        |error: serde_json::Error| AskError::Garbage { at: at.to_owned(), why: error.to_string() };
    let head: Head = serde_json::from_slice(line).map_err(garbage)?;
    if head.router != PROTOCOL && !lasts {
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

    /// The order that lasts is called so.
    impl Lasting for String {
        fn lasts(&self) -> bool {
            self == "kill"
        }
    }

    impl Lasting for Value {
        fn lasts(&self) -> bool {
            self["do"] == "kill"
        }
    }

    #[test]
    fn a_question_and_its_answer_arrive() {
        let line = question("reload").expect("plain");
        assert_eq!(read_question::<String>(&line), Ok("reload".to_owned()));
        let line = answer(Ok(Value::from(3))).expect("plain");
        assert_eq!(read_answer(Path::new("/x"), &line, false).expect("it is done"), 3);
        let line = answer(Err("no".to_owned())).expect("plain");
        match read_answer(Path::new("/x"), &line, false) {
            Err(AskError::Refused(why)) => assert_eq!(why, "no"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn another_version_is_told_by_name_whatever_else_it_says() {
        let newer = br#"{"router":2,"version":"9.1.0","wish":["of","another","kind"]}"#;
        let told = read_question::<String>(newer).expect_err("another protocol");
        assert!(told.contains("9.1.0 with protocol 2") && told.contains(VERSION), "{told}");
        let told =
            read_answer(Path::new("/x"), newer, false).expect_err("another protocol").to_string();
        assert!(told.contains("router 9.1.0 and speaks protocol 2"), "{told}");
        let unknown = br#"{"router":1,"version":"0.9.0","order":{"do":"dance"}}"#;
        let told = read_question::<String>(unknown).expect_err("no such order");
        assert!(told.contains("does not know that order of router 0.9.0"), "{told}");
    }

    #[test]
    fn the_orders_that_last_cross_versions() {
        let kill = br#"{"router":2,"version":"9.1.0","order":"kill","more":1}"#;
        assert_eq!(read_question::<String>(kill), Ok("kill".to_owned()));
        let reload = br#"{"router":2,"version":"9.1.0","order":"reload"}"#;
        let told = read_question::<String>(reload).expect_err("it does not last");
        assert!(told.contains("protocol 2"), "{told}");
        let done = br#"{"router":2,"version":"9.1.0","done":7}"#;
        assert_eq!(read_answer(Path::new("/x"), done, true).expect("it lasts"), 7);
        let refused = br#"{"router":2,"version":"9.1.0","error":"no"}"#;
        let told = read_answer(Path::new("/x"), refused, true).expect_err("refused");
        assert!(matches!(told, AskError::Refused(_)), "{told}");
    }

    #[test]
    fn garbage_is_told_from_silence() {
        for line in [&b"GET / HTTP/1.1"[..], b"\xff\x00", b"[]", b"null", b"{}"] {
            assert!(read_question::<Value>(line).expect_err("no question").contains("no question"));
            let told = read_answer(Path::new("/x"), line, false).expect_err("no answer");
            assert!(matches!(told, AskError::Garbage { .. }), "{told}");
        }
        let told = read_answer(Path::new("/x"), b"", false).expect_err("nothing");
        assert!(matches!(told, AskError::Ended), "{told}");
    }
}
