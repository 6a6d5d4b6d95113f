//! A running guest: booted under QEMU's software emulation, asked over a second serial port, gone when dropped.

use crate::kernels::{self, Kernel, KernelVersion};
use crate::luggage::Luggage;
use crate::qmp::{self, Qmp};
use crate::scenery::{self, Scenery};
use crate::truth::{Symbol, Truth, parse_kallsyms};
use crate::{answer, debian, folder, initramfs};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// From power-on to the scenery standing. Emulation on a busy machine takes its time.
const BOOT: Duration = Duration::from_secs(120);
/// The same of an installed Debian.
const DEBIANS_BOOT: Duration = Duration::from_secs(400);
/// Under emulation with two processors a guest hangs or panics before its first line, once in some hundred boots.
const ATTEMPTS: u32 = 3;

/// A guest that says nothing, or ends before it does.
#[derive(Debug)]
pub struct NotReady;

impl std::fmt::Display for NotReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the guest did not get ready")
    }
}

/// Page-table levels of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Paging {
    /// 48-bit addresses.
    Four,
    /// 57-bit addresses (LA57).
    Five,
}

/// A network card, and where it is plugged in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Card {
    /// The tap device of the host, which is there already.
    pub tap: String,
    /// The network namespace that it is in.
    pub namespace: String,
    /// The card's MAC address.
    pub mac: String,
}

/// What to boot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    /// The VM's name, for `lynceus vms`.
    pub name: String,
    /// Its kernel.
    pub kernel: KernelVersion,
    /// Its paging mode.
    pub paging: Paging,
    /// RAM in MiB; from 2,816 on some of it lies above the PCI hole.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// RAM that no other process can map.
    pub private_ram: bool,
    /// What is planted in it.
    pub scenery: Scenery,
    /// A network card; `eth0` in the guest, without an address.
    pub card: Option<Card>,
    /// What it brings along.
    pub luggage: Option<Luggage>,
    /// It waits for a guest that migrates to it: [`Guest::take`].
    pub arrives: bool,
    /// It is an installed Debian with its own systemd instead, and has these files in `/luggage`.
    pub debian: Option<Vec<PathBuf>>,
}

impl Spec {
    /// A small guest with one CPU.
    pub fn new(kernel: KernelVersion, paging: Paging) -> Spec {
        let name = format!("lab-{kernel}-{paging}");
        let scenery = Scenery::Full;
        Spec {
            name,
            kernel,
            paging,
            memory_mib: 256,
            vcpus: 1,
            private_ram: false,
            scenery,
            card: None,
            luggage: None,
            arrives: false,
            debian: None,
        }
    }

    /// An installed Debian of the kernel's suite, with these files in `/luggage`: no scenery, and no truth to ask for.
    pub fn debian(kernel: KernelVersion, files: Vec<PathBuf>) -> Spec {
        let debian = Some(files);
        Spec { memory_mib: 1024, vcpus: 2, debian, ..Spec::everyday(kernel, Paging::Four) }
    }

    /// A small guest that runs nothing but what any system may run.
    pub fn everyday(kernel: KernelVersion, paging: Paging) -> Spec {
        Spec { scenery: Scenery::Everyday, ..Spec::new(kernel, paging) }
    }
}

impl fmt::Display for Paging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Paging::Four => "4",
            Paging::Five => "5",
        })
    }
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    spec: Spec,
    qemu: Child,
    folder: tempfile::TempDir,
    control: RefCell<BufReader<UnixStream>>,
    qmp: RefCell<Qmp>,
}

impl Guest {
    /// Boots a guest and waits until everything in it stands.
    pub fn boot(spec: &Spec) -> Result<Guest> {
        let mut attempt = 1;
        loop {
            match Guest::boot_once(spec) {
                Err(error) if attempt < ATTEMPTS && error.is::<NotReady>() => {
                    eprintln!("{}: {error:#}; booting it again", spec.name);
                    attempt += 1;
                }
                booted => return booted,
            }
        }
    }

    fn boot_once(spec: &Spec) -> Result<Guest> {
        let kernel = kernels::fetch(spec.kernel)?;
        let folder = tempfile::Builder::new().prefix("guest-").tempdir_in(folder::lab("run")?)?;
        let begins = begins_with(spec, &kernel, folder.path())?;
        let qemu = start(spec, &kernel.vmlinuz, &begins, folder.path())?;
        let mut qemu = Reaper(Some(qemu));
        let booted = (|| -> Result<_> {
            // QEMU waits for this connection before it starts the guest: no byte is lost.
            let control = qmp::connect(&folder.path().join("control"), Duration::from_secs(20))?;
            control.set_read_timeout(Some(if spec.debian.is_some() { DEBIANS_BOOT } else { BOOT }))?;
            let mut control = BufReader::new(control);
            let qmp = Qmp::connect(&folder.path().join("qmp"))?;
            if !spec.arrives {
                wait_ready(&mut control)?;
            }
            Ok((control, qmp))
        })();
        let (control, qmp) =
            booted.with_context(|| format!("{}: console:\n{}", spec.name, tail(folder.path())))?;
        let (control, qmp) = (RefCell::new(control), RefCell::new(qmp));
        Ok(Guest { spec: spec.clone(), qemu: qemu.0.take().context("no QEMU")?, folder, control, qmp })
    }

