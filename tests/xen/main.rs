//! Everything that works on QEMU guests works on Xen's domains: real Xen, a service domain, PV and PVH guests.
//!
//! `lynceus_lab::xen` boots Xen and brings this very test program along: as PID 1 of the service domain it runs the test that is named here
//! as ignored (`dom0.rs`). Its log is kept, and shown on failure.

#![allow(unsafe_code)] // Every use is a system call in the service domain and says why it holds.

mod appliance;
mod checks;
mod dom0;
mod guest;
mod measure;
mod toolstack;
mod upheaval;

use anyhow::Result;
use lynceus_lab::KernelVersion;
use lynceus_lab::xen::{self, Kind, Programs};
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

#[test]
fn pv_and_pvh_guests_from_a_service_domain() -> Result<()> {
    xen::run_all(&programs()?, &xen::MATRIX)
}

#[test]
#[ignore = "what `cargo xtask bench` measures on Xen: a part of the test above"]
fn a_pvh_guest_from_a_service_domain() -> Result<()> {
    xen::run_all(&programs()?, &[(Kind::Pvh, KernelVersion::V6_1)])
}

#[test]
#[ignore = "runs in the service domain that the tests above boot, and powers it off"]
fn in_the_service_domain() -> Result<()> {
    dom0::main()
}
