//! Attacks on the scanner itself, and what a scan says of its own reach.

use crate::hostile::Hostile;
use crate::signatures::{EVERYWHERE, private_pages, rules};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GapReason, Gpa, Partial};
use lynceus_scanners::signatures::{self, HashList, PathPattern, Rules, ScanCache, Scope, Summary, Wanted};
use lynceus_scanners::{Finding, Subject};
use sha2::{Digest, Sha256};

const FILES: Scope = Scope { processes: false, files: true, kernel: false, physical: false, pid: None };

fn scan(guest: &Hostile, wanted: &Wanted<'_>) -> (Partial<Finding>, Summary) {
    let attached = guest.attach().expect("its kernel");
    signatures::scan(&attached.guest, &Options::default(), wanted, &mut |_| ())
}

fn paths(found: &Partial<Finding>) -> Vec<String> {
    let path = |finding: &Finding| match &finding.subject {
        Subject::File { path, .. } => Some(path.clone()),
        _ => None,
    };
    found.items.iter().filter_map(path).collect()
}

/// Memory full of what a regular expression nearly matches: the region is given up, that is said, and the others are scanned.
#[test]
fn a_flood_of_near_matches_is_cut_short_and_told() {
    let mut guest = Hostile::new();
    let scratch = guest.scratch(16 << 20);
    let start = guest.gpa(scratch).0;
    let (flood, needle) = (vec![b'a'; 64 << 10], b"Lynceus-Behind-The-Flood");
    (0..96).for_each(|piece| guest.memory.write(Gpa(start + piece * (64 << 10)), &flood));
    guest.memory.write(Gpa(start + (13 << 20)), needle);
    // Quadratic for every engine: each position begins a match that goes on for thousands of bytes.
    let slow = r#"rule slow { strings: $a = /aaaa[a-z]{1,9000}[0-9]{3}zz/ condition: $a }
        rule behind { strings: $a = "Lynceus-Behind-The-Flood" condition: $a }"#;
    let rules = rules(slow);
    let scope = Scope { physical: true, files: false, ..FILES };
    let (found, summary) = scan(&guest, &Wanted { threads: 2, ..Wanted::new(&rules, scope) });
    assert!((1..=3).contains(&summary.cut_regions), "{summary:?}");
    let slow = found.gaps.iter().find(|gap| matches!(gap.reason, GapReason::Time(_))).expect("a gap");
    let at = slow.at.expect("an address").0;
    assert!((start..start + (6 << 20)).contains(&at), "{at:#x}");
    let starving = found.items.iter().find(|finding| finding.technique == "T1562.001").expect("a finding");
    assert!(starving.summary.contains("starves the scanner"), "{}", starving.summary);
    assert!(
        found.items.iter().any(|finding| finding.rule.as_ref().is_some_and(|rule| rule.rule == "behind"))
    );
}

