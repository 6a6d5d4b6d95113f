//! Evidence: the few pages of a guest that show a finding, kept in a small file, so that anybody can see the finding again with
//! no VM.
//!
//! *Does*: looks again through memory that remembers what is read, leaves out what the finding does not need, and writes the
//! rest with what it takes to read it: which kernel, where it lies, which page tables. Every line carries a digest of itself and
//! of all lines before it.
//! *Trusts*: nothing in a file: it has limits, and what it claims is found again or it is not.
//! *Never*: writes evidence that does not show its finding when it is read back.

mod file;
mod memory;

pub use file::EvidenceError;

use crate::integrity::processors;
use crate::signatures::{self, Keeper, Region, Rules};
use crate::{DETECTORS, Detector, Finding};
use lynceus_introspect::linux::{Kernel, Layouts, LinuxGuest};
use lynceus_introspect::observe::Options;
use lynceus_introspect::paging::{Mode, Root};
use lynceus_introspect::processors::{Processor, Recorded};
use lynceus_introspect::{Gpa, SharedMemory};
use lynceus_profiles::kernel_file::KernelImage;
use lynceus_profiles::module_file::ModuleFolder;
use lynceus_profiles::{Identity, Profile};
pub(crate) use memory::Pages;
use memory::Remembering;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest that pages are left out for; what is left then is kept.
const SHRINKING: Duration = Duration::from_secs(5);

/// What a file says before the pages come.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct About {
    /// Version of the format: 1.
    pub lynceus_evidence: u32,
    /// Version of the program that wrote it.
    pub written_by: String,
    /// The VM.
    pub vm: String,
    /// When it was seen, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// The detector.
    pub detector: String,
    /// The finding.
    pub finding: serde_json::Value,
    /// The kernel, as its banner has it: what its profile is found by.
    pub banner: String,
    /// Its build id.
    pub build_id: Option<String>,
    /// Whether the kernel's own file was compared with, and is needed again.
    pub compared: bool,
    /// Whether the files of its modules were compared with, and are needed again.
    #[serde(default)]
    pub modules: bool,
    /// The region in which a signature matched; for nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// What KASLR added to the kernel's addresses.
    pub slide: u64,
    /// Guest-physical address of its text.
    pub text: u64,
    /// Guest-physical address of its page tables.
    pub root: u64,
    /// The registers of its processors, where they are what was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processors: Vec<Processor>,
    /// Levels of its page tables: 4 or 5.
    pub levels: u8,
    /// The guest's RAM: start and length of each part.
    pub ram: Vec<(u64, u64)>,
    /// Pages that follow.
    pub pages: usize,
    /// Entries of page tables that name other frames than their number says, as a Xen PV guest's do.
    pub frames: Vec<(u64, u64)>,
}

/// What a guest is compared with: files that are trusted.
#[derive(Clone, Default)]
pub struct Compared {
    /// Its kernel's.
    pub image: Option<Arc<KernelImage>>,
    /// Those of its modules.
    pub modules: Option<Arc<ModuleFolder>>,
}

/// A finding with what shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Evidence {
    /// What it is about.
    pub about: About,
    pages: Pages,
}

/// Collects the evidence of a finding; none where the guest does not show it any more.
pub fn collect(guest: &LinuxGuest, vm: &str, time_ms: u64, finding: &Finding) -> Option<Evidence> {
    let detector = DETECTORS.iter().find(|detector| detector.name == finding.detector)?;
    let memory = Arc::new(Remembering::new(guest.memory().clone()));
    let compared = Compared { image: guest.image().cloned(), modules: guest.module_files().cloned() };
    let processors = match detector.name == processors::DETECTOR.name {
        true => guest.processors()?.processors().ok()?,
        false => Vec::new(),
    };
    let again = look(detector, memory.clone(), guest.kernel(), &processors, &compared);
    let finding = again.iter().find(|found| found.subject == finding.subject)?;
    let mut pages = memory.pages();
    let shows = |pages: &Pages| {
        let found = look(detector, Arc::new(pages.clone()), guest.kernel(), &processors, &compared);
        found.contains(finding)
    };
    if !shows(&pages) {
        return None;
    }
    shrink(&mut pages, shows);
    let compared = (compared.image.is_some(), compared.modules.is_some() && detector.name == "module_text");
    let about = about(guest, vm, time_ms, finding, &pages)?;
    Some(Evidence { about: About { compared: compared.0, modules: compared.1, processors, ..about }, pages })
}

/// The evidence of a signature's match, from what was kept while the guest was scanned; none where it was too much.
pub fn of_match(
    guest: &LinuxGuest,
    vm: &str,
    time_ms: u64,
    finding: &Finding,
    keeper: &Keeper,
) -> Option<Evidence> {
    let kept = keeper.kept(finding)?;
    let about = about(guest, vm, time_ms, finding, &kept.pages)?;
    Some(Evidence { about: About { region: Some(kept.region), ..about }, pages: kept.pages })
}

fn about(guest: &LinuxGuest, vm: &str, time_ms: u64, finding: &Finding, pages: &Pages) -> Option<About> {
    let kernel = guest.kernel();
    let identity = &kernel.profile.identity;
    Some(About {
        lynceus_evidence: 1,
        written_by: env!("CARGO_PKG_VERSION").to_owned(),
        vm: vm.to_owned(),
        time_ms,
        detector: finding.detector.to_string(),
        finding: serde_json::to_value(finding).ok()?,
        banner: identity.banner.clone(),
        build_id: identity.build_id.map(|id| id.to_string()),
        compared: false,
        modules: false,
        region: None,
        slide: kernel.slide,
        text: kernel.text.0,
        root: kernel.root.table.0,
        processors: Vec::new(),
        levels: if kernel.root.mode == Mode::FiveLevel { 5 } else { 4 },
        ram: pages.ram.iter().map(|range| (range.start.0, range.len_bytes)).collect(),
        pages: pages.pages.len(),
        frames: pages.frames.iter().map(|(entry, frame)| (*entry, *frame)).collect(),
    })
}

