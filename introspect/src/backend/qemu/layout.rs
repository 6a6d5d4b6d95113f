//! Where a VM's RAM blocks lie in its guest-physical address space.
//!
//! *Does*: takes the layout from QEMU's own flat view (`info mtree -f`) or, with no free control socket, derives it from
//! the machine type and the amount of RAM, as QEMU's `pc_init1` (hw/i386/pc_piix.c), `pc_q35_init` (hw/i386/pc_q35.c) and
//! `microvm_memory_init` (hw/i386/microvm.c) do it; the rules are the same from QEMU 2.1 to 10.
//! *Trusts*: QEMU. *Never*: lets guest memory decide where guest memory is, and never guesses for a machine it does not know.

use super::argv::Config;

/// The window where video memory and system-management RAM shadow each other and RAM.
const LEGACY_HOLE: u64 = 0xa_0000;
/// Where RAM starts again: above it nothing but RAM up to the end of low memory.
const LEGACY_END: u64 = 0x10_0000;
const GIB: u64 = 1 << 30;
/// AMD's hole below 1 TiB, around which QEMU 7.1 and later move RAM for AMD guests (`pc_memory_init`).
const AMD_HOLE: u64 = 0xfd_0000_0000;

/// A run of guest-physical addresses that is a run of a RAM block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Placed {
    pub(super) gpa: u64,
    pub(super) len_bytes: u64,
    /// Offset from the start of the block, or of all blocks laid end to end.
    pub(super) offset: u64,
}

/// A row of the flat view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) placed: Placed,
    /// `ram`, `rom`, `i/o`, …
    pub(super) kind: String,
    pub(super) name: String,
}

/// Derives the layout, or says what stands against it.
pub(super) fn derive(config: &Config) -> Result<Vec<Placed>, String> {
    let ram = config.ram_bytes;
    let machine = config.machine.as_deref().unwrap_or("pc");
    let low = low_end(machine, ram, config.max_below_4g.unwrap_or(u64::MAX))?.min(ram);
    let high = ram.saturating_sub(low);
    if high.saturating_add(4 * GIB) > AMD_HOLE {
        return Err("so much RAM that its place depends on the CPU model".to_owned());
    }
    // What answers between 640 KiB and 1 MiB changes with chipset registers that only QEMU sees: left out.
    let runs = [
        (0, 0, low.min(LEGACY_HOLE)),
        (LEGACY_END, LEGACY_END, low.saturating_sub(LEGACY_END)),
        (4 * GIB, low, high),
    ];
    let placed = runs.into_iter().map(|(gpa, offset, len_bytes)| Placed { gpa, len_bytes, offset });
    Ok(placed.filter(|run| run.len_bytes > 0).collect())
}

/// Where low RAM ends if there is enough of it.
fn low_end(machine: &str, ram: u64, max_below: u64) -> Result<u64, String> {
    let old = ["-0.", "-1.", "-2.0"].iter().any(|version| {
        machine.find(version).is_some_and(|at| {
            machine.get(at..).is_some_and(|rest| !rest.starts_with("-2.0") || rest == "-2.0")
        })
    });
    match machine {
        _ if old => Err(format!("machine type {machine}, older than QEMU 2.1")),
        name if name == "q35" || name.starts_with("pc-q35-") => {
            Ok(if ram >= 0xb000_0000 { 2 * GIB } else { 0xb000_0000 }.min(max_below))
        }
        name if name == "pc" || name.starts_with("pc-i440fx-") => {
            let below = max_below.min(0xe000_0000);
            Ok(if ram >= below { below.min(3 * GIB) } else { below })
        }
        "microvm" => Ok(3 * GIB),
        _ => Err(format!("machine type {machine}")),
    }
}

/// Parses `info mtree -f` and returns the rows that the CPUs see. Source: `mtree_print_flatview` in QEMU's
/// system/memory.c: `START-END (prio N, [nv-]KIND): NAME[ @OFFSET][ ACCELERATOR]`.
pub(super) fn flat_view(text: &str) -> Vec<Row> {
    let views = text
        .split("FlatView #")
        .filter(|view| view.lines().any(|line| line.trim_start().starts_with("AS \"memory\", root: system")));
    views.take(1).flat_map(str::lines).filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (range, rest) = line.trim().split_once(" (prio ")?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let (kind, name) = rest.split_once(", ")?.1.split_once("): ")?;
    let (name, offset) = match name.rsplit_once(" @") {
        Some((name, offset)) => (name, hex(offset.split(' ').next()?)?),
        None => (
            ["KVM", "TCG", "HVF", "WHPX"]
                .iter()
                .find_map(|tail| name.strip_suffix(tail))
                .unwrap_or(name)
                .trim_end(),
            0,
        ),
    };
    let len_bytes = end.checked_sub(start)?.checked_add(1)?;
    Some(Row {
        placed: Placed { gpa: start, len_bytes, offset },
        kind: kind.to_owned(),
        name: name.to_owned(),
    })
}

