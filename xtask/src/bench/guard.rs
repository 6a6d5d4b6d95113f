//! Guarding: how long a change takes among a thousand VMs, and what rules cost a packet.

use super::goals::{Goal, Limit, figure};
use super::report::{goals_of, short};
use super::{measure, peers};
use crate::shell::{build_program, cargo, program};
use anyhow::ensure;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Nanoseconds by their names, or bytes.
pub(crate) type Guarding = Result<BTreeMap<String, f64>, String>;

/// What the benchmark of the firewall prints. It needs root.
pub(crate) fn measure() -> Guarding {
    println!("guarding");
    let bench = ["bench", "--quiet", "--package", "lynceus-firewall", "--bench", "guard"];
    let (text, _) = measure::output(&mut cargo(&bench))
        .map_err(|why| format!("cargo bench of lynceus-firewall: {why}"))?;
    let mut figures = peers::figures(&String::from_utf8_lossy(&text));
    match with_a_guest() {
        Ok(more) => figures.extend(more),
        Err(why) => eprintln!("a guest's connections could not be measured: {why:#}"),
    }
    Ok(figures)
}

/// What needs a guest of the lab behind a tap, and so the scenery of the tests.
fn with_a_guest() -> anyhow::Result<BTreeMap<String, f64>> {
    build_program()?;
    let mut test = cargo(&["test", "--quiet", "--package", "lynceus", "--test", "guard", "--"]);
    test.args(["--ignored", "--nocapture", "how_long_a_verdict_takes"]);
    test.env("LYNCEUS_BENCH_PROGRAM", program());
    let (text, _) = measure::output(&mut test).map_err(anyhow::Error::msg)?;
    let figures = peers::figures(&String::from_utf8_lossy(&text));
    ensure!(figures.contains_key(VERDICT), "it does not tell how long");
    Ok(figures)
}

fn goals(guarding: &Guarding) -> Vec<Goal> {
    let get = |name: &str| figure(guarding.as_ref().map_err(Clone::clone)?, name);
    let ms = |name: &str| get(name).map(|ns| ns / 1e6);
    let over = |way: &str, one: &str, other: &str| {
        Ok(get(&format!("round trip, {way} connection: {one}"))?
            / get(&format!("round trip, {way} connection: {other}"))?)
    };
    let goal = |what, limit, value| Goal { what, limit, values: vec![value] };
    let (few, many, all) = ("2 VMs, 10 rules", "2 VMs, 5000 rules", "1000 VMs, 50 rules");
    let flat = Limit::AtMost(1.1, "times");
    vec![
        goal("compile 1,000 VMs with 50 rules each", Limit::AtMost(1000.0, "ms"), ms("compile of all")),
        goal("apply of one VM's change among them", Limit::AtMost(50.0, "ms"), ms(CHANGE)),
        goal(VERDICT, Limit::AtMost(1.0, "ms"), ms(VERDICT)),
        goal("memory of a VM that does nothing", Limit::AtMost(64.0, "KB"), memory(&get)),
        goal("a packet of a known connection, 5,000 rules against 10", flat, over("known", many, few)),
        goal("the same of a new one", flat, over("new", many, few)),
        goal("a packet of a known connection, 1,000 VMs against 2", flat, over("known", all, few)),
        goal("the same of a new one", flat, over("new", all, few)),
    ]
}

/// How names of figures begin that are bytes.
const MEMORY: &str = "memory of ";

fn memory(get: &dyn Fn(&str) -> Result<f64, String>) -> Result<f64, String> {
    let parts = ["a VM's rules, in the kernel", "a VM's policy, in the service"];
    parts
        .iter()
        .map(|part| get(&format!("{MEMORY}{part}")))
        .sum::<Result<f64, String>>()
        .map(|bytes| bytes / 1e3)
}

const VERDICT: &str = "verdict on a connection of a known process";
const CHANGE: &str = "apply of one: compile, kernel, state on disk";

/// The section of the report.
pub(crate) fn markdown(guarding: &Guarding) -> String {
    let mut out = goals_of("Guard", &goals(guarding));
    for (name, value) in guarding.iter().flatten() {
        let unit = match value {
            bytes if name.starts_with(MEMORY) => format!("{} KB", short(bytes / 1e3)),
            ns if *ns >= 1e9 => format!("{} s", short(ns / 1e9)),
            ns if *ns >= 1e6 => format!("{} ms", short(ns / 1e6)),
            ns => format!("{} µs", short(ns / 1e3)),
        };
        let _ = writeln!(out, "| {name} | {unit} |");
    }
    out.push_str(METHOD);
    out
}

const METHOD: &str = "
A thousand VMs with fifty rules each, all of them different; a network namespace with a device for every VM, each with its chain against spoofing; the
state on the disk that the target folder is on. *Apply of one*: one rule of one VM is another, there and back, 21 times, the median: the difference, the
kernel's transaction, and the new state, synced; by a process that has read the old state already, as the appliance has. `lynceus policy apply` reads the policy's
files and the old state before that: *read and resolve*, *read the old state*. *Round trip*: a datagram from one VM to another through the host, and its
answer, the medians of five rounds: 20,000 of one connection, 2,000 of connections that are new, which rules judge in both
VMs, the one that lets it in last of all. Every fifth rule denies; rules are about TCP, and passed over, unless it says that they are about UDP, and looked up. Those that overlap
have 41 ports and 65,536 peers each, or one port and a million peers, and share some with dozens of rules before them. *Verdict*: from the kernel's word about a
connection's first packet to the verdict that it is told, with a look into a lab guest with kernel 6.12 that runs under emulation; the median of 110 connections.
*Memory of a VM*: what the kernel keeps for itself, before and after; and what a process has more that reads the state.
";
