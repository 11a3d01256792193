//! Networks that peers come from, and how many replies each of them gets.
//!
//! An address of IPv6 says little about who its owner is: a customer has at least a /64, so all of its addresses count as
//! one wherever something is counted for an address.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;

use crate::metrics::DropCause;
use crate::timer::Instant;

/// A network: the first bits of an IPv4 address, or the /64 of an IPv6 address. Addresses of IPv4 that appear as ones of
/// IPv6 (`::ffff:192.0.2.1`) are addresses of IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Prefix(u64);

impl Prefix {
    /// The network of an address for what is counted for each address.
    pub fn of_host(ip: IpAddr) -> Prefix {
        Prefix::new(ip, 32)
    }

    /// The network of an address for what is counted for each network, with the /24 of IPv4.
    pub fn of_network(ip: IpAddr) -> Prefix {
        Prefix::new(ip, 24)
    }

    fn new(ip: IpAddr, ipv4_bits: u32) -> Prefix {
        match ip.to_canonical() {
            // As the number of 0:1::/32, in which nobody has an address of IPv6.
            IpAddr::V4(ip) => Prefix((1 << 32) | u64::from(ip.to_bits() >> (32 - ipv4_bits))),
            IpAddr::V6(ip) => Prefix((ip.to_bits() >> 64) as u64),
        }
    }
}

/// Prefixes with a count of their own, in each row of the table.
const ROW_PREFIXES: usize = 3;

/// How long a prefix that gets no reply keeps its count, in seconds.
const KEPT_SECONDS: u32 = 10;

/// How many replies each source prefix has had in this second.
///
/// A prefix has its place in one row of a table, which a random hash decides, so that nobody can choose prefixes that meet
/// in a row. In its row it has a count of its own, if it was there when one was free; the others of the row share one
/// count:
///
/// ```text
///  row  [prefix, second, replies] [prefix, second, replies] [prefix, second, replies] [second, replies: all others]
/// ```
///
/// So this holds however many prefixes somebody forges:
///
/// - No prefix gets more than `replies_max` replies in a second.
/// - A prefix with a count of its own gets so many, whatever others do, and keeps its count as long as it gets a reply
///   every [`KEPT_SECONDS`].
/// - The prefixes without one share `replies_max` in each row, first come, first served. In a table for 65,536 prefixes there
///   are 21,846 rows: a million forged datagrams in a second, each from another prefix, come to 46 in a row.
/// - Memory does not grow: a row takes 64 bytes, at the default bound 1.4 MiB, from the first reply on that is counted.
pub(crate) struct PrefixBudget {
    replies_max: u32,
    prefixes_max: usize,
    /// Empty until the first reply is counted.
    rows: Box<[Row]>,
    random: RandomState,
}

/// A line of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Row {
    own: [Own; ROW_PREFIXES],
    others: Count,
}

#[derive(Clone, Copy)]
struct Own {
    prefix: Prefix,
    count: Count,
}

/// Replies in a second, numbered on the reactor's clock from 1 on.
#[derive(Clone, Copy)]
struct Count {
    second: u32,
    replies: u32,
}

impl Count {
    /// That of a time before the first second, so long ago that nobody keeps it.
    const NONE: Count = Count { second: 0, replies: 0 };

    /// Takes one of `max` replies of this second, if there is one left.
    #[inline]
    fn take(&mut self, second: u32, max: u32) -> bool {
        if self.second != second {
            *self = Count { second, replies: 0 };
        }
        let left = self.replies < max;
        self.replies += u32::from(left);
        left
    }
}

impl PrefixBudget {
    /// A budget of `replies_max` a second for each prefix, with a count of its own for `prefixes_max` of them.
    pub fn new(replies_max: u32, prefixes_max: usize) -> PrefixBudget {
        PrefixBudget { replies_max, prefixes_max, rows: Box::default(), random: RandomState::new() }
    }

    /// Takes one reply from the budget of an address.
    ///
    /// # Errors
    /// Why there is none.
    #[inline]
    pub fn charge(&mut self, to: IpAddr, now: Instant) -> Result<(), DropCause> {
        let prefix = Prefix::of_network(to);
        let hash = self.random.hash_one(prefix);
        self.charge_hashed(prefix, hash, now)
    }

