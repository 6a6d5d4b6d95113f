//! The appliance on real guests: it finds them, looks at them, tells what it finds, and goes on whatever happens to its parts.

mod harness;
mod migration;

use anyhow::{Context, Result, ensure};
use harness::{Appliance, OFTEN, PROGRAM, boot, until};
use lynceus_lab::KernelVersion;
use lynceus_lab::attacks::ATTACKS;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

fn signal(pid: i64, signal: &str) -> Result<()> {
    let done = Command::new("kill").args(["-s", signal, &pid.to_string()]).status()?;
    ensure!(done.success(), "kill -s {signal} {pid}");
    Ok(())
}

fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// What an attack leads to: a finding, in the alert file, in `status`, in the evidence that replays; a guest that is clean gives none.
#[test]
fn an_attack_becomes_an_alert_and_evidence_that_replays() -> Result<()> {
    let guest = boot("appliance-attacked")?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut appliance = Appliance::unconfigured()?;
    appliance.configure(&["appliance-attacked"], OFTEN, "")?;
    let config = fs::read_to_string(appliance.path("lynceus.toml"))?;
    let config = config.replace("[control]\n", &format!("[control]\nmetrics = \"127.0.0.1:{port}\"\n"));
    fs::write(appliance.path("lynceus.toml"), config)?;
    appliance.launch()?;
    appliance.wait_until_watched("appliance-attacked")?;
    let looks = |vm: &Value| vm["looks"]["integrity"].as_u64().unwrap_or(0);
    until("looks at a clean guest", || Ok((looks(&appliance.vm("appliance-attacked")?) >= 2).then_some(())))?;
    ensure!(appliance.alerts("detection")?.is_empty(), "{:#?}", appliance.alerts("detection")?);
    ensure!(appliance.ask(&["status"])?.status.code() == Some(0), "clean");

    let attack =
        ATTACKS.iter().find(|attack| attack.name == "handler of a system call").context("no such attack")?;
    guest.attack(attack)?;
    let alert = appliance.wait_for("the alert", "detection", |alert| alert["detector"] == attack.detector)?;
    ensure!(alert["vm"] == "appliance-attacked" && alert["sequence"].is_u64(), "{alert:#}");
    let id = alert["id"].as_str().context("no id")?;
    let status = appliance.ask(&["status"])?;
    let told = String::from_utf8(status.stdout)?;
    ensure!(status.status.code() == Some(1) && told.contains(id) && told.contains(attack.detector), "{told}");

    let evidence = appliance.path(&format!("state/evidence/{id}.evidence"));
    until("the evidence", || Ok(evidence.exists().then_some(())))?;
    let replayed = Command::new(PROGRAM)
        .args(["replay", &evidence.display().to_string(), "--kernel"])
        .arg(lynceus_lab::kernels::fetch(KernelVersion::V6_1)?.vmlinuz)
        .output()?;
    let text = String::from_utf8_lossy(&replayed.stdout).into_owned();
    ensure!(text.contains(attack.detector), "{text}{}", String::from_utf8_lossy(&replayed.stderr));

    let metrics = get(port, "/metrics")?;
    let count = |kind| metrics.contains(&format!("lynceus_findings{{vm=\"appliance-attacked\"}} {kind}"));
    ensure!(count(appliance.alerts("detection")?.len()), "{metrics}");
    ensure!(get(port, "/health")?.starts_with("HTTP/1.1 200"), "{}", get(port, "/health")?);
    // Repeats are counted, not told: the same is found by every look.
    let again = looks(&appliance.vm("appliance-attacked")?) + 3;
    until("more looks", || Ok((looks(&appliance.vm("appliance-attacked")?) >= again).then_some(())))?;
    let is_its = |found: &Value| {
        found["detector"] == attack.detector || attack.also.iter().any(|also| found["detector"] == *also)
    };
    let all = appliance.alerts("detection")?;
    ensure!(all.iter().all(is_its) && all.len() <= 1 + attack.also.len(), "{all:#?}");
    ensure!(appliance.status()?["alerts"]["repeated"].as_u64() > Some(0));
    Ok(())
}

