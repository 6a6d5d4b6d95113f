//! As whom a program was started: what the kernel told it of its user in its auxiliary vector, of which it keeps a copy.
//!
//! *Trusts*: nothing; the vector has a fixed size.
//!
//! Layout: `mm_struct.saved_auxv` (`include/linux/mm_types.h`), filled by `create_elf_tables` (`fs/binfmt_elf.c`), Linux 5.10 to
//! 7.2. Ids are as the program's user namespace numbers them.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Mm, Resolved, Task, View};
use crate::{GapReason, Gva};
use lynceus_profiles::{Field, Profile};

/// Kinds of entries (`include/uapi/linux/auxvec.h`).
const AT_NULL: u64 = 0;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_SECURE: u64 = 23;
/// Bytes of an entry: its kind and its value.
const ENTRY_BYTES: usize = 16;
/// More than any kernel's vector has.
const MAX_BYTES: u32 = 4096;

/// The members.
#[derive(Clone, Debug)]
pub struct StartedLayout {
    auxv: Field,
    real_parent: Field,
}

/// As whom a program was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartedAs {
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// The start changed its ids or gave it capabilities: a set-uid program or one with file capabilities.
    pub secure: bool,
}

impl StartedLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let real_parent = profile.field("task_struct", "real_parent")?;
        Ok(StartedLayout { auxv: profile.field("mm_struct", "saved_auxv")?, real_parent })
    }
}

impl View<'_> {
    /// As whom the program in this memory was started; `None` where it is only just being started, or says nothing of it.
    pub fn started_as(&self, mm: &Mm) -> Result<Option<StartedAs>, GapReason> {
        let layout = self.kernel().layouts.started.as_ref().map_err(Clone::clone)?;
        let mut bytes = vec![0; usize::try_from(layout.auxv.size.min(MAX_BYTES)).unwrap_or(0)];
        self.space().read(mm.at.field(layout.auxv.offset), &mut bytes)?;
        Ok(parse(&bytes))
    }

    /// The task that started this one, or that took it in when that one ended; `None` for the first.
    pub fn parent(&self, task: &Task) -> Result<Option<Task>, GapReason> {
        let layout = self.kernel().layouts.started.as_ref().map_err(Clone::clone)?;
        let at = Gva(self.integer(task.at, layout.real_parent)?);
        if at.is_null() || at == task.at { Ok(None) } else { self.task(at).map(Some) }
    }
}

fn parse(vector: &[u8]) -> Option<StartedAs> {
    let (mut uid, mut euid, mut secure) = (None, None, None);
    for entry in vector.chunks_exact(ENTRY_BYTES) {
        let (kind, value) = entry.split_first_chunk::<8>()?;
        let value = u64::from_le_bytes(*value.first_chunk()?);
        match u64::from_le_bytes(*kind) {
            AT_NULL => break,
            AT_UID => uid = Some(value as u32),
            AT_EUID => euid = Some(value as u32),
            AT_SECURE => secure = Some(value != 0),
            _ => {}
        }
    }
    Some(StartedAs { uid: uid?, euid: euid?, secure: secure? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(entries: &[(u64, u64)]) -> Vec<u8> {
        entries.iter().flat_map(|(kind, value)| [kind.to_le_bytes(), value.to_le_bytes()]).flatten().collect()
    }

    #[test]
    fn the_vector_ends_where_it_says() {
        let told = |entries: &[(u64, u64)]| parse(&vector(entries));
        let user = Some(StartedAs { uid: 1000, euid: 0, secure: true });
        assert_eq!(told(&[(33, 7), (AT_UID, 1000), (AT_EUID, 0), (AT_SECURE, 1), (0, 0)]), user);
        assert_eq!(told(&[(AT_UID, 1000), (0, 0), (AT_EUID, 0), (AT_SECURE, 1)]), None);
        assert_eq!(told(&[]), None);
    }
}
