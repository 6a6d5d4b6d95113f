//! What is tried in the service domain.

use crate::guest::Guest;
use crate::toolstack::{until, uptime, xl};
use anyhow::{Context, Result, bail, ensure};
use lynceus_introspect::backend::xen::{self, DomainKind, DomainState};
use lynceus_introspect::find::{self, Attached};
use lynceus_introspect::observe::Options;
use lynceus_introspect::target::{OpenOptions, Target, Unread};
use lynceus_lab::attacks::{ATTACKS, XEN_ATTACKS};
use lynceus_lab::truth::Truth;
use lynceus_lab_compare::detect;
use lynceus_profiles::kernel_file::KernelImage;
use lynceus_scanners::{DETECTORS, Detector, Finding};
use std::fs::{self, File};
use std::io::BufReader;
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How looks are made here: a processor under emulation on a busy machine needs seconds for what takes others a millisecond, and in a pause of
/// the default length no look would end.
pub(crate) fn patient() -> Options {
    Options { max_pause: Duration::from_secs(20), ..Options::default() }
}

/// The same for the program.
const PAUSE_MS: &str = "20000";

/// Before any guest: Xen answers, and dom0 is not listed as something to look into.
pub(crate) fn nothing_yet() -> Result<()> {
    println!("LAB Xen {}", xen::release()?);
    ensure!(xen::list()?.is_empty(), "domains before any was created: {:?}", xen::list()?);
    ensure!(Target::open("xen:0").is_err(), "dom0 let itself be opened");
    ensure!(
        Target::open("xen:no-such").is_err() && Target::open("xen:77").is_err(),
        "opened what is not there"
    );
    Ok(())
}

pub(crate) fn attach(guest: &Guest) -> Result<Attached> {
    let started = Instant::now();
    let target = Target::open(&guest.target())?;
    let opened = started.elapsed();
    let attached = find::attach_target(&target, None)?;
    println!("LAB {}: opened in {opened:.1?}, attached after {:.1?}", target.describe(), started.elapsed());
    let doubts = &attached.evidence.failed;
    ensure!(doubts.is_empty(), "{}: doubts {doubts:?}", guest.name);
    Ok(attached)
}

pub(crate) fn state(guest: &Guest) -> Result<DomainState> {
    let domain = xen::list()?.into_iter().find(|domain| domain.id == guest.id);
    Ok(domain.with_context(|| format!("{} is not listed", guest.name))?.state)
}

/// Everything that is seen equals what the guest says of itself, while it is paused by its admin and stays so.
pub(crate) fn equals_its_truth(guest: &Guest) -> Result<()> {
    let listed = xen::list()?;
    let domain = listed.iter().find(|domain| domain.name == guest.name).context("not listed")?;
    let kind = if guest.kind == "pv" { DomainKind::Pv } else { DomainKind::Hvm };
    ensure!(domain.id == guest.id && domain.kind == kind && domain.vcpus == 2, "{domain:?}");
    let truth = paused_truth(guest)?;
    let attached = attach(guest)?;
    let equal = lynceus_lab_compare::hold(&attached.guest, &truth).with_context(|| guest.name.clone())?;
    ensure!(state(guest)? == DomainState::Paused, "a look let a paused guest run");
    xl(&["unpause", &guest.name])?;
    println!("LAB {}: {equal} facts equal at {} s", guest.name, uptime());
    Ok(())
}

/// What the guest says of itself, and then it is paused.
fn paused_truth(guest: &Guest) -> Result<Truth> {
    // Once to warm what the capture itself changes.
    guest.truth()?;
    let truth = guest.truth()?;
    xl(&["pause", &guest.name])?;
    ensure!(state(guest)? == DomainState::Paused, "not paused");
    Ok(truth)
}

/// A core that the toolstack wrote is read as the domain itself is. Of a PVH domain it asks for every frame up to 4 GiB, which takes an
/// emulated machine minutes: there it is not tried.
pub(crate) fn a_dumped_core_is_the_same(guest: &Guest) -> Result<()> {
    if guest.kind == "pvh" {
        return Ok(());
    }
    let truth = paused_truth(guest)?;
    let path = format!("/tmp/{}.core", guest.name);
    xl(&["dump-core", &guest.name, &path])?;
    xl(&["unpause", &guest.name])?;
    let attached = find::attach_target(&Target::open(&path)?, None)?;
    let equal = lynceus_lab_compare::hold(&attached.guest, &truth).context(path.clone())?;
    println!(
        "LAB {}: {equal} facts equal in its xl dump-core, {} bytes",
        guest.name,
        fs::metadata(&path)?.len()
    );
    Ok(fs::remove_file(path)?)
}

