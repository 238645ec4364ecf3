//! Where to listen: `host:port`, `:port`, or `unix:/path`.
//!
//! Host names are looked up by a function that is passed in: this module asks nobody.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest path a Unix socket address has room for, in bytes.
const UNIX_PATH_MAX: usize = 107;

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// Every socket address the host part stands for. `[::]` means dual stack: IPv4 clients
    /// too, and plain `0.0.0.0` where the kernel has no IPv6.
    Tcp(Vec<SocketAddr>),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What looks up a host name: its addresses with the port, or why there are none.
pub type Resolve<'a> = &'a dyn Fn(&str, u16) -> Result<Vec<SocketAddr>, String>;

/// An address that cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It has neither a port nor `unix:`.
    #[error("`{0}` has no port; write host:port, :port, or unix:/path")]
    NoPort(String),
    /// The part after the last colon is no port.
    #[error("`{0}`: the port must be 0 to 65535")]
    Port(String),
    /// An IPv6 address without brackets.
    #[error("`{0}`: write an IPv6 address in brackets, as in [::1]:8080")]
    Brackets(String),
    /// The host stands for nothing.
    #[error("`{address}`: the host is not known ({reason})")]
    Host {
        /// As written.
        address: String,
        /// What the resolver said.
        reason: String,
    },
    /// An empty or overlong Unix path.
    #[error(
        "`{address}`: the path of a Unix socket has 1 to {UNIX_PATH_MAX} bytes, this has {got}"
    )]
    UnixPath {
        /// As written.
        address: String,
        /// Bytes.
        got: usize,
    },
}

impl Address {
    /// Every interface, IPv4 and IPv6.
    pub fn any(port: u16) -> Self {
        Self::Tcp(vec![SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)])
    }

    /// Reads an address; `resolve` turns a host name and a port into socket addresses.
    pub fn parse(text: &str, resolve: Resolve<'_>) -> Result<Self, AddressError> {
        let address = text.trim();
        if let Some(path) = address.strip_prefix("unix:") {
            if path.is_empty() || path.len() > UNIX_PATH_MAX {
                return Err(AddressError::UnixPath { address: address.into(), got: path.len() });
            }
            return Ok(Self::Unix(path.into()));
        }
        let (host, port) = match address.rsplit_once(':') {
            Some(split) => split,
            // A bare port, as in PORT=8080.
            None if address.parse::<u16>().is_ok() => ("", address),
            None => return Err(AddressError::NoPort(address.into())),
        };
        if host.contains(':') && !host.starts_with('[') {
            return Err(AddressError::Brackets(address.into()));
        }
        let port: u16 = port.parse().map_err(|_| AddressError::Port(address.into()))?;
        if host.is_empty() {
            return Ok(Self::any(port));
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Self::Tcp(vec![SocketAddr::new(ip, port)]));
        }
        match resolve(bare, port) {
            Ok(found) if !found.is_empty() => Ok(Self::Tcp(found)),
            Ok(_) => {
                Err(AddressError::Host { address: address.into(), reason: "no address".into() })
            }
            Err(reason) => Err(AddressError::Host { address: address.into(), reason }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(addresses) => {
                for (place, address) in addresses.iter().enumerate() {
                    write!(f, "{}{address}", if place == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, AddressError> {
        let resolve = |host: &str, port| match host {
            "localhost" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
            _ => Err("no such name".to_owned()),
        };
        Address::parse(text, &resolve).map(|address| address.to_string())
    }

    #[test]
    fn addresses_are_read() {
        for (text, meant) in [
            (":8080", "[::]:8080"),
            ("8080", "[::]:8080"),
            (" 0.0.0.0:80 ", "0.0.0.0:80"),
            ("[::1]:0", "[::1]:0"),
            ("localhost:3000", "127.0.0.1:3000"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(meant), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        for (text, part) in [
            ("", "has no port"),
            ("localhost", "has no port"),
            (":70000", "0 to 65535"),
            ("host:", "0 to 65535"),
            ("::1:80", "in brackets"),
            ("nowhere:80", "no such name"),
            ("unix:", "this has 0"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        parse(&format!("unix:/{}", "x".repeat(200))).expect_err("the kernel has no room for it");
    }
}
