//! What runs inside a lab guest: PID 1, the scenery it plants, and the capture of the truth.
//!
//! One static binary plays every part, chosen by the base name of `argv[0]`: `init` boots the guest and serves
//! the host on the second serial port ([`serve`]); each other name is an actor of the scenery ([`actors`]) that
//! sets up something distinctive and then sleeps for ever, so that what the guest's own `/proc` says about it
//! (captured by [`capture`]) can be compared with what introspection finds from outside; and some names are harmless attacks
//! ([`attacks`]), started when the host asks for them.
//!
//! It trusts the lab's host side. It never runs outside a lab guest: PID 1 powers the machine off.

#![allow(unsafe_code)] // Development only; every use of `unsafe` is a system call and says why it holds.

mod actors;
mod attacks;
mod boot;
mod bpf;
mod capture;
mod load;
mod scenery;
mod serve;
mod shared;
mod storm;
mod sys;

use std::env;
use std::path::Path;

fn main() {
    let args: Vec<String> = env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let name = args
        .first()
        .and_then(|path| Path::new(path).file_name())
        .map(|name| name.to_string_lossy().into_owned());
    match name.as_deref() {
        Some("init") if std::process::id() == 1 => init(),
        Some("lynceus-lab-serve") => serve_only(),
        Some(name) if name.starts_with(attacks::PREFIX) => {
            attacks::run(name, args.get(1..).unwrap_or_default())
        }
        Some(name) if name.starts_with(load::PREFIX) => load::run(name, args.get(1..).unwrap_or_default()),
        // Installed under the name of what they play.
        Some("node") => load::run("load-compiler", args.get(1..).unwrap_or_default()),
        Some("strace") => load::run("load-debugger", args.get(1..).unwrap_or_default()),
        Some("dhclient") => load::run("load-dhcp", args.get(1..).unwrap_or_default()),
        Some("tcpdump") => load::run("load-capture", args.get(1..).unwrap_or_default()),
        Some(name) => actors::run(name, args.get(1..).unwrap_or_default()),
        None => {}
    }
}

/// A service of somebody else's system: only serves.
fn serve_only() {
    if let Err(error) = serve::serve(&[]) {
        println!("lab: serial port: {error}");
    }
}

/// PID 1: boots, plants, and serves until `QUIT`. Every failure is a note in the truth, not an exit.
fn init() {
    let mut notes = Vec::new();
    boot::prepare(&mut notes);
    scenery::plant(&mut notes);
    for note in &notes {
        println!("lab: {note}");
    }
    if let Err(error) = serve::serve(&notes) {
        println!("lab: serial port: {error}");
    }
    sys::power_off();
}
