//! One alert of each kind and of each kind of subject.

use lynceus_alerts::{About, Alert, FlowProcess, FlowViolation, Health, PolicyViolation, Response};
use lynceus_scanners::signatures::{RuleMatch, StringMatch};
use lynceus_scanners::{Finding, Severity, Subject};
use std::time::{Duration, UNIX_EPOCH};

/// All of them, with every string that a guest could choose being `text`.
pub(crate) fn with(text: &str) -> Vec<Alert> {
    let mut all: Vec<About> = subjects(text).into_iter().map(|subject| detection(subject, text)).collect();
    let severity = Severity::Medium;
    let summary = format!("summary {text}");
    all.push(About::Policy(PolicyViolation {
        policy: text.to_owned(),
        rule: text.to_owned(),
        severity,
        summary: summary.clone(),
    }));
    for (verdict, direction, source) in
        [("deny", "out", Some([10, 0, 0, 1].into())), ("would-deny", "in", None), ("spoofed", "", None)]
    {
        all.push(About::Flow(FlowViolation {
            direction: direction.to_owned(),
            protocol: "tcp".to_owned(),
            source,
            source_port: source.map(|_| 40000),
            destination: Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()),
            destination_port: Some(23),
            verdict: verdict.to_owned(),
            rule: text.to_owned(),
            process: Some(FlowProcess { pid: 12, comm: text.to_owned(), path: Some(text.to_owned()) }),
            severity: Severity::Low,
            summary: summary.clone(),
        }));
    }
    all.push(About::Health(Health {
        component: text.to_owned(),
        what: text.to_owned(),
        state: text.to_owned(),
        severity,
        summary: summary.clone(),
    }));
    all.push(About::Response(Response {
        action: "isolate".to_owned(),
        decided_by: text.to_owned(),
        reason: text.to_owned(),
        severity: Severity::High,
        summary,
    }));
    let seen = UNIX_EPOCH + Duration::from_millis(1_795_000_000_123);
    let mut alerts: Vec<Alert> = all.into_iter().map(|about| Alert::about(Some(text), about, seen)).collect();
    for (number, alert) in alerts.iter_mut().enumerate() {
        alert.sequence = Some(1_795_000_000_000_000 + number as u64);
        alert.evidence = Some(text.to_owned());
        alert.count = 1 + number as u64 % 2;
    }
    alerts
}

/// The ordinary ones, and one of the host's own.
pub(crate) fn all() -> Vec<Alert> {
    let mut all = with("a name");
    let mut last = all.last().cloned().expect("there are some");
    last.vm = None;
    last.sequence = None;
    last.evidence = None;
    all.push(last);
    all
}

fn subjects(text: &str) -> Vec<Subject> {
    let text = text.to_owned();
    vec![
        Subject::Task { pid: 8, tgid: 7, comm: text.clone(), address: u64::MAX },
        Subject::Module { name: text.clone(), base: 1, address: 2 },
        Subject::Kernel { symbol: text.clone(), address: 1, value: text.clone() },
        Subject::File {
            path: format!("/tmp/{text}"),
            fs: "ext4".to_owned(),
            inode: 5,
            size_bytes: 1 << 40,
            deleted: true,
            sha256: Some("ab".repeat(32)),
        },
        Subject::Memory {
            pid: Some(7),
            comm: Some(text.clone()),
            cgroup: Some(text.clone()),
            container: None,
            start: 4096,
            end: 8192,
            path: format!("/lib/{text}"),
        },
        Subject::Socket {
            protocol: "tcp".to_owned(),
            local: text.clone(),
            remote: text.clone(),
            state: "LISTEN".into(),
            inode: 5,
            address: 6,
        },
        Subject::Profile { symbol: text },
    ]
}

fn detection(subject: Subject, text: &str) -> About {
    let rule = matches!(subject, Subject::Memory { .. }).then(|| RuleMatch {
        rule: "Beacon".to_owned(),
        namespace: "apt".to_owned(),
        tags: vec!["c2".to_owned()],
        meta: vec![("author".to_owned(), text.to_owned())],
        strings: vec![StringMatch {
            name: "$a".to_owned(),
            address: 4096,
            len_bytes: 2,
            bytes: "4142".to_owned(),
            text: text.to_owned(),
            around: (String::new(), "43".to_owned()),
            around_text: (String::new(), text.to_owned()),
        }],
        scanned_bytes: 4096,
        region_bytes: 4096,
        sha256: None,
    });
    About::Detection(Box::new(Finding {
        detector: "hidden_task".into(),
        technique: "T1014".into(),
        severity: Severity::Critical,
        summary: format!("summary {text}"),
        subject,
        seen_in: vec!["slab pages".into(), text.to_owned().into()],
        missing_from: vec!["task list".into()],
        rule,
    }))
}
