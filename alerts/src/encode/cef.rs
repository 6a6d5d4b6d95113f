//! Common Event Format, version 0 (ArcSight's "Implementing CEF", revision 27).
//!
//! *Does*: header and extension, each with its own escapes; every value as long as its key may be.
//! *Never*: lets a value end a field or begin another one. Control characters, and those that turn the direction of text, are written out.

use super::ecs::stops;
use super::{Origin, acts, fields};
use crate::alert::{About, Alert};
use lynceus_scanners::{Severity, Subject};
use std::fmt::Write;

/// The longest name in the header: the specification says 512 characters.
const MAX_HEADER_BYTES: usize = 512;

/// The alert as a line.
pub(super) fn line(alert: &Alert, origin: &Origin) -> String {
    let mut line = String::from("CEF:0");
    let severity = number(alert.severity()).to_string();
    for part in
        ["Lynceus", "Lynceus", origin.version, fields::code(alert), alert.summary(), severity.as_str()]
    {
        line.push('|');
        line.push_str(&header(part));
    }
    line.push('|');
    let extension = Extension(Vec::new()).common(alert, origin).about(alert);
    line.push_str(&extension.0.join(" "));
    line
}

struct Extension(Vec<String>);

impl Extension {
    fn common(self, alert: &Alert, origin: &Origin) -> Extension {
        let sequence = alert.sequence.map(|sequence| sequence.to_string());
        self.text("externalId", Some(&alert.id), 40)
            .text("rt", Some(&alert.time_ms.to_string()), 20)
            .text("start", Some(&alert.first_seen_ms.to_string()), 20)
            .text("end", Some(&alert.last_seen_ms.to_string()), 20)
            .text("cnt", Some(&alert.count.to_string()), 20)
            .text("cat", Some(alert.kind()), 1023)
            .text("dvchost", Some(&origin.hostname), 100)
            .text("dhost", alert.vm.as_deref(), 1023)
            .text("msg", Some(alert.summary()), 1023)
            .labelled("cs1", "sequence", sequence.as_deref())
            .labelled("cs2", "technique", alert.technique())
            .labelled("cs3", "evidence", alert.evidence.as_deref())
            .process(alert)
            .file(alert)
    }
    fn about(self, alert: &Alert) -> Extension {
        match &alert.about {
            About::Detection(finding) => {
                let rule = finding.rule.as_ref().map(|rule| format!("{} ({})", rule.rule, rule.namespace));
                self.labelled("cs4", "rule", rule.as_deref())
                    .labelled("cs5", "seenIn", Some(&finding.seen_in.join(", ")))
                    .labelled("cs6", "missingFrom", Some(&finding.missing_from.join(", ")))
                    .text("destinationServiceName", subject(&finding.subject).as_deref(), 1023)
            }
            About::Policy(violation) => self.labelled("cs4", "rule", Some(&violation.rule)).labelled(
                "cs5",
                "policy",
                Some(&violation.policy),
            ),
            About::Flow(flow) => self
                .text("act", Some(&flow.verdict), 63)
                .text("outcome", Some(if stops(&flow.verdict) { "failure" } else { "success" }), 63)
                .text("proto", Some(&flow.protocol), 31)
                .address("src", "c6a2", "Source IPv6 Address", flow.source)
                .text("spt", flow.source_port.map(|port| port.to_string()).as_deref(), 5)
                .address("dst", "c6a3", "Destination IPv6 Address", flow.destination)
                .text("dpt", flow.destination_port.map(|port| port.to_string()).as_deref(), 5)
                .text("deviceDirection", direction(&flow.direction), 1)
                .labelled("cs4", "rule", Some(&flow.rule)),
            About::Health(health) => self
                .text("act", Some(&health.state), 63)
                .labelled("cs4", "component", Some(&health.component))
                .labelled("cs5", "what", Some(&health.what)),
            About::Response(response) => self
                .text("act", Some(&response.action), 63)
                .text("reason", Some(&response.reason), 1023)
                .labelled("cs4", "decidedBy", Some(&response.decided_by)),
        }
    }
    fn process(self, alert: &Alert) -> Extension {
        let process = fields::process(alert).unwrap_or_default();
        self.text("dpid", process.pid.map(|pid| pid.to_string()).as_deref(), 10).text(
            "dproc",
            process.path.or(process.name),
            1023,
        )
    }
    fn file(self, alert: &Alert) -> Extension {
        let Some(file) = fields::file(alert) else { return self };
        self.text("filePath", Some(file.path), 1023)
            .text("fsize", file.size_bytes.map(|size| size.to_string()).as_deref(), 20)
            .text("fileId", file.inode.map(|inode| inode.to_string()).as_deref(), 1023)
            .text("fileHash", file.sha256, 255)
    }
    fn text(mut self, key: &str, value: Option<&str>, max_bytes: usize) -> Extension {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.0.push(format!("{key}={}", escaped(value, max_bytes)));
        }
        self
    }
    fn labelled(self, key: &str, label: &str, value: Option<&str>) -> Extension {
        let Some(value) = value.filter(|value| !value.is_empty()) else { return self };
        self.text(&format!("{key}Label"), Some(label), 1023).text(key, Some(value), 4000)
    }
    /// `src` and `dst` are for IPv4 only.
    fn address(self, v4: &str, v6: &str, label: &str, ip: Option<std::net::IpAddr>) -> Extension {
        match ip {
            Some(ip) if ip.is_ipv4() => self.text(v4, Some(&ip.to_string()), 15),
            ip => self.labelled(v6, label, ip.map(|ip| ip.to_string()).as_deref()),
        }
    }
}

/// What of a finding's subject has no key of its own.
fn subject(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Module { name, .. } => Some(format!("module {name}")),
        Subject::Kernel { symbol, .. } => Some(format!("kernel {symbol}")),
        Subject::Socket { protocol, local, remote, .. } => {
            Some(format!("socket {protocol} {local} {remote}"))
        }
        Subject::Profile { symbol } => Some(format!("profile {symbol}")),
        Subject::Task { .. } | Subject::File { .. } | Subject::Memory { .. } => None,
    }
}

fn direction(word: &str) -> Option<&'static str> {
    match word {
        "in" => Some("0"),
        "out" => Some("1"),
        _ => None,
    }
}

/// In the header a line break cannot be escaped: it is a space.
fn header(value: &str) -> String {
    bounded(value, MAX_HEADER_BYTES, |out, character| match character {
        '\n' | '\r' => out.push(' '),
        '\\' | '|' => out.extend(['\\', character]),
        other => push(out, other),
    })
}

fn escaped(value: &str, max_bytes: usize) -> String {
    bounded(value, max_bytes, |out, character| match character {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\\' | '=' => out.extend(['\\', character]),
        other => push(out, other),
    })
}

/// As many characters, escaped, as fit. No escape is cut in two.
fn bounded(value: &str, max_bytes: usize, escape: impl Fn(&mut String, char)) -> String {
    let mut out = String::new();
    for character in value.chars() {
        let before = out.len();
        escape(&mut out, character);
        if out.len() > max_bytes {
            out.truncate(before);
            break;
        }
    }
    out
}

/// A character that could do something to a terminal or a line is written as its number, behind an escaped backslash.
fn push(out: &mut String, character: char) {
    if acts(character) {
        // Writing into a string cannot fail.
        write!(out, "\\\\u{:04x}", u32::from(character)).ok();
    } else {
        out.push(character);
    }
}

fn number(severity: Severity) -> u8 {
    match severity {
        Severity::Low => 3,
        Severity::Medium => 5,
        Severity::High => 8,
        Severity::Critical => 10,
    }
}
