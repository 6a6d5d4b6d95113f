//! What alerts cost: `cargo bench -p lynceus-alerts --bench alerts`.
//!
//! Prints a line a figure: name, a tab, alerts a second (the best of some rounds) or nanoseconds. The spool lies in the target folder, on a real disk.

use lynceus_alerts::encode::{self, Origin};
use lynceus_alerts::{Alert, Config, Format, FunnelConfig, Pipeline, SinkConfig, SinkKind};
use lynceus_scanners::{Finding, Severity, Subject};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

const ROUNDS: usize = 3;
/// Different alerts in a round, and how many are raised together.
const ALERTS: u32 = 100_000;
const TOGETHER: usize = 256;
const SINGLE: u32 = 2000;

fn main() {
    let rate = |name: &str, alerts: u32, run: &dyn Fn(&Path) -> Duration| {
        let best = (0..ROUNDS).map(|_| run(folder().path())).min().unwrap_or_default();
        println!("{name}\t{:.1}", f64::from(alerts) / best.as_secs_f64());
    };
    rate("raised together, 256 at a time", ALERTS, &|folder| raise(folder, ALERTS, TOGETHER, 1));
    rate("raised one by one, one thread", SINGLE, &|folder| raise(folder, SINGLE, 1, 1));
    rate("raised one by one, eight threads", SINGLE, &|folder| raise(folder, SINGLE, 1, 8));
    rate("raised and delivered to a file", ALERTS, &deliver);
    let origin = Origin::here();
    for (name, format) in
        [("json", Format::Json), ("ecs", Format::Ecs), ("ocsf", Format::Ocsf), ("cef", Format::Cef)]
    {
        let sample = alert(1);
        let encode = || (0..SINGLE).map(|_| encode::line(&sample, format, &origin).len()).sum::<usize>();
        let (mut best, mut bytes) = (Duration::MAX, 0);
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            bytes = encode();
            best = best.min(begun.elapsed() / SINGLE);
        }
        println!("encode {name}\t{}", best.as_nanos());
        println!("bytes {name}\t{}", bytes / SINGLE as usize);
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk")
}

fn alert(number: u32) -> Alert {
    let finding = Finding {
        detector: "hidden_task".into(),
        technique: "T1014".into(),
        severity: Severity::High,
        summary: format!("task {number} (kworker/u8:1) is in slab pages and not in the task list"),
        subject: Subject::Task {
            pid: number,
            tgid: number,
            comm: "kworker/u8:1".to_owned(),
            address: u64::MAX,
        },
        seen_in: vec!["slab pages".into(), "run queues".into()],
        missing_from: vec!["task list".into()],
        rule: None,
    };
    Alert::new(&format!("vm-{}", number % 200), finding, SystemTime::now())
}

fn open(folder: &Path) -> Pipeline {
    let mut sink = SinkConfig::new("file", SinkKind::File);
    sink.address = Some(folder.join("log").display().to_string());
    (sink.rotate_bytes, sink.keep_files) = (1 << 30, 1);
    let config = Config {
        spool: folder.join("spool"),
        max_bytes: 4 << 30,
        // Nothing is held back: it is the disk that is measured.
        funnel: FunnelConfig { per_second: u32::MAX, burst: u32::MAX, ..FunnelConfig::default() },
        sinks: vec![sink],
    };
    Pipeline::open(&config).expect("a pipeline")
}

/// Until everything is on disk.
fn raise(folder: &Path, alerts: u32, together: usize, threads: u32) -> Duration {
    let pipeline = open(folder);
    let share = |thread: u32| (thread..alerts).step_by(threads as usize).map(alert).collect::<Vec<_>>();
    let shares: Vec<Vec<Alert>> = (0..threads).map(share).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for share in shares {
            let pipeline = &pipeline;
            scope.spawn(move || {
                let mut share = share.into_iter().peekable();
                while share.peek().is_some() {
                    pipeline.raise_all(share.by_ref().take(together).collect()).expect("it is kept");
                }
            });
        }
    });
    begun.elapsed()
}

/// Until the file has everything too.
fn deliver(folder: &Path) -> Duration {
    let pipeline = open(folder);
    let all: Vec<Alert> = (0..ALERTS).map(alert).collect();
    let begun = Instant::now();
    pipeline.raise_all(all).expect("it is kept");
    while pipeline.stats().sinks.iter().any(|sink| sink.lag > 0) {
        std::thread::sleep(Duration::from_millis(1));
    }
    begun.elapsed()
}
