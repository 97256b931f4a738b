//! Which addresses a fetch may connect to. Whoever names a source must not reach the inside of the site through us.
//!
//! Checked where the connection is made: names are resolved here and only public addresses are handed on, so what was
//! checked is what is connected to; addresses written in a URL are looked at before the request and at each redirect.
//! Deliberately absent: who may reach what (`Reach` comes with the request), and what lies behind a proxy, which
//! resolves names by itself: there its own rules decide.
//! INVARIANT: no refusal tells an address or a setting that whoever asked did not write.

mod own;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// A place inside the site, or on this machine, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{host}` is not on the public internet")]
pub(super) struct PrivateAddress {
    host: String,
}

/// Lets connections through to public addresses and to the places that the operator's own settings name.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    trusted: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    host: String,
    port: Option<u16>,
}

impl Guard {
    pub(super) fn new<'a>(trusted: impl IntoIterator<Item = &'a str>) -> Arc<Self> {
        let trusted = trusted.into_iter().filter_map(|text| Url::parse(text).ok()).map(|url| Place::of(&url));
        Arc::new(Self { trusted: trusted.collect() })
    }

    /// Refuses an address written in the URL. Names are judged when they are resolved.
    pub(super) fn check(&self, url: &Url) -> Result<(), PrivateAddress> {
        let place = Place::of(url);
        if self.trusted.contains(&place) {
            return Ok(());
        }
        if let Ok(address) = place.host.parse::<IpAddr>() {
            return if is_outside(address) { Ok(()) } else { Err(PrivateAddress { host: place.host }) };
        }
        // The resolver knows no ports: another port of a trusted host must not pass as that host.
        if self.trusted.iter().any(|trusted| trusted.host == place.host) {
            tracing::info!(
                host = place.host,
                port = place.port,
                "a fetch from another port of a trusted host is refused"
            );
            return Err(PrivateAddress { host: place.host });
        }
        Ok(())
    }

    fn trusts(&self, host: &str) -> bool {
        self.trusted.iter().any(|trusted| trusted.host.eq_ignore_ascii_case(host))
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let is_trusted = self.trusts(&host);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.iter().copied().filter(|found| is_trusted || is_outside(found.ip())).collect();
            match found.first() {
                Some(first) if allowed.is_empty() => {
                    tracing::info!(host, address = %first.ip(), "a fetch from inside the site is refused");
                    Err(PrivateAddress { host }.into())
                }
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

impl Place {
    fn of(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        Self { host: host.to_ascii_lowercase(), port: url.port_or_known_default() }
    }
}

/// The refusal among the causes of an error, if it was one.
pub(super) fn refused(error: &reqwest::Error) -> Option<&PrivateAddress> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<PrivateAddress>() {
            return Some(refused);
        }
        cause = inner.source();
    }
    None
}

/// Whether an address is one of the public internet and not of this machine or its neighbours.
fn is_outside(address: IpAddr) -> bool {
    is_public(address) && !own::is_own(address.to_canonical())
}

/// Whether an address belongs to the public internet (IANA's special-purpose registries; what they reserve is inside).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let is_reserved = matches!((a, b, c), (0 | 240..=255, ..) | (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _));
    !(is_reserved
        || v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || v4.is_multicast())
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [a, b, ..] = v6.segments();
    // 2000::/3 is all that is given out; of it, protocol assignments (Teredo among them) and documentation are not.
    let is_global_unicast = a & 0xe000 == 0x2000;
    is_global_unicast && !(a == 0x2001 && (b < 0x0200 || b == 0x0db8)) && a & 0xfff0 != 0x3ff0
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, NAT64, 6to4.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_told_from_public_ones() {
        for inside in [
            "127.0.0.1",
            "127.8.8.8",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(inside.parse().expect(inside)), "{inside}");
        }
        for public in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "2a01:e0a::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(public.parse().expect(public)), "{public}");
        }
    }

    #[test]
    fn odd_spellings_of_an_address_are_read_as_browsers_read_them() {
        let guard = Guard::new([]);
        for text in
            ["https://2130706433/x", "https://0x7f.1/x", "https://127.1/x", "https://[::ffff:7f00:1]/x", "https://0/x"]
        {
            assert!(guard.check(&Url::parse(text).expect(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_place_of_the_settings_is_trusted_and_only_there() {
        let guard = Guard::new(["https://Mirror.lan:8443/hub", "http://10.0.0.7:3000"]);
        let check = |text: &str| guard.check(&Url::parse(text).expect(text));
        assert_eq!(check("https://mirror.lan:8443/a"), Ok(()));
        assert_eq!(check("http://10.0.0.7:3000/a"), Ok(()));
        assert!(check("https://mirror.lan/a").is_err() && check("http://10.0.0.7:22/a").is_err());
        assert_eq!(check("https://elsewhere.example/a"), Ok(()), "its name is judged when it is resolved");
    }

    #[tokio::test]
    async fn a_name_of_this_machine_does_not_resolve_for_outsiders() {
        let resolve =
            async |guard: &Guard| guard.resolve("localhost".parse().expect("a name")).await.map(|found| found.count());
        let refused = resolve(&Guard::new([])).await.expect_err("loopback");
        let told = refused.downcast_ref::<PrivateAddress>().expect("a refusal").to_string();
        assert_eq!(told, "`localhost` is not on the public internet", "where it leads is for the log only");
        assert!(resolve(&Guard::new(["http://localhost:1"])).await.expect("trusted") > 0);
    }
}
