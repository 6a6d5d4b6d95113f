//! Whether what is at a site is what the kernel may have put there.
//!
//! *Trusts*: nothing in the guest: its bytes are decoded, and what cannot be decoded is no explanation.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use lynceus_profiles::kernel_file::{KernelImage, Patch, PatchSite};
use std::ops::Range;

/// `nopl 0x0(%rax,%rax,1)`, as long as a call.
const NOTHING: &[u8] = &[0x0f, 0x1f, 0x44, 0x00, 0x00];
/// A return, and traps behind it.
const RETURN: &[u8] = &[0xc3, 0xcc, 0xcc, 0xcc, 0xcc];
/// How far before a function a call may enter it whose depth is counted (`SKL_TMPL` in `callthunks.c`, 5.10 to 7.2: 16).
const MAX_PADDING: u64 = 64;
/// What kernels put for calls through `pv_ops` when nothing virtualises them (`paravirt_patch.c`, `paravirt_types.h`).
const NATIVE: &[&[u8]] = &[
    &[0xfa],                         // cli
    &[0xfb],                         // sti
    &[0x9c, 0x58],                   // pushf; pop %rax
    &[0x57, 0x9d],                   // push %rdi; popf
    &[0x0f, 0x20, 0xd0],             // mov %cr2,%rax
    &[0x0f, 0x20, 0xd8],             // mov %cr3,%rax
    &[0x0f, 0x22, 0xdf],             // mov %rdi,%cr3
    &[0x0f, 0x09],                   // wbinvd
    &[0x0f, 0x01, 0xf8],             // swapgs
    &[0x48, 0x89, 0xf8],             // mov %rdi,%rax
    &[0x31, 0xc0],                   // xor %eax,%eax
    &[0x2e, 0x2e, 0x2e, 0x31, 0xc0], // the same, as long as a call
    &[0x67, 0x48, 0x0f, 0xb9, 0x3a], // ud1 (%edx),%rdi: a warning
    &[0xc6, 0x07, 0x00],             // movb $0,(%rdi)
];

/// Text of the kernel's or a module's: what it should be and what it is, both from the same address on.
pub(super) struct Text<'a> {
    pub(super) image: &'a KernelImage,
    /// Link-time address of the first byte; a module is linked for where it runs.
    pub(super) start: u64,
    /// What the file says, relocated.
    pub(super) expected: &'a [u8],
    /// What is in the guest.
    pub(super) found: &'a [u8],
    /// What lies from link-time to run-time addresses.
    pub(super) slide: u64,
    /// Whether it is code that may be called from here by its address: the kernel's, and the module's own.
    pub(super) code: &'a dyn Fn(u64) -> bool,
    /// What is in a variable of the kernel's, by its link-time address.
    pub(super) variable: &'a dyn Fn(u64) -> Option<u64>,
    /// Whether the kernel itself made the code there, while it ran.
    pub(super) made: &'a dyn Fn(u64) -> bool,
    /// Whether it is the code of a module that is listed.
    pub(super) module: &'a dyn Fn(u64) -> bool,
}