/// What evidence shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replayed {
    /// The same finding.
    Same(Box<Finding>),
    /// Others of the same detector, or none.
    Other(Vec<Finding>),
}

impl Evidence {
    /// Whether a profile is of the kernel that the evidence is from.
    pub fn is_from(&self, identity: &Identity) -> bool {
        match (&self.about.build_id, identity.build_id) {
            (Some(ours), Some(theirs)) => *ours == theirs.to_string(),
            _ => self.about.banner == identity.banner,
        }
    }

    /// Whether it is of a signature's match, which takes the rules and no kernel to see again.
    pub fn is_of_match(&self) -> bool {
        self.about.region.is_some()
    }

    /// Whether these are, to the byte, the rules that matched.
    pub fn is_by(&self, rules: &Rules) -> bool {
        self.about.region.as_ref().is_some_and(|region| region.rules == rules.text_digest())
    }

    /// Scans what was kept again.
    pub fn replay_match(&self, rules: &Rules) -> Result<Replayed, EvidenceError> {
        let region = self.about.region.as_ref().ok_or(EvidenceError::NoMatch)?;
        let wrong = |why: String| EvidenceError::Line { line: 1, why };
        let wanted: Finding =
            serde_json::from_value(self.about.finding.clone()).map_err(|error| wrong(error.to_string()))?;
        let found = signatures::rescan(region, wanted.subject.clone(), &self.pages, rules)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(match found.iter().any(|found| signatures::is_same(found, &wanted)) {
            true => Replayed::Same(Box::new(wanted)),
            false => Replayed::Other(found),
        })
    }

    /// Looks for the finding again, with a profile of that kernel, and the files that it was compared with.
    pub fn replay(&self, profile: Arc<Profile>, compared: &Compared) -> Result<Replayed, EvidenceError> {
        let named = |detector: &&Detector| detector.name == self.about.detector;
        let detector = DETECTORS.iter().find(named);
        let detector = detector.ok_or_else(|| EvidenceError::Detector(self.about.detector.clone()))?;
        let mode = match self.about.levels {
            4 => Mode::FourLevel,
            5 => Mode::FiveLevel,
            _ => {
                return Err(EvidenceError::Line {
                    line: 1,
                    why: "neither 4 nor 5 levels of page tables".to_owned(),
                });
            }
        };
        let kernel = Kernel {
            slide: self.about.slide,
            text: Gpa(self.about.text),
            root: Root { table: Gpa(self.about.root), mode },
            layouts: Layouts::resolve(&profile),
            profile,
        };
        let mut found =
            look(detector, Arc::new(self.pages.clone()), &kernel, &self.about.processors, compared);
        let is_it =
            |found: &Finding| serde_json::to_value(found).is_ok_and(|value| value == self.about.finding);
        Ok(match found.iter().position(is_it) {
            Some(index) => Replayed::Same(Box::new(found.swap_remove(index))),
            None => Replayed::Other(found),
        })
    }
}

fn look(
    detector: &Detector,
    memory: SharedMemory,
    kernel: &Kernel,
    processors: &[Processor],
    compared: &Compared,
) -> Vec<Finding> {
    let mut guest = LinuxGuest::new(memory, kernel.clone());
    if !processors.is_empty() {
        guest = guest.with_processors(Arc::new(Recorded(processors.to_vec())));
    }
    if let Some(image) = &compared.image {
        // It was compared with this very kernel's file; another one's shows nothing.
        let _ = guest.set_image(image.clone());
    }
    if let Some(modules) = &compared.modules {
        guest.set_module_files(modules.clone());
    }
    (detector.run)(&guest, &Options::default()).items
}

/// Leaves out pages as long as the rest still `shows` what it should: halves first, then smaller and smaller parts
/// (Zeller's delta debugging).
fn shrink(pages: &mut Pages, shows: impl Fn(&Pages) -> bool) {
    let started = Instant::now();
    let mut parts = 2;
    while pages.pages.len() >= parts {
        let frames: Vec<u64> = pages.pages.keys().copied().collect();
        let mut less = false;
        for part in frames.chunks(frames.len().div_ceil(parts)) {
            if started.elapsed() > SHRINKING {
                return;
            }
            let mut without = pages.clone();
            part.iter().for_each(|frame| drop(without.pages.remove(frame)));
            if shows(&without) {
                *pages = without;
                less = true;
            }
        }
        match less {
            // What was left out may have been what other pages were needed for.
            true => parts = (parts / 2).max(2),
            false if parts >= pages.pages.len() => break,
            false => parts = (parts * 2).min(pages.pages.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_is_left_out() {
        let mut pages = Pages::default();
        for frame in 0..1000 {
            pages.pages.insert(frame, Box::new([0; 4096]));
        }
        let needed = [3, 500, 501, 999];
        shrink(&mut pages, |pages| needed.iter().all(|frame| pages.pages.contains_key(frame)));
        assert_eq!(pages.pages.keys().copied().collect::<Vec<_>>(), needed);
    }
}
