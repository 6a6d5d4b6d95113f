//! Names while they are enforced: looked up again when their TTL is over, beside everything else.
//!
//! *Never*: waits for a server, or lets go of an address because one does not answer ([`lynceus_firewall::names`] says for how long).

use super::names;
use anyhow::{Context, Result};
use lynceus_firewall::names::{Book, Found, Lookups, Question};
use lynceus_firewall::state::{FileStamp, State, Store};
use lynceus_policy::Timestamp;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often addresses go that names no longer stand for.
const SWEEP: Duration = Duration::from_secs(5);
/// How often what names stand for is kept on disk where it only stands for it longer.
const KEEP: Duration = Duration::from_secs(60);

/// Names that are followed.
pub(super) struct Followed {
    lookups: Lookups,
    book: Book,
    /// The book on disk when it was last read or written.
    stamp: FileStamp,
    /// What servers are being asked.
    asked: BTreeSet<Question>,
    swept: Instant,
    kept: Instant,
    /// Whether the book on disk is older.
    is_newer: bool,
    /// What was told last.
    troubles: Vec<String>,
}

impl Followed {
    /// Begins; what servers answer is given to `tell`, whenever it comes.
    pub(super) fn start(tell: impl Fn(Found) -> bool + Clone + Send + 'static) -> Result<Followed> {
        let lookups = Lookups::start(tell).context("no thread for names")?;
        let now = Instant::now();
        Ok(Followed {
            lookups,
            book: Book::default(),
            stamp: None,
            asked: BTreeSet::new(),
            swept: now,
            kept: now,
            is_newer: false,
            troubles: Vec::new(),
        })
    }

    /// Takes what servers answered, asks what is due, and puts what names stand for into the state. What is wrong with names, if that is
    /// another than the last time.
    pub(super) fn follow(
        &mut self,
        store: &Store,
        found: Vec<Found>,
        state: &mut State,
    ) -> Option<Vec<String>> {
        let now = Timestamp::now();
        // Somebody else applied a policy, and looked its names up.
        let is_other = self.stamp != store.names_stamp();
        if is_other {
            self.book = store.names().unwrap_or_default();
            self.stamp = store.names_stamp();
        }
        self.book.fit(&names::of(state.wanted()), &state.names, now);
        self.is_newer |= !found.is_empty();
        let mut is_news = is_other || !found.is_empty();
        for (question, found) in found {
            self.asked.remove(&question);
            self.book.hear(&question, found, now);
        }
        for (question, again) in self.book.due(now, false) {
            if self.asked.insert(question.clone()) {
                self.lookups.ask(question, again);
            }
        }
        if self.swept.elapsed() >= SWEEP {
            self.swept = Instant::now();
            self.book.sweep(now, &mut names::in_use());
        }
        let standing = self.book.names();
        let is_changed = standing != state.names;
        state.names = standing;
        is_news |= is_changed;
        let kept = self.keep(store, is_changed);
        if !is_news && kept.is_ok() {
            return None;
        }
        let mut troubles = self.book.troubles();
        troubles.extend(names::private(state.wanted(), &state.names));
        troubles.extend(kept.err().map(|error| format!("{error:#}")));
        (troubles != self.troubles).then(|| {
            self.troubles.clone_from(&troubles);
            troubles
        })
    }

    fn keep(&mut self, store: &Store, is_changed: bool) -> Result<()> {
        if is_changed || self.is_newer && self.kept.elapsed() >= KEEP {
            store.keep_names(&self.book)?;
            self.stamp = store.names_stamp();
            (self.kept, self.is_newer) = (Instant::now(), false);
        }
        Ok(())
    }
}
