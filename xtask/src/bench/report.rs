//! The report: text that is fixed here, and figures that are not.

use super::goals::{Goal, Limit, figure, goals, listing, ratio};
use super::measure::{Measured, Sample};
use super::ours::LISTINGS;
use super::peers::PLUGINS;
use super::{Figures, GuestFigures, LARGE_MIB, MEMORY_MIB, OnTarget};
use crate::shell::root;
use std::fmt::Write;
use std::process::Command;

const HEAD: &str = "\
# Benchmarks

Made by `cargo xtask bench`; only figures change from run to run. All of them come from one run on one machine, ours
and the peers' on the very same images, so the ratios hold where the figures do not.
";
const METHOD: &str = "
## How it is measured

- The guests are the lab's: Debian's cloud kernels with some planted processes, booted under QEMU's software emulation
  and frozen. 4-level page tables, because Volatility 3 and LibVMI read nothing else. RAM as a raw file and as an ELF core
  that `lynceus dump` wrote from it; the running guest is a second one, booted for this.
- *Whole process*: from starting the program to its end, its output read through a pipe; the median run, files in the host's
  page cache. Peak memory is the largest resident set of any run, and so counts the pages of the guest that were mapped and looked at:
  up to 2 MB for each page that was touched where the host's page cache holds the dump in large folios, which no two runs do alike.
- *Cold*: an empty profile folder, so everything is found in raw memory. *Cached*: the profile that an earlier look left.
- The peers get the symbol file that `lynceus profile build` writes from the guest's memory, and Volatility 3 one run
  before to build its own cache. Without that file they need a debug package of about 300 MB and a minute of `dwarf2json`.
- *In process*: an attached guest, in a loop on one thread; medians of 15 rounds. Every field is bounds-checked. *Validated* means
  that all pages that a look read are compared afterwards and the look is repeated if one changed.
- LibVMI's loop is a few lines of C against its public interface, `xtask/src/bench/libvmi_loop.c`.

## What is not measured

- vmi-rs and drgn are not run here. Where a goal names vmi-rs, it is held against LibVMI in this run, times what vmi-rs was
  faster than LibVMI in an earlier run of both.
- Guests with 5-level page tables: no peer but drgn reads them.
- A busy guest under KVM: this machine emulates. Looks that must be repeated because the guest moved cost that many times more.
- Dumps that are not in the host's page cache: the disk is what counts then.

## How to repeat it

```sh
cargo xtask bench                       # writes docs/benchmarks.md; Volatility 3 comes from PyPI
cargo xtask bench --scans               # prints the section on signature scans
cargo xtask bench --guard               # prints the section on guarding; needs root
cargo xtask bench --appliance           # prints the section on the appliance
export LYNCEUS_BENCH_VOL=…/bin/vol      # or this one
export LYNCEUS_BENCH_LIBVMI=…/build/examples/vmi-process-list
export LYNCEUS_BENCH_LIBVMI_SRC=…       # LibVMI's source tree: its loop in process is timed too
```

LibVMI is built with `cmake -DCMAKE_BUILD_TYPE=Release -DENABLE_XEN=OFF -DENABLE_KVM=OFF -DENABLE_KVM_LEGACY=OFF
-DENABLE_BAREFLANK=OFF -DENABLE_FILE=ON -DENABLE_VMIFS=OFF -DUSE_MMAP=ON`. A peer that is missing is named as missing above.
Leave the machine alone meanwhile: the load before the run is in the first lines.
";

/// The whole report.
pub(crate) fn markdown(figures: &Figures) -> String {
    let mut out = String::from(HEAD);
    out.push_str(&machine(figures));
    let kernels: Vec<String> = figures.guests.iter().map(|guest| guest.kernel.to_string()).collect();
    let columns: Vec<&str> = kernels.iter().map(String::as_str).collect();
    out.push_str(&goal_table("Goals", &goals(figures), &columns));
    for guest in &figures.guests {
        out.push_str(&guest_tables(guest));
    }
    out.push_str(&in_process(figures));
    out.push_str(&large(figures));
    out.push_str(&super::scan::markdown(&figures.scans));
    out.push_str(&super::alerts::markdown(&figures.alerts));
    out.push_str(&super::appliance::markdown(&figures.appliance));
    out.push_str(&super::guard::markdown(&figures.guard));
    out.push_str(&xen(figures));
    out.push_str(METHOD);
    out
}

