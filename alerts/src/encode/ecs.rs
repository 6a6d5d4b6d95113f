//! Elastic Common Schema, 9.4 (<https://www.elastic.co/docs/reference/ecs>).
//!
//! *Does*: puts what ECS has a field for there, and the whole alert under `lynceus`.
//! *Never*: writes a field of ECS's with another type, or a word that its list of allowed values lacks.

use super::Origin;
use super::fields::{self, pruned};
use crate::alert::{About, Alert};
use humantime::format_rfc3339_millis;
use lynceus_scanners::Severity;
use serde_json::{Map, Value, json};
use std::time::{Duration, UNIX_EPOCH};

/// The version that fields and words are taken from.
pub(super) const VERSION: &str = "9.4.0";

/// The alert as a document.
pub(super) fn document(alert: &Alert, origin: &Origin) -> Value {
    let mut document = json!({
        "@timestamp": time(alert.time_ms),
        "message": alert.summary(),
        "ecs": { "version": VERSION },
        "event": event(alert),
        "observer": {
            "vendor": "Lynceus",
            "product": "Lynceus",
            "type": "ids",
            "version": origin.version,
            "hostname": origin.hostname,
        },
        "host": { "name": alert.vm },
        "threat": alert.technique().map(|technique| json!({
            "framework": "MITRE ATT&CK",
            "technique": { "id": [technique] },
        })),
        "rule": rule(alert),
        "process": fields::process(alert).map(|process| json!({
            "pid": process.pid,
            "name": process.name,
            "executable": process.path,
            "thread": process.thread.map(|id| json!({ "id": id })),
        })),
        "file": fields::file(alert).map(|file| json!({
            "path": file.path,
            "inode": file.inode.map(|inode| inode.to_string()),
            "size": file.size_bytes,
            "hash": file.sha256.map(|sha256| json!({ "sha256": sha256 })),
        })),
        "lynceus": own(alert),
    });
    if let (Value::Object(document), Value::Object(flow)) = (&mut document, flow(alert)) {
        document.extend(flow);
    }
    pruned(document)
}

fn event(alert: &Alert) -> Value {
    let (kind, categories, types, outcome) = words(alert);
    json!({
        "kind": kind,
        "category": categories,
        "type": types,
        "outcome": outcome,
        "id": fields::unique(alert),
        "code": fields::code(alert),
        "action": fields::code(alert),
        "reason": match &alert.about {
            About::Response(response) => Some(response.reason.as_str()),
            _ => None,
        },
        "severity": number(alert.severity()),
        "sequence": alert.sequence,
        "created": time(alert.time_ms),
        "start": time(alert.first_seen_ms),
        "end": time(alert.last_seen_ms),
        "provider": "lynceus",
        "module": "lynceus",
        "dataset": "lynceus.alerts",
    })
}

type Words = (&'static str, Vec<&'static str>, Vec<&'static str>, Option<&'static str>);

/// `event.kind`, `.category`, `.type` and `.outcome`.
fn words(alert: &Alert) -> Words {
    match &alert.about {
        About::Detection(finding) => {
            let mut categories = vec!["intrusion_detection"];
            categories.extend(finding.rule.as_ref().map(|_| "malware"));
            categories.extend(fields::process(alert).map(|_| "process"));
            categories.extend(fields::file(alert).map(|_| "file"));
            ("alert", categories, vec!["info"], None)
        }
        About::Policy(_) => ("alert", vec!["configuration"], vec!["info"], None),
        About::Flow(flow) if stops(&flow.verdict) => {
            ("alert", vec!["network"], vec!["connection", "denied"], Some("failure"))
        }
        About::Flow(_) => ("alert", vec!["network"], vec!["connection", "allowed"], Some("success")),
        About::Health(_) => ("event", vec!["host"], vec!["info"], None),
        About::Response(_) => ("event", vec!["intrusion_detection"], vec!["info"], Some("success")),
    }
}

/// Whether a verdict of the flow log lets nothing through.
pub(super) fn stops(verdict: &str) -> bool {
    matches!(verdict, "deny" | "reject" | "spoofed")
}

fn rule(alert: &Alert) -> Option<Value> {
    match &alert.about {
        About::Detection(finding) => match &finding.rule {
            Some(rule) => Some(json!({ "name": rule.rule, "ruleset": rule.namespace })),
            None => Some(json!({ "name": finding.detector })),
        },
        About::Policy(violation) => Some(json!({ "name": violation.rule, "ruleset": violation.policy })),
        About::Flow(flow) => Some(json!({ "name": flow.rule })),
        About::Health(_) => None,
        About::Response(response) => Some(json!({ "name": response.decided_by })),
    }
}

fn flow(alert: &Alert) -> Value {
    let About::Flow(flow) = &alert.about else { return Value::Null };
    let direction = match flow.direction.as_str() {
        "in" => Some("ingress"),
        "out" => Some("egress"),
        _ => None,
    };
    let family = flow.source.or(flow.destination).map(|ip| if ip.is_ipv4() { "ipv4" } else { "ipv6" });
    json!({
        "source": { "ip": flow.source, "port": flow.source_port },
        "destination": { "ip": flow.destination, "port": flow.destination_port },
        "network": { "transport": flow.protocol, "direction": direction, "type": family },
    })
}

/// What ECS has no field for. Lists of objects, which Elastic would flatten, are text.
fn own(alert: &Alert) -> Value {
    let said = ["time_ms", "summary", "first_seen_ms", "last_seen_ms", "sequence", "vm"];
    let kept = fields::own(alert, &said).into_iter().map(|(name, field)| match name.as_str() {
        "rule" if field.is_object() => (name, Value::String(field.to_string())),
        "rule" => ("rule_name".to_owned(), field),
        _ => (name, field),
    });
    Value::Object(kept.collect::<Map<_, _>>())
}

fn time(ms: u64) -> String {
    // Beyond the year 9999 there is no RFC 3339.
    format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms.min(253_402_300_799_999))).to_string()
}

/// As Elastic's own rules count.
fn number(severity: Severity) -> u64 {
    match severity {
        Severity::Low => 21,
        Severity::Medium => 47,
        Severity::High => 73,
        Severity::Critical => 99,
    }
}
