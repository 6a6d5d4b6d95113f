//! Who gets what is typed into a terminal: its line discipline.
//!
//! Layouts: `struct tty_driver` (`include/linux/tty_driver.h`), `struct tty_struct` (`include/linux/tty.h`), `struct tty_ldisc`,
//! `struct tty_ldisc_ops` (`include/linux/tty_ldisc.h`), Linux 5.10 to 7.2.

use super::Callback;
use crate::linux::{Resolved, View};
use crate::{Gva, Partial};
use lynceus_profiles::{Field, Profile};

/// Most terminals of one driver (`NR_UNIX98_PTY_MAX` is a million, of which few are open).
const MAX_TERMINALS: u64 = 1 << 20;
const MAX_NAME_BYTES: usize = 64;

/// Members of drivers, terminals and line disciplines.
#[derive(Clone, Debug)]
pub struct TerminalsLayout {
    node: u32,
    count: Field,
    terminals: u32,
    name: u32,
    discipline: u32,
    operations: u32,
    functions: [u32; 2],
}

impl TerminalsLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let offset = |name, member| profile.field(name, member).map(|field| field.offset);
        Ok(TerminalsLayout {
            node: offset("tty_driver", "tty_drivers")?,
            count: profile.field("tty_driver", "num")?,
            terminals: offset("tty_driver", "ttys")?,
            name: offset("tty_struct", "name")?,
            discipline: offset("tty_struct", "ldisc")?,
            operations: offset("tty_ldisc", "ops")?,
            functions: [offset("tty_ldisc_ops", "receive_buf")?, offset("tty_ldisc_ops", "receive_buf2")?],
        })
    }
}

impl View<'_> {
    /// The functions that get what is typed into each open terminal.
    pub fn terminal_inputs(&self) -> Partial<Callback> {
        let what = "terminals";
        let layout = match &self.kernel().layouts.terminals {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable(what, missing.clone()),
        };
        let head = match self.kernel().symbol("tty_drivers") {
            Ok(head) => head,
            Err(missing) => return Partial::unavailable(what, missing),
        };
        let mut found = Partial::default();
        let drivers = self.list(what, head);
        for node in found.absorb(drivers) {
            let driver = Gva(node.0.wrapping_sub(layout.node.into()));
            let table = self.pointer(driver.field(layout.terminals));
            let count = self.integer(driver, layout.count);
            let (Some(table), Some(count)) = (found.ok(what, driver, table), found.ok(what, driver, count))
            else {
                continue;
            };
            // Some drivers keep their terminals elsewhere, and pseudo terminals by the file system.
            for index in (0..count.min(MAX_TERMINALS)).take_while(|_| !table.is_null()) {
                let at = Gva(table.0.wrapping_add(index.saturating_mul(8)));
                let Some(terminal) = found.ok(what, at, self.pointer(at)) else { break };
                if !terminal.is_null() {
                    self.terminal(layout, terminal, &mut found);
                }
            }
        }
        found
    }

    fn terminal(&self, layout: &TerminalsLayout, terminal: Gva, found: &mut Partial<Callback>) {
        let what = "terminal";
        let name = self.string(terminal.field(layout.name), MAX_NAME_BYTES);
        let Some(name) = found.ok(what, terminal, name) else { return };
        let discipline = self.pointer(terminal.field(layout.discipline));
        let Some(discipline) = found.ok(what, terminal, discipline).filter(|at| !at.is_null()) else {
            return;
        };
        let operations = self.pointer(discipline.field(layout.operations));
        let Some(operations) = found.ok(what, discipline, operations) else { return };
        for offset in layout.functions {
            let at = operations.field(offset);
            let Some(handler) = found.ok(what, at, self.pointer(at)) else { continue };
            if !handler.is_null() {
                found.items.push(Callback { on: format!("what is typed into {name}"), at, handler });
            }
        }
    }
}
