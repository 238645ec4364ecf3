//! The connection to Redis, and what it answers.
//!
//! One connection carries everything: entries written and read, channels subscribed to and published
//! on, and Redis' word that the stream has changed (`CLIENT TRACKING`), so that nobody has to block
//! on it or ask in vain. It breaks with its first error; whoever has it makes another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisError, Value};
use tokio::sync::Notify;

use super::cluster::{self, Known};
use super::connect::{Fault, connect};
use super::position::{EntryId, StreamInfo};
use super::sentinel::Sentinels;
use super::slots::{self, Topology};
use crate::config::{Redis, Site};

/// Bytes of published packets that wait to be passed on; further ones are dropped and counted.
const MAX_PUSHED_BYTES: usize = 64 << 20;

/// What Redis says by itself.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    waiting: Mutex<Waiting>,
    /// There is something in it, or the connection has ended.
    pub(super) arrived: Notify,
    /// The stream has changed.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    published: VecDeque<(String, Vec<u8>)>,
    bytes: usize,
    dropped: u64,
    ended: bool,
}

/// What of it comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Something was published on this channel.
    Published(String, Vec<u8>),
    /// So many were more than there was room for.
    Dropped(u64),
    /// The connection has ended.
    Ended,
}

impl Pushed {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, info: PushInfo) {
        match info.kind {
            PushKind::Invalidate => self.changed.notify_one(),
            PushKind::Message => {
                let mut parts = info.data.into_iter();
                let (Some(channel), Some(Value::BulkString(payload))) =
                    (parts.next().and_then(|channel| text(&channel)), parts.next())
                else {
                    return;
                };
                let mut waiting = self.waiting();
                if waiting.bytes > 0 && waiting.bytes + payload.len() > MAX_PUSHED_BYTES {
                    waiting.dropped += 1;
                } else {
                    waiting.bytes += payload.len();
                    waiting.published.push_back((channel, payload));
                }
                drop(waiting);
                self.arrived.notify_one();
            }
            PushKind::Disconnection => {
                self.waiting().ended = true;
                self.arrived.notify_one();
            }
            _ => {}
        }
    }

    /// The next, if there is one.
    pub(super) fn next(&self) -> Option<Next> {
        let mut waiting = self.waiting();
        if let Some((channel, payload)) = waiting.published.pop_front() {
            waiting.bytes -= payload.len();
            return Some(Next::Published(channel, payload));
        }
        match std::mem::take(&mut waiting.dropped) {
            0 => waiting.ended.then_some(Next::Ended),
            dropped => Some(Next::Dropped(dropped)),
        }
    }
}

/// Who a connection is to Redis: enough to end it from another one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Identity {
    client: i64,
    /// Which life of which Redis gave that number.
    run: String,
}

impl Identity {
    /// Whether it is on the same Redis as another, in the same life of it.
    pub(super) fn is_where(&self, other: &Self) -> bool {
        self.run == other.run && !self.run.is_empty()
    }
}

/// What is said to who named a node where a cluster is.
const IS_A_CLUSTER: &str = "it is a node of a Redis Cluster: write redis+cluster://";

