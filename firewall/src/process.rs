//! Which process of a VM is behind a connection, as far as the host knows, and whether a rule means it.
//!
//! *Trusts*: nothing of it more than the guest's kernel can be trusted: what a process is called, and what it was started from, is read
//! out of guest memory. *Never*: lets pass what is not known; a rule may say otherwise, for itself.

use lynceus_policy::{Action, ProcessEntry, Rule, Verdict};
use serde::{Deserialize, Serialize};

/// A process of a VM.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, as the guest wrote it.
    pub comm: String,
    /// The path that it was started from, as `/proc/PID/exe` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Its effective user.
    pub uid: u32,
    /// Its container's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl Process {
    /// The process that a policy's test tells of.
    pub fn of(entry: &ProcessEntry) -> Process {
        let ProcessEntry { exe, uid, container, .. } = entry.clone();
        Process { pid: 0, comm: String::new(), exe, uid: uid.unwrap_or(0), container }
    }
}

/// Who is behind a connection.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Nobody has looked yet.
    #[default]
    Unasked,
    /// It was looked for, and no process was found, or not for certain.
    Unknown,
    /// It was not found in time.
    TimedOut,
    /// All processes that hold the socket; one at least.
    Known(Vec<Process>),
}

impl Who {
    /// What a flow event says of it.
    pub fn name(&self) -> &'static str {
        match self {
            Who::Unasked => "unasked",
            Who::Unknown => "unknown",
            Who::TimedOut => "timeout",
            Who::Known(_) => "known",
        }
    }

    /// The processes.
    pub fn processes(&self) -> &[Process] {
        match self {
            Who::Known(all) => all,
            Who::Unasked | Who::Unknown | Who::TimedOut => &[],
        }
    }
}

/// Whether a rule's process is behind a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meant {
    /// It is, or the rule is for any.
    Yes,
    /// It is not.
    No,
    /// Nobody has looked: nothing passes until somebody has.
    NotYet,
    /// It is not known, and the rule says what happens then.
    Answer(Verdict),
}

/// Of a socket that several processes hold, any of them may send: a rule that opens means all of them, one that closes any.
pub(crate) fn meant(rule: &Rule, who: &Who) -> Meant {
    let Some(entry) = &rule.process else { return Meant::Yes };
    let answer = |verdict: Option<Verdict>| Meant::Answer(verdict.unwrap_or(Verdict::Deny));
    let all = match who {
        Who::Unasked => return Meant::NotYet,
        Who::Unknown => return answer(entry.unknown),
        Who::TimedOut => return answer(entry.timeout),
        Who::Known(all) => all,
    };
    let is_meant = match rule.action {
        Action::Allow | Action::Pass => !all.is_empty() && all.iter().all(|process| is_it(entry, process)),
        Action::Deny | Action::Reject => all.iter().any(|process| is_it(entry, process)),
    };
    if is_meant { Meant::Yes } else { Meant::No }
}

/// What a rule does not say may be anything.
fn is_it(entry: &ProcessEntry, process: &Process) -> bool {
    let is = |wanted: &Option<String>, there: &Option<String>| wanted.is_none() || wanted == there;
    is(&entry.exe, &process.exe)
        && is(&entry.container, &process.container)
        && entry.uid.is_none_or(|uid| uid == process.uid)
}

#[cfg(test)]
mod tests {
    use crate::evaluate::{By, Moment, asks, judge};
    use crate::packet::Flow;
    use crate::process::{Process, Who};
    use lynceus_policy::{Direction, Folder, Lane, Policy, Timestamp, Verdict};

    /// What comes of a connection to TCP 443, and the rule that decided.
    fn decide(rules: &str, who: &Who) -> (Verdict, String, bool) {
        let text = format!(
            "[vm.a]\n[[vm.a.interface]]\nmac='52:54:00:00:00:01'\naddresses=['10.0.0.1']\n[policy.p]\nvms=['a']\n{rules}"
        );
        let folder = Folder::parse(vec![("p.toml".to_owned(), text)]).unwrap();
        let policy = Policy::of(&folder).unwrap();
        let (source, destination) = ("10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let flow = Flow { source, destination, lane: Lane::Tcp, number: 443 };
        let moment = Moment { who: who.clone(), ..Moment::at(Timestamp(0)) };
        let decision = judge(&policy.vms["a"], Direction::Out, &flow, &moment);
        let by = match &decision.by {
            By::Rule(rule) => rule.id.clone(),
            By::Default(_) => "default".to_owned(),
        };
        (decision.verdict, by, asks(&policy.vms["a"], Direction::Out, &flow, &moment))
    }

    fn process(exe: &str, uid: u32) -> Process {
        Process { pid: 7, comm: "x".to_owned(), exe: Some(exe.to_owned()), uid, container: None }
    }

    const BROWSER: &str =
        "[[policy.p.rule]]\nname='browser'\ndirection='out'\naction='allow'\nprocess={exe='/b',uid=1000}\n";
    const ANY: &str = "[[policy.p.rule]]\nname='any'\ndirection='out'\naction='allow'\n";

    #[test]
    fn a_known_process_is_let_out_and_another_is_not() {
        let known = |exe, uid| Who::Known(vec![process(exe, uid)]);
        assert_eq!(decide(BROWSER, &known("/b", 1000)).0, Verdict::Allow);
        for other in [known("/c", 1000), known("/b", 0), Who::Known(Vec::new())] {
            assert_eq!(decide(BROWSER, &other), (Verdict::Deny, "default".to_owned(), true));
        }
    }

    #[test]
    fn a_shared_socket_is_let_out_only_for_all_and_stopped_for_any() {
        let both = Who::Known(vec![process("/b", 1000), process("/c", 1000)]);
        assert_eq!(decide(BROWSER, &both).0, Verdict::Deny);
        let stops = format!(
            "[[policy.p.rule]]\nname='stop'\ndirection='out'\naction='reject'\nprocess={{exe='/c'}}\n{ANY}"
        );
        assert_eq!(decide(&stops, &both), (Verdict::Reject, "p/stop".to_owned(), true));
        assert_eq!(decide(&stops, &Who::Known(vec![process("/b", 1000)])).0, Verdict::Allow);
    }

    #[test]
    fn what_is_not_known_has_an_answer_of_its_own() {
        let both = format!("{BROWSER}{ANY}");
        for who in [Who::Unasked, Who::Unknown, Who::TimedOut] {
            assert_eq!(decide(&both, &who), (Verdict::Deny, "p/browser".to_owned(), true), "{who:?}");
        }
        let said = "[[policy.p.rule]]\nname='r'\ndirection='out'\naction='allow'\nprocess={uid=1,unknown='allow',timeout='reject'}\n";
        assert_eq!(decide(said, &Who::Unknown).0, Verdict::Allow);
        assert_eq!(decide(said, &Who::TimedOut).0, Verdict::Reject);
        assert_eq!(decide(said, &Who::Unasked).0, Verdict::Deny);
        let audited = "mode='audit'\ndefault={out='allow'}\n[[policy.p.rule]]\nname='r'\ndirection='out'\naction='deny'\nprocess={uid=1}\n";
        assert_eq!(decide(audited, &Who::Unknown).0, Verdict::Allow);
    }

    #[test]
    fn nobody_is_asked_about_what_an_earlier_rule_decides() {
        let (verdict, by, asked) = decide(&format!("{ANY}{BROWSER}"), &Who::Unasked);
        assert_eq!((verdict, by.as_str(), asked), (Verdict::Allow, "p/any", false));
    }
}
