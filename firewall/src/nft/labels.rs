//! What a VM's chains, counters and limits are called in the kernel.

use super::model::Limit;
use lynceus_policy::Direction;

/// The chain where a VM's rules of one direction begin.
pub(super) fn entry(vm: &str, direction: Direction) -> String {
    short(&format!("vm-{vm}-{}", direction.name()))
}

/// The name of a rule's counter.
pub fn counter(vm: &str, direction: Direction, rule: &str) -> String {
    short(&format!("vm-{vm}-{}/{rule}", direction.name()))
}

/// The name of a default's counter.
pub fn default_counter(vm: &str, direction: Direction) -> String {
    counter(vm, direction, "default")
}

/// nft's names have at most 255 bytes. A longer one ends in a digest of all of it.
pub(super) fn short(name: &str) -> String {
    const LONGEST: usize = 200;
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let start: String = name.chars().take(LONGEST).collect();
    format!("{start}--{:016x}", digest(name.as_bytes()))
}

/// FNV-1a, 64 bits: apart are kept what an admin wrote and what stood there before, not what an attacker chooses.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The name of the limit of a rule with a counter of this name.
pub(super) fn limit(counter: &str, limit: &Limit) -> String {
    format!("{counter}.{}-{}-{}", limit.rate, limit.per, limit.burst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_different() {
        let long = |end: &str| counter("vm", Direction::In, &format!("{}{end}", "x".repeat(300)));
        assert_ne!(long("a"), long("b"));
        assert!(long("a").len() < 255);
    }
}
