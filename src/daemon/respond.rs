//! What is done about a finding, and what only a person may decide.
//!
//! *Does*: applies the policy's answer to a finding; a brake keeps a bad rule from isolating the whole host, and a cool-down keeps it from
//! isolating again what a person has just released. What they hold back waits for a person. *Never*: does anything itself: the supervisor acts,
//! and tells of it.

use lynceus_policy::Timestamp;
use lynceus_policy::syntax::Response;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// At most so many findings wait for a person; more are told and not kept.
const MAX_WAITING: usize = 1000;

/// What keeps responses in bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    /// No more than this part of the VMs is isolated or paused without a person, though always one.
    pub(super) max_percent: u8,
    /// What a person released is not taken again for so many seconds.
    pub(super) cooldown_s: i64,
}

/// What should happen now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// Nothing but the alert.
    Nothing,
    /// Do it.
    Act(Deed),
    /// A person is asked, and this is why.
    Ask(String),
}

/// What can be done to a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Deed {
    /// Cut it off the network.
    Isolate,
    /// Stop it.
    Pause,
}

impl Deed {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Deed::Isolate => "isolate",
            Deed::Pause => "pause",
        }
    }
}

/// A finding that waits for a person.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// The VM.
    pub(crate) vm: String,
    /// What the policy wants.
    pub(crate) deed: Deed,
    /// Why it was not done.
    pub(crate) why: String,
    /// What was found.
    pub(crate) summary: String,
    /// Since when.
    pub(crate) since: Timestamp,
}

/// What was done to a VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// What.
    pub(crate) deeds: BTreeMap<String, String>,
    /// Since when.
    pub(crate) since: Timestamp,
}

/// What is remembered of responses, over restarts.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Responses {
    /// By the alert's id.
    pub(super) waiting: BTreeMap<String, Waiting>,
    /// By VM.
    pub(super) done: BTreeMap<String, Done>,
    /// When a person released a VM.
    pub(super) released: BTreeMap<String, Timestamp>,
    /// Findings that a person has answered by releasing their VM.
    pub(super) answered: BTreeSet<String>,
}

impl Responses {
    /// What to do about a finding in a VM of `vms`, where the policy wants `response`.
    pub(super) fn decide(
        &self,
        bounds: Bounds,
        vms: usize,
        finding: &Asked<'_>,
        response: Response,
        now: Timestamp,
    ) -> Decision {
        let (deed, asks) = match response {
            Response::Alert => return Decision::Nothing,
            Response::Isolate => (Deed::Isolate, false),
            Response::Pause => (Deed::Pause, false),
            Response::Ask => (Deed::Isolate, true),
        };
        let is_done = self.done.get(finding.vm).is_some_and(|done| done.deeds.contains_key(deed.name()));
        if is_done || self.waiting.contains_key(finding.id) || self.answered.contains(finding.id) {
            return Decision::Nothing;
        }
        if asks {
            return Decision::Ask("the policy asks a person".to_owned());
        }
        let released = self.released.get(finding.vm).map(|at| now.0.saturating_sub(at.0));
        if let Some(ago) = released.filter(|ago| *ago < bounds.cooldown_s) {
            return Decision::Ask(format!("a person released it {ago} s ago"));
        }
        let allowed = (vms * usize::from(bounds.max_percent) / 100).max(1);
        let taken = self.done.len() + usize::from(!self.done.contains_key(finding.vm));
        if taken > allowed {
            let why = format!("{} of {vms} VMs are isolated or paused, more takes a person", self.done.len());
            return Decision::Ask(why);
        }
        Decision::Act(deed)
    }

    /// A finding waits for a person. Whether there was room to keep it.
    pub(super) fn wait(&mut self, id: &str, waiting: Waiting) -> bool {
        let has_room = self.waiting.len() < MAX_WAITING;
        if has_room {
            self.waiting.insert(id.to_owned(), waiting);
        }
        has_room
    }

    /// Something was done, because of this.
    pub(super) fn did(&mut self, vm: &str, deed: Deed, because: &str, now: Timestamp) {
        let done =
            self.done.entry(vm.to_owned()).or_insert_with(|| Done { deeds: BTreeMap::new(), since: now });
        done.deeds.insert(deed.name().to_owned(), because.to_owned());
        // Nothing more can be done about what waits.
        self.waiting.retain(|_, waiting| waiting.vm != vm || waiting.deed != deed);
    }

    /// What was to be done could not be.
    pub(super) fn undo(&mut self, vm: &str, deed: Deed) {
        if let Some(done) = self.done.get_mut(vm) {
            done.deeds.remove(deed.name());
        }
        self.done.retain(|_, done| !done.deeds.is_empty());
    }

