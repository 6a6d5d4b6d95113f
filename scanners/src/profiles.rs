//! A guest whose memory tells otherwise of its kernel than the profile that the admin trusts.
//!
//! *Sees*: a symbol redirected in kallsyms, a member shifted in BTF, both forged to mislead who looks from outside.
//! *Evaded by*: a forgery of what the trusted profile does not hold.
//! *False positives*: a trusted profile of another build under the same banner and build id: none known.
//! ATT&CK T1014, Rootkit.

use crate::{Finding, Severity, Subject};
use lynceus_profiles::compare::{Disagreement, Disagreements};

/// A finding for each disagreement that was kept.
pub fn profile_disagreements(found: &Disagreements) -> Vec<Finding> {
    found.kept.iter().map(finding).collect()
}

fn finding(disagreement: &Disagreement) -> Finding {
    let symbol = match disagreement {
        Disagreement::Symbol { name, .. } => name,
        Disagreement::Size { ty, .. } => ty,
        Disagreement::Member { path, .. } => path,
    };
    let summary = format!("the kernel in memory is not the one it claims to be: {disagreement}");
    let subject = Subject::Profile { symbol: symbol.clone() };
    Finding::new("profile_disagreement", "T1014", Severity::High, summary, subject)
        .seen(&["guest memory"], &["trusted profile"])
}
