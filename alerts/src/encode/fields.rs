//! What several formats take from an alert in the same way.
//!
//! *Does*: names the process, the file and the views of a finding; leaves out what is not there.
//! *Never*: escapes anything: that differs from format to format.

use crate::alert::{About, Alert};
use lynceus_scanners::Subject;
use serde_json::{Map, Value};

/// What identifies this very telling of the alert: unlike the id, no two alerts share it.
pub(super) fn unique(alert: &Alert) -> String {
    alert.sequence.map_or_else(|| alert.id.clone(), |sequence| format!("{}-{sequence}", alert.id))
}

/// What kind of fact it is, more closely than its kind: the detector, the verdict, the action.
pub(super) fn code(alert: &Alert) -> &str {
    match &alert.about {
        About::Detection(finding) => &finding.detector,
        About::Policy(_) => "policy_violation",
        About::Flow(flow) => &flow.verdict,
        About::Health(health) => &health.what,
        About::Response(response) => &response.action,
    }
}

/// A process of the guest.
#[derive(Default)]
pub(super) struct Process<'a> {
    pub(super) pid: Option<u32>,
    pub(super) thread: Option<u32>,
    pub(super) name: Option<&'a str>,
    pub(super) path: Option<&'a str>,
}

/// The process that an alert is about.
pub(super) fn process(alert: &Alert) -> Option<Process<'_>> {
    match &alert.about {
        About::Detection(finding) => match &finding.subject {
            Subject::Task { pid, tgid, comm, .. } => {
                Some(Process { pid: Some(*tgid), thread: Some(*pid), name: Some(comm), path: None })
            }
            Subject::Memory { pid: Some(pid), comm, .. } => {
                Some(Process { pid: Some(*pid), name: comm.as_deref(), ..Process::default() })
            }
            _ => None,
        },
        About::Flow(flow) => flow.process.as_ref().map(|process| Process {
            pid: Some(process.pid),
            thread: None,
            name: Some(&process.comm),
            path: process.path.as_deref(),
        }),
        _ => None,
    }
}

/// A file of the guest.
pub(super) struct GuestFile<'a> {
    pub(super) path: &'a str,
    pub(super) inode: Option<u64>,
    pub(super) size_bytes: Option<u64>,
    pub(super) deleted: bool,
    pub(super) sha256: Option<&'a str>,
}

/// The file that an alert is about.
pub(super) fn file(alert: &Alert) -> Option<GuestFile<'_>> {
    match &alert.finding()?.subject {
        Subject::File { path, inode, size_bytes, deleted, sha256, .. } => Some(GuestFile {
            path,
            inode: Some(*inode),
            size_bytes: Some(*size_bytes),
            deleted: *deleted,
            sha256: sha256.as_deref(),
        }),
        Subject::Memory { path, .. } if path.starts_with('/') => {
            Some(GuestFile { path, inode: None, size_bytes: None, deleted: false, sha256: None })
        }
        _ => None,
    }
}

/// The alert's own fields but for those in `said`. Addresses are text: half of them are larger than a signed number, which is what Elastic
/// and Parquet have.
pub(super) fn own(alert: &Alert, said: &[&str]) -> Map<String, Value> {
    let Ok(Value::Object(mut all)) = serde_json::to_value(alert) else { return Map::new() };
    all.retain(|name, _| !said.contains(&name.as_str()));
    if let Some(Value::Object(subject)) = all.get_mut("subject") {
        for name in ["address", "base", "start", "end"] {
            if let Some(field) = subject.get_mut(name) {
                *field = field.as_u64().map_or(Value::Null, |address| format!("{address:#x}").into());
            }
        }
    }
    all
}

/// `value` without what is null, and without objects and lists that are empty then.
pub(super) fn pruned(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().map(|(name, field)| (name, pruned(field)));
            Value::Object(kept.filter(|(_, field)| !is_empty(field)).collect())
        }
        Value::Array(items) => {
            Value::Array(items.into_iter().map(pruned).filter(|item| !is_empty(item)).collect())
        }
        other => other,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
