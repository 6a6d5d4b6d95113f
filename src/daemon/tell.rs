//! From what happens to alerts, by the policy's word on it.
//!
//! *Does*: applies a VM's policy to a finding: switched off, allowed, of another severity; and words what the appliance says of itself. *Never*: drops a finding
//! that no policy names.

use crate::commands::enforcer;
use lynceus_alerts::{
    About, Alert, FlowProcess, FlowViolation, Health, PolicyViolation, Response as Responded,
};
use lynceus_firewall::flows::FlowEvent;
use lynceus_policy::Look;
use lynceus_policy::syntax::{Detector, Response, Severity as PolicySeverity};
use lynceus_scanners::{Finding, Severity, Subject};
use std::net::IpAddr;
use std::time::SystemTime;

/// A finding as the policy has it; none where the policy says that it is none.
pub(super) fn judged(look: &Look, mut finding: Finding) -> Option<Finding> {
    match look.detectors.get(&*finding.detector) {
        Some(Detector::Off) => return None,
        Some(Detector::Low) => finding.severity = Severity::Low,
        Some(Detector::Medium) => finding.severity = Severity::Medium,
        Some(Detector::High) => finding.severity = Severity::High,
        Some(Detector::Critical) => finding.severity = Severity::Critical,
        Some(Detector::On) | None => {}
    }
    (!is_allowed(look, &finding)).then_some(finding)
}

/// Whether the policy switches a detector off.
pub(super) fn is_off(look: &Look, detector: &str) -> bool {
    look.detectors.get(detector) == Some(&Detector::Off)
}

/// Whether the policy allows what a finding is about: a program by its path, a module by its name, a listening port.
fn is_allowed(look: &Look, finding: &Finding) -> bool {
    let allow = &look.allow;
    let is_program = |path: &str| !path.is_empty() && allow.executables.iter().any(|allowed| allowed == path);
    match &finding.subject {
        Subject::Module { name, .. } => allow.modules.contains(name),
        Subject::File { path, .. } | Subject::Memory { path, .. } => is_program(path),
        Subject::Socket { protocol, local, state, .. } if state == "listen" => {
            let port = local.rsplit_once(':').map_or("", |(_, port)| port);
            let service = format!("{}/{port}", protocol.trim_end_matches('6'));
            allow.listening.contains(&service)
        }
        _ => false,
    }
}

/// What the policy wants done about a finding: the answer for its severity, or for the highest below it that has one.
pub(super) fn response(look: &Look, severity: Severity) -> Response {
    let severity = match severity {
        Severity::Low => PolicySeverity::Low,
        Severity::Medium => PolicySeverity::Medium,
        Severity::High => PolicySeverity::High,
        Severity::Critical => PolicySeverity::Critical,
    };
    look.respond.range(..=severity).next_back().map_or(Response::Alert, |(_, response)| *response)
}

/// How a part of the appliance is.
pub(super) fn health(vm: Option<&str>, component: &str, state: &str, why: &str) -> Alert {
    let severity = if state == "recovered" { Severity::Low } else { Severity::High };
    let of = vm.map_or_else(|| "this host".to_owned(), str::to_owned);
    let health = Health {
        component: component.to_owned(),
        what: component.to_owned(),
        state: state.to_owned(),
        severity,
        summary: format!("{component} of {of}: {why}"),
    };
    Alert::about(vm, About::Health(health), SystemTime::now())
}

/// Something that was done to a VM, or that a person is asked to do.
pub(super) fn responded(
    vm: &str,
    action: &str,
    decided_by: &str,
    reason: &str,
    severity: Severity,
    summary: &str,
) -> Alert {
    let response = Responded {
        action: action.to_owned(),
        decided_by: decided_by.to_owned(),
        reason: reason.to_owned(),
        severity,
        summary: summary.to_owned(),
    };
    Alert::about(Some(vm), About::Response(response), SystemTime::now())
}

