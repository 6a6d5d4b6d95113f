//! A busy, ordinary system: whatever a detector says of it is a false alarm.
//!
//! Started by PID 1 when the host asks for it; every part runs for ever, in a process of its own that ends its own children.
//! Looks like trouble on purpose, and is none: programs are upgraded while they run, compilers make code, users become root by
//! set-uid programs, containers come and go.

mod containers;
mod packages;
mod programs;
mod sockets;
mod users;

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::actors::{Held, or_report, stand};
use crate::{boot, scenery, sys};

/// How the names of the parts begin.
pub(crate) const PREFIX: &str = "load-";
/// The parts.
const PARTS: &[&str] = &[
    "load-shells",
    "load-packages",
    "load-service",
    "load-containers",
    "load-users",
    "load-compiler",
    "load-debugger",
    "load-sockets",
    "load-parcels",
    "load-dhcp",
    "load-capture",
];
/// Where packages put programs.
const BIN: &str = "/usr/bin";

/// Starts all of it.
pub(crate) fn start() -> Result<String, String> {
    let prepared =
        std::fs::create_dir_all(BIN).and_then(|()| programs::install()).and_then(|()| users::install());
    prepared.map_err(|error| error.to_string())?;
    let mut failed = Vec::new();
    for name in PARTS {
        let (_, pipe) = scenery::start(name, &[], &[]).map_err(|error| format!("{name}: {error}"))?;
        failed.extend(scenery::wait_ready(name, pipe));
    }
    if failed.is_empty() { Ok(String::new()) } else { Err(failed.join("\n")) }
}

/// Plays the part called `name`.
pub(crate) fn run(name: &str, args: &[String]) -> ! {
    match name {
        "load-shells" => for_ever(300, || {
            boot::shell("ls -l /proc | sort | wc -l; echo $$ | awk '{ print $1 * 2 }' | cat")
        }),
        "load-packages" => for_ever(400, packages::upgrade),
        "load-service" => packages::service(),
        "load-containers" => for_ever(900, containers::once),
        "load-users" => for_ever(700, users::once),
        "load-sudo" => users::become_root(args),
        "load-compiler" => stand(programs::compiler(args)),
        "load-dhcp" => stand(programs::capture("dhclient", args)),
        "load-capture" => stand(programs::capture("tcpdump", args)),
        "load-debugger" => stand(programs::debugger(args)),
        "load-sockets" => for_ever(150, sockets::connections),
        "load-parcels" => for_ever(500, sockets::in_flight),
        _ => stand(Err(io::Error::other("no such part"))),
    }
}

/// Does it again and again, with a pause; says that it stands after the first time.
fn for_ever(pause_ms: u64, mut act: impl FnMut() -> io::Result<()>) -> ! {
    or_report("the first time", act());
    // SAFETY: the descriptor was passed in for this purpose and nothing here owns it.
    unsafe { libc::close(scenery::READY_FD) };
    loop {
        std::thread::sleep(Duration::from_millis(pause_ms));
        // What fails now and then fails on an ordinary system too.
        let _ = act();
    }
}

/// Becomes the installed program `name`.
fn become_program(name: &str, args: &[&str]) -> io::Result<Held> {
    use std::os::unix::process::CommandExt;
    let path = Path::new(BIN).join(name);
    Err(std::process::Command::new(path).arg0(name).args(args).exec())
}

/// Runs `act` in a child, and waits for it.
fn in_child(act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if sys::fork()? == 0 {
        // SAFETY: the copy of a descriptor that only the parent reports on.
        unsafe { libc::close(scenery::READY_FD) };
        sys::exit_now(i32::from(act().is_err()));
    }
    sys::reap(true);
    Ok(())
}