/// A connection.
#[derive(Clone)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    /// Where it goes.
    pub(super) place: Redis,
    /// Whether that is a node of a cluster.
    pub(super) in_cluster: bool,
    /// Who it is.
    pub(super) identity: Identity,
    /// Whether Redis says when the stream changes.
    pub(super) tracks: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Link {
    /// Connects to the Redis that has the stream; what it says by itself goes to `pushed`.
    ///
    /// # Errors
    /// Redis is not there, or refuses.
    pub(super) async fn open(
        redis: &Redis,
        stream: &str,
        name: &str,
        pushed: &Arc<Pushed>,
        known: &mut Known,
    ) -> Result<Self, Fault> {
        let mut in_cluster = false;
        let place = match &redis.site {
            Site::Tcp { .. } | Site::Unix(_) => {
                return Self::open_at(redis.clone(), in_cluster, name, pushed).await;
            }
            Site::Sentinel { .. } => match Sentinels::of(redis)? {
                Some(mut sentinels) => sentinels.master().await?,
                None => redis.clone(),
            },
            Site::Cluster { tls, hosts } => {
                in_cluster = true;
                known.owner(redis, (*tls, hosts), stream).await?
            }
        };
        // Which of several it was nothing else says.
        let opened = Self::open_at(place.clone(), in_cluster, name, pushed).await;
        opened.map_err(|fault| fault.of(&place))
    }

    async fn open_at(
        place: Redis,
        in_cluster: bool,
        name: &str,
        pushed: &Arc<Pushed>,
    ) -> Result<Self, Fault> {
        let sink = Arc::clone(pushed);
        let connection = connect(&place, move |info| {
            sink.take(info);
            Ok::<(), redis::aio::SendError>(())
        })
        .await?;
        let identity = Identity { client: 0, run: String::new() };
        let mut link = Self { connection, place, in_cluster, identity, tracks: false };
        let id = link.ask(redis::cmd("CLIENT").arg("ID")).await?;
        let Value::Int(client) = id else { return Err(Fault::unexpected("CLIENT ID", &id)) };
        let info = link.ask(redis::cmd("INFO").arg("server")).await?;
        let info = text(&info).unwrap_or_default();
        // It would have the stream or not, and would not know of all who are there.
        if !in_cluster && info.lines().any(|line| line.trim() == "redis_mode:cluster") {
            return Err(Fault::Refused(IS_A_CLUSTER.to_owned()));
        }
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
        link.identity = Identity { client, run: run.trim().to_owned() };
        // For whoever looks at CLIENT LIST; nothing depends on it.
        if let Err(fault) = link.ask(redis::cmd("CLIENT").arg("SETNAME").arg(name)).await {
            tracing::debug!(%fault, "the connection to Redis has no name");
        }
        Ok(link)
    }

    /// Has Redis say when the stream changes. Where it will not, the stream is asked for often.
    ///
    /// # Errors
    /// The connection has ended.
    pub(super) async fn track(&mut self, stream: &str) -> Result<(), Fault> {
        let mut command = redis::cmd("CLIENT");
        command.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(stream);
        match self.connection.send_packed_command(&command).await {
            Ok(_) => self.tracks = true,
            Err(error) if error.is_io_error() => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "Redis does not say when the stream changes"),
        }
        Ok(())
    }

    /// Ends an earlier connection, with whatever Redis has not read from it: when this has been
    /// answered, nothing more is done on that one's behalf.
    ///
    /// # Errors
    /// The connection has ended.
    pub(super) async fn end(&mut self, earlier: &Identity) -> Result<(), Fault> {
        if !self.identity.is_where(earlier) {
            return Ok(()); // Another Redis, or another life: it ended with that.
        }
        let mut command = redis::cmd("CLIENT");
        command.arg("KILL").arg("ID").arg(earlier.client);
        match self.connection.send_packed_command(&command).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_io_error() => Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "Redis does not end the connection that broke");
                Ok(())
            }
        }
    }

    /// One command, and its answer, which is no error.
    ///
    /// # Errors
    /// Redis says no, or the connection has ended.
    pub(super) async fn ask(&mut self, command: &Cmd) -> Result<Value, Fault> {
        match self.connection.send_packed_command(command).await? {
            error @ Value::ServerError(_) => Err(Fault::unexpected("a command", &error)),
            answer => Ok(answer),
        }
    }

    /// Many commands, and an answer for each, which may be an error.
    ///
    /// # Errors
    /// The connection has ended.
    pub(super) async fn ask_all(&mut self, commands: &Pipeline) -> Result<Vec<Value>, Fault> {
        Ok(self.connection.send_packed_commands(commands, 0, commands.len()).await?)
    }

    /// Subscribes to channels.
    ///
    /// # Errors
    /// Redis says no, or the connection has ended.
    pub(super) async fn subscribe(&mut self, channels: &[String]) -> Result<(), Fault> {
        Ok(self.connection.subscribe(channels).await?)
    }

    /// Ends subscriptions.
    ///
    /// # Errors
    /// Redis says no, or the connection has ended.
    pub(super) async fn unsubscribe(&mut self, channels: &[String]) -> Result<(), Fault> {
        Ok(self.connection.unsubscribe(channels).await?)
    }

    /// How the stream stands.
    ///
    /// # Errors
    /// Redis says no, the key is no stream, or the connection has ended.
    pub(super) async fn stream(&mut self, stream: &str) -> Result<StreamInfo, Fault> {
        let command = redis::cmd("XINFO").arg("STREAM").arg(stream).to_owned();
        match self.connection.send_packed_command(&command).await {
            Ok(Value::ServerError(error)) => {
                let error = RedisError::from(error);
                no_key(&error).then(StreamInfo::default).ok_or_else(|| self.fault(error))
            }
            Ok(answer) => {
                stream_info(&answer).ok_or_else(|| Fault::unexpected("XINFO STREAM", &answer))
            }
            Err(error) => no_key(&error).then(StreamInfo::default).ok_or_else(|| self.fault(error)),
        }
    }

    fn fault(&self, error: RedisError) -> Fault {
        match error.code() {
            Some("MOVED" | "ASK") if !self.in_cluster => Fault::Refused(IS_A_CLUSTER.to_owned()),
            _ => error.into(),
        }
    }

    /// So many entries behind `last`.
    ///
    /// # Errors
    /// Redis says no, or the connection has ended.
    pub(super) async fn entries(
        &mut self,
        stream: &str,
        last: EntryId,
        count: usize,
    ) -> Result<Vec<Entry>, Fault> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(count).arg("STREAMS").arg(stream).arg(last.to_string());
        let answer = self.ask(&command).await?;
        if answer == Value::Nil {
            return Ok(Vec::new());
        }
        entries(answer)
            .ok_or_else(|| Fault::Away("Redis answered XREAD with no entries".to_owned()))
    }

    /// The channels that somebody is subscribed to, on this Redis.
    ///
    /// # Errors
    /// Redis says no, or the connection has ended.
    pub(super) async fn channels(&mut self, pattern: &str) -> Result<Vec<String>, Fault> {
        channels(&mut self.connection, pattern).await
    }

    /// The nodes of the cluster, and which has the stream.
    ///
    /// # Errors
    /// Redis says no, or the connection has ended.
    pub(super) async fn topology(&mut self, stream: &str) -> Result<Topology, Fault> {
        cluster::topology(&mut self.connection, &self.place, slots::slot(stream)).await
    }
}

