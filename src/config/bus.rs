//! Where the bus to other hosts is: what `--bus` says.
//!
//! ```text
//!   redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]        one Redis
//!   redis+sentinel://[..@]HOST[:PORT][,HOST[:PORT]..]/MASTER[/DATABASE]
//!   redis+cluster://[..@]HOST[:PORT][,HOST[:PORT]..]        some nodes of a Redis Cluster
//!   unix:///PATH[?db=DATABASE]
//! ```
//!
//! `rediss` in place of `redis` is TLS. What is asked of Redis is whose password it is; it is
//! shown to nobody: neither `Debug` nor `Display` has it, and errors do not repeat what was written.

use std::fmt;
use std::path::PathBuf;

/// The port of a Redis.
const REDIS_PORT: u16 = 6379;
/// The port of a sentinel.
const SENTINEL_PORT: u16 = 26379;

/// The stream that the official adapter and the emitters write to, unless told otherwise.
pub const BUS_STREAM: &str = "socket.io";
/// What their channels begin with.
pub const BUS_CHANNEL_PREFIX: &str = "socket.io";
/// How many entries the stream keeps, about.
pub const BUS_MAX_LEN: u64 = 10_000;

/// The bus to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// Where it is.
    pub redis: Redis,
    /// The stream.
    pub stream: String,
    /// What the channels begin with.
    pub channel_prefix: String,
    /// How many entries the stream keeps, about.
    pub max_len: u64,
}

/// What one layer of settings says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawBus {
    /// See [`Bus::redis`].
    pub redis: Option<Redis>,
    /// See [`Bus::stream`].
    pub stream: Option<String>,
    /// See [`Bus::channel_prefix`].
    pub channel_prefix: Option<String>,
    /// See [`Bus::max_len`].
    pub max_len: Option<u64>,
}

impl RawBus {
    /// This layer laid over `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            redis: self.redis.or(below.redis),
            stream: self.stream.or(below.stream),
            channel_prefix: self.channel_prefix.or(below.channel_prefix),
            max_len: self.max_len.or(below.max_len),
        }
    }

    /// Fills what is still open; `None`: nobody named a Redis.
    #[must_use]
    pub fn resolve(self) -> Option<Bus> {
        let of = |said: Option<String>, usual: &str| said.unwrap_or_else(|| usual.to_owned());
        Some(Bus {
            redis: self.redis?,
            stream: of(self.stream, BUS_STREAM),
            channel_prefix: of(self.channel_prefix, BUS_CHANNEL_PREFIX),
            max_len: self.max_len.unwrap_or(BUS_MAX_LEN),
        })
    }
}

/// A word of a command line as it can be shown: `--bus` without who asks.
#[must_use]
pub fn presentable(word: &str) -> String {
    match word.strip_prefix("--bus=") {
        Some(url) => format!("--bus={}", presentable_url(url)),
        None => word.to_owned(),
    }
}

/// A URL of a Redis as it can be shown.
#[must_use]
pub fn presentable_url(url: &str) -> String {
    url.parse().map_or_else(|_| "(hidden)".to_owned(), |redis: Redis| redis.to_string())
}

/// Where a Redis is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// How it is found.
    pub site: Site,
    /// Whom to be.
    pub user: Option<String>,
    /// By what it is proved.
    pub password: Option<Secret>,
    /// Which of its databases.
    pub database: i64,
}

/// How a Redis is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Site {
    /// There.
    Tcp {
        /// With TLS.
        tls: bool,
        /// Host and port.
        host: (String, u16),
    },
    /// On this host.
    Unix(PathBuf),
    /// Sentinels know.
    Sentinel {
        /// With TLS, to Redis and to them.
        tls: bool,
        /// Where they are.
        hosts: Vec<(String, u16)>,
        /// What they call it.
        master: String,
    },
    /// Nodes of a Redis Cluster know.
    Cluster {
        /// With TLS, to all of its nodes.
        tls: bool,
        /// Where some of them are.
        hosts: Vec<(String, u16)>,
    },
}

