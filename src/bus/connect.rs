//! How a connection to Redis is made, and why there is none.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
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

/// A connection; what Redis says by itself goes to `pushed`.
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
        let client = client(redis).await?;
        client.get_multiplexed_async_connection_with_config(&config).await
    };
    match tokio::time::timeout(2 * CONNECT_TIMEOUT, made).await {
        Ok(made) => Ok(made?),
        Err(_) => Err(Fault::Away("Redis does not answer".to_owned())),
    }
}

async fn client(redis: &Redis) -> Result<Client, RedisError> {
    let password = redis.password.as_ref().map(Secret::reveal);
    let address = |tls: bool, (host, port): &(String, u16)| match tls {
        false => ConnectionAddr::Tcp(host.clone(), *port),
        true => ConnectionAddr::TcpTls {
            host: host.clone(),
            port: *port,
            insecure: false,
            tls_params: None,
        },
    };
    let place = match &redis.site {
        Site::Tcp { tls, host } => address(*tls, host),
        Site::Unix(path) => ConnectionAddr::Unix(path.clone()),
        Site::Sentinel { tls, hosts, master } => {
            let sentinels = hosts.iter().map(|host| address(*tls, host));
            let kind = SentinelServerType::Master;
            let mut builder = SentinelClientBuilder::new(sentinels, master, kind)?
                .set_client_to_redis_tcp_settings(tcp())
                .set_client_to_sentinel_tcp_settings(tcp())
                .set_client_to_redis_db(redis.database)
                .set_client_to_redis_protocol(ProtocolVersion::RESP3);
            if *tls {
                builder = builder.set_client_to_redis_tls_mode(redis::TlsMode::Secure);
            }
            if let Some(user) = &redis.user {
                builder = builder.set_client_to_redis_username(user);
            }
            if let Some(password) = password {
                builder = builder.set_client_to_redis_password(password);
            }
            return builder.build()?.async_get_client().await;
        }
        Site::Cluster { .. } => {
            return Err(
                (ErrorKind::InvalidClientConfig, "a cluster is spoken to node by node").into()
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

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true).set_user_timeout(UNHEARD)
}
