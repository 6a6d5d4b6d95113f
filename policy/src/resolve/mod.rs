//! From what the files say to what holds for each VM.
//!
//! *Does*: looks up every name, turns groups into addresses, fills templates, follows `extends`, and puts the tiers together.
//! *Trusts*: the files. *Never*: leaves a name, a rule or a key out in silence: what cannot be understood is an error with its place.

mod look;
mod names;
mod rules;
mod tests;
mod vms;

pub use tests::{End, Test};

use crate::error::{ErrorKind, Errors, LoadError};
use crate::lint::{Level, Lint};
use crate::load::{Entry, Folder};
use crate::model::{ChainDefault, Vm, VmPolicy};
use crate::net::{AddressSet, IpRange};
use crate::place::{At, FileId, Place};
use crate::service::ServiceSet;
use crate::syntax::{AddressEntry, Direction, ServiceEntry, Verdict};
use rules::Drafts;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The policy that `lynceus isolate` swaps in.
pub const ISOLATE: &str = "isolate";

/// A host's whole policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// One policy per VM of the inventory, by name.
    pub vms: BTreeMap<String, VmPolicy>,
    /// What each VM must be able to do.
    pub tests: Vec<Test>,
    /// From where, and for what, every VM must be reachable.
    pub management: Option<Management>,
    /// What is no error, and still worth a look.
    pub lints: Vec<Lint>,
    /// How many files it was made of.
    pub files: usize,
    isolation: Isolation,
}

/// From where, and for what, every VM must be reachable.
#[derive(Clone, Debug)]
pub struct Management {
    /// Where it stands.
    pub place: Place,
    /// From where.
    pub peers: AddressSet,
    /// For what.
    pub services: ServiceSet,
}

#[derive(Clone, Debug, Default)]
struct Isolation {
    drafts: Drafts,
    policy: Option<String>,
}

impl Policy {
    /// Reads and resolves a folder.
    pub fn load(path: &Path) -> Result<Policy, LoadError> {
        Policy::of(&Folder::load(path)?)
    }

    /// Resolves what the files say.
    pub fn of(folder: &Folder) -> Result<Policy, LoadError> {
        let mut resolver = Resolver::new(folder);
        resolver.vms = vms::all(&mut resolver);
        resolver.services = names::services(&mut resolver);
        resolver.groups = names::groups(&mut resolver);
        resolver.addresses = names::addresses(&mut resolver);
        let drafts = rules::all(&mut resolver);
        let vms = vms::policies(&mut resolver, &drafts);
        let tests = tests::all(&mut resolver);
        let management = management(&mut resolver);
        names::unused(&mut resolver);
        let mut lints = resolver.lints;
        lints.sort_by(|one, other| (&one.place, one.code).cmp(&(&other.place, other.code)));
        let isolation = Isolation {
            policy: folder.policies.contains_key(ISOLATE).then(|| ISOLATE.to_owned()),
            drafts: drafts.get(ISOLATE).cloned().unwrap_or_default(),
        };
        let files = folder.sources.names().count();
        resolver.errors.or(Policy { vms, tests, management, lints, files, isolation })
    }

    /// What holds for a VM while it is isolated: the rules of the policy `isolate`, where there is one, and nothing else.
    pub fn isolated(&self, vm: &VmPolicy) -> VmPolicy {
        let chain = |direction| {
            let mut chain = vms::empty_chain();
            vms::append(&mut chain, direction, &self.isolation.drafts);
            chain.default = ChainDefault {
                verdict: Verdict::Deny,
                audit: false,
                log: true,
                policy: self.isolation.policy.clone(),
                tier: None,
            };
            chain
        };
        VmPolicy {
            policies: vec![ISOLATE.to_owned()],
            inbound: chain(Direction::In),
            outbound: chain(Direction::Out),
            ..vm.clone()
        }
    }
}

/// What is known while names are being looked up.
struct Resolver<'a> {
    folder: &'a Folder,
    errors: Errors,
    lints: Vec<Lint>,
    vms: BTreeMap<String, Vm>,
    /// The names of each group's VMs.
    groups: BTreeMap<String, BTreeSet<String>>,
    addresses: BTreeMap<String, AddressSet>,
    services: BTreeMap<String, ServiceSet>,
    /// What was looked up: kind and name.
    used: BTreeSet<(&'static str, String)>,
}

