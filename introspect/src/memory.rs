//! The one trait through which guest RAM is reached.

use crate::{Gfn, Gpa, GpaRange};
use std::sync::Arc;

/// [`GuestMemory::step_bytes`] where a read takes a system call.
pub(crate) const STEP_BYTES: usize = 64 << 10;

/// Copies guest RAM out. Never lends it: the guest may be writing.
///
/// Not `Sync`, so that a look may record what it reads; backends are, see [`SharedMemory`].
pub trait GuestMemory {
    /// Fills `buf` from guest-physical `at`. All of it or an error; never a part.
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError>;

    /// The same for bytes that are read once, such as a pass over all of RAM: a backend may take a way that keeps nothing mapped.
    fn read_once(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read(at, buf)
    }

    /// How many neighbouring bytes to ask for at a time of what is read once: a page where that is a copy out of a mapping, because what
    /// is then done to it finds it in the processor's first cache; more where it takes a system call.
    fn step_bytes(&self) -> usize {
        4096
    }

    /// Where RAM is: ascending, not overlapping, not touching.
    fn ram(&self) -> &[GpaRange];

    /// The guest frame that a page-table entry names. The same number everywhere but on Xen PV, whose page tables
    /// hold machine frames; `None` where the guest owns no such frame.
    fn frame_of_entry(&self, entry_frame: u64) -> Option<Gfn> {
        Some(Gfn(entry_frame))
    }

    /// Whether what is read can change between two reads. A dump says [`Stability::Frozen`].
    fn stability(&self) -> Stability {
        Stability::Moving
    }
}

/// Whether guest memory can change while it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stability {
    /// Never: a dump. A look needs no check.
    Frozen,
    /// At any time, between any two reads and in the middle of one.
    Moving,
}

/// A backend that many looks share.
pub type SharedMemory = Arc<dyn GuestMemory + Send + Sync>;

/// Why guest RAM could not be copied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// No RAM there: a hole, a device, or past the end.
    #[error("{len_bytes} bytes at guest-physical {at}: not RAM")]
    NotRam {
        /// First address asked for.
        at: Gpa,
        /// Length asked for.
        len_bytes: u64,
    },
    /// RAM by the layout, but its content is not to be had (excluded from a dump, ballooned, granted away).
    #[error("guest-physical {at}: the page is not in the image")]
    Absent {
        /// The page.
        at: Gpa,
    },
    /// The source's own data is corrupt at that page.
    #[error("guest-physical {at}: {why}")]
    Corrupt {
        /// The page.
        at: Gpa,
        /// What is wrong with it.
        why: String,
    },
    /// The guest is gone, or the host refused.
    #[error("guest-physical {at}: {why}")]
    Lost {
        /// First address asked for.
        at: Gpa,
        /// The host's answer.
        why: String,
    },
    /// The look may not read on: its memory or its time is used up (see [`crate::observe`]).
    #[error("guest-physical {at}: {why}")]
    Exhausted {
        /// First address asked for.
        at: Gpa,
        /// What is used up.
        why: &'static str,
    },
}

/// Total RAM in bytes.
pub fn ram_bytes(memory: &dyn GuestMemory) -> u64 {
    memory.ram().iter().fold(0, |sum, range| sum.saturating_add(range.len_bytes))
}
