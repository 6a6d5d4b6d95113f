//! PID 1 of the lab's Xen service domain: starts the toolstack and guests, then looks into them as the appliance would.
//!
//! It runs real Xen, real privcmd and real guests; what it prints is read by `lynceus_lab::xen`, which wants `LAB PASS`.
//! Never runs anywhere else: it powers the machine off.

#![allow(unsafe_code)] // Development only; every use is a system call and says why it holds.

mod checks;
mod guest;
mod measure;
mod toolstack;
mod upheaval;

use anyhow::{Result, ensure};
use std::collections::BTreeSet;

fn main() {
    if std::process::id() != 1 {
        return;
    }
    match run() {
        Ok(()) => println!("LAB PASS"),
        Err(error) => {
            println!("LAB FAILED: {error:#}");
            toolstack::post_mortem();
        }
    }
    toolstack::power_off();
}

fn run() -> Result<()> {
    toolstack::start()?;
    let guests = toolstack::plan()?;
    ensure!(!guests.is_empty(), "no guests were planned");
    checks::nothing_yet()?;
    let mut follower = checks::Follower::start()?;
    let mut kinds = BTreeSet::new();
    for (kind, kernel) in guests {
        let guest = guest::Guest::create(&format!("{kind}-{kernel}"), &kind, &kernel)?;
        follower.created(&guest);
        checks::equals_its_truth(&guest)?;
        // What the kernel does not matter for is tried once for each kind.
        if kinds.insert(kind) {
            // Of a PVH domain the toolstack asks for every frame up to 4 GiB, which takes an emulated machine minutes.
            if guest.kind == "pv" {
                checks::a_dumped_core_is_the_same(&guest)?;
            }
            checks::finds_nothing_in_a_clean_guest(&guest)?;
            checks::finds_attacks(&guest)?;
            checks::finds_a_planted_signature(&guest)?;
            checks::finds_what_hides(&guest)?;
            checks::pauses_and_resumes(&guest)?;
            checks::the_restricted_handle_is_refused(&guest)?;
            checks::nobody_reads_with_an_inherited_handle(&guest)?;
            checks::the_command_line(&guest)?;
            measure::a_warm_list_asks_nothing(&guest)?;
            if guest.kind == "pvh" {
                measure::beside_the_library(&guest)?;
            }
            let guest = upheaval::survives_whatever_happens(guest)?;
            upheaval::a_destroyed_domain_is_gone(guest)?;
        } else {
            upheaval::a_destroyed_domain_is_gone(guest)?;
        }
    }
    follower.finish()
}