/// Rows of RAM blocks that the CPUs reach, write-protected parts included: neither devices nor firmware, whose memory has other names.
pub(super) fn ram_rows(rows: Vec<Row>, blocks: &[String]) -> Vec<Row> {
    let of_block =
        |row: &Row| blocks.iter().any(|id| row.name == *id || row.name.strip_prefix("/objects/") == Some(id));
    rows.into_iter().filter(|row| matches!(row.kind.as_str(), "ram" | "rom") && of_block(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(machine: &str, ram: u64) -> Vec<(u64, u64, u64)> {
        let config = Config { machine: Some(machine.to_owned()), ram_bytes: ram, ..Config::default() };
        derive(&config).unwrap().iter().map(|run| (run.gpa, run.offset, run.len_bytes)).collect()
    }

    #[test]
    fn splits_as_qemu_does() {
        const M: u64 = 1 << 20;
        let low = (0, 0, 0xa_0000);
        assert_eq!(runs("q35", 64 * M), [low, (M, M, 63 * M)]);
        assert_eq!(runs("q35", 2815 * M), [low, (M, M, 2814 * M)]);
        assert_eq!(runs("pc-q35-9.2", 2816 * M), [low, (M, M, 2047 * M), (4 * GIB, 2 * GIB, 768 * M)]);
        assert_eq!(runs("pc", 3583 * M), [low, (M, M, 3582 * M)]);
        assert_eq!(runs("pc-i440fx-2.12", 3584 * M), [low, (M, M, 3071 * M), (4 * GIB, 3 * GIB, 512 * M)]);
        assert_eq!(runs("microvm", 3072 * M), [low, (M, M, 3071 * M)]);
        assert_eq!(runs("pc", 512 << 10), [(0, 0, 512 << 10)]);
        for machine in ["isapc", "virt", "pc-1.3", "pc-i440fx-2.0", "pc-i440fx-1.7"] {
            assert!(
                derive(&Config { machine: Some(machine.into()), ram_bytes: M, ..Config::default() }).is_err()
            );
        }
        assert!(derive(&Config { ram_bytes: 2 << 40, ..Config::default() }).is_err());
        let small = Config { ram_bytes: 2 * GIB, max_below_4g: Some(GIB), ..Config::default() };
        assert_eq!(derive(&small).unwrap().last().map(|run| (run.gpa, run.len_bytes)), Some((4 * GIB, GIB)));
    }

    const MTREE: &str = "FlatView #0\n AS \"piix3-ide\", root: bus master container\n Root memory region: (none)\n  No rendered FlatView\n
FlatView #1\n AS \"memory\", root: system\n AS \"cpu-memory-0\", root: system\n Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): ram-node0 KVM
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000fffff (prio 0, rom): ram-node0 @00000000000c0000 KVM
  0000000000100000-0000000003ffffff (prio 0, ram): /objects/ram-node0 @0000000000100000
  00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios\n
FlatView #2\n AS \"I/O\", root: io\n  0000000000000000-0000000000000007 (prio 0, ram): ram-node0\n";

    #[test]
    fn reads_the_flat_view() {
        let rows = ram_rows(flat_view(MTREE), &["ram-node0".to_owned()]);
        let seen: Vec<_> =
            rows.iter().map(|row| (row.placed.gpa, row.placed.offset, row.placed.len_bytes)).collect();
        assert_eq!(
            seen,
            [(0, 0, 0xa_0000), (0xc_0000, 0xc_0000, 0x4_0000), (0x10_0000, 0x10_0000, 0x3f0_0000)]
        );
        assert!(
            flat_view("FlatView #9 garbage\n AS \"memory\", root: system\n  5-1 (prio 0, ram): m\n  x")
                .is_empty()
        );
    }
}