    /// A person released a VM: nothing that was found until now is held against it again by itself.
    pub(super) fn release(
        &mut self,
        vm: &str,
        findings: impl Iterator<Item = String>,
        now: Timestamp,
    ) -> Option<Done> {
        self.released.insert(vm.to_owned(), now);
        self.answered.extend(findings.take(MAX_WAITING));
        self.waiting.retain(|_, waiting| waiting.vm != vm);
        self.done.remove(vm)
    }

    /// A VM is gone for good: what is remembered of it goes, but that it was isolated.
    pub(super) fn forget(&mut self, vm: &str, findings: &BTreeSet<String>) {
        self.released.remove(vm);
        self.answered.retain(|id| !findings.contains(id));
    }
}

/// A finding, as a response needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The VM.
    pub(super) vm: &'a str,
    /// The alert's id.
    pub(super) id: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { max_percent: 20, cooldown_s: 600 };

    fn decide(responses: &Responses, vm: &str, response: Response, now: i64) -> Decision {
        let asked = Asked { vm, id: &format!("{vm}-finding") };
        responses.decide(BOUNDS, 10, &asked, response, Timestamp(now))
    }

    #[test]
    fn the_brake_leaves_the_third_of_ten_to_a_person() {
        let mut responses = Responses::default();
        for vm in ["a", "b"] {
            assert_eq!(decide(&responses, vm, Response::Isolate, 0), Decision::Act(Deed::Isolate));
            responses.did(vm, Deed::Isolate, "x", Timestamp(0));
            assert_eq!(decide(&responses, vm, Response::Isolate, 0), Decision::Nothing, "it is");
        }
        let Decision::Ask(why) = decide(&responses, "c", Response::Isolate, 0) else { panic!("not asked") };
        assert!(why.contains("2 of 10"), "{why}");
        assert_eq!(
            decide(&responses, "a", Response::Pause, 0),
            Decision::Act(Deed::Pause),
            "it counts already"
        );
        assert_eq!(decide(&responses, "c", Response::Alert, 0), Decision::Nothing);
    }

    #[test]
    fn one_vm_may_always_be_isolated_and_asking_is_an_answer_of_its_own() {
        let responses = Responses::default();
        let asked = Asked { vm: "a", id: "1" };
        let act = responses.decide(BOUNDS, 1, &asked, Response::Isolate, Timestamp(0));
        assert_eq!(act, Decision::Act(Deed::Isolate));
        assert!(matches!(decide(&responses, "a", Response::Ask, 0), Decision::Ask(_)));
    }

    #[test]
    fn what_a_person_released_stays_so_for_the_same_finding_and_for_a_while_for_others() {
        let mut responses = Responses::default();
        responses.did("a", Deed::Isolate, "x", Timestamp(0));
        let done = responses.release("a", ["a-finding".to_owned()].into_iter(), Timestamp(100)).unwrap();
        assert!(done.deeds.contains_key("isolate"));
        assert_eq!(decide(&responses, "a", Response::Isolate, 10_000), Decision::Nothing, "it was answered");
        let other = Asked { vm: "a", id: "another" };
        let soon = responses.decide(BOUNDS, 10, &other, Response::Isolate, Timestamp(200));
        assert!(matches!(soon, Decision::Ask(why) if why.contains("100 s ago")));
        let later = responses.decide(BOUNDS, 10, &other, Response::Isolate, Timestamp(800));
        assert_eq!(later, Decision::Act(Deed::Isolate));
    }

    #[test]
    fn what_waits_is_kept_once_and_goes_when_it_is_done() {
        let mut responses = Responses::default();
        let waiting = |vm: &str| Waiting {
            vm: vm.to_owned(),
            deed: Deed::Isolate,
            why: "brake".to_owned(),
            summary: "x".to_owned(),
            since: Timestamp(0),
        };
        assert!(responses.wait("a-finding", waiting("a")));
        assert_eq!(decide(&responses, "a", Response::Isolate, 0), Decision::Nothing, "it waits");
        let kept = (0..2 * MAX_WAITING).filter(|n| responses.wait(&n.to_string(), waiting("b"))).count();
        assert_eq!(kept, MAX_WAITING - 1);
        assert_eq!(responses.waiting.len(), MAX_WAITING);
        responses.did("a", Deed::Isolate, "a person", Timestamp(1));
        assert!(responses.waiting.values().all(|waiting| waiting.vm == "b"));
    }
}
