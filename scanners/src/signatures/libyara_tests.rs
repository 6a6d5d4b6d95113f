//! boreal and libyara say the same of the same regions.

use super::Rules;
use super::content::Content;
use super::engine::{Externals, Verdict};
use super::layout::Layout;
use super::rescan_tests::{PIECES, RULES, Region};
use super::tests::{Flat, folder};
use lynceus_introspect::Partial;
use std::collections::BTreeSet;
use std::time::Duration;

const BUDGET: Duration = Duration::from_secs(600);
const PAGE: usize = 4096;

/// What both must agree on: which rules match, and where; of overlapping matches of a regular expression each engine keeps some. Not
/// those with long jumps: libyara lets one reach over a hole, from a run of pages to the next one.
fn said(verdict: &Verdict) -> BTreeSet<(String, Vec<u64>)> {
    let by_regex = ["regex", "greedy", "long", "anchored", "at_end"];
    let hits = verdict.hits.iter().map(|hit| {
        let places = hit.strings.iter().map(|string| string.offset);
        let places = if by_regex.contains(&&*hit.rule.name) { Vec::new() } else { places.collect() };
        (hit.rule.name.clone(), places)
    });
    hits.filter(|(name, _)| !["open_jump", "far_jump"].contains(&&**name)).collect()
}

struct Both {
    boreal: Rules,
    libyara: Rules,
    content: Content,
}

impl Both {
    fn new(text: &str) -> Both {
        let (_folder, file) = folder(&[("rules/kinds.yar", text.as_bytes())]);
        let file = [file];
        let (boreal, libyara) =
            (Rules::load(&file).expect("rules"), Rules::load_for_libyara(&file).expect("rules"));
        assert!(boreal.bad().is_empty() && libyara.bad().is_empty(), "{:?}", libyara.bad());
        Both { boreal, libyara, content: Content::default() }
    }

    fn compare(&mut self, bytes: &[u8], layout: &Layout, externals: &Externals) -> usize {
        self.content.fill(&Flat::new(bytes), layout, None, &mut Partial::<()>::default());
        let scan =
            |rules: &Rules| rules.engine().scan(&self.content, externals, layout.own_bytes, BUDGET, None);
        let (boreal, libyara) = (scan(&self.boreal), scan(&self.libyara));
        assert_eq!((boreal.cut, libyara.cut), (None, None));
        assert_eq!(said(&boreal), said(&libyara));
        boreal.hits.len()
    }
}

/// The next number of a sequence that is the same in every run.
fn next(state: &mut usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 24
}

#[test]
fn both_engines_say_the_same_of_regions_with_holes() {
    let mut both = Both::new(RULES);
    let (mut state, mut hits) = (7, 0);
    for _ in 0..120 {
        let holes: Vec<usize> = (0..next(&mut state) % 4).map(|_| next(&mut state) % 40).collect();
        let mut region = Region::new(&holes, next(&mut state) % 40);
        for _ in 0..next(&mut state) % 50 {
            region.write(next(&mut state) % (40 * PAGE), next(&mut state) % PIECES.len());
        }
        hits += both.compare(&region.bytes, &region.layout, &Externals::default());
    }
    assert!(hits > 300, "{hits}");
}

#[test]
fn both_engines_say_the_same_of_files() {
    let mut both = Both::new(
        r#"import "elf"
        rule size { condition: filesize == 8192 and uint32(0) == 0x464c457f }
        rule named { condition: filename == "x.so" and filepath endswith "/x.so" and extension == "so" and owner == "7" }
        rule section { condition: elf.type == elf.ET_DYN or elf.type == 2 }
        rule end { strings: $a = "tail" condition: $a at filesize - 4 }"#,
    );
    let externals = Externals {
        filename: "x.so".to_owned(),
        filepath: "/lib/x.so".to_owned(),
        extension: "so".to_owned(),
        owner: "7".to_owned(),
    };
    let mut region = Region::new(&[], 0);
    region.bytes.truncate(2 * PAGE);
    region.bytes[8188..].copy_from_slice(b"tail");
    let header = PIECES.iter().position(|piece| piece.len() == 64).expect("a header");
    region.write(0, header);
    region.layout.parts.truncate(2);
    region.layout.is_file = true;
    (region.layout.start, region.layout.end, region.layout.own_bytes) = (0, 8192, 8192);
    assert_eq!(both.compare(&region.bytes, &region.layout, &externals), 4);
}
