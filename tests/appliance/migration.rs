//! VMs that migrate, from one QEMU to another on this machine, while they are looked at: whoever looks is never told that half a memory is clean.

use crate::harness::{Appliance, OFTEN, PROGRAM, spec, until};
use anyhow::{Context, Result, ensure};
use lynceus_lab::{Guest, Spec};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// So fast that it ends, and so slow that there are looks meanwhile.
const BYTES_A_SECOND: u64 = 12 << 20;

fn pid(guest: &Guest) -> String {
    format!("pid:{}", guest.pid())
}

fn lynceus(profiles: &Path, args: &[&str]) -> Result<Output> {
    Ok(Command::new(PROGRAM).args(args).env("LYNCEUS_PROFILES", profiles).output()?)
}

fn until_state(guest: &Guest, state: &str) -> Result<()> {
    until(state, || Ok((guest.run_state()? == state).then_some(())))
}

/// Looks at a VM that leaves end with what it had before it left, or with gaps; at one that arrives there are none before it is there.
#[test]
fn looks_at_a_vm_that_migrates() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rules = folder.path().join("lab.yar");
    fs::write(&rules, "rule banner { strings: $a = \"Linux version \" condition: $a }")?;
    let rules = rules.display().to_string();
    let source = Guest::boot(&spec("migrates"))?;
    source.run("cat /dev/urandom | head -c 60000000 > /dev/shm/filled; sleep 12345 &")?;
    let target = Guest::boot(&Spec { arrives: true, ..spec("migrates") })?;
    let (from, to) = (pid(&source), pid(&target));
    let sees = |output: &Output| String::from_utf8_lossy(&output.stdout).contains("12345");
    let before = lynceus(folder.path(), &["ps", &from])?;
    ensure!(before.status.code() == Some(0) && sees(&before), "{before:?}");

    target.take(&source, BYTES_A_SECOND)?;
    let mut during = 0;
    while source.run_state()? != "postmigrate" {
        let half = lynceus(folder.path(), &["ps", &to])?;
        let text = String::from_utf8_lossy(&half.stderr).into_owned();
        // It may have arrived meanwhile, and then it is all there.
        let arrived = target.run_state()? == "running" && sees(&half);
        ensure!(arrived || (half.status.code() == Some(2) && text.contains("not here yet")), "{half:?}");
        for args in [&["ps", &from][..], &["check", &from], &["scan", &from, "--rules", &rules]] {
            let output = lynceus(folder.path(), args)?;
            let code = output.status.code();
            // A scan finds its banner, and a guest that has left is never whole.
            let is_right = match args[0] {
                "ps" => code == Some(3) || (code == Some(0) && sees(&output)),
                "check" => matches!(code, Some(0 | 3)),
                _ => matches!(code, Some(1 | 3)),
            };
            ensure!(is_right, "{args:?}: {output:?}");
            during += 1;
        }
    }
    ensure!(during >= 3, "nobody looked");
    until_state(&target, "running")?;

    for args in [&["ps", &from][..], &["check", &from]] {
        let left = lynceus(folder.path(), args)?;
        let text = String::from_utf8_lossy(&left.stderr).into_owned();
        ensure!(left.status.code() == Some(3) && text.contains("migrated away"), "{left:?}");
    }
    let after = lynceus(folder.path(), &["ps", &to])?;
    ensure!(after.status.code() == Some(0) && sees(&after), "{after:?}");
    // The one it came from ends in the middle of a scan: that is a gap, or an error that says so, never a clean guest.
    let scan = Command::new(PROGRAM)
        .args(["scan", &from, "--rules", &rules, "--scope", "physical"])
        .env("LYNCEUS_PROFILES", folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(source);
    let ended = scan.wait_with_output()?;
    ensure!(matches!(ended.status.code(), Some(2 | 3)), "{ended:?}");
    Ok(())
}

/// The appliance tells once that a VM has left, and watches it where it arrived; half of it is nobody's finding.
#[test]
fn the_appliance_follows_a_vm_that_migrates() -> Result<()> {
    let vm = "migrates-watched";
    let source = Guest::boot(&spec(vm))?;
    let appliance = Appliance::start(&[vm], OFTEN, "")?;
    let looked = |row: &Value, target: &str| {
        row["target"] == target && row["last_look_ms"].is_u64() && row["vm"] == vm
    };
    let (from, is_at) =
        (pid(&source), |rows: &[Value], target: &str| rows.iter().any(|row| looked(row, target)));
    appliance.until_vms("the first look", |rows| is_at(rows, &from))?;
    let target = Guest::boot(&Spec { arrives: true, ..spec(vm) })?;
    let to = pid(&target);
    target.take(&source, 4 * BYTES_A_SECOND)?;
    until_state(&target, "running")?;
    let rows = appliance.until_vms("a look at where it is", |rows| is_at(rows, &to))?;
    let left = rows.iter().find(|row| row["target"] == from.as_str()).context("it is forgotten")?;
    ensure!(
        left["state"] == "migrated"
            && left["worker_pid"].is_null()
            && left["trouble"]["migrated"].is_string(),
        "{left:#}"
    );
    let mut told = appliance.alerts("health")?;
    told.retain(|alert| alert["component"] == "migrated");
    ensure!(told.len() == 1 && told[0]["state"] == "failed", "{told:#?}");
    drop(source);
    appliance.until_vms("it to be forgotten", |rows| rows.len() == 1 && is_at(rows, &to))?;
    ensure!(appliance.alerts("detection")?.is_empty(), "{:#?}", appliance.alerts("detection"));
    Ok(())
}
