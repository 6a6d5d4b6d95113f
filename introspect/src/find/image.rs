//! A kernel image at a physical address: where its symbols lie, and evidence that it is a living kernel.
//!
//! The image is physically contiguous, loaded on a 2 MiB boundary (`CONFIG_PHYSICAL_ALIGN`), so that a symbol's
//! guest-physical address is that of `_text` plus the distance of the two link-time addresses.

use super::evidence::{Check, Evidence};
use super::scan::BANNER;
use crate::paging::{Mode, Root, walk};
use crate::{Gpa, GuestMemory, Gva};
use lynceus_profiles::kallsyms::{KERNEL_MAP, LINK_TEXT};
use lynceus_profiles::{BuildId, Identity, Symbols};

/// Longest banner read.
const MAX_BANNER_BYTES: usize = 512;
/// Longest note section read.
const MAX_NOTES_BYTES: u64 = 64 << 10;

/// A kernel image and the symbols it should have.
pub(super) struct Image<'a> {
    pub(super) memory: &'a dyn GuestMemory,
    pub(super) symbols: &'a Symbols,
    /// Guest-physical address of `_text`.
    pub(super) text: Gpa,
}

impl Image<'_> {
    /// Guest-physical address of a symbol of the image.
    pub(super) fn gpa(&self, symbol: &str) -> Option<Gpa> {
        let distance = self.symbols.address(symbol)?.checked_sub(LINK_TEXT)?;
        self.text.checked_add(distance)
    }

    pub(super) fn u64(&self, symbol: &str) -> Option<u64> {
        let mut buf = [0; 8];
        self.memory.read(self.gpa(symbol)?, &mut buf).ok()?;
        Some(u64::from_le_bytes(buf))
    }

    /// `linux_banner`, if it is a banner, without its line end.
    pub(super) fn banner(&self) -> Option<String> {
        let mut buf = [0u8; MAX_BANNER_BYTES];
        self.memory.read(self.gpa("linux_banner")?, &mut buf).ok()?;
        let end = memchr::memchr2(0, b'\n', &buf)?;
        let text = std::str::from_utf8(buf.get(..end)?).ok()?;
        text.as_bytes().starts_with(BANNER).then(|| text.to_owned())
    }

    /// Build id, banner and release.
    pub(super) fn identity(&self) -> Option<Identity> {
        Identity::from_banner(&self.banner()?, self.build_id())
    }

    fn build_id(&self) -> Option<BuildId> {
        let notes = self.bytes_between("__start_notes", "__stop_notes", MAX_NOTES_BYTES)?;
        BuildId::from_notes(&notes)
    }

    /// Guest-physical address of the build id's 20 bytes.
    pub(super) fn build_id_at(&self) -> Option<Gpa> {
        let notes = self.bytes_between("__start_notes", "__stop_notes", MAX_NOTES_BYTES)?;
        let id = BuildId::from_notes(&notes)?;
        let inside = memchr::memmem::find(&notes, &id.0)?;
        self.gpa("__start_notes")?.checked_add(inside as u64)
    }

    /// The bytes from one symbol to another, if there are at most `max_bytes`.
    pub(super) fn bytes_between(&self, start: &str, stop: &str, max_bytes: u64) -> Option<Vec<u8>> {
        let (start, stop) = (self.gpa(start)?, self.gpa(stop)?);
        let len = stop.0.checked_sub(start.0).filter(|len| (1..=max_bytes).contains(len))?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.memory.read(start, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Run-time address of `_text` by the kernel's own account: `phys_base` is what turns its virtual addresses into
    /// physical ones (`__phys_addr_nodebug`, arch/x86/include/asm/page_64.h).
    pub(super) fn text_by_phys_base(&self) -> Option<Gva> {
        let phys_base = self.u64("phys_base")?;
        Some(Gva(self.text.0.wrapping_sub(phys_base).wrapping_add(KERNEL_MAP)))
    }

    /// The page-table root whose tables map `_text`, the banner and `init_task` to where they lie, and its mode.
    /// Only one of the two modes can: the other reads a level too many or too few.
    pub(super) fn root(&self, text: Gva) -> Option<Root> {
        let table = self.gpa("init_top_pgt").or_else(|| self.gpa("swapper_pg_dir"))?;
        [Mode::FiveLevel, Mode::FourLevel]
            .into_iter()
            .map(|mode| Root { table, mode })
            .find(|root| self.maps(*root, text))
    }

    fn maps(&self, root: Root, text: Gva) -> bool {
        ["_text", "linux_banner", "init_task", "phys_base"].iter().all(|name| {
            let (Some(gpa), Some(link)) = (self.gpa(name), self.symbols.address(name)) else { return false };
            let at = Gva(text.0.wrapping_add(link.wrapping_sub(LINK_TEXT)));
            walk(self.memory, root, at).is_ok_and(|translation| translation.gpa == gpa)
        })
    }

    /// Checks that need no types.
    pub(super) fn evidence(&self, text_by_kallsyms: Option<Gva>) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.note(Check::Banner, self.banner().is_some());
        let text = self.text_by_phys_base();
        evidence
            .note(Check::PhysBase, text.is_some_and(|text| text.0 >= KERNEL_MAP && text.0 % (2 << 20) == 0));
        if let Some(by_kallsyms) = text_by_kallsyms {
            evidence.note(Check::SlidesAgree, text == Some(by_kallsyms));
        }
        evidence.note(Check::PageTables, text.is_some_and(|text| self.root(text).is_some()));
        evidence
    }
}
