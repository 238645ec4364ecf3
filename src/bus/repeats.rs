//! What was read from one Redis and comes again from another.
//!
//! A master that is replaced may have told this host of an entry that its replica never got. If the
//! sender had no answer for it, it writes it again, to the replica, under the same number; here it has
//! been passed on already. So the numbers that were read from the former Redis are remembered, until
//! each host has gone beyond them. Within one Redis nothing comes again, and nothing is compared: the
//! numbers of a host begin with the time of day, which somebody may put back.

use std::collections::HashMap;

use ahash::RandomState;
use serde::{Deserialize, Serialize};

/// Hosts that are remembered; beyond, all are forgotten: an entry may come twice.
const MAX_HOSTS: usize = 4096;

/// The highest number of each host.
type Numbers = HashMap<String, u64, RandomState>;

/// See the module's text.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Repeats {
    /// From the Redis that is read now, and from former ones.
    read: Numbers,
    /// From former ones, of hosts that have not gone beyond.
    former: Numbers,
}

impl Repeats {
    /// Another Redis is read from now on.
    pub fn switch(&mut self) {
        self.former.clone_from(&self.read);
    }

    /// An entry of a host has been read: whether it was before, from another Redis.
    pub fn read(&mut self, host: &str, number: u64) -> bool {
        if let Some(former) = self.former.get(host) {
            if number <= *former {
                return true;
            }
            self.former.remove(host);
        }
        match self.read.get_mut(host) {
            Some(last) => *last = number,
            None => {
                if self.read.len() >= MAX_HOSTS {
                    self.read.clear();
                }
                self.read.insert(host.to_owned(), number);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(repeats: &mut Repeats, host: &str, numbers: &[u64]) -> Vec<u64> {
        numbers.iter().copied().filter(|number| !repeats.read(host, *number)).collect()
    }

    #[test]
    fn what_another_redis_had_is_passed_over_until_the_host_goes_beyond() {
        let mut repeats = Repeats::default();
        assert_eq!(read(&mut repeats, "a", &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(read(&mut repeats, "b", &[7]), [7]);
        repeats.switch();
        assert_eq!(read(&mut repeats, "a", &[2, 3, 4, 5]), [4, 5]);
        assert_eq!(read(&mut repeats, "b", &[7, 7, 8]), [8]);
        // A clock was put back, under the same Redis.
        assert_eq!(read(&mut repeats, "a", &[1, 2]), [1, 2]);
        repeats.switch();
        repeats.switch();
        assert_eq!(read(&mut repeats, "a", &[1, 2, 3]), [3]);
    }

    #[test]
    fn the_number_of_hosts_is_bounded() {
        let mut repeats = Repeats::default();
        for host in 0..=MAX_HOSTS {
            assert!(!repeats.read(&host.to_string(), 1));
        }
        assert!(repeats.read.len() <= MAX_HOSTS);
    }
}
