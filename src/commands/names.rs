//! Names in policies, for those who enforce them: what they stand for, from the book on disk and from servers.
//!
//! *Never*: asks a server while the state is locked, or has anybody wait longer than it was told to.

use anyhow::{Context, Result};
use lynceus_firewall::conntrack::{self, Tracked};
use lynceus_firewall::names::{Book, Found, Lookups};
use lynceus_firewall::state::{self, State, Store};
use lynceus_firewall::{Names, withheld};
use lynceus_policy::{Timestamp, VmPolicy};
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// So many troubles are told by name.
const MAX_TOLD: usize = 20;

/// What servers said, and what was asked in vain.
#[derive(Default)]
pub(super) struct Looked {
    found: Vec<Found>,
    late: BTreeSet<String>,
}

/// All names of some policies.
pub(super) fn of<'a>(policies: impl IntoIterator<Item = &'a VmPolicy>) -> BTreeSet<String> {
    let rules = policies.into_iter().flat_map(VmPolicy::rules);
    rules.flat_map(|rule| rule.names.iter().cloned()).collect()
}

impl Looked {
    /// Looks up what is not known or no longer holds; what has no answer by then is late.
    pub(super) fn up(names: &BTreeSet<String>, folder: &Path, wait: Duration) -> Result<Looked> {
        if names.is_empty() {
            return Ok(Looked::default());
        }
        let now = Timestamp::now();
        let mut book = state::names(folder).unwrap_or_default();
        book.fit(names, &Names::new(), now);
        let due = book.due(now, true);
        let mut late: BTreeSet<_> = due.iter().map(|(question, _)| question.clone()).collect();
        let found = Lookups::all(due, wait).context("no thread for names")?;
        found.iter().for_each(|(question, _)| {
            late.remove(question);
        });
        Ok(Looked { found, late: late.into_iter().map(|question| question.name).collect() })
    }

    /// Writes it into the book of the state, as it is now. What stays to be told is told by the second.
    pub(super) fn into_book(
        self,
        store: &Store,
        names: &BTreeSet<String>,
        old: Option<&State>,
    ) -> (Book, Vec<String>) {
        let now = Timestamp::now();
        let mut book = store.names().unwrap_or_default();
        book.fit(names, old.map_or(&Names::new(), |old| &old.names), now);
        self.found.into_iter().for_each(|(question, found)| book.hear(&question, found, now));
        book.sweep(now, &mut in_use());
        let late = self.late.into_iter().map(|name| format!("{name}: not looked up in time"));
        let told = book.troubles().into_iter().chain(late).collect();
        (book, told)
    }
}

/// Rules whose names stand for private addresses that they do not take.
pub(super) fn private<'a>(policies: impl IntoIterator<Item = &'a VmPolicy>, names: &Names) -> Vec<String> {
    let mut found = BTreeSet::new();
    for rule in policies.into_iter().flat_map(VmPolicy::rules) {
        let tell = |(name, address)| {
            format!("{name} stands for {address}, and rule `{}` lacks `private = true`", rule.id)
        };
        found.extend(withheld(rule, names).map(tell));
    }
    found.into_iter().collect()
}

/// Troubles in one line; of very many only the first.
pub(super) fn joined(troubles: &[String]) -> String {
    let shown = troubles.iter().take(MAX_TOLD).map(String::as_str).collect::<Vec<_>>().join("; ");
    match troubles.len().checked_sub(MAX_TOLD) {
        Some(more @ 1..) => format!("{shown}; and {more} more"),
        _ => shown,
    }
}

/// Whether a connection with an address is open on this host. Where the kernel does not list connections any may be.
pub(super) fn in_use() -> impl FnMut(IpAddr) -> bool {
    let mut open: Option<Option<HashSet<IpAddr>>> = None;
    move |address| {
        let open = open.get_or_insert_with(|| Some(ends(&std::fs::read_to_string(conntrack::LIST).ok()?)));
        open.as_ref().is_none_or(|ends| ends.contains(&address))
    }
}

fn ends(listing: &str) -> HashSet<IpAddr> {
    let is_open = |tracked: &Tracked| !matches!(&*tracked.state, "TIME_WAIT" | "CLOSE");
    let ends = |tracked: Tracked| {
        [tracked.original, tracked.reply].map(|way| [way.source.ip(), way.destination.ip()])
    };
    conntrack::parse(listing).into_iter().filter(is_open).flat_map(ends).flatten().collect()
}