    fn charge_hashed(&mut self, prefix: Prefix, hash: u64, now: Instant) -> Result<(), DropCause> {
        if self.rows.is_empty() {
            self.make_rows();
        }
        let index = (u128::from(hash) * self.rows.len() as u128) >> 64;
        let row = &mut self.rows[index as usize];
        // Numbered so that nothing is old in the first seconds but what was never used.
        let second = (now.since_start().as_secs() as u32).saturating_add(KEPT_SECONDS + 1);
        let own = match row.own.iter().position(|own| own.prefix == prefix && own.count.second > 0) {
            Some(index) => Some(&mut row.own[index]),
            None => {
                let oldest = row.own.iter_mut().min_by_key(|own| own.count.second);
                oldest.filter(|own| second - own.count.second > KEPT_SECONDS)
            }
        };
        let (count, cause) = match own {
            Some(own) => {
                if own.prefix != prefix {
                    *own = Own { prefix, count: Count::NONE };
                }
                (&mut own.count, DropCause::PrefixBudget)
            }
            None => (&mut row.others, DropCause::PrefixTable),
        };
        if count.take(second, self.replies_max) { Ok(()) } else { Err(cause) }
    }

    #[cold]
    fn make_rows(&mut self) {
        let empty =
            Row { own: [Own { prefix: Prefix(0), count: Count::NONE }; ROW_PREFIXES], others: Count::NONE };
        self.rows = vec![empty; self.prefixes_max.div_ceil(ROW_PREFIXES).max(1)].into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn host(ip: &str) -> Prefix {
        Prefix::of_host(ip.parse().unwrap())
    }

    fn network(ip: &str) -> Prefix {
        Prefix::of_network(ip.parse().unwrap())
    }

    fn at(millis: u64) -> Instant {
        Instant::from_start(Duration::from_millis(millis))
    }

    /// The address with this number in a /24 of its own.
    fn numbered(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number << 8 | 1).into()
    }

    #[test]
    fn a_slash_64_is_one_network_in_both_places() {
        for prefix in [host, network] {
            assert_eq!(prefix("2001:db8:0:1::"), prefix("2001:db8:0:1:ffff:ffff:ffff:ffff"));
            assert_ne!(prefix("2001:db8:0:1::1"), prefix("2001:db8:0:2::1"));
            assert_ne!(prefix("2001:db8:0:1::1"), prefix("2001:db9:0:1::1"));
            assert_ne!(prefix("::1"), prefix("2001:db8::1"));
        }
    }

    #[test]
    fn ipv4_counts_by_address_or_by_slash_24_and_mapped_is_the_same() {
        assert_ne!(host("192.0.2.1"), host("192.0.2.2"));
        assert_eq!(network("192.0.2.0"), network("192.0.2.255"));
        assert_ne!(network("192.0.2.255"), network("192.0.3.0"));
        for prefix in [host, network] {
            assert_eq!(prefix("::ffff:192.0.2.1"), prefix("192.0.2.1"));
            assert_ne!(prefix("0.0.0.0"), prefix("::"));
            assert_ne!(prefix("192.0.2.1"), prefix("::192.0.2.1"));
        }
    }

    #[test]
    fn each_prefix_has_its_budget_in_each_second() {
        // In a large table no two of these share a row.
        let mut budget = PrefixBudget::new(3, 1 << 16);
        let mut answered = |from: &str, millis: u64, tries: usize| {
            (0..tries).filter(|_| budget.charge(from.parse().unwrap(), at(millis)).is_ok()).count()
        };
        assert_eq!(answered("10.0.0.1", 0, 2), 2);
        assert_eq!(answered("10.0.0.255", 999, 5), 1);
        assert_eq!(answered("10.0.1.0", 999, 5), 3);
        assert_eq!(answered("2001:db8:0:ff::1", 999, 1), 1);
        assert_eq!(answered("2001:db8:0:ff:ff::1", 999, 5), 2);
        assert_eq!(answered("2001:db8:0:fe::1", 999, 5), 3);
        // The next second begins exactly at its boundary, and nothing is saved up.
        assert_eq!(answered("10.0.0.1", 1000, 5), 3);
        assert_eq!(answered("10.0.0.1", 1999, 5), 0);
        assert_eq!(answered("10.0.0.1", 7000, 5), 3);
        assert_eq!(budget.charge("10.0.0.1".parse().unwrap(), at(7999)), Err(DropCause::PrefixBudget));
    }