/// A domain that was opened with all rights is read by nobody's process, which can open nothing and ask nothing.
pub(crate) fn nobody_reads_with_an_inherited_handle(guest: &Guest) -> Result<()> {
    let Target::Xen(xen) = Target::open(&guest.target())? else { bail!("not a domain") };
    let mut xen = Arc::into_inner(xen).context("opened once")?;
    xen.confine();
    let attached = find::attach(Arc::new(xen))?;
    // SAFETY: this process has one thread, so the child may do what it likes.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let seen = as_nobody(&attached);
        if let Err(error) = &seen {
            println!("LAB as nobody: {error:#}");
        }
        std::process::exit(i32::from(seen.is_err()));
    }
    let mut status = 0;
    // SAFETY: waits for this child.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    ensure!(waited == child && status == 0, "nobody's look failed: status {status}");
    println!("LAB {}: nobody (uid 65534) listed its tasks with an inherited, restricted handle", guest.name);
    Ok(())
}

fn as_nobody(attached: &Attached) -> Result<()> {
    const NOBODY: u32 = 65534;
    // SAFETY: gives up rights, and checks that they are gone.
    unsafe {
        ensure!(
            libc::setgroups(0, std::ptr::null()) == 0
                && libc::setgid(NOBODY) == 0
                && libc::setuid(NOBODY) == 0
        );
        ensure!(libc::setuid(0) != 0, "root again");
    }
    ensure!(File::open("/dev/xen/privcmd").is_err(), "nobody opened privcmd");
    ensure!(xen::list().is_err(), "nobody asked Xen");
    // Past the age at which windows are mapped anew, by the handle that was inherited.
    std::thread::sleep(Duration::from_millis(1100));
    let tasks = attached.guest.view().tasks();
    ensure!(
        tasks.is_complete() && tasks.items.iter().any(|task| task.comm == "lab-plain"),
        "{:?}",
        tasks.gaps
    );
    Ok(())
}

/// Attached, its kernel to be compared with the file that the toolstack booted.
fn with_its_file(guest: &Guest) -> Result<Attached> {
    let mut attached = attach(guest)?;
    // Of a PVH domain the toolstack does not tell.
    let told = Unread::open(&guest.target(), OpenOptions::default())?.kernel_file();
    println!("LAB {}: XenStore names the kernel {told:?}", guest.name);
    let image = told.unwrap_or_else(|| guest.kernel.clone().into());
    let image = KernelImage::load(BufReader::new(File::open(&image).context(image.display().to_string())?))?;
    attached.guest.set_image(Arc::new(image))?;
    Ok(attached)
}

/// What all detectors find.
fn findings(attached: &Attached) -> Result<Vec<Finding>> {
    let found = detect::findings(attached, DETECTORS, &patient())?;
    lynceus_lab_compare::without_oddities(found)
}

/// The code and the constants alone of a kernel as Xen and itself rewrote it are explained to the byte.
pub(crate) fn its_kernel_is_its_files(guest: &Guest) -> Result<()> {
    let compare = |detector: &&Detector| ["kernel_text", "kernel_constants"].contains(&detector.name);
    let detectors: Vec<&Detector> = DETECTORS.iter().filter(compare).collect();
    ensure!(detectors.len() == 2, "no such detectors");
    let started = Instant::now();
    let found = detect::findings(&with_its_file(guest)?, detectors, &patient())?;
    ensure!(found.is_empty(), "{}: {found:#?}", guest.name);
    println!("LAB {}: its code and constants are its file's, after {:.1?}", guest.name, started.elapsed());
    Ok(())
}

/// The kernel as Xen and itself rewrote it is explained to the byte.
pub(crate) fn finds_nothing_in_a_clean_guest(guest: &Guest) -> Result<()> {
    finds_nothing(guest, &with_its_file(guest)?)
}

fn finds_nothing(guest: &Guest, attached: &Attached) -> Result<()> {
    let found = findings(attached)?;
    ensure!(found.is_empty(), "{}: {found:#?}", guest.name);
    println!("LAB {}: {} detectors find nothing, at {} s", guest.name, DETECTORS.len(), uptime());
    Ok(())
}

