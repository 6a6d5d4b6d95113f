//! Open Cybersecurity Schema Framework, 1.8 (<https://schema.ocsf.io/1.8.0>).
//!
//! *Does*: findings and policy violations as Detection Finding (2004), connections as Network Activity (4001), the rest as Base Event (0).
//! *Never*: writes an attribute that its class lacks, or a number that its list lacks. What has no attribute goes under `unmapped`.

use super::Origin;
use super::ecs::stops;
use super::fields::{self, pruned};
use crate::alert::{About, Alert, FlowViolation};
use lynceus_scanners::Severity;
use serde_json::{Map, Value, json};

/// The version that attributes and numbers are taken from.
pub(super) const VERSION: &str = "1.8.0";

/// The alert as an event.
pub(super) fn event(alert: &Alert, origin: &Origin) -> Value {
    let mut event = common(alert, origin);
    event.extend(match &alert.about {
        About::Detection(_) | About::Policy(_) => finding(alert),
        About::Flow(flow) => network(alert, flow),
        About::Health(_) | About::Response(_) => other(alert),
    });
    pruned(Value::Object(event))
}

fn common(alert: &Alert, origin: &Origin) -> Map<String, Value> {
    let (severity_id, severity) = match alert.severity() {
        Severity::Low => (2, "Low"),
        Severity::Medium => (3, "Medium"),
        Severity::High => (4, "High"),
        Severity::Critical => (5, "Critical"),
    };
    object(json!({
        "time": alert.time_ms,
        "start_time": alert.first_seen_ms,
        "end_time": alert.last_seen_ms,
        "count": alert.count.min(i32::MAX as u64),
        "message": alert.summary(),
        "severity_id": severity_id,
        "severity": severity,
        "metadata": {
            "version": VERSION,
            "uid": fields::unique(alert),
            "correlation_uid": alert.id,
            "event_code": fields::code(alert),
            "log_name": "lynceus.alerts",
            "is_truncated": alert.shortened.then_some(true),
            "product": { "name": "Lynceus", "vendor_name": "Lynceus", "version": origin.version },
            "profiles": ["host", "security_control"],
        },
        // 6 is a virtual machine.
        "device": alert.vm.as_ref().map(|vm| json!({ "name": vm, "hostname": vm, "type_id": 6, "type": "Virtual" })),
        "unmapped": unmapped(alert),
    }))
}

fn finding(alert: &Alert) -> Map<String, Value> {
    // 1 is created, 2 is updated.
    let (activity, name) = if alert.count > 1 { (2, "Update") } else { (1, "Create") };
    let (analytic, sources) = match &alert.about {
        About::Detection(finding) => {
            let analytic = match &finding.rule {
                Some(rule) => json!({
                    "type_id": 1, "type": "Rule", "name": rule.rule, "uid": rule.namespace, "category": finding.detector,
                }),
                None => json!({ "type_id": 2, "type": "Behavioral", "name": finding.detector }),
            };
            (analytic, Some(&finding.seen_in))
        }
        About::Policy(violation) => {
            (json!({ "type_id": 1, "type": "Rule", "name": violation.rule, "uid": violation.policy }), None)
        }
        _ => (Value::Null, None),
    };
    let technique = alert.technique().map(|technique| json!({ "technique": { "uid": technique } }));
    let mut event = class(2004, "Detection Finding", "Findings", activity, name);
    event.extend(object(json!({
        "finding_info": {
            "uid": alert.id,
            "title": alert.summary(),
            "first_seen_time": alert.first_seen_ms,
            "last_seen_time": alert.last_seen_ms,
            "attacks": technique.map(|technique| [technique]),
            "analytic": analytic,
            "data_sources": sources,
        },
        "evidences": evidence(alert).map(|evidence| [evidence]),
        "resources": alert.vm.as_ref().map(|vm| [json!({ "name": vm, "type": "Virtual Machine" })]),
        "is_alert": true,
    })));
    event
}

fn evidence(alert: &Alert) -> Option<Value> {
    let process =
        fields::process(alert).map(|it| json!({ "pid": it.pid, "tid": it.thread, "name": it.name }));
    let file = fields::file(alert).map(|it| {
        json!({
            "name": it.path.rsplit('/').next(),
            "path": it.path,
            "type_id": 1,
            "uid": it.inode.map(|inode| inode.to_string()),
            "size": it.size_bytes,
            "is_deleted": it.deleted.then_some(true),
            "hashes": it.sha256.map(|value| [json!({ "algorithm_id": 3, "algorithm": "SHA-256", "value": value })]),
        })
    });
    (process.is_some() || file.is_some()).then(|| json!({ "process": process, "file": file }))
}

fn network(alert: &Alert, flow: &FlowViolation) -> Map<String, Value> {
    let stopped = stops(&flow.verdict);
    // 5 is refused, 6 is traffic.
    let (activity, name) = if stopped { (5, "Refuse") } else { (6, "Traffic") };
    let (direction_id, direction) = match flow.direction.as_str() {
        "in" => (1, "Inbound"),
        "out" => (2, "Outbound"),
        _ => (0, "Unknown"),
    };
    let (action_id, action) = if stopped { (2, "Denied") } else { (3, "Observed") };
    let (disposition_id, disposition) = if stopped { (2, "Blocked") } else { (17, "Logged") };
    let process = fields::process(alert)
        .map(|it| json!({ "process": { "pid": it.pid, "name": it.name, "path": it.path } }));
    let mut event = class(4001, "Network Activity", "Network Activity", activity, name);
    event.extend(object(json!({
        "src_endpoint": endpoint(flow.source.map(|ip| ip.to_string()), flow.source_port),
        "dst_endpoint": endpoint(flow.destination.map(|ip| ip.to_string()), flow.destination_port),
        "connection_info": { "direction_id": direction_id, "direction": direction, "protocol_name": flow.protocol },
        "action_id": action_id,
        "action": action,
        "disposition_id": disposition_id,
        "disposition": disposition,
        "firewall_rule": { "name": flow.rule },
        "actor": process,
        "is_alert": true,
    })));
    event
}

/// The class wants something of an endpoint, even where a frame lied about who sent it.
fn endpoint(ip: Option<String>, port: Option<u16>) -> Value {
    match ip {
        Some(ip) => json!({ "ip": ip, "port": port }),
        None => json!({ "name": "unknown", "port": port }),
    }
}

fn other(alert: &Alert) -> Map<String, Value> {
    let mut event = class(0, "Base Event", "Uncategorized", 99, alert.kind());
    let status = match &alert.about {
        About::Health(health) => Some(health.state.as_str()),
        About::Response(response) => Some(response.action.as_str()),
        _ => None,
    };
    event.extend(object(json!({ "status_detail": status })));
    event
}

fn class(uid: u64, name: &str, category: &str, activity: u64, activity_name: &str) -> Map<String, Value> {
    object(json!({
        "class_uid": uid,
        "class_name": name,
        "category_uid": uid / 1000,
        "category_name": category,
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": uid * 100 + activity,
        "type_name": format!("{name}: {activity_name}"),
    }))
}

fn unmapped(alert: &Alert) -> Value {
    let said =
        ["id", "time_ms", "first_seen_ms", "last_seen_ms", "count", "vm", "severity", "summary", "technique"];
    Value::Object(fields::own(alert, &said))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