fn machine(figures: &Figures) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20;
    let changed =
        !asked("git", &["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"]).is_empty();
    format!(
        "\n{}, commit {}{}. {}, {cores} cores, {memory} GiB RAM, Linux {}, load before the run {}. Volatility 3: {}.\n\
         Medians of {} runs, of the peers {}.\n",
        asked("date", &["-u", "+%F"]),
        asked("git", &["rev-parse", "--short", "HEAD"]),
        if changed { " with changes" } else { "" },
        cpu.trim_start_matches([' ', '\t', ':']),
        read("/proc/sys/kernel/osrelease").trim(),
        figures.load_before,
        figures.volatility,
        figures.runs,
        figures.peer_runs,
    )
}

fn asked(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(root()).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// Goals, with a column for each of their values.
fn goal_table(title: &str, goals: &[Goal], columns: &[&str]) -> String {
    let mut out = format!("\n## {title}\n\n| goal | wanted |");
    for column in columns {
        out.push_str(&if column.is_empty() { " |".to_owned() } else { format!(" {column} |") });
    }
    out.push_str(" |\n|---|---|");
    columns.iter().for_each(|_| out.push_str("---|"));
    out.push_str("---|\n");
    for goal in goals {
        let (wanted, unit) = match goal.limit {
            Limit::AtMost(most, unit) => (format!("≤ {most} {unit}"), unit),
            Limit::Times(least) => (format!("≥ {least} ×"), "×"),
        };
        let _ = write!(out, "| {} | {wanted} |", goal.what);
        for index in 0..columns.len() {
            let value = match goal.values.get(index) {
                Some(Ok(value)) => format!("{} {unit}", short(*value)),
                Some(Err(why)) => cell(why),
                None => String::new(),
            };
            let _ = write!(out, " {value} |");
        }
        let _ = writeln!(out, " {} |", verdict(goal));
    }
    out
}

/// The goals of a section of its own, and the head of the table of its figures.
pub(crate) fn goals_of(title: &str, goals: &[Goal]) -> String {
    goal_table(title, goals, &[""]) + "\n| | |\n|---|---|\n"
}

pub(crate) fn verdict(goal: &Goal) -> &'static str {
    match goal.met() {
        Some(true) => "met",
        Some(false) => "**falls short**",
        None => "not measured",
    }
}

fn guest_tables(guest: &GuestFigures) -> String {
    let mut out = format!(
        "\n## Kernel {}, {MEMORY_MIB} MB, {} tasks\n\nWhole processes: wall time, user time, peak memory.\n\n\
         | | raw dump | ELF core | running guest |\n|---|---|---|---|\n",
        guest.kernel, guest.tasks
    );
    let on = [&guest.raw, &guest.elf, &guest.live];
    let mut row = |name: &str, value: &dyn Fn(&OnTarget) -> String| {
        let _ = writeln!(out, "| {name} | {} |", on.map(value).join(" | "));
    };
    row("`info`, cold", &|on| whole(&on.cold_info));
    row("`ps`, cold", &|on| whole(&on.cold_ps));
    row("attach alone, cold", &|on| milliseconds(&on.cold_attach_ms));
    row("attach alone, cached", &|on| milliseconds(&on.cached_attach_ms));
    for name in LISTINGS {
        row(&format!("`{name}`, cached"), &|on| whole(listing(&on.cached, name)));
    }
    out.push_str(
        "\nThe same questions to the peers, on the raw dump.\n\n| | ours | Volatility 3 | ratio | LibVMI | ratio |\n\
         |---|---|---|---|---|---|\n",
    );
    for (name, plugin) in PLUGINS {
        let (ours, vol) = (listing(&guest.raw.cached, name), listing(&guest.volatility, name));
        let (vmi, vmi_ratio) = match name {
            "ps" => (whole(&guest.libvmi), times(&ratio(&guest.libvmi, ours))),
            _ => ("–".to_owned(), "–".to_owned()),
        };
        let _ = writeln!(
            out,
            "| `{name}`, `{plugin}` | {} | {} | {} | {vmi} | {vmi_ratio} |",
            whole(ours),
            whole(vol),
            times(&ratio(vol, ours))
        );
    }
    out
}

