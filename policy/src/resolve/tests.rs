//! The tests inside the policy files, understood. They are run by the firewall's evaluator.

use super::Resolver;
use crate::place::Place;
use crate::service::ServiceRange;
use crate::syntax::{ProcessEntry, Verdict};
use crate::when::Timestamp;
use std::fmt;
use std::net::IpAddr;

/// One end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// A VM of the inventory: all its addresses.
    Vm(String),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Vm(name) => f.write_str(name),
            End::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A connection, and what must happen to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Test {
    /// Where it stands.
    pub place: Place,
    /// Its name.
    pub name: Option<String>,
    /// Who connects.
    pub from: End,
    /// To whom.
    pub to: End,
    /// For what; one range for each protocol that the text stands for.
    pub services: Vec<ServiceRange>,
    /// As it stands in the file.
    pub service: String,
    /// When; now without it.
    pub at: Option<Timestamp>,
    /// Which process is behind it; without one nobody has looked.
    pub process: Option<ProcessEntry>,
    /// What must happen.
    pub expect: Verdict,
}

/// All of them.
pub(super) fn all(resolver: &mut Resolver<'_>) -> Vec<Test> {
    let folder = resolver.folder;
    folder
        .tests
        .iter()
        .filter_map(|entry| {
            let (file, test) = (entry.file, entry.get());
            let mut end = |text: &crate::place::At<String>| match text.get().parse::<IpAddr>() {
                Ok(address) => Some(End::Address(address)),
                Err(_) if folder.vms.contains_key(text.get()) => Some(End::Vm(text.get().clone())),
                Err(_) => {
                    resolver.unknown(file, text, "VM or address", folder.vms.keys().map(String::as_str));
                    None
                }
            };
            let (from, to) = (end(&test.from), end(&test.to));
            let parsed = crate::service::parse(test.service.get());
            let services = resolver.understood(file, &test.service, "service", parsed);
            let at = test.at.as_ref().and_then(|at| {
                let parsed = Timestamp::of(at.get());
                resolver.understood(file, &at.with(at.get().to_string()), "time", parsed)
            });
            Some(Test {
                place: folder.place_of(entry),
                name: test.name.clone(),
                from: from?,
                to: to?,
                services: services?,
                service: test.service.get().clone(),
                at,
                process: test.process.as_ref().map(|process| process.get().clone()),
                expect: test.expect,
            })
        })
        .collect()
}
