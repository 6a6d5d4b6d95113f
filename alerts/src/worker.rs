//! One thread for each sink: from the spool, encoded, to its place, again and again.
//!
//! *Does*: reads from the sink's cursor, sends batches, acknowledges what was taken, and tries again with growing pauses.
//! *Trusts*: [`Sink::deliver`](crate::sinks::Sink::deliver) to say honestly what the place has.
//! *Never*: goes past an alert that the sink has not taken or rejected for good.

use crate::alert::Alert;
use crate::config::SinkConfig;
use crate::encode::{self, Origin};
use crate::health;
use crate::pipeline::Inner;
use crate::sinks::{self, Event, Rejected, Sink, SinkError};
use crate::spool::{Reader, Wait};
use crate::stats::{SinkState, SinkStats};
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Alerts in a batch.
const MAX_BATCH: usize = 500;
/// Fewer than these wait for each other where a batch is costly.
const SMALL_BATCH: usize = 100;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(60);
const REJECTED_EVERY: Duration = Duration::from_secs(3600);
const IDLE: Duration = Duration::from_secs(1);

/// A running sink.
pub(crate) struct Worker {
    pub(crate) config: SinkConfig,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and its owner share.
struct Shared {
    stats: Mutex<SinkStats>,
    cancelled: Mutex<bool>,
    cancel: Condvar,
}

impl Worker {
    /// Starts it.
    pub(crate) fn start(inner: &Arc<Inner>, config: SinkConfig) -> std::io::Result<Worker> {
        let stats = SinkStats { name: config.name.clone(), ..SinkStats::default() };
        let shared = Arc::new(Shared {
            stats: Mutex::new(stats),
            cancelled: Mutex::new(false),
            cancel: Condvar::new(),
        });
        let (inner, own) = (inner.clone(), (config.clone(), shared.clone()));
        let run = move || {
            let mut broken = false;
            while !run_once(&inner, &own.0, &own.1, broken) {
                if !broken {
                    inner.tell(health::down(&own.0.name, "a moment", "a mistake in this program"));
                }
                broken = true;
                pause(&own.1, LAST_PAUSE);
            }
            lock(&own.1.stats).state = SinkState::Stopped;
        };
        let thread = std::thread::Builder::new().name(format!("sink {}", config.name)).spawn(run)?;
        Ok(Worker { config, shared, thread: Some(thread) })
    }
    /// How it is.
    pub(crate) fn stats(&self) -> SinkStats {
        lock(&self.shared.stats).clone()
    }
    /// It comes to an end as soon as it can, whatever is left to send.
    pub(crate) fn cancel(&self) {
        *lock(&self.shared.cancelled) = true;
        self.shared.cancel.notify_all();
    }
    /// Whether it has come to an end.
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// Runs until it is to end; false where it ended by a panic. A mistake in one sink must not silence it for good; that it was `broken` before
/// has been told.
fn run_once(inner: &Arc<Inner>, config: &SinkConfig, shared: &Arc<Shared>, broken: bool) -> bool {
    let run = Run {
        reader: inner.spool.reader(&config.name),
        inner: inner.clone(),
        config: config.clone(),
        origin: Origin::here(),
        shared: shared.clone(),
        sink: None,
        failing: broken.then(|| Failing { since: Instant::now(), pause: FIRST_PAUSE, told: true }),
        rejected: 0,
        rejected_told: None,
    };
    std::panic::catch_unwind(AssertUnwindSafe(|| run.run())).is_ok()
}

fn pause(shared: &Shared, time: Duration) {
    let cancelled = lock(&shared.cancelled);
    drop(shared.cancel.wait_timeout_while(cancelled, time, |cancelled| !*cancelled));
}

/// The thread's own state.
struct Run {
    inner: Arc<Inner>,
    config: SinkConfig,
    origin: Origin,
    shared: Arc<Shared>,
    reader: Reader,
    sink: Option<Box<dyn Sink>>,
    failing: Option<Failing>,
    /// Rejected for good and not told yet.
    rejected: u64,
    rejected_told: Option<Instant>,
}

/// Since when it does not work.
struct Failing {
    since: Instant,
    pause: Duration,
    told: bool,
}

impl Run {
    fn run(mut self) {
        while !self.is_cancelled() {
            match self.reader.next(MAX_BATCH) {
                Ok(piece) if piece.records.is_empty() && piece.damage.is_empty() => {
                    if self.reader.wait(IDLE) == Wait::Stopped {
                        break;
                    }
                }
                Ok(piece) => {
                    piece.damage.iter().for_each(|damage| self.inner.tell_damage(damage));
                    if !self.send(&piece.records) {
                        break;
                    }
                }
                Err(error) => self.failed(&SinkError::Later(error.to_string())),
            }
        }
    }
    /// Sends until it is taken. False when cancelled.
    fn send(&mut self, records: &[(u64, Vec<u8>)]) -> bool {
        let Some((last, _)) = records.last() else { return true };
        let (events, mut rejected) = self.encode(records);
        while !events.is_empty() {
            if self.is_cancelled() {
                return false;
            }
            match self.deliver(&events) {
                Ok(more) => {
                    rejected.extend(more);
                    self.succeeded(events.len());
                    break;
                }
                Err(error) => self.failed(&error),
            }
        }
        self.tell_rejected(&rejected);
        if let Err(error) = self.inner.spool.acknowledge(&self.config.name, *last) {
            lock(&self.shared.stats).last_error = Some(error.to_string());
        }
        // With much to send there is no reason to wait.
        if records.len() < SMALL_BATCH {
            pause(&self.shared, self.sink.as_ref().map_or(Duration::ZERO, |sink| sink.pace()));
        }
        true
    }
    fn deliver(&mut self, events: &[Event]) -> Result<Vec<Rejected>, SinkError> {
        if self.sink.is_none() {
            self.sink = Some(sinks::open(&self.config, &self.origin)?);
        }
        let Some(sink) = &mut self.sink else { return Ok(Vec::new()) };
        sink.deliver(events)
    }
    fn encode(&self, records: &[(u64, Vec<u8>)]) -> (Vec<Event>, Vec<Rejected>) {
        let (mut events, mut rejected) = (Vec::new(), Vec::new());
        for (sequence, payload) in records {
            match serde_json::from_slice::<Alert>(payload) {
                Ok(alert) if alert.severity() < self.config.min_severity => {}
                Ok(mut alert) => {
                    alert.sequence = Some(*sequence);
                    let text = encode::line(&alert, self.config.format, &self.origin);
                    events.push(Event { alert, text });
                }
                Err(error) => rejected.push(Rejected { sequence: *sequence, reason: error.to_string() }),
            }
        }
        (events, rejected)
    }
    fn succeeded(&mut self, delivered: usize) {
        let mut stats = lock(&self.shared.stats);
        stats.delivered += delivered as u64;
        stats.state = SinkState::Up;
        stats.last_success = Some(SystemTime::now());
        drop(stats);
        if self.failing.take().is_some_and(|failing| failing.told) {
            self.inner.tell(health::back(&self.config.name));
        }
    }
    /// Tells when it is time to, and pauses: longer each time, and not at the same moments as others.
    fn failed(&mut self, error: &SinkError) {
        self.sink = None;
        let refused = matches!(error, SinkError::Refused(_));
        let mut stats = lock(&self.shared.stats);
        stats.failed += 1;
        stats.state = if refused { SinkState::Refused } else { SinkState::Down };
        stats.last_error = Some(error.to_string());
        drop(stats);
        let failing =
            self.failing.get_or_insert(Failing { since: Instant::now(), pause: FIRST_PAUSE, told: false });
        let lasted = failing.since.elapsed();
        if !failing.told && (refused || lasted.as_secs() >= self.config.down_after_s) {
            failing.told = true;
            let (name, reason) = (&self.config.name, error.to_string());
            let told = if refused {
                health::untrusted(name, &reason)
            } else {
                health::down(name, &format!("{} s", lasted.as_secs()), &reason)
            };
            self.inner.tell(told);
        }
        let time = failing.pause;
        failing.pause = (time * 2).min(LAST_PAUSE);
        pause(&self.shared, jittered(time));
    }
    /// Once in a while, with what came together: this alert may be rejected too.
    fn tell_rejected(&mut self, rejected: &[Rejected]) {
        let Some(first) = rejected.first() else { return };
        lock(&self.shared.stats).rejected += rejected.len() as u64;
        self.rejected += rejected.len() as u64;
        if self.rejected_told.is_none_or(|told| told.elapsed() >= REJECTED_EVERY) {
            self.rejected_told = Some(Instant::now());
            let count = std::mem::take(&mut self.rejected);
            let example = format!("alert {}: {}", first.sequence, first.reason);
            self.inner.tell(health::rejected(&self.config.name, count, &example));
        }
    }
    fn is_cancelled(&self) -> bool {
        *lock(&self.shared.cancelled)
    }
}

/// Between half of `pause` and all of it.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 1000;
    pause / 2 + pause.mul_f64(random as f64 / 2000.0)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
