//! What speaks for a candidate, and what against it.

use std::fmt;

/// One check of a candidate. The checks read different memory, so that a forger has to forge all of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Check {
    /// `linux_banner` holds a banner.
    Banner,
    /// `phys_base` gives a plausible place for `_text`.
    PhysBase,
    /// The slide by `phys_base` and the slide by kallsyms are the same.
    SlidesAgree,
    /// `init_top_pgt` maps `_text`, the banner, `init_task` and `phys_base` to where they lie.
    PageTables,
    /// `init_task.comm` is `swapper`.
    InitTask,
    /// `init_task` is on a well-formed task list with other tasks on it.
    TaskList,
    /// `init_uts_ns` names the banner's release.
    Release,
    /// The kernel's direct map leads back to the kernel.
    DirectMap,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Check::Banner => "banner where the symbol says",
            Check::PhysBase => "phys_base is plausible",
            Check::SlidesAgree => "two sources agree on the slide",
            Check::PageTables => "page tables map the kernel to where it lies",
            Check::InitTask => "init_task is called swapper",
            Check::TaskList => "a well-formed task list",
            Check::Release => "init_uts_ns names the banner's release",
            Check::DirectMap => "the direct map leads back to the kernel",
        })
    }
}

/// Checks that were made.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Evidence {
    /// What holds.
    pub passed: Vec<Check>,
    /// What does not.
    pub failed: Vec<Check>,
}

impl Evidence {
    /// Records the outcome of a check.
    pub fn note(&mut self, check: Check, holds: bool) {
        if holds { &mut self.passed } else { &mut self.failed }.push(check);
    }

    /// Whether everything that an attach needs holds.
    pub fn suffices(&self) -> bool {
        [Check::Banner, Check::PhysBase, Check::PageTables].iter().all(|check| self.passed.contains(check))
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |checks: &[Check]| checks.iter().map(Check::to_string).collect::<Vec<_>>().join(", ");
        match (self.passed.is_empty(), self.failed.is_empty()) {
            (_, true) => f.write_str(&list(&self.passed)),
            (true, false) => write!(f, "but not: {}", list(&self.failed)),
            (false, false) => write!(f, "{}; but not: {}", list(&self.passed), list(&self.failed)),
        }
    }
}
