//! `lynceus info`: what a guest is, and how it was found.

use super::ps::{rfc3339, wall_clock};
use crate::attach::Guest;
use crate::output::{Outcome, Output, escape};
use anyhow::Result;
use lynceus_introspect::find::Source;
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::memory::ram_bytes;
use lynceus_introspect::paging::Mode;
use serde::Serialize;
use std::time::{Duration, UNIX_EPOCH};

/// What a guest is.
#[derive(Serialize)]
struct Info {
    target: String,
    backend: String,
    hostname: Option<String>,
    release: String,
    banner: String,
    build_id: Option<String>,
    boot_time: Option<String>,
    now: Option<String>,
    uptime_s: Option<f64>,
    cpus: Option<u32>,
    ram_bytes: u64,
    ram: Vec<(u64, u64)>,
    paging: &'static str,
    page_table_root: u64,
    text_virtual: u64,
    text_physical: u64,
    virtual_slide: u64,
    profile_source: &'static str,
    symbols: usize,
    types: usize,
    evidence: Vec<String>,
    doubts: Vec<String>,
    rejected: Vec<String>,
    unavailable_views: Vec<String>,
    registers: String,
    attach_ms: f64,
}

/// Prints it.
pub(super) fn run(output: Output, guest: &Guest) -> Result<Outcome> {
    let info = gather(guest);
    if output.is_json() {
        output.json_line(&info)?;
    } else {
        print(output, &info);
    }
    Ok(if info.unavailable_views.is_empty() { Outcome::Clean } else { Outcome::Incomplete })
}

fn gather(guest: &Guest) -> Info {
    let kernel = guest.linux().kernel();
    let view = guest.linux().view();
    let clocks = view.clocks().ok();
    let profile = &kernel.profile;
    let ram = guest.linux().memory().ram();
    Info {
        target: guest.name.clone(),
        backend: guest.backend.clone(),
        hostname: hostname(guest.linux()),
        release: profile.identity.release.clone(),
        banner: profile.identity.banner.clone(),
        build_id: profile.identity.build_id.map(|id| id.to_string()),
        boot_time: clocks.as_ref().and_then(|clocks| wall_clock(clocks, 0)),
        now: clocks.as_ref().and_then(|clocks| {
            rfc3339(UNIX_EPOCH.checked_add(Duration::from_nanos(u64::try_from(clocks.now_ns).ok()?))?)
        }),
        uptime_s: clocks.as_ref().map(|clocks| clocks.uptime_ns as f64 / 1e9),
        cpus: view.per_cpu("runqueues").ok().and_then(|cpus| u32::try_from(cpus.len()).ok()),
        ram_bytes: ram_bytes(&**guest.linux().memory()),
        ram: ram.iter().map(|range| (range.start.0, range.len_bytes)).collect(),
        paging: mode(kernel.root.mode),
        page_table_root: kernel.root.table.0,
        text_virtual: kernel.symbol("_text").map_or(0, |at| at.0),
        text_physical: kernel.text.0,
        virtual_slide: kernel.slide,
        profile_source: match guest.attached.source {
            Source::Memory => "the guest's memory",
            Source::Cache => "profile cache",
            Source::Trusted => "trusted profile",
        },
        symbols: profile.symbols.len(),
        types: profile.types.len(),
        evidence: guest.attached.evidence.passed.iter().map(ToString::to_string).collect(),
        doubts: guest.attached.evidence.failed.iter().map(ToString::to_string).collect(),
        rejected: guest
            .attached
            .rejected
            .iter()
            .map(|other| format!("at {}: {}", other.text, other.reason))
            .collect(),
        unavailable_views: kernel.layouts.unavailable(),
        registers: registers(guest.linux()),
        attach_ms: guest.attached.timings.total.as_secs_f64() * 1e3,
    }
}

/// Whether anybody tells what the processors hold.
fn registers(guest: &LinuxGuest) -> String {
    let Some(asked) = guest.processors() else {
        return "not told: neither a control channel nor a dump's notes".to_owned();
    };
    match asked.processors() {
        Ok(processors) => format!("told of {} processors", processors.len()),
        Err(why) => format!("not told: {why}"),
    }
}

/// The host name of the guest's initial namespace.
fn hostname(guest: &LinuxGuest) -> Option<String> {
    let field = guest.kernel().profile.field("uts_namespace", "name.nodename").ok()?;
    let at = guest.kernel().symbol("init_uts_ns").ok()?.field(field.offset);
    guest.view().string(at, 65).ok()
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::FiveLevel => "x86-64, 5 levels (LA57)",
        Mode::FourLevel => "x86-64, 4 levels",
        Mode::Pae => "x86, PAE",
        Mode::Legacy32 => "x86, 32-bit",
    }
}

fn print(output: Output, info: &Info) {
    let line = |name: &str, text: &str| println!("{} {}", output.bold(&format!("{name:<14}")), escape(text));
    let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    line("target", &format!("{} ({})", info.target, info.backend));
    line("host name", &optional(&info.hostname));
    line("kernel", &info.release);
    line("banner", &info.banner);
    line("build id", &optional(&info.build_id));
    line("booted", &format!("{}, up {:.1} s", optional(&info.boot_time), info.uptime_s.unwrap_or(0.0)));
    line("CPUs", &info.cpus.map_or_else(|| "unknown".to_owned(), |cpus| cpus.to_string()));
    line("RAM", &format!("{} MiB in {} ranges", info.ram_bytes >> 20, info.ram.len()));
    line("paging", &format!("{}, root {:#x}", info.paging, info.page_table_root));
    line("text", &format!("{:#x}, physical {:#x}", info.text_virtual, info.text_physical));
    line("KASLR slide", &format!("{:#x}", info.virtual_slide));
    line("profile", &format!("from {}: {} symbols, {} types", info.profile_source, info.symbols, info.types));
    line("registers", &info.registers);
    line("attached", &format!("in {:.1} ms", info.attach_ms));
    info.evidence.iter().for_each(|check| line("evidence", check));
    info.doubts.iter().for_each(|check| line("DOUBT", check));
    info.rejected.iter().for_each(|other| line("rejected", other));
    info.unavailable_views.iter().for_each(|view| line("UNAVAILABLE", view));
}
