//! `lynceus run`, and what talks to it: `status`, `respond`, `reload`; `config check`.

use crate::cli::{RespondCommand, RunArgs, SocketArgs};
use crate::daemon::{self, Answer, Config, FoundRow, Request, ResponseRow, Status, VmRow};
use crate::output::{Column, Outcome, Output, Row, escape};
use anyhow::{Result, bail};
use std::path::Path;

/// Watches and guards until it is told to end.
pub(super) fn run(args: &RunArgs) -> Result<Outcome> {
    daemon::run(&args.config)?;
    Ok(Outcome::Clean)
}

/// Tells what is wrong with a configuration.
pub(super) fn check(args: &RunArgs) -> Result<Outcome> {
    Config::load(&args.config)?;
    println!("{}: nothing is wrong", args.config.display());
    Ok(Outcome::Clean)
}

/// Takes a changed configuration. Exit code 2 where it is wrong, and nothing was changed then.
pub(super) fn reload(args: &SocketArgs) -> Result<Outcome> {
    done(daemon::ask(&args.socket, &Request::Reload)?)
}

fn done(answer: Answer) -> Result<Outcome> {
    match answer {
        Answer::Done(what) => println!("{}", escape(&what)),
        Answer::Refused(why) => bail!("{}", escape(&why)),
        other => bail!("the appliance answers something else: {other:?}"),
    }
    Ok(Outcome::Clean)
}

/// Lists, releases, confirms.
pub(super) fn respond(output: Output, command: RespondCommand) -> Result<Outcome> {
    match command {
        RespondCommand::List(args) => match daemon::ask(&args.socket, &Request::Responses)? {
            Answer::Responses(rows) => {
                output.rows(&rows)?;
                let waiting = rows.iter().filter(|row| row.state == "waits").count();
                eprintln!("{} done, {waiting} waiting for a person", rows.len() - waiting);
                Ok(if waiting > 0 { Outcome::Findings } else { Outcome::Clean })
            }
            other => done(other),
        },
        RespondCommand::Release { vm, socket } => done(daemon::ask(&socket.socket, &Request::Release(vm))?),
        RespondCommand::Confirm { id, socket } => done(daemon::ask(&socket.socket, &Request::Confirm(id))?),
    }
}

/// How the appliance is. Exit code 1 where something was found, 3 where something is wrong with it.
pub(super) fn status(output: Output, args: &SocketArgs) -> Result<Outcome> {
    let status = ask_status(&args.socket)?;
    let Answer::Findings(findings) = daemon::ask(&args.socket, &Request::Findings)? else {
        bail!("the appliance answers something else");
    };
    if output.is_json() {
        output.json_line(&status)?;
        findings.iter().try_for_each(|row| output.json_line(row))?;
    } else {
        tell(output, &status, &findings)?;
    }
    let found = if findings.is_empty() { Outcome::Clean } else { Outcome::Findings };
    Ok(found.and(if status.is_well() { Outcome::Clean } else { Outcome::Incomplete }))
}

/// Asks for the status.
pub(super) fn ask_status(socket: &Path) -> Result<Status> {
    match daemon::ask(socket, &Request::Status)? {
        Answer::Status(status) => Ok(*status),
        Answer::Refused(why) => bail!("{}", escape(&why)),
        other => bail!("the appliance answers something else: {other:?}"),
    }
}

fn tell(output: Output, status: &Status, findings: &[FoundRow]) -> Result<()> {
    output.rows(&status.vms)?;
    if !findings.is_empty() {
        println!();
        output.rows(findings)?;
    }
    let states: Vec<String> =
        status.states().iter().map(|(state, count)| format!("{count} {state}")).collect();
    let guards = if status.guards { "guards" } else { "guards nothing: no policy was ever enforced" };
    let up = humantime::format_duration(std::time::Duration::from_secs(status.uptime_s));
    eprintln!("up {up}; {} VMs ({}); {guards}", status.vms.len(), states.join(", "));
    let alerts = &status.alerts;
    eprintln!(
        "alerts: {} raised, {} repeats, {} suppressed, {} refused; {} waiting for a person",
        alerts.raised, alerts.repeated, alerts.suppressed, alerts.refused, status.waiting
    );
    for sink in &alerts.sinks {
        eprintln!("sink {}: {} delivered, {} waiting", escape(&sink.name), sink.delivered, sink.lag);
    }
    if let Some(why) = &status.no_groups {
        eprintln!("workers have no control groups of their own: {}", escape(why));
    }
    status.troubles().iter().for_each(|why| eprintln!("{} {}", output.red("WRONG"), escape(why)));
    Ok(())
}

impl Row for VmRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("VM"),
        Column::left("STATE"),
        Column::left("KERNEL"),
        Column::right("LOOKS"),
        Column::right("LATE"),
        Column::right("PARTIAL"),
        Column::right("FINDINGS"),
        Column::right("LAST"),
        Column::right("CPU"),
        Column::right("MEMORY"),
        Column::left("DONE"),
    ];
    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        vec![
            self.vm.clone(),
            self.state.clone(),
            self.kernel.clone().unwrap_or_else(dash),
            self.looks.values().sum::<u64>().to_string(),
            self.late.to_string(),
            self.incomplete.to_string(),
            self.findings.to_string(),
            self.last_look_ms.map_or_else(dash, |ms| format!("{:.1} s", ms as f64 / 1e3)),
            format!("{:.1} s", self.cpu_ms as f64 / 1e3),
            self.memory_bytes.map_or_else(dash, |bytes| format!("{} MiB", bytes >> 20)),
            self.responses.join(", "),
        ]
    }
}

impl Row for FoundRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("SEVERITY"),
        Column::left("VM"),
        Column::left("DETECTOR"),
        Column::right("SEEN"),
        Column::left("ALERT"),
        Column::left("FINDING"),
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.severity.name().to_owned(),
            self.vm.clone(),
            self.detector.clone(),
            format!("{:.0} s ago", self.seen_ms_ago as f64 / 1e3),
            self.id.clone(),
            self.summary.clone(),
        ]
    }
}

impl Row for ResponseRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("STATE"),
        Column::left("VM"),
        Column::left("WHAT"),
        Column::left("SINCE"),
        Column::left("ALERT"),
        Column::left("WHY"),
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.state.clone(),
            self.vm.clone(),
            self.deed.clone(),
            self.since.clone(),
            self.id.clone(),
            self.why.clone(),
        ]
    }
}
