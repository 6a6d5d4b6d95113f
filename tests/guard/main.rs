//! The firewall by real packets: network namespaces as VMs, this machine's kernel as the host.
//!
//! Everything goes through the program and is seen from the outside: `lynceus policy apply` in the host's namespace, connections tried
//! and frames sent in the others'. They need root, nft and ip; `cargo xtask test` sees to that.

mod appliance;
mod bridge;
mod enforcer;
mod evasions;
mod flows;
mod held;
mod names;
mod pains;
mod processes;
#[path = "../../firewall/tests/random/mod.rs"]
mod random;
mod shipped;
mod spoofing;
mod status;
mod trust;
mod truth;
mod world;
