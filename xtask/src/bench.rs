//! `cargo xtask bench`: measures, beside the peers that this machine has, and writes `docs/benchmarks.md`.
//!
//! Every figure comes from one run on one machine, so that the ratios hold. A peer that is missing is named as missing.
//! *Never*: asserts a speed; what falls short is said in the report.

mod alerts;
mod appliance;
mod goals;
mod guard;
mod measure;
mod ours;
mod peers;
mod report;
mod scan;

use crate::shell::{build_program, cargo, root, run, target_dir};
use anyhow::{Context, Result, anyhow};
use lynceus_lab::{Guest, KernelVersion, Paging, Spec, images, kernels, packages};
use measure::Measured;
use ours::{ALL_LISTINGS, LISTINGS, Looked};
use peers::{Image, PLUGINS, Peers};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Guests that all tools can read: Volatility 3 and LibVMI know 4 levels of page tables only.
const KERNELS: [KernelVersion; 2] = [KernelVersion::V6_1, KernelVersion::V6_12];
/// RAM of the guests that all tools look at, in MiB.
const MEMORY_MIB: u64 = 512;
/// RAM of the guest for peak memory, in MiB.
const LARGE_MIB: u64 = 4096;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each of our commands runs; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How often each peer runs; the median counts
    #[arg(long, default_value_t = 3)]
    peer_runs: usize,
    /// Print the report instead of writing docs/benchmarks.md
    #[arg(long)]
    print: bool,
    /// Only build and boot what is measured
    #[arg(long, hide = true)]
    prepare: bool,
    /// Only measure signature scans and print their section of the report
    #[arg(long)]
    scans: bool,
    /// Only measure alerts and print their section of the report
    #[arg(long)]
    alerts: bool,
    /// Only measure the appliance with a hundred VMs and print its section of the report
    #[arg(long)]
    appliance: bool,
    /// Only measure guarding and print its section of the report; needs root
    #[arg(long)]
    guard: bool,
    /// Only run the Xen lab and print its figures
    #[arg(long, hide = true)]
    xen: bool,
}

