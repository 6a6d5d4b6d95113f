//! A fake guest for tests: RAM made of bytes, with faults and movement on demand.
//!
//! *Does*: answers reads like a real backend; pages can be absent, corrupt or lost; a script can change RAM before,
//! or in the middle of, the n-th read, which is how a moving guest and a torn read are tested.
//! *Trusts*: the test. *Never*: used by the appliance.

use crate::memory::Stability;
use crate::{Gfn, Gpa, GpaRange, GuestMemory, ReadError};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What happens to a read that touches a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// [`ReadError::Absent`].
    Absent,
    /// [`ReadError::Corrupt`].
    Corrupt,
    /// [`ReadError::Lost`].
    Lost,
}

/// The bytes of a [`Fake`], as a script may change them.
#[derive(Default)]
pub struct FakeRam {
    blocks: Vec<(Gpa, Vec<u8>)>,
}

type Action = Box<dyn FnMut(&mut FakeRam) + Send>;

struct Step {
    read: Option<u64>,
    after_bytes: usize,
    action: Action,
}

struct State {
    ram: FakeRam,
    reads: u64,
    steps: Vec<Step>,
}

/// A guest made of bytes.
pub struct Fake {
    ranges: Vec<GpaRange>,
    faults: BTreeMap<Gfn, Fault>,
    frames: Option<BTreeMap<u64, Gfn>>,
    stability: Stability,
    state: Mutex<State>,
}

impl Fake {
    /// RAM from guest-physical 0.
    pub fn flat(bytes: Vec<u8>) -> Fake {
        Fake::blocks(vec![(Gpa(0), bytes)])
    }

    /// RAM from guest-physical 0 with a file's bytes, read whole.
    pub fn from_file(path: impl AsRef<Path>) -> std::io::Result<Fake> {
        std::fs::read(path).map(Fake::flat)
    }

    /// RAM in several blocks, which must not overlap. Blocks that touch are joined.
    pub fn blocks(mut blocks: Vec<(Gpa, Vec<u8>)>) -> Fake {
        blocks.retain(|(_, bytes)| !bytes.is_empty());
        blocks.sort_by_key(|(start, _)| *start);
        let mut joined: Vec<(Gpa, Vec<u8>)> = Vec::new();
        for (start, bytes) in blocks {
            match joined.last_mut() {
                Some((first, whole)) if first.0.saturating_add(whole.len() as u64) == start.0 => {
                    whole.extend(bytes);
                }
                _ => joined.push((start, bytes)),
            }
        }
        let range =
            |(start, bytes): &(Gpa, Vec<u8>)| GpaRange { start: *start, len_bytes: bytes.len() as u64 };
        Fake {
            ranges: joined.iter().map(range).collect(),
            faults: BTreeMap::new(),
            frames: None,
            stability: Stability::Moving,
            state: Mutex::new(State { ram: FakeRam { blocks: joined }, reads: 0, steps: Vec::new() }),
        }
    }

    /// Reads that touch `page` fail.
    #[must_use]
    pub fn fault(mut self, page: Gfn, fault: Fault) -> Fake {
        self.faults.insert(page, fault);
        self
    }

    /// Page-table entries name frames of their own, as on Xen PV: only those in `frames` are the guest's.
    #[must_use]
    pub fn machine_frames(mut self, frames: BTreeMap<u64, Gfn>) -> Fake {
        self.frames = Some(frames);
        self
    }

    /// Promises that RAM does not change, as a dump's does not.
    #[must_use]
    pub fn frozen(mut self) -> Fake {
        self.stability = Stability::Frozen;
        self
    }

    /// Runs `action` in the middle of read number `read` (the first is 0), once `after_bytes` of it are copied.
    #[must_use]
    pub fn on_read(
        self,
        read: u64,
        after_bytes: usize,
        action: impl FnMut(&mut FakeRam) + Send + 'static,
    ) -> Fake {
        self.lock().steps.push(Step { read: Some(read), after_bytes, action: Box::new(action) });
        self
    }

    /// Runs `action` before every read.
    #[must_use]
    pub fn every_read(self, action: impl FnMut(&mut FakeRam) + Send + 'static) -> Fake {
        self.lock().steps.push(Step { read: None, after_bytes: 0, action: Box::new(action) });
        self
    }

    /// Changes RAM as the guest would.
    pub fn write(&self, at: Gpa, bytes: &[u8]) {
        self.lock().ram.write(at, bytes);
    }

