//! One look: kernel objects rebuilt from memory. Each kernel subsystem adds its own `impl View` in its own file.

use super::Kernel;
use super::path::PathCache;
use super::record::decode;
use crate::paging::Root;
use crate::{AccessError, AddressSpace, Gpa, GuestMemory, Gva};
use lynceus_profiles::Field;

/// One look at a guest: memory, the kernel in it, and a translation cache that lives as long as the look.
pub struct View<'a> {
    kernel: &'a Kernel,
    space: AddressSpace<'a>,
    paths: PathCache,
}

impl<'a> View<'a> {
    /// A look at `memory` with what is known of its kernel.
    pub fn new(memory: &'a dyn GuestMemory, kernel: &'a Kernel) -> Self {
        View { kernel, space: AddressSpace::new(memory, kernel.root), paths: PathCache::default() }
    }
    /// What was found at attach.
    pub fn kernel(&self) -> &'a Kernel {
        self.kernel
    }
    /// The kernel's address space.
    pub fn space(&self) -> &AddressSpace<'a> {
        &self.space
    }
    /// Paths built so far in this look.
    pub(crate) fn path_cache(&self) -> &PathCache {
        &self.paths
    }
    /// A process's address space, from the guest-physical address of its `mm->pgd`.
    pub fn user_space(&self, table: Gpa) -> AddressSpace<'a> {
        AddressSpace::new(self.space.memory(), Root { table, mode: self.kernel.root.mode })
    }
    /// `N` bytes of kernel memory.
    pub fn bytes<const N: usize>(&self, at: Gva) -> Result<[u8; N], AccessError> {
        let mut buf = [0; N];
        self.space.read(at, &mut buf)?;
        Ok(buf)
    }
    /// A 32-bit number.
    pub fn u32(&self, at: Gva) -> Result<u32, AccessError> {
        self.bytes(at).map(u32::from_le_bytes)
    }
    /// A 64-bit number.
    pub fn u64(&self, at: Gva) -> Result<u64, AccessError> {
        self.bytes(at).map(u64::from_le_bytes)
    }
    /// A pointer.
    pub fn pointer(&self, at: Gva) -> Result<Gva, AccessError> {
        self.u64(at).map(Gva)
    }
    /// The integer or pointer that `field` describes in the object at `base`: its own width, bits and sign.
    /// A member wider than 8 bytes yields its first 8.
    pub fn integer(&self, base: Gva, field: Field) -> Result<u64, AccessError> {
        let width = usize::try_from(field.size.min(8)).unwrap_or(8);
        let mut buf = [0; 8];
        if let Some(buf) = buf.get_mut(..width) {
            self.space.read(base.field(field.offset), buf)?;
        }
        Ok(decode(&buf, field))
    }
    /// A NUL-terminated string of at most `max_bytes`, read no further than the page that ends it.
    /// Bytes that are not UTF-8 become U+FFFD; without a NUL it ends at `max_bytes`.
    pub fn string(&self, at: Gva, max_bytes: usize) -> Result<String, AccessError> {
        let mut text = Vec::with_capacity(max_bytes.min(64));
        let mut chunk = [0u8; 64];
        while text.len() < max_bytes {
            let from = Gva(at.0.wrapping_add(text.len() as u64));
            // Never across a page: what follows the terminator may not be mapped.
            let room = usize::try_from(4096 - from.page_offset()).unwrap_or(1);
            let take = room.min(chunk.len()).min(max_bytes.saturating_sub(text.len()));
            let Some(part) = chunk.get_mut(..take) else { break };
            self.space.read(from, part)?;
            let end = memchr::memchr(0, part);
            text.extend(part.iter().take(end.unwrap_or(take)));
            if end.is_some() {
                break;
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
