//! Code as it would be without KASLR, and without what every kernel rewrites in its own way.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use std::collections::HashSet;

/// Where the kernel's direct map, its vmalloc area and its memory map may lie, with 4 and with 5 levels of page tables.
const HEAP: std::ops::Range<u64> = 0xff11_0000_0000_0000..0xffff_ffff_8000_0000;
/// Sums of addresses are kept in 32 bits.
const LOW: u64 = 0xffff_ffff;

/// What an address in one guest is called in all of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Named {
    /// In the kernel's image, by its link-time address.
    Kernel(u64),
    /// In a module, by its name and the distance from its beginning.
    Module(String, u64),
    /// Anything else.
    Plain(u64),
}

/// A step of a program.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Step {
    /// A direct jump or call.
    Branch(Mnemonic, Named),
    /// A jump or call by a register, or a return.
    Indirect,
    /// Any other instruction: its bytes without the constants in it; addresses among these; and the rest.
    Plain(Vec<u8>, Vec<Named>, Vec<Number>),
    /// Bytes that are no instruction.
    Data(Vec<u8>),
}

/// A constant that need not be an address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Number {
    /// As it is, without and with the slide: sums and differences of addresses have it, one way or the other.
    forms: [u64; 3],
    /// What it is called if it is an address in a module. The numbers of AMD's machine registers look like such (0xc001_0064), where
    /// a module happens to lie there.
    module: Option<Named>,
}

impl Number {
    fn new(value: u64, slide: u64, named: Named) -> Number {
        let forms = [value, value.wrapping_sub(slide), value.wrapping_add(slide)].map(|form| form & LOW);
        Number { forms, module: Some(named).filter(|named| matches!(named, Named::Module(..))) }
    }

    /// Whether both may be the same constant of one program.
    fn is_like(&self, other: &Number) -> bool {
        self.forms.iter().zip(&other.forms).any(|(one, other)| one == other)
            || self.module.is_some() && self.module == other.module
    }
}

/// The steps of `code`, which runs at `at`. `named` tells what an address is called.
pub(super) fn steps(code: &[u8], at: u64, slide: u64, named: &dyn Fn(u64) -> Named) -> Vec<Step> {
    let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    let mut all = Vec::new();
    while decoder.can_decode() {
        let start = decoder.position();
        let one = decoder.decode();
        if one.is_invalid() {
            all.push(Step::Data(code.get(start..).unwrap_or_default().to_vec()));
            break;
        }
        if matches!(one.mnemonic(), Mnemonic::Nop | Mnemonic::Int3 | Mnemonic::Lfence | Mnemonic::Endbr64) {
            continue;
        }
        let bytes = code.get(start..start + one.len()).unwrap_or_default();
        all.push(step(&decoder, &one, bytes, slide, named));
    }
    all
}

fn step(
    decoder: &Decoder<'_>,
    one: &Instruction,
    bytes: &[u8],
    slide: u64,
    named: &dyn Fn(u64) -> Named,
) -> Step {
    if one.op0_kind() == OpKind::NearBranch64 {
        return Step::Branch(one.mnemonic(), named(one.near_branch_target()));
    }
    let by_register = one.op0_kind() == OpKind::Register;
    match one.flow_control() {
        FlowControl::Return => return Step::Indirect,
        FlowControl::IndirectBranch | FlowControl::IndirectCall if by_register => return Step::Indirect,
        _ => {}
    }
    let mut bytes = bytes.to_vec();
    // A lock prefix, and what a single processor gets for it.
    if let [first @ 0x3e, ..] = bytes.as_mut_slice() {
        *first = 0xf0;
    }
    let (mut addresses, mut numbers) = (Vec::new(), Vec::new());
    let places = decoder.get_constant_offsets(one);
    // What is counted from the instruction moves with it, even where it leads to something that stays: per-CPU variables.
    let is_relative = one.is_ip_rel_memory_operand();
    let mut cut = |offset: usize, size: usize, value: u64, is_relative: bool| {
        if size < 4 {
            return;
        }
        bytes.get_mut(offset..offset + size).unwrap_or_default().fill(0);
        match named(value) {
            Named::Plain(value) if is_relative => addresses.push(Named::Plain(value)),
            // The heap lies elsewhere in every guest.
            Named::Plain(value) if size == 8 && HEAP.contains(&value) => {
                addresses.push(Named::Plain(HEAP.start))
            }
            // A mask may look like an address at some slides and not at others.
            named if !is_relative => numbers.push(Number::new(value, slide, named)),
            named => addresses.push(named),
        }
    };
    if places.has_displacement() {
        let value = one.memory_displacement64();
        cut(places.displacement_offset(), places.displacement_size(), value, is_relative);
    }
    if places.has_immediate() {
        let value = (0..one.op_count()).find_map(|operand| one.try_immediate(operand).ok());
        cut(places.immediate_offset(), places.immediate_size(), value.unwrap_or(0), false);
    }
    Step::Plain(bytes, addresses, numbers)
}

