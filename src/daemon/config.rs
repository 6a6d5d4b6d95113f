//! `/etc/lynceus/lynceus.toml`: what the appliance does on this host.
//!
//! *Does*: names every key; an unknown one is an error with its line and a suggestion. Everything has a default that is safe. *Never*: half takes a
//! file: what is wrong anywhere in it refuses all of it.

use super::log::Log;
use super::respond::Bounds;
use super::schedule::{Limits, Periods};
use crate::attach::HOSTS_MODULES;
use anyhow::{Context, Result, bail};
use lynceus_policy::syntax::Scope;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration file may have so many bytes.
const MAX_BYTES: u64 = 1 << 20;
/// No look comes more often.
const MIN_PERIOD: Duration = Duration::from_millis(100);

/// The whole file.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where the appliance keeps what must outlive it.
    pub(crate) state: PathBuf,
    /// The policy: a folder, a file, or a signed bundle. Without one nothing is guarded, and VMs are looked at as `looks` says.
    pub(crate) policy: Option<PathBuf>,
    /// Who may sign policies; `require_signature` in it refuses all others.
    pub(crate) trust: PathBuf,
    /// How often to look, and what that may cost.
    pub(crate) looks: Looks,
    /// Which VMs.
    pub(crate) vms: Vms,
    /// The processes that look.
    pub(crate) workers: Workers,
    /// What may be done about findings without a person.
    pub(crate) respond: Respond,
    /// The firewall on the VMs' ports.
    pub(crate) guard: Guard,
    /// Where alerts go.
    pub(crate) alerts: lynceus_alerts::Config,
    /// How people and programs talk to the appliance.
    pub(crate) control: Control,
    /// What the appliance says of itself.
    pub(crate) log: Log,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            state: PathBuf::from("/var/lib/lynceus"),
            policy: None,
            trust: PathBuf::from("/etc/lynceus/trust.toml"),
            looks: Looks::default(),
            vms: Vms::default(),
            workers: Workers::default(),
            respond: Respond::default(),
            guard: Guard::default(),
            alerts: lynceus_alerts::Config::default(),
            control: Control::default(),
            log: Log::default(),
        }
    }
}

/// How often to look, and what that may cost.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Looks {
    /// For hidden tasks and modules. On average: the moments are chance's.
    #[serde(with = "humantime_serde")]
    processes: Duration,
    /// With all other detectors.
    #[serde(with = "humantime_serde")]
    integrity: Duration,
    /// For signatures, where there are rules.
    #[serde(with = "humantime_serde")]
    signatures: Duration,
    /// Files and folders with YARA rules.
    pub(crate) rules: Vec<PathBuf>,
    /// A list of file hashes.
    pub(crate) hashes: Option<PathBuf>,
    /// Where signatures are looked for.
    pub(crate) scopes: BTreeSet<Scope>,
    /// CPU time for all looks, in percent of one core.
    cpu_percent: f64,
    /// CPU time for the looks at one VM, in percent of one core.
    vm_cpu_percent: f64,
    /// Looks at the same time.
    parallel: usize,
    /// Looks at a moving guest before it is paused.
    pub(crate) tries: u32,
    /// The longest pause of a guest that moves too fast; 0 never pauses.
    pub(crate) pause_ms: u64,
    /// Where kernel profiles are kept.
    pub(crate) profiles: Option<PathBuf>,
    /// Where the modules of guests' kernels are, in a folder for each release.
    pub(crate) modules: PathBuf,
    /// Keep what shows each finding, for `lynceus replay`.
    pub(crate) evidence: bool,
}

impl Default for Looks {
    fn default() -> Looks {
        Looks {
            processes: Duration::from_secs(5),
            integrity: Duration::from_secs(60),
            signatures: Duration::from_secs(900),
            rules: Vec::new(),
            hashes: None,
            scopes: BTreeSet::from([Scope::Process, Scope::Files, Scope::Kernel]),
            cpu_percent: 25.0,
            vm_cpu_percent: 10.0,
            parallel: 1,
            tries: 8,
            pause_ms: 20,
            profiles: None,
            modules: PathBuf::from(HOSTS_MODULES),
            evidence: true,
        }
    }
}

impl Looks {
    /// What the scheduler keeps to.
    pub(super) fn limits(&self) -> Limits {
        Limits { host: self.cpu_percent / 100.0, vm: self.vm_cpu_percent / 100.0, parallel: self.parallel }
    }

