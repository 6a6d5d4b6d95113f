//! What names stand for, for how long, and when to ask again: a state machine that is given the time.
//!
//! *Does*: holds each address as long as its TTL and the limits of [`super`] say. *Never*: lets go of the addresses of one name because of
//! another, or of those of one family because the other's look-up failed.

use super::message::Answer;
use super::resolver::Failure;
use super::{IN_USE_S, KEEP_S, LINGER_S, MAX_KEPT, MAX_TTL_S, MIN_TTL_S, Question, RETRY_MAX_S, RETRY_S};
use crate::evaluate::Names;
use lynceus_policy::{Family, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// An address of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Held {
    /// The end of its TTL, in the last answer that had it.
    until: Timestamp,
    /// Whether that was the last answer of all.
    is_current: bool,
}

/// One name's addresses of one family.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Entry {
    addresses: BTreeMap<IpAddr, Held>,
    /// When to ask again; none before the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<Timestamp>,
    /// Why the last look-ups failed, and how many of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failing: Option<(String, u32)>,
    /// How many addresses of the last answer were not taken.
    #[serde(default)]
    left_out: usize,
}

/// Both families of a name.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Name {
    v4: Entry,
    v6: Entry,
}

/// All names of a policy.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Book {
    names: BTreeMap<String, Name>,
}

impl Name {
    fn of(&mut self, family: Family) -> &mut Entry {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    fn both(&self) -> [(Family, &Entry); 2] {
        [(Family::V4, &self.v4), (Family::V6, &self.v6)]
    }
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    Timestamp(at.0.saturating_add(seconds))
}

impl Book {
    /// Holds these names and no others. What is rules already (`known`) stays so until an answer says otherwise.
    pub fn fit(&mut self, names: &BTreeSet<String>, known: &Names, now: Timestamp) {
        self.names.retain(|name, _| names.contains(name));
        for name in names.iter().filter(|name| !self.names.contains_key(*name)).collect::<Vec<_>>() {
            let new = self.names.entry(name.clone()).or_default();
            for address in known.get(name).into_iter().flatten() {
                let held = Held { until: now, is_current: true };
                new.of(Family::of(*address)).addresses.insert(*address, held);
            }
        }
    }

    /// What is to be looked up now, and whether it failed the last time; that before its time as well where `again` says so.
    pub fn due(&self, now: Timestamp, again: bool) -> Vec<(Question, bool)> {
        let mut due = Vec::new();
        for (name, of) in &self.names {
            for (family, entry) in of.both() {
                // A clock that was put back does not hold a question up.
                let is_over = |at: Timestamp| at <= now || at > later(now, MAX_TTL_S);
                let failed = entry.failing.is_some();
                if entry.due.is_none_or(is_over) || again && failed {
                    due.push((Question { name: name.clone(), family }, failed));
                }
            }
        }
        due
    }

    /// Takes what came of a look-up.
    pub fn hear(&mut self, question: &Question, found: Result<Answer, Failure>, now: Timestamp) {
        let Some(name) = self.names.get_mut(&question.name) else { return };
        let entry = name.of(question.family);
        match found {
            Ok(answer) => entry.answered(&answer, now),
            Err(failure) => {
                let tries = entry.failing.as_ref().map_or(0, |(_, tries)| *tries);
                let wait = RETRY_S.saturating_mul(1 << tries.min(8)).min(RETRY_MAX_S);
                entry.failing = Some((failure.to_string(), tries.saturating_add(1)));
                entry.due = Some(later(now, wait));
            }
        }
    }

    /// Lets go of what has had its time. `is_in_use` is asked of addresses that nothing but an open connection holds.
    pub fn sweep(&mut self, now: Timestamp, is_in_use: &mut dyn FnMut(IpAddr) -> bool) {
        for name in self.names.values_mut() {
            for family in Family::ALL {
                name.of(family).addresses.retain(|address, held| {
                    let is_within = |seconds| now < later(held.until, seconds);
                    match held.is_current {
                        true => is_within(KEEP_S),
                        false => is_within(LINGER_S) || is_within(IN_USE_S) && is_in_use(*address),
                    }
                });
            }
        }
    }

