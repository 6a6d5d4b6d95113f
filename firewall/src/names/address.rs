//! Which addresses a DNS server may put into the rules.
//!
//! *Never*: lets a name stand for this host, its links, or everybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether no machine elsewhere can have it: the host itself, a link, a group, nobody. A name never stands for it.
pub fn is_nobodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            v4.is_loopback() || v4.is_link_local() || first == 0 || first >= 224
        }
        IpAddr::V6(v6) => {
            // Also those that stand for an IPv4 address within one host (::/8), which no card sends to.
            let [first, ..] = v6.octets();
            first == 0 && !is_translated(v6)
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || inside(v6).is_some_and(|v4| is_nobodys(v4.into()))
        }
    }
}

/// Whether it is one that sites give out themselves (RFC 1918, 4193, 6598): whoever answers for a name elsewhere has no business there.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_private() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => {
            // fec0::/10 is what fc00::/7 replaced.
            let is_site = v6.is_unique_local() || v6.segments()[0] & 0xffc0 == 0xfec0;
            is_site || inside(v6).is_some_and(|v4| is_private(v4.into()))
        }
    }
}

/// 64:ff9b::/96, RFC 6052.
fn is_translated(v6: Ipv6Addr) -> bool {
    let [a, b, rest @ .., _, _] = v6.segments();
    (a, b) == (0x64, 0xff9b) && rest == [0; 4]
}

/// The IPv4 address to which packets for it come out: of NAT64 and of 6to4 (2002::/16).
fn inside(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |[high, low]: [u16; 2]| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match v6.segments() {
        [.., high, low] if is_translated(v6) => Some(of([high, low])),
        [0x2002, high, low, ..] => Some(of([high, low])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sorted() {
        let nobodys = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.53",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "fe80::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ];
        let private = [
            "10.0.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd00::1",
            "fec0::1",
            "64:ff9b::a00:1",
            "2002:c0a8:101::1",
        ];
        let open = ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606::1", "64:ff9b::101:101", "2002:101:101::1"];
        let parse = |text: &&str| text.parse::<IpAddr>().unwrap();
        assert!(nobodys.iter().map(parse).all(is_nobodys));
        assert!(private.iter().map(parse).all(|address| is_private(address) && !is_nobodys(address)));
        assert!(open.iter().map(parse).all(|address| !is_private(address) && !is_nobodys(address)));
    }
}