impl Text<'_> {
    fn range(&self, start: u64, end: u64) -> Option<Range<usize>> {
        let at = |address: u64| usize::try_from(address.checked_sub(self.start)?).ok();
        Some(at(start)?..at(end)?)
    }

    fn found(&self, start: u64, end: u64) -> &[u8] {
        self.range(start, end).and_then(|range| self.found.get(range)).unwrap_or_default()
    }

    fn expected(&self, start: u64, end: u64) -> &[u8] {
        self.range(start, end).and_then(|range| self.expected.get(range)).unwrap_or_default()
    }

    fn symbol_at(&self, at: u64) -> &str {
        self.image.symbols.exactly(at).map_or("", |symbol| symbol.name)
    }

    /// Whether the kernel may have written what is at this site.
    pub(super) fn explains(&self, site: &PatchSite) -> bool {
        let (found, expected) = (self.found(site.at, site.end), self.expected(site.at, site.end));
        // What most sites hold needs no decoding.
        match (&site.patch, found) {
            (_, []) => return false,
            (Patch::Trace | Patch::StaticKey(_), NOTHING) | (Patch::Return, RETURN) => return true,
            _ => {}
        }
        match &site.patch {
            Patch::Lock => matches!(found, [0xf0 | 0x3e]),
            Patch::Landing => matches!(
                found,
                [0x66, 0x0f, 0x1f, 0x00] | [0x0f, 0x1f, 0x40, 0xd6] | [0xf3, 0x0f, 0x1e, 0xfa]
            ),
            Patch::Constant(variable) => self.is_constant(*variable, found),
            Patch::Hypercalls => is_hypercalls(found, site.at),
            Patch::StaticKey(target) => self.is_branch_or_nothing(site, |to| to == *target),
            Patch::Trace => self.is_branch_or_nothing(site, |to| (self.code)(to) || (self.made)(to)),
            Patch::Alternative(text, len) => self.is_alternative(site, *text, *len),
            Patch::Thunk | Patch::Return | Patch::Call | Patch::StaticCall | Patch::Paravirt => {
                self.is_call(site, expected, found)
            }
        }
    }

    /// Whether a constant is the value of its variable; some have none.
    fn is_constant(&self, variable: Option<u64>, found: &[u8]) -> bool {
        let Some(value) = variable.map(|at| (self.variable)(at)) else { return true };
        value.is_some_and(|value| value.to_le_bytes().starts_with(found))
    }

    fn is_branch_or_nothing(&self, site: &PatchSite, leads: impl Fn(u64) -> bool) -> bool {
        // A short jump has two bytes, and what follows is not its own.
        let found = self.found(site.at, site.end);
        let Some(first) = decode(found, site.at).into_iter().next() else { return false };
        match first.flow_control() {
            FlowControl::UnconditionalBranch | FlowControl::Call => leads(first.near_branch_target()),
            _ => first.mnemonic() == Mnemonic::Nop && matches!(first.len(), 2 | 5),
        }
    }

    fn is_alternative(&self, site: &PatchSite, text: u64, len: u64) -> bool {
        let found = self.found(site.at, site.end);
        let expected = self.expected(site.at, site.end);
        if self.similar(expected, site.at, found, site.at) || is_call_of_nothing(expected, found, site.at) {
            return true;
        }
        let end = text.saturating_add(len);
        let replacement = self.image.relocated(text, end, self.slide);
        replacement.is_some_and(|replacement| self.similar(&replacement, text, found, site.at))
    }

    /// A call, a jump or a return, or what stands for one: within the length that it has in the file.
    fn is_call(&self, site: &PatchSite, expected: &[u8], found: &[u8]) -> bool {
        let len = match site.patch {
            Patch::Paravirt => found.len(),
            _ => decode(expected, site.at).first().map_or(0, Instruction::len),
        };
        let (Some(expected), Some(found)) = (expected.get(..len), found.get(..len)) else { return false };
        if self.similar(expected, site.at, found, site.at) {
            return true;
        }
        let rest = significant(decode(found, site.at));
        match site.patch {
            Patch::Call => {
                let target = |all: &[u8]| decode(all, site.at).first().map(Instruction::near_branch_target);
                let (was, is) = (target(expected).unwrap_or(0), target(found).unwrap_or(0));
                was.checked_sub(is).is_some_and(|distance| distance <= MAX_PADDING)
            }
            Patch::StaticCall | Patch::Paravirt => match rest.as_slice() {
                [] => is_whole(found, site.at),
                [one] if is_direct(one) => {
                    let to = one.near_branch_target();
                    let is_module = site.patch == Patch::StaticCall && (self.module)(to);
                    (self.code)(to) || (self.made)(to) || is_module
                }
                [one] if one.flow_control() == FlowControl::Return => true,
                _ => {
                    let start = NATIVE.iter().find(|native| found.starts_with(native));
                    start.is_some_and(|native| {
                        let rest = found.get(native.len()..).unwrap_or_default();
                        is_whole(rest, site.at) && significant(decode(rest, site.at)).is_empty()
                    })
                }
            },
            _ => false,
        }
    }

    /// Whether two pieces of code do the same, empty instructions aside, one of them linked at another place.
    fn similar(&self, expected: &[u8], from: u64, found: &[u8], at: u64) -> bool {
        if !is_whole(found, at) {
            return false;
        }
        let (expected, found) = (Piece(expected, from), Piece(found, at));
        let (mut left, mut right) = (
            significant(decode(expected.0, expected.1)).into_iter(),
            significant(decode(found.0, found.1)).into_iter(),
        );
        loop {
            match (left.next(), right.next()) {
                (None, None) => return true,
                (Some(a), Some(b)) if self.same(&a, &expected, &b, &found) => {}
                _ => return false,
            }
        }
    }

    fn same(&self, a: &Instruction, expected: &Piece<'_>, b: &Instruction, found: &Piece<'_>) -> bool {
        if is_direct(a) && is_direct(b) {
            let (to, there) = (a.near_branch_target(), b.near_branch_target());
            // A branch inside of a piece moves with it.
            let moved = to.wrapping_sub(expected.1);
            let is_inside = moved <= expected.0.len() as u64;
            let same = to == there || is_inside && moved == there.wrapping_sub(found.1);
            return same && a.mnemonic() == b.mnemonic();
        }
        // A call through a table of operations becomes a call of what is in it.
        if a.flow_control() == FlowControl::IndirectCall && a.is_ip_rel_memory_operand() && is_direct(b) {
            return b.flow_control() == FlowControl::Call && (self.code)(b.near_branch_target());
        }
        if is_direct(a) {
            // Thunks stand for what is not safe on every processor.
            let thunk = self.symbol_at(a.near_branch_target());
            let is_indirect = matches!(
                b.flow_control(),
                FlowControl::IndirectCall | FlowControl::IndirectBranch | FlowControl::Return
            );
            return thunk.contains("thunk") && is_indirect && b.op0_kind() != OpKind::Memory;
        }
        if a.is_ip_rel_memory_operand() && b.is_ip_rel_memory_operand() {
            return a.code() == b.code() && a.ip_rel_memory_address() == b.ip_rel_memory_address();
        }
        let (a_bytes, b_bytes) = (expected.of(a), found.of(b));
        let rest = |bytes: &[u8]| match bytes {
            // A lock prefix and what a single processor gets for it.
            [0xf0 | 0x3e, rest @ ..] => rest.to_vec(),
            all => all.to_vec(),
        };
        rest(a_bytes) == rest(b_bytes)
    }
}

