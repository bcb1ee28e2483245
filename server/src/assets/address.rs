//! Which hosts and addresses may be fetched from. A fetch is made by the server, from inside of its network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is one of the public internet.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Carriers' own, tests of devices, protocol assignments.
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (18..20).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        // What a large cloud's machines are served from by their host, credentials included.
        || address == Ipv4Addr::new(168, 63, 129, 16);
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // Only 2000::/3 is given out for the internet; of that some lead to IPv4 addresses, whatever those are.
    let tunnel = first == 0x2002 || (first == 0x2001 && second < 0x0200);
    let documentation = (first == 0x2001 && second == 0x0db8) || first & 0xfff0 == 0x3ff0;
    first & 0xe000 == 0x2000 && !tunnel && !documentation
}

/// Whether a host is one of those that a list allows: names as they are, or `*.NAME` for everything below it.
pub(crate) fn is_allowed(host: &str, list: &[String]) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    list.iter().any(|item| match item.strip_prefix("*.") {
        Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
        None => host == *item,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ast_20_only_public_addresses_are_public() {
        for address in ["1.1.1.1", "8.8.8.8", "172.15.0.1", "2606:4700::1111", "2a00::1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::a00:1",
            "2001:db8::1",
            "2002:a00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn lists_name_hosts_and_domains() {
        let list = ["example.com".to_owned(), "*.example.org".to_owned()];
        for host in ["example.com", "EXAMPLE.com", "example.com.", "a.example.org", "a.b.example.org"] {
            assert!(is_allowed(host, &list), "{host}");
        }
        for host in ["a.example.com", "example.org", "evilexample.org", "example.com.evil.net", ""] {
            assert!(!is_allowed(host, &list), "{host}");
        }
    }
}
