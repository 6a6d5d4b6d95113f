//! The firewall as a part of the appliance.
//!
//! *Does*: enforces the policy, keeps it enforced in a thread of its own, and passes on what that and the flow log tell. *Never*: takes rules away:
//! they stay in the kernel when the appliance ends, however it ends.

use super::config::Config;
use super::{Event, tell};
use crate::cli::StateArgs;
use crate::commands::flows::{FlowRow, Ports};
use crate::commands::{enforcer, policy};
use crate::ipfix::Collector;
use crate::nflog::Listener;
use crate::process_rules::{self, News};
use anyhow::{Context, Result, bail};
use lynceus_firewall::flows::FlowEvent;
use lynceus_firewall::nft::LOG_GROUP;
use lynceus_firewall::state::{State, Store};
use lynceus_policy::Look;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

/// After the enforcer failed, it is started again.
const AGAIN: Duration = Duration::from_secs(2);

/// After the flow log could not be read, because another listens, it is tried again.
const FLOWS_AGAIN: Duration = Duration::from_secs(10);

/// Tests and enforces the configured policy; what it, or else the policy that was enforced by hand, says of looking, by VM.
pub(super) fn apply(config: &Config) -> Result<BTreeMap<String, Look>> {
    match &config.policy {
        Some(folder) => Ok(looks(policy::enforce_now(&config.firewall_state(), folder, &config.trust)?)),
        None => last_good(config),
    }
}

/// What the last good policy says of looking.
pub(super) fn last_good(config: &Config) -> Result<BTreeMap<String, Look>> {
    let enforced = Store::open(&config.firewall_state())?.enforced()?;
    Ok(enforced.map(looks).unwrap_or_default())
}

fn looks(state: State) -> BTreeMap<String, Look> {
    state.vms.into_iter().map(|(name, vm)| (name, vm.policy.look.clone())).collect()
}

/// A thread that keeps what is enforced true. None where nothing is.
pub(super) fn start(config: &Config, events: SyncSender<Event>) -> Result<bool> {
    let state = config.firewall_state();
    if Store::open(&state)?.enforced()?.is_none() {
        return Ok(false);
    }
    let args = StateArgs { state };
    let flows = events.clone();
    let tell = move |event: enforcer::Event| {
        if events.send(Event::Guard(event)).is_err() {
            bail!("the appliance ends");
        }
        Ok(())
    };
    let work = move || {
        loop {
            if let Err(error) = enforcer::enforce_on(&args, &tell)
                && tell(told("failed", None, format!("{error:#}"))).is_err()
            {
                return;
            }
            std::thread::sleep(AGAIN);
        }
    };
    std::thread::Builder::new()
        .name("firewall".to_owned())
        .spawn(work)
        .context("no thread for the firewall")?;
    hear(config, flows)?;
    Ok(true)
}

/// What is not as the policy wants it: those who ask about processes tell of it, and the flow log.
fn hear(config: &Config, events: SyncSender<Event>) -> Result<()> {
    let (state, hears, wants_alerts) = (config.firewall_state(), events.clone(), config.guard.flow_alerts);
    let collector = config.guard.ipfix.map(Collector::at).transpose()?;
    let (of_processes, folder) = (collector.clone(), state.clone());
    let tell = move |news| match news {
        News::Flow(flow) => {
            if wants_alerts {
                pass_on(&flow, &hears);
            }
            // To find the ports takes a look at all of the host's interfaces.
            if let Some(collector) = &of_processes {
                collector.add(&[Ports::new(&folder).row(*flow)]);
            }
        }
        News::Guest { vm, text } => {
            let _ = hears.send(Event::Guard(told("processes", Some(vm), text)));
        }
    };
    process_rules::start(state.clone(), Arc::new(tell));
    if !wants_alerts && collector.is_none() {
        return Ok(());
    }
    let work = move || {
        loop {
            if let Err(error) = log(&state, &events, wants_alerts, collector.as_ref()) {
                let text = format!("what the rules log cannot be read: {error:#}");
                if events.send(Event::Guard(told("flows", None, text))).is_err() {
                    return;
                }
            }
            std::thread::sleep(FLOWS_AGAIN);
        }
    };
    std::thread::Builder::new()
        .name("flows".to_owned())
        .spawn(work)
        .map(drop)
        .context("no thread for the flow log")
}

/// Passes on what the rules log.
fn log(
    state: &Path,
    events: &SyncSender<Event>,
    wants_alerts: bool,
    collector: Option<&Collector>,
) -> Result<()> {
    let listener = Listener::of(LOG_GROUP, false)?;
    events.send(Event::Guard(told("hears", None, "the flow log".to_owned())))?;
    loop {
        let Some(flows) = listener.next()? else { bail!("more flows than could be read: some are lost") };
        let mut ports = Ports::new(state);
        let rows: Vec<FlowRow> = flows.into_iter().map(|flow| ports.row(flow)).collect();
        collector.iter().for_each(|collector| collector.add(&rows));
        rows.iter().filter(|_| wants_alerts).for_each(|row| pass_on(&row.event, events));
    }
}

fn told(event: &'static str, vm: Option<String>, text: String) -> enforcer::Event {
    enforcer::Event { event, port: None, vm, text: Some(text) }
}

/// An alert for what was not let pass.
fn pass_on(flow: &FlowEvent, events: &SyncSender<Event>) {
    if !matches!(&*flow.verdict, "allow" | "pass") {
        let _ = events.send(Event::Alert(Box::new(tell::flow(flow))));
    }
}
