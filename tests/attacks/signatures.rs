//! Signatures that hide in how memory is laid out: across pages, behind holes, in processes that are not listed.

use crate::hostile::Hostile;
use lynceus_introspect::linux::{Map, Task};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gpa, Gva, Partial};
use lynceus_scanners::signatures::{self, Rules, ScanCache, Scope, Wanted};
use lynceus_scanners::{Finding, Subject};

const NEEDLE: &[u8] = b"Lynceus-Test-Signature-7f3a91c2!";
const RULE: &str = r#"
rule planted { meta: severity = 90 strings: $a = "Lynceus-Test-Signature-7f3a91c2!" condition: $a }
rule pair { strings: $a = "Lynceus-First-Half-55d0" $b = "Lynceus-Other-Half-c7e1" condition: all of them }
"#;
pub(crate) const EVERYWHERE: Scope =
    Scope { processes: true, files: true, kernel: true, physical: false, pid: None };

/// Rules with this text.
pub(crate) fn rules(text: &str) -> Rules {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("some.yar");
    std::fs::write(&file, text).expect("a file");
    Rules::load(&[file]).expect("rules")
}

fn scan(guest: &Hostile, scope: Scope) -> Partial<Finding> {
    let attached = guest.attach().expect("its kernel");
    let mut told = 0;
    let (found, _) = signatures::scan(
        &attached.guest,
        &Options::default(),
        &Wanted::new(&rules(RULE), scope),
        &mut |_| told += 1,
    );
    assert!(told > 0, "no region was scanned");
    found
}

/// Where the matches of a rule are.
fn places(found: &Partial<Finding>, rule: &str) -> Vec<u64> {
    let rules = found.items.iter().filter_map(|finding| finding.rule.as_ref());
    rules.filter(|found| found.rule == rule).flat_map(|rule| rule.strings.iter().map(|s| s.address)).collect()
}

/// A process, and the pages of its memory that are there, in writable maps of its own.
pub(crate) fn private_pages(guest: &Hostile, comm: &str) -> (Task, Vec<(Map, Gva, Gpa)>) {
    let task = guest.task(comm);
    let mm = guest.mm(comm);
    let pages = guest.look(|view| {
        let space = view.process_space(&mm).expect("its page tables");
        let maps = view.maps(&mm).items;
        let own = maps
            .into_iter()
            .filter(|map| map.path == "[stack]" || map.path.is_empty() || map.path == "[heap]");
        let mut pages = Vec::new();
        for map in own {
            for at in (map.start.0..map.end.0).step_by(4096).map(Gva) {
                if let Ok(found) = space.translate(at) {
                    pages.push((map.clone(), at, found.gpa));
                }
            }
        }
        pages
    });
    (task, pages)
}

#[test]
fn nothing_is_found_where_nothing_was_planted() {
    let found = scan(&Hostile::new(), EVERYWHERE);
    assert!(found.items.is_empty(), "{:#?}", found.items);
}

/// Half of it at the end of a page, half at the start of the next one, which lies elsewhere in RAM.
#[test]
fn a_signature_across_two_pages() {
    let mut guest = Hostile::new();
    let (task, pages) = private_pages(&guest, "lab-plain");
    let scattered =
        |two: &&[(Map, Gva, Gpa)]| two[1].1.0 == two[0].1.0 + 4096 && two[1].2.0 != two[0].2.0 + 4096;
    let two = pages.windows(2).find(scattered).expect("neighbours that are none in RAM");
    let (first, second) = NEEDLE.split_at(13);
    let at = two[0].1.0 + 4096 - 13;
    guest.memory.write(Gpa(two[0].2.0 + 4096 - 13), first);
    guest.memory.write(two[1].2, second);
    let found = scan(&guest, EVERYWHERE);
    assert_eq!(places(&found, "planted"), [at], "{:#?}", found.items);
    let finding = &found.items[0];
    assert_eq!(finding.severity, lynceus_scanners::Severity::Critical);
    assert!(finding.summary.contains(&format!("process {} (lab-plain)", task.pid)), "{}", finding.summary);
    let told = &finding.rule.as_ref().expect("the rule").strings[0];
    assert_eq!((told.len_bytes, told.around.0.len(), told.around.1.len()), (NEEDLE.len() as u64, 128, 128));
    // The other process's memory alone has nothing of it.
    let other = guest.task("lab-user").pid;
    assert!(scan(&guest, Scope { pid: Some(other), files: false, ..EVERYWHERE }).items.is_empty());
}

