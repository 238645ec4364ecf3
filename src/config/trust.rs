//! Who may say on whose behalf a connection comes: the peers whose PROXY protocol header is
//! believed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A list of networks, and whether Unix sockets belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    networks: Vec<IpNet>,
    unix: bool,
}

/// A value of `--trust` that names no peers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Neither an address nor a network nor one of the words.
    #[error(
        "`{0}` is no address (10.0.0.1), no network (10.0.0.0/8, fd00::/8) and none of the words \
         loopback, private, unix, any"
    )]
    Unknown(String),
    /// Nothing but blanks and commas: a list that trusts nobody is a mistake.
    #[error("the list is empty; write addresses, networks, or loopback, private, unix, any")]
    Empty,
}

/// The loopback networks.
const LOOPBACK: [IpNet; 2] = [v4([127, 0, 0, 0], 8), v6([0, 0, 0, 0, 0, 0, 0, 1], 128)];

/// What nobody routes on the Internet: RFC 1918 and RFC 4193. Not the loopback.
const PRIVATE: [IpNet; 4] = [
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
];

/// Every address.
const ANY: [IpNet; 2] = [v4([0; 4], 0), v6([0; 8], 0)];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix))
}

impl Default for Trust {
    /// What runs on this host: loopback and Unix sockets.
    fn default() -> Self {
        Self { networks: LOOPBACK.to_vec(), unix: true }
    }
}

impl Trust {
    /// Reads the values of `--trust`, each of which may be a list with commas. Blank parts say
    /// nothing. They stand for themselves alone: the default is not added.
    ///
    /// # Errors
    /// One part names nobody, or there is none.
    pub fn parse<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Result<Self, TrustError> {
        let mut trust = Self { networks: Vec::new(), unix: false };
        for value in values {
            let parts = value.as_ref().split(',').map(str::trim).filter(|part| !part.is_empty());
            for part in parts {
                trust.add(part)?;
            }
        }
        if trust.networks.is_empty() && !trust.unix {
            return Err(TrustError::Empty);
        }
        Ok(trust)
    }

    fn add(&mut self, part: &str) -> Result<(), TrustError> {
        match part {
            "loopback" => self.networks.extend(LOOPBACK),
            "private" => self.networks.extend(PRIVATE),
            "unix" => self.unix = true,
            "any" => {
                self.networks.extend(ANY);
                self.unix = true;
            }
            other => {
                let network = other
                    .parse::<IpNet>()
                    .or_else(|_| other.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| TrustError::Unknown(other.to_owned()))?;
                self.networks.push(unmapped(network));
            }
        }
        Ok(())
    }

    /// Whether the header of this peer is believed; `None` is the peer at the other end of a Unix
    /// socket. An IPv4 address in IPv6's clothes (`::ffff:10.0.0.1`, what a dual-stack listener
    /// sees) is that IPv4 address.
    pub fn allows(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            None => self.unix,
            Some(address) => {
                let address = address.to_canonical();
                self.networks.iter().any(|network| network.contains(&address))
            }
        }
    }
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`: peers are compared as IPv4.
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(wide) = network else { return network };
    let narrow = wide.prefix_len().checked_sub(MAPPED_BITS);
    match (wide.addr().to_ipv4_mapped(), narrow) {
        (Some(address), Some(prefix)) => Ipv4Net::new(address, prefix).map_or(network, IpNet::V4),
        _ => network,
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = self.networks.iter().map(IpNet::to_string);
        let unix = self.unix.then(|| "unix".to_owned());
        f.write_str(&networks.chain(unix).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(trust: &Trust, peer: &str) -> bool {
        trust.allows((peer != "unix").then(|| peer.parse().expect(peer)))
    }

    #[test]
    fn words_addresses_and_networks_are_read() {
        for (values, inside, outside) in [
            (&["10.0.0.1"][..], &["10.0.0.1", "::ffff:10.0.0.1"][..], &["10.0.0.2", "unix"][..]),
            (&["10.0.0.0/8"], &["10.255.0.1"], &["11.0.0.1", "::1"]),
            (&["10.1.2.3/8"], &["10.0.0.1"], &["11.0.0.1"]),
            (&["2001:db8::/32"], &["2001:db8::1", "2001:db8:ffff::"], &["2001:db9::", "1.2.3.4"]),
            (&["2001:db8::1"], &["2001:db8::1"], &["2001:db8::2"]),
            (&["::ffff:10.0.0.0/104"], &["10.1.1.1", "::ffff:10.1.1.1"], &["11.0.0.1"]),
            (&["::ffff:10.0.0.1"], &["10.0.0.1"], &["10.0.0.2"]),
            (&["::/0"], &["2001:db8::1", "::1"], &["10.0.0.1", "::ffff:10.0.0.1"]),
            (&["loopback"], &["127.0.0.1", "127.1.2.3", "::1"], &["128.0.0.1", "::2", "unix"]),
            (
                &["private"],
                &["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1"],
                &["172.32.0.1", "192.169.0.1", "8.8.8.8", "127.0.0.1", "fe80::1", "unix"],
            ),
            (&["unix"], &["unix"], &["127.0.0.1"]),
            (&["any"], &["8.8.8.8", "::ffff:8.8.8.8", "2001:db8::1", "unix"], &[]),
            (&["10.0.0.1, ::1", "unix"], &["10.0.0.1", "::1", "unix"], &["127.0.0.1"]),
            (&["", " 10.0.0.1,, "], &["10.0.0.1"], &["127.0.0.1"]),
        ] {
            let trust = Trust::parse(values).expect("a test's own");
            for peer in inside {
                assert!(allows(&trust, peer), "{peer} in {values:?}");
            }
            for peer in outside {
                assert!(!allows(&trust, peer), "{peer} in {values:?}");
            }
        }
    }

    #[test]
    fn by_default_this_host_is_trusted() {
        let trust = Trust::default();
        assert_eq!(trust.to_string(), "127.0.0.0/8, ::1/128, unix");
        for (peer, trusted) in
            [("127.0.0.1", true), ("::1", true), ("unix", true), ("10.0.0.1", false)]
        {
            assert_eq!(allows(&trust, peer), trusted, "{peer}");
        }
    }

    #[test]
    fn what_names_nobody_is_refused_with_what_would_do() {
        for value in [
            "example.com",
            "10.0.0.0/33",
            "10.0.0",
            "10.0.0.1:80",
            "lo",
            "Loopback",
            "/8",
            "010.0.0.1",
        ] {
            let error = Trust::parse([value]).expect_err(value).to_string();
            for part in [value, "10.0.0.0/8", "loopback, private, unix, any"] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        assert_eq!(Trust::parse(["10.0.0.1,x"]), Err(TrustError::Unknown("x".to_owned())));
        for nothing in [&[][..], &[""], &[" , "]] {
            assert_eq!(Trust::parse(nothing), Err(TrustError::Empty), "{nothing:?}");
        }
    }
}