/// What is not to be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What it is: for whom it was made.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What is wrong with a URL; it is not repeated, since it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// No scheme that is known.
    #[error(
        "write redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster://, \
        rediss+cluster:// or unix://"
    )]
    Scheme,
    /// A host or a port that is none.
    #[error("`{0}` is no host and port")]
    Host(String),
    /// A database that is none.
    #[error("`{0}` is no database: it has a number")]
    Database(String),
    /// Sentinels were named, and nothing to ask them for.
    #[error("name the master that the sentinels know: redis+sentinel://HOST:PORT/MASTER")]
    Master,
    /// Several hosts where one would do.
    #[error("several hosts are for redis+sentinel:// and redis+cluster://")]
    Many,
    /// Another database than 0 in a cluster.
    #[error("a Redis Cluster has database 0 alone, not {0}")]
    DatabaseOfCluster(i64),
    /// An escape that is none.
    #[error("user or password has a % that is no escape: write %25 for it")]
    Escape,
}

impl std::str::FromStr for Redis {
    type Err = RedisError;

    fn from_str(url: &str) -> Result<Self, RedisError> {
        let (scheme, rest) = url.split_once("://").ok_or(RedisError::Scheme)?;
        if scheme == "unix" || scheme == "redis+unix" {
            return unix(rest);
        }
        let (redis, found_by) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match redis {
            "redis" => false,
            "rediss" => true,
            _ => return Err(RedisError::Scheme),
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (who, hosts) = place.rsplit_once('@').unwrap_or(("", place));
        let (user, password) = credentials(who)?;
        let port = if found_by == "sentinel" { SENTINEL_PORT } else { REDIS_PORT };
        let hosts: Result<Vec<_>, _> = hosts.split(',').map(|text| host(text, port)).collect();
        let mut hosts = hosts?;
        let mut path = path.split('/').filter(|part| !part.is_empty());
        let site = match found_by {
            "" => {
                let host = hosts.pop().filter(|_| hosts.is_empty()).ok_or(RedisError::Many)?;
                Site::Tcp { tls, host }
            }
            "sentinel" => {
                let master = path.next().ok_or(RedisError::Master)?.to_owned();
                Site::Sentinel { tls, hosts, master }
            }
            "cluster" => Site::Cluster { tls, hosts },
            _ => return Err(RedisError::Scheme),
        };
        let database = database(path.next().unwrap_or("0"))?;
        if matches!(site, Site::Cluster { .. }) && database != 0 {
            return Err(RedisError::DatabaseOfCluster(database));
        }
        Ok(Self { site, user, password, database })
    }
}

fn unix(rest: &str) -> Result<Redis, RedisError> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (mut user, mut password, mut number) = (None, None, 0);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("db", text)) => number = database(text)?,
            Some(("user", text)) => user = Some(unescape(text)?),
            Some(("pass", text)) => password = Some(Secret(unescape(text)?)),
            _ => return Err(RedisError::Scheme),
        }
    }
    if !path.starts_with('/') {
        return Err(RedisError::Scheme);
    }
    Ok(Redis { site: Site::Unix(path.into()), user, password, database: number })
}

fn credentials(text: &str) -> Result<(Option<String>, Option<Secret>), RedisError> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(Secret(unescape(password)?))),
        None => (text, None),
    };
    let user = Some(unescape(user)?).filter(|user| !user.is_empty());
    Ok((user, password))
}

fn host(text: &str, default_port: u16) -> Result<(String, u16), RedisError> {
    let wrong = || RedisError::Host(text.to_owned());
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an address in brackets are its own.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (text, default_port),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let plain = !host.is_empty() && !host.contains(['[', ']', '@', ' ']);
    plain.then(|| (host.to_owned(), port)).ok_or_else(wrong)
}

fn database(text: &str) -> Result<i64, RedisError> {
    let number = text.parse().ok().filter(|number: &i64| *number >= 0);
    number.ok_or_else(|| RedisError::Database(text.to_owned()))
}

fn unescape(text: &str) -> Result<String, RedisError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(byte.ok_or(RedisError::Escape)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| RedisError::Escape)
}