/// A call through a table of operations whose entry does nothing.
fn is_call_of_nothing(expected: &[u8], found: &[u8], at: u64) -> bool {
    let is_table_call =
        |one: &Instruction| one.flow_control() == FlowControl::IndirectCall && one.is_ip_rel_memory_operand();
    matches!(significant(decode(expected, at)).as_slice(), [one] if is_table_call(one))
        && is_whole(found, at)
        && significant(decode(found, at)).is_empty()
}

/// Code and its address.
struct Piece<'a>(&'a [u8], u64);

impl Piece<'_> {
    fn of(&self, one: &Instruction) -> &[u8] {
        let start = usize::try_from(one.ip().wrapping_sub(self.1)).unwrap_or(usize::MAX);
        self.0.get(start..start.saturating_add(one.len())).unwrap_or_default()
    }
}

/// What Xen writes for a guest: a number, a call into the hypervisor, a return.
fn is_hypercalls(found: &[u8], at: u64) -> bool {
    let harmless = |one: &Instruction| {
        use Mnemonic::{Int3, Mov, Pop, Push, Ret, Syscall, Ud2, Vmcall, Vmmcall};
        matches!(one.mnemonic(), Int3 | Mov | Pop | Push | Ret | Syscall | Ud2 | Vmcall | Vmmcall)
    };
    is_whole(found, at) && decode(found, at).iter().all(harmless)
}

fn is_direct(one: &Instruction) -> bool {
    one.op0_kind() == OpKind::NearBranch64
}

/// Instructions up to the first that is none or is cut off.
pub(super) fn decode(code: &[u8], at: u64) -> Vec<Instruction> {
    let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    let mut all = Vec::with_capacity(code.len() / 4 + 1);
    while decoder.can_decode() {
        let one = decoder.decode();
        if one.is_invalid() {
            break;
        }
        all.push(one);
    }
    all
}

/// Whether all of it decodes.
fn is_whole(code: &[u8], at: u64) -> bool {
    decode(code, at).iter().map(Instruction::len).sum::<usize>() == code.len()
}

/// All but what does nothing, and traps behind what never returns.
fn significant(mut all: Vec<Instruction>) -> Vec<Instruction> {
    let end = all.last().map_or(0, Instruction::next_ip);
    all.retain(|one| {
        !matches!(one.mnemonic(), Mnemonic::Nop | Mnemonic::Lfence | Mnemonic::Int3 | Mnemonic::Endbr64)
    });
    // Long stretches of nothing are jumped over: from the last one on, as one may jump over another.
    let mut next = end;
    let mut kept: Vec<Instruction> = Vec::with_capacity(all.len());
    for one in all.into_iter().rev() {
        let to = one.near_branch_target();
        if one.mnemonic() == Mnemonic::Jmp && is_direct(&one) && to > one.ip() && to <= next {
            continue;
        }
        next = one.ip();
        kept.push(one);
    }
    kept.reverse();
    kept
}

/// Where code leads that begins like this: by a jump or a call, or by an address that is put into a register or on the stack
/// and then gone to.
pub(super) fn destination(code: &[u8], at: u64) -> Option<u64> {
    let (mut moved, mut pushed) = (None, None);
    for one in significant(decode(code, at)).iter().take(3) {
        let last = one.op_count().saturating_sub(1);
        match (one.flow_control(), one.mnemonic()) {
            (FlowControl::UnconditionalBranch | FlowControl::Call, _) if is_direct(one) => {
                return Some(one.near_branch_target());
            }
            (FlowControl::IndirectBranch | FlowControl::IndirectCall, _) => return moved,
            (FlowControl::Return, _) => return pushed,
            (FlowControl::Next, Mnemonic::Mov) => moved = one.try_immediate(last).ok(),
            (FlowControl::Next, Mnemonic::Push) => pushed = one.try_immediate(last).ok().or(moved),
            _ => return None,
        }
    }
    None
}

/// How many bytes the instructions have that lead there.
pub(super) fn entry_len(code: &[u8], at: u64) -> usize {
    let mut len = 0;
    for one in decode(code, at).iter().take(4) {
        len += one.len();
        if one.flow_control() != FlowControl::Next {
            break;
        }
    }
    len.min(code.len())
}
