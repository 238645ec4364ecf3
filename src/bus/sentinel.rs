//! The sentinels of a Redis: which master they name.
//!
//! They may name another while the former one still answers, and go on with it for many seconds: what
//! is written to that one in the meantime is lost when it becomes a replica. So they are asked again
//! and again, and a connection to a master that they no longer name is given up.

use std::time::Duration;

use redis::ConnectionAddr;
use redis::ProtocolVersion;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};

use super::connect::{Fault, address, tcp};
use crate::config::{Redis, Secret, Site};

/// How long all of them together may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often they are asked whether the master is still the same.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(1);

/// The sentinels.
pub(super) struct Sentinels {
    client: SentinelClient,
    redis: Redis,
    tls: bool,
}

impl Sentinels {
    /// Those that a Redis is found by; `None`: it is not found by any.
    ///
    /// # Errors
    /// They cannot be asked with what is known.
    pub(super) fn of(redis: &Redis) -> Result<Option<Self>, Fault> {
        let Site::Sentinel { tls, hosts, master } = &redis.site else { return Ok(None) };
        let sentinels = hosts.iter().map(|host| address(*tls, host));
        let mut builder =
            SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)?
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
        if let Some(password) = redis.password.as_ref().map(Secret::reveal) {
            builder = builder.set_client_to_redis_password(password);
        }
        Ok(Some(Self { client: builder.build()?, redis: redis.clone(), tls: *tls }))
    }

    /// The master that they name, and that says it is one.
    ///
    /// # Errors
    /// None of them answers or knows one, or it refuses.
    pub(super) async fn master(&mut self) -> Result<Redis, Fault> {
        let named = tokio::time::timeout(ANSWER_TIMEOUT, self.client.async_get_client()).await;
        let named = named.map_err(|_| Fault::Away("no sentinel answers".to_owned()))??;
        let host = match named.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), *port)
            }
            _ => return Err(Fault::Away("the sentinels name no host".to_owned())),
        };
        Ok(Redis { site: Site::Tcp { tls: self.tls, host }, ..self.redis.clone() })
    }
}
