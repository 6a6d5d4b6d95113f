//! The appliance in the service domain: a locked-down worker looks into a domain, through a handle that can map nothing else.

use crate::guest::Guest;
use crate::toolstack::{PATIENCE, uptime};
use anyhow::{Context, Result, ensure};
use lynceus_lab::until;
use serde_json::Value;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

const FOLDER: &str = "/tmp/appliance";
const CONFIG: &str = r#"
state = "/tmp/appliance/state"
[control]
socket = "/tmp/appliance/socket"
[looks]
profiles = "/tmp/profiles"
processes = "1s"
integrity = "2s"
cpu_percent = 100
vm_cpu_percent = 100
[alerts]
spool = "/tmp/appliance/spool"
[[alerts.sinks]]
name = "file"
kind = "file"
address = "/tmp/appliance/alerts.json"
"#;

struct Appliance(Child);

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_dir_all(FOLDER);
    }
}

/// What hides in the domain becomes an alert, by a worker that every layer but Landlock's newest binds; told to stop, it stops.
pub(crate) fn watches(guest: &Guest) -> Result<()> {
    fs::create_dir(FOLDER)?;
    fs::write(format!("{FOLDER}/lynceus.toml"), CONFIG)?;
    let log = File::create(format!("{FOLDER}/log"))?;
    let mut run = Command::new("/bin/lynceus");
    run.args(["run", "--config", "/tmp/appliance/lynceus.toml"]).stdin(Stdio::null());
    let mut appliance = Appliance(run.stdout(log.try_clone()?).stderr(log).spawn()?);
    let said = || fs::read_to_string(format!("{FOLDER}/log")).unwrap_or_default();
    for hidden in ["(intruder)", "lynceus_lab_hide"] {
        let told = until(hidden, PATIENCE, || Ok(alert_of(&guest.name, hidden)));
        println!("LAB {}: an alert at {} s: {}", guest.name, uptime(), told.with_context(said)?);
    }
    let row = row_of(&guest.name).with_context(said)?;
    let lacks = row["missing_layers"].as_array().context("no missing_layers")?;
    ensure!(lacks.iter().all(|layer| layer.as_str().is_some_and(|it| it.starts_with("Landlock"))), "{row}");
    ensure!(row["failures"] == 0 && row["trouble"].as_object().is_some_and(|it| it.is_empty()), "{row}");
    println!("LAB {}: its worker lacks: {lacks:?}", guest.name);
    Command::new("/bin/busybox").args(["kill", &appliance.0.id().to_string()]).status()?;
    let ended = until("its end", PATIENCE, || Ok(appliance.0.try_wait()?)).with_context(said)?;
    ensure!(ended.success(), "{ended}: {}", said());
    Ok(())
}

/// The first alert of a VM's that says this, in a line.
fn alert_of(vm: &str, what: &str) -> Option<String> {
    let text = fs::read_to_string(format!("{FOLDER}/alerts.json")).ok()?;
    let alerts = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut its = alerts.filter(|alert| alert["vm"] == vm);
    its.find_map(|alert| alert["summary"].as_str().filter(|text| text.contains(what)).map(str::to_owned))
}

/// The VM's row in `lynceus status`.
fn row_of(vm: &str) -> Result<Value> {
    let status = Command::new("/bin/lynceus")
        .args(["--json", "status", "--socket", "/tmp/appliance/socket"])
        .output()?;
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    let all: Value = serde_json::from_str(text.lines().next().unwrap_or_default())
        .with_context(|| format!("{text}{}", String::from_utf8_lossy(&status.stderr)))?;
    let row = all["vms"].as_array().and_then(|rows| rows.iter().find(|row| row["vm"] == vm));
    row.cloned().with_context(|| format!("no {vm} in {all}"))
}
