//! What looks find, and what follows from it.
//!
//! *Does*: judges findings by policy, raises alerts, keeps evidence, decides on responses and tells of them. *Never*: responds to a finding that it has not
//! raised as an alert.

use super::deeds::{Finished, Task, What};
use super::protocol::Looked;
use super::respond::{Asked, Decision, Deed, Waiting};
use super::schedule::{Kind, VmId};
use super::supervisor::{PERSISTENT, Supervisor};
use super::{deeds, store, tell};
use crate::output::escape;
use lynceus_alerts::Alert;
use lynceus_policy::syntax::Response;
use lynceus_policy::{Look, Timestamp};
use lynceus_scanners::{Finding, Severity};
use std::time::SystemTime;

impl Supervisor {
    /// What a look found: judged by policy, told, and acted upon.
    pub(super) fn looked(&mut self, id: VmId, kind: Kind, looked: Looked) {
        let now = self.now();
        let Some(vm) = self.vms.get_mut(&id) else { return };
        vm.worked();
        vm.last_look = Some(now);
        vm.counts.looks[kind as usize] += 1;
        vm.counts.incomplete += u64::from(looked.gaps > 0);
        vm.incomplete_in_a_row = if looked.gaps > 0 { vm.incomplete_in_a_row.saturating_add(1) } else { 0 };
        vm.last_gaps = looked.told_gaps;
        let (name, incomplete) = (vm.seen.name.clone(), vm.incomplete_in_a_row);
        let gaps = vm.last_gaps.join("; ");
        let look = self.look_of(&name);
        let findings = looked.findings.into_iter().filter_map(|finding| tell::judged(&look, finding));
        let findings: Vec<Finding> = findings.collect();
        self.vm_well(id, "worker");
        match incomplete {
            0 => self.vm_well(id, "incomplete"),
            PERSISTENT.. => {
                self.vm_trouble(id, "incomplete", &format!("looks cannot read everything: {gaps}"))
            }
            _ => {}
        }
        if looked.more > 0 {
            let why = format!("{} findings more than are told of one look", looked.more);
            self.vm_trouble(id, "findings", &why);
        }
        self.found(id, &name, &look, findings);
    }

    fn found(&mut self, id: VmId, name: &str, look: &Look, findings: Vec<Finding>) {
        let (now, seen) = (self.now(), SystemTime::now());
        let wants_evidence = self.config.looks.evidence;
        let mut alerts = Vec::new();
        let mut wanted = Vec::new();
        for finding in findings {
            let response = tell::response(look, finding.severity);
            let alert = Alert::new(name, finding, seen);
            let Some(finding) = alert.finding() else { continue };
            let Some(vm) = self.vms.get_mut(&id) else { return };
            if vm.remember(&alert.id, finding, now) {
                tracing::warn!(
                    vm = name,
                    detector = &*finding.detector,
                    id = alert.id,
                    "{}",
                    escape(&finding.summary)
                );
                // A signature's match has no evidence of a detector's kind.
                if wants_evidence && finding.rule.is_none() {
                    vm.want_evidence(&alert.id, finding);
                }
            }
            if response != Response::Alert {
                wanted.push((alert.clone(), response));
            }
            alerts.push(alert);
        }
        self.raise(alerts);
        for (alert, response) in wanted {
            // One after the other: what was done about the first is done for the second.
            let asked = Asked { vm: name, id: &alert.id };
            let bounds = self.config.respond.bounds();
            let decision = self.responses.decide(bounds, self.vms.len(), &asked, response, Timestamp::now());
            self.respond(id, name, decision, &alert);
        }
    }

    fn respond(&mut self, id: VmId, name: &str, decision: Decision, alert: &Alert) {
        let target = self.vms.get(&id).map(|vm| vm.seen.target.clone());
        match decision {
            Decision::Nothing => {}
            Decision::Act(deed) => {
                // Decided once: what comes meanwhile finds it done.
                self.responses.did(name, deed, &alert.id, Timestamp::now());
                self.keep_responses();
                let (because, reason) = (format!("policy, alert {}", alert.id), alert.summary().to_owned());
                self.act(Task { vm: name.to_owned(), target, what: What::Do(deed), because, reason });
            }
            Decision::Ask(why) => {
                let deed = Deed::Isolate;
                let told = tell::responded(name, "ask", "policy", &why, alert.severity(), alert.summary());
                let waiting = Waiting {
                    vm: name.to_owned(),
                    deed,
                    why,
                    summary: alert.summary().to_owned(),
                    since: Timestamp::now(),
                };
                if !self.responses.wait(&alert.id, waiting) {
                    self.trouble("responses", "more findings wait for a person than are kept");
                }
                self.keep_responses();
                self.raise(vec![told]);
            }
        }
    }

    /// Does something to a VM, in a thread of its own.
    pub(super) fn act(&mut self, task: Task) {
        deeds::start(task, self.config.firewall_state(), self.events.clone());
    }

    /// Something was done to a VM, or could not be.
    pub(super) fn finished(&mut self, finished: Finished) {
        let Finished { task, result, took } = finished;
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let action = task.what.name();
        match result {
            Ok(how) => {
                tracing::warn!(vm = task.vm, action, took_ms = ms, "{}", escape(&how));
                let summary = format!("{}: {how}, in {ms} ms", task.vm);
                let severity = Severity::High;
                self.raise(vec![tell::responded(
                    &task.vm,
                    action,
                    &task.because,
                    &task.reason,
                    severity,
                    &summary,
                )]);
                let folder = self.config.respond.dump_folder.clone();
                let folder = folder.unwrap_or_else(|| self.config.state.join("dumps"));
                if task.what == What::Do(Deed::Isolate) && self.config.respond.dump {
                    self.act(Task { what: What::Dump(folder), ..task });
                }
            }
            Err(why) => {
                tracing::error!(vm = task.vm, action, "{}", escape(&why));
                if let What::Do(deed) = task.what {
                    // It is not done: the next look tries again.
                    self.responses.undo(&task.vm, deed);
                    self.keep_responses();
                }
                self.raise(vec![tell::health(Some(&task.vm), action, "failed", &why)]);
            }
        }
    }

    pub(super) fn keep_evidence(&mut self, alert: &str, text: Option<String>) {
        let Some(text) = text else { return };
        if let Err(error) = store::keep_evidence(&self.config.state, alert, &text) {
            self.trouble("evidence", &format!("{error:#}"));
        }
    }
}
