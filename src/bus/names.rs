//! What the stream and the channels are called.
//!
//! | name | what goes there, or what its being subscribed to says |
//! |---|---|
//! | `STREAM` | entries for all |
//! | `PREFIX#NSP#` | what is for all adapters of a namespace now. Who subscribes is one of them: the official adapter counts them so |
//! | `PREFIX#NSP#UID#` | answers to one adapter. It is subscribed to for as long as the adapter lives |
//! | `PREFIX-router#HOST#UID` | nothing: it is subscribed to by the router of that host, whose worker's adapter that is |
//!
//! So everybody who is there can be read from the names of the channels, and nobody has to say that
//! he still lives: a connection that ends takes its names with it.
//!
//! A worker's second io server, and its third, have namespaces of their own on the workers'
//! channels: `2#/`, `3#/chat`. They are called the same here, so that the n-th server of one host
//! talks to the n-th of the others that run router. The official adapter has no such names: a host
//! without router takes part in what the first server does.

use crate::ipc::message::Uid;

/// Names for a stream and a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The stream's.
    pub stream: String,
    prefix: String,
}

/// What somebody subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subscribed<'a> {
    /// An adapter.
    Adapter {
        /// Its namespace.
        nsp: &'a str,
        /// Its id.
        uid: Uid,
    },
    /// That a router says whose one is.
    Mark {
        /// The host.
        host: &'a str,
        /// The adapter's id.
        uid: Uid,
    },
}

impl Names {
    /// The names for this stream and this prefix of channels.
    #[must_use]
    pub const fn new(stream: String, prefix: String) -> Self {
        Self { stream, prefix }
    }

    /// The channel of a namespace.
    #[must_use]
    pub fn everyone(&self, nsp: &str) -> String {
        format!("{}#{nsp}#", self.prefix)
    }

    /// The channel of an adapter.
    #[must_use]
    pub fn adapter(&self, nsp: &str, uid: &str) -> String {
        format!("{}#{nsp}#{uid}#", self.prefix)
    }

    /// The name that says whose an adapter is.
    #[must_use]
    pub fn mark(&self, host: &str, uid: &Uid) -> String {
        format!("{}-router#{host}#{uid}", self.prefix)
    }

    /// A pattern for all names that are looked at, with everything plain in it escaped.
    #[must_use]
    pub fn pattern(&self) -> String {
        let mut pattern = String::new();
        for character in self.prefix.chars() {
            if "*?[]\\^-".contains(character) {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern.push_str("*#*#*");
        pattern
    }

    /// What the name of a channel says; `None`: nothing of this kind.
    #[must_use]
    pub fn read<'a>(&self, channel: &'a str) -> Option<Subscribed<'a>> {
        let rest = channel.strip_prefix(self.prefix.as_str())?;
        if let Some(rest) = rest.strip_prefix("-router#") {
            let (host, uid) = rest.rsplit_once('#')?;
            return Some(Subscribed::Mark { host, uid: Uid::new(uid.as_bytes())? });
        }
        let (nsp, uid) = rest.strip_prefix('#')?.strip_suffix('#')?.rsplit_once('#')?;
        // A namespace may have this sign in its name, too; ids are 16 hex digits.
        let plain = uid.len() == 16 && uid.bytes().all(|digit| digit.is_ascii_hexdigit());
        plain.then_some(Subscribed::Adapter { nsp, uid: Uid::new(uid.as_bytes())? })
    }

    /// Whose answers come on this channel; `None`: it is not an adapter's.
    #[must_use]
    pub fn requester(&self, channel: &str) -> Option<Uid> {
        match self.read(channel)? {
            Subscribed::Adapter { uid, .. } => Some(uid),
            Subscribed::Mark { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let names = Names::new("s".to_owned(), "socket.io".to_owned());
        let uid = Uid::new(b"0123456789abcdef").expect("an id");
        assert_eq!(names.everyone("/"), "socket.io#/#");
        assert_eq!(names.adapter("/", uid.as_str()), "socket.io#/#0123456789abcdef#");
        for nsp in ["/", "/chat", "2#/", "/a#b", "/a#"] {
            let name = names.adapter(nsp, uid.as_str());
            assert_eq!(names.read(&name), Some(Subscribed::Adapter { nsp, uid }));
            assert_eq!(names.requester(&name), Some(uid));
            assert_eq!(names.read(&names.everyone(nsp)), None);
        }
        for host in ["a", "web-1.example", "a#b"] {
            let name = names.mark(host, &uid);
            assert_eq!(names.read(&name), Some(Subscribed::Mark { host, uid }));
        }
        for other in ["", "socket.io", "socket.io#/#x#", "other#/#0123456789abcdef#"] {
            assert_eq!(names.read(other), None);
        }
        assert_eq!(Names::new(String::new(), "a*-".to_owned()).pattern(), "a\\*\\-*#*#*");
    }
}
