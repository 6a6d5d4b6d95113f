//! The connections that this host tracks, as `/proc/net/nf_conntrack` lists them.
//!
//! *Does*: reads lines. *Trusts*: the kernel, which writes them; a line of another form is left out.
//!
//! Format: `ct_seq_show`, net/netfilter/nf_conntrack_standalone.c, Linux 5.10 to 7.2.

use lynceus_policy::Lane;
use std::net::{IpAddr, SocketAddr};

/// Where the kernel lists them.
pub const LIST: &str = "/proc/net/nf_conntrack";
/// Whether it counts their packets.
pub const COUNTS: &str = "/proc/sys/net/netfilter/nf_conntrack_acct";
/// More connections than any kernel is set to track by default.
const MAX_LINES: usize = 1 << 21;

/// One way of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Who sends.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// Packets so far; none where they are not counted.
    pub packets: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
}

/// A TCP or UDP connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracked {
    /// TCP or UDP.
    pub lane: Lane,
    /// TCP's state, as the tracker names it; empty for UDP.
    pub state: String,
    /// As its first packet went.
    pub original: Way,
    /// As answers go, behind all translation.
    pub reply: Way,
}

/// Every TCP and UDP connection of a listing.
pub fn parse(listing: &str) -> Vec<Tracked> {
    listing.lines().take(MAX_LINES).filter_map(line).collect()
}

fn line(line: &str) -> Option<Tracked> {
    let mut words = line.split_ascii_whitespace().skip(2);
    let lane = match words.next()? {
        "tcp" => Lane::Tcp,
        "udp" => Lane::Udp,
        _ => return None,
    };
    let rest: Vec<&str> = words.skip(2).collect();
    let state = rest.first().filter(|word| !word.contains('=')).copied().unwrap_or_default().to_owned();
    let second = rest.iter().rposition(|word| word.starts_with("src="))?;
    let (original, reply) = rest.split_at_checked(second)?;
    Some(Tracked { lane, state, original: way(original)?, reply: way(reply)? })
}

fn way(words: &[&str]) -> Option<Way> {
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let end = |address, port| {
        Some(SocketAddr::new(value(address)?.parse::<IpAddr>().ok()?, value(port)?.parse().ok()?))
    };
    let count = |key| value(key).and_then(|count| count.parse().ok());
    Some(Way {
        source: end("src", "sport")?,
        destination: end("dst", "dport")?,
        packets: count("packets"),
        bytes: count("bytes"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.1.2 dst=192.0.2.1 sport=40000 dport=443 packets=7 bytes=900 src=192.0.2.1 dst=198.51.100.1 sport=443 dport=40000 packets=5 bytes=4000 [ASSURED] mark=1275068417 zone=0 use=2
ipv6     10 udp      17 29 src=fd00:1::2 dst=2001:db8::1 sport=5353 dport=53 [UNREPLIED] src=2001:db8::1 dst=fd00:1::2 sport=53 dport=5353 mark=0 use=2
ipv4     2 icmp     1 29 src=10.0.1.2 dst=192.0.2.1 type=8 code=0 id=3 src=192.0.2.1 dst=10.0.1.2 type=0 code=0 id=3 mark=0 use=2
";

    #[test]
    fn both_ways_of_a_connection_are_read() {
        let all = parse(LISTING);
        let [tcp, udp] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((tcp.lane, tcp.state.as_str()), (Lane::Tcp, "ESTABLISHED"));
        assert_eq!(tcp.original.source, "10.0.1.2:40000".parse().unwrap());
        assert_eq!((tcp.original.packets, tcp.reply.bytes), (Some(7), Some(4000)));
        assert_eq!(tcp.reply.destination, "198.51.100.1:40000".parse().unwrap());
        assert_eq!((udp.lane, udp.state.as_str(), udp.original.packets), (Lane::Udp, "", None));
        assert_eq!(udp.reply.source, "[2001:db8::1]:53".parse().unwrap());
    }

    #[test]
    fn what_is_cut_off_is_left_out_and_breaks_nothing() {
        let first = LISTING.lines().next().unwrap();
        for end in 0..first.len() {
            assert!(parse(&first[..end]).len() <= 1);
        }
        assert!(parse("\n\nipv4\nipv4 2 tcp\nipv4 2 tcp 6 9 src=x src=y").is_empty());
    }
}
