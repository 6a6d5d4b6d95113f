//! Helper programs: what the kernel starts as root by itself.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Partial};

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "helper_program",
    technique: "T1574",
    about: "programs that the kernel starts as root, in places where others may write",
    limits: Limits {
        sees: "a modprobe_path, poweroff_cmd or piped core_pattern that names a program in a place that others may write to, or another program than the kernel's default",
        evaded_by: "a change of the program that is named",
        false_positives: "a crash handler of the admin's own in /tmp, /var/tmp, /dev or /home",
    },
    next: "what lies at that path in the guest, and who wrote it; an exploit that can write one string of the kernel gets root this way",
    run: helper_programs,
};

/// Symbols of such paths, and how the program's name must end where there is but one of its kind.
const PATHS: [(&str, Option<&str>); 3] =
    [("modprobe_path", Some("/modprobe")), ("poweroff_cmd", Some("/poweroff")), ("core_pattern", None)];
/// Where no such program belongs.
const WRITABLE: [&str; 6] = ["/tmp/", "/var/tmp/", "/dev/", "/home/", "/run/user/", "/proc/"];

/// Paths that lead to a program that should not be there.
pub fn helper_programs(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    guest.observe(options, look).result
}

fn look(view: &View<'_>) -> Partial<Finding> {
    let mut found = Partial::default();
    for (symbol, ending) in PATHS {
        let text = match view.kernel_string(symbol) {
            Ok(text) => text,
            // A kernel without modules has no modprobe.
            Err(GapReason::Unavailable(_)) => continue,
            Err(why) => {
                found.gap("helper program", view.kernel().symbol(symbol).ok(), why);
                continue;
            }
        };
        let Some(why) = suspicion(symbol, ending, &text) else { continue };
        let address = view.kernel().symbol(symbol).unwrap_or_default().0;
        let summary = format!("the kernel starts {text:?} as root ({symbol}): {why}");
        let subject = Subject::Kernel { symbol: symbol.to_owned(), address, value: text };
        found.items.push(DETECTOR.finding(Severity::High, summary, subject));
    }
    found
}

fn suspicion(symbol: &str, ending: Option<&str>, text: &str) -> Option<&'static str> {
    let program = match symbol {
        // Without a pipe it is the name of a file.
        "core_pattern" => text.strip_prefix('|')?.trim_start(),
        _ => text,
    };
    let program = program.split_whitespace().next().unwrap_or_default();
    if program.is_empty() {
        // An admin may switch module loading off so.
        return None;
    }
    if !program.starts_with('/') {
        return Some("not an absolute path");
    }
    if WRITABLE.iter().any(|folder| program.starts_with(folder)) || program.contains("/../") {
        return Some("a place that others may write to");
    }
    ending
        .filter(|ending| !program.ends_with(ending))
        .map(|_| "another program than the kernel's own default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_distributions_set_is_no_finding() {
        for (symbol, ending, text) in [
            ("modprobe_path", Some("/modprobe"), "/sbin/modprobe"),
            ("modprobe_path", Some("/modprobe"), "/run/current-system/sw/bin/modprobe"),
            ("modprobe_path", Some("/modprobe"), ""),
            ("poweroff_cmd", Some("/poweroff"), "/sbin/poweroff"),
            ("core_pattern", None, "core"),
            ("core_pattern", None, "/tmp/core.%p"),
            ("core_pattern", None, "|/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h"),
            ("core_pattern", None, "|/usr/share/apport/apport -p%p"),
        ] {
            assert_eq!(suspicion(symbol, ending, text), None, "{text}");
        }
        for (symbol, ending, text) in [
            ("modprobe_path", Some("/modprobe"), "/tmp/modprobe"),
            ("modprobe_path", Some("/modprobe"), "/usr/bin/python3"),
            ("modprobe_path", Some("/modprobe"), "modprobe"),
            ("core_pattern", None, "|/dev/shm/x %P"),
            ("core_pattern", None, "|/usr/bin/../../tmp/modprobe"),
            ("core_pattern", None, "| /proc/%P/fd/666"),
        ] {
            assert!(suspicion(symbol, ending, text).is_some(), "{text}");
        }
    }
}
