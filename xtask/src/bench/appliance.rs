//! The appliance under load: what a hundred VMs cost, and how soon an attack is an alert at a TLS syslog receiver.

use super::goals::{Goal, Limit, figure};
use super::report::{goals_of, short};
use crate::shell::{build_program, program, target_dir};
use anyhow::{Context, Result, bail, ensure};
use lynceus_lab::siem::{Authority, Rsyslog};
use lynceus_lab::{Guest, KernelVersion, Paging, Spec, images, kernels, until_so};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds, bytes and shares by their names.
pub(crate) type Load = Result<BTreeMap<String, f64>, String>;

const VMS: usize = 100;
/// Of these, guests that run: each is attacked once.
const LIVE: usize = 10;
const KERNELS: [KernelVersion; 2] = [KernelVersion::V6_1, KernelVersion::V6_12];
const MEMORY_MIB: u64 = 256;
/// Mean time between two looks for hidden tasks and modules, in seconds.
const EVERY_S: u64 = 10;
/// CPU time is counted for so long, after as long to calm down.
const WINDOW: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(600);
/// `utime` and `stime` of proc_pid_stat(5) are in hundredths of a second.
const TICK_S: f64 = 0.01;

/// Measures it.
pub(crate) fn measure() -> Load {
    println!("the appliance with {VMS} VMs");
    load().map_err(|error| format!("{error:#}"))
}

fn load() -> Result<BTreeMap<String, f64>> {
    build_program()?;
    let site = Site::build()?;
    let mut guests = Vec::new();
    for index in 0..LIVE {
        let (name, kernel) = (format!("live-{index:02}"), KERNELS[index % KERNELS.len()]);
        let spec = Spec::everyday(kernel, Paging::Four);
        guests.push(Guest::boot(&Spec { name, memory_mib: MEMORY_MIB, vcpus: 1, ..spec })?);
    }
    println!("{LIVE} guests run");
    let mut figures = BTreeMap::new();
    let started = Instant::now();
    let appliance = site.run()?;
    site.wait_until_watched()?;
    figures.insert("until all are watched, s".to_owned(), started.elapsed().as_secs_f64());
    std::thread::sleep(WINDOW);
    appliance.measure("process looks", &mut figures)?;
    figures.insert("memory, unpacked kernels, bytes".to_owned(), number(&site.status()?["kernels_bytes"])?);
    let mut delays: Vec<f64> = guests.iter().map(|guest| site.attack(guest)).collect::<Result<_>>()?;
    delays.sort_by(f64::total_cmp);
    for (name, at) in [("least", 0), ("median", LIVE / 2), ("most", LIVE - 1)] {
        figures.insert(format!("attack to alert, {name}, s"), delays[at]);
    }
    site.configure("60s")?;
    site.ask(&["reload"])?;
    std::thread::sleep(WINDOW * 2);
    appliance.measure("process and integrity looks", &mut figures)?;
    figures.insert("late looks".to_owned(), site.sum("late")?);
    figures.insert("incomplete looks".to_owned(), site.sum("incomplete")?);
    Ok(figures)
}

/// What the appliance needs.
struct Site {
    folder: PathBuf,
    rsyslog: Rsyslog,
    tls: String,
    dumps: Vec<PathBuf>,
}

impl Site {
    fn build() -> Result<Site> {
        let folder = target_dir().join("bench/appliance");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(folder.join("rsyslog"))?;
        let authority = Authority::new(&folder, "ca")?;
        let server = authority.sign("server", "127.0.0.1", false)?;
        let client = authority.sign("client", "lynceus-host", false)?;
        let rsyslog = Rsyslog::start(&folder.join("rsyslog"), 0, Some((&authority, &server)))?;
        let tls =
            format!("tls = {{ ca = {:?}, cert = {:?}, key = {:?} }}", authority.ca, client.cert, client.key);
        let mut site = Site { folder, rsyslog, tls, dumps: Vec::new() };
        for kernel in KERNELS {
            let file = kernels::fetch(kernel)?.vmlinuz;
            let import = site.command(&["profile", "import"]).arg(file).output()?;
            ensure!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
        }
        for index in 0..VMS - LIVE {
            let ram = images::frozen(&super::frozen(KERNELS[index % KERNELS.len()], MEMORY_MIB))?.ram;
            let dump = site.folder.join(format!("dump-{index:02}.raw"));
            fs::hard_link(&ram, &dump).or_else(|_| fs::copy(&ram, &dump).map(drop))?;
            site.dumps.push(dump);
        }
        site.configure("0s")?;
        Ok(site)
    }

