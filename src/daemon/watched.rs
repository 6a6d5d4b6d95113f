//! One VM as the supervisor has it: its worker, what that does now, and what was found.
//!
//! *Does*: keeps count. *Never*: keeps more of a VM than is bounded, whatever its guest does.

use super::modules::Modules;
use super::process::Worker;
use super::protocol::{Process, Ready, Unpacks};
use super::schedule::Kind;
use super::vms::Seen;
use lynceus_scanners::{Finding, Severity};
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// So many findings of a VM are remembered for `status`; alerts are told of all of them.
const MAX_REMEMBERED: usize = 1000;
/// So many findings wait for their evidence; more go without.
const MAX_EVIDENCE_WAITING: usize = 64;
/// A worker that fails again and again is started again after so long at first, and at most.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// What a worker does just now.
pub(super) enum Busy {
    /// It opens and finds the kernel.
    Attaching,
    /// A look of a kind.
    Looking(Kind),
    /// It keeps what shows the finding of this alert.
    Keeping(String),
    /// It lists processes, for this one who asks.
    Listing(Sender<Result<Vec<Process>, String>>),
}

impl Busy {
    /// In a word or two.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Busy::Attaching => "attaching",
            Busy::Looking(kind) => kind.name(),
            Busy::Keeping(_) => "evidence",
            Busy::Listing(_) => "listing",
        }
    }
}

/// A finding that is remembered.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    pub(super) detector: String,
    pub(super) severity: Severity,
    pub(super) summary: String,
    /// When a look showed it last.
    pub(super) seen: Duration,
}

/// What is counted of a VM.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    /// By [`Kind`].
    pub(super) looks: [u64; 3],
    pub(super) incomplete: u64,
    pub(super) failures: u64,
    pub(super) cost: Duration,
}

/// A VM that is looked at.
pub(super) struct Watched {
    pub(super) seen: Seen,
    /// When it was seen first.
    pub(super) since: Duration,
    /// Its guest has migrated away.
    pub(super) has_left: bool,
    pub(super) worker: Option<Worker>,
    /// With when it must be done.
    pub(super) busy: Option<(Busy, Duration)>,
    /// It is paused for a look, by a thread that waits for this.
    pub(super) paused: Option<Sender<()>>,
    /// A thread asks for the registers of its processors.
    pub(super) asks_registers: bool,
    pub(super) ready: Option<Ready>,
    /// Workers so far.
    pub(super) turn: u64,
    /// Its next worker, or this one, unpacks this.
    pub(super) unpacks: Option<Unpacks>,
    /// The modules that its workers compare with their files.
    pub(super) modules: Modules,
    /// How often a worker was replaced by one that shares more.
    pub(super) replaced: u32,
    /// No new worker before.
    pub(super) not_before: Duration,
    backoff: Duration,
    /// What is the matter with it, as was told.
    pub(super) trouble: BTreeMap<&'static str, String>,
    /// Looks in a row that could not read everything.
    pub(super) incomplete_in_a_row: u32,
    pub(super) last_gaps: Vec<String>,
    pub(super) last_look: Option<Duration>,
    pub(super) counts: Counts,
    pub(super) findings: BTreeMap<String, Remembered>,
    pub(super) wants_evidence: VecDeque<(String, Box<Finding>)>,
    pub(super) wants_listing: VecDeque<Sender<Result<Vec<Process>, String>>>,
}

impl Watched {
    /// A VM that was just seen.
    pub(super) fn new(seen: Seen, since: Duration) -> Watched {
        Watched {
            seen,
            since,
            has_left: false,
            worker: None,
            busy: None,
            paused: None,
            asks_registers: false,
            ready: None,
            turn: 0,
            unpacks: None,
            modules: Modules::default(),
            replaced: 0,
            not_before: Duration::ZERO,
            backoff: FIRST_BACKOFF,
            trouble: BTreeMap::new(),
            incomplete_in_a_row: 0,
            last_gaps: Vec::new(),
            last_look: None,
            counts: Counts::default(),
            findings: BTreeMap::new(),
            wants_evidence: VecDeque::new(),
            wants_listing: VecDeque::new(),
        }
    }

    /// Its worker is not needed any more, and nothing that it was to do.
    pub(super) fn end_worker(&mut self) {
        self.worker.take().map(|worker| worker.end(false));
        (self.ready, self.paused, self.busy) = (None, None, None);
        self.asks_registers = false;
    }

    /// Its worker failed: the next one comes after some time, longer each time.
    pub(super) fn back_off(&mut self, now: Duration) {
        self.not_before = now + self.backoff;
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
    }

    /// Its worker did what it should.
    pub(super) fn worked(&mut self) {
        self.backoff = FIRST_BACKOFF;
    }

    /// Remembers a finding; whether a look showed it for the first time, and there was room for it.
    pub(super) fn remember(&mut self, id: &str, finding: &Finding, now: Duration) -> bool {
        if let Some(known) = self.findings.get_mut(id) {
            known.seen = now;
            return false;
        }
        if self.findings.len() >= MAX_REMEMBERED {
            return false;
        }
        let remembered = Remembered {
            detector: finding.detector.to_string(),
            severity: finding.severity,
            summary: finding.summary.clone(),
            seen: now,
        };
        self.findings.insert(id.to_owned(), remembered);
        true
    }

    /// What shows a finding is to be kept, when the worker has time.
    pub(super) fn want_evidence(&mut self, id: &str, finding: &Finding) {
        if self.wants_evidence.len() < MAX_EVIDENCE_WAITING {
            self.wants_evidence.push_back((id.to_owned(), Box::new(finding.clone())));
        }
    }

    /// In a word.
    pub(super) fn state(&self) -> &'static str {
        if self.has_left {
            return "migrated";
        }
        match (&self.worker, &self.ready, &self.busy) {
            (None, ..) => "waiting",
            (Some(_), None, _) => "attaching",
            (Some(_), Some(_), Some((busy, _))) => busy.name(),
            (Some(_), Some(_), None) => "watched",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_that_fail_come_back_ever_later_until_one_works() {
        let seen = Seen { name: String::new(), target: String::new(), incarnation: String::new() };
        let mut vm = Watched::new(seen, Duration::ZERO);
        let waits = |vm: &mut Watched| {
            vm.back_off(Duration::ZERO);
            vm.not_before.as_secs()
        };
        let all: Vec<u64> = (0..8).map(|_| waits(&mut vm)).collect();
        assert_eq!(all, [1, 2, 4, 8, 16, 32, 60, 60]);
        vm.worked();
        assert_eq!(waits(&mut vm), 1);
    }
}