/// Attacks on tables, on code, and on who sees packets.
pub(crate) fn finds_attacks(guest: &Guest) -> Result<()> {
    // A PV guest cannot switch off the write protection of its constants and code, as the module that attacks does.
    let tried = match guest.kind.as_str() {
        "pv" => [
            "sight of packets",
            "traced function",
            "credentials of another",
            "entry of system calls from Xen",
        ],
        _ => [
            "byte inside of a function",
            "sight of packets",
            "interrupt table of one's own",
            "entry of system calls",
        ],
    };
    let all = ATTACKS.iter().chain(XEN_ATTACKS);
    let attacks: Vec<_> = all.filter(|attack| tried.contains(&attack.name)).collect();
    ensure!(attacks.len() == tried.len(), "no such attacks");
    // Before any of them, as the appliance is.
    let attached = with_its_file(guest)?;
    for attack in attacks {
        let ask = |line: &str| guest.ask(line);
        attack.start(&ask).context(attack.name)?;
        let found = findings(&attached)?;
        attack.stop(&ask).context(attack.name)?;
        let is_one = |finding: &&Finding| finding.detector == attack.detector;
        let one = found.iter().find(is_one).with_context(|| format!("{}: {found:#?}", attack.name))?;
        let only = found.iter().all(|found| is_one(&found) || attack.also.contains(&&*found.detector));
        ensure!(only, "{}: {found:#?}", attack.name);
        println!("LAB {}: {}: {}", guest.name, attack.name, one.summary);
    }
    finds_nothing(guest, &attached)
}

/// The hiding module's task and itself, in a running guest.
pub(crate) fn finds_what_hides(guest: &Guest) -> Result<()> {
    let pid = guest.truth()?.task_named("intruder")?.pid;
    guest.ask(&format!("LOAD /hide.ko hide_self=1 hide_pid={pid} hide_table=1"))?;
    let inside = String::from_utf8(guest.ask("RUN ps; cat /proc/modules")?)?;
    ensure!(inside.contains("lab-plain") && !inside.contains("intruder"), "nothing was hidden: {inside}");
    let found = findings(&with_its_file(guest)?)?;
    let summaries: Vec<&str> = found.iter().map(|finding| finding.summary.as_str()).collect();
    ensure!(
        found.len() == 2
            && summaries.iter().any(|text| text.contains("(intruder)"))
            && summaries.iter().any(|text| text.contains("lynceus_lab_hide")),
        "{found:#?}"
    );
    println!("LAB {}: {}", guest.name, summaries.join("; "));
    Ok(())
}

/// Our own pause ends, an admin's outlives it, and one that is forgotten ends with its process.
pub(crate) fn pauses_and_resumes(guest: &Guest) -> Result<()> {
    let target = Target::open(&guest.target())?;
    let pause = target.pausable().context("cannot be paused")?;
    let paused = pause.pause()?;
    ensure!(state(guest)? == DomainState::Paused, "not paused");
    paused.resume()?;
    ensure!(state(guest)? == DomainState::Running, "not resumed");
    xl(&["pause", &guest.name])?;
    drop(pause.pause()?);
    ensure!(state(guest)? == DomainState::Paused, "our pause ended an admin's");
    xl(&["unpause", &guest.name])?;
    let moving = attach(guest)?;
    let looked = moving.guest.observe(&patient(), |view| view.tasks());
    ensure!(looked.is_consistent() && looked.result.is_complete(), "{:?}", looked.outcome);
    Ok(())
}

/// What a worker holds can map its domain and nothing else.
pub(crate) fn the_restricted_handle_is_refused(guest: &Guest) -> Result<()> {
    const HYPERCALL: libc::c_ulong = 0x0030_5000;
    const RESTRICT: libc::c_ulong = 0x0002_5006;
    const MMAPBATCH_V2: libc::c_ulong = 0x0020_5004;
    let handle = File::open("/dev/xen/privcmd")?;
    let fd = handle.as_raw_fd();
    let error = |done: i32| (done < 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
    // __HYPERVISOR_xen_version, which anyone may ask.
    let version: [u64; 6] = [17, 0, 0, 0, 0, 0];
    // SAFETY: the ioctls read these structures; the mapping is fresh and unmapped again.
    unsafe {
        ensure!(error(libc::ioctl(fd, HYPERCALL, version.as_ptr())).is_none(), "not even the version before");
        let id = guest.id;
        ensure!(error(libc::ioctl(fd, RESTRICT, &raw const id)).is_none(), "cannot be restricted");
        let refused = error(libc::ioctl(fd, HYPERCALL, version.as_ptr()));
        ensure!(refused == Some(libc::EPERM), "a hypercall: {refused:?}");
        let other: u16 = 0;
        let refused = error(libc::ioctl(fd, RESTRICT, &raw const other));
        ensure!(refused == Some(libc::EINVAL), "restricted to another: {refused:?}");
        let at = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
        ensure!(at != libc::MAP_FAILED, "no mapping: {}", std::io::Error::last_os_error());
        let (frame, mut why) = (0x100_u64, 0_i32);
        // struct privcmd_mmapbatch_v2, of dom0.
        let batch: [u64; 4] = [1, at as u64, &raw const frame as u64, &raw mut why as u64];
        let refused = error(libc::ioctl(fd, MMAPBATCH_V2, batch.as_ptr()));
        ensure!(refused == Some(libc::EPERM), "another domain's memory: {refused:?}");
        libc::munmap(at, 4096);
        let writable = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        );
        ensure!(writable == libc::MAP_FAILED, "a writable mapping");
    }
    println!("LAB {}: a restricted handle is refused all but its domain", guest.name);
    Ok(())
}