/// Two strings of one rule in one map with pages between them that are not there.
#[test]
fn a_rule_whose_strings_lie_on_both_sides_of_a_hole() {
    let mut guest = Hostile::new();
    let (_, pages) = private_pages(&guest, "lab-plain");
    let three = pages
        .windows(3)
        .find(|three| three[0].0 == three[2].0 && three[2].1.0 == three[0].1.0 + 8192)
        .expect("three pages of a map");
    guest.memory.write(Gpa(three[0].2.0 + 100), b"Lynceus-First-Half-55d0");
    guest.memory.write(Gpa(three[2].2.0 + 100), b"Lynceus-Other-Half-c7e1");
    guest.memory.take_away(three[1].2);
    let found = scan(&guest, EVERYWHERE);
    assert_eq!(places(&found, "pair"), [three[0].1.0 + 100, three[2].1.0 + 100]);
    // The page that is not there is said to be missing.
    assert!(!found.is_complete());
}

#[test]
fn a_signature_in_a_process_that_is_off_the_task_list() {
    let mut guest = Hostile::new();
    let (task, pages) = private_pages(&guest, "lab-plain");
    let (_, at, gpa) = pages[0].clone();
    guest.memory.write(Gpa(gpa.0 + 7), NEEDLE);
    let node = guest.node(&task);
    let (next, previous) = (guest.read_u64(node), guest.read_u64(Gva(node.0 + 8)));
    guest.u64(Gva(previous), next).u64(Gva(next + 8), previous);
    assert!(!guest.look(|view| view.tasks()).items.iter().any(|found| found.pid == task.pid));
    assert_eq!(places(&scan(&guest, EVERYWHERE), "planted"), [at.0 + 7]);
}

#[test]
fn a_signature_in_the_kernel_and_in_a_module() {
    let mut guest = Hostile::new();
    let module = guest.look(|view| view.modules()).items.swap_remove(0);
    let text = Gva(guest.symbol("_text").0 + 0x10_0000 + 4090);
    let inside = Gva(module.base.0 + 64);
    guest.write(text, NEEDLE).write(inside, NEEDLE);
    let found = scan(&guest, EVERYWHERE);
    let mut places = places(&found, "planted");
    places.sort();
    let mut expected = [text.0, inside.0];
    expected.sort();
    assert_eq!(places, expected);
    assert!(found.items.iter().any(|finding| finding.summary.ends_with("kernel text")));
    assert!(found.items.iter().any(|finding| finding.summary.ends_with(&format!("module {}", module.name))));
}

/// In RAM that no process has: only a scan of all RAM sees it, once, though pieces of it overlap.
#[test]
fn a_signature_in_memory_that_nobody_owns() {
    let mut guest = Hostile::new();
    let scratch = guest.scratch(40 << 20);
    // Across the end of a piece, and in what two pieces share.
    let start = guest.gpa(scratch).0;
    let places_of_it = [start + (4 << 20) - 2000, start + (8 << 20) - 4096 - 9];
    places_of_it.into_iter().for_each(|at| guest.memory.write(Gpa(at), NEEDLE));
    assert!(scan(&guest, EVERYWHERE).items.is_empty());
    let all = Scope { physical: true, processes: false, files: false, ..EVERYWHERE };
    assert_eq!(places(&scan(&guest, all), "planted"), places_of_it);
}