    /// What all names stand for.
    pub fn names(&self) -> Names {
        let addresses = |name: &Name| -> BTreeSet<IpAddr> {
            name.both().into_iter().flat_map(|(_, entry)| entry.addresses.keys().copied()).collect()
        };
        let all = self.names.iter().map(|(name, of)| (name.clone(), addresses(of)));
        all.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    /// What somebody should know: names that cannot be looked up, that stand for nobody, or whose addresses were not all taken.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        for (name, of) in &self.names {
            let entries = of.both();
            for (family, entry) in entries {
                if let Some((why, _)) = &entry.failing {
                    let until = entry.addresses.values().filter(|held| held.is_current);
                    let until = until.map(|held| later(held.until, KEEP_S)).max();
                    let stays = until.map_or_else(
                        || "it stands for nobody".to_owned(),
                        |until| format!("it stands for what it did until {until} UTC"),
                    );
                    troubles.push(format!("{name} ({family:?}): {why}; {stays}"));
                }
                if entry.left_out > 0 {
                    let left_out = entry.left_out;
                    troubles.push(format!("{name} ({family:?}): {left_out} of its addresses are not taken"));
                }
            }
            let is_empty =
                |entry: &Entry| entry.due.is_some() && entry.failing.is_none() && entry.addresses.is_empty();
            if entries.iter().all(|(_, entry)| is_empty(entry) && entry.left_out == 0) {
                troubles.push(format!("{name}: it has no address"));
            }
        }
        troubles
    }
}

