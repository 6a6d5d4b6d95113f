//! `lynceus firewall run`: stays, and keeps what is enforced true.
//!
//! *Does*: at start the last good rules; then, woken by the kernel when an interface comes or goes, binds and unbinds ports; goes on when a
//! rule's hours begin or end; looks names up again when their TTL is over; repairs what others changed; goes back from what nobody confirmed. *Never*: takes
//! rules away when it ends, however it ends: they stay in the kernel.

use super::firewall::{self, Guarded};
use super::flows::{self, Ports};
use super::followed::Followed;
use super::names::joined;
use crate::cli::StateArgs;
use crate::output::{Outcome, Output, escape};
use crate::process_rules::{self, News};
use anyhow::{Context, Result};
use lynceus_firewall::enforce;
use lynceus_firewall::names::Found;
use lynceus_firewall::nft::Nft;
use lynceus_firewall::state::{State, Store};
use lynceus_policy::Timestamp;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// rtnetlink(7): interfaces that come, go and change.
const RTMGRP_LINK: u32 = 1;
/// Without any event: whether the rules are there still.
const TICK: Duration = Duration::from_secs(1);
/// Whether each of them is as it was left.
const COMPARE: Duration = Duration::from_secs(30);

/// What wakes the enforcer.
enum Wake {
    /// An interface came, went or changed.
    Link,
    /// A name was looked up.
    Found(Found),
}

/// What the enforcer tells.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Event {
    /// In a word: `running`, `failed`, `guarded`, `closed`, `gone`, `repaired`, …
    pub(crate) event: &'static str,
    /// The port that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<String>,
    /// The VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vm: Option<String>,
    /// More of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
}

struct Enforcer<'a> {
    tell: &'a dyn Fn(Event) -> Result<()>,
    args: &'a StateArgs,
    nft: Nft,
    compared: Instant,
    names: Followed,
    /// What was looked up since names were last followed.
    heard: Vec<Found>,
}

/// Runs until it is ended, and prints what happens.
pub(super) fn run(output: Output, args: &StateArgs) -> Result<Outcome> {
    process_rules::start(args.state.clone(), teller(output, args.state.clone()));
    enforce_on(args, &|event| print(output, &event))
}

fn print(output: Output, event: &Event) -> Result<()> {
    if output.is_json() {
        return output.json_line(event);
    }
    let told = [&event.port, &event.vm, &event.text].into_iter().flatten().map(|text| escape(text));
    println!("{:<14}  {}", event.event, told.collect::<Vec<_>>().join("  "));
    Ok(())
}

/// Keeps what is enforced true until `tell` fails.
pub(crate) fn enforce_on(args: &StateArgs, tell: &dyn Fn(Event) -> Result<()>) -> Result<Outcome> {
    // Listens before it looks: nothing that comes meanwhile is missed.
    let (wake, woken) = channel();
    listen(wake.clone())?;
    firewall::restore(args)?;
    let names = Followed::start(move |found| wake.send(Wake::Found(found)).is_ok())?;
    let mut enforcer =
        Enforcer { tell, args, nft: Nft::default(), compared: Instant::now(), names, heard: Vec::new() };
    enforcer.tell("running", None, None, None)?;
    loop {
        if let Err(error) = enforcer.step(&woken) {
            // The old rules stay; the next tick tries again.
            enforcer.tell("failed", None, None, Some(format!("{error:#}")))?;
            std::thread::sleep(TICK);
        }
    }
}

/// Tells of what comes of rules about processes.
fn teller(output: Output, folder: PathBuf) -> process_rules::Tell {
    Arc::new(move |news| {
        let told = match news {
            News::Flow(flow) => flows::tell(output, Ports::new(&folder).row(*flow)),
            News::Guest { vm, text } => {
                print(output, &Event { event: "guest", port: None, vm: Some(vm), text: Some(text) })
            }
        };
        // Nobody reads it: what is enforced is enforced all the same.
        drop(told);
    })
}

/// A thread that waits for the kernel to tell of interfaces.
fn listen(wake: Sender<Wake>) -> Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("netlink")?;
    socket.bind(&SocketAddr::new(0, RTMGRP_LINK)).context("netlink")?;
    std::thread::spawn(move || {
        // An overflow is an error of one call: something was missed, and that is reason enough to look.
        loop {
            if socket.recv_from_full().is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
            if wake.send(Wake::Link).is_err() {
                return;
            }
        }
    });
    Ok(())
}

