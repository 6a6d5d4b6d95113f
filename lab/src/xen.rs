//! A real Xen with a service domain and guests, under QEMU's software emulation: what runs in dom0 is `tests/xen`.
//!
//! Xen, its tools and dom0's kernel come from Debian 12's packages, unpacked and never installed.

mod image;

use crate::folder;
use crate::kernels::{Apt, KernelVersion, numbers, run};
use anyhow::{Context, Result, bail, ensure};
use lynceus_profiles::kernel_file;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PACKAGES: &[&str] = &[
    "xen-hypervisor-4.17-amd64",
    "xen-utils-4.17",
    "xen-utils-common",
    "libxenmisc4.17",
    "xenstore-utils",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    // Headers, for the program that is compared with.
    "libxen-dev",
];
/// The generic flavour: the cloud flavour cannot be dom0.
const DOM0_KERNEL: (&str, &str) = ("linux-image-6.1.", "-amd64-unsigned");
/// The whole run; a busy machine takes its time, and a guest that was lost to the emulator is begun again.
const LIMIT: Duration = Duration::from_secs(2400);

/// What dom0 says every [`BEAT_EVERY`] while it is alive, whatever it waits for.
pub const BEAT: &str = "(alive)";
/// How often.
pub const BEAT_EVERY: Duration = Duration::from_secs(10);
/// A machine that says nothing for so long hangs: its one emulated processor runs a PVH guest and has lost what interrupts it.
const SILENCE: Duration = Duration::from_secs(180);
/// So often it is begun anew then. More often, and it is our failure.
const HANGS: usize = 2;

/// Kinds of domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Paravirtual.
    Pv,
    /// With hardware support and no firmware.
    Pvh,
}

/// What dom0 is asked to do, a part at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Creates a guest, looks into it and judges.
    Guest(Kind, KernelVersion),
    /// Creates the guests of [`NETWORK`] on a bridge and guards their cards.
    Network,
}

/// The guests of the network: PV, which no emulator loses.
pub const NETWORK: [(Kind, KernelVersion); 2] =
    [(Kind::Pv, KernelVersion::V6_1), (Kind::Pv, KernelVersion::V5_10)];

/// PVH guests, and the network. Of the kernels only 6.1 runs as a PVH guest under emulation, and even it is lost now and then: 5.10 ends in a
/// triple fault inside a hypercall each time, 6.12 stops answering.
pub const PVH: Machine =
    Machine { name: "xen-pvh", parts: &[Part::Guest(Kind::Pvh, KernelVersion::V6_1), Part::Network] };

/// PV guests of every kernel.
pub const PV: Machine = Machine {
    name: "xen-pv",
    parts: &[
        Part::Guest(Kind::Pv, KernelVersion::V6_1),
        Part::Guest(Kind::Pv, KernelVersion::V5_10),
        Part::Guest(Kind::Pv, KernelVersion::V6_12),
        Part::Guest(Kind::Pv, KernelVersion::V7),
    ],
};

/// A machine with Xen, and what it does, a part after the other.
pub struct Machine {
    /// What its console is kept as.
    pub name: &'static str,
    /// What it does. The first guest of each kind is asked for everything.
    pub parts: &'static [Part],
}

impl Machine {
    /// Where the console of its last run is kept.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn log(&self) -> Result<PathBuf> {
        Ok(folder::lab("logs")?.join(self.name))
    }

    /// Boots Xen with dom0, which does these of its parts one after the other; once more where the machine hangs.
    ///
    /// # Errors
    /// It did not say that all passed; the end of the console is in the error.
    pub fn run(&self, programs: &Programs, parts: &[Part]) -> Result<()> {
        let unpacked = fetch()?;
        let folder = tempfile::Builder::new().prefix("xen-").tempdir_in(folder::lab("run")?)?;
        let image = folder.path().join("dom0");
        fs::write(&image, image::pack(programs, &unpacked, parts, folder.path())?)?;
        for hung in 0.. {
            let (console, end) = boot(&unpacked, &image, folder.path())?;
            fs::write(self.log()?, &console)?;
            match end {
                End::Hung if hung < HANGS => {
                    println!("LAB THE EMULATED MACHINE HANGS: silent for {SILENCE:?}, it is begun anew");
                }
                _ if console.contains("LAB PASS") => break,
                _ => bail!("{end:?}: {}", reason(&console)),
            }
        }
        Ok(())
    }
}

impl Part {
    /// The kernels that it takes.
    fn kernels(&self) -> Vec<KernelVersion> {
        match self {
            Part::Guest(_, kernel) => vec![*kernel],
            Part::Network => NETWORK.map(|(_, kernel)| kernel).to_vec(),
        }
    }
}

/// As it is called in the plan: `pvh-6.1`, `network`.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Guest(Kind::Pv, kernel) => write!(f, "pv-{kernel}"),
            Part::Guest(Kind::Pvh, kernel) => write!(f, "pvh-{kernel}"),
            Part::Network => f.write_str("network"),
        }
    }
}

/// What dom0 is given.
pub struct Programs {
    /// The test program that does all that is done there.
    pub init: PathBuf,
    /// Its test to run.
    pub test: &'static str,
    /// The program under test.
    pub lynceus: PathBuf,
    /// C source of the program that reads a domain through Xen's own library.
    pub foreign: PathBuf,
}

/// How a machine came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// By itself.
    PoweredOff,
    /// It took longer than [`LIMIT`].
    TooLong,
    /// It said nothing for [`SILENCE`].
    Hung,
}

