//! The worker's lock-down on this host: nothing that must not work does, and everything that a worker does works inside it as it does
//! outside, on real guests.

use anyhow::{Context, Result, ensure};
use lynceus_lab::images;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

/// What the filter stops, at which call; and whether something else stops it where there is no filter.
const ATTEMPTS: &[(&str, &str, bool)] = &[
    ("open", "openat", true),
    ("shadow", "openat", true),
    ("create", "openat", true),
    ("memory-file", "memfd_create", false),
    ("connect", "socket", true),
    ("abstract", "socket", true),
    ("packet", "socket", true),
    ("exec", "execve", true),
    ("fork", "clone", false),
    ("ptrace", "ptrace", true),
    ("read-process", "process_vm_readv", true),
    ("write-process", "process_vm_writev", true),
    ("signal", "kill", true),
    ("map-code", "mmap", false),
    ("make-code", "mprotect", false),
    ("capability", "capset", true),
    ("setuid", "setresuid", true),
    ("privileges", "prctl", true),
    ("dumpable", "prctl", false),
    ("limits", "prlimit64", true),
    ("user-namespace", "unshare", false),
    ("chroot", "chroot", true),
    ("mount", "mount", true),
    ("module", "init_module", true),
    ("bpf", "bpf", true),
    ("perf", "perf_event_open", false),
    ("userfaultfd", "userfaultfd", false),
    ("io-uring", "io_uring_setup", false),
    ("keys", "keyctl", false),
    ("shared-memory", "shmget", false),
    ("terminal", "ioctl", true),
    ("handler", "rt_sigaction", false),
    ("filter", "seccomp", false),
];

fn lynceus(profiles: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lynceus"));
    command.args(args).env("LYNCEUS_PROFILES", profiles).output().expect("lynceus starts")
}

fn json_lines(output: &Output) -> Result<Vec<Value>> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The selftest's lines, of a host that has every layer.
fn selftest(profiles: &Path, args: &[&str]) -> Result<Vec<Value>> {
    let output = lynceus(profiles, &[&["--json", "selftest", "sandbox"], args].concat());
    let said = stderr(&output);
    ensure!(output.status.code() == Some(0), "{}: {said}\n{:#?}", output.status, json_lines(&output)?);
    json_lines(&output)
}

#[test]
fn nothing_that_must_not_work_does() -> Result<()> {
    let store = tempfile::tempdir()?;
    let lines = selftest(store.path(), &[])?;
    let layers = lines.iter().filter(|line| line["layer"].is_string());
    ensure!(layers.clone().count() == 7 && layers.clone().all(|line| line["holds"] == true), "{lines:#?}");
    let attempt = |name: &str| lines.iter().find(|line| line["attempt"] == name);
    for (name, call, elsewhere) in ATTEMPTS {
        let line = attempt(name).with_context(|| format!("no attempt {name}"))?;
        let ended = format!("killed by its filter at {call}");
        ensure!(line["held"] == true && line["locked_down"] == *ended, "{line}");
        // Where only the filter stops it, it may fail for other reasons on some kernels: nothing is said of those.
        ensure!(!elsewhere || line["without_filter"] != "works", "{line}");
    }
    // These are no crime, and come to nothing: a call that looks absent, a mapping whose descriptor cannot write, limits.
    let refused = [
        ("clone3", "Function not implemented"),
        ("write-guest", "Permission denied"),
        ("memory", "Cannot allocate memory"),
        ("threads", "Resource temporarily unavailable"),
    ];
    for (name, error) in refused {
        let line = attempt(name).with_context(|| format!("no attempt {name}"))?;
        let how = line["locked_down"].as_str().unwrap_or_default();
        ensure!(line["held"] == true && how.starts_with(error), "{line}");
    }
    let tried = lines.iter().filter(|line| line["attempt"].is_string()).count();
    let known = ATTEMPTS.len() + refused.len();
    ensure!(tried == known, "{tried} attempts, of which this test knows {known}");
    Ok(())
}

/// What was found, in words that are the same for two looks at one guest.
fn summaries<'f>(findings: impl IntoIterator<Item = &'f Value>) -> BTreeSet<String> {
    findings.into_iter().map(|finding| finding["summary"].to_string()).collect()
}