/// Pairs of places that are tried before two programs count as different.
const MAX_TRIED: usize = 1 << 16;

/// Whether two programs are the same but for what kernels rewrite while they run: a jump of a static key, a call by which a
/// function is traced, a static call. `is_own` tells the addresses of the kernel's own code, `is_rewritten` those that only such
/// calls lead to.
pub(super) fn same(
    a: &[Step],
    b: &[Step],
    is_own: &dyn Fn(&Named) -> bool,
    is_rewritten: &dyn Fn(&Named) -> bool,
) -> bool {
    let comes_and_goes = |step: Option<&Step>| match step {
        Some(Step::Branch(Mnemonic::Jmp, to)) => is_own(to),
        Some(Step::Branch(_, to)) => is_rewritten(to),
        _ => false,
    };
    let leads_on = |a: &Step, b: &Step| match (a, b) {
        (Step::Branch(a, to), Step::Branch(b, there)) => {
            a == b && (is_rewritten(to) && is_own(there) || is_own(to) && is_rewritten(there))
        }
        _ => alike(a, b),
    };
    let (mut open, mut tried) = (vec![(0, 0)], HashSet::new());
    while let Some((left, right)) = open.pop() {
        if !tried.insert((left, right)) || tried.len() > MAX_TRIED {
            continue;
        }
        match (a.get(left), b.get(right)) {
            (None, None) => return true,
            (Some(x), Some(y)) if x == y => open.push((left + 1, right + 1)),
            (x, y) => {
                if comes_and_goes(y) {
                    open.push((left, right + 1));
                }
                if comes_and_goes(x) {
                    open.push((left + 1, right));
                }
                if x.zip(y).is_some_and(|(x, y)| leads_on(x, y)) {
                    open.push((left + 1, right + 1));
                }
            }
        }
    }
    false
}

