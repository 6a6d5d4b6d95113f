//! EICAR and forty signatures in every place where malware lies in memory, each found, and found once.

use crate::hostile::Hostile;
use crate::signatures::{EVERYWHERE, private_pages};
use lynceus_introspect::linux::CachedFile;
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gpa, Gva};
use lynceus_scanners::Subject;
use lynceus_scanners::signatures::{self, Rules, Scope, Wanted};
use std::collections::BTreeMap;

const PAGE: u64 = 4096;
/// Regions are copied in steps, and all RAM is cut into pieces, at multiples of these.
const STEP: u64 = 128 << 10;
const PIECE: u64 = 4 << 20;
const PIECE_STRIDE: u64 = PIECE - PAGE;

/// A signature and the region in which it must be found, at which address.
struct Planted {
    text: Vec<u8>,
    place: &'static str,
    address: u64,
}

/// Not in one piece anywhere in this repository: a scanner on the developer's machine would take the file away.
fn eicar() -> Vec<u8> {
    [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$", "EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!", "$H+H*"]
        .concat()
        .into_bytes()
}

fn signature(number: usize) -> Vec<u8> {
    match number {
        0 => eicar(),
        _ => {
            let mark = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            format!("Lynceus-Planted-{number:02}-{mark:016x}").into_bytes()
        }
    }
}

fn rules(count: usize) -> Rules {
    let bytes = |number| signature(number).iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
    let rule =
        |number| format!("rule planted_{number} {{ strings: $a = {{ {} }} condition: $a }}\n", bytes(number));
    crate::signatures::rules(&(0..count).map(rule).collect::<String>())
}

/// Writes signatures one after the other.
struct Planter {
    guest: Hostile,
    planted: Vec<Planted>,
}

impl Planter {
    /// Plants the next signature where `gpa_of` says that an address of the place lies.
    fn plant(&mut self, place: &'static str, address: u64, gpa_of: impl Fn(u64) -> Gpa) {
        let text = signature(self.planted.len());
        for (distance, byte) in text.iter().enumerate() {
            self.guest.memory.write(gpa_of(address + distance as u64), &[*byte]);
        }
        self.planted.push(Planted { text, place, address });
    }

    fn in_file(&mut self, place: &'static str, file: &CachedFile, offset: u64) {
        let at = |offset: u64| {
            let page = offset / PAGE;
            let run = file.pages.iter().find(|(first, _, count)| (*first..first + count).contains(&page));
            let (first, gpa, _) = run.expect("a page that is in memory");
            Gpa(gpa.0 + (page - first) * PAGE + offset % PAGE)
        };
        self.plant(place, offset, at);
    }

    fn files(&mut self) {
        let files = self.guest.look(|view| view.cached_files()).items;
        let find = |path: &str, deleted| {
            let meant = |file: &&CachedFile| {
                (file.links == 0) == deleted && file.path.as_deref().is_some_and(|p| p.starts_with(path))
            };
            files.iter().filter(meant).max_by_key(|file| file.size_bytes).expect("a file of the lab")
        };
        let large = [("deleted", find("/lab-deleted", true)), ("memfd", find("/memfd:", true))];
        for (place, file) in large {
            for offset in [777, 5 * PAGE - 9, STEP - 17, 8 * STEP - 1, file.size_bytes - 64] {
                self.in_file(place, file, offset);
            }
        }
        // Nobody runs or maps it.
        let cached = find("/modules/bridge.ko", false);
        for offset in [1, PAGE - 30, 2 * STEP - 3, 3 * STEP + 5] {
            self.in_file("cached", cached, offset);
        }
    }

    fn heap(&mut self) {
        let (_, pages) = private_pages(&self.guest, "lab-plain");
        let gpa: BTreeMap<u64, Gpa> = pages.iter().map(|(_, at, gpa)| (at.0, *gpa)).collect();
        let at = move |address: u64| Gpa(gpa[&(address & !(PAGE - 1))].0 + address % PAGE);
        let all: Vec<Gva> = pages.iter().map(|(_, at, _)| *at).collect();
        // How much there is differs from image to image.
        let neighbours = all.windows(2).filter(|two| two[1].0 == two[0].0 + PAGE);
        let mut places: Vec<u64> =
            neighbours.take(6).enumerate().map(|(cut, two)| two[1].0 - 5 - cut as u64).collect();
        assert!(places.len() > 2, "pages that are neighbours");
        let inside =
            [600, 1700, 2800, 3300].iter().flat_map(|offset| all.iter().map(move |page| page.0 + offset));
        places.extend(inside);
        places.iter().take(15).for_each(|address| self.plant("heap", *address, &at));
    }

    fn ram(&mut self) {
        let scratch = self.guest.scratch(16 << 20);
        let start = self.guest.gpa(scratch).0;
        // Before, across and behind the end of a piece, and in what two pieces share.
        for number in 1..4 {
            let (end, next) = (start + (number - 1) * PIECE_STRIDE + PIECE, start + number * PIECE_STRIDE);
            for address in [next - 9, next + 2000, end - 11, end + 300] {
                self.plant("ram", address, Gpa);
            }
        }
    }
}

/// Every finding as the place and the address of its rule's only match, by the rule's number.
fn found(guest: &Hostile, rules: &Rules, scope: Scope) -> Vec<(usize, &'static str, u64)> {
    let attached = guest.attach().expect("its kernel");
    let wanted = Wanted { threads: 2, ..Wanted::new(rules, scope) };
    let (found, _) = signatures::scan(&attached.guest, &Options::default(), &wanted, &mut |_| ());
    assert!(found.is_complete(), "{:?}", found.gaps);
    let one = |finding: &lynceus_scanners::Finding| {
        let rule = finding.rule.as_ref().expect("a rule");
        let number = rule.rule.trim_start_matches("planted_").parse().expect("a number");
        assert_eq!(rule.strings.len(), 1, "{finding:#?}");
        let place = match &finding.subject {
            Subject::File { path, deleted: true, .. } if path.starts_with("/memfd:") => "memfd",
            Subject::File { deleted: true, .. } => "deleted",
            Subject::File { .. } => "cached",
            Subject::Memory { pid: Some(_), .. } => "heap",
            _ => "ram",
        };
        (number, place, rule.strings[0].address)
    };
    found.items.iter().map(one).collect()
}

fn each_is_found_once(guest: Hostile) {
    let mut planter = Planter { guest, planted: Vec::new() };
    planter.heap();
    planter.files();
    planter.ram();
    let Planter { guest, planted } = planter;
    assert_eq!(planted.len(), 41, "EICAR and forty");
    let rules = rules(planted.len());
    let nowhere = Scope { processes: false, files: false, kernel: false, ..EVERYWHERE };
    let own = guest.task("lab-plain").pid;
    let mut all = found(&guest, &rules, Scope { processes: true, pid: Some(own), ..nowhere });
    all.extend(found(&guest, &rules, Scope { files: true, ..nowhere }));
    let everything = found(&guest, &rules, Scope { physical: true, ..nowhere });
    all.extend(everything.iter().filter(|(number, ..)| planted[*number].place == "ram"));
    all.sort();
    let mut expected: Vec<_> =
        planted.iter().enumerate().map(|(number, one)| (number, one.place, one.address)).collect();
    expected.sort();
    assert_eq!(all, expected);
    // RAM has the others too, but for those whose halves lie in pages that are no neighbours there; none of them twice.
    let mut numbers: Vec<usize> = everything.iter().map(|(number, ..)| *number).collect();
    numbers.sort();
    let twice = numbers.windows(2).find(|two| two[0] == two[1]);
    assert_eq!(twice, None);
    let whole = planted.iter().filter(|one| {
        one.address % PAGE + one.text.len() as u64 <= PAGE && !["heap", "ram"].contains(&one.place)
    });
    assert!(numbers.len() >= whole.count() + 12, "{numbers:?}");
}

#[test]
fn each_is_found_once_on_5_10() {
    each_is_found_once(Hostile::old());
}

#[test]
fn each_is_found_once_on_6_12() {
    each_is_found_once(Hostile::newer());
}
