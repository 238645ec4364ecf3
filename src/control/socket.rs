//! A control socket: who may speak, how much, and for how long; what is said is
//! [`super::protocol`]'s.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::clients::attend_each;
use super::protocol::{self, ANSWER_MAX, AskError, Lasting, QUESTION_MAX};
use crate::sys::private;

/// Clients at once; more wait in the kernel's queue.
const MAX_CLIENTS: usize = 128;
/// How long one may take to say what it wants.
const QUESTION_TIME: Duration = Duration::from_secs(5);
/// How long one may take to read its answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How long an answer is waited for before it is seen to whether anybody is at work on it, and
/// between two looks.
pub const LOOK_AFTER: Duration = Duration::from_secs(3);
/// How long whoever is at work may take to say that he is there: longer than a router is busy with
/// its upgrade alone (its successor has 10 s to read the state).
pub const SILENCE_MAX: Duration = Duration::from_secs(12);

/// Answers for as long as it is polled, on a `LocalSet`. Only this process's user and root are
/// listened to. An order goes on when whoever gave it has left.
pub async fn serve<T, F>(listener: &UnixListener, obey: impl Fn(T) -> F + 'static) -> Infallible
where
    T: DeserializeOwned + Lasting + 'static,
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
    T: DeserializeOwned + Lasting,
    F: Future<Output = Result<Value, String>>,
{
    let peer = client.peer_cred()?.uid();
    let (question, mut answer) = client.into_split();
    let outcome = if peer == 0 || peer == nix::unistd::geteuid().as_raw() {
        match timeout(QUESTION_TIME, read_line(question, QUESTION_MAX)).await {
            Ok(line) => {
                let line = line?;
                tracing::debug!(order = protocol::name(&line), user = peer, "asked");
                match protocol::read_question(&line) {
                    Ok(order) => obey(order).await,
                    Err(told) => Err(told),
                }
            }
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
pub async fn ask_for<A: DeserializeOwned>(
    at: &Path,
    order: impl Serialize + Lasting,
) -> Result<A, AskError> {
    read(at, ask(at, &order).await?)
}

/// What an answer from there means.
///
/// # Errors
/// It is of another kind.
pub fn read<A: DeserializeOwned>(at: &Path, answer: Value) -> Result<A, AskError> {
    serde_json::from_value(answer)
        .map_err(|error| AskError::Garbage { at: at.to_owned(), why: error.to_string() })
}

/// Asks whoever listens there, and waits for the answer.
///
/// # Errors
/// See [`AskError`].
pub async fn ask<T: Serialize + Lasting>(at: &Path, order: &T) -> Result<Value, AskError> {
    ask_process(at, None, order).await
}

/// The same, of one who may have much to do: it is waited for the answer as long as it takes, if
/// only `sign`, an order that is answered at once, still is. With a process's id, of no other one.
///
/// # Errors
/// See [`AskError`]; after [`LOOK_AFTER`] and [`SILENCE_MAX`] at the latest it is
/// [`AskError::Silent`] for one who hangs.
pub async fn ask_while_it_answers<T: Serialize + Lasting>(
    at: &Path,
    process: Option<Pid>,
    order: &T,
    sign: &T,
) -> Result<Value, AskError> {
    let silent = async {
        loop {
            sleep(LOOK_AFTER).await;
            // An error is a sign, too: what it is about the order itself meets.
            if timeout(SILENCE_MAX, ask(at, sign)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        answer = ask_process(at, process, order) => answer,
        () = silent => Err(AskError::Silent(at.display().to_string())),
    }
}

async fn ask_process<T: Serialize + Lasting>(
    at: &Path,
    process: Option<Pid>,
    order: &T,
) -> Result<Value, AskError> {
    let line = protocol::question(order)?;
    let mut server = match UnixStream::connect(at).await {
        Ok(server) => server,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    AskError::Nobody(at.to_owned())
                }
                io::ErrorKind::PermissionDenied => match private::closed(at) {
                    Some(directory) => AskError::Closed { at: at.to_owned(), directory },
                    None => AskError::Forbidden(at.to_owned()),
                },
                _ => error.into(),
            });
        }
    };
    // Whoever has begun to listen there; in another namespace it has no id.
    let listens = server.peer_cred()?.pid().filter(|pid| *pid > 0);
    if let (Some(listens), Some(meant)) = (listens, process)
        && listens != meant.as_raw()
    {
        return Err(AskError::Another(at.to_owned()));
    }
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
    protocol::read_answer(at, &line, order.lasts())
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