    /// What the prefixes with these numbers are answered, when all of them meet in one row.
    fn in_one_row(
        budget: &mut PrefixBudget,
        numbers: std::ops::Range<u32>,
        millis: u64,
    ) -> Vec<Option<DropCause>> {
        let mut charge = |number| {
            let prefix = Prefix::of_network(numbered(number));
            budget.charge_hashed(prefix, 0, at(millis)).err()
        };
        numbers.map(&mut charge).collect()
    }

    #[test]
    fn whoever_has_a_count_keeps_it_and_the_others_of_the_row_share_one() {
        const OK: Option<DropCause> = None;
        const SHARED: Option<DropCause> = Some(DropCause::PrefixTable);
        let mut budget = PrefixBudget::new(2, 3);
        assert_eq!(in_one_row(&mut budget, 0..3, 0), [OK; 3]);
        // Two of the others, whichever come first.
        assert_eq!(in_one_row(&mut budget, 3..7, 0), [OK, OK, SHARED, SHARED]);
        assert_eq!(in_one_row(&mut budget, 0..3, 0), [OK; 3]);
        assert_eq!(in_one_row(&mut budget, 0..3, 999), [Some(DropCause::PrefixBudget); 3]);
        assert_eq!(in_one_row(&mut budget, 9..12, 1000), [OK, OK, SHARED]);
        // The first one comes back in time, the others do not.
        assert_eq!(in_one_row(&mut budget, 0..1, 10_000), [OK]);
        assert_eq!(in_one_row(&mut budget, 20..26, 10_999), [OK, OK, SHARED, SHARED, SHARED, SHARED]);
        assert_eq!(in_one_row(&mut budget, 20..26, 11_000), [OK, OK, OK, OK, SHARED, SHARED]);
        assert_eq!(in_one_row(&mut budget, 0..1, 11_000), [OK]);
        assert_eq!(in_one_row(&mut budget, 0..1, 11_000), [OK]);
        assert_eq!(in_one_row(&mut budget, 0..1, 11_000), [Some(DropCause::PrefixBudget)]);
    }

    #[test]
    fn a_storm_of_forged_prefixes_silences_nobody() {
        let mut budget = PrefixBudget::new(1000, 1 << 16);
        let known = |number| numbered((200 << 16) + number);
        let new = |number| numbered((201 << 16) + number);
        for number in 0..1000 {
            assert_eq!(budget.charge(known(number), at(0)), Ok(()));
        }
        for second in 1..4 {
            for number in 0..200_000 {
                // Whether these are answered is nobody's concern.
                let _ = budget.charge(numbered(number), at(second * 1000));
            }
            for number in 0..1000 {
                assert_eq!(budget.charge(known(number), at(second * 1000 + 500)), Ok(()));
                let newcomer = new(second as u32 * 1000 + number);
                assert_eq!(budget.charge(newcomer, at(second * 1000 + 500)), Ok(()));
            }
        }
        // Nobody gets more than the budget, whether it has a count of its own or not.
        for ip in [known(1), new(1)] {
            let answered = (0..3000).filter(|_| budget.charge(ip, at(9000)).is_ok()).count();
            assert_eq!(answered, 1000, "{ip}");
        }
    }

    #[test]
    fn no_prefix_gets_more_than_its_budget_in_a_table_that_is_too_small() {
        for prefixes_max in [0, 1, 4, 100] {
            let mut budget = PrefixBudget::new(5, prefixes_max);
            let mut answered: HashMap<_, u32> = HashMap::new();
            for number in 0..40_000_u32 {
                let (ip, second) = (numbered(number % 397), number / 4000);
                if budget.charge(ip, at(u64::from(second) * 1000)).is_ok() {
                    *answered.entry((ip, second)).or_default() += 1;
                }
            }
            assert_eq!(answered.values().max(), Some(&5));
        }
    }
}
