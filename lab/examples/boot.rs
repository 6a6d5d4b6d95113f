//! Boots a guest of each kernel, checks what stands in it, hides something: `cargo run -p lynceus-lab --example boot`.

use lynceus_lab::{Guest, KernelVersion, Paging, Spec, packages};
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    packages::ensure(packages::ALL)?;
    for kernel in KernelVersion::ALL {
        for paging in [Paging::Four, Paging::Five] {
            let started = Instant::now();
            let guest = Guest::boot(&Spec::new(kernel, paging))?;
            let up = started.elapsed();
            let truth = guest.truth()?;
            println!(
                "{kernel} {paging} levels: up {up:?}, truth {:?}, {} processes",
                started.elapsed(),
                truth.pids().len()
            );
            let intruder = truth.task_named("intruder")?.pid;
            guest.hide(&[("hide_self", "1"), ("hide_pid", &intruder.to_string())])?;
            let inside = guest.run("ps; cat /proc/modules")?;
            println!("   hidden: {}", !inside.contains("intruder") && !inside.contains("lynceus_lab_hide"));
        }
    }
    Ok(())
}
