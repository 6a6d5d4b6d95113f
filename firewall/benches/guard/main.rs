//! What guarding costs: `cargo bench -p lynceus-firewall --bench guard`. Needs root, nft and ip.
//!
//! Prints a line a figure: name, a tab, nanoseconds, or bytes where it is about memory. A thousand VMs with fifty rules each, in a network namespace with a device for each of
//! them; packets go from one VM to another, each in a namespace of its own, through the host's rules. The state lies on a real disk.

mod memory;
mod packets;
mod site;

use lynceus_firewall::enforce;
use lynceus_firewall::nft::table::{self, Path, Tables};
use lynceus_firewall::nft::{Nft, install, update};
use lynceus_firewall::state::{self, State, Store};
use packets::Ways;
use site::{Rules, Site, policy, state};
use std::time::{Duration, Instant};

const VMS: usize = 1000;
const RULES: usize = 50;
/// How often one VM is changed.
const CHANGES: usize = 21;

fn main() {
    if memory::is_reader() {
        return;
    }
    let vms = std::env::var("LYNCEUS_BENCH_VMS").ok().and_then(|vms| vms.parse().ok()).unwrap_or(VMS);
    let started = Instant::now();
    let old = policy(vms, RULES, Rules::Tcp, false);
    tell("read and resolve", started.elapsed());
    let new = policy(vms, RULES, Rules::Tcp, true);
    let (old, new) = (state(&old), state(&new));
    let tables = compile("compile of all", &old);
    let started = Instant::now();
    std::hint::black_box((install(&tables), update(&tables, &tables)));
    tell("commands for all", started.elapsed());
    let site = Site::new(vms);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk");
    site.within(|| {
        let ways = Ways::new(&site);
        ways.measure("no rules");
        for (name, rules, of) in [
            ("2 VMs, 10 rules", 10, Rules::Tcp),
            ("2 VMs, 5000 rules", 5000, Rules::Tcp),
            ("2 VMs, 5000 rules about UDP", 5000, Rules::Udp),
            ("2 VMs, 5000 rules about UDP that overlap", 5000, Rules::Overlapping),
        ] {
            let few = state(&policy(2, rules, of, false));
            compile(&format!("compile of {name}"), &few);
            enforce_all(&folder.path().join(name), &few);
            ways.measure(name);
        }
        let store = folder.path().join("all");
        enforce::remove(&Nft::default()).expect("nft works");
        let free = memory::of_the_kernel();
        let started = Instant::now();
        let enforced = enforce_all(&store, &old);
        tell("apply of all, where no rules are yet", started.elapsed());
        tell_memory("a VM's rules, in the kernel", memory::of_the_kernel().saturating_sub(free), vms);
        tell_memory("a VM's policy, in the service", memory::of_reading(&store), vms);
        ways.measure(&format!("{vms} VMs, {RULES} rules"));
        change(&store, &enforced, &old, &new);
    });
}

fn tell(name: &str, took: Duration) {
    println!("{name}\t{}", took.as_nanos());
}

fn tell_memory(of: &str, bytes: u64, vms: usize) {
    println!("memory of {of}\t{}", bytes / vms as u64);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn compile(name: &str, state: &State) -> Tables {
    let host = state.host(Path::Routed);
    let tables = || table::tables(&host, Path::Routed, 1, &state.moment());
    let once = || {
        let started = Instant::now();
        std::hint::black_box(tables());
        started.elapsed()
    };
    tell(name, median((0..5).map(|_| once()).collect()));
    tables()
}

fn enforce_all(folder: &std::path::Path, new: &State) -> State {
    let store = Store::open(folder).expect("a store");
    let mut new = new.clone();
    enforce::enforce(&Nft::default(), &store, None, &mut new).expect("the rules are taken");
    new
}

/// One VM's rules change and change back, from the state that is read to the one that is written.
fn change(folder: &std::path::Path, enforced: &State, old: &State, new: &State) {
    let (mut whole, mut kernel, mut written) = (Vec::new(), Vec::new(), Vec::new());
    let copy = folder.join("copy");
    std::fs::create_dir(&copy)
        .and_then(|()| std::fs::copy(folder.join("enforced.json"), copy.join("enforced.json")))
        .expect("a copy");
    let started = Instant::now();
    state::peek(&copy).expect("a state");
    tell("read the old state", started.elapsed());
    let mut enforced = enforced.clone();
    for round in 0..CHANGES {
        let mut wanted = if round % 2 == 0 { new } else { old }.clone();
        let store = Store::open(folder).expect("a store");
        let before = store.enforced().expect("a state").expect("a state");
        let begun = Instant::now();
        let done = enforce::enforce(&Nft::default(), &store, Some(&before), &mut wanted)
            .expect("the change is taken");
        whole.push(begun.elapsed());
        assert!(!done.is_whole, "everything was put there anew");
        let begun = Instant::now();
        store.keep(&wanted).expect("it is kept");
        written.push(begun.elapsed());
        let begun = Instant::now();
        std::hint::black_box(enforce::change(Some(&enforced), &wanted));
        kernel.push(begun.elapsed());
        enforced = wanted;
    }
    tell("apply of one: compile, kernel, state on disk", median(whole));
    tell("apply of one: of that the difference", median(kernel));
    tell("apply of one: of that the state on disk", median(written));
}
