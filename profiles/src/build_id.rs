//! The GNU build id, from an ELF note section.

use crate::BuildId;
use std::fmt;

/// `NT_GNU_BUILD_ID` (elf.h).
const NT_GNU_BUILD_ID: u32 = 3;

impl BuildId {
    /// The build id among the notes of `section` (name size, description size, type, then both padded to 4 bytes).
    pub fn from_notes(section: &[u8]) -> Option<BuildId> {
        let word =
            |at: usize| Some(u32::from_le_bytes(section.get(at..at.checked_add(4)?)?.try_into().ok()?));
        let mut at = 0usize;
        loop {
            let (name_len, desc_len, kind) =
                (word(at)?, word(at.checked_add(4)?)?, word(at.checked_add(8)?)?);
            let name = at.checked_add(12)?;
            let desc = name.checked_add((name_len as usize).checked_next_multiple_of(4)?)?;
            let next = desc.checked_add((desc_len as usize).checked_next_multiple_of(4)?)?;
            if kind == NT_GNU_BUILD_ID
                && desc_len == 20
                && section.get(name..name.checked_add(4)?) == Some(b"GNU\0")
            {
                return section.get(desc..desc.checked_add(20)?)?.try_into().ok().map(BuildId);
            }
            at = next;
        }
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let mut notes = Vec::new();
        for (name, kind, desc) in [(b"Xen\0", 6u32, vec![1u8, 2, 3]), (b"GNU\0", 3, vec![0xab; 20])] {
            notes.extend(4u32.to_le_bytes());
            notes.extend((desc.len() as u32).to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(name);
            notes.extend(&desc);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(BuildId::from_notes(&notes), Some(BuildId([0xab; 20])));
        assert_eq!(BuildId::from_notes(&notes[..30]), None);
        assert_eq!(BuildId::from_notes(&[0xff; 64]), None);
        assert_eq!(BuildId([0xab; 20]).to_string(), "ab".repeat(20));
    }
}
