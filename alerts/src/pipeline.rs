//! What the appliance uses: alerts go in, and sooner or later every sink has them.
//!
//! *Does*: leads alerts through the funnel into the spool and runs a thread for each sink.
//! *Never*: returns from [`Pipeline::raise`] before the alert is on disk, or counted as a repeat or as one too many.

use crate::alert::Alert;
use crate::config::{Config, ConfigError};
use crate::funnel::Funnel;
use crate::spool::{Damage, Spool, SpoolError};
use crate::stats::Stats;
use crate::worker::Worker;
use crate::{health, limits};
use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Raised together at most; more are taken in turn.
const MAX_TOGETHER: usize = 256;
/// Enter the spool together or not at all.
const MAX_PART: usize = 32;
/// How often repeats and suppressed alerts are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Damaged places that are remembered so that they are told once.
const MAX_TOLD_DAMAGE: usize = 4096;

/// Why the pipeline could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// What is configured is wrong.
    #[error("the alerts' configuration is wrong: {}", join(.0))]
    Config(Vec<ConfigError>),
    /// The spool: alerts are not kept.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// An alert is no JSON. It would be an error in this program.
    #[error("an alert cannot be encoded: {0}")]
    Encoding(#[from] serde_json::Error),
}

/// Alerts go in, and sooner or later every sink has them.
pub struct Pipeline {
    inner: Arc<Inner>,
    workers: Mutex<Vec<Worker>>,
    ticker: Option<JoinHandle<()>>,
}

/// What the threads share.
pub(crate) struct Inner {
    pub(crate) spool: Spool,
    started: Instant,
    funnel: Mutex<Funnel>,
    refusals: Mutex<Refusals>,
    told_damage: Mutex<HashSet<Damage>>,
    closing: Mutex<bool>,
    closed: Condvar,
}

/// Alerts that could not be kept.
#[derive(Default)]
struct Refusals {
    total: u64,
    /// Since it last worked.
    now: u64,
    /// The number at which it is told again.
    tell_at: u64,
    reason: String,
    /// The spool was full; otherwise the disk failed.
    full: bool,
}

