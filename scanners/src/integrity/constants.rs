//! The kernel's constants, every byte of them, against the file that it was booted from.
//!
//! What it sees, and what evades it: [`DETECTOR`].

use super::text::{end_of_change, next_difference, read};
use crate::{Detector, Finding, Limits, Severity, Subject};
use lynceus_introspect::linux::{LinuxGuest, View};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Partial};
use lynceus_profiles::kernel_file::KernelImage;

/// What is known of it.
pub(crate) const DETECTOR: Detector = Detector {
    name: "kernel_constants",
    technique: "T1014",
    about: "read-only data of the kernel that was changed",
    limits: Limits {
        sees: "with the kernel's own file (the VM's -kernel, --kernel, or one that was imported): every byte between __start_rodata and __end_rodata that is not as in the file: tables of system calls and operations, texts, limits",
        evaded_by: "changes to what is read-only only after start (ro_after_init), and to variables",
        false_positives: "none known: the kernel itself does not write there",
    },
    next: "the symbol says what was changed; operation_table and syscall_handler say where a changed function leads",
    run: kernel_constants,
};

/// Most findings of one look.
const MAX_FINDINGS: usize = 256;
/// Bytes that are compared at a time.
const WINDOW: u64 = 1 << 20;
/// Bytes of a change that are told.
const MAX_TOLD: usize = 16;

/// Constants that are not as in the kernel's file. Without a file there is nothing to compare.
pub fn kernel_constants(guest: &LinuxGuest, _: &Options) -> Partial<Finding> {
    guest.image().map_or_else(Partial::default, |image| against_file(&guest.view(), image))
}

fn against_file(view: &View<'_>, image: &KernelImage) -> Partial<Finding> {
    let what = "kernel constants";
    let place_of = |name| image.symbols.address(name);
    let (Some(start), Some(end)) = (place_of("__start_rodata"), place_of("__end_rodata")) else {
        let why = "the kernel's file does not say where its constants are";
        return Partial::unavailable(what, GapReason::Inconsistent(why));
    };
    // What is written once, at start.
    let later =
        (place_of("__start_ro_after_init").unwrap_or(0), place_of("__end_ro_after_init").unwrap_or(0));
    let mut found = Partial::default();
    for section in image.sections().iter().filter(|section| section.start >= start && section.start < end) {
        // Up to what is written at start, and from there on.
        for (from, to) in
            [(section.start, section.end.min(later.0)), (section.start.max(later.1), section.end)]
        {
            let mut from = from;
            while from < to && found.items.len() < MAX_FINDINGS {
                let next = from.saturating_add(WINDOW).min(to);
                piece(view, image, from, next, &mut found);
                from = next;
            }
        }
    }
    found
}

fn piece(view: &View<'_>, image: &KernelImage, start: u64, end: u64, found: &mut Partial<Finding>) {
    let kernel = view.kernel();
    let Some(expected) = image.relocated(start, end, kernel.slide) else {
        let why = "the kernel's file lists no relocations: take the vmlinuz";
        return found.gap("kernel constants", kernel.slid(start), GapReason::Inconsistent(why));
    };
    let there = read(view, kernel.slid(start), &expected, found);
    let mut at = 0;
    while let Some(next) = next_difference(&expected, &there, at) {
        at = end_of_change(&expected, &there, next);
        let address = kernel.slid(start.saturating_add(next as u64));
        if found.items.len() >= MAX_FINDINGS {
            return found.gap("kernel constants", address, GapReason::Limit(MAX_FINDINGS as u64));
        }
        let hex = |bytes: &[u8]| crate::hex(bytes.get(..MAX_TOLD).unwrap_or(bytes));
        let symbol = kernel.place(address);
        let value = hex(&there[next..at]);
        let summary = format!(
            "{} bytes of the constant {symbol} are not as in the kernel's file: {value} instead of {}",
            at - next,
            hex(&expected[next..at])
        );
        let subject = Subject::Kernel { symbol, address: address.0, value };
        found.items.push(DETECTOR.finding(Severity::Critical, summary, subject));
    }
}
