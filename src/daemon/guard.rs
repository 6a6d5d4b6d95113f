//! The firewall as a part of the appliance.
//!
//! *Does*: enforces the policy, keeps it enforced in a thread of its own, and passes on what that and the flow log tell. *Never*: takes rules away:
//! they stay in the kernel when the appliance ends, however it ends.

use super::Event;
use super::config::Config;
use crate::cli::StateArgs;
use crate::commands::{enforcer, policy};
use anyhow::{Context, Result, bail};
use lynceus_firewall::state::Store;
use lynceus_policy::Look;
use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

/// After the enforcer failed, it is started again.
const AGAIN: Duration = Duration::from_secs(2);

/// What the firewall tells.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// In a word.
    pub(super) event: &'static str,
    /// The port.
    pub(super) port: String,
    /// The VM.
    pub(super) vm: String,
    /// More of it.
    pub(super) text: String,
}

/// Tests and enforces the configured policy; what it, or else the policy that was enforced by hand, says of looking, by VM.
pub(super) fn apply(config: &Config) -> Result<BTreeMap<String, Look>> {
    let state = config.firewall_state();
    let enforced = match &config.policy {
        Some(folder) => Some(policy::enforce_now(&state, folder, &config.trust)?),
        None => Store::open(&state)?.enforced()?,
    };
    let vms = enforced.map(|state| state.vms).unwrap_or_default();
    Ok(vms.into_iter().map(|(name, vm)| (name, vm.policy.look.clone())).collect())
}

/// What the last good policy says of looking.
pub(super) fn last_good(config: &Config) -> Result<BTreeMap<String, Look>> {
    apply(&Config { policy: None, ..config.clone() })
}

/// A thread that keeps what is enforced true. None where nothing is.
pub(super) fn start(config: &Config, events: SyncSender<Event>) -> Result<bool> {
    let state = config.firewall_state();
    if Store::open(&state)?.enforced()?.is_none() {
        return Ok(false);
    }
    let args = StateArgs { state };
    let tell = move |event: enforcer::Event| {
        let told = Told {
            event: event.event,
            port: event.port.unwrap_or_default(),
            vm: event.vm.unwrap_or_default(),
            text: event.text.unwrap_or_default(),
        };
        if events.send(Event::Guard(told)).is_err() {
            bail!("the appliance ends");
        }
        Ok(())
    };
    let work = move || {
        loop {
            if let Err(error) = enforcer::enforce_on(&args, &tell) {
                let text = Some(format!("{error:#}"));
                if tell(enforcer::Event { event: "failed", port: None, vm: None, text }).is_err() {
                    return;
                }
            }
            std::thread::sleep(AGAIN);
        }
    };
    std::thread::Builder::new()
        .name("firewall".to_owned())
        .spawn(work)
        .context("no thread for the firewall")?;
    Ok(true)
}