impl Pipeline {
    /// Opens the spool and starts a thread for each sink.
    pub fn open(config: &Config) -> Result<Pipeline, PipelineError> {
        config.check().map_err(PipelineError::Config)?;
        let (spool, torn) = Spool::open(&config.spool, config.max_bytes)?;
        let inner = Arc::new(Inner {
            spool,
            started: Instant::now(),
            funnel: Mutex::new(Funnel::new(config.funnel.clone())),
            refusals: Mutex::new(Refusals::default()),
            told_damage: Mutex::new(HashSet::new()),
            closing: Mutex::new(false),
            closed: Condvar::new(),
        });
        let mut pipeline = Pipeline { inner, workers: Mutex::new(Vec::new()), ticker: None };
        if let Some(torn) = &torn {
            pipeline.inner.tell_damage(torn);
        }
        pipeline.start(config)?;
        let inner = pipeline.inner.clone();
        let ticker = std::thread::Builder::new().name("alerts".to_owned()).spawn(move || inner.tick());
        pipeline.ticker = Some(ticker.map_err(PipelineError::Thread)?);
        Ok(pipeline)
    }
    /// Raises one alert. Returns when it is on disk, or counted as a repeat or as one too many.
    pub fn raise(&self, alert: Alert) -> Result<(), PipelineError> {
        self.raise_all(vec![alert])
    }
    /// Raises several, in this order, with one wait for the disk. An error means that some are not kept; they are told later where they are
    /// still known by then, and counted.
    pub fn raise_all(&self, alerts: Vec<Alert>) -> Result<(), PipelineError> {
        let mut alerts = alerts.into_iter().peekable();
        while alerts.peek().is_some() {
            let some: Vec<Alert> = alerts.by_ref().take(MAX_TOGETHER).collect();
            let now = self.inner.now();
            self.inner
                .pass(|funnel, told| some.into_iter().for_each(|alert| funnel.offer(alert, now, told)))?;
        }
        Ok(())
    }
    /// How it is.
    pub fn stats(&self) -> Stats {
        let usage = self.inner.spool.usage();
        let totals = lock(&self.inner.funnel).totals();
        let mut sinks: Vec<_> = lock(&self.workers).iter().map(Worker::stats).collect();
        for sink in &mut sinks {
            sink.lag = self.inner.spool.waiting(&sink.name);
        }
        Stats {
            spool_bytes: usage.bytes,
            written: usage.appended,
            raised: totals.raised,
            repeated: totals.repeated,
            suppressed: totals.suppressed,
            refused: lock(&self.inner.refusals).total,
            sinks,
        }
    }
    /// Other sinks, intervals and rates from now on; the spool stays where it is. A configuration that is wrong changes nothing.
    pub fn reconfigure(&self, config: &Config) -> Result<(), PipelineError> {
        config.check().map_err(PipelineError::Config)?;
        lock(&self.inner.funnel).reconfigure(config.funnel.clone());
        self.start(config)
    }
    /// Tells what is only counted so far, gives the sinks `patience` to take what there is, and ends. What they do not take stays on disk.
    /// A sink that waits for its receiver then has a second to notice; until it does, the spool stays locked.
    pub fn close(mut self, patience: Duration) {
        let until = Instant::now() + patience;
        *lock(&self.inner.closing) = true;
        self.inner.closed.notify_all();
        if let Some(ticker) = self.ticker.take() {
            ticker.join().ok();
        }
        self.inner.spool.stop();
        let workers = std::mem::take(&mut *lock(&self.workers));
        wait_for(&workers, until);
        workers.iter().for_each(Worker::cancel);
        wait_for(&workers, Instant::now() + TICK);
    }
    /// Ends the threads of sinks that are gone or changed, and starts those that are new or changed.
    fn start(&self, config: &Config) -> Result<(), PipelineError> {
        let mut workers = lock(&self.workers);
        let (kept, gone) = std::mem::take(&mut *workers)
            .into_iter()
            .partition(|worker: &Worker| config.sinks.contains(&worker.config));
        *workers = kept;
        gone.iter().for_each(Worker::cancel);
        self.inner.spool.wake();
        let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        self.inner.spool.keep_sinks(&names)?;
        let expendable = config.sinks.iter().filter(|sink| !sink.required);
        self.inner.spool.expend(&expendable.map(|sink| sink.name.as_str()).collect::<Vec<_>>());
        for sink in &config.sinks {
            if !workers.iter().any(|worker| worker.config == *sink) {
                workers.push(Worker::start(&self.inner, sink.clone()).map_err(PipelineError::Thread)?);
            }
        }
        Ok(())
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        *lock(&self.inner.closing) = true;
        self.inner.closed.notify_all();
        self.inner.spool.stop();
        lock(&self.workers).iter().for_each(Worker::cancel);
    }
}

