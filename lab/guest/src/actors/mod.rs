//! The actors of the scenery: each sets up one distinctive thing, reports, and sleeps for ever.
//!
//! An actor returns what it must keep alive; what it cannot plant it reports with [`report`].

mod container;
mod files;
mod maps;
mod net;
pub(crate) mod people;

use std::any::Any;
use std::io;

use crate::scenery::READY_FD;
use crate::{storm, sys};

/// What an actor holds open while it sleeps.
pub(crate) type Held = Box<dyn Any>;

/// Plays the part called `name`. Unknown names (such as `intruder`) just sleep.
pub(crate) fn run(name: &str, args: &[String]) -> ! {
    stand(match name {
        "lab-user" => people::user(),
        "lab-session" => people::session(args),
        "lab-caps" => people::caps(),
        "lab-threads" => people::threads(),
        "lab-zombie" => people::zombie(),
        "lab-undead" => sys::exit_now(7),
        "lab-deleted" => people::deleted(args),
        "lab-upgraded" => people::upgraded(args),
        "lab-memfd" => people::memfd(args),
        "lab-long" => people::long(),
        "lab-title" => people::title(),
        "lab-userns" => people::user_namespace(),
        "lab-chroot" => people::chrooted(),
        "lab-rwx" => maps::rwx(),
        "lab-maps" => maps::many(),
        "lab-net" => net::sockets(),
        "lab-bpf" => net::filtered(),
        "lab-files" => files::open_many(),
        "lab-runtime" => container::runtime(),
        "lab-container" => container::container(args),
        "lab-storm" => storm::rage(args.first().and_then(|text| text.parse().ok()).unwrap_or(10)),
        _ => Ok(Box::new(()) as Held),
    })
}

/// Says that this actor stands, or what failed, and sleeps with what it holds.
pub(crate) fn stand(held: io::Result<Held>) -> ! {
    let _held = held.map_err(|error| report(&format!("failed: {error}")));
    // SAFETY: the descriptor was passed in for this purpose and nothing here owns it.
    unsafe { libc::close(READY_FD) };
    sys::sleep_for_ever()
}

/// Tells PID 1 about something that could not be planted.
pub(crate) fn report(text: &str) {
    let line = format!("{text}\n");
    // SAFETY: pointer and length of one live string. If the descriptor is gone the line is lost, no more.
    unsafe { libc::write(READY_FD, line.as_ptr().cast(), line.len()) };
}

/// Keeps a result's value; its error becomes a report.
pub(crate) fn or_report<T>(what: &str, result: io::Result<T>) -> Option<T> {
    result.map_err(|error| report(&format!("{what}: {error}"))).ok()
}