/// Whether two instructions are the same but for a slide in their numbers.
fn alike(a: &Step, b: &Step) -> bool {
    let (Step::Plain(a, a_names, a_numbers), Step::Plain(b, b_names, b_numbers)) = (a, b) else {
        return false;
    };
    a == b
        && a_names == b_names
        && a_numbers.len() == b_numbers.len()
        && a_numbers.iter().zip(b_numbers).all(|(a, b)| a.is_like(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: u64 = 0xffff_ffff_8100_0000;

    /// Where `traced` below calls.
    const TRACER: u64 = IMAGE + 0x105;

    fn at_slide(slide: u64) -> impl Fn(u64) -> Named {
        move |at| match at.wrapping_sub(slide) {
            link if (IMAGE..IMAGE + (64 << 20)).contains(&link) => Named::Kernel(link),
            _ => Named::Plain(at),
        }
    }

    fn equal(a: &[u8], slide_a: u64, b: &[u8], slide_b: u64) -> bool {
        let (a, b) = (
            steps(a, IMAGE + slide_a, slide_a, &at_slide(slide_a)),
            steps(b, IMAGE + slide_b, slide_b, &at_slide(slide_b)),
        );
        same(&a, &b, &|named| matches!(named, Named::Kernel(_)), &|named| *named == Named::Kernel(TRACER))
    }

    #[test]
    fn a_slide_makes_no_difference_and_another_address_does() {
        // mov $0xffffffff81234567,%rdi; ret, and the same 16 MiB higher.
        let low = [0x48, 0xc7, 0xc7, 0x67, 0x45, 0x23, 0x81, 0xc3];
        let high = [0x48, 0xc7, 0xc7, 0x67, 0x45, 0x23, 0x82, 0xc3];
        assert!(equal(&low, 0, &high, 16 << 20));
        assert!(!equal(&low, 0, &high, 32 << 20) && !equal(&low, 0, &high, 0));
    }

    #[test]
    fn a_number_may_look_like_a_place_in_a_module() {
        /// What this guest has where modules lie.
        fn with(module: &'static str, base: u64) -> impl Fn(u64) -> Named {
            move |at| match at.checked_sub(base) {
                Some(distance) if distance < 0x10000 => Named::Module(module.to_owned(), distance),
                _ => Named::Plain(at),
            }
        }
        let guests = [
            with("one", 0xffff_ffff_c001_0000),
            with("two", 0xffff_ffff_c000_8000),
            with("one", 0xffff_ffff_c010_0000),
        ];
        let equal = |codes: [&[u8]; 2], guests: [&dyn Fn(u64) -> Named; 2]| {
            let [a, b] = [0, 1].map(|n| steps(codes[n], IMAGE, 0, guests[n]));
            same(&a, &b, &|_| false, &|_| false)
        };
        // lea -0x3ffeff9c(%rax),%ecx; ret: the machine register 0xc0010064 and some.
        let register = [0x8d, 0x88, 0x64, 0, 0x01, 0xc0, 0xc3];
        let other = [0x8d, 0x88, 0x65, 0, 0x01, 0xc0, 0xc3];
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            assert!(equal([&register; 2], [&guests[a], &guests[b]]), "{a} and {b}");
            assert!(!equal([&register, &other], [&guests[a], &guests[b]]), "{a} and {b}");
        }
        // mov $0xffffffffc0010064,%rdi; ret, and where the module lies in the third.
        let near = [0x48, 0xc7, 0xc7, 0x64, 0, 0x01, 0xc0, 0xc3];
        let far = |offset| [0x48, 0xc7, 0xc7, offset, 0, 0x10, 0xc0, 0xc3];
        assert!(equal([&near, &far(0x64)], [&guests[0], &guests[2]]));
        assert!(!equal([&near, &far(0x65)], [&guests[0], &guests[2]]));
    }

    #[test]
    fn what_kernels_rewrite_makes_no_difference() {
        let nothing = [0x0f, 0x1f, 0x44, 0, 0, 0x31, 0xc0, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc];
        let traced = [0xe8, 0, 1, 0, 0, 0x31, 0xc0, 0xc3];
        let keyed = [0xe9, 0, 3, 0, 0, 0x31, 0xc0, 0xc3];
        assert!(
            equal(&nothing, 0, &traced, 0) && equal(&keyed, 0, &nothing, 0) && equal(&keyed, 0, &traced, 0)
        );
        let (locked, alone) = ([0xf0, 0xff, 0x07, 0xc3], [0x3e, 0xff, 0x07, 0xc3]);
        assert!(equal(&locked, 0, &alone, 0));
    }

    #[test]
    fn a_way_out_makes_one() {
        let nothing = [0x0f, 0x1f, 0x44, 0, 0, 0x31, 0xc0, 0xc3];
        let hooked = [0xe9, 0, 0, 0, 0x40, 0x31, 0xc0, 0xc3];
        assert!(!equal(&nothing, 0, &hooked, 0));
        // A call of some function is not what comes and goes.
        let calls = [0xe8, 0, 9, 0, 0, 0x31, 0xc0, 0xc3];
        assert!(!equal(&nothing, 0, &calls, 0));
        let other = [0x0f, 0x1f, 0x44, 0, 0, 0x31, 0xdb, 0xc3];
        assert!(!equal(&nothing, 0, &other, 0));
    }
}
