//! Odd executables: programs that run from no file, from a file that is gone, from shared memory, or as a kernel thread.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::{each, is_gone, places, subject};
use crate::{Detector, Finding, Limits, Severity};
use lynceus_introspect::linux::{LinuxGuest, Mm, Task, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gva, Partial};

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "odd_executable",
    technique: "T1036",
    about: "processes run from memory, from deleted files, from /dev/shm, or under a kernel thread's name",
    limits: Limits {
        sees: "a process executed from a memfd, from a file below /dev, or from one that was deleted and not replaced; one whose first argument is the name of a kernel thread",
        evaded_by: "a deleted program with another hard link, or in a system folder of a disk whose directory cache has forgotten the name; a loader that maps the program itself",
        false_positives: "a program removed while its service runs; a self-copying sandbox other than runc's and crun's",
    },
    next: "lynceus maps --pid and files --pid; the program itself is still in the page cache: lynceus scan --scope files, or lynceus dump",
    run: odd_executables,
};

/// Names of memfds that container runtimes run themselves from, so that a container cannot write to them (CVE-2019-5736). Believed
/// only of a process that is still the runtime.
const RUNTIMES: [(&str, &str); 2] = [("/memfd:runc_cloned:", "runc"), ("/memfd:crun_", "crun")];

/// Processes that run from where no program should.
pub fn odd_executables(guest: &LinuxGuest, options: &Options) -> Partial<Finding> {
    let threads = guest.observe(options, |view| view.tasks()).result;
    let threads: Vec<String> =
        threads.items.into_iter().filter(|task| task.kthread).map(|task| task.comm).collect();
    each(guest, options, |view, task, mm| look(view, task, mm, &threads))
}

fn look(view: &View<'_>, task: &Task, mm: &Mm, threads: &[String]) -> Partial<Finding> {
    let mut found = Partial::default();
    let arguments = view.cmdline(mm);
    let first = found.ok("arguments", mm.args.0, arguments).and_then(|all| all.into_iter().next());
    if let Some(name) = first.filter(|name| is_name_of_thread(name, threads)) {
        let summary = format!("process {} ({}) calls itself {name}, as a kernel thread", task.pid, task.comm);
        let finding = DETECTOR.finding(Severity::High, summary, subject(task));
        found.items.push(Finding { technique: "T1036.004".into(), ..finding });
    }
    let place = view.exe(mm);
    let Some(Some(path)) = found.ok("executable", mm.at, place) else { return found };
    let odd = oddity(view, task, mm.exe_file, &path);
    if let Some(Some((severity, technique, what))) = found.ok("executable", mm.exe_file, odd) {
        let summary = format!("process {} ({}) runs {what}: {path}", task.pid, task.comm);
        let finding = DETECTOR.finding(severity, summary, subject(task));
        found.items.push(Finding { technique: technique.into(), ..finding });
    }
    found
}

type Oddity = (Severity, &'static str, &'static str);

fn oddity(view: &View<'_>, task: &Task, file: Gva, path: &str) -> Result<Option<Oddity>, GapReason> {
    if path.starts_with("/memfd:") {
        let known = |(start, comm): &(&str, &str)| path.starts_with(start) && task.comm.starts_with(comm);
        let odd = (Severity::High, "T1620", "from memory, without a file");
        return Ok((!RUNTIMES.iter().any(known)).then_some(odd));
    }
    if path.starts_with("/dev/") || path.starts_with("/run/shm/") {
        return Ok(Some((Severity::High, "T1036", "from where no program belongs")));
    }
    if !is_gone(view, &view.entry_of_file(file)?, path)? {
        return Ok(None);
    }
    let severity = if places::is_installed(path) { Severity::Medium } else { Severity::High };
    Ok(Some((severity, "T1070.004", "from a file that was deleted")))
}

/// Whether a process calls itself as the kernel's own threads are shown: `[kworker/0:1]`, or `kworker/u8:2` without the brackets.
fn is_name_of_thread(name: &str, threads: &[String]) -> bool {
    let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let bare = inner.unwrap_or(name);
    // Every processor has one of its own: kworker/3:0 where there is a kworker/0:0.
    let family = |text: &str| text.split_once('/').map(|(family, _)| family.to_owned());
    let of_family = family(bare).filter(|family| !family.is_empty());
    threads.iter().any(|thread| {
        let same = inner.is_some() && thread == bare;
        same || of_family.is_some() && family(thread) == of_family
    })
}

#[cfg(test)]
mod tests {
    use super::is_name_of_thread;

    #[test]
    fn only_names_of_threads_that_the_kernel_has_are_names_of_threads() {
        let threads = ["kworker/0:0H", "kswapd0", "ksoftirqd/0", "writeback"].map(str::to_owned);
        for name in ["[kworker/1:3]", "kworker/u8:0", "[kswapd0]", "[writeback]", "[ksoftirqd/12]"] {
            assert!(is_name_of_thread(name, &threads), "{name}");
        }
        for name in [
            "[celeryd: celery@host:MainProcess]",
            "writeback",
            "/usr/sbin/sshd",
            "sshd: alice@pts/0",
            "postgres: writer",
            "(sd-pam)",
            "[mux]",
            "",
            "/",
        ] {
            assert!(!is_name_of_thread(name, &threads), "{name}");
        }
    }
}
