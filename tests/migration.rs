//! VMs that migrate, from one QEMU to another on this machine, while they are looked at: whoever looks is never told that half a memory is clean.

use anyhow::{Context, Result, ensure};
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Emulated guests on a busy machine take their time. Nothing here fails because it is slow before that.
const PATIENCE: Duration = Duration::from_secs(120);
/// So fast that it ends, and so slow that there are looks meanwhile.
const BYTES_A_SECOND: u64 = 12 << 20;
const OFTEN: &str = "processes = \"300ms\"\nintegrity = \"500ms\"\ncpu_percent = 100\nvm_cpu_percent = 100";

fn spec(name: &str) -> Spec {
    Spec { name: name.to_owned(), ..Spec::everyday(KernelVersion::V6_1, Paging::Four) }
}

fn pid(guest: &Guest) -> String {
    format!("pid:{}", guest.pid())
}

fn lynceus(profiles: &Path, args: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_lynceus")).args(args).env("LYNCEUS_PROFILES", profiles).output()?)
}

fn until_state(guest: &Guest, state: &str) -> Result<()> {
    lynceus_lab::until_so(state, PATIENCE, || Ok(guest.run_state()? == state))
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
    let scan = Command::new(env!("CARGO_BIN_EXE_lynceus"))
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

/// The appliance, in a folder of its own.
struct Appliance {
    folder: tempfile::TempDir,
    child: Child,
}

impl Appliance {
    fn start(vm: &str) -> Result<Appliance> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "state = {:?}\n[vms]\nonly = [{vm:?}]\n[control]\nsocket = {:?}\n[looks]\nprofiles = {:?}\n{OFTEN}\n\
             [alerts]\nspool = {:?}\n[[alerts.sinks]]\nname = \"file\"\nkind = \"file\"\naddress = {:?}\n",
            at("state"),
            at("socket"),
            at("profiles"),
            at("spool"),
            at("alerts.json")
        );
        fs::write(at("lynceus.toml"), config)?;
        let log = fs::File::create(at("log"))?;
        let child = Command::new(env!("CARGO_BIN_EXE_lynceus"))
            .args(["run", "--config", &at("lynceus.toml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Appliance { folder, child })
    }

    /// The VMs of its status, once they are so.
    fn until(&self, what: &str, is_so: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        let ask = || {
            let output = Command::new(env!("CARGO_BIN_EXE_lynceus"))
                .args(["--json", "status", "--socket"])
                .arg(self.folder.path().join("socket"))
                .output()?;
            let text = String::from_utf8(output.stdout)?;
            let status: Value = serde_json::from_str(text.lines().next().unwrap_or("null"))?;
            Ok(status["vms"].as_array().cloned().filter(|rows| is_so(rows)))
        };
        let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        lynceus_lab::until(what, PATIENCE, ask).with_context(log)
    }

    fn alerts(&self, component: &str) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.folder.path().join("alerts.json")).unwrap_or_default();
        let all = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        Ok(all
            .into_iter()
            .filter(|alert| alert["component"] == component || alert["kind"] == component)
            .collect())
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The appliance tells once that a VM has left, and watches it where it arrived; half of it is nobody's finding.
#[test]
fn the_appliance_follows_a_vm_that_migrates() -> Result<()> {
    let vm = "migrates-watched";
    let source = Guest::boot(&spec(vm))?;
    let appliance = Appliance::start(vm)?;
    let looked = |row: &Value, target: &str| {
        row["target"] == target && row["last_look_ms"].is_u64() && row["vm"] == vm
    };
    let (from, is_at) =
        (pid(&source), |rows: &[Value], target: &str| rows.iter().any(|row| looked(row, target)));
    appliance.until("the first look", |rows| is_at(rows, &from))?;
    let target = Guest::boot(&Spec { arrives: true, ..spec(vm) })?;
    let to = pid(&target);
    target.take(&source, 4 * BYTES_A_SECOND)?;
    until_state(&target, "running")?;
    let rows = appliance.until("a look at where it is", |rows| is_at(rows, &to))?;
    let left = rows.iter().find(|row| row["target"] == from.as_str()).context("it is forgotten")?;
    ensure!(
        left["state"] == "migrated"
            && left["worker_pid"].is_null()
            && left["trouble"]["migrated"].is_string(),
        "{left:#}"
    );
    let told = appliance.alerts("migrated")?;
    ensure!(told.len() == 1 && told[0]["state"] == "failed", "{told:#?}");
    drop(source);
    appliance.until("it to be forgotten", |rows| rows.len() == 1 && is_at(rows, &to))?;
    ensure!(appliance.alerts("detection")?.is_empty(), "{:#?}", appliance.alerts("detection"));
    Ok(())
}
