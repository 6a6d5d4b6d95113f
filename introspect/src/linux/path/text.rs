//! A path while it is built, and what keeps the way up from going round in circles.

use crate::GapReason;

/// Longest path returned; the kernel itself gives up at one page.
const MAX_PATH_BYTES: usize = 16 << 10;
/// Most directories and mounts on the way to a root.
const MAX_STEPS: u64 = 8 << 10;

/// A path under construction, kept backwards: the walk goes from leaf to root.
#[derive(Default)]
pub(super) struct Text(Vec<u8>);

impl Text {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(super) fn prepend(&mut self, name: &[u8]) -> Result<(), GapReason> {
        if self.0.len().saturating_add(name.len()) >= MAX_PATH_BYTES {
            return Err(GapReason::Limit(MAX_PATH_BYTES as u64));
        }
        self.0.extend(name.iter().rev());
        self.0.push(b'/');
        Ok(())
    }
    /// The text behind the path of the folder that it begins in.
    pub(super) fn behind(self, folder: String) -> Result<String, GapReason> {
        if self.0.len().saturating_add(folder.len()) >= MAX_PATH_BYTES {
            return Err(GapReason::Limit(MAX_PATH_BYTES as u64));
        }
        Ok(folder + &self.finish(""))
    }
    pub(super) fn finish(mut self, suffix: &str) -> String {
        self.0.reverse();
        self.0.extend(suffix.bytes());
        String::from_utf8(self.0).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned())
    }
}

/// Brent's cycle detection: one remembered place, moved up at every power of two.
#[derive(Default)]
pub(super) struct Brent {
    steps: u64,
    seen: (u64, u64),
}

impl Brent {
    pub(super) fn step(&mut self, place: (u64, u64)) -> Result<(), GapReason> {
        if self.steps > 0 && place == self.seen {
            return Err(GapReason::Cycle);
        }
        self.steps = self.steps.saturating_add(1);
        if self.steps > MAX_STEPS {
            return Err(GapReason::Limit(MAX_STEPS));
        }
        if self.steps.is_power_of_two() {
            self.seen = place;
        }
        Ok(())
    }
}
