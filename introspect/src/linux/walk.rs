//! Bounded walks over the kernel's own containers. Every one stops at a cycle and at a limit, and says so.

use super::View;
use crate::{Gva, Partial};

/// More nodes than any list of a real kernel holds.
pub const MAX_NODES: usize = 1 << 20;

impl View<'_> {
    /// The addresses of the nodes on a circular `struct list_head` list, the head left out.
    /// `what` names the list in gaps.
    pub fn list(&self, what: &'static str, head: Gva) -> Partial<Gva> {
        let _ = (what, head, MAX_NODES);
        todo!()
    }
}
