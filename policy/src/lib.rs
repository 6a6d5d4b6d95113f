//! Policy files: syntax, validation, selectors, inheritance and tests, resolved to one [`VmPolicy`] per VM.
//!
//! One policy covers both halves of Lynceus: what to look for in a guest, and what its network may do.
//! This crate depends on nothing else in the workspace, so that a policy can be checked anywhere.
//!
//! ```
//! use lynceus_policy::{Folder, Policy};
//!
//! let text = r#"
//!     [vm.web-1]
//!     labels = { role = "web" }
//!     [[vm.web-1.interface]]
//!     mac = "52:54:00:00:00:01"
//!     addresses = ["10.0.0.1", "fd00::1"]
//!
//!     [policy.web]
//!     select = 'role == "web"'
//!     [[policy.web.rule]]
//!     direction = "in"
//!     action = "allow"
//!     services = ["tcp/443"]
//! "#;
//! let policy = Policy::of(&Folder::parse(vec![("web.toml".to_owned(), text.to_owned())])?)?;
//! assert_eq!(policy.vms["web-1"].inbound.rules().count(), 1);
//! # Ok::<(), lynceus_policy::LoadError>(())
//! ```
//!
//! *Trusts*: the folder that it is given. *Never*: skips a rule in silence, asks the network, or reads outside of that folder.

pub mod bundle;
mod error;
mod graph;
mod lint;
mod load;
mod model;
mod net;
mod place;
mod resolve;
mod selector;
pub mod service;
mod suggest;
pub mod syntax;
mod when;
mod words;

pub use error::{ErrorKind, Errors, LoadError, ParseError, PolicyError};
pub use lint::{Level, Lint};
pub use load::{Folder, MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES, from_toml, read_files};
pub use model::{Chain, ChainDefault, FORMAT, Interface, Look, Mac, Rule, TierRules, Vm, VmPolicy};
pub use net::{AddressSet, Family, IpRange};
pub use place::{Place, Sources};
pub use resolve::{End, ISOLATE, Management, Policy, Test};
pub use selector::{Selector, Subject};
pub use service::{Lane, ServiceRange, ServiceSet};
pub use syntax::{Action, Direction, ProcessEntry, Tier, Verdict};
pub use when::{Closed, Hours, Per, Rate, Schedule, Timestamp};