/// A module's code is compared with its file, which the worker may not open: another process has unpacked it.
#[test]
fn an_altered_module_is_an_alert() -> Result<()> {
    let (vm, kernel) = ("appliance-module", lynceus_lab::kernels::fetch(KernelVersion::V6_1)?);
    let guest = boot(vm)?;
    let all = kernel.modules.parent().context("a folder of releases")?;
    let looks = format!("{OFTEN}\nmodules = {:?}", all.display().to_string());
    let appliance = Appliance::start(&[vm], &looks, "")?;
    let compares = || {
        let rows = appliance.status()?["vms"].as_array().cloned().unwrap_or_default();
        let row = rows.into_iter().find(|row| row["vm"] == vm && row["modules"].as_u64() > Some(0));
        Ok(row.and_then(|row| row["looks"]["integrity"].as_u64()))
    };
    let before = until("files of modules", compares).with_context(|| appliance.log())?;
    until("looks at a clean guest", || Ok(compares()?.filter(|looks| *looks >= before + 2)))
        .with_context(|| appliance.log())?;
    ensure!(appliance.alerts("detection")?.is_empty(), "{:#?}", appliance.alerts("detection")?);
    ensure!(appliance.vm(vm)?["incomplete"] == 0, "{}\n{}", appliance.vm(vm)?, appliance.log());

    let attack = ATTACKS.iter().find(|attack| attack.name == "byte inside of a module's function");
    let attack = attack.context("no such attack")?;
    guest.attack(attack)?;
    let alert = appliance.wait_for("the alert", "detection", |alert| alert["detector"] == attack.detector)?;
    let id = alert["id"].as_str().context("no id")?;
    let evidence = appliance.path(&format!("state/evidence/{id}.evidence"));
    until("the evidence", || Ok(evidence.exists().then_some(())))?;
    let replayed = Command::new(PROGRAM)
        .args(["replay", &evidence.display().to_string(), "--kernel"])
        .arg(kernel.vmlinuz)
        .arg("--modules")
        .arg(&kernel.modules)
        .output()?;
    let text = String::from_utf8_lossy(&replayed.stdout).into_owned();
    ensure!(text.contains(attack.detector), "{text}{}", String::from_utf8_lossy(&replayed.stderr));
    // Not the guest's doing: no worker failed for it, and its memory is still small.
    let row = appliance.vm(vm)?;
    ensure!(
        row["failures"] == 0 && row["memory_bytes"].as_u64().is_some_and(|bytes| bytes < 48 << 20),
        "{row:#}"
    );
    Ok(())
}

/// What the host did not have when a VM was first looked at is there after a reload.
#[test]
fn files_of_modules_that_come_later_are_taken_by_a_reload() -> Result<()> {
    let (vm, kernel) = ("appliance-later", lynceus_lab::kernels::fetch(KernelVersion::V6_1)?);
    let _guest = boot(vm)?;
    let all = tempfile::tempdir()?;
    fs::create_dir(all.path().join(&kernel.release))?;
    let looks = format!("{OFTEN}\nmodules = {:?}", all.path().display().to_string());
    let appliance = Appliance::start(&[vm], &looks, "")?;
    let compares = || -> Result<(bool, u64)> {
        let row = appliance.vm(vm)?;
        Ok((row["looks"]["integrity"].as_u64() >= Some(2), row["modules"].as_u64().unwrap_or(0)))
    };
    until("looks without files", || Ok(Some(compares()?).filter(|(looked, _)| *looked)))
        .with_context(|| appliance.log())?;
    ensure!(compares()?.1 == 0);
    let copied = Command::new("cp").arg("-r").arg(&kernel.modules).arg(all.path()).status()?;
    ensure!(copied.success() && appliance.ask(&["reload"])?.status.success());
    until("files of modules", || Ok((compares()?.1 > 0).then_some(()))).with_context(|| appliance.log())
}

/// Workers that are killed, stopped, or die by a fault are told of once, and replaced.
#[test]
fn a_worker_that_fails_is_told_of_and_replaced() -> Result<()> {
    let _guest = boot("appliance-worker")?;
    // A look on a machine that is busy takes its time as well.
    let more = "[workers]\ntimeout = \"15s\"";
    let appliance = Appliance::start(&["appliance-worker"], OFTEN, more)?;
    let vm = "appliance-worker";
    appliance.wait_until_watched(vm)?;
    for (signal_name, says) in
        [("KILL", "killed by signal 9"), ("SEGV", "killed by signal 11"), ("STOP", "hangs")]
    {
        let told = appliance.alerts("health")?.len();
        let worker = appliance.vm(vm)?["worker_pid"].as_i64().context("no worker")?;
        signal(worker, signal_name)?;
        if signal_name == "SEGV" {
            // The first one takes away the handler that looks for stack overflows, as if the fault came again; one that comes before that
            // is lost in the first.
            let is_gone =
                || !Path::new(&format!("/proc/{worker}")).exists() || signal(worker, signal_name).is_err();
            until("its end", || Ok(is_gone().then_some(())))?;
        }
        let is_told = || Ok(appliance.alerts("health")?.get(told).cloned());
        let alert = until("the alert", is_told).with_context(|| appliance.log())?;
        let text = alert["summary"].as_str().unwrap_or_default();
        ensure!(
            alert["state"] == "failed" && text.contains(says) && alert["vm"] == vm,
            "{signal_name}: {alert:#}"
        );
        let is_back = || Ok(appliance.alerts("health")?.get(told + 1).cloned());
        let alert = until("its recovery", is_back).with_context(|| appliance.log())?;
        ensure!(alert["state"] == "recovered", "{alert:#}");
        let row = appliance.vm(vm)?;
        ensure!(row["worker_pid"].as_i64() != Some(worker) && !row["kernel"].is_null(), "{row:#}");
        ensure!(!Path::new(&format!("/proc/{worker}")).exists(), "{worker} is left");
    }
    Ok(())
}

