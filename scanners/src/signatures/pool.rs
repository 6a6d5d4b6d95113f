//! Regions, scanned by several threads: one finds them, the others scan.
//!
//! *Does*: hands regions on as they are found, small ones some at a time, and puts what came of them into the order in which they were
//! found, so that the number of threads changes nothing but the time.
//! *Never*: has more regions waiting than a few groups for each thread.

use super::judge::{Bench, Desk, Done};
use super::walk::Job;
use super::{Progress, Summary};
use crate::Finding;
use lynceus_introspect::Partial;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Regions that are handed on together, and bytes in them from which on they are: to wake a thread costs more than to know a small
/// region again.
const TOGETHER: usize = 16;
const TOGETHER_BYTES: u64 = 256 << 10;
/// Such groups that wait, for each thread.
const WAITING: usize = 2;
/// Stack of a thread that takes over a part of what another one does: what a program's first one has, for parsers of rules.
const STACK_BYTES: usize = 8 << 20;

/// Scans what `find` hands on.
pub(super) fn run(
    bench: &Bench<'_>,
    tell: &mut dyn FnMut(Progress),
    find: impl FnOnce(&mut dyn FnMut(Job)) -> Partial<Finding>,
) -> (Partial<Finding>, Summary) {
    let threads = bench.threads;
    if threads <= 1 {
        return alone(bench, tell, find);
    }
    let (send_job, jobs) = sync_channel(threads.saturating_mul(WAITING));
    let (send_done, done) = channel();
    let jobs = Arc::new(Mutex::new(jobs));
    let mut collected = Collected { done: Vec::new(), summary: Summary::default(), tell };
    let mut group = Group::default();
    let mut found = thread::scope(|scope| {
        for _ in 0..threads {
            let (jobs, send_done) = (jobs.clone(), send_done.clone());
            scope.spawn(move || work(bench, &jobs, &send_done));
        }
        // With the last thread the queue is gone: nobody waits for threads that panicked.
        drop((jobs, send_done));
        let found = find(&mut |job| {
            if group.add(job) {
                collected.hand_on(&mut group, &send_job, &done);
            }
        });
        collected.hand_on(&mut group, &send_job, &done);
        drop(send_job);
        done.iter().for_each(|done| collected.take(done));
        found
    });
    let summary = collected.put_into(&mut found);
    (found, summary)
}

/// Without a thread: to hand a small region on costs as much as to scan it.
fn alone(
    bench: &Bench<'_>,
    tell: &mut dyn FnMut(Progress),
    find: impl FnOnce(&mut dyn FnMut(Job)) -> Partial<Finding>,
) -> (Partial<Finding>, Summary) {
    let mut collected = Collected { done: Vec::new(), summary: Summary::default(), tell };
    let mut desk = Desk::default();
    let mut found = find(&mut |job| bench.judge(job, &mut desk, &mut |done| collected.take(done)));
    bench.settle(&mut desk, &mut |done| collected.take(done));
    let summary = collected.put_into(&mut found);
    (found, summary)
}

fn work(bench: &Bench<'_>, jobs: &Mutex<Receiver<Vec<Job>>>, done: &Sender<Done>) {
    let mut desk = Desk::default();
    // Whoever collects waits for all threads: it is gone only where something panicked.
    let mut tell = |one| _ = done.send(one);
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(group) = next else { break };
        group.into_iter().for_each(|job| bench.judge(job, &mut desk, &mut tell));
    }
    bench.settle(&mut desk, &mut tell);
}

/// Two pieces of work at the same time, where there may be another thread.
pub(super) fn together<A, B: Send>(one: impl FnOnce() -> A, other: impl Fn() -> B + Sync) -> (A, B) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, &other);
        let one = one();
        let other = match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => other(),
        };
        (one, other)
    })
}

/// Regions that are handed on together.
#[derive(Default)]
struct Group {
    jobs: Vec<Job>,
    bytes: u64,
}

impl Group {
    /// Whether it is to be handed on with this one.
    fn add(&mut self, job: Job) -> bool {
        self.bytes = self.bytes.saturating_add(job.layout.cost_bytes());
        self.jobs.push(job);
        self.jobs.len() >= TOGETHER || self.bytes >= TOGETHER_BYTES
    }
}

struct Collected<'t> {
    /// Regions with something to tell.
    done: Vec<Done>,
    summary: Summary,
    tell: &'t mut dyn FnMut(Progress),
}

impl Collected<'_> {
    fn hand_on(&mut self, group: &mut Group, to: &SyncSender<Vec<Job>>, done: &Receiver<Done>) {
        // Fails only when every thread is gone, and then one of them panicked, which the scope passes on.
        let _ = to.send(std::mem::take(group).jobs);
        while let Ok(done) = done.try_recv() {
            self.take(done);
        }
    }

    /// What was found, in the order of the regions.
    fn put_into(mut self, found: &mut Partial<Finding>) -> Summary {
        self.done.sort_by_key(|done| done.index);
        for done in self.done {
            let items = found.absorb(done.found);
            found.items.extend(items);
        }
        self.summary
    }

    fn take(&mut self, done: Done) {
        self.summary.add(&done.summary);
        (self.tell)(Progress { regions: self.summary.regions, bytes: self.summary.bytes });
        if !done.found.items.is_empty() || !done.found.is_complete() {
            self.done.push(done);
        }
    }
}