/// Findings as the ordinary commands tell them.
fn outside(profiles: &Path, args: &[&str]) -> Result<BTreeSet<String>> {
    let output = lynceus(profiles, &[&["--json"], args].concat());
    ensure!(output.status.code() == Some(1), "{args:?}: {}: {}", output.status, stderr(&output));
    Ok(summaries(&json_lines(&output)?))
}

/// All detectors and a scan find in the lock-down what they find outside: with a profile that is known, and from nothing.
fn finds_the_same(target: &str, detected: usize, image: Option<&str>) -> Result<()> {
    let (store, rules) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let rule = rules.path().join("lab.yar");
    std::fs::write(
        &rule,
        "rule lab { strings: $a = \"lab-rwx\" $b = \"lab-deleted\" condition: any of them }",
    )?;
    let rule = rule.to_str().context("a path in UTF-8")?;
    let inside = |more: &[&str]| -> Result<Value> {
        let args = [&[target, "--rules", rule], more].concat();
        selftest(store.path(), &args)?.pop().context("it says what it did")
    };
    let from_nothing = inside(&["--no-cache"])?;
    let learned = inside(&[])?;
    ensure!(learned["learned"] == 1, "one profile to hand back, not kept by itself: {}", learned["learned"]);
    ensure!(std::fs::read_dir(store.path())?.count() == 0, "a locked-down process wrote to the store");
    let checked = outside(store.path(), &["check", target])?;
    let scanned = outside(store.path(), &["scan", target, "--rules", rule])?;
    ensure!(checked.len() == detected && !scanned.is_empty(), "{checked:#?} {scanned:#?}");
    let from_store = inside(&[])?;
    ensure!(from_store["learned"] == 0, "the store that was opened before knows this kernel");
    for work in [from_nothing, learned, from_store] {
        let of = |field: &str| work[field].as_array().map(summaries).context("no findings");
        let (findings, matches) = (of("findings")?, of("matches")?);
        ensure!(findings == checked, "inside {findings:#?}\noutside {checked:#?}");
        ensure!(matches == scanned, "inside {matches:#?}\noutside {scanned:#?}");
        ensure!(work["image"].as_str() == image, "compared with {}", work["image"]);
        ensure!(work["gaps"] == 0 && work["scanned_bytes"].as_u64() > Some(10 << 20), "{work}");
    }
    Ok(())
}

#[test]
fn a_worker_finds_the_same_in_a_dump() -> Result<()> {
    let frozen = images::frozen(&Spec { vcpus: 2, ..Spec::new(KernelVersion::V6_12, Paging::Four) })?;
    finds_the_same(frozen.ram.to_str().context("a path in UTF-8")?, 3, None)
}

/// Bytes of a file that are no holes. `st_blocks` grows by itself when the host writes a file to its disk: it counts what the file system keeps about it.
fn data_bytes(path: &Path) -> Result<u64> {
    let file = std::fs::File::open(path)?;
    let (mut sum, mut at) = (0, 0);
    loop {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(sum),
            start => start?,
        };
        at = seek(&file, SeekFrom::Hole(start))?;
        sum += at - start;
    }
}

fn live(private_ram: bool) -> Result<()> {
    let guest = Guest::boot(&Spec { private_ram, ..Spec::new(KernelVersion::V6_12, Paging::Five) })?;
    // It stands still: what is compared are two processes that look, not two moments.
    guest.stop()?;
    let held = || if private_ram { Ok(0) } else { data_bytes(&guest.ram_file()) };
    let before = held()?;
    finds_the_same(&format!("pid:{}", guest.pid()), 3, Some("the file that the VM was started with"))?;
    // The file is root's and the worker is not: mincore(2) tells it that every page is there.
    ensure!(held()? == before, "a look made the host allocate what the guest never used");
    Ok(())
}

#[test]
fn a_worker_finds_the_same_in_shared_ram() -> Result<()> {
    live(false)
}

/// Long copies take another way inside: `process_vm_readv` would end the worker.
#[test]
fn a_worker_finds_the_same_in_private_ram() -> Result<()> {
    live(true)
}

/// A worker that cannot begin says so, and not that it was stopped.
#[test]
fn a_target_that_is_not_there_is_an_error() -> Result<()> {
    let store = tempfile::tempdir()?;
    let output = lynceus(store.path(), &["selftest", "sandbox", "/nowhere/at/all"]);
    let said = stderr(&output);
    ensure!(output.status.code() == Some(2) && said.contains("ended with exit code 2"), "{said}");
    ensure!(said.contains("No such file"), "{said}");
    Ok(())
}