impl<'a> Resolver<'a> {
    fn new(folder: &'a Folder) -> Resolver<'a> {
        Resolver {
            folder,
            errors: Errors::default(),
            lints: Vec::new(),
            vms: BTreeMap::new(),
            groups: BTreeMap::new(),
            addresses: BTreeMap::new(),
            services: BTreeMap::new(),
            used: BTreeSet::new(),
        }
    }

    fn wrong<T>(&mut self, file: FileId, at: &At<T>, kind: ErrorKind) {
        let place = self.folder.place(file, at.span());
        self.errors.push(place, kind);
    }

    fn lint(&mut self, code: &'static str, level: Level, place: Place, message: String) {
        self.lints.push(Lint { code, level, place, message });
    }

    /// Parses a text; what is wrong with it is told and gives nothing.
    fn parse<T: std::str::FromStr>(
        &mut self,
        file: FileId,
        text: &At<String>,
        expected: &'static str,
    ) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let parsed = text.get().parse();
        self.understood(file, text, expected, parsed)
    }

    /// What was understood of a text; what is wrong with it is told and gives nothing.
    fn understood<T, E: std::fmt::Display>(
        &mut self,
        file: FileId,
        text: &At<String>,
        expected: &'static str,
        parsed: Result<T, E>,
    ) -> Option<T> {
        parsed
            .map_err(|why| {
                let value = text.get().chars().take(80).collect();
                self.wrong(file, text, ErrorKind::Value { value, expected, why: why.to_string() });
            })
            .ok()
    }

    /// Tells of a name that nothing has.
    fn unknown<'n>(
        &mut self,
        file: FileId,
        name: &At<String>,
        kind: &'static str,
        known: impl IntoIterator<Item = &'n str>,
    ) {
        let hint = crate::suggest::hint(name.get(), known);
        self.wrong(file, name, ErrorKind::Unknown { kind, name: name.get().clone(), hint });
    }

    /// A list of addresses, networks, ranges, `@sets` and `any`.
    fn address_list(&mut self, file: FileId, list: &[At<String>]) -> AddressSet {
        let mut ranges = Vec::new();
        for text in list {
            let text_of = text.get();
            if text_of == "any" {
                ranges.extend(AddressSet::everything().ranges().iter().copied());
            } else if let Some(name) = text_of.strip_prefix('@') {
                match self.addresses.get(name) {
                    Some(set) => ranges.extend(set.ranges().iter().copied()),
                    None => {
                        let folder = self.folder;
                        let known = folder.addresses.keys().map(String::as_str);
                        self.unknown(file, &text.with(name.to_owned()), "address set", known);
                    }
                }
                self.used.insert(("address set", name.to_owned()));
            } else {
                ranges.extend(self.parse::<IpRange>(file, text, "address"));
            }
        }
        ranges.into_iter().collect()
    }

    /// A list of services and `@sets`.
    fn service_list(&mut self, file: FileId, list: &[At<String>]) -> ServiceSet {
        let mut ranges = Vec::new();
        for text in list {
            if let Some(name) = text.get().strip_prefix('@') {
                match self.services.get(name) {
                    Some(set) => ranges.extend(set.ranges().iter().copied()),
                    None => {
                        let folder = self.folder;
                        let known = folder.services.keys().map(String::as_str);
                        self.unknown(file, &text.with(name.to_owned()), "service set", known);
                    }
                }
                self.used.insert(("service set", name.to_owned()));
            } else {
                let parsed = crate::service::parse(text.get());
                ranges.extend(self.understood(file, text, "service", parsed).into_iter().flatten());
            }
        }
        ranges.into_iter().collect()
    }
}

fn management(resolver: &mut Resolver<'_>) -> Option<Management> {
    let site: &Entry<_> = resolver.folder.site.as_ref()?;
    let at = site.get().management.as_ref()?;
    let peers = resolver.address_list(site.file, &at.get().addresses);
    let services = resolver.service_list(site.file, &at.get().services);
    Some(Management { place: resolver.folder.place(site.file, at.span()), peers, services })
}

/// The lists inside a set of addresses or services, so that both can be put in order by what they include.
trait Members {
    fn lists(&self) -> Vec<&[At<String>]>;
}

impl Members for AddressEntry {
    fn lists(&self) -> Vec<&[At<String>]> {
        vec![&self.members, &self.except]
    }
}

impl Members for ServiceEntry {
    fn lists(&self) -> Vec<&[At<String>]> {
        vec![&self.members]
    }
}
