//! Alerts: facts sent to people.
//!
//! *Does*: turns a [`Finding`] into an [`Alert`] that says which VM, when, and under which id it can be recognised again.
//! *Never*: passes a guest's bytes on unescaped: encodings are JSON here, and more of them come with the appliance.

use lynceus_scanners::Finding;
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// A fact about a VM, for people and for a SIEM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Alert {
    /// The same for the same finding in the same VM: 32 hexadecimal digits.
    pub id: String,
    /// When it was seen, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// The VM or dump.
    pub vm: String,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Alert {
    /// An alert for what was found in `vm`.
    pub fn new(vm: &str, finding: Finding, seen: SystemTime) -> Alert {
        let time_ms = seen.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Alert { id: id(vm, &finding), time_ms, vm: vm.to_owned(), finding }
    }
}

/// A digest of what makes two alerts the same one. Length-prefixed: no two different lists of parts join to the same bytes.
fn id(vm: &str, finding: &Finding) -> String {
    let subject = format!("{:?}", finding.subject);
    let mut digest = blake3::Hasher::new();
    let rule =
        finding.rule.as_ref().map_or_else(String::new, |rule| format!("{} {}", rule.namespace, rule.rule));
    for part in [vm, &finding.detector, &subject, &rule] {
        digest.update(&(part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().to_hex().get(..32).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lynceus_scanners::{Severity, Subject};

    fn finding(pid: u32) -> Finding {
        Finding {
            detector: "hidden_task".into(),
            technique: "T1014".into(),
            severity: Severity::Critical,
            summary: "a \"summary\"\nof two lines".to_owned(),
            subject: Subject::Task { pid, tgid: pid, comm: "x".to_owned(), address: 1 },
            seen_in: vec!["slab pages".into()],
            missing_from: vec!["task list".into()],
            rule: None,
        }
    }

    #[test]
    fn an_alert_is_known_by_vm_and_subject_and_not_by_time() {
        let at = |seconds| UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let first = Alert::new("web-1", finding(1), at(1));
        assert_eq!(first.id, Alert::new("web-1", finding(1), at(2)).id);
        assert_ne!(first.id, Alert::new("web-2", finding(1), at(1)).id);
        assert_ne!(first.id, Alert::new("web-1", finding(2), at(1)).id);
        assert_eq!((first.id.len(), first.time_ms), (32, 1000));
    }

    #[test]
    fn json_is_one_line_with_the_finding_in_it() {
        let line = serde_json::to_string(&Alert::new("web-1", finding(7), UNIX_EPOCH)).unwrap();
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["subject"]["pid"], 7);
        assert_eq!(value["severity"], "critical");
    }
}
