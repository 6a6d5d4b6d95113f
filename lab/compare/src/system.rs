//! Modules, the kernel log, BPF objects, clocks, the banner.

use crate::report::Report;
use anyhow::{Context, Result, ensure};
use lynceus_introspect::linux::{LogRecord, View};
use lynceus_lab::truth::Truth;

/// More than the guest ran between its account and being stopped, on a busy machine.
const MOMENT_NS: i64 = 60_000_000_000;

pub(crate) fn compare(view: &View<'_>, truth: &Truth, report: &mut Report) -> Result<()> {
    let theirs = truth.modules()?.into_iter().map(|module| {
        format!("{} {:x} {} {} {}", module.name, module.base, module.size, module.refs, module.state)
    });
    let ours = report.whole("modules", view.modules()).into_iter().map(|module| {
        let (base, size, refs) = (module.base.0, module.size_bytes, module.refcount);
        format!("{} {base:x} {size} {refs} {}", module.name, module.state.name())
    });
    report.compare("module", theirs.collect(), ours.collect());
    log(view, truth, report)?;
    bpf(view, truth, report)?;
    clocks(view, truth)
}

/// What the guest logged after it read its log is more than it told.
fn log(view: &View<'_>, truth: &Truth, report: &mut Report) -> Result<()> {
    let told = truth.log()?;
    let last = told.last().context("the guest's log is empty")?.sequence;
    let ours = report.whole("log", view.kernel_log()).into_iter().filter(|record| record.sequence <= last);
    let ours = ours.map(|record| {
        let LogRecord { sequence, level, facility, time_ns, text } = record;
        format!("{sequence} {level} {facility} {} {}", time_ns / 1000, escaped(&text))
    });
    let theirs = told.iter().map(|record| {
        let (sequence, level, facility, time_us) =
            (record.sequence, record.level, record.facility, record.time_us);
        format!("{sequence} {level} {facility} {time_us} {}", record.text)
    });
    report.compare("log", theirs.collect(), ours.collect());
    Ok(())
}

/// As `/dev/kmsg` writes what it cannot print (`append_char`, `kernel/printk/printk.c`).
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b' '..=b'[' | b']'..=b'~' => char::from(byte).to_string(),
        other => format!("\\x{other:02x}"),
    };
    text.bytes().map(escape).collect()
}

fn bpf(view: &View<'_>, truth: &Truth, report: &mut Report) -> Result<()> {
    let theirs = truth.bpf_programs()?.into_iter();
    let theirs = theirs.map(|it| format!("{} {} {} {}", it.id, it.kind, it.tag, it.name));
    let ours = report.whole("BPF programs", view.bpf_programs()).into_iter().map(|it| {
        let tag: String = it.tag.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {} {tag} {}", it.id, it.program_type, it.name)
    });
    report.compare("BPF program", theirs.collect(), ours.collect());
    let theirs = truth.bpf_maps()?.into_iter().map(|it| {
        format!("{} {} {} {} {} {}", it.id, it.kind, it.key_size, it.value_size, it.max_entries, it.name)
    });
    let ours = report.whole("BPF maps", view.bpf_maps()).into_iter().map(|it| {
        format!(
            "{} {} {} {} {} {}",
            it.id, it.map_type, it.key_bytes, it.value_bytes, it.max_entries, it.name
        )
    });
    report.compare("BPF map", theirs.collect(), ours.collect());
    Ok(())
}

fn clocks(view: &View<'_>, truth: &Truth) -> Result<()> {
    let (told, ours) = (truth.clocks()?, view.clocks().map_err(|gap| anyhow::anyhow!("clocks: {gap}"))?);
    let boot_s = ours.boot_time_ns / 1_000_000_000;
    ensure!(
        boot_s.abs_diff(truth.boot_time()? as i64) <= 1,
        "booted at {boot_s}, not {}",
        truth.boot_time()?
    );
    for (name, told, ours) in [
        ("wall clock", told.realtime_ns, ours.now_ns),
        ("monotonic clock", told.monotonic_ns, ours.monotonic_ns),
        ("boot clock", told.boottime_ns, ours.uptime_ns),
    ] {
        // A tick before the account at the earliest.
        let since = ours.saturating_sub(told as i64);
        ensure!((-20_000_000..MOMENT_NS).contains(&since), "{name}: {ours} ns, told {told} ns");
    }
    let banner = &view.kernel().profile.identity.banner;
    ensure!(banner.trim_end() == truth.version()?, "banner {banner:?}, told {:?}", truth.version()?);
    Ok(())
}
