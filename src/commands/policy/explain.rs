//! `lynceus policy explain`: which rule decides about a connection, and why each rule before it does not.

use crate::cli::ExplainArgs;
use crate::output::{Outcome, Output, escape};
use anyhow::{Context, Result, bail};
use lynceus_firewall::suite::{self, Judged};
use lynceus_firewall::{Flow, Moment, Outcome as Asked};
use lynceus_policy::{End, Place, Policy, Test, Timestamp, Verdict, service};
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;

#[derive(Serialize)]
struct Explanation {
    source: String,
    destination: String,
    service: String,
    verdict: &'static str,
    judged: Vec<ByVm>,
}

#[derive(Serialize)]
struct ByVm {
    vm: String,
    direction: &'static str,
    verdict: &'static str,
    decided_by: String,
    /// Something in audit mode would have denied it.
    would_deny: bool,
    steps: Vec<StepLine>,
}

#[derive(Serialize)]
struct StepLine {
    rule: String,
    place: Place,
    tier: &'static str,
    action: &'static str,
    outcome: String,
}

/// Explains every flow that the two ends and the service stand for.
pub(super) fn run(output: Output, args: &ExplainArgs) -> Result<Outcome> {
    let policy = super::load(output, &args.folder.policy)?;
    let at = match &args.at {
        None => Timestamp::now(),
        Some(text) => {
            let time = humantime::parse_rfc3339_weak(text).with_context(|| format!("{text}: no time"))?;
            Timestamp(i64::try_from(time.duration_since(std::time::UNIX_EPOCH)?.as_secs())?)
        }
    };
    let service = match &args.port {
        Some(port) => format!("{}/{port}", args.service),
        None => args.service.clone(),
    };
    let test = Test {
        place: Place { file: Arc::default(), line: 1, column: 1 },
        name: None,
        from: end(&policy, &args.from)?,
        to: end(&policy, &args.to)?,
        services: service::parse(&service).with_context(|| service.clone())?,
        service,
        at: Some(at),
        process: None,
        expect: Verdict::Allow,
    };
    let flows = suite::flows(&policy, &test);
    if flows.is_empty() {
        bail!("{} and {} have no family in common that {} is in", args.from, args.to, test.service);
    }
    let owners = suite::owners(&policy.vms);
    for flow in &flows {
        let explanation = explained(flow, &suite::connection(&owners, flow, &Moment::at(at)));
        if output.is_json() {
            output.json_line(&explanation)?;
        } else {
            tell(output, &explanation)?;
        }
    }
    Ok(Outcome::Clean)
}

fn end(policy: &Policy, text: &str) -> Result<End> {
    if let Ok(address) = text.parse() {
        return Ok(End::Address(address));
    }
    if policy.vms.contains_key(text) {
        return Ok(End::Vm(text.to_owned()));
    }
    bail!("{text}: neither an address nor one of the policy's VMs")
}

fn explained(flow: &Flow, judged: &[Judged]) -> Explanation {
    let service = lynceus_policy::ServiceRange { lane: flow.lane, first: flow.number, last: flow.number };
    Explanation {
        source: flow.source.to_string(),
        destination: flow.destination.to_string(),
        service: service.to_string(),
        verdict: suite::verdict(judged).name(),
        judged: judged.iter().map(by_vm).collect(),
    }
}

fn by_vm(judged: &Judged) -> ByVm {
    let decision = &judged.decision;
    let step = |step: &lynceus_firewall::Step| StepLine {
        rule: step.rule.id.clone(),
        place: step.rule.place.clone(),
        tier: step.rule.tier.name(),
        action: step.rule.action.name(),
        outcome: match step.outcome {
            Asked::NotMatched(why) => format!("no: {why}"),
            Asked::WouldDeny => "matches; it is in audit mode and only tells".to_owned(),
            Asked::Passed => "matches; the next tier decides".to_owned(),
            Asked::Decided(verdict) => format!("matches: {}", verdict.name()),
            Asked::Asks => "the host looks which process it is; until it knows: deny".to_owned(),
            Asked::NotKnown(verdict) => format!("the process is not known: {}", verdict.name()),
        },
    };
    ByVm {
        vm: judged.vm.clone(),
        direction: judged.direction.name(),
        verdict: decision.verdict.name(),
        decided_by: super::decided_by(decision),
        would_deny: decision.would_deny,
        steps: decision.steps.iter().map(step).collect(),
    }
}

fn tell(output: Output, explanation: &Explanation) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let Explanation { source, destination, service, verdict, judged } = explanation;
    let line = format!("{source} → {destination} {service}: {verdict}");
    writeln!(out, "{}", output.bold(&line))?;
    if judged.is_empty() {
        writeln!(out, "  neither end is a VM of the policy: nothing judges it")?;
    }
    for by in judged {
        writeln!(out, "  {} {}: {}, by {}", by.vm, by.direction, by.verdict, escape(&by.decided_by))?;
        for step in &by.steps {
            let told = format!("{} {} {}", step.tier, step.action, step.rule);
            writeln!(out, "    {told:<40} {}  ({})", step.outcome, escape(&step.place.to_string()))?;
        }
    }
    Ok(out.flush()?)
}
