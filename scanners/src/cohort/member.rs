//! A guest of a cohort: what of it is compared, by names that hold in all of them.

use super::code::{Named, Step, steps};
use crate::Finding;
use lynceus_introspect::linux::{LinuxGuest, Module, View};
use lynceus_introspect::{Gva, Partial};
use lynceus_profiles::Profile;
use std::collections::BTreeSet;

/// How tables of operations that are variables are called.
const ENDINGS: [&str; 4] = ["_ops", "_fops", "_operations", "_proto"];
/// Longest of them that is read, in bytes.
const MAX_TABLE_BYTES: u64 = 512;
/// Largest module whose code is compared.
const MAX_MODULE_BYTES: u64 = 32 << 20;
/// Bytes of text held at a time.
const WINDOW_BYTES: u64 = 1 << 20;
/// BPF programs that see what others do: kprobe, tracepoint, XDP, perf event, raw tracepoint, tracing, LSM
/// (`enum bpf_prog_type`, `include/uapi/linux/bpf.h`).
const WATCHING: [u32; 7] = [2, 5, 6, 7, 17, 26, 29];

/// A guest, and what was found in it.
pub(super) struct Member<'g> {
    guest: &'g LinuxGuest,
    view: View<'g>,
    listed: Vec<Module>,
    /// A piece of text: its link-time address and its bytes.
    window: (u64, Vec<u8>),
    pub(super) found: Partial<Finding>,
}

/// What code is chosen by when a kernel starts: what its processor can do, and how large its tables of directory entries are.
pub(super) fn flavour(guest: &LinuxGuest) -> Vec<u8> {
    let (kernel, view) = (guest.kernel(), guest.view());
    let mut flavour = Vec::new();
    let place =
        kernel.profile.field("cpuinfo_x86", "x86_capability").ok().zip(kernel.symbol("boot_cpu_data").ok());
    if let Some((field, at)) = place {
        let mut features = vec![0; field.size.min(MAX_TABLE_BYTES as u32) as usize];
        if view.space().read(at.field(field.offset), &mut features).is_ok() {
            flavour.extend(features);
        }
    }
    // Written into the code since 6.11 (`asm/runtime-const.h`).
    if kernel.symbol("__start_runtime_shift_d_hash_shift").is_ok() {
        let shift = kernel.symbol("d_hash_shift").ok().and_then(|at| view.u32(at).ok());
        flavour.extend(shift.unwrap_or(0).to_le_bytes());
    }
    flavour
}

/// Whether a name is one of the kernel's own code.
pub(super) fn is_own(named: &Named) -> bool {
    matches!(named, Named::Kernel(_))
}

/// Whether only what a kernel rewrites while it runs leads there: calls by which functions are traced, and static calls.
pub(super) fn is_rewritten(profile: &Profile, named: &Named) -> bool {
    const NAMES: [&str; 4] = ["ftrace_", "__traceiter_", "__SCT__", "__static_call_"];
    let Named::Kernel(link) = named else { return false };
    let there = profile.symbols.exactly(*link);
    there.is_some_and(|symbol| NAMES.iter().any(|name| symbol.name.starts_with(name)))
}

impl<'g> Member<'g> {
    pub(super) fn new(guest: &'g LinuxGuest) -> Member<'g> {
        let view = guest.view();
        let mut found = Partial::default();
        let listed = found.absorb(view.modules());
        Member { guest, view, listed, window: (0, Vec::new()), found }
    }

    pub(super) fn profile(&self) -> &'g Profile {
        &self.guest.kernel().profile
    }

    pub(super) fn run_time(&self, link: u64) -> Gva {
        self.guest.kernel().slid(link)
    }

    /// Link-time start and end of the kernel's text.
    pub(super) fn text(&self) -> Option<(u64, u64)> {
        let place = |name| self.profile().symbols.address(name);
        Some((place("_stext")?, place("_etext")?))
    }

    /// What people call a link-time address of the image.
    pub(super) fn place(&self, link: u64) -> String {
        self.guest.kernel().place(self.run_time(link))
    }

    fn read(&mut self, at: Gva, len: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        let read = self.view.space().read(at, &mut bytes);
        self.found.ok("kernel image", at, read).map(|()| bytes)
    }

    /// Text from one link-time address to another.
    pub(super) fn text_bytes(&mut self, start: u64, end: u64) -> Option<Vec<u8>> {
        let holds = |window: &(u64, Vec<u8>)| start >= window.0 && end <= window.0 + window.1.len() as u64;
        if !holds(&self.window) {
            let (_, limit) = self.text()?;
            let len = WINDOW_BYTES.max(end - start).min(limit.saturating_sub(start));
            let bytes = self.read(self.run_time(start), len)?;
            self.window = (start, bytes);
        }
        let from = usize::try_from(start - self.window.0).ok()?;
        self.window.1.get(from..from + usize::try_from(end - start).ok()?).map(<[u8]>::to_vec)
    }