fn in_process(figures: &Figures) -> String {
    let mut out = String::from("\n## In process, in a loop\n\n| |");
    figures.guests.iter().for_each(|guest| _ = write!(out, " {} |", guest.kernel));
    out.push_str("\n|---|");
    figures.guests.iter().for_each(|_| out.push_str("---|"));
    out.push('\n');
    let mut row = |name: &str, value: &dyn Fn(&GuestFigures) -> Result<String, String>| {
        let _ = write!(out, "| {name} |");
        for guest in &figures.guests {
            let _ = write!(out, " {} |", value(guest).unwrap_or_else(|why| cell(&why)));
        }
        out.push('\n');
    };
    const TIMES: [&str; 14] = [
        "attach, no symbols",
        "attach, cached profile",
        "pid and name, warm",
        "pid and name, cold caches",
        "pid and name, cold and validated",
        "process list, all fields",
        "all maps",
        "all open files",
        "all sockets",
        "gather of all RAM",
        "memcpy of as much",
        "a scattered page, gathered",
        "a scattered page, memcpy",
        "a read of 8 bytes",
    ];
    for (name, key) in [("LibVMI: pid and name, warm", "warm"), ("LibVMI: pid and name, cold caches", "cold")]
    {
        row(name, &|guest| {
            let figures = guest.libvmi_loop.as_ref().map_err(Clone::clone)?;
            Ok(format!("{} ({} tasks)", time(figure(figures, key)?), figure(figures, "tasks")?))
        });
    }
    for name in TIMES {
        row(name, &|guest| Ok(time(figure(&guest.inner, name)?)));
    }
    for name in ["tasks", "maps"] {
        row(&format!("{name} in these lists"), &|guest| Ok(figure(&guest.inner, name)?.to_string()));
    }
    out
}

fn large(figures: &Figures) -> String {
    let mut out = format!(
        "\n## A raw dump of {LARGE_MIB} MB\n\nWhole processes; the kernel is 6.1.\n\n| | cold | cached |\n|---|---|---|\n"
    );
    for (name, cold, cached) in &figures.large {
        let _ = writeln!(out, "| `{name}` | {} | {} |", whole(cold), whole(cached));
    }
    let _ = writeln!(
        out,
        "\nNo peak can be measured below {:.1} MB, which is what the measuring program holds itself.",
        figures.floor_bytes as f64 / 1e6
    );
    out
}

fn xen(figures: &Figures) -> String {
    let mut out = String::from(
        "\n## Under Xen\n\nIn dom0 of a Xen under software emulation, so only ratios mean anything: a PVH guest with kernel 6.1.\n\n",
    );
    let found = match &figures.xen {
        Ok(found) => found,
        Err(why) => return out + "Not measured: " + &cell(why) + "\n",
    };
    out.push_str("| | |\n|---|---|\n");
    for (name, key) in [
        ("all RAM, mapped and copied, ours", "pvh read, ours"),
        ("the same through libxenforeignmemory", "pvh read, libxenforeignmemory"),
        ("a process list, nothing mapped", "pvh process list, cold windows"),
        ("a process list, all mapped", "pvh process list, warm"),
    ] {
        let _ = writeln!(out, "| {name} | {} |", figure(found, key).map_or_else(|why| cell(&why), time));
    }
    out
}

/// Wall time, user time and peak memory.
fn whole(measured: &Measured) -> String {
    match measured {
        Ok(Sample { time: wall, user, peak_bytes, .. }) => format!(
            "{}, {}, {:.0} MB",
            time(wall.as_nanos() as f64),
            time(user.as_nanos() as f64),
            *peak_bytes as f64 / 1e6
        ),
        Err(why) => cell(why),
    }
}

/// A duration in the unit that suits it.
fn time(nanos: f64) -> String {
    match nanos {
        n if n >= 1e9 => format!("{:.2} s", n / 1e9),
        n if n >= 1e6 => format!("{} ms", short(n / 1e6)),
        n if n >= 1e3 => format!("{} µs", short(n / 1e3)),
        n => format!("{} ns", short(n)),
    }
}

fn milliseconds(value: &Result<f64, String>) -> String {
    value.as_ref().map_or_else(|why| cell(why), |ms| time(ms * 1e6))
}

fn times(value: &Result<f64, String>) -> String {
    value.as_ref().map_or_else(|_| "–".to_owned(), |value| format!("{} ×", short(*value)))
}

/// Three digits that matter.
pub(crate) fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// A reason, fit for a cell.
pub(crate) fn cell(why: &str) -> String {
    why.lines().next().unwrap_or_default().replace('|', "/")
}
