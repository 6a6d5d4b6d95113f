//! `lynceus run`: one daemon that watches and guards a host.
//!
//! One supervisor ([`supervisor`]), one worker process per VM ([`worker`]). The supervisor never reads a guest; a worker never leaves its guest. Threads wait for
//! VMs to come and go, for workers, clients, the firewall and signals, and all of them send [`Event`]s to the one thread that owns all state.
//!
//! *Trusts*: the configuration, the policy, the host's kernel and hypervisor. *Never*: opens a port before its policy is there, or leaves one open because it ends.

mod config;
mod control;
mod deeds;
mod found;
mod groups;
mod guard;
mod kernels;
mod log;
mod looker;
mod metrics;
mod modules;
mod places;
mod process;
mod protocol;
mod respond;
mod schedule;
mod stamps;
mod status;
mod store;
mod supervisor;
mod tell;
mod vms;
mod watched;
mod worker;
mod workers;

pub(crate) use config::{Config, DEFAULT_SOCKET};
pub(crate) use control::{Answer, Request, ask};
pub(crate) use groups::told as told_of_groups;
pub(crate) use looker::Looker;
pub(crate) use protocol::Process;
pub(crate) use schedule::some_time;
pub(crate) use status::{FoundRow, ResponseRow, Status, VmRow};
pub(crate) use worker::run as run_worker;

use crate::commands::enforcer;
use crate::sandbox;
use anyhow::{Context, Result};
use lynceus_alerts::{Alert, Pipeline};
use lynceus_introspect::{ControlError, Processor};
use process::WorkerId;
use protocol::Reply;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::path::Path;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use supervisor::Supervisor;

/// Events that wait; who sends more waits as well.
const MAX_EVENTS: usize = 4096;

/// Heaps of the supervisor's threads: there are hundreds that wait, and few that work.
const HEAPS: u32 = 2;

/// What happens.
enum Event {
    /// The VMs of the host, or why they cannot be listed.
    Vms(Result<vms::Listed, String>),
    /// What a worker says; none when it hung up, an error where it cannot be understood.
    Worker(WorkerId, Option<Result<Reply, String>>),
    /// What a worker learned of its guest's kernel.
    Learned(WorkerId, Vec<u8>),
    /// What a process has unpacked, or why not.
    Unpacked(WorkerId, Result<std::fs::File, String>),
    /// A guest was paused for its worker, or goes on, or why not.
    Paused(WorkerId, Result<(), String>),
    /// What a guest's processors hold, for its worker, or why nobody can tell.
    Registers(WorkerId, Result<Vec<Processor>, ControlError>),
    /// Somebody asks something.
    Control(control::Asked, Sender<Answer>),
    /// Something that is an alert as it is.
    Alert(Box<Alert>),
    /// The firewall tells something.
    Guard(enforcer::Event),
    /// Something was done to a VM.
    Finished(Box<deeds::Finished>),
    /// The configuration is to be read again.
    Reload,
    /// It is time to end.
    End,
}

/// Runs until it is told to end.
pub(crate) fn run(path: &Path) -> Result<()> {
    sandbox::small_heap(HEAPS);
    let config = Config::load(path)?;
    config.log.start()?;
    std::fs::create_dir_all(&config.state).with_context(|| config.state.display().to_string())?;
    if let Some(why) = groups::take() {
        tracing::info!("workers have no control groups of their own: {why}");
    }
    let alerts = Pipeline::open(&config.alerts)?;
    let (events, received) = sync_channel(MAX_EVENTS);
    signals(events.clone())?;
    let control = config.control.clone();
    let mut supervisor = Supervisor::new(config, path.to_owned(), alerts, events.clone())?;
    // Before anything else: what was enforced last is enforced again, then what is configured now.
    supervisor.guard();
    control::serve(&control, events.clone())?;
    control.metrics.map_or(Ok(()), |address| metrics::serve(address, events.clone()))?;
    vms::watch(supervisor.config.vms.clone(), events)?;
    tell_manager(sd_notify::NotifyState::Ready);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "runs");
    supervisor.run(&received);
    tell_manager(sd_notify::NotifyState::Stopping);
    supervisor.end();
    tracing::info!("ends; what is enforced stays");
    Ok(())
}

/// Word to the service manager, where there is one.
fn tell_manager(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

fn signals(events: SyncSender<Event>) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]).context("signals")?;
    let work = move || {
        for signal in signals.forever() {
            let event = if signal == SIGHUP { Event::Reload } else { Event::End };
            if events.send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(work)
        .map(drop)
        .context("no thread for signals")
}