/// Somebody else changed the firewall's rules, or nobody confirmed a change.
pub(super) fn policy(told: &enforcer::Event) -> Alert {
    let violation = PolicyViolation {
        policy: "firewall".to_owned(),
        rule: told.event.to_owned(),
        severity: Severity::High,
        summary: told.text.clone().unwrap_or_default(),
    };
    let vm = told.vm.as_deref().filter(|vm| !vm.is_empty());
    Alert::about(vm, About::Policy(violation), SystemTime::now())
}

/// A connection that was not let pass, or would not have been.
pub(super) fn flow(event: &FlowEvent) -> Alert {
    let is_spoofed = event.verdict == "spoofed";
    let service = event.service.clone().unwrap_or_default();
    let (protocol, port) = service.split_once('/').unwrap_or((&service, ""));
    let end = |address: Option<IpAddr>| address.map_or_else(|| "?".to_owned(), |address| address.to_string());
    let summary = format!(
        "{} {}: {} to {} for {service}, by {}",
        event.verdict,
        event.direction,
        end(event.source),
        end(event.destination),
        event.rule
    );
    let process = event.processes.first().map(|process| FlowProcess {
        pid: process.pid,
        comm: process.comm.clone(),
        path: process.exe.clone(),
    });
    let violation = FlowViolation {
        direction: event.direction.clone(),
        protocol: protocol.to_owned(),
        source: event.source,
        source_port: event.source_port,
        destination: event.destination,
        destination_port: port.parse().ok(),
        verdict: event.verdict.clone(),
        rule: event.rule.clone(),
        process,
        severity: if is_spoofed { Severity::Medium } else { Severity::Low },
        summary,
    };
    let vm = Some(event.vm.as_str()).filter(|vm| !vm.is_empty());
    Alert::about(vm, About::Flow(violation), SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(detector: &'static str, subject: Subject) -> Finding {
        Finding {
            detector: detector.into(),
            technique: "T1014".into(),
            severity: Severity::High,
            summary: "x".to_owned(),
            subject,
            seen_in: Vec::new(),
            missing_from: Vec::new(),
            rule: None,
        }
    }

    fn module(name: &str) -> Finding {
        finding("hidden_module", Subject::Module { name: name.to_owned(), base: 0, address: 0 })
    }

    #[test]
    fn policies_switch_off_allow_and_weigh() {
        let mut look = Look::default();
        assert_eq!(judged(&look, module("x")), Some(module("x")));
        look.detectors.insert("hidden_module".to_owned(), Detector::Low);
        assert_eq!(judged(&look, module("x")).unwrap().severity, Severity::Low);
        look.allow.modules.push("x".to_owned());
        assert_eq!(judged(&look, module("x")), None);
        assert!(judged(&look, module("y")).is_some());
        look.detectors.insert("hidden_module".to_owned(), Detector::Off);
        assert_eq!(judged(&look, module("y")), None);
        assert!(is_off(&look, "hidden_module") && !is_off(&look, "hidden_task"));
    }

    #[test]
    fn an_allowed_port_is_that_port_listening_and_no_other() {
        let socket = |local: &str, state: &'static str| Subject::Socket {
            protocol: "tcp6".to_owned(),
            local: local.to_owned(),
            remote: String::new(),
            state: state.into(),
            inode: 1,
            address: 1,
        };
        let mut look = Look::default();
        look.allow.listening.push("tcp/22".to_owned());
        let is_told = |local, state| judged(&look, finding("hidden_socket", socket(local, state))).is_some();
        assert!(!is_told("[::]:22", "listen"));
        assert!(is_told("[::]:222", "listen") && is_told("[::]:22", "established"));
    }

    #[test]
    fn the_answer_for_a_severity_holds_for_those_above_without_one() {
        let mut look = Look::default();
        assert_eq!(response(&look, Severity::Critical), Response::Alert);
        look.respond.insert(PolicySeverity::High, Response::Isolate);
        assert_eq!(response(&look, Severity::Medium), Response::Alert);
        assert_eq!(response(&look, Severity::High), Response::Isolate);
        assert_eq!(response(&look, Severity::Critical), Response::Isolate);
        look.respond.insert(PolicySeverity::Critical, Response::Pause);
        assert_eq!(response(&look, Severity::Critical), Response::Pause);
    }
}
