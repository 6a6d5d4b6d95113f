//! Detectors: functions that look at a guest and return what is wrong with it.
//!
//! *Trusts*: nothing that the guest says of itself; two independent views of the same thing are compared, and a difference
//! is a finding.
//! *Never*: calls a look clean that has gaps, or reports what a second look does not confirm.
//!
//! A detector is a plain function in [`DETECTORS`]; each says what it sees, what evades it and what it may get wrong.

mod crossview;
mod finding;
mod integrity;
mod profiles;
pub mod signatures;

pub use crossview::{hidden_modules, hidden_tasks};
pub use finding::{Finding, Severity, Subject};
pub use integrity::{
    helper_programs, interrupt_handlers, operation_tables, shared_credentials, syscall_handlers,
};
pub use profiles::profile_disagreements;

use lynceus_introspect::Partial;
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::observe::Options;

/// A detector and what is known of it.
#[derive(Clone, Copy)]
pub struct Detector {
    /// Its name, stable: policies and SIEM rules refer to it.
    pub name: &'static str,
    /// The MITRE ATT&CK technique that it sees.
    pub technique: &'static str,
    /// What it looks for, in a line.
    pub about: &'static str,
    /// What it sees, what evades it, what it may get wrong.
    pub limits: Limits,
    /// What to look at next, for whoever was woken by it.
    pub next: &'static str,
    /// Looks at a guest.
    pub run: fn(&LinuxGuest, &Options) -> Partial<Finding>,
}

/// What is known of a detector's reach.
#[derive(Clone, Copy)]
pub struct Limits {
    /// What it sees.
    pub sees: &'static str,
    /// What evades it.
    pub evaded_by: &'static str,
    /// What it may get wrong.
    pub false_positives: &'static str,
}

/// All detectors.
pub const DETECTORS: &[Detector] = &[
    Detector {
        name: crossview::tasks::NAME,
        technique: crossview::tasks::TECHNIQUE,
        about: "tasks missing from the task list or the pid table, against run queues and slab pages",
        limits: Limits {
            sees: "a task unlinked from the task list, from the pid table, from its process's thread list, or from all of them",
            evaded_by: "code that runs without a task (in another's, in an interrupt), a task_struct copied out of its slab cache",
            false_positives: "none known: a task that is being made or reaped is looked at again",
        },
        next: "lynceus ps shows it, marked; its files, maps and sockets with --pid; then lynceus dump, before anything in the guest is touched",
        run: hidden_tasks,
    },
    Detector {
        name: crossview::modules::NAME,
        technique: crossview::modules::TECHNIQUE,
        about: "modules missing from the module list, against the address tree and sysfs objects",
        limits: Limits {
            sees: "a module unlinked from the list that /proc/modules shows, from the tree of module addresses, or from sysfs",
            evaded_by: "a module that leaves all three; code that was copied into memory without being a module",
            false_positives: "none known: a module that is being loaded or unloaded is not counted",
        },
        next: "lynceus scan --scope kernel with your rules; lynceus check again: what the module hooks is listed as well; then lynceus dump",
        run: hidden_modules,
    },
    Detector {
        name: integrity::syscalls::NAME,
        technique: integrity::syscalls::TECHNIQUE,
        about: "system-call handlers that are not the kernel's own code",
        limits: Limits {
            sees: "an entry of sys_call_table that was replaced",
            evaded_by: "a change of the handler's own code, of the entry code, or (from 6.9 on, where the table serves tracing alone) of x64_sys_call",
            false_positives: "a module that adds a system call, which no distribution's does",
        },
        next: "which call it is tells what is hidden: 217 getdents64 files, 62 kill control of the rootkit, 59 execve programs; whose code it is stands in the finding",
        run: syscall_handlers,
    },
    Detector {
        name: integrity::interrupts::NAME,
        technique: integrity::interrupts::TECHNIQUE,
        about: "interrupt handlers that are not the kernel's own code",
        limits: Limits {
            sees: "a gate of the interrupt descriptor table that was replaced, such as the page fault's or the breakpoint's",
            evaded_by: "another table in a processor's IDTR, a change of the handler's own code",
            false_positives: "none known",
        },
        next: "treat the guest's kernel as lost: dump it, isolate it, rebuild it",
        run: interrupt_handlers,
    },
    Detector {
        name: integrity::operations::NAME,
        technique: integrity::operations::TECHNIQUE,
        about: "constant tables of functions of the kernel that lead out of its image",
        limits: Limits {
            sees: "a function of a constant table of the kernel's image that was replaced: to hide files (iterate_shared), sockets (show of /proc/net/tcp), or to answer reads",
            evaded_by: "a table of the attacker's own that an object is made to use, a change of the function's own code",
            false_positives: "none known: constant tables of the image hold functions of the image",
        },
        next: "compare lynceus files, sockets and ps with what the guest's own tools show: the difference is what is hidden",
        run: operation_tables,
    },
    Detector {
        name: integrity::helpers::NAME,
        technique: integrity::helpers::TECHNIQUE,
        about: "programs that the kernel starts as root, in places where others may write",
        limits: Limits {
            sees: "a modprobe_path, poweroff_cmd or piped core_pattern that names a program in a place that others may write to, or another program than the kernel's default",
            evaded_by: "a change of the program that is named",
            false_positives: "a crash handler of the admin's own in /tmp, /var/tmp, /dev or /home",
        },
        next: "what lies at that path in the guest, and who wrote it; an exploit that can write one string of the kernel gets root this way",
        run: helper_programs,
    },
    Detector {
        name: integrity::credentials::NAME,
        technique: integrity::credentials::TECHNIQUE,
        about: "processes that were given another's credentials",
        limits: Limits {
            sees: "a process that shares its struct cred with an older process, init's above all",
            evaded_by: "a copy of the other's credentials, or user ids written into one's own",
            false_positives: "none known: threads of one process share, and tasks of the kernel are left out",
        },
        next: "lynceus ps and tree: who started it, as which user, from which executable",
        run: shared_credentials,
    },
];
