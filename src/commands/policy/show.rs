//! `lynceus policy show`: all that holds for one VM, as it is resolved.

use crate::cli::FolderArgs;
use crate::output::{Column, Outcome, Output, Row, escape};
use anyhow::{Result, bail};
use lynceus_policy::{Direction, Rule, VmPolicy};
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct RuleRow {
    direction: &'static str,
    #[serde(flatten)]
    rule: Arc<Rule>,
}

impl Row for RuleRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("DIR"),
        Column::left("TIER"),
        Column::left("ACTION"),
        Column::left("RULE"),
        Column::left("PEER"),
        Column::left("SERVICES"),
        Column::left("WHEN"),
        Column::left("PLACE"),
    ];
    fn cells(&self) -> Vec<String> {
        let Rule { peers, services, names, schedule, .. } = self.rule.as_ref();
        let peer = if peers.is_everything() {
            "any".to_owned()
        } else {
            shortened(peers.ranges().iter().map(ToString::to_string).chain(names.iter().cloned()).collect())
        };
        let service = if services.is_everything() {
            "any".to_owned()
        } else {
            shortened(services.ranges().iter().map(ToString::to_string).collect())
        };
        let until = schedule.expires.map(|at| format!("until {at}"));
        let when: Vec<String> = schedule.hours.iter().map(ToString::to_string).chain(until).collect();
        let when = if when.is_empty() { "always".to_owned() } else { when.join("; ") };
        let action = if self.rule.audit {
            format!("{} (audit)", self.rule.action.name())
        } else {
            self.rule.action.name().to_owned()
        };
        vec![
            self.direction.to_owned(),
            self.rule.tier.name().to_owned(),
            action,
            self.rule.id.clone(),
            peer,
            service,
            when,
            self.rule.place.to_string(),
        ]
    }
}

fn shortened(all: Vec<String>) -> String {
    const SHOWN: usize = 4;
    let more = all.len().saturating_sub(SHOWN);
    let shown = all.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown}, … {more} more") } else { shown }
}

/// Shows one VM's policy; with `--json` as it is serialised.
pub(super) fn run(output: Output, name: &str, folder: &FolderArgs) -> Result<Outcome> {
    let policy = super::load(output, &folder.policy)?;
    let Some(vm) = policy.vms.get(name) else {
        let known: Vec<&str> = policy.vms.keys().take(20).map(String::as_str).collect();
        bail!("the policy has no VM {name:?}; it has {}", known.join(", "));
    };
    if output.is_json() {
        output.json_line(vm)?;
        return Ok(Outcome::Clean);
    }
    head(vm);
    let rows: Vec<RuleRow> = Direction::ALL
        .into_iter()
        .flat_map(|direction| {
            vm.chain(direction)
                .rules()
                .map(move |rule| RuleRow { direction: direction.name(), rule: rule.clone() })
        })
        .collect();
    output.rows(&rows)?;
    eprintln!("{} rules", rows.len());
    Ok(Outcome::Clean)
}

fn head(vm: &VmPolicy) {
    let labels: Vec<String> = vm.vm.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    println!("{}  {}", vm.vm.name, escape(&labels.join(" ")));
    for interface in &vm.vm.interfaces {
        let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
        let port = interface.port.as_deref().unwrap_or("-");
        let spoofing = if interface.anti_spoofing { "" } else { "  (any address: anti-spoofing is off)" };
        println!("port {port}  {}  {}{spoofing}", interface.mac, addresses.join(" "));
    }
    println!("policies: {}", vm.policies.join(", "));
    for direction in Direction::ALL {
        let default = &vm.chain(direction).default;
        let of = default.policy.as_deref().map_or_else(String::new, |policy| format!(" (policy {policy})"));
        let audit = if default.audit { ", told only" } else { "" };
        println!("default {}: {}{audit}{of}", direction.name(), default.verdict.name());
    }
}
