//! Socket.IO sessions over HTTP long-polling, as Engine.IO 4 has it: a message is a POST, and its
//! echo the answer to a poll.

use anyhow::{Context, Result, bail, ensure};

use super::http::Client;
use super::{Doer, Target};

/// Polls before an answer must have come: pings come between.
const POLLS_MAX: usize = 8;

/// A session; it is opened first.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    id: Option<String>,
}

impl Session {
    pub(crate) fn new(target: Target, number: usize) -> Self {
        Self { client: Client::new(target, number), id: None }
    }

    async fn open(&mut self) -> Result<()> {
        let text = self.poll("").await.context("opening")?;
        let open: serde_json::Value =
            serde_json::from_str(text.strip_prefix('0').context("no open packet")?)?;
        let id = open.get("sid").and_then(|sid| sid.as_str()).context("no session id")?;
        self.id = Some(format!("&sid={id}"));
        self.post("40").await?;
        self.until("40").await
    }

    async fn poll(&mut self, id: &str) -> Result<String> {
        let request =
            format!("GET /socket.io/?EIO=4&transport=polling{id} HTTP/1.1\r\nHost: perf\r\n\r\n");
        Ok(String::from_utf8(self.client.ask(request.as_bytes()).await?)?)
    }

    async fn post(&mut self, body: &str) -> Result<()> {
        let request = format!(
            "POST /socket.io/?EIO=4&transport=polling{} HTTP/1.1\r\nHost: perf\r\n\
             Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {}\r\n\r\n{body}",
            self.id.as_deref().unwrap_or_default(),
            body.len()
        );
        let answer = self.client.ask(request.as_bytes()).await.context("posting")?;
        ensure!(answer == b"ok", "a POST is answered with something else");
        Ok(())
    }

    /// Polls until such a packet comes.
    async fn until(&mut self, wanted: &str) -> Result<()> {
        let id = self.id.clone().unwrap_or_default();
        for _ in 0..POLLS_MAX {
            let packets = self.poll(&id).await.context("polling")?;
            for packet in packets.split('\x1e') {
                if packet == "2" {
                    self.post("3").await?;
                } else if packet.starts_with(wanted) {
                    return Ok(());
                }
            }
        }
        bail!("no {wanted} within {POLLS_MAX} polls")
    }
}

impl Doer for Session {
    /// A message and its echo.
    async fn once(&mut self) -> Result<()> {
        let outcome = async {
            if self.id.is_none() {
                self.open().await?;
            }
            self.post("420[\"echo\",\"x\"]").await?;
            self.until("430[\"x\"]").await
        }
        .await;
        if outcome.is_err() {
            // Whatever became of it, the next one is another.
            self.id = None;
        }
        outcome
    }
}
