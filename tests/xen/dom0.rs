//! All that the lab's Xen service domain does: starts the toolstack and guests, then looks into them as the appliance would.
//!
//! It runs real Xen, real privcmd and real guests; what it prints is read by `lynceus_lab::xen`, which wants `LAB PASS`.
//! Never runs anywhere else: it powers the machine off.

use crate::guest::Guest;
use crate::{appliance, checks, measure, network, toolstack, upheaval};
use anyhow::{Result, ensure};
use lynceus_lab::{NotReady, xen};
use std::collections::BTreeSet;
use std::thread;

/// So often a guest may be lost to the emulator: it may hang before it is ready, and emulated SVM now and then ends a PVH guest in a triple fault. The registers that Xen then
/// shows stand right behind VMMCALL or are Xen's own, in the guest's place: what went wrong is the change between the two. A real
/// processor does not do that, and nobody here writes into a guest. More often than this, and it is our failure.
const LOSSES: usize = 6;

pub(crate) fn main() -> Result<()> {
    ensure!(std::process::id() == 1, "this runs in the lab's service domain and nowhere else");
    thread::spawn(|| {
        loop {
            println!("{}", xen::BEAT);
            thread::sleep(xen::BEAT_EVERY);
        }
    });
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
        let (mut lost, mut passed) = (0, 0);
        while let Err(error) = all_of(&name, kind, kernel, first, &mut passed, &mut follower) {
            lost += 1;
            if lost > LOSSES || !toolstack::lost_to_the_emulator(error.is::<NotReady>())? {
                return Err(error);
            }
            println!(
                "LAB {name}: LOST TO THE EMULATOR for the {lost}. time (a triple fault, or never ready), another one goes on after {passed} checks: {error:#}"
            );
        }
    }
    follower.finish()
}

/// Something that is asked of a guest.
type Check = fn(&Guest) -> Result<()>;

/// Asked of the first guest of each kind.
const CHECKS: &[Check] = &[
    checks::equals_its_truth,
    checks::a_dumped_core_is_the_same,
    checks::finds_nothing_in_a_clean_guest,
    checks::finds_attacks,
    checks::finds_a_planted_signature,
];

/// Asked of it afterwards, while a task and a module hide.
const CHECKS_OF_HIDING: &[Check] = &[
    checks::pauses_and_resumes,
    checks::the_restricted_handle_is_refused,
    checks::nobody_reads_with_an_inherited_handle,
    checks::the_command_line,
    appliance::watches,
    measure::a_warm_list_asks_nothing,
    measure::beside_the_library,
];

/// All that is asked of a guest, from its creation to its end, but what it `passed` already before it was lost.
fn all_of(
    name: &str,
    kind: &str,
    kernel: &str,
    first: bool,
    passed: &mut usize,
    follower: &mut checks::Follower,
) -> Result<()> {
    let guest = Guest::create(name, kind, kernel)?;
    follower.created(&guest);
    if !first {
        checks::equals_its_truth(&guest)?;
        checks::its_kernel_is_its_files(&guest)?;
        return upheaval::a_destroyed_domain_is_gone(guest);
    }
    let mut ask = |all: &[Check], before: usize| -> Result<()> {
        for check in all.iter().skip(passed.saturating_sub(before)) {
            check(&guest)?;
            *passed += 1;
        }
        Ok(())
    };
    ask(CHECKS, 0)?;
    checks::finds_what_hides(&guest)?;
    ask(CHECKS_OF_HIDING, CHECKS.len())?;
    let guest = upheaval::survives_whatever_happens(guest)?;
    upheaval::a_destroyed_domain_is_gone(guest)
}
