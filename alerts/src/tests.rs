use crate::*;
use lynceus_scanners::{Finding, Severity, Subject};
use std::time::{Duration, UNIX_EPOCH};

pub(crate) fn finding(pid: u32) -> Finding {
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
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let first = Alert::new("web-1", finding(1), at(1));
    assert_eq!(first.id, Alert::new("web-1", finding(1), at(2)).id);
    assert_ne!(first.id, Alert::new("web-2", finding(1), at(1)).id);
    assert_ne!(first.id, Alert::new("web-1", finding(2), at(1)).id);
    assert_eq!((first.id.len(), first.time_ms), (32, 1000));
    assert_eq!(first.id, id("web-1", &finding(1)));
}

/// What the ids of alerts were before there was anything but findings.
#[test]
fn ids_of_findings_stay_what_they_were() {
    assert_eq!(id("web-1", &finding(1)), "880d19fddbbae8330a8eedff4c052785");
}

#[test]
fn json_is_one_line_with_the_finding_in_it() {
    let line = serde_json::to_string(&Alert::new("web-1", finding(7), UNIX_EPOCH)).unwrap();
    assert!(!line.contains('\n'));
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["subject"]["pid"], 7);
    assert_eq!(value["severity"], "critical");
    assert_eq!(value["kind"], "detection");
    for key in ["id", "time_ms", "vm", "detector", "technique", "summary", "seen_in", "missing_from"] {
        assert!(value.get(key).is_some(), "{key}");
    }
}

#[test]
fn every_kind_comes_back_from_its_json() {
    for about in all_kinds() {
        let alert = Alert::about(Some("web-1"), about, UNIX_EPOCH).with_evidence("/tmp/x");
        let json = serde_json::to_string(&alert).unwrap();
        assert_eq!(serde_json::from_str::<Alert>(&json).unwrap(), alert, "{json}");
    }
}

#[test]
fn what_is_too_long_is_cut_and_says_so() {
    for huge in ["\u{1}".repeat(1 << 20), "ü\"\\\n".repeat(1 << 18)] {
        let mut about = finding(1);
        about.summary = huge.clone();
        about.subject = Subject::Kernel { symbol: huge.clone(), address: 1, value: huge.clone() };
        about.seen_in = vec![huge.clone().into(); 50];
        let mut alert = Alert::new("web-1", about, UNIX_EPOCH);
        let id = alert.id.clone();
        let json = limits::bounded_json(&mut alert).unwrap();
        assert!(json.len() <= MAX_ALERT_BYTES && alert.shortened);
        let read: Alert = serde_json::from_slice(&json).unwrap();
        assert_eq!((&read, &read.id), (&alert, &id));
    }
}

/// One alert of each kind.
pub(crate) fn all_kinds() -> Vec<About> {
    let summary = "a summary".to_owned();
    let severity = Severity::High;
    vec![
        About::Detection(Box::new(finding(7))),
        About::Policy(PolicyViolation {
            policy: "web".to_owned(),
            rule: "no-telnet".to_owned(),
            severity,
            summary: summary.clone(),
        }),
        About::Flow(FlowViolation {
            direction: "out".to_owned(),
            protocol: "tcp".to_owned(),
            source: Some([10, 0, 0, 1].into()),
            source_port: Some(40000),
            destination: Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()),
            destination_port: Some(23),
            verdict: "deny".to_owned(),
            rule: "no-telnet".to_owned(),
            process: Some(FlowProcess {
                pid: 12,
                comm: "telnet".to_owned(),
                path: Some("/bin/telnet".to_owned()),
            }),
            severity,
            summary: summary.clone(),
        }),
        About::Health(Health {
            component: "worker web-1".to_owned(),
            what: "looks".to_owned(),
            state: "late".to_owned(),
            severity,
            summary: summary.clone(),
        }),
        About::Response(Response {
            action: "isolate".to_owned(),
            decided_by: "rule ransom".to_owned(),
            reason: "hidden task".to_owned(),
            severity,
            summary,
        }),
    ]
}