/// The page cache has the files as they are: `busybox` as it is on this machine, a deleted program, one in a memfd.
#[test]
fn cached_files_are_the_files_themselves() {
    use sha2::{Digest, Sha256};
    let here: String = Sha256::digest(std::fs::read("/bin/busybox").expect("busybox"))
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let rule = r#"rule program { condition: uint32(0) == 0x464c457f and filesize > 10KB }
        rule box { condition: filename == "busybox" and filepath == "/bin/busybox" and filesize > 100KB and owner == "0" and extension == "" }"#;
    let rules = rules(rule);
    for guest in [Hostile::new(), Hostile::old()] {
        let attached = guest.attach().expect("its kernel");
        let scope = Scope { processes: false, kernel: false, ..EVERYWHERE };
        let (found, _) =
            signatures::scan(&attached.guest, &Options::default(), &Wanted::new(&rules, scope), &mut |_| ());
        assert!(found.is_complete(), "{:?}", found.gaps);
        let of = |name: &str| {
            let mut all = found
                .items
                .iter()
                .filter(|finding| finding.rule.as_ref().is_some_and(|rule| rule.rule == name));
            let subjects: Vec<Subject> = all.by_ref().map(|finding| finding.subject.clone()).collect();
            subjects
        };
        let [Subject::File { path, sha256, deleted: false, .. }] = &of("box")[..] else {
            panic!("{:?}", of("box"))
        };
        assert_eq!((path.as_str(), sha256.as_deref()), ("/bin/busybox", Some(here.as_str())));
        let gone: Vec<_> = of("program")
            .into_iter()
            .filter(|file| matches!(file, Subject::File { deleted: true, .. }))
            .collect();
        assert!(gone.len() >= 2, "a deleted program and a memfd: {gone:?}");
    }
}

/// Looked at again and again, while signatures come, move and go: what a scan that knows the earlier ones finds is what a full scan finds.
#[test]
fn what_changes_between_scans_is_found_as_a_full_scan_finds_it() {
    let header = r#"rule linked { strings: $a = "BusyBox v" $b = "Lynceus-Test-Signature" condition: uint32(0) == 0x464c457f and any of them }"#;
    let rules = rules(&format!("{RULE}{header}"));
    let cache = ScanCache::new(16 << 20).expect("random numbers");
    let mut guest = Hostile::new();
    let (_, pages) = private_pages(&guest, "lab-plain");
    let neighbours: Vec<_> =
        pages.windows(2).filter(|pair| pair[0].1.0 + 4096 == pair[1].1.0).map(|pair| pair[0].2).collect();
    let next = |at: Gpa| {
        let place = pages.iter().position(|(.., gpa)| *gpa == at).expect("one of them");
        pages[place + 1].2
    };
    let across = [neighbours.first(), neighbours.last()].map(|at| *at.expect("pages side by side"));
    let (head, tail) = NEEDLE.split_at(11);
    let end = |at: Gpa| Gpa(at.0 + 4096 - 11);
    // Nothing; nothing again; one in a page; half of one; its other half in the next page; the first half is gone; another one elsewhere.
    let rounds: [&[(Gpa, &[u8])]; 7] = [
        &[],
        &[],
        &[(pages[0].2, NEEDLE)],
        &[(end(across[1]), head)],
        &[(next(across[1]), tail)],
        &[(end(across[1]), b"-----------")],
        &[(pages[0].2, b"Lynceus-Test-Sig-------"), (end(across[0]), head), (next(across[0]), tail)],
    ];
    let mut found_planted = Vec::new();
    for (round, writes) in rounds.iter().enumerate() {
        writes.iter().for_each(|(at, bytes)| guest.memory.write(*at, bytes));
        let attached = guest.attach().expect("its kernel");
        let scan = |cache| {
            let wanted = Wanted { cache, ..Wanted::new(&rules, EVERYWHERE) };
            signatures::scan(&attached.guest, &Options::default(), &wanted, &mut |_| ())
        };
        let ((full, _), (again, summary)) = (scan(None), scan(Some(&cache)));
        assert_eq!(again.items, full.items, "round {round}");
        assert_eq!(again.gaps, full.gaps, "round {round}");
        assert!(
            round == 0 || summary.reused_regions > 0,
            "round {round}: nothing is known again: {summary:?}"
        );
        assert!(
            full.items.iter().any(|finding| finding.rule.as_ref().is_some_and(|rule| rule.rule == "linked"))
        );
        found_planted.push(places(&full, "planted").len());
    }
    assert_eq!(found_planted, [0, 0, 1, 1, 2, 1, 1]);
}