impl Enforcer<'_> {
    fn tell(
        &self,
        event: &'static str,
        port: Option<&str>,
        vm: Option<&str>,
        text: Option<String>,
    ) -> Result<()> {
        (self.tell)(Event { event, port: port.map(str::to_owned), vm: vm.map(str::to_owned), text })
    }

    /// Waits for something to happen, and sees to it.
    fn step(&mut self, woken: &Receiver<Wake>) -> Result<()> {
        let first = match woken.recv_timeout(TICK) {
            Ok(wake) => Some(wake),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(TICK);
                None
            }
        };
        // One look answers all that has come meanwhile.
        let all = first.into_iter().chain(woken.try_iter());
        self.heard.extend(all.filter_map(|wake| match wake {
            Wake::Found(found) => Some(found),
            Wake::Link => None,
        }));
        let store = Store::open(&self.args.state)?;
        if enforce::roll_back_if_due(&self.nft, &store, Timestamp::now())? {
            self.tell("rolled back", None, None, Some("nobody confirmed the change".to_owned()))?;
        }
        let Some(old) = store.enforced()? else { return Ok(()) };
        self.repair(&store, &old)?;
        let Some(old) = store.enforced()? else { return Ok(()) };
        let mut new = old.clone();
        let heard = std::mem::take(&mut self.heard);
        match self.names.follow(&store, heard, &mut new).as_deref() {
            Some([]) => self.tell("names known", None, None, Some("all of them again".to_owned()))?,
            Some(troubles) => self.tell("names failing", None, None, Some(joined(troubles)))?,
            None => {}
        }
        Guarded { ports: new.ports, bridges: new.bridges } =
            Guarded::look(old.wanted(), old.bridges, &self.nft)?;
        let now = Timestamp::now();
        let is_time = old.changes_at().is_some_and(|at| at <= now);
        if Guarded::of(&new) == Guarded::of(&old) && new.names == old.names && !is_time {
            return Ok(());
        }
        new.at = now;
        enforce::enforce(&self.nft, &store, Some(&old), &mut new)?;
        self.tell_of(&old, &new, is_time)
    }

    /// Puts everything back where it is not as it was left.
    fn repair(&mut self, store: &Store, state: &State) -> Result<()> {
        let mut wrong = Vec::new();
        if !enforce::has_generation(&self.nft, state) {
            wrong.push("inet".to_owned());
        } else if self.compared.elapsed() > COMPARE && !state.fingerprints.is_empty() {
            self.compared = Instant::now();
            wrong = enforce::changed_by_others(&self.nft, state)?;
        }
        if wrong.is_empty() {
            return Ok(());
        }
        // A device that is gone took its chain with it: that is nobody's change.
        let now = Guarded::look(state.wanted(), state.bridges, &self.nft)?;
        if wrong.iter().all(|family| family == "netdev" && now.ports != state.ports) {
            return Ok(());
        }
        let Guarded { ports, bridges } = now;
        let mut repaired = State { ports, bridges, at: Timestamp::now(), ..state.clone() };
        enforce::replace(&self.nft, store, state, &mut repaired)?;
        let text = format!("somebody else changed the rules ({}): they are back", wrong.join(", "));
        self.tell("repaired", None, None, Some(text))
    }

    fn tell_of(&self, old: &State, new: &State, is_time: bool) -> Result<()> {
        for (port, binding) in new.ports.iter().filter(|(port, _)| !old.ports.contains_key(*port)) {
            let event = if binding.path.is_some() { "guarded" } else { "closed" };
            self.tell(event, Some(port), Some(&binding.vm), None)?;
        }
        for (port, binding) in old.ports.iter().filter(|(port, _)| !new.ports.contains_key(*port)) {
            self.tell("gone", Some(port), Some(&binding.vm), None)?;
        }
        let is_other = |port: &String| {
            old.ports.get(port).zip(new.ports.get(port)).is_some_and(|(before, after)| before != after)
        };
        for (port, binding) in new.ports.iter().filter(|(port, _)| is_other(port)) {
            self.tell("another device", Some(port), Some(&binding.vm), None)?;
        }
        if new.names != old.names {
            self.tell("names", None, None, Some(joined(&moved(old, new))))?;
        }
        if is_time {
            self.tell("hours", None, None, Some("of rules began or ended".to_owned()))?;
        }
        Ok(())
    }
}

/// Which names stand for other addresses than before.
fn moved(old: &State, new: &State) -> Vec<String> {
    let all: BTreeSet<&String> = old.names.keys().chain(new.names.keys()).collect();
    let moved = all.into_iter().filter(|name| old.names.get(*name) != new.names.get(*name));
    let count = |name: &String| new.names.get(name).map_or(0, BTreeSet::len);
    moved.map(|name| format!("{name} stands for {} addresses", count(name))).collect()
}
