//! Every attack of the lab is found by its detector, on every kernel that it can be done to, and nothing else is found: nothing
//! before, that detector's one finding while it is on, nothing after.

use anyhow::{Context, Result, ensure};
use lynceus_introspect::find::{self, Attached};
use lynceus_introspect::target::Target;
use lynceus_lab::attacks::ATTACKS;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use lynceus_profiles::kernel_file::KernelImage;
use lynceus_scanners::{DETECTORS, Finding};
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

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
    let target = Target::open(&format!("pid:{}", guest.pid()))?;
    let mut attached = find::attach_target(&target, None)?;
    // As an admin's look does, who need not know that there is such a file.
    let image = File::open(target.kernel_file().context("QEMU was told of a kernel")?)?;
    attached.guest.set_image(Arc::new(KernelImage::load(BufReader::new(image))?))?;
    let quiet = |when: &str| -> Result<()> {
        let found = findings(&attached).context(when.to_owned())?;
        ensure!(found.is_empty(), "{when}: {found:#?}");
        Ok(())
    };
    quiet("before any attack")?;
    let mut wrong = Vec::new();
    for attack in ATTACKS.iter().filter(|attack| attack.kernels.contains(&kernel)) {
        let tried = guest.attack(attack).and_then(|()| findings(&attached)).and_then(|found| {
            let by = |detector: &str| found.iter().filter(|finding| finding.detector == detector).count();
            let also: usize = attack.also.iter().map(|detector| by(detector)).sum();
            ensure!(by(attack.detector) > 0 && by(attack.detector) + also == found.len(), "{found:#?}");
            guest.cease(attack)?;
            quiet("afterwards")
        });
        // One that failed must not hide how the others fare.
        wrong.extend(tried.err().map(|error| format!("{}: {error:#}", attack.name)));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
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
