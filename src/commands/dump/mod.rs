//! `lynceus dump`: a guest's memory as a file.

use crate::cli::{DumpArgs, DumpFormat};
use crate::output::{Outcome, Output, escape};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use lynceus_introspect::Stability;
use lynceus_introspect::backend::dump::write::{Existing, WriteFormat, WriteReport, write_file};
use lynceus_introspect::memory::ram_bytes;
use lynceus_introspect::target::Target;
use serde::Serialize;

/// What was written.
#[derive(Serialize)]
struct Summary<'a> {
    target: &'a str,
    file: String,
    format: &'static str,
    memory_bytes: u64,
    zero_bytes: u64,
    file_bytes: u64,
    consistent: bool,
    unreadable: Vec<(u64, u64)>,
}

/// Writes it. What could not be read makes the dump incomplete.
pub(super) fn run(output: Output, args: &DumpArgs) -> Result<Outcome> {
    let target = crate::attach::open(&args.target, args.allow_unrestricted)?;
    target.warnings().iter().for_each(|warning| eprintln!("lynceus: {}: {}", args.target, escape(warning)));
    let pause = match (args.pause, target.pausable()) {
        (false, _) => None,
        (true, Some(pause)) => Some(pause),
        (true, None) => bail!("{}: cannot be paused: no control socket", args.target),
    };
    let paused = match &pause {
        Some(pause) => Some(pause.pause().with_context(|| format!("{}: cannot be paused", args.target))?),
        None => None,
    };
    let report = write(&target, args)?;
    let stood_still = paused.is_some();
    if let Some(paused) = paused {
        paused.resume().with_context(|| format!("{}: was paused and could not be resumed", args.target))?;
    }
    tell(output, args, &report, stood_still || report.stability == Stability::Frozen)?;
    Ok(if report.unreadable.is_empty() { Outcome::Clean } else { Outcome::Incomplete })
}

fn write(target: &Target, args: &DumpArgs) -> Result<WriteReport> {
    let memory = target.memory();
    let format = match args.format {
        DumpFormat::Elf => WriteFormat::Elf,
        DumpFormat::Lime => WriteFormat::Lime,
    };
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    let bar = ProgressBar::new(ram_bytes(&*memory));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    let written = write_file(&*memory, &args.out, format, existing, &mut |done, _| bar.set_position(done));
    bar.finish_and_clear();
    Ok(written?)
}

fn tell(output: Output, args: &DumpArgs, report: &WriteReport, consistent: bool) -> Result<()> {
    let unreadable: Vec<(u64, u64)> =
        report.unreadable.iter().map(|gap| (gap.range.start.0, gap.range.len_bytes)).collect();
    if output.is_json() {
        return output.json_line(&Summary {
            target: &args.target,
            file: args.out.display().to_string(),
            format: if args.format == DumpFormat::Elf { "elf" } else { "lime" },
            memory_bytes: report.memory_bytes,
            zero_bytes: report.zero_bytes,
            file_bytes: report.file_bytes,
            consistent,
            unreadable,
        });
    }
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{}: {} MiB of memory, {} MiB of them zeros and not stored",
        args.out.display(),
        mib(report.memory_bytes),
        mib(report.zero_bytes)
    );
    if !consistent {
        println!("the guest ran meanwhile: the dump is not of one instant (--pause makes one)");
    }
    for gap in report.unreadable.iter().take(10) {
        eprintln!(
            "gap: {} bytes at {}: {}",
            gap.range.len_bytes,
            gap.range.start,
            escape(&gap.why.to_string())
        );
    }
    Ok(())
}
