//! HTTP/1.1, as much as a client of the load needs.

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Target;

/// Bytes of an answer's head.
const HEAD_MAX: usize = 16 << 10;
/// Bytes of an answer's body.
const BODY_MAX: usize = 1 << 20;
/// Headers of an answer.
const HEADERS_MAX: usize = 32;

/// A client that keeps its connection as long as the server does.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    number: usize,
    stream: Option<TcpStream>,
    read: Vec<u8>,
}

impl Client {
    pub(crate) fn new(target: Target, number: usize) -> Self {
        Self { target, number, stream: None, read: Vec::new() }
    }

    /// The body of a 200; `request` is whole.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                self.read.clear();
                self.target.connect(self.number).await?
            }
        };
        stream.write_all(request).await.context("asking")?;
        let (head, length, keeps) = loop {
            if let Some(head) = head(&self.read)? {
                break head;
            }
            ensure!(self.read.len() < HEAD_MAX, "the head of an answer does not end");
            ensure!(stream.read_buf(&mut self.read).await? > 0, "closed before the answer");
        };
        while self.read.len() < head + length {
            ensure!(stream.read_buf(&mut self.read).await? > 0, "closed within the answer");
        }
        let rest = self.read.split_off(head + length);
        let body = std::mem::replace(&mut self.read, rest).split_off(head);
        if keeps {
            self.stream = Some(stream);
        }
        Ok(body)
    }
}

/// The lengths of head and body, and whether the connection is kept; none: there is more to read.
fn head(read: &[u8]) -> Result<Option<(usize, usize, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(read).context("no HTTP")? else {
        return Ok(None);
    };
    let code = answer.code.unwrap_or_default();
    if code != 200 {
        bail!("answered {code}");
    }
    let find = |name: &str| {
        let found = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).to_ascii_lowercase())
    };
    let length: usize = find("content-length").context("no length")?.parse()?;
    ensure!(length <= BODY_MAX, "an answer of {length} bytes");
    let closes = find("connection").is_some_and(|value| value == "close");
    Ok(Some((head, length, !closes)))
}
