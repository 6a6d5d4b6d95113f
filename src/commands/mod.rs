//! The commands: each attaches, looks and prints.

mod alerts;
mod appliance;
mod bpf;
mod check;
mod cohort;
mod dump;
pub(crate) mod enforcer;
mod explain;
mod files;
pub(crate) mod firewall;
mod firewall_top;
pub(crate) mod flows;
mod followed;
mod generate;
mod info;
mod log;
mod maps;
mod modules;
mod mounts;
mod names;
mod net;
mod owners;
pub(crate) mod policy;
mod profile;
pub(crate) mod ps;
mod replay;
mod scan;
mod screen;
mod selftest;
mod sockets;
mod top;
pub(crate) mod vms;

use crate::attach::Guest;
use crate::cli::{Cli, Command, ConfigCommand, LookArgs, SelftestCommand, TargetArgs};
use crate::output::{Outcome, Output, Row};
use anyhow::{Result, bail};
use lynceus_introspect::linux::{Task, View};
use lynceus_introspect::{GapReason, Partial};
use std::collections::BTreeMap;

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result<Outcome> {
    let output = Output::new(cli.json);
    match cli.command {
        Command::Vms { follow: false } => vms::run(output),
        Command::Vms { follow: true } => vms::follow(output),
        Command::Profile(command) => profile::run(output, command),
        Command::Ps { target, threads, environ } => {
            let guest = attach(&target)?;
            let wanted = ps::Wanted { threads, environ };
            let found = guest.observe(|view| ps::rows(view, wanted));
            let outcome = output.listing("processes", &found)?;
            ps::point_at_hidden(output, &found.items);
            Ok(outcome)
        }
        Command::Tree(target) => tree(output, &target),
        Command::Modules(target) => {
            list(output, &target, "modules", |view| convert::<_, modules::ModuleRow>(view.modules()))
        }
        Command::Maps(process) => {
            per_process(output, &process.target, process.pid, &process.look, "maps", maps::rows)
        }
        Command::Files(process) => {
            per_process(output, &process.target, process.pid, &process.look, "open files", files::rows)
        }
        Command::Sockets(target) => list(output, &target, "sockets", sockets::rows),
        Command::Mounts(target) => list(output, &target, "mounts", mounts::rows),
        Command::Net(target) => {
            list(output, &target, "interfaces", |view| convert::<_, net::NetRow>(view.interfaces()))
        }
        Command::Dmesg(target) => {
            list(output, &target, "log records", |view| convert::<_, log::LogRow>(view.kernel_log()))
        }
        Command::Bpf(target) => list(output, &target, "BPF programs", bpf::rows),
        Command::Info(target) => info::run(output, &attach(&target)?),
        Command::Check(args) => check::run(output, &args),
        Command::Replay(args) => replay::run(output, &args),
        Command::Explain { detector } => explain::run(output, detector.as_deref()),
        Command::Scan(args) => scan::run(output, &args),
        Command::Dump(args) => dump::run(output, &args),
        Command::Policy(command) => policy::run(output, command),
        Command::Firewall(command) => firewall::run(output, command),
        Command::Run(args) => appliance::run(&args),
        Command::Status(args) => appliance::status(output, &args),
        Command::Top(args) => top::run(output, &args),
        Command::Respond(command) => appliance::respond(output, command),
        Command::Reload(args) => appliance::reload(&args),
        Command::Config(ConfigCommand::Check(args)) => appliance::check(&args),
        Command::Worker => crate::daemon::run_worker().map(|()| Outcome::Clean),
        Command::Isolate(args) => firewall::isolate(&args, true),
        Command::Release(args) => firewall::isolate(&args, false),
        Command::Selftest(SelftestCommand::Sandbox(args)) => selftest::run(output, &args),
        Command::Completions { shell } => Ok(generate::completions(shell)),
        Command::Man { folder } => generate::man_pages(&folder),
    }
}

fn attach(target: &TargetArgs) -> Result<Guest> {
    Guest::attach(&target.target, &target.look)
}

/// Attaches, looks and prints a table.
fn list<R: Row>(
    output: Output,
    target: &TargetArgs,
    noun: &str,
    look: impl FnMut(&View<'_>) -> Partial<R>,
) -> Result<Outcome> {
    let guest = attach(target)?;
    output.listing(noun, &guest.observe(look))
}

fn tree(output: Output, target: &TargetArgs) -> Result<Outcome> {
    let guest = attach(target)?;
    let wanted = ps::Wanted { threads: false, environ: false };
    let found = guest.observe(|view| ps::rows(view, wanted));
    ps::print_tree(output, &found.items)?;
    let outcome = output.coverage("processes", &found)?;
    ps::point_at_hidden(output, &found.items);
    Ok(outcome)
}

/// What `rows` finds for each process, or for the one asked for.
fn per_process<R: Row>(
    output: Output,
    target: &str,
    pid: Option<u32>,
    look: &LookArgs,
    noun: &str,
    rows: impl Fn(&View<'_>, &Task, &mut Partial<R>) -> Result<(), GapReason>,
) -> Result<Outcome> {
    let guest = Guest::attach(target, look)?;
    let mut found_pid = false;
    let found = guest.observe(|view| {
        let mut found = Partial::default();
        let tasks = view.processes();
        let by_pid: BTreeMap<u32, Task> =
            found.absorb(tasks).into_iter().map(|(task, _)| (task.pid, task)).collect();
        found_pid = pid.is_none_or(|pid| by_pid.contains_key(&pid));
        for task in by_pid.values().filter(|task| pid.is_none_or(|pid| task.pid == pid)) {
            let read = rows(view, task, &mut found);
            found.ok("process", task.at, read);
        }
        found
    });
    if let Some(pid) = pid.filter(|_| !found_pid) {
        bail!("{target}: no process {pid} (`lynceus ps {target}` lists them)");
    }
    output.listing(noun, &found)
}

fn convert<T, R: From<T>>(found: Partial<T>) -> Partial<R> {
    found.map(R::from)
}