/// What the service domain says went wrong, and how its console ends.
fn reason(console: &str) -> String {
    const LINES: usize = 80;
    const CHARACTERS: usize = 300;
    let lines = console.lines().filter(|line| line.trim_end() != BEAT);
    let lines: Vec<String> = lines.map(|line| line.chars().take(CHARACTERS).collect()).collect();
    let failed = lines.iter().find(|line| line.contains("LAB FAILED"));
    let end = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().iter();
    // What CI keeps of a long text may be its end alone.
    failed.into_iter().chain(end).chain(failed).map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// Downloads and unpacks, once.
fn fetch() -> Result<PathBuf> {
    folder::once("xen-4.17-dev", |folder| {
        println!("downloading Debian's Xen 4.17 and a kernel for its service domain");
        let apt = Apt::new("bookworm", &folder.join("apt"))?;
        let names = apt.names()?;
        let (start, end) = DOM0_KERNEL;
        let fits = |name: &&String| {
            name.starts_with(start)
                && name.ends_with(end)
                && !name.contains("-rt-")
                && !name.contains("-cloud-")
        };
        let kernel =
            names.iter().filter(fits).max_by_key(|name| numbers(name)).context("no kernel for dom0")?;
        let mut packages: Vec<String> = PACKAGES.iter().map(|name| (*name).to_owned()).collect();
        packages.push(kernel.clone());
        let debs = folder.join("debs");
        fs::create_dir_all(&debs)?;
        apt.download(&packages, &debs)?;
        for deb in fs::read_dir(&debs)? {
            run(Command::new("dpkg").arg("-x").arg(deb?.path()).arg(folder.join("root")))?;
        }
        fs::remove_dir_all(&debs)?;
        fs::remove_dir_all(folder.join("apt"))?;
        let root = folder.join("root/boot");
        let xen = Command::new("gzip").arg("-dc").arg(root.join("xen-4.17-amd64.gz")).output()?;
        ensure!(xen.status.success(), "gzip: {}", String::from_utf8_lossy(&xen.stderr));
        fs::write(folder.join("xen"), xen.stdout)?;
        let vmlinuz = starting_with(&root, "vmlinuz-")?;
        // Emulated Xen would take long to do it.
        let kernel = kernel_file::unpack(&mut fs::File::open(vmlinuz)?)?;
        Ok(fs::write(folder.join("vmlinux"), kernel)?)
    })
}

fn starting_with(folder: &Path, start: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(start)) {
            return Ok(path);
        }
    }
    bail!("{}: no {start}*", folder.display())
}

/// Prints the lines of ours that were added to the console since the first `told` bytes. How many bytes there are.
fn tell(console: &Path, told: usize) -> usize {
    let text = fs::read(console).unwrap_or_default();
    let new = text.get(told..).unwrap_or_default();
    let Some(end) = new.iter().rposition(|byte| *byte == b'\n') else { return told };
    let lines = String::from_utf8_lossy(new.get(..end).unwrap_or_default()).into_owned();
    lines.lines().filter(|line| line.starts_with("LAB")).for_each(|line| println!("{}", line.trim_end()));
    told + end + 1
}

/// Runs it until dom0 powers off. What it wrote to the serial port, and how it ended.
fn boot(unpacked: &Path, image: &Path, folder: &Path) -> Result<(String, End)> {
    let console = folder.join("console");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-name", "lab-xen"]);
    // SVM with nested paging is what PVH guests need; with SMAP a PV dom0 crashes early under emulation; for cx16 see `guest::start`. Two
    // emulated processors would wait for each other all the time: Xen on them takes twice as long, and loses more guests.
    command.args(["-accel", "tcg", "-machine", "q35", "-cpu", "qemu64,+svm,+npt,cx16=off", "-smp", "1"]);
    command.args(["-m", "2816", "-display", "none", "-nodefaults", "-no-reboot"]);
    command.args(["-serial", &format!("file:{}", console.display())]);
    command.arg("-kernel").arg(unpacked.join("xen"));
    let options =
        "dom0_mem=1G,max:1G com1=115200,8n1 console=com1 loglvl=warning guest_loglvl=warning no-real-mode";
    command.args(["-append", options, "-initrd"]);
    let kernel = unpacked.join("vmlinux");
    command.arg(format!("{} console=hvc0 quiet panic=1,{}", kernel.display(), image.display()));
    let log = fs::File::create(folder.join("qemu.log"))?;
    let mut qemu = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start QEMU")?;
    let end = watch(&mut qemu, &console)?;
    let text = fs::read(&console).unwrap_or_default();
    let log = fs::read(folder.join("qemu.log")).unwrap_or_default();
    Ok(([String::from_utf8_lossy(&text), String::from_utf8_lossy(&log)].concat(), end))
}

/// Tells what a machine says until it ends, and ends it where it would not.
fn watch(qemu: &mut Child, console: &Path) -> Result<End> {
    let started = Instant::now();
    let (mut told, mut heard) = (0, started);
    while qemu.try_wait()?.is_none() {
        let before = told;
        told = tell(console, told);
        if told != before {
            heard = Instant::now();
        }
        let end = match (started.elapsed() > LIMIT, heard.elapsed() > SILENCE) {
            (true, _) => End::TooLong,
            (_, true) => End::Hung,
            _ => {
                std::thread::sleep(Duration::from_millis(200));
                continue;
            }
        };
        qemu.kill()?;
        qemu.wait()?;
        return Ok(end);
    }
    Ok(End::PoweredOff)
}
