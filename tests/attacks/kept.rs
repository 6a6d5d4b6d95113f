//! Matches of signatures, kept and seen again with no guest: in memory, in a file whose beginning and size count, and in evidence
//! that somebody bent.

use crate::hostile::Hostile;
use crate::signatures::{private_pages, rules};
use lynceus_introspect::observe::Options;
use lynceus_lab::KernelVersion;
use lynceus_scanners::Finding;
use lynceus_scanners::evidence::{self, Evidence, Replayed};
use lynceus_scanners::signatures::{self, Keeper, Scope, Wanted};

const NEEDLE: &[u8] = b"Lynceus-Kept-Signature-41c7";
const RULES: &str = r#"
rule planted { strings: $a = "Lynceus-Kept-Signature-41c7" condition: $a }
rule module { strings: $a = "vermagic=" condition: uint32(0) == 0x464c457f and filesize > 100KB and $a }
"#;
const SCOPE: Scope = Scope { processes: true, files: true, kernel: false, physical: false, pid: None };

/// Every match in a guest with a text in a process, and the evidence of it as it is written and read.
fn kept(kernel: KernelVersion) -> Vec<(Finding, Evidence)> {
    let mut guest = Hostile::of(kernel);
    let (_, pages) = private_pages(&guest, "lab-plain");
    let page = pages.first().expect("a page").2;
    guest.memory.write(lynceus_introspect::Gpa(page.0 + 600), NEEDLE);
    let attached = guest.attach().expect("its kernel");
    let (rules, keeper) = (rules(RULES), Keeper::default());
    let wanted = Wanted { keep: Some(&keeper), ..Wanted::new(&rules, SCOPE) };
    let (found, _) = signatures::scan(&attached.guest, &Options::default(), &wanted, &mut |_| ());
    let collect = |finding: Finding| {
        let evidence = evidence::of_match(&attached.guest, "vm", 1, &finding, &keeper).expect("its evidence");
        let mut file = Vec::new();
        evidence.write(&mut file).expect("a vector takes all");
        assert!(file.len() < 4 << 20, "{} bytes are not small", file.len());
        assert_eq!(Evidence::read(&file[..]).expect("what was written"), evidence);
        (finding, evidence)
    };
    found.items.into_iter().map(collect).collect()
}

fn of_rule<'k>(all: &'k [(Finding, Evidence)], rule: &str) -> &'k (Finding, Evidence) {
    let is_it =
        |(finding, _): &&(Finding, Evidence)| finding.rule.as_ref().is_some_and(|one| one.rule == rule);
    all.iter().find(is_it).unwrap_or_else(|| panic!("{rule} matches"))
}

#[test]
fn a_match_is_seen_again_with_no_guest() {
    for kernel in [KernelVersion::V5_10, KernelVersion::V6_12] {
        let all = kept(kernel);
        for rule in ["planted", "module"] {
            let (finding, evidence) = of_rule(&all, rule);
            let again = evidence.replay_match(&rules(RULES)).expect("a replay");
            assert_eq!(again, Replayed::Same(Box::new(finding.clone())), "{rule}");
            assert!(evidence.is_by(&rules(RULES)) && evidence.about.pages > 0);
        }
    }
}

#[test]
fn other_rules_are_told_from_those_that_matched() {
    let all = kept(KernelVersion::V6_1);
    let (_, evidence) = of_rule(&all, "planted");
    // A later version of the same rule matches as well; one that asks for more does not.
    let later = rules(&RULES.replace("-41c7\"", "-41c7\" ascii wide"));
    assert!(!evidence.is_by(&later));
    assert!(matches!(evidence.replay_match(&later), Ok(Replayed::Same(_))));
    let stricter = rules(&RULES.replace("-41c7\"", "-41c8\""));
    assert!(matches!(evidence.replay_match(&stricter), Ok(Replayed::Other(_))));
    let nothing = rules("rule other { condition: false }");
    assert_eq!(evidence.replay_match(&nothing).expect("a replay"), Replayed::Other(Vec::new()));
}

#[test]
fn regions_that_are_bent_are_refused() {
    let all = kept(KernelVersion::V6_1);
    let (_, evidence) = of_rule(&all, "planted");
    let with = |parts: Vec<(u64, u64, u64)>, end: u64, is_file: bool| {
        let mut bent = evidence.clone();
        let region = bent.about.region.as_mut().expect("a region");
        (region.parts, region.end, region.is_file) = (parts, end, is_file);
        bent.replay_match(&rules(RULES))
    };
    let end = evidence.about.region.as_ref().expect("a region").end;
    for (parts, end, is_file) in [
        (vec![(0, 0, u64::MAX)], end, false),
        (vec![(u64::MAX, 0, 2)], end, false),
        (vec![(0, 0, 4096), (0, 4096, 4096)], end, false),
        (vec![(0, u64::MAX, 4096)], end, false),
        (vec![(0, 0, 1)], u64::MAX, true),
        (vec![(0, 0, 1)], 0, false),
        ((0..10_000).map(|at| (at, at, 1)).collect(), end, false),
    ] {
        assert!(with(parts.clone(), end, is_file).is_err(), "{parts:?}");
    }
    // Pages that are not there are no match, and no more.
    assert!(matches!(with(vec![(0, 1 << 40, 4096)], end, false), Ok(Replayed::Other(_))));
}
