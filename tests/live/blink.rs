//! Attack 10, restore-on-scan: a hook that is there for 50 ms in every second and looks perfectly clean otherwise. Looks at
//! moments that it cannot foresee find it; how many it takes is chance, and so many as are tried here fail once in a thousand
//! million runs.

use anyhow::{Context, Result, ensure};
use lynceus_introspect::find;
use lynceus_introspect::target::Target;
use lynceus_lab::attacks::{Attack, Given, How};
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use lynceus_scanners::syscall_handlers;
use std::process::Command;
use std::time::{Duration, Instant};

const BLINK: Attack = Attack {
    name: "handler of a system call, now and then",
    detector: "syscall_handler",
    also: &[],
    how: How::Module("blink", &[Given::At("sys_call_table", 0), Given::Was(&["__x64_sys_kexec_load"])]),
    kernels: &[KernelVersion::V6_1],
};

#[test]
fn a_hook_that_is_gone_most_of_the_time_is_found() -> Result<()> {
    let guest = Guest::boot(&Spec::everyday(KernelVersion::V6_1, Paging::Four))?;
    let target = format!("pid:{}", guest.pid());
    guest.attack(&BLINK)?;

    // How much of the time it is there, by looks as fast as they go for some seconds.
    let attached = find::attach_target(&Target::open(&target)?, None)?;
    let (mut there, mut looks) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        let found = syscall_handlers(&attached.guest, &Default::default());
        there += usize::from(!found.items.is_empty());
        looks += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("there in {there} of {looks} looks");
    ensure!(there > 0 && there * 4 < looks, "it does not blink: {there} of {looks}");

    // As an admin has it looked for.
    let folder = tempfile::tempdir()?;
    let args = ["check", &target, "--every", "50ms", "--times", "400", "--json"];
    let output = Command::new(env!("CARGO_BIN_EXE_lynceus"))
        .args(args)
        .env("LYNCEUS_PROFILES", folder.path())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let alerts: Vec<serde_json::Value> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("JSON Lines")?;
    let hooks = alerts.iter().filter(|alert| alert["detector"] == BLINK.detector).count();
    ensure!(hooks == 1, "told {hooks} times: {text}");
    ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
    Ok(())
}
