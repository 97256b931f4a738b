//! The networks that this machine itself is on: its interfaces' own addresses and what is connected to them directly.
//! A site may stand on public addresses; they are inside all the same.
//!
//! Read from the kernel's tables at each question, for interfaces come and go.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most of a table that is read: a router with the whole internet's routes has more, and no site runs on one.
const TABLE_BYTES_MAX: u64 = 1024 * 1024;
/// Shorter prefixes are no neighbourhood: tunnels cover half the internet with `0.0.0.0/1`.
const V4_PREFIX_MIN: u32 = 8;
const V6_PREFIX_MIN: u32 = 16;
/// Flags of a route: it is up; it leads through another router; it refuses.
const ROUTE_UP: u32 = 0x1;
const ROUTE_GATEWAY: u32 = 0x2;
const ROUTE_REJECT: u32 = 0x200;

/// A prefix of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u32,
}

/// Whether an address is this machine's or a direct neighbour's.
pub(super) fn is_own(address: IpAddr) -> bool {
    let table = |path| read(path).unwrap_or_default();
    match address {
        IpAddr::V4(_) => {
            let (routes, addresses) = (table("/proc/net/route"), table("/proc/net/fib_trie"));
            connected_v4(&routes).chain(local_v4(&addresses)).any(|network| network.has(address))
        }
        IpAddr::V6(_) => connected_v6(&table("/proc/net/if_inet6")).any(|network| network.has(address)),
    }
}

fn read(path: &'static str) -> Option<String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(TABLE_BYTES_MAX).read_to_string(&mut text));
    // A container may hide them; the rules for reserved addresses hold without.
    read.inspect_err(|error| tracing::debug!(path, %error, "this machine's own networks are not known")).ok()?;
    Some(text)
}

impl Network {
    fn has(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(asked)) => {
                let differs = own.to_bits() ^ asked.to_bits();
                differs.leading_zeros() >= self.prefix
            }
            (IpAddr::V6(own), IpAddr::V6(asked)) => {
                let differs = own.to_bits() ^ asked.to_bits();
                differs.leading_zeros() >= self.prefix
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// `/proc/net/route`: interface, destination, gateway, flags, three counts, mask; numbers in the machine's byte order.
fn connected_v4(table: &str) -> impl Iterator<Item = Network> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let (destination, flags, mask) = (hex(1)?, hex(3)?, hex(7)?);
        let is_direct = flags & (ROUTE_UP | ROUTE_GATEWAY | ROUTE_REJECT) == ROUTE_UP;
        let prefix = mask.count_ones();
        let address = IpAddr::V4(Ipv4Addr::from(destination.to_ne_bytes()));
        (is_direct && prefix >= V4_PREFIX_MIN).then_some(Network { address, prefix })
    })
}

/// `/proc/net/fib_trie`: `|-- ADDRESS` and below it, for an address of this machine, `/32 host LOCAL`.
fn local_v4(table: &str) -> impl Iterator<Item = Network> {
    let mut last = None;
    table.lines().filter_map(move |line| {
        if let Some(address) = line.trim_start().strip_prefix("|-- ") {
            last = address.trim().parse().ok();
        }
        let is_local = line.trim() == "/32 host LOCAL";
        last.filter(|_| is_local).map(|address: Ipv4Addr| Network { address: IpAddr::V4(address), prefix: 32 })
    })
}

/// `/proc/net/if_inet6`: address, interface number, prefix length, scope, flags, interface; numbers in hex.
fn connected_v6(table: &str) -> impl Iterator<Item = Network> {
    table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        let prefix = u32::from_str_radix(fields.nth(1)?, 16).ok()?;
        let address = IpAddr::V6(Ipv6Addr::from_bits(address));
        (prefix >= V6_PREFIX_MIN).then_some(Network { address, prefix })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(networks: impl Iterator<Item = Network>, inside: &[&str], outside: &[&str]) {
        let networks: Vec<Network> = networks.collect();
        let is_inside = |text: &&str| networks.iter().any(|network| network.has(text.parse().expect("an address")));
        for text in inside {
            assert!(is_inside(text), "{text}: {networks:?}");
        }
        for text in outside {
            assert!(!is_inside(text), "{text}: {networks:?}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_site_on_public_ipv4_addresses_is_inside() {
        // 203.0.112.0/22 is connected, 9.9.9.9/32 goes through a router, 128.0.0.0/1 into a tunnel, 8.8.8.0/24 is refused.
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t017000CB\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t007000CB\t00000000\t0001\t0\t0\t0\t00FCFFFF\t0\t0\t0\n\
            eth0\t09090909\t017000CB\t0007\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n\
            tun0\t00000080\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n\
            *\t00080808\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let inside = ["203.0.112.1", "203.0.115.255"];
        judge(connected_v4(routes), &inside, &["203.0.116.1", "9.9.9.9", "129.0.0.1", "8.8.8.8", "2a01:e0a::1"]);
    }

    #[test]
    fn the_machine_s_own_ipv4_address_is_inside_also_without_a_network() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\nLocal:\n  \
            +-- 51.15.0.0/16 2 0 1\n     |-- 51.15.7.9\n        /32 host LOCAL\n     |-- 51.15.7.255\n        \
            /32 link BROADCAST\n";
        judge(local_v4(table), &["51.15.7.9"], &["51.15.7.8", "51.15.7.255", "0.0.0.0"]);
    }

    #[test]
    fn a_site_on_global_ipv6_addresses_is_inside() {
        let table = "20010bc8000100020000000000000009 02 40 00 80 eth0\n\
            00000000000000000000000000000001 01 80 10 80 lo\n\
            2a010e0a000000000000000000000001 03 03 00 80 tun0\n";
        let outside = ["2001:bc8:1:3::1", "2a01:e0b::1", "203.0.112.1"];
        judge(connected_v6(table), &["2001:bc8:1:2::1", "2001:bc8:1:2:ffff::", "::1"], &outside);
    }

    #[test]
    fn tables_that_are_none_name_no_network() {
        for text in ["", "\n\n", "x y z", "eth0\tgg\t00\t01\n", "|-- 1.2.3\n /32 host LOCAL"] {
            let all = connected_v4(text).chain(local_v4(text)).chain(connected_v6(text));
            assert_eq!(all.collect::<Vec<_>>(), []);
        }
    }

    #[test]
    fn this_machine_knows_itself() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()), "the loopback network is in the kernel's tables");
    }
}