    /// QEMU's process.
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }
    /// What was asked for.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }
    /// The file behind its RAM.
    pub fn ram_file(&self) -> PathBuf {
        self.folder.path().join("ram")
    }
    /// What the kernel wrote to its console.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("console")).unwrap_or_default())
            .into_owned()
    }

    /// The guest's own account of itself, now. What the scenery lacks is an error.
    pub fn truth(&self) -> Result<Truth> {
        scenery::whole(self.spec.scenery, |_| false, || Truth::parse(&self.truth_bytes()?))
            .with_context(|| self.spec.name.clone())
    }
    /// The same as it came over the line.
    pub fn truth_bytes(&self) -> Result<Vec<u8>> {
        self.ask("TRUTH")
    }
    /// `/proc/kallsyms`. Slow: megabytes over an emulated serial port.
    pub fn kallsyms(&self) -> Result<Vec<Symbol>> {
        parse_kallsyms(&self.ask("KALLSYMS")?)
    }
    /// Runs a shell command in the guest.
    pub fn run(&self, command: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.ask(&format!("RUN {command}"))?).into_owned())
    }
    /// Loads the module that hides, with its parameters (see `lab/module/hide.c`).
    pub fn hide(&self, parameters: &[(&str, &str)]) -> Result<()> {
        let parameters: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.ask(&format!("LOAD /hide.ko {}", parameters.join(" "))).map(drop)
    }
    /// Forks and exits as fast as it can for that long, beside witnesses `lab-witness-1` to `-8` that live throughout.
    pub fn storm(&self, seconds: u32) -> Result<()> {
        self.ask(&format!("FORK {seconds}")).map(drop)
    }

    /// Starts the part of an ordinary busy system's load that needs nothing brought along: see [`crate::busy`].
    pub fn busy(&self) -> Result<()> {
        self.ask("BUSY").map(drop)
    }

    /// Stops the guest's CPUs.
    pub fn stop(&self) -> Result<()> {
        self.qmp("stop", json!({})).map(drop)
    }
    /// Lets them go on.
    pub fn cont(&self) -> Result<()> {
        self.qmp("cont", json!({})).map(drop)
    }
    /// Has another guest migrate to this one, which was started to take it: begins, and waits for nothing. `limit` is in bytes a second.
    pub fn take(&self, other: &Guest, limit: u64) -> Result<()> {
        let uri = json!({ "uri": format!("unix:{}", self.folder.path().join("migration").display()) });
        self.qmp("migrate-incoming", uri.clone())?;
        other.qmp("migrate-set-parameters", json!({ "max-bandwidth": limit }))?;
        other.qmp("migrate", uri).map(drop)
    }
    /// QEMU's run state.
    pub fn run_state(&self) -> Result<String> {
        let status = self.qmp("query-status", json!({}))?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }
    /// The formats of dumps that this QEMU was built to write: `elf`, `kdump-zlib`, `kdump-lzo`, `kdump-snappy`.
    pub fn dump_formats(&self) -> Result<Vec<String>> {
        let answer = self.qmp("query-dump-guest-memory-capability", json!({}))?;
        let formats: Vec<String> = serde_json::from_value(answer["formats"].clone())?;
        // Those that are not laid out as a file, and another system's.
        Ok(formats.into_iter().filter(|name| name == "elf" || name.starts_with("kdump")).collect())
    }
    /// Writes a dump by QEMU's own means, in one of [`Guest::dump_formats`].
    pub fn dump(&self, path: &Path, format: &str) -> Result<()> {
        let file = format!("file:{}", path.display());
        let arguments = json!({ "paging": false, "protocol": file, "format": format });
        self.qmp("dump-guest-memory", arguments).map(drop)
    }
    /// QEMU's own walk of the guest's page tables; `None` where it finds no page.
    pub fn gva2gpa(&self, address: u64) -> Result<Option<u64>> {
        let command = format!("gva2gpa {address:#x}");
        let answer = self.qmp("human-monitor-command", json!({ "command-line": command }))?;
        let text = answer.as_str().unwrap_or_default().trim().to_owned();
        match text.strip_prefix("gpa: 0x").or_else(|| text.strip_prefix("gpa: ")) {
            Some(hex) => Ok(Some(u64::from_str_radix(hex.trim_start_matches("0x"), 16)?)),
            None if text.contains("Unmapped") => Ok(None),
            None => bail!("QEMU said {text:?}"),
        }
    }
    /// Any QMP command.
    pub fn qmp(&self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp.borrow_mut().run(command, arguments)
    }

    /// Sends a line and returns the answer's bytes.
    pub(crate) fn ask(&self, line: &str) -> Result<Vec<u8>> {
        let asked = || -> Result<(bool, Vec<u8>)> {
            let mut control = self.control.borrow_mut();
            control.get_mut().write_all(format!("{line}\n").as_bytes())?;
            answer::read(&mut control, &self.ram_file())
        };
        match asked().with_context(|| format!("{line}: console:\n{}", tail(self.folder.path())))? {
            (true, bytes) => Ok(bytes),
            (false, bytes) => bail!("{line}: {}", String::from_utf8_lossy(&bytes)),
        }
    }
}