impl Inner {
    /// Has the funnel decide, and writes what is to be told in the order in which it decided.
    fn pass(&self, decide: impl FnOnce(&mut Funnel, &mut Vec<Alert>)) -> Result<(), PipelineError> {
        let mut told = Vec::new();
        let mut funnel = lock(&self.funnel);
        decide(&mut funnel, &mut told);
        if told.is_empty() {
            return Ok(());
        }
        let payloads: Vec<Vec<u8>> = told.iter_mut().map(limits::bounded_json).collect::<Result<_, _>>()?;
        // In small parts: what is left of a spool that is nearly full is used, and much that is due at once never waits for room for all.
        let mut tickets = Vec::new();
        let mut outcome = Ok(());
        for part in payloads.chunks(MAX_PART) {
            match self.spool.enqueue(part) {
                Ok(ticket) => tickets.push(ticket),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        drop(funnel);
        let mut parts = told.chunks(MAX_PART);
        for ticket in tickets {
            let part = parts.next().unwrap_or_default();
            if let Err(error) = self.spool.wait(ticket) {
                self.take_back(part, &error);
                outcome = Err(error);
            }
        }
        let Err(error) = outcome else { return Ok(()) };
        parts.for_each(|part| self.take_back(part, &error));
        self.tell_refusals();
        match error {
            // It is counted and told, and who raises can do nothing about it. A disk that cannot be written to is another matter.
            SpoolError::Full { .. } => Ok(()),
            error => Err(error.into()),
        }
    }
    /// Counts what could not be kept.
    fn take_back(&self, alerts: &[Alert], error: &SpoolError) {
        let mut funnel = lock(&self.funnel);
        let new = alerts.iter().filter(|alert| funnel.take_back(alert)).count() as u64;
        drop(funnel);
        let mut refusals = lock(&self.refusals);
        refusals.total += new;
        refusals.now += new;
        refusals.reason = error.to_string();
        refusals.full = matches!(error, SpoolError::Full { .. });
    }
    /// Tells at once, and then when there are ten times as many.
    fn tell_refusals(&self) {
        let mut refusals = lock(&self.refusals);
        if refusals.now == 0 || refusals.now < refusals.tell_at {
            return;
        }
        refusals.tell_at = refusals.now.saturating_mul(10);
        let alert = health::refused(refusals.now, &refusals.reason, true);
        drop(refusals);
        // Where this fails too, it is told when the disk can be written to again.
        self.write_own(alert).ok();
    }
    /// Says that alerts are kept again, once there is some room: not after each one that happens to fit.
    fn recovered(&self) {
        let refusals = lock(&self.refusals);
        if refusals.now == 0 || refusals.full && !self.spool.has_room() {
            return;
        }
        let (count, alert) = (refusals.now, health::refused(refusals.now, &refusals.reason, false));
        drop(refusals);
        if self.write_own(alert).is_ok() {
            let mut refusals = lock(&self.refusals);
            refusals.now = refusals.now.saturating_sub(count);
            refusals.tell_at = 0;
        }
    }
    /// Tells what sinks missed that a full spool does not wait for.
    fn tell_missed(&self) {
        for (sink, count) in self.spool.take_missed() {
            self.tell(health::missed(&sink, count));
        }
    }
    /// An alert of the pipeline's own. Where it cannot be written it is counted with those that could not be kept.
    pub(crate) fn tell(&self, alert: Alert) {
        if self.write_own(alert).is_err() {
            let mut refusals = lock(&self.refusals);
            refusals.total += 1;
            refusals.now += 1;
        }
    }
    /// Into the part of the spool that is kept free for this.
    fn write_own(&self, mut alert: Alert) -> Result<(), PipelineError> {
        let payload = limits::bounded_json(&mut alert)?;
        Ok(self.spool.wait(self.spool.enqueue_reserved(&[payload])?)?)
    }
    /// Tells each damaged place once, whichever sinks come across it.
    pub(crate) fn tell_damage(&self, damage: &Damage) {
        let mut told = lock(&self.told_damage);
        if told.len() < MAX_TOLD_DAMAGE && told.insert(damage.clone()) {
            drop(told);
            self.tell(health::damaged(damage));
        }
    }
    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
    fn tick(&self) {
        let mut closing = lock(&self.closing);
        while !*closing {
            drop(closing);
            let now = self.now();
            // What cannot be written is counted where it is refused, and stays due.
            self.pass(|funnel, told| funnel.due(now, told)).ok();
            // It is tried again: a disk may have been too full even for the end of a file's life.
            self.spool.tidy().ok();
            self.recovered();
            self.tell_missed();
            closing = lock(&self.closing);
            if !*closing {
                closing = self.closed.wait_timeout(closing, TICK).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        drop(closing);
        let now = self.now();
        self.pass(|funnel, told| funnel.flush(now, told)).ok();
    }
}

fn wait_for(workers: &[Worker], until: Instant) {
    while Instant::now() < until && !workers.iter().all(Worker::is_finished) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn join(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
