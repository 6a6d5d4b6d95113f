//! By what an alert is recognised.
//!
//! *Does*: digests what makes two alerts the same one.
//! *Never*: takes time into it, but for what the appliance did: every act is a fact of its own.

use crate::alert::About;
use lynceus_scanners::Finding;

/// The id of an alert for what was found in `vm`: 32 hexadecimal digits.
pub fn id(vm: &str, finding: &Finding) -> String {
    let subject = format!("{:?}", finding.subject);
    let rule =
        finding.rule.as_ref().map_or_else(String::new, |rule| format!("{} {}", rule.namespace, rule.rule));
    digest(&[vm, &finding.detector, &subject, &rule])
}

/// The id of any alert. A sender's port is left out: each connection has another one.
pub(crate) fn of(vm: &str, about: &About, time_ms: u64) -> String {
    match about {
        About::Detection(finding) => id(vm, finding),
        About::Policy(it) => digest(&["policy", vm, &it.policy, &it.rule, &it.summary]),
        About::Flow(it) => {
            let ends = format!("{:?} {:?} {:?}", it.source, it.destination, it.destination_port);
            digest(&["flow", vm, &it.direction, &it.protocol, &ends, &it.verdict, &it.rule])
        }
        About::Health(it) => digest(&["health", vm, &it.component, &it.what]),
        About::Response(it) => {
            digest(&["response", vm, &it.action, &it.decided_by, &it.reason, &time_ms.to_string()])
        }
    }
}

/// Length-prefixed: no two different lists of parts join to the same bytes.
fn digest(parts: &[&str]) -> String {
    let mut digest = blake3::Hasher::new();
    for part in parts {
        digest.update(&(part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().to_hex().get(..32).unwrap_or_default().to_owned()
}
