//! All that the lab's Xen service domain does: starts the toolstack and guests, then looks into them as the appliance would.
//!
//! It runs real Xen, real privcmd and real guests; what it prints is read by `lynceus_lab::xen`, which wants `LAB PASS`.
//! Never runs anywhere else: it powers the machine off.

use crate::{appliance, checks, guest, measure, network, toolstack, upheaval};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;

/// So often a guest may be lost to the emulator: emulated SVM now and then ends a PVH guest in a triple fault. The registers that Xen then
/// shows stand right behind VMMCALL or are Xen's own, in the guest's place: what went wrong is the change between the two. A real
/// processor does not do that, and nobody here writes into a guest. More often than this, and it is our failure.
const LOSSES: usize = 4;

pub(crate) fn main() -> Result<()> {
    ensure!(std::process::id() == 1, "this runs in the lab's service domain and nowhere else");
    match run() {
        Ok(()) => println!("LAB PASS"),
        Err(error) => {
            println!("LAB FAILED: {error:#}");
            toolstack::post_mortem();
        }
    }
    toolstack::power_off()
}

fn run() -> Result<()> {
    toolstack::start()?;
    let parts = toolstack::plan()?;
    ensure!(!parts.is_empty(), "nothing was planned");
    checks::nothing_yet()?;
    let mut follower = checks::Follower::start()?;
    let mut kinds = BTreeSet::new();
    for name in parts {
        let Some((kind, kernel)) = name.split_once('-') else {
            network::is_guarded(&mut follower)?;
            continue;
        };
        // What the kernel does not matter for is tried once for each kind.
        let first = kinds.insert(kind.to_owned());
        let mut lost = 0;
        while let Err(error) = all_of(&name, kind, kernel, first, &mut follower) {
            lost += 1;
            if lost > LOSSES || !toolstack::lost_to_the_emulator()? {
                return Err(error);
            }
            println!(
                "LAB {name}: LOST TO THE EMULATOR for the {lost}. time (a triple fault), from its start again: {error:#}"
            );
        }
    }
    follower.finish()
}

/// All that is asked of a guest, from its creation to its end.
fn all_of(name: &str, kind: &str, kernel: &str, first: bool, follower: &mut checks::Follower) -> Result<()> {
    let guest = guest::Guest::create(name, kind, kernel)?;
    follower.created(&guest);
    checks::equals_its_truth(&guest)?;
    if !first {
        checks::its_kernel_is_its_files(&guest)?;
        return upheaval::a_destroyed_domain_is_gone(guest);
    }
    // Of a PVH domain the toolstack asks for every frame up to 4 GiB, which takes an emulated machine minutes.
    if kind == "pv" {
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
    appliance::watches(&guest)?;
    measure::a_warm_list_asks_nothing(&guest)?;
    if kind == "pvh" {
        measure::beside_the_library(&guest)?;
    }
    let guest = upheaval::survives_whatever_happens(guest)?;
    upheaval::a_destroyed_domain_is_gone(guest)
}