impl Entry {
    fn answered(&mut self, answer: &Answer, now: Timestamp) {
        let end = later(now, i64::from(answer.ttl_s).clamp(MIN_TTL_S, MAX_TTL_S));
        self.addresses.values_mut().for_each(|held| held.is_current = false);
        let current = Held { until: end, is_current: true };
        self.addresses.extend(answer.addresses.iter().map(|address| (*address, current)));
        while self.addresses.len() > MAX_KEPT {
            let oldest = self.addresses.iter().min_by_key(|(_, held)| (held.is_current, held.until));
            let Some(oldest) = oldest.map(|(address, _)| *address) else { break };
            self.addresses.remove(&oldest);
        }
        (self.due, self.failing, self.left_out) = (Some(end), None, answer.left_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000);

    fn at(seconds: i64) -> Timestamp {
        later(NOW, seconds)
    }

    fn question(name: &str, family: Family) -> Question {
        Question { name: name.to_owned(), family }
    }

    fn answer(addresses: &[&str], ttl_s: u32) -> Result<Answer, Failure> {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Ok(Answer { addresses, ttl_s, left_out: 0 })
    }

    fn book(names: &[&str]) -> Book {
        let mut book = Book::default();
        book.fit(&names.iter().map(|name| (*name).to_owned()).collect(), &Names::new(), NOW);
        book
    }

    fn stands(book: &Book, name: &str) -> Vec<String> {
        book.names().get(name).into_iter().flatten().map(ToString::to_string).collect()
    }

    fn sweep(book: &mut Book, seconds: i64, in_use: &str) {
        book.sweep(at(seconds), &mut |address| address.to_string() == in_use);
    }

    #[test]
    fn an_answer_holds_for_its_ttl_within_limits() {
        for (ttl, seconds) in [(0, MIN_TTL_S), (60, 60), (1 << 30, MAX_TTL_S)] {
            let mut book = book(&["a"]);
            assert_eq!(book.due(NOW, false).len(), 2);
            for family in Family::ALL {
                book.hear(&question("a", family), answer(&[], ttl), NOW);
            }
            assert!(book.due(at(seconds - 1), false).is_empty());
            assert_eq!(book.due(at(seconds), false).len(), 2);
            // The clock was put back by a day.
            assert_eq!(book.due(at(-86_400), false).len(), 2);
        }
    }

    #[test]
    fn an_address_that_is_no_longer_named_goes_unless_it_is_in_use() {
        let v4 = question("a", Family::V4);
        let mut book = book(&["a"]);
        book.hear(&v4, answer(&["192.0.2.1", "192.0.2.2"], 60), NOW);
        book.hear(&v4, answer(&["192.0.2.3"], 60), at(60));
        sweep(&mut book, 60 + LINGER_S - 1, "");
        assert_eq!(stands(&book, "a").len(), 3);
        sweep(&mut book, 60 + LINGER_S, "192.0.2.2");
        assert_eq!(stands(&book, "a"), ["192.0.2.2", "192.0.2.3"]);
        sweep(&mut book, 60 + IN_USE_S, "192.0.2.2");
        assert_eq!(stands(&book, "a"), ["192.0.2.3"]);
        // That there is nothing is an answer as well.
        book.hear(&v4, answer(&[], 60), at(121));
        sweep(&mut book, 200, "");
        assert!(stands(&book, "a").is_empty());
    }

    #[test]
    fn a_failure_keeps_what_was_known_for_a_day_and_touches_nothing_else() {
        let mut book = book(&["a", "b"]);
        let (a4, a6) = (question("a", Family::V4), question("a", Family::V6));
        book.hear(&a4, answer(&["192.0.2.1"], 60), NOW);
        book.hear(&a6, answer(&["2001:db8::1"], 60), NOW);
        let mut now = 60;
        let mut waits = Vec::new();
        while now < 60 + KEEP_S {
            book.hear(&a4, Err(Failure::NoAnswer), at(now));
            book.hear(&a6, answer(&["2001:db8::1"], 3600), at(now));
            sweep(&mut book, now, "");
            assert_eq!(stands(&book, "a"), ["192.0.2.1", "2001:db8::1"], "{now}");
            assert_eq!(book.troubles().len(), 1, "{:?}", book.troubles());
            let due =
                (now..).find(|second| book.due(at(*second), false).contains(&(a4.clone(), true))).unwrap();
            waits.push(due - now);
            now = due;
        }
        assert_eq!(waits[..6], [5, 10, 20, 40, 60, 60]);
        sweep(&mut book, 60 + KEEP_S, "");
        assert_eq!(stands(&book, "a"), ["2001:db8::1"]);
        assert!(
            book.due(at(now - 1), true).contains(&(a4.clone(), true)),
            "what failed is asked again by hand"
        );
        book.hear(&a4, answer(&["192.0.2.9"], 60), at(now));
        assert_eq!((stands(&book, "a").len(), book.troubles().len()), (2, 0));
    }

    #[test]
    fn rules_that_are_there_stay_until_the_first_answer() {
        let known = Names::from([("a".to_owned(), ["192.0.2.1".parse().unwrap()].into())]);
        let mut book = Book::default();
        book.fit(&["a".to_owned()].into(), &known, NOW);
        sweep(&mut book, KEEP_S - 1, "");
        assert_eq!(stands(&book, "a"), ["192.0.2.1"]);
        book.hear(&question("a", Family::V4), answer(&["192.0.2.2"], 5), at(9));
        sweep(&mut book, LINGER_S, "");
        assert_eq!(stands(&book, "a"), ["192.0.2.2"]);
        book.fit(&BTreeSet::new(), &known, NOW);
        assert!(book.names().is_empty() && book.due(NOW, true).is_empty());
    }

    #[test]
    fn a_server_that_always_says_something_else_fills_no_set() {
        let v6 = question("a", Family::V6);
        let mut book = book(&["a"]);
        for round in 0..100u16 {
            let all: Vec<String> =
                (0..super::super::MAX_ADDRESSES).map(|n| format!("2001:db8:{round:x}::{n:x}")).collect();
            book.hear(&v6, answer(&all.iter().map(String::as_str).collect::<Vec<_>>(), 0), at(round.into()));
        }
        let all = stands(&book, "a");
        assert_eq!(all.len(), MAX_KEPT);
        assert!(all.iter().filter(|address| address.starts_with("2001:db8:63::")).count() == 64);
    }

    #[test]
    fn it_is_the_same_on_disk() {
        let mut book = book(&["a"]);
        book.hear(&question("a", Family::V4), answer(&["192.0.2.1"], 60), NOW);
        book.hear(&question("a", Family::V6), Err(Failure::NoAnswer), NOW);
        let text = serde_json::to_string(&book).unwrap();
        assert_eq!(serde_json::from_str::<Book>(&text).unwrap(), book);
    }
}
