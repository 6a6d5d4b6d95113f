//! `cargo xtask demo`: the main job, end to end, on a real guest, told as a story.

use crate::shell::{build_program, program, target_dir};
use anyhow::{Context, Result, bail};
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// The VM's name in the demo.
const VM: &str = "web-1";
/// The planted process that the module hides.
const INTRUDER: &str = "intruder";
/// The module that hides it, and itself.
const MODULE: &str = "lynceus_lab_hide";

/// Boots the lab's 6.1 guest, looks into it, hides a task and a module in it, and finds them.
pub(crate) fn run_all() -> Result<()> {
    lynceus_lab::packages::ensure(lynceus_lab::packages::ALL)?;
    say("Building Lynceus and fetching the guest's kernel.");
    build_program()?;
    lynceus_lab::kernels::fetch(KernelVersion::V6_1)?;

    let started = Instant::now();
    say(
        "Booting a VM: Debian's kernel 6.1, under QEMU, with nothing of ours in it but a few planted processes.",
    );
    let spec = Spec { name: VM.to_owned(), ..Spec::everyday(KernelVersion::V6_1, Paging::Four) };
    let guest = Guest::boot(&spec)?;
    println!("   up after {:.1} s, as process {}", started.elapsed().as_secs_f32(), guest.pid());

    say("Which VMs run here?");
    lynceus(&["vms"], 0)?;
    say("What is in it? No symbols, no agent: its kernel is found in raw memory.");
    lynceus(&["info", VM], 0)?;
    say("What runs in it?");
    lynceus(&["tree", VM], 0)?;
    say("Which sockets are open, and whose are they?");
    lynceus(&["sockets", VM], 0)?;
    say("Is anything hidden?");
    lynceus(&["check", VM], 0)?;

    say(
        "Now an attacker in the guest loads a rootkit: a module that hides itself and the process `intruder`.",
    );
    let pid = intruder(&guest)?;
    guest.hide(&[("hide_self", "1"), ("hide_pid", &pid.to_string())])?;
    say("The guest's own view, and ours, of the processes that are not the kernel's:");
    let denied = side_by_side(&guest.run("ps")?)?;
    let modules = guest.run("lsmod")?;
    println!("   lsmod in the guest:");
    modules.lines().for_each(|line| println!("   │ {line}"));
    if !denied || modules.contains(MODULE) {
        bail!("the lab's module did not hide anything: the demo proves nothing");
    }
    say("The alert:");
    lynceus(&["check", VM], 1)?;
    crate::site::show()?;
    say(&format!("Done in {:.0} s. Nothing was installed in the guest.", started.elapsed().as_secs_f32()));
    Ok(())
}

/// The pid of the planted process, by the guest's own account.
fn intruder(guest: &Guest) -> Result<u32> {
    let listing = guest.run("ps")?;
    let line = listing.lines().find(|line| line.contains(INTRUDER));
    let line = line.with_context(|| format!("the guest runs no `{INTRUDER}`:\n{listing}"))?;
    line.split_whitespace().next().context("an empty line of ps")?.parse().context("ps shows no pid")
}

pub(crate) fn say(text: &str) {
    println!("\n── {text}");
}

/// Prints what `ps` in the guest shows beside what we see from outside. Whether the guest lacks only the intruder.
fn side_by_side(theirs: &str) -> Result<bool> {
    let output =
        Command::new(program()).args(["--json", "ps", VM]).env("LYNCEUS_PROFILES", profiles()).output()?;
    let mut missing = Vec::new();
    println!("   {:<36} lynceus ps", "ps in the guest");
    for line in String::from_utf8(output.stdout)?.lines() {
        let ours: serde_json::Value = serde_json::from_str(line)?;
        if ours["kthread"] == true {
            continue;
        }
        let (pid, comm) = (ours["pid"].to_string(), ours["comm"].as_str().unwrap_or_default());
        let shown = theirs.lines().find(|line| line.split_whitespace().next() == Some(pid.as_str()));
        let shown: String = shown.unwrap_or("  ---").chars().take(34).collect();
        if shown.contains("---") {
            missing.push(comm.to_owned());
        }
        let mark = if ours["hidden"] == true { "   <== hidden" } else { "" };
        println!("   {shown:<36} {pid:>5} {comm}{mark}");
    }
    Ok(missing == [INTRUDER])
}

/// Nothing of the demo stays outside of the build folder.
pub(crate) fn profiles() -> PathBuf {
    target_dir().join("lab/profiles")
}

/// Runs the release build of `lynceus` and holds it to its exit code.
fn lynceus(args: &[&str], expected: i32) -> Result<()> {
    let program = program();
    println!("   $ lynceus {}", args.join(" "));
    let status = Command::new(&program)
        .args(args)
        .env("LYNCEUS_PROFILES", profiles())
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if status.code() != Some(expected) {
        bail!("lynceus {}: {status}, expected exit code {expected}", args.join(" "));
    }
    Ok(())
}
