//! Everything that works on QEMU guests works on Xen's domains: real Xen, a service domain, PV and PVH guests.
//!
//! `lynceus_lab::xen` boots Xen and brings this very test program along: as PID 1 of the service domain it runs the test that is named here
//! as ignored (`dom0.rs`). Its log is kept, and shown on failure. There are two such machines with one processor each, side by
//! side: dom0 and its guests take turns, and looks are interrupted rather than raced.

#![allow(unsafe_code)] // Every use is a system call in the service domain and says why it holds.

mod appliance;
mod checks;
mod dom0;
mod guest;
mod measure;
mod network;
mod toolstack;
mod upheaval;

use anyhow::{Result, ensure};
use lynceus_lab::KernelVersion;
use lynceus_lab::xen::{self, Kind, Machine, Part, Programs};
use std::path::Path;

/// What runs in the service domain.
fn programs() -> Result<Programs> {
    Ok(Programs {
        init: std::env::current_exe()?,
        test: "in_the_service_domain",
        lynceus: Path::new(env!("CARGO_BIN_EXE_lynceus")).to_owned(),
        foreign: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xen/foreign.c"),
    })
}

/// To try a part alone: `LYNCEUS_XEN_LAB=network cargo test --test xen`; parts are called as [`Part`] is written, commas between them.
const CHOSEN: &str = "LYNCEUS_XEN_LAB";

/// All parts of a machine, or those of them that were chosen.
fn run(machine: &Machine) -> Result<()> {
    let Ok(chosen) = std::env::var(CHOSEN) else { return machine.run(&programs()?, machine.parts) };
    let names: Vec<&str> = chosen.split(',').collect();
    let all: Vec<String> = [xen::PVH, xen::PV].iter().flat_map(|it| it.parts).map(Part::to_string).collect();
    let is_known = names.iter().all(|name| all.iter().any(|part| part == name));
    ensure!(is_known, "{CHOSEN}={chosen}: the parts are {}", all.join(", "));
    let parts: Vec<Part> =
        machine.parts.iter().copied().filter(|part| names.contains(&part.to_string().as_str())).collect();
    if parts.is_empty() {
        println!("{}: no part was chosen: {CHOSEN}={chosen}", machine.name);
        return Ok(());
    }
    machine.run(&programs()?, &parts)
}

#[test]
fn pvh_guests_and_the_network_from_a_service_domain() -> Result<()> {
    run(&xen::PVH)
}

#[test]
fn pv_guests_from_a_service_domain() -> Result<()> {
    run(&xen::PV)
}

#[test]
#[ignore = "what `cargo xtask bench` measures on Xen: a part of the tests above"]
fn a_pvh_guest_from_a_service_domain() -> Result<()> {
    xen::PVH.run(&programs()?, &[Part::Guest(Kind::Pvh, KernelVersion::V6_1)])
}

#[test]
#[ignore = "runs in the service domain that the tests above boot, and powers it off"]
fn in_the_service_domain() -> Result<()> {
    dom0::main()
}
