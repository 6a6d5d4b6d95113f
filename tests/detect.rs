//! Every attack of the lab is found by its detector, on every kernel that it can be done to, and nothing else is found: nothing
//! before, that detector's one finding while it is on, nothing after.

use anyhow::{Context, Result, ensure};
use lynceus_introspect::find::{self, Attached};
use lynceus_introspect::target::Target;
use lynceus_lab::attacks::ATTACKS;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use lynceus_scanners::{DETECTORS, Finding};

fn findings(attached: &Attached) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for detector in DETECTORS {
        let looked = (detector.run)(&attached.guest, &Default::default());
        ensure!(looked.is_complete(), "{}: {:?}", detector.name, looked.gaps);
        found.extend(looked.items);
    }
    Ok(found)
}

fn every_attack_is_found(kernel: KernelVersion, paging: Paging) -> Result<()> {
    let guest = Guest::boot(&Spec { vcpus: 2, ..Spec::everyday(kernel, paging) })?;
    let attached = find::attach_target(&Target::open(&format!("pid:{}", guest.pid()))?, None)?;
    let quiet = |when: &str| -> Result<()> {
        let found = findings(&attached).context(when.to_owned())?;
        ensure!(found.is_empty(), "{when}: {found:#?}");
        Ok(())
    };
    quiet("before any attack")?;
    for attack in ATTACKS.iter().filter(|attack| attack.kernels.contains(&kernel)) {
        guest.attack(attack).context(attack.name)?;
        let found = findings(&attached).context(attack.name)?;
        let detectors: Vec<&str> = found.iter().map(|finding| finding.detector).collect();
        ensure!(detectors == [attack.detector], "{}: {found:#?}", attack.name);
        guest.cease(attack).context(attack.name)?;
        quiet(&format!("after {}", attack.name))?;
    }
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

/// A row of the table that names a detector which does not exist would never be looked at.
#[test]
fn every_attack_names_its_detector() {
    for attack in ATTACKS {
        assert!(DETECTORS.iter().any(|detector| detector.name == attack.detector), "{}", attack.name);
    }
}