/// The channels that somebody is subscribed to, on the Redis at the other end.
///
/// # Errors
/// Redis says no, or the connection has ended.
pub(super) async fn channels(
    connection: &mut MultiplexedConnection,
    pattern: &str,
) -> Result<Vec<String>, Fault> {
    let mut command = redis::cmd("PUBSUB");
    match connection.send_packed_command(command.arg("CHANNELS").arg(pattern)).await? {
        Value::Array(names) | Value::Set(names) => Ok(names.iter().filter_map(text).collect()),
        other => Err(Fault::unexpected("PUBSUB CHANNELS", &other)),
    }
}

fn no_key(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("no such key"))
}

/// An entry of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its id.
    pub(super) id: EntryId,
    /// The fields that are known.
    pub(super) uid: Vec<u8>,
    /// See [`super::packet`].
    pub(super) nsp: Vec<u8>,
    /// See [`super::packet`].
    pub(super) kind: Vec<u8>,
    /// See [`super::packet`].
    pub(super) data: Vec<u8>,
    /// See [`super::packet::MARK`].
    pub(super) mark: Vec<u8>,
}

impl Entry {
    /// Bytes of it.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.uid.len() + self.nsp.len() + self.kind.len() + self.data.len() + self.mark.len()
    }

    /// Whether it says nothing.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The entries in an answer to XREAD of one stream.
