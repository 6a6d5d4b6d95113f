//! Mapped parts of a domain, a bounded number of them, the least recently used going first.
//!
//! A mapping holds on to the frames that it was made of, also when the guest gives them back and gets others in their place.
//! Windows are therefore mapped anew when they are [`MAX_AGE`] old.

use super::privcmd::Window;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Frames in a window: what privcmd maps well in one go.
pub(super) const WINDOW_FRAMES: u64 = 1024;
/// Windows held: 64 MiB.
const MAX_WINDOWS: usize = 16;
/// How long a look may go on with frames that the guest has given back.
const MAX_AGE: Duration = Duration::from_secs(1);

/// A mapped part.
pub(super) struct Part {
    window: Box<dyn Window>,
    /// Which frame of the window a guest frame is; `NONE` where the domain has none.
    slots: Vec<u16>,
    made: Instant,
}

const NONE: u16 = u16::MAX;

/// Why a frame cannot be copied.
pub(super) enum Missing {
    /// The domain has no such frame.
    NotRam,
    /// It had when it was opened.
    Absent,
}

impl Part {
    /// `frames` are what Xen knows the part's guest frames by.
    pub(super) fn new(
        frames: impl Iterator<Item = Option<u64>>,
        map: impl FnOnce(&[u64]) -> io::Result<Box<dyn Window>>,
    ) -> io::Result<Part> {
        let mut wanted = Vec::new();
        let slots = frames.map(|frame| {
            wanted.extend(frame);
            frame.map_or(NONE, |_| u16::try_from(wanted.len() - 1).unwrap_or(NONE))
        });
        let slots = slots.collect();
        Ok(Part { window: map(&wanted)?, slots, made: Instant::now() })
    }

    pub(super) fn copy_out(&self, index: u64, offset: usize, buf: &mut [u8]) -> Result<(), Missing> {
        let slot = usize::try_from(index).ok().and_then(|index| self.slots.get(index));
        let slot = slot.copied().filter(|slot| *slot != NONE).ok_or(Missing::NotRam)?;
        match self.window.error(slot.into()) {
            None => self.window.copy_out(slot.into(), offset, buf),
            Some(_) => return Err(Missing::Absent),
        }
        Ok(())
    }
}

/// The parts that are mapped now, the last used first.
#[derive(Default)]
pub(super) struct Windows {
    parts: Mutex<VecDeque<(u64, Arc<Part>)>>,
    made: AtomicU64,
}

impl Windows {
    /// The part of that number, by `make` unless it is mapped and young. Where that fails, all of them are let go of: the domain
    /// may be gone, and Xen cannot free what is mapped.
    pub(super) fn get(&self, number: u64, make: impl FnOnce() -> io::Result<Part>) -> io::Result<Arc<Part>> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            parts.iter().position(|(known, _)| *known == number).and_then(|index| parts.remove(index));
        let part = match known.filter(|(_, part)| part.made.elapsed() < MAX_AGE) {
            Some((_, part)) => part,
            None => {
                // Room first: the bound holds at any time. What was old is unmapped by now: a destroyed domain's frame that
                // somebody still holds could be mapped again.
                parts.truncate(MAX_WINDOWS - 1);
                self.made.fetch_add(1, Ordering::Relaxed);
                make().map(Arc::new).inspect_err(|_| parts.clear())?
            }
        };
        parts.push_front((number, part.clone()));
        Ok(part)
    }

    /// How many windows were mapped so far, or tried.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}
