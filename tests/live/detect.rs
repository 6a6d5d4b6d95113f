//! Every attack of the lab is found by its detector, on every kernel that it can be done to, and nothing else is found: nothing
//! before, that detector's one finding while it is on, nothing after. A busy ordinary system gives no finding at all.

use anyhow::{Context, Result, ensure};
use lynceus_lab::attacks::ATTACKS;
use lynceus_lab::{KernelVersion, Paging};
use lynceus_lab_compare::detect;
use lynceus_scanners::DETECTORS;
use std::time::Duration;

fn every_attack_is_found(kernel: KernelVersion, paging: Paging) -> Result<()> {
    let outcomes = detect::under_attack(kernel, paging)?;
    ensure!(!outcomes.is_empty(), "no attack was tried");
    let wrong: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_right()).collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    // Where somebody may end it.
    let pinned =
        outcomes.iter().flat_map(|outcome| &outcome.found).find(|found| found.detector == "bpf_orphan");
    let pinned = &pinned.context("no program that nobody holds")?.summary;
    ensure!(pinned.ends_with("; pinned at \"/sys/fs/bpf/lab/attack\""), "{pinned}");
    Ok(())
}

#[test]
fn on_5_10() -> Result<()> {
    every_attack_is_found(KernelVersion::V5_10, Paging::Four)
}

#[test]
fn on_6_1() -> Result<()> {
    every_attack_is_found(KernelVersion::V6_1, Paging::Five)
}

#[test]
fn on_6_12() -> Result<()> {
    every_attack_is_found(KernelVersion::V6_12, Paging::Four)
}

#[test]
fn on_7_x() -> Result<()> {
    every_attack_is_found(KernelVersion::V7, Paging::Five)
}

/// Longer than this by `cargo xtask detect-matrix --control MINUTES`.
#[test]
fn a_busy_ordinary_system_gives_no_finding() -> Result<()> {
    let control = detect::control(
        KernelVersion::V6_12,
        Duration::from_secs(20),
        Duration::from_millis(500),
        &mut |_| (),
    )?;
    ensure!(control.alarms.is_empty(), "{:#?}", control.alarms);
    ensure!(control.looks > 5, "{control:?}");
    Ok(())
}

/// A row of the table that names a detector which does not exist would never be looked at.
#[test]
fn every_attack_names_its_detector() {
    for attack in ATTACKS {
        assert!(DETECTORS.iter().any(|detector| detector.name == attack.detector), "{}", attack.name);
    }
}

/// Tasks and modules are hidden in `hidden.rs`.
#[test]
fn every_detector_has_an_attack() {
    for detector in
        DETECTORS.iter().filter(|detector| !["hidden_task", "hidden_module"].contains(&detector.name))
    {
        assert!(ATTACKS.iter().any(|attack| attack.detector == detector.name), "{}", detector.name);
    }
}
