//! `cargo xtask detect-matrix`: every attack on every kernel, and looks at a busy ordinary system, written to `docs/detection.md`.

use crate::shell::root;
use anyhow::{Context, Result, bail};
use lynceus_lab::attacks::ATTACKS;
use lynceus_lab::{KernelVersion, Paging};
use lynceus_lab_compare::detect::{self, Control, Outcome};
use lynceus_scanners::DETECTORS;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Kernels of the control guests.
const CONTROLS: [KernelVersion; 2] = [KernelVersion::V6_1, KernelVersion::V6_12];
/// How the part on false alarms begins in the report, which only `--control` writes anew.
const CONTROL_HEAD: &str = "## Control guests";
const HEAD: &str = "\
# Detection

Made by `cargo xtask detect-matrix`. Each attack is a harmless program or module of our own (`lab/guest/src/attacks`, `lab/module`)
that does to a disposable guest just what one detector must find. In one guest for each kernel the attacks are done one after the
other: before each and after each nothing may be found, and while it is on exactly one finding, its detector's.

The figures are the time that **all** detectors together took to look at the attacked guest, which runs under software emulation on
the same machine meanwhile; a finding in a process is confirmed by two more looks, 15 ms apart.
";

/// Arguments of `cargo xtask detect-matrix`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Look at busy ordinary guests for so many minutes instead; there must be no finding
    #[arg(long, value_name = "MINUTES")]
    control: Option<u64>,
    /// Seconds between two of those looks
    #[arg(long, value_name = "SECONDS", default_value_t = 3, requires = "control")]
    every: u64,
    /// Look at a guest of this kernel alone; what the report says of others stays
    #[arg(long, value_parser = control_kernel, value_name = "VERSION", requires = "control")]
    kernel: Option<KernelVersion>,
}

fn control_kernel(word: &str) -> Result<KernelVersion> {
    let found = CONTROLS.into_iter().find(|kernel| kernel.to_string() == word);
    found.with_context(|| {
        format!("control guests run {}", CONTROLS.map(|kernel| kernel.to_string()).join(" or "))
    })
}

/// Runs the matrix, or the control guests, and writes the report. Anything but what is expected is an error, after the report.
pub(crate) fn run_all(args: &Args) -> Result<()> {
    lynceus_lab::packages::ensure(lynceus_lab::packages::ALL)?;
    let old = std::fs::read_to_string(report()).unwrap_or_default();
    let (matrix, control) = old.split_once(CONTROL_HEAD).unwrap_or((&old, ""));
    let (matrix, control, wrong) = match args.control {
        Some(minutes) => {
            let (told, wrong) = controls(args, minutes, control)?;
            (matrix.to_owned(), told, wrong)
        }
        None => {
            let (told, wrong) = attacks()?;
            (told, format!("{CONTROL_HEAD}{control}"), wrong)
        }
    };
    std::fs::write(report(), format!("{}\n\n{}\n", matrix.trim_end(), control.trim_end()))?;
    println!("written: {}", report().display());
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

fn report() -> PathBuf {
    root().join("docs/detection.md")
}

/// The report's tables of attacks and detectors, and what was not as expected.
fn attacks() -> Result<(String, Vec<String>)> {
    let mut columns = Vec::new();
    for kernel in KernelVersion::ALL {
        println!("attacking Linux {kernel}");
        columns.push(detect::under_attack(kernel, Paging::Four).with_context(|| kernel.to_string())?);
    }
    let mut wrong = Vec::new();
    let mut out = format!("{HEAD}\n## Attacks\n\n| attack | detector |");
    KernelVersion::ALL.iter().for_each(|kernel| out += &format!(" {kernel} |"));
    out += &format!("\n|---|---|{}\n", "---|".repeat(columns.len()));
    for attack in ATTACKS {
        write!(out, "| {} | `{}` |", attack.name, attack.detector)?;
        for (kernel, outcomes) in KernelVersion::ALL.iter().zip(&columns) {
            let outcome = outcomes.iter().find(|outcome| outcome.attack == attack);
            wrong.extend(
                outcome
                    .filter(|outcome| !outcome.is_right())
                    .map(|outcome| format!("{} on {kernel}: {outcome:#?}", attack.name)),
            );
            write!(out, " {} |", outcome.map_or_else(|| "–".to_owned(), cell))?;
        }
        out.push('\n');
    }
    out += "\n–: this kernel has nothing that could be attacked so.\n\n";
    out += &detectors();
    Ok((out, wrong))
}

fn cell(outcome: &Outcome) -> String {
    let found = if outcome.is_right() { "found" } else { "**wrong**" };
    format!("{found}, {} ms", outcome.took.as_millis())
}

/// All that is known of the detectors, as `lynceus explain` tells it.
fn detectors() -> String {
    let mut out = String::from(
        "## Detectors\n\n| detector | technique | sees | evaded by | may be wrong about |\n|---|---|---|---|---|\n",
    );
    for detector in DETECTORS {
        let limits = detector.limits;
        let cells =
            [limits.sees, limits.evaded_by, limits.false_positives].map(|text| text.replace('|', "\\|"));
        out += &format!("| `{}` | {} | {} |\n", detector.name, detector.technique, cells.join(" | "));
    }
    out
}

/// The report's part on false alarms, and what was not as expected. One guest after the other: what else runs makes looks slower.
fn controls(args: &Args, minutes: u64, old: &str) -> Result<(String, Vec<String>)> {
    let (lasts, between) = (Duration::from_secs(minutes.saturating_mul(60)), Duration::from_secs(args.every));
    let mut out = format!(
        "{CONTROL_HEAD}\n\nBusy ordinary guests (`lab/src/busy.rs`): shells, packages unpacked and programs replaced while they run, \
         containers with and without user namespaces, set-uid programs, a compiler's code, a debugger, short connections, sockets on \
         their way between processes; and Debian's own Python (threads, children, ctypes), LuaJIT, grep with compiled expressions and \
         Perl. All detectors look, again and again, with some seconds between two looks.\n\n\
         | kernel | minutes | seconds between | looks | false alarms | looks with gaps | longest look |\n\
         |---|---|---|---|---|---|---|\n"
    );
    let mut wrong = Vec::new();
    for kernel in CONTROLS {
        if args.kernel.is_some_and(|only| only != kernel) {
            let row = format!("| {kernel} |");
            old.lines().filter(|line| line.starts_with(&row)).for_each(|line| out += &format!("{line}\n"));
            continue;
        }
        let tell = &mut |what: &str| println!("{kernel}: {what}");
        let Control { looks, with_gaps, alarms, longest } =
            detect::control(kernel, lasts, between, tell).with_context(|| kernel.to_string())?;
        out += &format!(
            "| {kernel} | {minutes} | {} | {looks} | {} | {} | {} ms |\n",
            args.every,
            alarms.len(),
            with_gaps.0,
            longest.as_millis()
        );
        println!("{kernel}: {looks} looks, {} false alarms, {with_gaps:?} with gaps", alarms.len());
        if !alarms.is_empty() {
            wrong.push(format!("{kernel}: {} false alarms", alarms.len()));
        }
    }
    Ok((out, wrong))
}
