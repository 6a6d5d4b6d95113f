//! An ordinary busy system: the guest's own load (`lab/guest/src/load`), and real programs of Debian's beside it.
//!
//! A Python that runs threads, children and callbacks, a LuaJIT that compiles all the time, a grep whose expressions are compiled,
//! a Perl. Whatever a detector says of such a guest is a false alarm.

use crate::Guest;
use crate::luggage::Luggage;
use crate::packages;
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};

/// What the Python script imports.
const IMPORTS: &str = "ctypes, hashlib, json, mmap, os, socket, subprocess, tempfile, threading, time";
/// What runs from beginning to end, as `ps` names it.
const PARTS: [&str; 11] = [
    "node server.js",
    "strace",
    "dhclient",
    "tcpdump",
    "load-containers",
    "load-packages",
    "load-users",
    "python3 ",
    "luajit ",
    "load-grep",
    "perl ",
];

/// What such a guest brings along.
///
/// # Errors
/// A program that is missing here.
pub fn luggage() -> Result<Luggage> {
    packages::ensure(&[packages::COMPILER])?;
    let programs = ["/usr/bin/luajit", "/usr/bin/grep", "/usr/bin/perl"].map(PathBuf::from).to_vec();
    let mut luggage =
        Luggage { programs, files: vec![script("python.py"), script("compiler.lua")], modules: Vec::new() };
    luggage.python(IMPORTS)?;
    Ok(luggage)
}

/// Makes a guest with that luggage busy, for ever.
///
/// # Errors
/// A part that does not start.
pub fn start(guest: &Guest) -> Result<()> {
    guest.busy()?;
    for program in [
        format!("/usr/bin/python3 {}", script("python.py").display()),
        format!("/usr/bin/luajit {}", script("compiler.lua").display()),
        "sh -c 'while /usr/bin/grep -rqP \"(a|b)+[[:alpha:]]{3}$\" /proc/kallsyms; do sleep 0.5; done' load-grep".to_owned(),
        "/usr/bin/perl -e 'while (1) { my %seen; $seen{$_ % 97}++ for 1 .. 9999; select undef, undef, undef, 0.3; }'".to_owned(),
    ] {
        guest.run(&format!("{program} >/run/load.log 2>&1 </dev/null &"))?;
    }
    guest.run("sleep 3")?;
    still_runs(guest)
}

/// All of it still runs.
///
/// # Errors
/// A part that does not.
pub fn still_runs(guest: &Guest) -> Result<()> {
    let running = guest.run("ps")?;
    for part in PARTS {
        ensure!(
            running.contains(part),
            "{part} does not run: {running}\n{}",
            guest.run("cat /run/load.log")?
        );
    }
    Ok(())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("load").join(name)
}
