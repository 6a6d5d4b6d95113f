//! What looks at a real guest's image cost: `LYNCEUS_BENCH_IMAGE=RAW cargo bench -p lynceus-introspect --bench guest`.
//!
//! Prints a line a figure: name, a tab, nanoseconds (medians of 15 rounds) or a count. `cargo xtask bench` makes the image.

use lynceus_introspect::linux::{Connection, Endpoint, LinuxGuest, Protocol, Socket, Task, View};
use lynceus_introspect::memory::ReadError;
use lynceus_introspect::observe::Options;
use lynceus_introspect::{GpaRange, GuestMemory, Partial, SharedMemory, Stability, backend::map, find};
use lynceus_profiles::store::ProfileStore;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// A mapped image that calls itself moving, so that looks are validated as on a live guest.
struct Moving {
    map: map::ReadOnlyMap,
    ram: [GpaRange; 1],
}

impl GuestMemory for Moving {
    fn read(&self, at: lynceus_introspect::Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        self.map.copy_out(at.0, buf).map_err(|why| ReadError::Lost { at, why: why.to_string() })
    }
    fn ram(&self) -> &[GpaRange] {
        &self.ram
    }
    fn stability(&self) -> Stability {
        Stability::Moving
    }
}

/// Nanoseconds of one `work`, the median of 15 rounds of `times`.
fn median(times: u32, mut work: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..15)
        .map(|_| {
            let started = Instant::now();
            (0..times).for_each(|_| work());
            started.elapsed().as_nanos() as f64 / f64::from(times)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[7]
}

fn main() {
    let Some(path) = std::env::var_os("LYNCEUS_BENCH_IMAGE") else {
        println!("LYNCEUS_BENCH_IMAGE is not set: nothing to look at (cargo xtask bench makes an image)");
        return;
    };
    let file = map::open_read_only(path.as_ref()).expect("the image opens");
    let map = map::ReadOnlyMap::whole(&file).expect("the image maps");
    let ram = [GpaRange {
        start: lynceus_introspect::Gpa(0),
        len_bytes: file.metadata().expect("its length").len(),
    }];
    let memory: SharedMemory = Arc::new(Moving { map, ram });
    let line = |name: &str, value: f64| println!("{name}\t{value:.1}");

    line(
        "attach, no symbols",
        median(1, || drop(black_box(find::attach(memory.clone()).expect("it attaches")))),
    );
    let guest = cached_attach(&memory, &line);
    line("tasks", guest.view().tasks().items.len() as f64);
    pids(&guest, &line);
    line("process list, all fields", median(20, || drop(black_box(guest.view().tasks()))));
    line("all maps", median(5, || _ = black_box(maps(&guest.view()))));
    line("maps", maps(&guest.view()) as f64);
    line("all open files", median(5, || _ = black_box(files(&guest.view()))));
    line("all sockets", median(5, || _ = black_box(sockets(&guest.view()))));
    connection(&guest, &line);
    line("task cross-view", median(3, || drop(black_box(guest.view().tasks_carved()))));
    gather(&memory, &line);
    scattered(&memory, &line);
}

/// Attaches with a profile that an earlier attach left in the store.
fn cached_attach(memory: &SharedMemory, line: &impl Fn(&str, f64)) -> LinuxGuest {
    let folder = tempfile::tempdir().expect("a folder for the store");
    let store = ProfileStore::open(folder.path().join("profiles")).expect("the store opens");
    find::attach_with(memory.clone(), Some(&store)).expect("it attaches");
    let attach = || {
        let attached = find::attach_with(memory.clone(), Some(&store)).expect("it attaches");
        assert_eq!(attached.source, find::Source::Cache);
        attached.guest
    };
    line("attach, cached profile", median(1, || drop(black_box(attach()))));
    attach()
}

fn pids(guest: &LinuxGuest, line: &impl Fn(&str, f64)) {
    let mut found = Partial::default();
    let view = guest.view();
    line("pid and name, warm", median(500, || view.pids(&mut found)));
    line("pid and name, cold caches", median(500, || guest.view().pids(&mut found)));
    let validated = || {
        let seen = guest.observe(&Options::default(), |view| {
            let mut found = Partial::default();
            view.pids(&mut found);
            found
        });
        assert!(seen.is_consistent() && seen.result.is_complete());
        black_box(seen);
    };
    line("pid and name, cold and validated", median(500, validated));
}

fn user_tasks(view: &View<'_>) -> impl Iterator<Item = Task> {
    view.tasks().items.into_iter().filter(|task| !task.mm.is_null())
}

fn maps(view: &View<'_>) -> usize {
    user_tasks(view).filter_map(|task| Some(view.maps(&view.mm(task.mm).ok()?).items.len())).sum()
}

fn files(view: &View<'_>) -> usize {
    view.tasks().items.iter().map(|task| view.files(task.files).items.len()).sum()
}

fn sockets(view: &View<'_>) -> usize {
    view.sockets_of(view.tasks().items.into_iter().map(|task| (task.pid, task.comm, task.files))).items.len()
}

/// Who has the socket of a connection, as a firewall asks: validated, and with nothing known from the question before.
fn connection(guest: &LinuxGuest, line: &impl Fn(&str, f64)) {
    let view = guest.view();
    let processes = view.tasks().items.into_iter().map(|task| (task.pid, task.comm, task.files));
    let sockets = view.sockets_of(processes).items;
    let of = |socket: &Socket| {
        let address = |end: &Endpoint| Some(SocketAddr::new(end.ip()?, end.port()?));
        let (local, remote) = (address(&socket.local)?, address(&socket.remote)?);
        Some(Connection { protocol: socket.protocol, local, remote, is_accepted: false })
    };
    let connected = |socket: &&Socket| {
        socket.protocol == Protocol::Tcp && socket.state.name() == "ESTAB" && !socket.file.is_null()
    };
    let wanted = sockets.iter().find(connected).and_then(of).expect("the guest has a connection");
    let ask = || {
        let seen = guest.observe(&Options::default(), |view| {
            let mut found: Partial<Task> = Partial::default();
            let sockets = found.absorb(view.sockets_of_connection(&wanted));
            let files: Vec<_> = sockets.iter().map(|socket| socket.file).collect();
            let holders = view.holders(&files);
            found.items = found.absorb(holders);
            found
        });
        assert!(seen.is_consistent() && !seen.result.items.is_empty());
        black_box(seen);
    };
    line("who is behind a connection, validated", median(100, ask));
}

/// All of RAM, in pieces of 1 MiB, against a copy of as many bytes of private memory.
fn gather(memory: &SharedMemory, line: &impl Fn(&str, f64)) {
    const PIECE: u64 = 1 << 20;
    let ram = memory.ram()[0];
    let mut staging = vec![0u8; PIECE as usize];
    let gathered = median(1, || {
        for start in (0..ram.len_bytes / PIECE).map(|piece| piece * PIECE) {
            memory.read(lynceus_introspect::Gpa(start), &mut staging).expect("it is RAM");
            black_box(&staging);
        }
    });
    let private = vec![1u8; ram.len_bytes as usize];
    let copied = median(1, || {
        for piece in private.chunks_exact(PIECE as usize) {
            staging.copy_from_slice(piece);
            black_box(&staging);
        }
    });
    line("gather of all RAM", gathered);
    line("memcpy of as much", copied);
}

/// 65,536 pages in an order that no prefetcher likes, and words one after the other.
fn scattered(memory: &SharedMemory, line: &impl Fn(&str, f64)) {
    const PAGES: u64 = 65_536;
    const WORDS: u64 = 1_000_000;
    let mut page = vec![0; 4096];
    let place = |n: u64| n * 7919 % PAGES * 4096;
    let private = vec![1u8; (PAGES * 4096) as usize];
    let copied = median(1, || {
        for at in (0..PAGES).map(place) {
            page.copy_from_slice(&private[at as usize..at as usize + 4096]);
            black_box(&page);
        }
    });
    let gathered = median(1, || {
        for at in (0..PAGES).map(place) {
            memory.read(lynceus_introspect::Gpa(at), &mut page).expect("it is RAM");
            black_box(&page);
        }
    });
    let words = median(1, || {
        for at in (0..WORDS).map(|n| n * 8) {
            let mut word = [0; 8];
            memory.read(lynceus_introspect::Gpa(black_box(at)), &mut word).expect("it is RAM");
            black_box(word);
        }
    });
    line("a scattered page, gathered", gathered / PAGES as f64);
    line("a scattered page, memcpy", copied / PAGES as f64);
    line("a read of 8 bytes", words / WORDS as f64);
}
