//! boreal and libyara over a real guest: `cargo test --features libyara --test engines`.
//!
//! Field rule sets are compared too where `LYNCEUS_FIELD_RULES` names their folders, one or several with colons between.

use lynceus_introspect::backend::dump::Dump;
use lynceus_introspect::find;
use lynceus_introspect::linux::LinuxGuest;
use lynceus_introspect::observe::Options;
use lynceus_lab::{KernelVersion, Paging, Spec, images};
use lynceus_scanners::signatures::{self, Rules, Scope, Wanted};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

const EVERYWHERE: Scope = Scope { processes: true, files: true, kernel: true, physical: false, pid: None };

/// Rules that match here and there in any Linux guest.
const RULES: &str = r#"
import "elf"
rule program { condition: uint32(0) == 0x464c457f }
rule large_program { condition: elf.type == elf.ET_DYN and filesize > 1MB and filepath contains "lab" }
rule banner { strings: $a = /Linux version [0-9]{1,2}\.[0-9]{1,3}/ condition: $a }
rule shell { strings: $a = "/bin/sh" fullword $b = "PATH=" condition: all of them }
rule many { strings: $a = "kernel" nocase condition: #a > 20 and @a[1] < 1MB }
rule names { strings: $a = { 6c 61 62 2d [1-6] 69 6e } condition: $a }
rule late { strings: $a = "ELF" condition: $a in (2..4096) and not $a at 1 }
"#;

fn guest() -> LinuxGuest {
    let frozen = images::frozen(&Spec::new(KernelVersion::V6_12, Paging::Four)).expect("a frozen guest");
    find::attach(Arc::new(Dump::open(&frozen.ram).expect("an image"))).expect("a kernel").guest
}

/// Rules with the regions in which they match, but for rules of files that libyara refuses.
fn said(guest: &LinuxGuest, rules: &Rules, refused: &BTreeSet<String>) -> BTreeSet<(String, String)> {
    let wanted = Wanted { threads: 2, ..Wanted::new(rules, EVERYWHERE) };
    let (found, summary) = signatures::scan(guest, &Options::default(), &wanted, &mut |_| ());
    assert!(found.is_complete() && summary.cut_regions == 0, "{:?}", found.gaps);
    let matches = found.items.iter().filter_map(|finding| Some((finding.rule.as_ref()?, &finding.subject)));
    let stem = |namespace: &str| namespace.rsplit_once('#').map_or("", |(stem, _)| stem).to_owned();
    let counted = matches.filter(|(rule, _)| !refused.contains(&stem(&rule.namespace)));
    counted.map(|(rule, subject)| (rule.rule.clone(), format!("{subject:?}"))).collect()
}

fn compare(guest: &LinuxGuest, paths: &[PathBuf]) -> usize {
    let (boreal, libyara) =
        (Rules::load(paths).expect("rules"), Rules::load_for_libyara(paths).expect("rules"));
    assert!(boreal.bad().is_empty(), "{:?}", boreal.bad());
    let refused =
        libyara.bad().iter().filter_map(|bad| Some(bad.path.file_stem()?.to_string_lossy().into_owned()));
    let refused: BTreeSet<String> = refused.collect();
    println!("{} rules, {} files that libyara refuses: {refused:?}", boreal.len(), refused.len());
    let (ours, theirs) = (said(guest, &boreal, &refused), said(guest, &libyara, &refused));
    assert_eq!(ours, theirs);
    ours.len()
}

#[test]
fn libyara_says_the_same_of_a_guest() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("some.yar");
    std::fs::write(&file, RULES).expect("a file");
    let guest = guest();
    assert!(compare(&guest, &[file]) > 30);
    let Some(field) = std::env::var_os("LYNCEUS_FIELD_RULES") else {
        eprintln!("SKIPPED: field rule sets. LYNCEUS_FIELD_RULES names none.");
        return;
    };
    for path in std::env::split_paths(&field) {
        println!("{}: {} matches", path.display(), compare(&guest, std::slice::from_ref(&path)));
    }
}
