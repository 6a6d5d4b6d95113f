//! `lynceus run` as a test starts it, and the guests that it looks at.

use anyhow::{Context, Result};
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_lynceus");
/// Emulated guests on a busy machine take their time. Nothing here fails because it is slow before that.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often it looks.
pub(crate) const OFTEN: &str =
    "processes = \"300ms\"\nintegrity = \"500ms\"\ncpu_percent = 100\nvm_cpu_percent = 100";

/// `lynceus run`, in a folder of its own.
pub(crate) struct Appliance {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Appliance {
    /// Starts it with `config` behind what every test has.
    pub(crate) fn start(vms: &[&str], looks: &str, more: &str) -> Result<Appliance> {
        let mut appliance = Appliance::unconfigured()?;
        appliance.configure(vms, looks, more)?;
        appliance.launch()?;
        Ok(appliance)
    }

    pub(crate) fn unconfigured() -> Result<Appliance> {
        Ok(Appliance { folder: tempfile::tempdir()?, child: None })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn configure(&self, vms: &[&str], looks: &str, more: &str) -> Result<()> {
        let at = |name: &str| self.path(name).display().to_string();
        let config = format!(
            "state = {:?}\n{more}\n[vms]\nonly = {vms:?}\n[control]\nsocket = {:?}\n[looks]\nprofiles = {:?}\n{looks}\n\
             [alerts]\nspool = {:?}\n[[alerts.sinks]]\nname = \"file\"\nkind = \"file\"\naddress = {:?}\n",
            at("state"),
            at("socket"),
            at("profiles"),
            at("spool"),
            at("alerts.json")
        );
        Ok(fs::write(self.path("lynceus.toml"), config)?)
    }

    pub(crate) fn launch(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.path("log"))?;
        let child = Command::new(PROGRAM)
            .args(["run", "--config"])
            .arg(self.path("lynceus.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        until("the socket", || Ok(self.path("socket").exists().then_some(()))).with_context(|| self.log())
    }

    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.id().cast_signed())
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(fs::remove_file(self.path("socket"))?)
    }

    pub(crate) fn ask(&self, args: &[&str]) -> Result<Output> {
        Ok(Command::new(PROGRAM).args(args).arg("--socket").arg(self.path("socket")).output()?)
    }

    pub(crate) fn status(&self) -> Result<Value> {
        let output = self.ask(&["--json", "status"])?;
        let text = String::from_utf8(output.stdout)?;
        let line =
            text.lines().next().with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(serde_json::from_str(line)?)
    }

    /// The row of a VM.
    pub(crate) fn vm(&self, name: &str) -> Result<Value> {
        let status = self.status()?;
        let rows = status["vms"].as_array().context("no VMs")?;
        rows.iter().find(|row| row["vm"] == name).cloned().with_context(|| format!("no {name} in {status}"))
    }

    /// The alerts that reached the sink, of a kind.
    pub(crate) fn alerts(&self, kind: &str) -> Result<Vec<Value>> {
        let text = match fs::read_to_string(self.path("alerts.json")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let all = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        Ok(all.into_iter().filter(|alert| alert["kind"] == kind).collect())
    }

    /// Waits for an alert of a kind.
    pub(crate) fn wait_for(&self, what: &str, kind: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        until(what, || Ok(self.alerts(kind)?.into_iter().find(&is_it)))
            .with_context(|| format!("{}\n{:#?}", self.log(), self.alerts(kind)))
    }

    /// The rows of its VMs, once they are so.
    pub(crate) fn until_vms(&self, what: &str, is_so: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        until(what, || Ok(self.status()?["vms"].as_array().cloned().filter(|rows| is_so(rows))))
            .with_context(|| self.log())
    }

    pub(crate) fn wait_until_watched(&self, vm: &str) -> Result<()> {
        let is_watched =
            |row: &Value| row["vm"] == vm && !row["kernel"].is_null() && row["last_look_ms"].is_u64();
        self.until_vms("the first look", |rows| rows.iter().any(is_watched)).map(drop)
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(what: &str, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    lynceus_lab::until(what, PATIENCE, ask)
}

/// A small guest of this name.
pub(crate) fn spec(name: &str) -> Spec {
    Spec { name: name.to_owned(), ..Spec::everyday(KernelVersion::V6_1, Paging::Four) }
}

pub(crate) fn boot(name: &str) -> Result<Guest> {
    Guest::boot(&spec(name))
}
