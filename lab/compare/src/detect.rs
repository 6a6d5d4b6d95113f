//! The detectors on running guests: under every attack of the lab, and on an ordinary busy system.

use anyhow::{Context, Result, ensure};
use lynceus_introspect::find::{self, Attached};
use lynceus_introspect::observe::Options;
use lynceus_introspect::target::{OpenOptions, Unread};
use lynceus_lab::attacks::{ATTACKS, Attack};
use lynceus_lab::busy;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use lynceus_profiles::kernel_file::KernelImage;
use lynceus_profiles::module_file::ModuleFolder;
use lynceus_scanners::{DETECTORS, Detector, Finding};
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What one attack led to.
#[derive(Debug)]
pub struct Outcome {
    /// The attack.
    pub attack: &'static Attack,
    /// What was found while it was on.
    pub found: Vec<Finding>,
    /// How long all detectors together took to find it.
    pub took: Duration,
    /// Why it could not be done or undone, or what was still found after it.
    pub failed: Option<String>,
}

impl Outcome {
    /// Whether it was done, its detector found it, and nothing found anything else.
    pub fn is_right(&self) -> bool {
        let by = |detector: &str| self.found.iter().filter(|finding| finding.detector == detector).count();
        let also: usize = self.attack.also.iter().map(|detector| by(detector)).sum();
        let own = by(self.attack.detector);
        self.failed.is_none() && own > 0 && own.saturating_add(also) == self.found.len()
    }
}

/// What looks at a busy system led to.
#[derive(Default, Debug)]
pub struct Control {
    /// Looks by all detectors.
    pub looks: u32,
    /// Looks that could not read everything, and the last reason.
    pub with_gaps: (u32, String),
    /// False alarms.
    pub alarms: Vec<Finding>,
    /// The longest look.
    pub longest: Duration,
}

/// Attaches to a running guest of the lab, with its kernel's own file: as an admin's look does, who need not know that there is one.
fn attach(guest: &Guest, kernel: KernelVersion) -> Result<Attached> {
    let target = Unread::open(&format!("pid:{}", guest.pid()), OpenOptions::default())?;
    let image = File::open(target.kernel_file().context("QEMU was told of a kernel")?)?;
    let mut attached = find::attach_target(&target.read()?, None)?;
    attached.guest.set_image(Arc::new(KernelImage::load(BufReader::new(image))?))?;
    let kernel = lynceus_lab::kernels::fetch(kernel)?;
    let files = ModuleFolder::open(&kernel.modules, &kernel.release)?;
    ensure!(!files.is_empty(), "no files of modules");
    attached.guest.set_module_files(Arc::new(files));
    Ok(attached)
}

/// What these detectors find.
///
/// # Errors
/// A detector that could not read everything.
pub fn findings<'d>(
    attached: &Attached,
    detectors: impl IntoIterator<Item = &'d Detector>,
    options: &Options,
) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for detector in detectors {
        let looked = (detector.run)(&attached.guest, options);
        ensure!(looked.is_complete(), "{}: {:?}", detector.name, looked.gaps);
        found.extend(looked.items);
    }
    Ok(found)
}

/// Every attack that can be done to this kernel, one after the other in one guest.
///
/// # Errors
/// A guest that does not boot, or one in which something is found before any attack.
pub fn under_attack(kernel: KernelVersion, paging: Paging) -> Result<Vec<Outcome>> {
    let guest = Guest::boot(&Spec { vcpus: 2, ..Spec::everyday(kernel, paging) })?;
    let attached = attach(&guest, kernel)?;
    let look = || findings(&attached, DETECTORS, &Options::default());
    let quiet = |when: &str| -> Result<()> {
        let found = look().with_context(|| when.to_owned())?;
        ensure!(found.is_empty(), "{when}: {found:#?}");
        Ok(())
    };
    quiet("before any attack")?;
    let mut outcomes = Vec::new();
    for attack in ATTACKS.iter().filter(|attack| attack.kernels.contains(&kernel)) {
        let mut outcome = Outcome { attack, found: Vec::new(), took: Duration::ZERO, failed: None };
        // One that fails must not hide how the others fare.
        let tried = guest.attack(attack).and_then(|()| {
            let started = Instant::now();
            outcome.found = look()?;
            outcome.took = started.elapsed();
            guest.cease(attack)?;
            quiet("afterwards")
        });
        outcome.failed = tried.err().map(|error| format!("{error:#}"));
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// So often a busy system is looked at, however slow the machine.
const FEWEST_LOOKS: u32 = 10;

/// Looks at an ordinary busy system again and again for that long. `tell` hears of alarms and gaps when they come.
///
/// # Errors
/// A guest that does not boot or does not get busy.
pub fn control(
    kernel: KernelVersion,
    lasts: Duration,
    between: Duration,
    tell: &mut dyn FnMut(&str),
) -> Result<Control> {
    let name = format!("control-{kernel}");
    let luggage = Some(busy::luggage()?);
    let spec = Spec { name, vcpus: 2, memory_mib: 512, luggage, ..Spec::everyday(kernel, Paging::Four) };
    let guest = Guest::boot(&spec)?;
    busy::start(&guest)?;
    let attached = attach(&guest, kernel)?;
    let (mut control, started) = (Control::default(), Instant::now());
    while started.elapsed() < lasts || control.looks < FEWEST_LOOKS {
        let look = Instant::now();
        for detector in DETECTORS {
            let looked = (detector.run)(&attached.guest, &Options::default());
            if let Some(gap) = looked.gaps.first() {
                let gap = format!("{}: {gap:?}", detector.name);
                tell(&format!("gap: {gap}"));
                control.with_gaps = (control.with_gaps.0.saturating_add(1), gap);
            }
            looked.items.iter().for_each(|alarm| tell(&format!("false alarm: {alarm:#?}")));
            control.alarms.extend(looked.items);
        }
        control.looks = control.looks.saturating_add(1);
        control.longest = control.longest.max(look.elapsed());
        std::thread::sleep(between);
    }
    // It was busy to the end, and what it was meant to do it did.
    busy::still_runs(&guest)?;
    Ok(control)
}
