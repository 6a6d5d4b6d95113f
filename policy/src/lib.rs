//! Policy files: syntax, validation, selectors, inheritance and tests, resolved to one `VmPolicy` per VM.
//!
//! One policy covers both halves of Lynceus: what to look for in a guest, and what its network may do.
//! This crate depends on nothing else in the workspace, so that a policy can be checked anywhere.
//!
//! It is empty so far: the firewall work fills it.
//!
//! *Trusts*: a bundle whose signature it has checked. *Never*: skips a rule in silence.
