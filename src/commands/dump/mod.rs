//! `lynceus dump`: a guest's memory as a file.

mod manifest;

use crate::cli::{DumpArgs, DumpFormat};
use crate::output::{Outcome, Output, escape};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use lynceus_introspect::Stability;
use lynceus_introspect::backend::dump::write::{Existing, WriteFormat, WriteReport, write_file};
use lynceus_introspect::memory::ram_bytes;
use lynceus_introspect::target::Target;
use serde::Serialize;
use std::time::SystemTime;

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
    sha256: Option<String>,
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
    let started = SystemTime::now();
    let report = write(&target, args)?;
    let stood_still = paused.is_some();
    if let Some(paused) = paused {
        paused.resume().with_context(|| format!("{}: was paused and could not be resumed", args.target))?;
    }
    let consistent = stood_still || report.stability == Stability::Frozen;
    let (name, file, format, finished) =
        (args.target.as_str(), args.out.as_path(), format_name(args.format), SystemTime::now());
    let written = manifest::Written { name, file, format, report: &report, consistent, started, finished };
    let sha256 = match args.manifest {
        true => Some(manifest::write(&target, &written)?.sha256().to_owned()),
        false => None,
    };
    tell(output, args, &written, sha256)?;
    Ok(if report.unreadable.is_empty() { Outcome::Clean } else { Outcome::Incomplete })
}

fn write(target: &Target, args: &DumpArgs) -> Result<WriteReport> {
    let memory = target.memory();
    let format = match args.format {
        DumpFormat::Elf => WriteFormat::Elf,
        DumpFormat::Lime => WriteFormat::Lime,
        DumpFormat::Avml => WriteFormat::Avml,
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

fn format_name(format: DumpFormat) -> &'static str {
    match format {
        DumpFormat::Elf => "elf",
        DumpFormat::Lime => "lime",
        DumpFormat::Avml => "avml",
    }
}

/// Start and length of what is missing.
fn unreadable(report: &WriteReport) -> Vec<(u64, u64)> {
    report.unreadable.iter().map(|gap| (gap.range.start.0, gap.range.len_bytes)).collect()
}

fn tell(
    output: Output,
    args: &DumpArgs,
    written: &manifest::Written<'_>,
    sha256: Option<String>,
) -> Result<()> {
    let manifest::Written { report, consistent, .. } = *written;
    if output.is_json() {
        return output.json_line(&Summary {
            target: &args.target,
            file: args.out.display().to_string(),
            format: written.format,
            memory_bytes: report.memory_bytes,
            zero_bytes: report.zero_bytes,
            file_bytes: report.file_bytes,
            consistent,
            sha256,
            unreadable: unreadable(report),
        });
    }
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{}: {} MiB of memory, {} MiB of them zeros, {} MiB of file",
        args.out.display(),
        mib(report.memory_bytes),
        mib(report.zero_bytes),
        mib(report.file_bytes)
    );
    if let Some(sha256) = sha256 {
        println!("{}: SHA-256 {sha256}", manifest::path_of(&args.out).display());
    }
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
