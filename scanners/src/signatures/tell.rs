//! What a person is told of a match.

use super::content::Content;
use super::engine::{Hit, StringHit};
use super::walk::Job;
use super::{HASH_NAME, NAME, RuleMatch, StringMatch, Summary, TECHNIQUE};
use crate::{Finding, Severity, Subject, hex};
use std::borrow::Cow;

/// Longest match that is told, in bytes.
const MAX_MATCH_BYTES: u64 = 128;
/// Bytes told on either side of a match.
const AROUND_BYTES: u64 = 64;
/// Impair Defenses: Disable or Modify Tools.
const STARVING_TECHNIQUE: &str = "T1562.001";
/// User Execution: Malicious File.
const DENIED_TECHNIQUE: &str = "T1204.002";

/// A rule that matched in a region.
pub(super) fn finding(hit: &Hit, job: &Job, content: &Content, sha256: Option<String>) -> Finding {
    let rule = RuleMatch {
        rule: hit.rule.name.clone(),
        namespace: hit.rule.namespace.clone(),
        tags: hit.rule.tags.clone(),
        meta: hit.rule.meta.clone(),
        strings: hit.strings.iter().map(|string| of_string(string, job.layout.start, content)).collect(),
        scanned_bytes: content.present_bytes(),
        region_bytes: job.layout.region_bytes(),
        sha256,
    };
    let meta = |name: &str| {
        rule.meta.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let technique = meta("attack")
        .or_else(|| meta("mitre_attack"))
        .map_or(TECHNIQUE.into(), |told| Cow::Owned(told.clone()));
    let at = rule.strings.first().map_or_else(String::new, |found| format!(" at {:#x}", found.address));
    let summary = format!("rule {} matches{at} in {}", rule.rule, place(&job.subject));
    let severity = severity(meta("severity").map(String::as_str));
    Finding { rule: Some(rule), ..Finding::new(NAME, technique, severity, summary, job.subject.clone()) }
}

/// A file whose hash is on the list of those that must not be.
pub(super) fn denied(subject: Subject) -> Finding {
    let summary = format!("denied by its hash: {}", place(&subject));
    Finding::new(HASH_NAME, DENIED_TECHNIQUE, Severity::High, summary, subject)
}

/// The guest keeps the scanner busy.
pub(super) fn starving(summary: &Summary, gap: Option<u64>) -> Finding {
    let start = gap.unwrap_or(0);
    let text = format!(
        "the guest starves the scanner: {} of {} regions used up their time, the first of them at {start:#x}",
        summary.cut_regions, summary.regions
    );
    let path = "memory that is slow to scan".to_owned();
    let subject =
        Subject::Memory { pid: None, comm: None, cgroup: None, container: None, start, end: start, path };
    Finding::new(NAME, STARVING_TECHNIQUE, Severity::Medium, text, subject)
}

fn of_string(found: &StringHit, start: u64, content: &Content) -> StringMatch {
    let end = found.offset.saturating_add(found.len);
    let bytes = content.bytes(found.offset, end.min(found.offset.saturating_add(MAX_MATCH_BYTES)));
    let before = content.bytes(found.offset.saturating_sub(AROUND_BYTES), found.offset);
    let behind = content.bytes(end, end.saturating_add(AROUND_BYTES));
    StringMatch {
        name: found.name.clone(),
        address: start.saturating_add(found.offset),
        len_bytes: found.len,
        bytes: hex(bytes),
        text: text(bytes),
        around: (hex(before), hex(behind)),
        around_text: (text(before), text(behind)),
    }
}

fn place(subject: &Subject) -> String {
    match subject {
        Subject::Memory { pid: Some(pid), comm: Some(comm), container, start, path, .. } => {
            let within = container.as_deref().map_or_else(String::new, |id| format!(" in container {id}"));
            if path.is_empty() {
                format!("process {pid} ({comm}){within}, anonymous memory at {start:#x}")
            } else {
                format!("process {pid} ({comm}){within}, {path}")
            }
        }
        Subject::Memory { path, .. } => path.clone(),
        Subject::File { path, fs, inode, deleted, .. } => {
            let name = if path.is_empty() { format!("inode {inode}") } else { path.clone() };
            format!("file {name} on {fs}{}", if *deleted { ", deleted" } else { "" })
        }
        _ => String::new(),
    }
}

/// What a rule says of itself, in words or as a number up to 100 as field rules have it.
pub(super) fn severity(told: Option<&str>) -> Severity {
    match told.map(str::to_ascii_lowercase).as_deref() {
        Some("low" | "info" | "informational") => Severity::Low,
        Some("medium") => Severity::Medium,
        Some("critical") => Severity::Critical,
        Some(text) => match text.parse::<u32>() {
            Ok(0..40) => Severity::Low,
            Ok(40..70) => Severity::Medium,
            Ok(90..) => Severity::Critical,
            _ => Severity::High,
        },
        None => Severity::High,
    }
}

/// Printable ASCII as it is, all else escaped: the bytes are the guest's.
fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
