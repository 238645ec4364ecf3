//! How a connection to Redis is made, and why there is none.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisError, Value,
};

use crate::config::{Redis, Secret, Site};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long Redis may take to answer before it is taken to be away.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long what was sent may stay without any sign that it came. It is also by this that a router's
/// keeper knows a connection that is no client's.
const UNHEARD: Duration = Duration::from_secs(30);

/// Why there is no connection, or no more.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Redis is there and does not want us: for the operator to put right.
    #[error("{0}")]
    Refused(String),
    /// It is not there, or not as it should be, for now.
    #[error("{0}")]
    Away(String),
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let refused = matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed
                | ErrorKind::InvalidClientConfig
                | ErrorKind::RESP3NotSupported
        ) || matches!(
            error.code(),
            Some("WRONGPASS" | "NOAUTH" | "NOPERM" | "WRONGTYPE" | "DENIED")
        );
        let text = error.to_string();
        if refused { Self::Refused(text) } else { Self::Away(text) }
    }
}

impl Fault {
    /// The same, with whose it is.
    pub(super) fn of(self, redis: &Redis) -> Self {
        match self {
            Self::Refused(why) => Self::Refused(format!("{redis}: {why}")),
            Self::Away(why) => Self::Away(format!("{redis}: {why}")),
        }
    }

    /// Redis answered, and with something else.
    pub(super) fn unexpected(what: &str, got: &Value) -> Self {
        // Redis' own errors are told in its words; of anything else its kind.
        match got {
            Value::ServerError(error) => RedisError::from(error.clone()).into(),
            other => {
                let kind = format!("{other:?}")
                    .chars()
                    .take_while(|c| c.is_alphanumeric())
                    .collect::<String>();
                Self::Away(format!("Redis answered {what} with {kind}"))
            }
        }
    }
}

/// A connection that only is there: what is published to it is dropped.
///
/// # Errors
/// Redis is not there, or refuses.
pub(super) async fn stand_in(redis: &Redis) -> Result<MultiplexedConnection, Fault> {
    connect(redis, |_| Ok::<(), redis::aio::SendError>(())).await
}

/// A connection to a Redis whose place is known; what it says by itself goes to `pushed`.
///
/// # Errors
/// Redis is not there, or refuses.
pub(super) async fn connect(
    redis: &Redis,
    pushed: impl redis::aio::AsyncPushSender,
) -> Result<MultiplexedConnection, Fault> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(REPLY_TIMEOUT))
        .set_push_sender(pushed);
    let made = async {
        let client = client(redis)?;
        client.get_multiplexed_async_connection_with_config(&config).await
    };
    match tokio::time::timeout(2 * CONNECT_TIMEOUT, made).await {
        Ok(made) => Ok(made?),
        Err(_) => Err(Fault::Away("Redis does not answer".to_owned())),
    }
}

fn client(redis: &Redis) -> Result<Client, RedisError> {
    let password = redis.password.as_ref().map(Secret::reveal);
    let place = match &redis.site {
        Site::Tcp { tls, host } => address(*tls, host),
        Site::Unix(path) => ConnectionAddr::Unix(path.clone()),
        Site::Sentinel { .. } | Site::Cluster { .. } => {
            return Err(
                (ErrorKind::InvalidClientConfig, "others are to be asked where it is").into()
            );
        }
    };
    let mut settings = RedisConnectionInfo::default()
        .set_db(redis.database)
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name();
    if let Some(user) = &redis.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    let info = place.into_connection_info()?;
    Client::open(info.set_redis_settings(settings).set_tcp_settings(tcp()))
}

/// A host and its port, as they are connected to.
pub(super) fn address(tls: bool, (host, port): &(String, u16)) -> ConnectionAddr {
    let (host, port) = (host.clone(), *port);
    match tls {
        false => ConnectionAddr::Tcp(host, port),
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    }
}

/// How each connection is set.
pub(super) fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true).set_user_timeout(UNHEARD)
}
