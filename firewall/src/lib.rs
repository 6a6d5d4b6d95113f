//! From a resolved policy to the rules on a VM's interface: a pure compiler, a reference evaluator, and the one
//! place that talks to nftables.
//!
//! It is empty so far: the firewall work fills it.
//!
//! *Trusts*: the resolved policy. *Never*: keys a rule on what the guest claims (its MAC, its IP, its hostname).