    fn configure(&self, integrity: &str) -> Result<()> {
        let at = |name: &str| self.folder.join(name);
        let names = |index: &usize| format!("live-{index:02}");
        let dumps = self.dumps.iter().filter_map(|dump| dump.file_stem()?.to_str().map(str::to_owned));
        let only: Vec<String> = (0..LIVE).map(|index| names(&index)).chain(dumps).collect();
        let config = format!(
            "state = {:?}\n[vms]\nonly = {only:?}\ndumps = {:?}\n[control]\nsocket = {:?}\n\
             [looks]\nprofiles = {:?}\nprocesses = \"{EVERY_S}s\"\nintegrity = \"{integrity}\"\n\
             [alerts]\nspool = {:?}\n[[alerts.sinks]]\nname = \"siem\"\nkind = \"syslog\"\n\
             address = \"tls://127.0.0.1:{}\"\nformat = \"json\"\n{}\n",
            at("state"),
            self.dumps,
            at("socket"),
            at("profiles"),
            at("spool"),
            self.rsyslog.port,
            self.tls,
        );
        Ok(fs::write(at("lynceus.toml"), config)?)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).env("LYNCEUS_PROFILES", self.folder.join("profiles"));
        command
    }

    fn run(&self) -> Result<Appliance> {
        let log = fs::File::create(self.folder.join("log"))?;
        let mut command = self.command(&["run", "--config"]);
        command.arg(self.folder.join("lynceus.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(Appliance(command.spawn()?))
    }

    fn ask(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).arg("--socket").arg(self.folder.join("socket")).output()?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn status(&self) -> Result<Value> {
        let text = self.ask(&["--json", "status"])?;
        Ok(serde_json::from_str(text.lines().next().context("no status")?)?)
    }

    /// Until every VM had its first look by a worker that stays.
    fn wait_until_watched(&self) -> Result<()> {
        let all_watched = || {
            let status = self.status().unwrap_or_default();
            let is_watched = |vm: &&Value| !vm["image"].is_null() && vm["last_look_ms"].is_u64();
            Ok(status["vms"].as_array().map_or(0, |vms| vms.iter().filter(is_watched).count()) == VMS)
        };
        until_so("all VMs to be watched", PATIENCE, all_watched)
            .with_context(|| self.ask(&["status"]).unwrap_or_default())
    }

    /// All VMs' counts of that name.
    fn sum(&self, of: &str) -> Result<f64> {
        let status = self.status()?;
        status["vms"].as_array().context("no VMs")?.iter().map(|vm| number(&vm[of])).sum()
    }

    /// Hides a process, and the seconds from the command to the alert in the receiver's file.
    fn attack(&self, guest: &Guest) -> Result<f64> {
        let pid = guest.run("sleep 100000 > /dev/null 2>&1 & echo $!")?;
        let vm = format!("vm=\"{}\"", guest.spec().name);
        let started = Instant::now();
        guest.hide(&[("hide_pid", pid.trim())])?;
        while started.elapsed() < PATIENCE {
            let is_it = |line: &str| line.contains(&vm) && line.contains("hidden_task");
            if self.rsyslog.received().lines().any(is_it) {
                return Ok(started.elapsed().as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{}: no alert", guest.spec().name)
    }
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

/// `lynceus run`, until this is dropped.
struct Appliance(Child);

impl Appliance {
    /// What supervisor and workers cost from now on, and what they hold at the end.
    fn measure(&self, looks: &str, figures: &mut BTreeMap<String, f64>) -> Result<()> {
        let (supervisor, workers) = (self.0.id(), workers_of(self.0.id())?);
        ensure!(workers.len() == VMS, "{} workers", workers.len());
        let all = || workers.iter().chain([&supervisor]).map(|pid| ticks(*pid)).sum::<Result<f64>>();
        let (before, own_before, started) = (all()?, ticks(supervisor)?, Instant::now());
        std::thread::sleep(WINDOW);
        let (cost, own, time) = (all()? - before, ticks(supervisor)? - own_before, started.elapsed());
        let share = |ticks: f64| ticks * TICK_S / time.as_secs_f64() * 100.0;
        figures.insert(format!("CPU, {looks}, percent of a core"), share(cost));
        figures.insert(format!("CPU, {looks}, of it the supervisor, percent of a core"), share(own));
        let kib = |pid: u32, key| memory(pid, key).map(|kib| kib * 1024.0);
        figures.insert(format!("memory, {looks}, supervisor, PSS, bytes"), kib(supervisor, "Pss:")?);
        for (name, key) in [("PSS", "Pss:"), ("private, not the guest's", "Anonymous:")] {
            let mut sizes = workers.iter().map(|pid| kib(*pid, key)).collect::<Result<Vec<f64>>>()?;
            sizes.sort_by(f64::total_cmp);
            figures.insert(format!("memory, {looks}, a worker, {name}, median, bytes"), sizes[VMS / 2]);
            figures.insert(format!("memory, {looks}, a worker, {name}, most, bytes"), sizes[VMS - 1]);
        }
        Ok(())
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process's children.
fn workers_of(parent: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let own = fs::read_to_string(&path).with_context(|| path)?;
    Ok(own.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// CPU time of a process (proc_pid_stat(5), fields 14 and 15).
fn ticks(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("a process is gone")?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    fields.split_whitespace().skip(11).take(2).map(|field| Ok(field.parse::<f64>()?)).sum()
}

/// A line of proc_pid_smaps_rollup(5), in KiB.
fn memory(pid: u32, key: &str) -> Result<f64> {
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    let text = fs::read_to_string(Path::new(&path)).context("a process is gone")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).context("no such line")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}

/// The section of the report.
pub(crate) fn markdown(load: &Load) -> String {
    let get = |name: &str| figure(load.as_ref().map_err(Clone::clone)?, name);
    let mega = |name: &str| get(name).map(|bytes| bytes / 1e6);
    let goal = |what, limit, value| Goal { what, limit, values: vec![value] };
    let goals = [
        goal(
            "CPU, 100 VMs, 10-second process looks",
            Limit::AtMost(5.0, "% of a core"),
            get("CPU, process looks, percent of a core"),
        ),
        goal(
            "supervisor, PSS",
            Limit::AtMost(50.0, "MB"),
            mega("memory, process and integrity looks, supervisor, PSS, bytes"),
        ),
        goal(
            "a worker's own memory, the largest of all",
            Limit::AtMost(32.0, "MB"),
            mega("memory, process and integrity looks, a worker, private, not the guest's, most, bytes"),
        ),
        goal(
            "from an attack to the alert at a TLS syslog receiver, median",
            Limit::AtMost(EVERY_S as f64 + 0.2, "s"),
            get("attack to alert, median, s"),
        ),
    ];
    let mut out = goals_of("Appliance", &goals);
    for (name, value) in load.iter().flatten() {
        let _ = match name.rsplit_once(", ") {
            Some((name, "bytes")) => writeln!(out, "| {name} | {} MB |", short(value / 1e6)),
            Some((name, "s")) => writeln!(out, "| {name} | {} s |", short(*value)),
            Some((name, "percent of a core")) => writeln!(out, "| {name} | {} % of a core |", short(*value)),
            _ => writeln!(out, "| {name} | {value} |"),
        };
    }
    out.push_str(METHOD);
    out
}

const METHOD: &str = "
Ten running guests of 256 MB (everyday scenery, one processor, under emulation) and ninety dumps, hard links to two frozen guests of 256 MB; half of each with 6.1, half with
6.12; both kernels are imported, so that every worker compares with the kernel's file. No rules for signatures. Looks for hidden tasks and modules every 10 s on average, at first alone, then with all other
detectors every 60 s; one look at a time, the other limits as they are by themselves. CPU time is the kernel's account of supervisor and workers over 60 s, and counts what workers cost whose look falls into
that time. *Private* is anonymous memory; PSS counts with it the worker's part of what it shares: the program, the unpacked kernels, and the pages of its guest that it has mapped. In each running guest one process is
hidden by a kernel module, and the time runs from sending the guest that command to the line in the file of an rsyslog that takes alerts by mutual TLS, looked at every 5 ms.
";
