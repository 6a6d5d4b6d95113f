//! What the appliance does to a VM: isolate it, pause it, release it, write its memory to a file.
//!
//! *Does*: each in a thread of its own, that tells how it went. *Never*: lets a hypervisor or nft that does not answer hold up the supervisor.

use super::Event;
use super::respond::Deed;
use crate::attach;
use crate::commands::firewall;
use anyhow::{Context, Result};
use lynceus_introspect::target::Control;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// Something to do to a VM.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// Its name in the policy.
    pub(super) vm: String,
    /// What to open it by; none where it does not run.
    pub(super) target: Option<String>,
    /// What.
    pub(super) what: What,
    /// The alert that led to it, or who wanted it.
    pub(super) because: String,
    /// In words.
    pub(super) reason: String,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// A response.
    Do(Deed),
    /// Undo these.
    Release(Vec<Deed>),
    /// Write its memory to a file in this folder.
    Dump(PathBuf),
}

impl What {
    /// In a word.
    pub(super) fn name(&self) -> &'static str {
        match self {
            What::Do(deed) => deed.name(),
            What::Release(_) => "release",
            What::Dump(_) => "dump",
        }
    }
}

/// How it went.
#[derive(Debug)]
pub(super) struct Finished {
    /// What was to be done.
    pub(super) task: Task,
    /// What came of it, in words.
    pub(super) result: Result<String, String>,
    /// How long it took.
    pub(super) took: Duration,
}

/// Does it, and tells.
pub(super) fn start(task: Task, firewall_state: PathBuf, events: SyncSender<Event>) {
    std::thread::spawn(move || {
        let started = Instant::now();
        let result = work(&task, &firewall_state).map_err(|error| format!("{error:#}"));
        let finished = Finished { task, result, took: started.elapsed() };
        let _ = events.send(Event::Finished(Box::new(finished)));
    });
}

fn work(task: &Task, firewall_state: &Path) -> Result<String> {
    match &task.what {
        What::Do(Deed::Isolate) => isolate(task, firewall_state, true),
        What::Do(Deed::Pause) => {
            control(task)?.stop()?;
            Ok("paused".to_owned())
        }
        What::Release(deeds) => {
            let undone = deeds.iter().map(|deed| match deed {
                Deed::Isolate => isolate(task, firewall_state, false),
                Deed::Pause => control(task)?.go_on().map(|()| "runs".to_owned()).map_err(Into::into),
            });
            Ok(undone.collect::<Result<Vec<_>>>()?.join(", "))
        }
        What::Dump(folder) => dump(task, folder),
    }
}

fn control(task: &Task) -> Result<Arc<dyn Control>> {
    let target = task.target.as_deref().context("it does not run")?;
    Ok(attach::control(target, true)?)
}

fn isolate(task: &Task, firewall_state: &Path, is_isolated: bool) -> Result<String> {
    let done = firewall::set_isolated(firewall_state, &task.vm, is_isolated)?;
    let word = if is_isolated { "isolated" } else { "released" };
    Ok(if done.has_port { word.to_owned() } else { format!("{word}; it has no port on this host now") })
}

/// By a process of its own: what it reads is a guest's, and it takes minutes.
fn dump(task: &Task, folder: &Path) -> Result<String> {
    let target = task.target.as_deref().context("it does not run")?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let at = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string().replace(':', "");
    let safe: String =
        task.vm.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let file = folder.join(format!("{safe}-{at}.avml"));
    let done = Command::new("/proc/self/exe")
        .args(["dump", "--format", "avml", "--manifest", "--allow-unrestricted", target])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .context("the dump cannot be started")?;
    let errors = String::from_utf8_lossy(&done.stderr);
    match done.status.code() {
        Some(0) => Ok(file.display().to_string()),
        Some(3) => Ok(format!("{} (not all of the memory could be read)", file.display())),
        _ => anyhow::bail!("{}", errors.trim()),
    }
}
