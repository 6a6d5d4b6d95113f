//! `cargo xtask demo`: the main job, end to end, on a real guest, told as a story.

use crate::shell::{cargo, run, target_dir};
use anyhow::{Context, Result, bail};
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// The VM's name in the demo.
const VM: &str = "web-1";
/// The planted process that the module hides.
const INTRUDER: &str = "intruder";

/// Boots the lab's 6.1 guest, looks into it, hides a task and a module in it, and finds them.
pub(crate) fn run_all() -> Result<()> {
    lynceus_lab::packages::ensure(lynceus_lab::packages::ALL)?;
    say("Building Lynceus and fetching the guest's kernel.");
    run(&mut cargo(&["build", "--release", "--package", "lynceus"]))?;
    lynceus_lab::kernels::fetch(KernelVersion::V6_1)?;

    let started = Instant::now();
    say(
        "Booting a VM: Debian's kernel 6.1, under QEMU, with nothing of ours in it but a few planted processes.",
    );
    let spec = Spec { name: VM.to_owned(), ..Spec::new(KernelVersion::V6_1, Paging::Four) };
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
    say("The guest's own view, `ps` and `lsmod` inside it:");
    let inside = guest.run("ps; echo; lsmod")?;
    println!("{}", indent(&inside));
    let denied = !inside.contains(INTRUDER) && !inside.contains("lynceus_lab_hide");
    println!("   → {}", if denied { "the intruder and its module are gone" } else { "(not hidden?)" });
    say("The view from outside:");
    lynceus(&["check", VM], 1)?;
    if !denied {
        bail!("the lab's module did not hide anything: the demo proves nothing");
    }
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

fn say(text: &str) {
    println!("\n── {text}");
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("   │ {line}\n")).collect()
}

/// Runs the release build of `lynceus` and holds it to its exit code.
fn lynceus(args: &[&str], expected: i32) -> Result<()> {
    let program: PathBuf = target_dir().join("release/lynceus");
    println!("   $ lynceus {}", args.join(" "));
    let status = Command::new(&program)
        .args(args)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if status.code() != Some(expected) {
        bail!("lynceus {}: {status}, expected exit code {expected}", args.join(" "));
    }
    Ok(())
}