fn entries(answer: Value) -> Option<Vec<Entry>> {
    let of_stream = match answer {
        Value::Map(mut streams) => streams.pop()?.1,
        Value::Array(mut streams) => match streams.pop()? {
            Value::Array(mut pair) => pair.pop()?,
            _ => return None,
        },
        _ => return None,
    };
    let Value::Array(entries) = of_stream else { return None };
    entries.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Option<Entry> {
    let Value::Array(parts) = value else { return None };
    let mut parts = parts.into_iter();
    let mut entry = Entry { id: text(&parts.next()?)?.parse().ok()?, ..Entry::default() };
    let fields: Vec<Value> = match parts.next() {
        Some(Value::Array(fields)) => fields,
        Some(Value::Map(pairs)) => {
            pairs.into_iter().flat_map(|(key, value)| [key, value]).collect()
        }
        // One that was deleted has none.
        _ => Vec::new(),
    };
    let mut fields = fields.into_iter();
    while let (Some(name), Some(Value::BulkString(value))) = (fields.next(), fields.next()) {
        match text(&name).as_deref() {
            Some("uid") => entry.uid = value,
            Some("nsp") => entry.nsp = value,
            Some("type") => entry.kind = value,
            Some("data") => entry.data = value,
            Some(super::packet::MARK) => entry.mark = value,
            _ => {}
        }
    }
    Some(entry)
}

/// What XINFO STREAM says.
fn stream_info(answer: &Value) -> Option<StreamInfo> {
    let pairs: Vec<(&Value, &Value)> = match answer {
        Value::Map(pairs) => pairs.iter().map(|(key, value)| (key, value)).collect(),
        Value::Array(flat) => {
            flat.as_chunks::<2>().0.iter().map(|[key, value]| (key, value)).collect()
        }
        _ => return None,
    };
    let of = |name: &str| {
        pairs.iter().find(|(key, _)| text(key).as_deref() == Some(name)).map(|(_, value)| *value)
    };
    let number = |name: &str| match of(name) {
        Some(Value::Int(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    Some(StreamInfo {
        last: text(of("last-generated-id")?)?.parse().ok()?,
        length: number("length")?,
        added: number("entries-added"),
    })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn entries_are_read_from_either_protocol() {
        let fields = vec![bulk("uid"), bulk("a"), bulk("more"), bulk("x"), bulk("type"), bulk("3")];
        let one = |fields| Value::Array(vec![bulk("7-1"), fields]);
        let list = Value::Array(vec![one(Value::Array(fields)), one(Value::Nil)]);
        let resp3 = Value::Map(vec![(bulk("s"), list.clone())]);
        let resp2 = Value::Array(vec![Value::Array(vec![bulk("s"), list])]);
        let read = entries(resp3).expect("entries");
        assert_eq!(entries(resp2).as_ref(), Some(&read));
        assert_eq!(
            (read[0].id.to_string(), &*read[0].uid, &*read[0].kind),
            ("7-1".to_owned(), &b"a"[..], &b"3"[..])
        );
        assert!(read[1].is_empty());
        for wrong in [Value::Nil, Value::Int(1), Value::Array(vec![]), Value::Map(vec![])] {
            assert_eq!(entries(wrong), None);
        }
    }

    #[test]
    fn what_is_published_is_bounded_and_the_end_comes_last() {
        let pushed = Pushed::default();
        let message = |bytes| PushInfo {
            kind: PushKind::Message,
            data: vec![bulk("c"), Value::BulkString(vec![0; bytes])],
        };
        pushed.take(message(MAX_PUSHED_BYTES));
        pushed.take(message(1));
        pushed.take(PushInfo { kind: PushKind::Disconnection, data: vec![] });
        assert!(matches!(pushed.next(), Some(Next::Published(channel, _)) if channel == "c"));
        assert_eq!(pushed.next(), Some(Next::Dropped(1)));
        assert_eq!(pushed.next(), Some(Next::Ended));
    }
}