    /// How often a VM is looked at whose policy says `every`.
    pub(super) fn periods(&self, every: Option<Duration>) -> Periods {
        let some = |period: Duration| Some(period).filter(|period| !period.is_zero());
        let has_rules = !self.rules.is_empty() || self.hashes.is_some();
        Periods {
            processes: some(every.map_or(self.processes, |every| every.min(self.processes))),
            integrity: some(every.unwrap_or(self.integrity)),
            signatures: some(every.unwrap_or(self.signatures)).filter(|_| has_rules),
        }
    }
}

/// Which VMs.
#[derive(Clone, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Vms {
    /// Names of the VMs that are looked at; all without it.
    pub(crate) only: Option<BTreeSet<String>>,
    /// Names of VMs that are not looked at. They are guarded all the same.
    pub(crate) exclude: BTreeSet<String>,
    /// Dump files that are looked at as VMs are.
    pub(crate) dumps: Vec<PathBuf>,
    /// Read a Xen domain even where this kernel cannot restrict the handle to that one domain.
    pub(crate) allow_unrestricted: bool,
}

/// The processes that look.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Workers {
    /// What one may allocate, in MiB; the guest's memory is mapped and not counted.
    pub(crate) memory_mib: u64,
    /// What one may use of the processors at any time, in percent of one, where it has a control group; over some time it is `looks.vm_cpu_percent`.
    pub(crate) cpu_percent: u32,
    /// One's part of them among the workers where they are busy, as `cpu.weight` of cgroup v2; the supervisor has 1,000.
    pub(crate) cpu_weight: u32,
    /// A look that takes longer has hung.
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
}

impl Default for Workers {
    fn default() -> Workers {
        Workers { memory_mib: 1024, cpu_percent: 200, cpu_weight: 100, timeout: Duration::from_secs(300) }
    }
}

/// What may be done about findings without a person.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Respond {
    /// No more than this part of the VMs is isolated or paused without a person, though always one.
    max_percent: u8,
    /// What a person released is not taken again for so long.
    #[serde(with = "humantime_serde")]
    cooldown: Duration,
    /// Write a VM's memory to a file when it is isolated.
    pub(crate) dump: bool,
    /// Where to; `dumps` below `state` without it.
    pub(crate) dump_folder: Option<PathBuf>,
}

impl Default for Respond {
    fn default() -> Respond {
        Respond { max_percent: 20, cooldown: Duration::from_secs(600), dump: false, dump_folder: None }
    }
}

impl Respond {
    pub(super) fn bounds(&self) -> Bounds {
        let cooldown_s = i64::try_from(self.cooldown.as_secs()).unwrap_or(i64::MAX);
        Bounds { max_percent: self.max_percent, cooldown_s }
    }
}

/// The firewall on the VMs' ports.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Guard {
    /// What the rules log and did not let pass is an alert. The kernel tells one listener: `lynceus firewall flows` has nothing to read then.
    pub(crate) flow_alerts: bool,
    /// The collector that gets every flow that the rules tell of, as IPFIX over UDP: an address with a port.
    pub(crate) ipfix: Option<SocketAddr>,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard { flow_alerts: true, ipfix: None }
    }
}

/// How people and programs talk to the appliance.
#[derive(Clone, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Control {
    /// The socket.
    pub(crate) socket: PathBuf,
    /// Users beside root who may do what changes something.
    pub(crate) admins: BTreeSet<u32>,
    /// The group whose members may ask.
    pub(crate) readers: Option<u32>,
    /// Where Prometheus finds the metrics (`/metrics`), and a load balancer the health (`/health`). Give it a local address.
    pub(crate) metrics: Option<SocketAddr>,
}

impl Default for Control {
    fn default() -> Control {
        Control {
            socket: PathBuf::from(DEFAULT_SOCKET),
            admins: BTreeSet::new(),
            readers: None,
            metrics: None,
        }
    }
}

/// Where the control socket is without a word.
pub(crate) const DEFAULT_SOCKET: &str = "/run/lynceus/control";