/// A supervisor that is killed leaves nothing behind that runs, and what it had raised is told after the next start.
#[test]
fn a_killed_supervisor_loses_nothing() -> Result<()> {
    let guest = boot("appliance-killed")?;
    let mut appliance = Appliance::start(&["appliance-killed"], OFTEN, "")?;
    appliance.wait_until_watched("appliance-killed")?;
    let worker = appliance.vm("appliance-killed")?["worker_pid"].as_i64().context("no worker")?;
    // What a worker cannot see by itself: its supervisor asks QEMU.
    let attack = ATTACKS.iter().find(|attack| attack.name == "interrupt table of one's own");
    let attack = attack.context("no such attack")?;
    guest.attack(attack)?;
    let first = appliance.wait_for("the alert", "detection", |alert| alert["detector"] == attack.detector)?;
    appliance.kill()?;
    until("its worker to end", || Ok((!Path::new(&format!("/proc/{worker}")).exists()).then_some(())))?;
    appliance.launch()?;
    appliance.wait_until_watched("appliance-killed")?;
    let is_again = |alert: &Value| alert["id"] == first["id"] && alert["sequence"] != first["sequence"];
    appliance.wait_for("the alert once more", "detection", is_again)?;
    Ok(())
}

/// A configuration that is wrong changes nothing, and is told with its place; the right one is taken at once.
#[test]
fn a_reload_takes_all_or_nothing() -> Result<()> {
    let guest = boot("appliance-reload")?;
    let vms = ["appliance-reload"];
    let appliance = Appliance::start(&vms, OFTEN, "")?;
    appliance.wait_until_watched(vms[0])?;
    appliance.configure(&vms, "processes = \"1s\"\nrulez = []", "")?;
    let refused = appliance.ask(&["reload"])?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(2), "{why}");
    ensure!(why.contains("nothing was changed") && why.contains("did you mean `rules`?"), "{why}");
    appliance.wait_for("the alert", "health", |alert| {
        alert["component"] == "reload" && alert["state"] == "failed"
    })?;
    let worker = appliance.vm(vms[0])?["worker_pid"].clone();

    // Rules are given: workers start anew with them, and a signature is found.
    guest.run(
        "printf 'X5O!P%%@AP[4\\\\PZX54(P^)7CC)7}$EICAR' > /dev/shm/marked; sleep 10000 < /dev/shm/marked &",
    )?;
    let rule = "rule marked { strings: $a = \"X5O!P%@AP[4\\\\PZX54(P^)7CC)7}$EICAR\" condition: $a }";
    fs::write(appliance.path("marked.yar"), rule)?;
    let rules = format!(
        "{OFTEN}\nsignatures = \"500ms\"\nrules = [{:?}]",
        appliance.path("marked.yar").display().to_string()
    );
    appliance.configure(&vms, &rules, "")?;
    signal(appliance.pid().into(), "HUP")?;
    appliance.wait_for("it to work again", "health", |alert| {
        alert["component"] == "reload" && alert["state"] == "recovered"
    })?;
    let is_it = |alert: &Value| alert["rule"]["rule"] == "marked";
    appliance.wait_for("the signature", "detection", is_it)?;
    ensure!(appliance.vm(vms[0])?["worker_pid"] != worker);

    // Other rules in the same file are taken as well.
    fs::write(appliance.path("marked.yar"), rule.replace("rule marked", "rule changed"))?;
    ensure!(appliance.ask(&["reload"])?.status.success());
    let is_other = |alert: &Value| alert["rule"]["rule"] == "changed";
    appliance.wait_for("the signature of the rules in their place", "detection", is_other)?;
    Ok(())
}

/// VMs that start are attached, VMs that end are forgotten, at any time.
#[test]
fn vms_come_and_go() -> Result<()> {
    let appliance = Appliance::start(&["appliance-comes", "appliance-stays"], OFTEN, "")?;
    ensure!(appliance.status()?["vms"].as_array().is_some_and(Vec::is_empty));
    let stays = boot("appliance-stays")?;
    appliance.wait_until_watched("appliance-stays")?;
    let comes = boot("appliance-comes")?;
    appliance.wait_until_watched("appliance-comes")?;
    // Both have the same kernel: what is compared with it is in memory once, and not a worker's own.
    let is_shared = || {
        let status = appliance.status()?;
        let rows = status["vms"].as_array().context("no VMs")?;
        let is_small = |row: &Value| {
            !row["image"].is_null() && row["memory_bytes"].as_u64().is_some_and(|bytes| bytes < 48 << 20)
        };
        let shared = status["kernels_bytes"].as_u64().is_some_and(|bytes| bytes > 16 << 20);
        Ok((shared && rows.len() == 2 && rows.iter().all(is_small)).then_some(()))
    };
    until("them to share their kernel", is_shared)
        .with_context(|| format!("{}\n{:#?}", appliance.log(), appliance.status()))?;
    drop(comes);
    let is_gone = || Ok((appliance.status()?["vms"].as_array().map(Vec::len) == Some(1)).then_some(()));
    until("it to be gone", is_gone)?;
    ensure!(appliance.vm("appliance-stays")?["failures"] == 0, "{}", appliance.vm("appliance-stays")?);
    drop(stays);
    Ok(())
}
