//! Brings dom0 up as a distribution would: file systems, modules, xenstored, xenconsoled.

use anyhow::{Context, Result, ensure};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Emulated twice over, it takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
const TOOLS: &str = "/usr/lib/xen-4.17/bin";
const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
];

pub(crate) fn start() -> Result<()> {
    for (kind, target) in MOUNTS {
        fs::create_dir_all(target)?;
        mount(kind, target)?;
    }
    for folder in ["/run/xen", "/run/lock", "/run/xenstored", "/var/log/xen/console"] {
        fs::create_dir_all(folder)?;
    }
    symlink("/run", "/var/run")?;
    // By these names nft and the toolstack's scripts open what they were given.
    for (name, fd) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{fd}"), format!("/dev/{name}"))?;
    }
    run(&["/bin/busybox", "--install", "-s", "/bin"])?;
    for name in fs::read_to_string("/modules/order")?.lines() {
        run(&["/bin/busybox", "insmod", &format!("/modules/{name}.ko")])?;
    }
    mount("xenfs", "/proc/xen")?;
    let capabilities = fs::read_to_string("/proc/xen/capabilities")?;
    ensure!(capabilities.contains("control_d"), "not dom0: {capabilities:?}");
    run(&[&format!("{TOOLS}/xenstored"), "--pid-file", "/run/xen/xenstored.pid"])?;
    until("XenStore", || run(&["/usr/bin/xenstore-read", "/"]).is_ok().then_some(()))?;
    run(&[&format!("{TOOLS}/xen-init-dom0")])?;
    run(&[&format!("{TOOLS}/xenconsoled"), "--pid-file=/run/xen/xenconsoled.pid"])?;
    println!("LAB toolstack up after {} s", uptime());
    Ok(())
}

/// What to do, by the names of the parts.
pub(crate) fn plan() -> Result<Vec<String>> {
    Ok(fs::read_to_string("/guests/plan")?.lines().map(str::to_owned).collect())
}

pub(crate) fn xl(args: &[&str]) -> Result<String> {
    let program = format!("{TOOLS}/xl");
    run(&[&[program.as_str()], args].concat())
}

pub(crate) fn xenstore(path: &str) -> Result<String> {
    run(&["/usr/bin/xenstore-read", path]).map(|text| text.trim().to_owned())
}

pub(crate) fn run(args: &[&str]) -> Result<String> {
    let (program, rest) = args.split_first().context("no program")?;
    let output = Command::new(program)
        .args(rest)
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.to_string())?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{}: {}: {text}", args.join(" "), output.status);
    Ok(text)
}

/// Asks again until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    lynceus_lab::until(what, PATIENCE, || Ok(ask()))
}

pub(crate) fn uptime() -> String {
    fs::read_to_string("/proc/uptime").unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
}

/// Whether a domain hangs, or ended in a triple fault since this was asked last, which Xen's log says. All domains are then removed: Xen
/// takes a triple fault for a reboot, and the toolstack may be starting the next one.
pub(crate) fn lost_to_the_emulator(hangs: bool) -> Result<bool> {
    let log = xl(&["dmesg", "-c"])?;
    println!("{log}");
    if !hangs && !log.contains("Triple fault") {
        return Ok(false);
    }
    // Who waits for a domain's end starts it again.
    run(&["/bin/busybox", "sh", "-c", "busybox killall xl; true"])?;
    until("all domains to be gone", || {
        let list = xl(&["list"]).ok()?;
        let ids = list.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u16>().ok());
        let left: Vec<u16> = ids.filter(|id| *id != 0).collect();
        for id in &left {
            // Gone meanwhile, or not yet whole: asked again.
            let _ = xl(&["destroy", &id.to_string()]);
        }
        left.is_empty().then_some(())
    })?;
    Ok(true)
}

/// What may explain a failure.
pub(crate) fn post_mortem() {
    for what in ["list", "dmesg"] {
        // Without a XenStore the toolstack waits for ever.
        let asked = run(&["/bin/busybox", "timeout", "30", &format!("{TOOLS}/xl"), what]);
        println!("{}", asked.unwrap_or_else(|error| format!("{error:#}")));
    }
}

fn mount(kind: &str, target: &str) -> Result<()> {
    let (kind, at) = (CString::new(kind)?, CString::new(target)?);
    // SAFETY: strings that outlive the call.
    let done = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    ensure!(done == 0, "mount {target}: {}", std::io::Error::last_os_error());
    Ok(())
}

pub(crate) fn power_off() -> ! {
    // SAFETY: flushes, then ends the machine.
    unsafe {
        libc::sync();
        libc::reboot(libc::LINUX_REBOOT_CMD_POWER_OFF);
    }
    std::process::exit(1)
}