impl Config {
    /// Reads and checks a file.
    pub(crate) fn load(path: &Path) -> Result<Config> {
        let shown = || path.display().to_string();
        let bytes = std::fs::metadata(path).with_context(shown)?.len();
        if bytes > MAX_BYTES {
            bail!("{}: {bytes} bytes; a configuration may have {MAX_BYTES}", shown());
        }
        let text = std::fs::read_to_string(path).with_context(shown)?;
        let config = lynceus_policy::from_toml::<Config>(&shown(), &text)?;
        let errors = config.errors();
        if !errors.is_empty() {
            bail!("{}: {}", shown(), errors.join("\n"));
        }
        Ok(config)
    }

    /// What is wrong though every key is known.
    fn errors(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let looks = &self.looks;
        for (key, period) in
            [("processes", looks.processes), ("integrity", looks.integrity), ("signatures", looks.signatures)]
        {
            if !period.is_zero() && period < MIN_PERIOD {
                errors.push(format!("looks.{key}: at least {} ms, or 0s for none", MIN_PERIOD.as_millis()));
            }
        }
        for (key, percent) in [("cpu_percent", looks.cpu_percent), ("vm_cpu_percent", looks.vm_cpu_percent)] {
            if !(percent > 0.0 && percent <= 6400.0) {
                errors.push(format!("looks.{key}: more than 0, in percent of one core"));
            }
        }
        if !(1..=64).contains(&looks.parallel) {
            errors.push("looks.parallel: 1 to 64".to_owned());
        }
        if self.respond.max_percent > 100 {
            errors.push("respond.max_percent: 0 to 100".to_owned());
        }
        if self.workers.memory_mib < 32 {
            errors.push("workers.memory_mib: at least 32".to_owned());
        }
        if !(10..=6400).contains(&self.workers.cpu_percent) {
            errors.push("workers.cpu_percent: 10 to 6400, in percent of one processor".to_owned());
        }
        if !(1..=10_000).contains(&self.workers.cpu_weight) {
            errors.push("workers.cpu_weight: 1 to 10000".to_owned());
        }
        if self.workers.timeout < Duration::from_secs(1) {
            errors.push("workers.timeout: at least 1s".to_owned());
        }
        let paths = looks.rules.iter().map(|path| ("looks.rules", path));
        let paths = paths.chain(looks.hashes.iter().map(|path| ("looks.hashes", path)));
        let paths = paths.chain(self.policy.iter().map(|path| ("policy", path)));
        for (key, path) in paths.chain(self.vms.dumps.iter().map(|path| ("vms.dumps", path))) {
            if let Err(error) = std::fs::metadata(path) {
                errors.push(format!("{key}: {}: {error}", path.display()));
            }
        }
        if let Err(wrong) = self.alerts.check() {
            errors.extend(wrong.iter().map(|error| format!("alerts: {error}")));
        }
        errors
    }

    /// Where the firewall keeps its state.
    pub(super) fn firewall_state(&self) -> PathBuf {
        self.state.join("firewall")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lynceus.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    #[test]
    fn an_empty_file_is_a_configuration() {
        let config = load("").unwrap();
        let periods = config.looks.periods(None);
        assert_eq!(periods.processes, Some(Duration::from_secs(5)));
        assert_eq!(periods.signatures, None, "there are no rules");
        let often = config.looks.periods(Some(Duration::from_secs(2)));
        assert_eq!(
            (often.processes, often.integrity),
            (Some(Duration::from_secs(2)), Some(Duration::from_secs(2)))
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let error = format!("{:#}", load("[looks]\nproceses = \"1s\"\n").unwrap_err());
        assert!(error.contains("lynceus.toml:2:1") && error.contains("did you mean `processes`?"), "{error}");
        let error = format!("{:#}", load("[looks]\nprocesses = \"1 fortnight\"\n").unwrap_err());
        assert!(error.contains("lynceus.toml:2:"), "{error}");
        let wrong = "policy = \"/nowhere\"\n[looks]\nintegrity = \"1ms\"\ncpu_percent = 0\nrules = [\"/none\"]\nparallel = 0\n\
                     [workers]\ncpu_percent = 0\ncpu_weight = 0\n";
        let error = format!("{:#}", load(wrong).unwrap_err());
        for key in [
            "looks.integrity",
            "looks.cpu_percent",
            "looks.rules: /none",
            "looks.parallel",
            "workers.cpu_percent",
            "workers.cpu_weight",
            "policy: /nowhere",
        ] {
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
