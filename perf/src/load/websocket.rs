//! Socket.IO sessions over WebSocket, as Engine.IO 4 has it.

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Doer, Target};

/// An open session.
#[derive(Debug)]
pub(crate) struct Session(WebSocketStream<TcpStream>);

impl Session {
    /// Connects, upgrades, and joins the main namespace.
    pub(crate) async fn open(target: Target, number: usize) -> Result<Self> {
        let stream = target.connect(number).await?;
        let url = format!("ws://perf:{}/socket.io/?EIO=4&transport=websocket", target.port);
        let (stream, _answer) = client_async(url, stream).await.context("the upgrade")?;
        let mut session = Self(stream);
        ensure!(session.packet().await?.starts_with('0'), "no open packet");
        session.send("40").await?;
        session.until("40").await?;
        Ok(session)
    }

    pub(crate) async fn send(&mut self, packet: &str) -> Result<()> {
        Ok(self.0.send(Message::text(packet)).await?)
    }

    /// The next packet that is not a ping; those are answered.
    pub(crate) async fn packet(&mut self) -> Result<String> {
        loop {
            match self.0.next().await.context("the server closed")?? {
                Message::Text(text) if text.as_str() == "2" => self.send("3").await?,
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Close(_) => bail!("the server closed"),
                _ => {}
            }
        }
    }

    /// Reads up to such a packet.
    pub(crate) async fn until(&mut self, wanted: &str) -> Result<()> {
        while !self.packet().await?.starts_with(wanted) {}
        Ok(())
    }

    /// Until the other side ends it.
    pub(crate) async fn closed(&mut self) {
        while self.packet().await.is_ok() {}
    }

    /// A message to and fro.
    pub(crate) async fn echo(&mut self) -> Result<()> {
        self.send("420[\"echo\",\"x\"]").await?;
        self.until("430[\"x\"]").await
    }
}

/// A session that is opened and closed again.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) target: Target,
    pub(crate) number: usize,
}

impl Doer for Visit {
    async fn once(&mut self) -> Result<()> {
        Session::open(self.target, self.number).await.map(drop)
    }
}

/// A session in which a message goes to and fro.
#[derive(Debug)]
pub(crate) struct Echo(pub(crate) Session);

impl Doer for Echo {
    async fn once(&mut self) -> Result<()> {
        self.0.echo().await
    }
}