/// All figures of one run.
pub(crate) struct Figures {
    guests: Vec<GuestFigures>,
    /// Listings of the large guest: cold and cached.
    large: Vec<(&'static str, Measured, Measured)>,
    scans: scan::Scans,
    alerts: alerts::Alerts,
    appliance: appliance::Load,
    guard: guard::Guarding,
    /// What the service domain of the Xen lab printed.
    xen: Result<BTreeMap<String, f64>, String>,
    volatility: String,
    load_before: String,
    floor_bytes: u64,
    runs: usize,
    peer_runs: usize,
}

/// The figures of one kernel.
pub(crate) struct GuestFigures {
    kernel: KernelVersion,
    tasks: usize,
    raw: OnTarget,
    elf: OnTarget,
    live: OnTarget,
    /// By our listing's name.
    volatility: BTreeMap<&'static str, Measured>,
    libvmi: Measured,
    /// Nanoseconds: `warm` and `cold`.
    libvmi_loop: Result<BTreeMap<String, f64>, String>,
    /// What the benchmarks in process print.
    inner: BTreeMap<String, f64>,
}

/// What our command line costs on a dump or a running guest.
pub(crate) struct OnTarget {
    cold_info: Measured,
    cold_ps: Measured,
    cold_attach_ms: Result<f64, String>,
    cached_attach_ms: Result<f64, String>,
    cached: BTreeMap<&'static str, Measured>,
}

/// Runs everything.
pub(crate) fn run_all(args: &Args) -> Result<()> {
    if args.prepare {
        return prepare();
    }
    if args.scans {
        let ram = images::frozen(&frozen(KERNELS[1], MEMORY_MIB))?.ram;
        print!("{}", scan::markdown(&scan::measure(&ram)));
        return Ok(());
    }
    if args.alerts {
        print!("{}", alerts::markdown(&alerts::measure()));
        return Ok(());
    }
    if args.appliance {
        print!("{}", appliance::markdown(&appliance::measure()));
        return Ok(());
    }
    if args.guard {
        print!("{}", guard::markdown(&guard::measure()));
        return Ok(());
    }
    if args.xen {
        let test = ["--ignored", "--exact", "a_pvh_guest_from_a_service_domain"];
        run(cargo(&["test", "--package", "lynceus", "--test", "xen", "--"]).args(test))?;
        let console = std::fs::read_to_string(lynceus_lab::xen::PVH.log()?)?;
        console
            .lines()
            .filter(|line| line.starts_with("FIGURE "))
            .for_each(|line| println!("{}", line.trim_end()));
        return Ok(());
    }
    // In a process of its own: see `measure`.
    run(Command::new(std::env::current_exe()?).args(["bench", "--prepare"]))?;
    let figures = measure_all(args)?;
    let text = report::markdown(&figures);
    if args.print {
        print!("{text}");
        return Ok(());
    }
    let path = root().join("docs/benchmarks.md");
    std::fs::create_dir_all(root().join("docs"))?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

fn frozen(kernel: KernelVersion, memory_mib: u64) -> Spec {
    Spec { memory_mib, ..Spec::new(kernel, Paging::Four) }
}

/// Builds the program, and boots what is looked at.
fn prepare() -> Result<()> {
    packages::ensure(packages::ALL)?;
    build_program()?;
    run(&mut cargo(&["bench", "--package", "lynceus-introspect", "--bench", "guest", "--no-run"]))?;
    let scans =
        ["bench", "--package", "lynceus-scanners", "--features", "libyara", "--bench", "scan", "--no-run"];
    run(&mut cargo(&scans))?;
    for kernel in KERNELS {
        kernels::fetch(kernel)?;
        println!("an image of {MEMORY_MIB} MiB with {kernel}");
        images::frozen(&frozen(kernel, MEMORY_MIB))?;
    }
    println!("an image of {LARGE_MIB} MiB");
    images::frozen(&frozen(KERNELS[0], LARGE_MIB))?;
    Ok(())
}

fn measure_all(args: &Args) -> Result<Figures> {
    let folder = target_dir().join("bench");
    // Symbol files and profiles of an earlier run would hide what this one lacks.
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let load_before = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let peers = Peers::find();
    let guests = KERNELS
        .map(|kernel| measure_guest(kernel, &folder.join(kernel.to_string()), &peers, args))
        .into_iter()
        .collect::<Result<_>>()?;
    Ok(Figures {
        guests,
        large: large(&folder, args)?,
        scans: scan::measure(&images::frozen(&frozen(KERNELS[1], MEMORY_MIB))?.ram),
        alerts: alerts::measure(),
        appliance: appliance::measure(),
        guard: guard::measure(),
        xen: xen(),
        volatility: peers.volatility_version(),
        load_before: load_before.split_whitespace().next().unwrap_or("unknown").to_owned(),
        floor_bytes: measure::own_peak_bytes(),
        runs: args.runs,
        peer_runs: args.peer_runs,
    })
}

fn measure_guest(kernel: KernelVersion, folder: &Path, peers: &Peers, args: &Args) -> Result<GuestFigures> {
    let symbols = folder.join("symbols");
    std::fs::create_dir_all(symbols.join("linux"))?;
    let (isf, elf) = (symbols.join("linux/kernel.json"), folder.join("core"));
    let ram = images::frozen(&frozen(kernel, MEMORY_MIB))?.ram;
    let raw = Looked::new(ram.to_string_lossy(), &folder.join("raw"));
    raw.write_symbols(&isf).map_err(|why| anyhow!("lynceus profile build: {why}"))?;
    raw.write_elf(&elf).map_err(|why| anyhow!("lynceus dump: {why}"))?;
    println!("{kernel}: ours, on dumps");
    let raw = on_target(&raw, args.runs);
    let elf = on_target(&Looked::new(elf.to_string_lossy(), &folder.join("elf")), args.runs);
    println!("{kernel}: ours, on a running guest");
    let live = live(kernel, folder, args.runs)?;
    println!("{kernel}: ours, in process");
    let inner = inner(&ram)?;
    let image = Image { ram: &ram, symbols: &symbols, isf: &isf };
    println!("{kernel}: LibVMI");
    let libvmi = peers.libvmi(args.peer_runs, &image);
    let libvmi_loop = peers.libvmi_loop(&image, folder);
    peers.warm_up(&image);
    let volatility = PLUGINS
        .map(|(listing, plugin)| {
            println!("{kernel}: Volatility 3, {plugin}");
            (listing, peers.volatility(args.peer_runs, plugin, &image))
        })
        .into();
    // The table's head is a line.
    let tasks =
        raw.cached.get("ps").and_then(|ps| ps.as_ref().ok()).map_or(0, |ps| ps.lines.saturating_sub(1));
    Ok(GuestFigures { kernel, tasks, raw, elf, live, volatility, libvmi, libvmi_loop, inner })
}

fn on_target(target: &Looked, runs: usize) -> OnTarget {
    OnTarget {
        cold_info: target.cold(runs, "info"),
        cold_ps: target.cold(runs, "ps"),
        cold_attach_ms: target.attach_ms(runs, true),
        cached_attach_ms: target.attach_ms(runs, false),
        cached: LISTINGS.map(|listing| (listing, target.cached(runs, listing))).into(),
    }
}

fn live(kernel: KernelVersion, folder: &Path, runs: usize) -> Result<OnTarget> {
    let guest = Guest::boot(&Spec { name: format!("bench-{kernel}"), ..frozen(kernel, MEMORY_MIB) })?;
    Ok(on_target(&Looked::new(format!("pid:{}", guest.pid()), &folder.join("live")), runs))
}

/// What the benchmarks of the library print about an image.
fn inner(ram: &PathBuf) -> Result<BTreeMap<String, f64>> {
    let mut bench = cargo(&["bench", "--quiet", "--package", "lynceus-introspect", "--bench", "guest"]);
    let (text, _) = measure::output(bench.env("LYNCEUS_BENCH_IMAGE", ram))
        .map_err(|why| anyhow!("cargo bench of lynceus-introspect: {why}"))?;
    Ok(peers::figures(&String::from_utf8_lossy(&text)))
}

/// Peak memory on a large guest, of every listing.
fn large(folder: &Path, args: &Args) -> Result<Vec<(&'static str, Measured, Measured)>> {
    println!("a guest of {LARGE_MIB} MiB");
    let ram = images::frozen(&frozen(KERNELS[0], LARGE_MIB))?.ram;
    let target = Looked::new(ram.to_string_lossy(), &folder.join("large"));
    let runs = args.runs.min(3);
    Ok(ALL_LISTINGS
        .map(|listing| {
            let cold = target.cold(runs, listing);
            (listing, cold, target.cached(runs, listing))
        })
        .into())
}

/// A PVH guest under Xen, in a process of its own like all that takes memory.
fn xen() -> Result<BTreeMap<String, f64>, String> {
    println!("a PVH guest under Xen");
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let (text, _) = measure::output(Command::new(this).args(["bench", "--xen"]))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("FIGURE ")).collect();
    Ok(peers::figures(&lines.join("\n")))
}
