//! Scans that know parts of a region from before say exactly what full scans say, whatever was written in between.

use super::Rules;
use super::cache::ScanCache;
use super::content::Content;
use super::engine::{Externals, Verdict};
use super::layout::{Layout, Part};
use super::tests::{Flat, folder};
use super::windows::Fragments;
use lynceus_introspect::{Gpa, Partial};
use proptest::prelude::*;
use std::time::Duration;

const PAGE: usize = 4096;
const PAGES: usize = 40;
const BUDGET: Duration = Duration::from_secs(600);

/// Strings and conditions of every kind.
pub(super) const RULES: &str = r#"
import "elf"
private rule inner { strings: $a = "inner-needle" private condition: $a }
rule plain { strings: $a = "alpha-needle" condition: $a }
rule broad { strings: $a = "beta" wide fullword $b = "gamma" nocase wide ascii condition: any of them }
rule word { strings: $a = "delta" fullword condition: #a > 1 }
rule jump { strings: $a = { 65 70 73 [2-30] ( 69 6c | 6f 6e ) ?? } condition: $a }
rule far_jump { strings: $a = { 7a 65 74 61 [0-9000] 65 74 61 } condition: $a }
rule open_jump { strings: $a = { 74 68 65 [-] 74 61 21 } condition: $a }
rule regex { strings: $a = /io[a-z]{1,20}ta\b/ $b = /kap+a/ condition: $a and not $b }
rule anchored { strings: $a = /^alpha-needle/ condition: $a }
rule at_end { strings: $a = /needle$/ condition: $a }
rule greedy { strings: $a = /l.{0,40}mbda/s $b = /mu.*?nu/ condition: #a > 2 or #b > 3 }
rule order { strings: $a = "alpha" $b = "delta" condition: @a[1] < @b[1] }
rule near { strings: $a = "alpha" $b = "delta" condition: for any i in (1..#a) : ($b in (@a[i]..@a[i] + 600)) }
rule all_of { strings: $a = "alpha" $b = "beta" $c = "gamma" condition: all of them }
rule none_of { strings: $a = "alpha" $b = "xi-never" condition: none of them }
rule place { strings: $a = "alpha" condition: $a at 0 or $a in (8000..9000) }
rule long { strings: $a = "iota" $b = /kap+a/ condition: !a[1] == 4 and !b[1] > 4 }
rule header { condition: uint32(0) == 0x464c457f }
rule reads { strings: $a = "alpha" condition: $a and uint8(@a[1] + 5) == 0x2d }
rule machine { condition: elf.type == 2 }
rule short { strings: $a = { 02 00 3e 00 01 } condition: $a }
rule depends { condition: inner and not header }
rule xored { strings: $a = "omicron-pi" xor(1-255) condition: $a }
rule encoded { strings: $a = "sigma-tau" base64 condition: #a > 0 }
rule many { strings: $a = "aa" condition: #a > 9000 }
"#;

/// What is asked of files.
pub(super) const OF_FILES: &str = r#"
rule sized { strings: $a = "alpha" condition: $a and filesize > 150000 and filesize<158000 }
rule at_the_end { strings: $a = "needle" condition: $a in (filesize - 9000..filesize) }
rule sizeless { condition: not defined filesize }
rule last_byte { strings: $a = "beta" condition: $a and uint8(filesize - 1) == 0x78 }
"#;

/// Rules of these that hold where nothing matches, or may.
const LOUD: [&str; 12] = [
    "word", "greedy", "order", "near", "none_of", "long", "header", "machine", "depends", "encoded", "many",
    "sizeless",
];

/// All rules, those that leave programs alone, and of these the ones that want a match.
fn sets() -> [String; 3] {
    let without = |names: &[&str]| -> String {
        let is_named = |line: &&str| names.iter().any(|name| line.starts_with(&format!("rule {name} ")));
        RULES
            .lines()
            .chain(OF_FILES.lines())
            .filter(|line| !is_named(line) && (names.is_empty() || !line.starts_with("import")))
            .collect::<Vec<_>>()
            .join("\n")
    };
    [without(&[]), without(&["machine"]), without(&LOUD)]
}

/// What is written: parts of strings, so that they also come about where two writes meet.
pub(super) const PIECES: [&[u8]; 36] = [
    b"alpha-needle",
    b"alpha",
    b"-needle",
    b"inner-needle",
    b"beta",
    b"b\0e\0t\0a\0",
    b"\0g\0A\0m\0m\0A\0",
    b"gamma",
    b"delta",
    b" delta ",
    b"eps12il!",
    b"epsxxxxxxxxon!",
    b"zeta",
    b"eta",
    b"theta",
    b"ta!",
    b"iota",
    b"ioxyzta ",
    b"kappa",
    b"kappppa",
    b"lambda",
    b"l mbda",
    b"mu",
    b"nu",
    b"\n",
    b"\x7fELF\x02\x01\x01",
    b"MZ",
    b"~}xqsc~=`x",
    b"c2lnbWEtdGF1",
    b"aaaaaaaaaaaaaaaa",
    b"\0",
    b"x",
    b" ",
    b"needle",
    HEADER,
    b"xx",
];

/// A program's header, with a match in it that begins as far behind its start as fragments begin before matches.
const HEADER: &[u8] =
    b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Memory of which a region has some pages, in no order.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) bytes: Vec<u8>,
    pub(super) layout: Layout,
}

impl Region {
    pub(super) fn new(holes: &[usize], turn: usize) -> Region {
        let mut layout = Layout { start: 0x7000_0000, ..Layout::default() };
        layout.end = layout.start + (PAGES * PAGE) as u64;
        layout.own_bytes = (PAGES * PAGE) as u64;
        for page in (0..PAGES).filter(|page| !holes.contains(page)) {
            let gpa = Gpa(((page + turn) % PAGES * PAGE) as u64);
            layout.parts.push(Part { offset: (page * PAGE) as u64, gpa, len: PAGE as u64 });
        }
        Region { bytes: vec![0; PAGES * PAGE], layout }
    }

    /// The same for a file, of which so many bytes of the last page are none.
    pub(super) fn of_file(mut self, cut: usize) -> Region {
        let end = (PAGES * PAGE - cut) as u64;
        (self.layout.start, self.layout.end, self.layout.own_bytes, self.layout.is_file) =
            (0, end, end, true);
        for part in &mut self.layout.parts {
            part.len = part.len.min(end - part.offset);
        }
        self
    }

    pub(super) fn write(&mut self, at: usize, piece: usize) {
        let piece = PIECES[piece];
        let at = at.min(self.bytes.len() - piece.len());
        self.bytes[at..at + piece.len()].copy_from_slice(piece);
    }
}

pub(super) struct Scanner {
    rules: Rules,
    content: Content,
    /// How often parts were enough, and how often no rule wanted to be asked.
    by_parts: usize,
    pub(super) by_silence: usize,
}

/// Rules for regions that are scanned again, of which none is bad.
pub(super) fn rules_of(text: &str) -> Rules {
    let (_folder, file) = folder(&[("rules/kinds.yar", text.as_bytes())]);
    let rules = Rules::load(&[file]).expect("rules");
    assert_eq!(rules.bad(), []);
    rules
}

impl Scanner {
    pub(super) fn new(text: &str) -> Scanner {
        Scanner::of(rules_of(text))
    }

    pub(super) fn of(rules: Rules) -> Scanner {
        Scanner { rules, content: Content::default(), by_parts: 0, by_silence: 0 }
    }

    pub(super) fn scan(&mut self, region: &Region, cache: Option<&ScanCache>) -> Verdict {
        let memory = Flat::new(&region.bytes);
        let digester = cache.map(ScanCache::digester);
        let mut gaps = Partial::<()>::default();
        self.content.fill(&memory, &region.layout, digester, &mut gaps);
        assert!(gaps.is_complete());
        if let (Some(cache), Some(parts)) = (cache, self.rules.parts()) {
            let names = Externals::default();
            let fragments = parts.fragments(&self.content, &names, self.rules.digest(), cache, BUDGET);
            self.by_parts += usize::from(!matches!(fragments, Fragments::All));
            self.by_silence += usize::from(matches!(fragments, Fragments::None));
        }
        let own = region.layout.own_bytes;
        self.rules.engine().scan(&self.content, &Externals::default(), own, BUDGET, cache)
    }
}

/// Where somebody writes: often at the ends of pages and windows, or into the first bytes.
fn place() -> impl Strategy<Value = usize> {
    let edge = (0..PAGES, 0..40usize).prop_map(|(page, back)| (page * PAGE).saturating_sub(back));
    let start = (0..PAGES / 4, 0..3usize).prop_map(|(window, back)| (window * 4 * PAGE).saturating_sub(back));
    prop_oneof![0..PAGES * PAGE, edge, start.clone(), start, 0..16usize, (0..3 * PAGE)]
}

fn writes(count: usize) -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((place(), 0..PIECES.len()), 0..count)
}

#[test]
fn rescans_say_what_full_scans_say() {
    for text in sets().iter().map(String::as_str).chain([RULES]) {
        for is_file in [false, true] {
            let by_parts = rescans(text, is_file).by_parts;
            // Of files whose size is asked for there are verdicts by parts only where no rule may hold.
            let expected = if is_file && text.contains("filesize") { 0 } else { 100 };
            assert!(by_parts >= expected, "only {by_parts} verdicts came from parts: {text}");
        }
    }
}

/// Where nothing matches, rules are not asked, unless one of them may hold all the same.
#[test]
fn rules_that_want_a_match_are_not_asked_without_one() {
    for (text, is_quiet) in sets().iter().zip([false, false, true]) {
        for region in [Region::new(&[5], 2), Region::new(&[5], 2).of_file(7)] {
            let mut scanner = Scanner::new(text);
            let cache = ScanCache::new(1 << 20).expect("random numbers");
            let full = scanner.scan(&region, None);
            assert_eq!(scanner.scan(&region, Some(&cache)), full);
            let so_many = usize::from(is_quiet);
            assert_eq!((scanner.by_parts, scanner.by_silence), (so_many, so_many), "{text}");
            assert_eq!(full.hits.is_empty(), is_quiet);
        }
    }
}

fn rescans(text: &str, is_file: bool) -> Scanner {
    let mut scanner = Scanner::new(text);
    let config = ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let shared = std::cell::RefCell::new(&mut scanner);
    let holes = (prop::collection::vec(0..PAGES, 0..3), 0..PAGES, 0..PAGE);
    let input = (holes, writes(60), prop::collection::vec(writes(6), 1..8));
    let result = runner.run(&input, |((holes, turn, cut), first, later)| {
        let cache = ScanCache::new(1 << 20).expect("random numbers");
        let mut region = Region::new(&holes, turn);
        region = if is_file { region.of_file(cut) } else { region };
        for writes in std::iter::once(first).chain(later) {
            writes.iter().for_each(|(at, piece)| region.write(*at, *piece));
            let mut scanner = shared.borrow_mut();
            let full = scanner.scan(&region, None);
            prop_assert_eq!(scanner.scan(&region, Some(&cache)), full);
        }
        Ok(())
    });
    result.expect("equal verdicts");
    scanner
}

/// Runs full of matches: more than are counted, more than a window keeps.
#[test]
fn floods_are_scanned_as_they_are() {
    let mut scanner = Scanner::new(RULES);
    let cache = ScanCache::new(1 << 20).expect("random numbers");
    let mut region = Region::new(&[7], 3);
    region.bytes.fill(b'a');
    for at in [5 * PAGE - 3, 9 * PAGE, 0] {
        region.write(at, 0);
        let full = scanner.scan(&region, None);
        assert!(full.hits.iter().any(|hit| hit.rule.name == "many"));
        assert_eq!(scanner.scan(&region, Some(&cache)), full);
    }
    assert_eq!(scanner.by_parts, 0);
}

/// Nothing is kept that there is no room for, and what nobody asks for any more makes room.
#[test]
fn a_cache_keeps_to_its_limit_and_forgets() {
    let mut scanner = Scanner::new(RULES);
    let cache = ScanCache::new(1500).expect("random numbers");
    let mut region = Region::new(&[], 0);
    for number in 0..30usize {
        (0..PAGES).for_each(|page| region.bytes[page * PAGE..][..8].copy_from_slice(&number.to_le_bytes()));
        let full = scanner.scan(&region, None);
        assert_eq!(scanner.scan(&region, Some(&cache)), full);
        assert!(cache.len_bytes() <= 1500 && cache.len_bytes() > 0, "{}", cache.len_bytes());
    }
    (0..4).for_each(|_| cache.end_turn());
    assert_eq!(cache.len_bytes(), 0);
}

/// Modules take a region for a program by its first bytes: so they do with fragments, and with no more of them.
#[test]
fn a_fragment_is_no_program_where_the_region_is_none() {
    let mut scanner = Scanner::new(RULES);
    let header = PIECES.iter().position(|piece| *piece == HEADER).expect("a header");
    for (at, is_program) in [(0, true), (5 * PAGE + 100, false)] {
        let cache = ScanCache::new(1 << 20).expect("random numbers");
        let mut region = Region::new(&[3], 0);
        region.write(at, header);
        let before = scanner.by_parts;
        let verdict = scanner.scan(&region, Some(&cache));
        let machine = verdict.hits.iter().any(|hit| hit.rule.name == "machine");
        assert_eq!((machine, scanner.by_parts > before), (is_program, true), "{verdict:?}");
        assert_eq!(verdict, scanner.scan(&region, None));
    }
}

/// What begins at the end of a page depends on the next page's head, whichever of both is new, and on no more of it.
#[test]
fn what_reaches_into_the_next_page_is_found_again() {
    let text = "rule long { strings: $a = /sigma.{0,490}psi/s wide condition: $a }";
    let wide = |text: &str| -> Vec<u8> { text.bytes().flat_map(|letter| [letter, 0]).collect() };
    // From the page's last byte, and from so far before it that the next page does not depend on it.
    let cases =
        [0, 17, 400, 490, 491].into_iter().flat_map(|n| [(n, 1, true), (n, 30, false), (n, 30, true)]);
    for (characters, back, begins_later) in cases {
        let begin = 8 * PAGE - back;
        let mut ends = [(begin, wide("sigma")), (begin + 10 + 2 * characters, wide("psi"))];
        ends.rotate_right(usize::from(begins_later));
        let mut scanner = Scanner::new(text);
        let cache = ScanCache::new(1 << 20).expect("random numbers");
        let mut region = Region::new(&[20], 0);
        for (number, (at, bytes)) in ends.iter().enumerate() {
            region.bytes[*at..][..bytes.len()].copy_from_slice(bytes);
            let full = scanner.scan(&region, None);
            assert_eq!(full.hits.len(), usize::from(number > 0 && characters <= 490));
            assert_eq!(scanner.scan(&region, Some(&cache)), full, "{characters} {begins_later}");
            assert_eq!(scanner.by_parts, number + 1, "by windows");
        }
    }
}

/// A word that begins with a page is one by what stands before it.
#[test]
fn what_lies_before_a_page_counts() {
    let mut scanner = Scanner::new("rule word { strings: $a = \"delta\" fullword condition: $a }");
    let cache = ScanCache::new(1 << 20).expect("random numbers");
    let mut region = Region::new(&[20], 0);
    for (before, is_word) in [(b"x", false), (b" ", true)] {
        region.bytes[8 * PAGE - 1..][..6].copy_from_slice(&[before.as_slice(), b"delta"].concat());
        let full = scanner.scan(&region, None);
        assert_eq!(full.hits.len(), usize::from(is_word));
        assert_eq!(scanner.scan(&region, Some(&cache)), full);
    }
    assert_eq!(scanner.by_parts, 2, "by windows");
}