/// The binary itself, as an admin of dom0 runs it.
pub(crate) fn the_command_line(guest: &Guest) -> Result<()> {
    for (args, wanted) in [
        (&["vms"][..], 0),
        (&["info", &guest.target(), "--pause-ms", PAUSE_MS], 0),
        (&["ps", &guest.name, "--pause-ms", PAUSE_MS], 0),
        (&["sockets", &format!("xen:{}", guest.id), "--pause-ms", PAUSE_MS], 0),
        (&["check", &guest.target(), "--pause-ms", PAUSE_MS], 1),
        (&["ps", "xen:4000"], 2),
    ] {
        let output =
            Command::new("/bin/lynceus").args(args).env("LYNCEUS_PROFILES", "/tmp/profiles").output()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(
            output.status.code() == Some(wanted),
            "lynceus {}: {}: {text}",
            args.join(" "),
            output.status
        );
        println!("LAB $ lynceus {}", args.join(" "));
        text.lines()
            .take(5)
            .for_each(|line| println!("LAB   {}", line.chars().take(110).collect::<String>()));
    }
    Ok(())
}

/// A text that a process holds is found by a rule, in that process.
pub(crate) fn finds_a_planted_signature(guest: &Guest) -> Result<()> {
    const RULES: &str = "/tmp/planted.yar";
    fs::write(RULES, "rule planted { strings: $text = \"LYNCEUS-PLANTED\" condition: $text }")?;
    // Its environment, which no other process has.
    guest.ask("RUN env PLANTED=LYNCEUS-PLANTED sleep 1000 > /dev/null 2>&1 &")?;
    let output = Command::new("/bin/lynceus")
        .args(["--json", "scan", &guest.target(), "-r", RULES, "-s", "process", "--pause-ms", PAUSE_MS])
        .env("LYNCEUS_PROFILES", "/tmp/profiles")
        .output()?;
    guest.ask("RUN killall sleep || true")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {text}{why}", output.status);
    let line = text.lines().find(|line| line.contains("\"comm\":\"sleep\""));
    let line = line.with_context(|| format!("not in the process that holds it: {text}"))?;
    ensure!(line.contains("\"rule\":\"planted\""), "{line}");
    println!(
        "LAB {}: a planted signature is found: {}",
        guest.name,
        line.chars().take(160).collect::<String>()
    );
    Ok(())
}

/// `lynceus vms --follow`, from before the first guest to after the last.
pub(crate) struct Follower {
    child: Child,
    created: Vec<String>,
}

impl Follower {
    pub(crate) fn start() -> Result<Follower> {
        let out = File::create("/tmp/followed")?;
        let child = Command::new("/bin/lynceus").args(["--json", "vms", "--follow"]).stdout(out).spawn()?;
        Ok(Follower { child, created: Vec::new() })
    }

    pub(crate) fn created(&mut self, guest: &Guest) {
        self.created.push(guest.name.clone());
    }

    /// Each guest appeared and is gone, one saved and restored or rebooted more often.
    pub(crate) fn finish(mut self) -> Result<()> {
        let told = || fs::read_to_string("/tmp/followed").unwrap_or_default();
        let is_right = |told: &str, name: &String| {
            let count = |event: &str| {
                let start = format!("{{\"event\":\"{event}\",\"name\":\"{name}\"");
                told.lines().filter(|line| line.starts_with(&start)).count()
            };
            let (appeared, gone) = (count("appeared"), count("gone"));
            appeared > 0 && appeared == gone
        };
        let all = || {
            let told = told();
            self.created.iter().all(|name| is_right(&told, name)).then_some(())
        };
        until("each guest to appear as often as it goes", all)
            .with_context(|| format!("{:?}: {}", self.created, told()))?;
        self.child.kill()?;
        self.child.wait()?;
        println!("LAB vms --follow: {} events of {} guests", told().lines().count(), self.created.len());
        Ok(())
    }
}