/// As it was written, but for who asks.
impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = |tls: bool| if tls { "rediss" } else { "redis" };
        let one = |f: &mut fmt::Formatter<'_>, (host, port): &(String, u16)| {
            if host.contains(':') {
                write!(f, "[{host}]:{port}")
            } else {
                write!(f, "{host}:{port}")
            }
        };
        let many = |f: &mut fmt::Formatter<'_>, hosts: &[(String, u16)]| {
            for (at, host) in hosts.iter().enumerate() {
                if at > 0 {
                    f.write_str(",")?;
                }
                one(f, host)?;
            }
            Ok(())
        };
        match &self.site {
            Site::Tcp { tls, host } => {
                write!(f, "{}://", scheme(*tls))?;
                one(f, host)?;
            }
            Site::Unix(path) => write!(f, "unix://{}", path.display())?,
            Site::Sentinel { tls, hosts, master } => {
                write!(f, "{}+sentinel://", scheme(*tls))?;
                many(f, hosts)?;
                write!(f, "/{master}")?;
            }
            Site::Cluster { tls, hosts } => {
                write!(f, "{}+cluster://", scheme(*tls))?;
                many(f, hosts)?;
            }
        }
        match (self.database, &self.site) {
            (0, _) => Ok(()),
            (number, Site::Unix(_)) => write!(f, "?db={number}"),
            (number, _) => write!(f, "/{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Redis, RedisError> {
        url.parse()
    }

    #[test]
    fn urls_have_many_forms() {
        for (url, shown) in [
            ("redis://cache", "redis://cache:6379"),
            ("redis://u:p%40%3aw@10.0.0.1:1/2", "redis://10.0.0.1:1/2"),
            ("rediss://:secret@[::1]:7/", "rediss://[::1]:7"),
            ("redis+sentinel://:x@a,b:1/main/3", "redis+sentinel://a:26379,b:1/main/3"),
            ("redis+cluster://:x@a,[::1]:7000", "redis+cluster://a:6379,[::1]:7000"),
            ("rediss+cluster://u:x@a:1/0", "rediss+cluster://a:1"),
            ("unix:///run/redis.sock?db=4&pass=x", "unix:///run/redis.sock?db=4"),
        ] {
            assert_eq!(parse(url).expect(url).to_string(), shown);
        }
        let redis = parse("redis://u:p%40%3aw@h").expect("fine");
        assert_eq!(redis.user.as_deref(), Some("u"));
        assert_eq!(redis.password.as_ref().map(Secret::reveal), Some("p@:w"));
        let nobody = parse("redis://h").expect("fine");
        assert_eq!((nobody.user, nobody.password), (None, None));
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        for url in [
            "redis://u:hush@h",
            "unix:///s?pass=hush",
            "redis+sentinel://:hush@h/m",
            "redis+cluster://:hush@h,i",
        ] {
            let redis = parse(url).expect(url);
            assert!(redis.password.is_some());
            assert!(!format!("{redis} {redis:?}").contains("hush"));
            assert!(!presentable(&format!("--bus={url}")).contains("hush"));
        }
        for url in ["radis://:hush@h", "redis://:hu%sh@h", "redis://:hush@h:x", "redis://:hush@h/x"]
        {
            assert!(!parse(url).expect_err(url).to_string().contains("hush"));
            assert_eq!(presentable(&format!("--bus={url}")), "--bus=(hidden)");
        }
    }

    #[test]
    fn wrong_urls_say_what_would_do() {
        for (url, part) in [
            ("localhost:6379", "redis://"),
            ("redis://", "no host"),
            ("redis://h:99999", "no host and port"),
            ("redis://h/one", "has a number"),
            ("redis://a,b", "redis+sentinel:// and redis+cluster://"),
            ("redis+cluster://a,b/1", "database 0 alone, not 1"),
            ("redis+cluster://a,/0", "no host"),
            ("redis+ring://a", "redis+cluster://"),
            ("redis+sentinel://a", "name the master"),
            ("unix://relative", "unix://"),
        ] {
            let error = parse(url).expect_err(url).to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