    /// How many reads have been asked for.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_faults(&self, at: Gpa, len_bytes: u64) -> Result<(), ReadError> {
        let last = Gpa(at.0.saturating_add(len_bytes.saturating_sub(1)));
        match self.faults.range(at.gfn()..=last.gfn()).next() {
            None => Ok(()),
            Some((page, fault)) => {
                let at = page.gpa().unwrap_or(at);
                Err(match fault {
                    Fault::Absent => ReadError::Absent { at },
                    Fault::Corrupt => ReadError::Corrupt { at, why: "injected".to_owned() },
                    Fault::Lost => ReadError::Lost { at, why: "injected".to_owned() },
                })
            }
        }
    }
}

impl GuestMemory for Fake {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        let len_bytes = buf.len() as u64;
        let mut guard = self.lock();
        let State { ram, reads, steps } = &mut *guard;
        let number = *reads;
        *reads = reads.saturating_add(1);
        if !self.ranges.iter().any(|range| range.contains(at, len_bytes)) {
            return Err(ReadError::NotRam { at, len_bytes });
        }
        self.check_faults(at, len_bytes)?;
        let mut done = 0;
        for step in steps.iter_mut().filter(|step| step.read.is_none_or(|read| read == number)) {
            let upto = step.after_bytes.clamp(done, buf.len());
            ram.copy(at, done, buf.get_mut(done..upto).unwrap_or_default());
            done = upto;
            (step.action)(ram);
        }
        ram.copy(at, done, buf.get_mut(done..).unwrap_or_default());
        Ok(())
    }

    fn ram(&self) -> &[GpaRange] {
        &self.ranges
    }

    fn frame_of_entry(&self, entry_frame: u64) -> Option<Gfn> {
        match &self.frames {
            None => Some(Gfn(entry_frame)),
            Some(frames) => frames.get(&entry_frame).copied(),
        }
    }

    fn stability(&self) -> Stability {
        self.stability
    }
}

impl FakeRam {
    /// Changes `bytes` at `at`.
    ///
    /// # Panics
    /// Where `at` is not in RAM: the test is wrong.
    pub fn write(&mut self, at: Gpa, bytes: &[u8]) {
        self.slice(at, bytes.len()).expect("a fake guest writes to its RAM").copy_from_slice(bytes);
    }

    /// The 64-bit number at `at`.
    ///
    /// # Panics
    /// Where `at` is not in RAM: the test is wrong.
    pub fn u64(&mut self, at: Gpa) -> u64 {
        let bytes = self.slice(at, 8).expect("a fake guest reads its RAM");
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn slice(&mut self, at: Gpa, len: usize) -> Option<&mut [u8]> {
        self.blocks.iter_mut().find_map(|(start, bytes)| {
            let from = usize::try_from(at.0.checked_sub(start.0)?).ok()?;
            bytes.get_mut(from..from.checked_add(len)?)
        })
    }

    fn copy(&mut self, at: Gpa, skip: usize, buf: &mut [u8]) {
        if let Some(bytes) = at.checked_add(skip as u64).and_then(|at| self.slice(at, buf.len())) {
            buf.copy_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fake: &Fake, at: u64) -> Result<[u8; 4], ReadError> {
        let mut buf = [0; 4];
        fake.read(Gpa(at), &mut buf).map(|()| buf)
    }

    #[test]
    fn ranges_join_and_end() {
        let fake = Fake::blocks(vec![(Gpa(4), vec![2; 4]), (Gpa(0), vec![1; 4]), (Gpa(0x100), vec![3; 4])]);
        assert_eq!(fake.ram().len(), 2);
        assert_eq!(read(&fake, 2), Ok([1, 1, 2, 2]));
        assert_eq!(read(&fake, 0x100), Ok([3; 4]));
        assert!(matches!(read(&fake, 5), Err(ReadError::NotRam { .. })));
        assert!(matches!(read(&fake, u64::MAX - 1), Err(ReadError::NotRam { .. })));
    }

    #[test]
    fn faults_hit_every_read_that_touches_the_page() {
        let fake = Fake::flat(vec![0; 0x3000]).fault(Gfn(1), Fault::Absent);
        assert_eq!(read(&fake, 0xffe), Err(ReadError::Absent { at: Gpa(0x1000) }));
        assert_eq!(read(&fake, 0x2000), Ok([0; 4]));
    }

    #[test]
    fn a_script_can_tear_a_read() {
        let fake = Fake::flat(vec![0; 16]).on_read(1, 2, |ram| ram.write(Gpa(0), &[9; 4]));
        assert_eq!(read(&fake, 0), Ok([0; 4]));
        assert_eq!(read(&fake, 0), Ok([0, 0, 9, 9]));
        assert_eq!(read(&fake, 0), Ok([9; 4]));
        assert_eq!(fake.reads(), 3);
    }
}
