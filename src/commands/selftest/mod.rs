//! `lynceus selftest sandbox`: whether a worker's lock-down holds on this host.
//!
//! *Does*: starts itself anew for every attempt, as a worker is started, and reads from each child how it ended.
//! *Trusts*: the children's wait status for what was stopped. *Never*: takes an attempt for stopped that did not say how.

mod child;

use crate::cli::SandboxArgs;
use crate::output::{Column, Outcome, Output, Row, escape};
use crate::sandbox::{ATTEMPTS, Attempt, End, LayerReport, Report, abstract_name, error_name};
use anyhow::{Context, Result, bail};
use child::Work;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};

/// What a child writes first on its standard output, a line of JSON each.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    LockedDown(Report),
    Through,
    Refused(i32),
    Worked(Box<Work>),
}

/// A layer, as a row.
#[derive(Serialize)]
struct LayerRow {
    layer: &'static str,
    holds: bool,
    how: String,
}

impl From<&LayerReport> for LayerRow {
    fn from(report: &LayerReport) -> LayerRow {
        LayerRow { layer: report.layer.name(), holds: report.holds, how: report.how.clone() }
    }
}

impl Row for LayerRow {
    const COLUMNS: &'static [Column] = &[Column::left("LAYER"), Column::left("HOLDS"), Column::left("HOW")];
    fn cells(&self) -> Vec<String> {
        vec![self.layer.to_owned(), yes(self.holds), self.how.clone()]
    }
}

/// An attempt, as a row.
#[derive(Serialize)]
struct AttemptRow {
    attempt: &'static str,
    about: &'static str,
    held: bool,
    locked_down: String,
    without_filter: String,
}

impl Row for AttemptRow {
    const COLUMNS: &'static [Column] = &[
        Column::left("ATTEMPT"),
        Column::left("HELD"),
        Column::left("LOCKED DOWN"),
        Column::left("WITHOUT THE FILTER"),
    ];
    fn cells(&self) -> Vec<String> {
        vec![self.about.to_owned(), yes(self.held), self.locked_down.clone(), self.without_filter.clone()]
    }
}

fn yes(holds: bool) -> String {
    if holds { "yes" } else { "NO" }.to_owned()
}

/// Tries everything, or, as a child, one thing.
pub(super) fn run(output: Output, args: &SandboxArgs) -> Result<Outcome> {
    match (&args.attempt, args.work, &args.target) {
        (Some(name), _, _) => child::attempt(name, args),
        (None, true, Some(target)) => child::work(target, args),
        _ => try_all(output, args),
    }
}

fn try_all(output: Output, args: &SandboxArgs) -> Result<Outcome> {
    // Somebody to reach, so that an attempt that is not stopped works.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port to connect to")?;
    let port = listener.local_addr()?.port();
    let name = SocketAddr::from_abstract_name(abstract_name(std::process::id()))?;
    let _abstract = UnixListener::bind_addr(&name).context("an abstract socket to connect to")?;
    let (mut rows, mut layers) = (Vec::new(), Vec::new());
    for attempt in ATTEMPTS {
        let (ended, report) = try_one(attempt, port, false)?;
        let (alone, _) = try_one(attempt, port, true)?;
        if layers.is_empty() {
            layers = report.layers.iter().map(LayerRow::from).collect();
        }
        rows.push(AttemptRow {
            attempt: attempt.name,
            about: attempt.about,
            held: ended.held,
            locked_down: ended.how,
            without_filter: alone.how,
        });
    }
    output.rows(&layers)?;
    if !output.is_json() {
        println!();
    }
    output.rows(&rows)?;
    // No layer of the lock-down: the appliance does that to its workers.
    eprintln!("{}", escape(&crate::daemon::told_of_groups()));
    let worked = args.target.as_deref().map(|target| work(output, target, args)).transpose()?;
    Ok(verdict(&layers, &rows).and(worked.unwrap_or(Outcome::Clean)))
}

fn verdict(layers: &[LayerRow], rows: &[AttemptRow]) -> Outcome {
    let through: Vec<&str> = rows.iter().filter(|row| !row.held).map(|row| row.about).collect();
    let missing: Vec<&str> = layers.iter().filter(|row| !row.holds).map(|row| row.layer).collect();
    eprintln!("{} of {} attempts were stopped", rows.len() - through.len(), rows.len());
    if !through.is_empty() {
        eprintln!("NOT STOPPED: {}", through.join("; "));
        return Outcome::Findings;
    }
    if !missing.is_empty() {
        eprintln!("INCOMPLETE: this host or this user lacks: {}", missing.join(", "));
        return Outcome::Incomplete;
    }
    Outcome::Clean
}

/// What came of an attempt, and whether it was stopped.
struct Ended {
    held: bool,
    how: String,
}

fn try_one(attempt: &Attempt, port: u16, without_filter: bool) -> Result<(Ended, Report)> {
    let port = port.to_string();
    let mut args = vec!["--attempt", attempt.name, "--port", &port];
    if without_filter {
        args.push("--without-filter");
    }
    let (end, said, stderr) = start(&args)?;
    let mut said = said.into_iter();
    let Some(Line::LockedDown(report)) = said.next() else {
        bail!("{}: the process could not be locked down: it {end}: {}", attempt.name, escape(stderr.trim()));
    };
    let ended = match (said.next(), end) {
        (Some(Line::Refused(errno)), End::Exited(0)) => Ended { held: true, how: error_name(errno) },
        // A program that was executed says nothing.
        (Some(Line::Through) | None, End::Exited(0)) => Ended { held: false, how: "works".to_owned() },
        (None, End::Stopped(_)) => Ended { held: true, how: end.to_string() },
        (_, end) => bail!("{}: the process {end}: {}", attempt.name, escape(stderr.trim())),
    };
    Ok((ended, report))
}

/// Runs a child to its end, as a worker is run: no environment, pipes and nothing else.
fn start(args: &[&str]) -> Result<(End, Vec<Line>, String)> {
    let program = std::env::current_exe().context("this program's own file")?;
    let mut command = Command::new(program);
    command.args(["selftest", "sandbox"]).args(args).env_clear().stdin(Stdio::null());
    let output = command.output().context("this program cannot be started")?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    Ok((End::of(output.status, &stderr), lines.context("a child's words")?, stderr))
}

fn work(output: Output, target: &str, args: &SandboxArgs) -> Result<Outcome> {
    let look = &args.look;
    let (tries, pause) = (look.tries.to_string(), look.pause_ms.to_string());
    let store =
        look.profiles.clone().unwrap_or_else(lynceus_profiles::store::ProfileStore::default_directory);
    let store = store.to_str().context("a path in UTF-8")?;
    let mut words = vec![target, "--work", "--tries", &tries, "--pause-ms", &pause, "--profiles", store];
    words.extend(look.no_cache.then_some("--no-cache"));
    words.extend(look.allow_unrestricted.then_some("--allow-unrestricted"));
    for rules in &args.rules {
        words.extend(["--rules", rules.to_str().context("a path in UTF-8")?]);
    }
    let (end, mut said, stderr) = start(&words)?;
    stderr.lines().for_each(|line| eprintln!("{}", escape(line)));
    let Some(Line::Worked(work)) = said.pop().filter(|_| end == End::Exited(0)) else {
        bail!("{target}: the locked-down process {end}");
    };
    if output.is_json() {
        output.json_line(&*work)?;
    } else {
        println!("\n{}", escape(&work.summary(target)));
    }
    Ok(if work.gaps == 0 { Outcome::Clean } else { Outcome::Incomplete })
}