/// A denied file is found by its hash alone; what rules say of an allowed one is counted and not told.
#[test]
fn files_are_denied_and_allowed_by_their_hash() {
    let guest = Hostile::new();
    let box_hash: String = Sha256::digest(std::fs::read("/bin/busybox").expect("busybox"))
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let rules = rules(r#"rule program { condition: uint32(0) == 0x464c457f }"#);
    let list = |text: &str| HashList::parse(text.as_bytes()).expect("a list");
    let all = scan(&guest, &Wanted::new(&rules, FILES)).0.items.len();
    let deny = list(&format!("deny {box_hash} the shell\n{}  nowhere", "00".repeat(32)));
    let (found, summary) =
        scan(&guest, &Wanted { hashes: Some(&deny), ..Wanted::new(&Rules::none(), FILES) });
    assert_eq!(paths(&found), ["/bin/busybox"], "{:#?}", found.items);
    assert_eq!((&*found.items[0].detector, found.items[0].rule.is_none()), (signatures::HASH_NAME, true));
    assert!(summary.whole_files > 5 && summary.whole_files < summary.files, "a sparse memfd is never whole");
    let allow = list(&format!("allow {box_hash}"));
    let (found, summary) = scan(&guest, &Wanted { hashes: Some(&allow), ..Wanted::new(&rules, FILES) });
    assert_eq!((summary.allowed_files, summary.allowed_findings), (1, 1));
    assert!(found.items.len() == all - 1 && !paths(&found).contains(&"/bin/busybox".to_owned()));
}

/// A byte of an allowed file changed in memory: it is another file.
#[test]
fn a_changed_file_is_no_longer_the_allowed_one() {
    let mut guest = Hostile::new();
    let hash = Sha256::digest(std::fs::read("/bin/busybox").expect("busybox"));
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let files = guest.look(|view| view.cached_files()).items;
    let file = files.iter().find(|file| file.path.as_deref() == Some("/bin/busybox")).expect("busybox");
    guest.memory.write(Gpa(file.pages[0].1.0 + 4000), b"!");
    let allow = HashList::parse(format!("allow {hash}").as_bytes()).expect("a list");
    let rules = rules(r#"rule program { condition: uint32(0) == 0x464c457f }"#);
    let wanted = Wanted { hashes: Some(&allow), ..Wanted::new(&rules, FILES) };
    let (found, summary) = scan(&guest, &wanted);
    assert!(summary.allowed_files == 0 && paths(&found).contains(&"/bin/busybox".to_owned()));
}

#[test]
fn a_path_chooses_files() {
    let guest = Hostile::new();
    let rules = rules("rule any { condition: filesize > 0 }");
    let of = |pattern: &str| {
        let path = PathPattern::new(pattern);
        let mut paths = paths(&scan(&guest, &Wanted { path: Some(&path), ..Wanted::new(&rules, FILES) }).0);
        paths.sort();
        paths
    };
    assert_eq!(of("/bin/busybox"), ["/bin/busybox"]);
    assert_eq!(of("/modules/*.ko").len(), of("/modules").len() - 1, "one of them is a list");
    assert_eq!(of("/memfd:*"), ["/memfd:lab-payload"]);
}

#[test]
fn a_process_in_a_container_is_named_with_it() {
    let mut guest = Hostile::new();
    let (task, pages) = private_pages(&guest, "lab-container");
    let mark = b"Lynceus-In-A-Container";
    guest.memory.write(pages[0].2, mark);
    let rules = rules(r#"rule inside { strings: $a = "Lynceus-In-A-Container" condition: $a }"#);
    let scope = Scope { pid: Some(task.pid), files: false, kernel: false, ..EVERYWHERE };
    let (found, _) = scan(&guest, &Wanted::new(&rules, scope));
    let [finding] = &found.items[..] else { panic!("{:#?}", found.items) };
    let Subject::Memory { cgroup, container, .. } = &finding.subject else { panic!("{finding:?}") };
    let id = container.as_deref().expect("a container");
    assert!(id.starts_with("4c61624c") && cgroup.as_deref() == Some(&format!("/docker/{id}")));
    assert!(finding.summary.contains(&format!("in container {id}")), "{}", finding.summary);
    let rule = finding.rule.as_ref().expect("a rule");
    assert_eq!(rule.strings[0].text, "Lynceus-In-A-Container");
    assert!(rule.strings[0].around_text.1.len() >= 64);
    assert_eq!(rule.sha256.as_ref().map(String::len), Some(64));
}

/// Findings and gaps are the same whatever the number of threads, and with what a cache remembers.
#[test]
fn threads_and_a_cache_change_nothing_but_the_time() {
    let mut guest = Hostile::old();
    let (_, pages) = private_pages(&guest, "lab-plain");
    for (_, _, gpa) in pages.iter().take(5) {
        guest.memory.write(Gpa(gpa.0 + 50), b"Lynceus-Five-Times");
    }
    guest.memory.take_away(pages[6].2);
    let rules = rules(
        r#"rule five { strings: $a = "Lynceus-Five-Times" condition: #a > 1 or (#a == 1 and @a[1] < 1MB) }
        rule elf { condition: uint32(0) == 0x464c457f }"#,
    );
    let wanted = Wanted::new(&rules, EVERYWHERE);
    let (alone, first) = scan(&guest, &wanted);
    assert!(alone.items.len() > 20 && !alone.is_complete(), "{}", alone.items.len());
    assert_eq!(first.reused_regions, 0);
    assert_eq!(scan(&guest, &Wanted { threads: 3, ..wanted }).0, alone);
    let cache = ScanCache::new(1 << 20).expect("a cache");
    let wanted = Wanted { cache: Some(&cache), ..wanted };
    assert_eq!(scan(&guest, &wanted).0, alone);
    let (again, second) = scan(&guest, &wanted);
    assert_eq!(again, alone);
    assert_eq!((second.reused_regions, second.reused_bytes), (first.regions, first.bytes));
    assert!(cache.len_bytes() > 0 && cache.len_bytes() <= 1 << 20);
}

/// What one guest holds does not decide what is said of another.
#[test]
fn a_cache_serves_guests_with_other_content() {
    let rules = rules(r#"rule here { strings: $a = "Lynceus-Only-Here" condition: $a }"#);
    let cache = ScanCache::new(1 << 20).expect("a cache");
    let wanted = Wanted { cache: Some(&cache), ..Wanted::new(&rules, EVERYWHERE) };
    let clean = Hostile::new();
    assert_eq!(scan(&clean, &wanted).0.items, []);
    let mut infected = clean.clone();
    let (_, pages) = private_pages(&infected, "lab-plain");
    infected.memory.write(Gpa(pages[2].2.0 + 3000), b"Lynceus-Only-Here");
    let (found, summary) = scan(&infected, &wanted);
    assert_eq!(found.items.len(), 1);
    assert!(summary.reused_bytes * 10 > summary.bytes * 9, "{summary:?}");
    assert_eq!(scan(&clean, &wanted).0.items, []);
    // Other rules: nothing of it counts.
    let other = self::rules(r#"rule any { condition: uint32(0) == 0x464c457f }"#);
    let (found, _) = scan(&clean, &Wanted { rules: &other, ..wanted });
    assert_eq!(found.items, scan(&clean, &Wanted::new(&other, EVERYWHERE)).0.items);
}
