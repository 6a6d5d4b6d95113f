//! What the pipeline says of itself.
//!
//! *Does*: words the alerts about the spool and the sinks.
//! *Never*: goes through the funnel: each of these is told once for each change, by whoever sees it.

use crate::alert::{About, Alert, Health};
use crate::spool::Damage;
use lynceus_scanners::Severity;
use std::time::SystemTime;

fn health(component: &str, what: &str, state: &str, severity: Severity, summary: String) -> Alert {
    let about = About::Health(Health {
        component: component.to_owned(),
        what: what.to_owned(),
        state: state.to_owned(),
        severity,
        summary,
    });
    Alert::about(None, about, SystemTime::now())
}

/// Records are lost.
pub(crate) fn damaged(damage: &Damage) -> Alert {
    let Damage { file, offset, len_bytes, torn } = damage;
    let place = format!("{len_bytes} bytes at offset {offset} of {}", file.display());
    let (state, severity, summary) = if *torn {
        (
            "torn",
            Severity::Medium,
            format!("writing was interrupted: {place} were no whole record and are cut off"),
        )
    } else {
        ("damaged", Severity::High, format!("alerts are lost: {place} are damaged and were skipped"))
    };
    health("spool", &format!("{} {offset}", file.display()), state, severity, summary)
}

/// Alerts cannot be written, or could not.
pub(crate) fn refused(count: u64, reason: &str, still: bool) -> Alert {
    let (state, severity, summary) = if still {
        ("refusing", Severity::Critical, format!("{count} alerts could not be kept so far: {reason}"))
    } else {
        ("writing", Severity::High, format!("alerts are kept again; {count} could not be: {reason}"))
    };
    let mut alert = health("spool", "space", state, severity, summary);
    alert.count = count.max(1);
    alert
}

/// A sink does not take alerts.
pub(crate) fn down(sink: &str, since: &str, reason: &str) -> Alert {
    let summary = format!("alerts have not reached the sink {sink} for {since}: {reason}");
    health(&format!("sink {sink}"), "delivery", "down", Severity::High, summary)
}

/// A sink refuses us, or we refuse it: waiting will not help.
pub(crate) fn untrusted(sink: &str, reason: &str) -> Alert {
    let summary = format!("no alert can reach the sink {sink} until an admin acts: {reason}");
    health(&format!("sink {sink}"), "delivery", "refused", Severity::High, summary)
}

/// The spool was full, and did not wait for a sink.
pub(crate) fn missed(sink: &str, count: u64) -> Alert {
    let summary = format!(
        "the spool is full: up to {count} alerts were left out for the sink {sink}; others have them"
    );
    let mut alert = health(&format!("sink {sink}"), "delivery", "missed", Severity::High, summary);
    alert.count = count.max(1);
    alert
}

/// A sink takes alerts again.
pub(crate) fn back(sink: &str) -> Alert {
    let summary = format!("alerts reach the sink {sink} again");
    health(&format!("sink {sink}"), "delivery", "back", Severity::Low, summary)
}

/// A sink will never take some alerts.
pub(crate) fn rejected(sink: &str, count: u64, example: &str) -> Alert {
    let summary = format!("the sink {sink} rejected {count} alerts for good; the first: {example}");
    let mut alert = health(&format!("sink {sink}"), "rejected", "rejected", Severity::High, summary);
    alert.count = count.max(1);
    alert
}