fn wait_ready(control: &mut impl BufRead) -> Result<()> {
    let mut line = String::new();
    match control.read_line(&mut line).context(NotReady)? {
        0 => Err(anyhow::Error::msg(NotReady)),
        _ if line == "READY\n" => Ok(()),
        _ => bail!("the guest said {line:?} instead of READY"),
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It is gone either way, and nobody is left to tell.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Kills QEMU when a boot fails.
struct Reaper(Option<Child>);

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(mut qemu) = self.0.take() {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }
}

/// What a guest's kernel finds.
struct Begins {
    initramfs: PathBuf,
    disks: Vec<PathBuf>,
}

fn begins_with(spec: &Spec, kernel: &Kernel, folder: &Path) -> Result<Begins> {
    let own = folder.join("initramfs");
    if let Some(files) = &spec.debian {
        fs::write(&own, debian::initramfs(kernel)?)?;
        let disks = vec![debian::disk(kernel)?, debian::luggage(files, folder)?];
        return Ok(Begins { initramfs: own, disks });
    }
    let build = if spec.card.is_some() { initramfs::build_with_card } else { initramfs::build };
    let initramfs = build(kernel)?;
    let Some(luggage) = &spec.luggage else { return Ok(Begins { initramfs, disks: Vec::new() }) };
    fs::write(&own, [fs::read(&initramfs)?, luggage.pack(kernel)?].concat())?;
    Ok(Begins { initramfs: own, disks: Vec::new() })
}

fn start(spec: &Spec, vmlinuz: &Path, begins: &Begins, folder: &Path) -> Result<Child> {
    let at = |name: &str| folder.join(name).display().to_string();
    let memory = format!("{}M", spec.memory_mib);
    // cx16 off: with it QEMU 7.2's emulation of two CPUs corrupts the slab lists of 6.12 now and then.
    let la57 = if spec.paging == Paging::Four { ",la57=off" } else { "" };
    // setpriv: QEMU must not outlive a test that is killed.
    let mut command = match &spec.card {
        None => Command::new("setpriv"),
        Some(card) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &card.namespace, "setpriv"]);
            command
        }
    };
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-name", &spec.name]);
    command.args(["-accel", "tcg,thread=multi", "-cpu", &format!("max,cx16=off{la57}"), "-m", &memory]);
    command.args(["-smp", &spec.vcpus.to_string()]);
    if spec.private_ram {
        command.args(["-machine", "q35"]);
    } else {
        let object = format!("memory-backend-file,id=m,size={memory},mem-path={},share=on", at("ram"));
        command.args(["-object", &object, "-machine", "q35,memory-backend=m"]);
    }
    command.args(["-display", "none", "-nodefaults", "-no-reboot", "-device", "vmcoreinfo"]);
    command.args(["-serial", &format!("file:{}", at("console"))]);
    let control = format!("socket,id=control,path={},server=on,wait=on", at("control"));
    command.args(["-chardev", &control, "-serial", "chardev:control"]);
    for socket in ["qmp", "free-qmp"] {
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", at(socket))]);
    }
    if let Some(card) = &spec.card {
        let tap = format!("tap,id=card,ifname={},script=no,downscript=no", card.tap);
        let device = format!("virtio-net-pci,netdev=card,mac={},romfile=", card.mac);
        command.args(["-netdev", &tap, "-device", &device]);
    }
    if spec.arrives {
        command.args(["-incoming", "defer"]);
    }
    for disk in &begins.disks {
        // What is written goes to a file of QEMU's that nobody else sees.
        let drive = format!("if=virtio,format=raw,snapshot=on,file={}", disk.display());
        command.args(["-drive", &drive]);
    }
    command.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(&begins.initramfs);
    let answers = if spec.private_ram { "port" } else { "ram" };
    let scenery = spec.scenery.word();
    let options = format!("console=ttyS0 quiet panic=1 lynceus.scenery={scenery} lynceus.answers={answers}");
    command.arg("-append").arg(options);
    let log = fs::File::create(folder.join("qemu.log"))?;
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    child.context("cannot start QEMU (packages qemu-system-x86 and util-linux)")
}

/// The end of what the console and QEMU said, for an error.
fn tail(folder: &Path) -> String {
    let read =
        |name: &str| String::from_utf8_lossy(&fs::read(folder.join(name)).unwrap_or_default()).into_owned();
    let text = read("qemu.log") + &read("console");
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
}
