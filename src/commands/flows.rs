//! `lynceus firewall flows`: what the rules tell of, while it happens.
//!
//! The kernel sends it to one listener at a time, and no more than fifty a second of a rule. What it writes with `--json` is what
//! `lynceus policy plan --flows` reads.

use crate::cli::FlowsArgs;
use crate::ipfix::Collector;
use crate::nflog::Listener;
use crate::output::{Outcome, Output, escape};
use anyhow::Result;
use lynceus_firewall::Process;
use lynceus_firewall::flows::FlowEvent;
use lynceus_firewall::nft::LOG_GROUP;
use lynceus_firewall::ports;
use lynceus_firewall::state;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// An event, and where it was seen.
#[derive(Serialize)]
pub(crate) struct FlowRow {
    #[serde(flatten)]
    pub(crate) event: FlowEvent,
    /// The VM's port.
    pub(crate) port: String,
}

/// Prints flows until it is ended, or until so many were printed.
pub(super) fn run(output: Output, args: &FlowsArgs) -> Result<Outcome> {
    let listener = Listener::of(LOG_GROUP, false)?;
    let collector = args.ipfix.as_deref().map(Collector::named).transpose()?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(flows) = listener.next()? else {
            eprintln!("lynceus: more flows than could be read: some are lost");
            continue;
        };
        let mut ports = Ports::new(&args.state.state);
        let wanted = flows.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX));
        let rows: Vec<FlowRow> = wanted.map(|event| ports.row(event)).collect();
        if let Some(collector) = &collector {
            collector.add(&rows);
        }
        for row in rows {
            left -= 1;
            tell(output, row)?;
        }
    }
    collector.iter().for_each(Collector::finish);
    Ok(Outcome::Clean)
}

/// The host's interfaces by number, looked up once for the packets that come together.
pub(crate) struct Ports<'a> {
    folder: &'a Path,
    names: BTreeMap<u32, String>,
}

impl<'a> Ports<'a> {
    pub(crate) fn new(folder: &'a Path) -> Ports<'a> {
        let devices = ports::devices(Path::new(super::firewall::DEVICES)).unwrap_or_default();
        Ports { folder, names: devices.into_iter().map(|device| (device.index, device.name)).collect() }
    }

    /// An event with its port's name, and the VM behind it where the rule could not tell.
    pub(crate) fn row(&mut self, mut event: FlowEvent) -> FlowRow {
        let (came, goes) = event.interfaces;
        let name = |index: Option<u32>| index.and_then(|index| self.names.get(&index)).cloned();
        let near =
            if event.direction == "in" { name(goes).or(name(came)) } else { name(came).or(name(goes)) };
        let port = near.unwrap_or_default();
        if event.vm.is_empty()
            && let Ok(Some(state)) = state::peek(self.folder)
            && let Some(binding) = state.ports.get(&port)
        {
            event.vm.clone_from(&binding.vm);
        }
        FlowRow { event, port }
    }
}

/// One line for it.
pub(crate) fn tell(output: Output, row: FlowRow) -> Result<()> {
    if output.is_json() {
        return output.json_line(&row);
    }
    let FlowRow { event, port } = &row;
    let text = |address: Option<IpAddr>| address.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(event.time_ms));
    let time = at.map_or_else(String::new, |at| humantime::format_rfc3339_millis(at).to_string());
    println!(
        "{time:<24}  {:<10}  {:<16}  {:<3}  {} → {}  {}  {}  {}{}",
        escape(&event.verdict),
        escape(&event.vm),
        escape(&event.direction),
        text(event.source),
        text(event.destination),
        event.service.as_deref().unwrap_or("-"),
        escape(port),
        escape(&event.rule),
        behind(event)
    );
    Ok(())
}

/// The processes behind it, where it was asked.
fn behind(event: &FlowEvent) -> String {
    let Some(who) = event.who else { return String::new() };
    if event.processes.is_empty() {
        return format!("  process {who}");
    }
    let one = |process: &Process| {
        let what = process.exe.as_deref().unwrap_or(&process.comm);
        let container = process.container.iter().map(|id| format!(" in {}", escape(id)));
        format!(
            "  {} (pid {}, uid {}){}",
            escape(what),
            process.pid,
            process.uid,
            container.collect::<String>()
        )
    };
    event.processes.iter().map(one).collect()
}