    pub(super) fn steps(&self, code: &[u8], link: u64) -> Vec<Step> {
        steps(code, self.run_time(link).0, self.guest.kernel().slide, &|at| self.named(at))
    }

    /// What an address of this guest is called in all of them.
    pub(super) fn named(&self, at: u64) -> Named {
        let kernel = self.guest.kernel();
        let place = |name| kernel.profile.symbols.address(name).unwrap_or(0);
        let link = kernel.unslid(Gva(at));
        if link >= place("_text") && link < place("_end") {
            return Named::Kernel(link);
        }
        for module in &self.listed {
            for (area, (start, len)) in module.areas.iter().enumerate() {
                if at >= start.0 && at - start.0 < *len {
                    return Named::Module(format!("{}/{area}", module.name), at - start.0);
                }
            }
        }
        Named::Plain(at)
    }

    /// Link-time ranges of constants, and of variables that are tables of operations.
    pub(super) fn constant_ranges(&self) -> Vec<(u64, u64)> {
        let symbols = &self.profile().symbols;
        let place = |name| symbols.address(name).unwrap_or(0);
        let (start, end) = (place("__start_rodata"), place("__end_rodata"));
        // Behind the last of them lies what is anybody's after start.
        let end = symbols.nearest(end.saturating_sub(1)).map_or(start, |(last, _)| last.address & !7);
        let later = (place("__start_ro_after_init"), place("__end_ro_after_init"));
        let mut ranges = match later {
            (from, to) if from > start && to < end => vec![(start, from & !7), (to.next_multiple_of(8), end)],
            _ => vec![(start, end)],
        };
        let (data, data_end) = (place("_sdata"), place("_edata"));
        for symbol in symbols.iter().filter(|symbol| symbol.address >= data && symbol.address < data_end) {
            if ENDINGS.iter().any(|ending| symbol.name.ends_with(ending)) && symbol.address % 8 == 0 {
                let next = symbols.next_after(symbol.address).unwrap_or(symbol.address);
                ranges.push((
                    symbol.address,
                    symbol.address + (next - symbol.address).min(MAX_TABLE_BYTES) / 8 * 8,
                ));
            }
        }
        ranges
    }

    /// The words of a range; of a variable only those that are addresses of code count, the others are zero.
    pub(super) fn words(&mut self, start: u64, end: u64) -> Option<Vec<u64>> {
        let bytes = self.read(self.run_time(start), end.checked_sub(start)?)?;
        let mut words: Vec<u64> =
            bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let data = self.profile().symbols.address("_sdata").unwrap_or(u64::MAX);
        if start >= data {
            let (low, high) = self.text()?;
            let kernel = self.guest.kernel();
            for word in &mut words {
                let link = kernel.unslid(Gva(*word));
                let is_code = link >= low && link < high || matches!(self.named(*word), Named::Module(..));
                *word = if is_code { *word } else { 0 };
            }
        }
        Some(words)
    }

    /// A word of a constant as it may be called in all guests: itself, and its halves without and with the slide, as 32-bit
    /// addresses and distances from what stays have it.
    pub(super) fn readings(&self, word: u64) -> [[u64; 2]; 9] {
        let slide = self.guest.kernel().slide as u32;
        let (low, high) = (word as u32, (word >> 32) as u32);
        let forms = |half: u32| [half, half.wrapping_sub(slide), half.wrapping_add(slide)].map(u64::from);
        let (low, high) = (forms(low), forms(high));
        std::array::from_fn(|index| [low[index / 3], high[index % 3]])
    }

    /// Names and sizes of the code of its modules.
    pub(super) fn modules(&self) -> BTreeSet<(String, u64)> {
        self.listed.iter().map(|module| (module.name.clone(), module.code_bytes)).collect()
    }

    pub(super) fn module_base(&self, name: &str) -> Gva {
        self.listed.iter().find(|module| module.name == name).map_or(Gva(0), |module| module.base)
    }

    /// The code of a module of that name and size.
    pub(super) fn module_steps(&mut self, name: &str, size: u64) -> Option<Vec<Step>> {
        let module = self.listed.iter().find(|module| module.name == name)?;
        let (start, len) =
            module.areas.first().copied().filter(|(_, len)| *len == size && *len <= MAX_MODULE_BYTES)?;
        let code = self.read(start, len)?;
        Some(steps(&code, start.0, self.guest.kernel().slide, &|at| self.named(at)))
    }

    /// Foreign modules and BPF programs that watch others: what few guests have.
    pub(super) fn rarities(&mut self) -> Vec<(String, Gva)> {
        let foreign = self.listed.iter().filter(|module| module.is_foreign());
        let mut all: Vec<(String, Gva)> =
            foreign.map(|module| (format!("module {}", module.name), module.base)).collect();
        let programs = self.view.bpf_programs();
        for program in self.found.absorb(programs) {
            if WATCHING.contains(&program.program_type) {
                let tag = crate::hex(&program.tag);
                all.push((
                    format!("BPF program {} ({}, tag {tag})", program.name, program.type_name()),
                    program.at,
                ));
            }
        }
        all
    }
}
