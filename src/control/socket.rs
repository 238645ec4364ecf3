//! A control socket: who may speak, how much, and for how long; what is said is
//! [`super::protocol`]'s.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::clients::attend_each;
use super::protocol::{self, ANSWER_MAX, AskError, QUESTION_MAX};

/// Clients at once; more wait in the kernel's queue.
const MAX_CLIENTS: usize = 128;
/// How long one may take to say what it wants.
const QUESTION_TIME: Duration = Duration::from_secs(5);
/// How long one may take to read its answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Answers for as long as it is polled, on a `LocalSet`. Only this process's user and root are
/// listened to. An order goes on when whoever gave it has left.
pub async fn serve<T, F>(listener: &UnixListener, obey: impl Fn(T) -> F + 'static) -> Infallible
where
    T: DeserializeOwned + 'static,
    F: Future<Output = Result<Value, String>> + 'static,
{
    let obey = Rc::new(obey);
    let accept = async || Ok(listener.accept().await?.0);
    attend_each(MAX_CLIENTS, accept, |client| {
        let obey = Rc::clone(&obey);
        async move {
            if let Err(error) = attend(client, &*obey).await {
                tracing::debug!(%error, "a control client left");
            }
        }
    })
    .await
}

async fn attend<T, F>(client: UnixStream, obey: impl Fn(T) -> F) -> io::Result<()>
where
    T: DeserializeOwned,
    F: Future<Output = Result<Value, String>>,
{
    let peer = client.peer_cred()?.uid();
    let (question, mut answer) = client.into_split();
    let outcome = if peer == 0 || peer == nix::unistd::geteuid().as_raw() {
        match timeout(QUESTION_TIME, read_line(question, QUESTION_MAX)).await {
            Ok(line) => match protocol::read_question(&line?) {
                Ok(order) => obey(order).await,
                Err(told) => Err(told),
            },
            Err(_) => Err(format!("nothing was asked within {QUESTION_TIME:?}")),
        }
    } else {
        Err(format!("user {peer} may not speak to this router: only its owner and root may"))
    };
    let line = protocol::answer(outcome)?;
    match timeout(ANSWER_TIME, answer.write_all(&line)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Asks whoever listens there, and waits for an answer of this kind.
///
/// # Errors
/// See [`AskError`].
pub async fn ask_for<A: DeserializeOwned>(at: &Path, order: impl Serialize) -> Result<A, AskError> {
    serde_json::from_value(ask(at, order).await?)
        .map_err(|error| AskError::Garbage { at: at.to_owned(), why: error.to_string() })
}

/// Asks whoever listens there, and waits for the answer.
///
/// # Errors
/// See [`AskError`].
pub async fn ask<T: Serialize>(at: &Path, order: T) -> Result<Value, AskError> {
    let line = protocol::question(order)?;
    let mut server = match UnixStream::connect(at).await {
        Ok(server) => server,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    AskError::Nobody(at.to_owned())
                }
                io::ErrorKind::PermissionDenied => AskError::Forbidden(at.to_owned()),
                _ => error.into(),
            });
        }
    };
    // One who refuses to listen may have said why already.
    let _read_below = server.write_all(&line).await;
    let line = read_line(server, ANSWER_MAX).await;
    let line = line.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionReset => AskError::Ended,
        io::ErrorKind::InvalidData => {
            AskError::Garbage { at: at.to_owned(), why: error.to_string() }
        }
        _ => error.into(),
    })?;
    protocol::read_answer(at, &line)
}

/// Up to the end of a line, or of the stream; empty when nothing was said.
async fn read_line(stream: impl tokio::io::AsyncRead + Unpin, most: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX);
    BufReader::new(stream.take(limit)).read_until(b'\n', &mut line).await?;
    if line.len() >= most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a line longer than {most} bytes"),
        ));
    }
    Ok(line)
}
