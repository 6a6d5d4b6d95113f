//! The system calls that are left: `worker.json`, compiled and put on.
//!
//! *Does*: two filters, of which the kernel takes the stricter answer. The first makes a few calls look as if this kernel did not have
//! them, so that the C library goes another way; the second lets the listed calls through and sends SIGSYS for all others.
//! *Trusts*: nothing at run time: the file is part of the program. *Never*: lets through what the file does not name.

use super::{Put, raw};
use anyhow::{Context, Result};
use seccompiler::{BpfProgram, TargetArch};

const WORKER: &str = include_str!("worker.json");

/// Puts both on. From here on every thread of this process has them.
pub(super) fn put_on() -> Result<Put> {
    let (absent, allowed) = compile()?;
    raw::report_violations()?;
    seccompiler::apply_filter(&absent)?;
    seccompiler::apply_filter(&allowed)?;
    Ok(Put::Holds(format!("{} system calls, most of them with fixed arguments", count("allowed")?)))
}

fn compile() -> Result<(BpfProgram, BpfProgram)> {
    let mut filters = seccompiler::compile_from_json(WORKER.as_bytes(), TargetArch::x86_64)?;
    let mut named = |name: &str| filters.remove(name).with_context(|| format!("no filter {name}"));
    Ok((named("absent")?, named("allowed")?))
}

fn rules(filter: &str) -> Result<Vec<serde_json::Value>> {
    let file: serde_json::Value = serde_json::from_str(WORKER)?;
    Ok(file[filter]["filter"].as_array().context("a list of system calls")?.clone())
}

fn count(filter: &str) -> Result<usize> {
    let mut names: Vec<String> =
        rules(filter)?.iter().filter_map(|rule| rule["syscall"].as_str()).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    Ok(names.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_its_reason() {
        compile().unwrap();
        for filter in ["absent", "allowed"] {
            for rule in rules(filter).unwrap() {
                let reason = rule["comment"].as_str().unwrap_or_default();
                assert!(reason.len() > 10, "{rule}");
            }
        }
    }

    /// Of two filters the stricter answer counts: what looks absent must not end the worker.
    #[test]
    fn what_looks_absent_does_not_kill() {
        let names = |filter| -> Vec<String> {
            let rules = rules(filter).unwrap();
            rules.iter().map(|rule| rule["syscall"].as_str().unwrap().to_owned()).collect()
        };
        let allowed = names("allowed");
        let absent = names("absent");
        assert!(absent.contains(&"clone3".to_owned()));
        assert!(absent.iter().all(|name| allowed.contains(name)), "{absent:?}");
    }

    /// Whoever adds one of these to the file should have to explain it here as well.
    #[test]
    fn some_calls_are_never_on_the_list() {
        let allowed = rules("allowed").unwrap();
        for never in [
            "open",
            "openat",
            "openat2",
            "creat",
            "socket",
            "connect",
            "execve",
            "execveat",
            "fork",
            "vfork",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "bpf",
            "io_uring_setup",
            "userfaultfd",
            "keyctl",
            "mount",
            "kill",
            "init_module",
            "finit_module",
            "setns",
            "unshare",
            "seccomp",
            "capset",
            "setuid",
            "setresuid",
            "memfd_create",
            "dup3",
            "recvmsg",
            "sendmsg",
            "pidfd_getfd",
            "perf_event_open",
        ] {
            assert!(!allowed.iter().any(|rule| rule["syscall"] == never), "{never}");
        }
        // Handlers of faults, and no other: the one that tells of the filter stays.
        let handlers = allowed.iter().filter(|rule| rule["syscall"] == "rt_sigaction");
        assert!(
            handlers.flat_map(|rule| rule["args"][0]["val"].as_i64()).all(|signal| [7, 11].contains(&signal))
        );
    }
}
