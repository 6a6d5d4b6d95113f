//! A worker, as its supervisor sees it.
//!
//! *Does*: starts the process, passes requests on, turns what it says into events, tells how it ended and what it costs. *Trusts*: the host kernel's
//! word on that. *Never*: waits for a worker: whatever one does, the supervisor goes on.

use super::Event;
use super::groups::{self, Group, Room};
use super::kernels;
use super::protocol::{self, Begin, Channel, Reply, Request};
use super::schedule::VmId;
use crate::output::escape;
use crate::sandbox::End;
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Threads that wait for a line need no more.
const STACK_BYTES: usize = 256 << 10;
/// The longest line of a worker's standard error that is told, and how many lines.
const MAX_ERROR_BYTES: u64 = 2000;
const MAX_ERROR_LINES: usize = 200;
/// A worker that does not take a request within this time does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// What hangs up has closed its end, and ends within so many times this.
const LAST_BREATH: Duration = Duration::from_millis(2);
const LAST_BREATHS: u32 = 50;

/// Tells workers of one VM, that follow each other, apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct WorkerId {
    /// Whose it is.
    pub(super) vm: VmId,
    /// The how manieth.
    pub(super) turn: u64,
}

/// What a worker wrote last to its standard error.
type LastWords = Arc<Mutex<String>>;

/// A process that looks at a VM.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    process: Process,
    stream: UnixStream,
    /// Its CPU time when last asked for.
    spent: Duration,
    /// The last line of its standard error.
    last_words: LastWords,
}

impl Worker {
    /// Starts a worker. What it says comes as events.
    pub(super) fn start(
        id: WorkerId,
        begin: &Begin,
        room: &Room,
        events: &SyncSender<Event>,
    ) -> Result<Worker> {
        let (mut process, mut ours) = Process::start(room)?;
        let last_words = LastWords::default();
        let begun = protocol::send(&mut ours, begin).context("a worker does not read");
        let reader = begun.and_then(|()| ours.try_clone().context("no second handle of a socket"));
        listen(id, reader?, events.clone())?;
        process.errors().map_or(Ok(()), |errors| repeat(begin.vm.clone(), errors, last_words.clone()))?;
        Ok(Worker { id, process, stream: ours, spent: Duration::ZERO, last_words })
    }

    /// Asks it something.
    pub(super) fn ask(&mut self, request: &Request) -> Result<()> {
        protocol::send(&mut self.stream, request).context("the worker does not read")
    }

    /// Its process number.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The CPU time that it has spent since this was asked for last.
    pub(super) fn cost(&mut self) -> Duration {
        let all = cpu_time(self.pid()).unwrap_or(self.spent);
        let cost = all.saturating_sub(self.spent);
        self.spent = all;
        cost
    }

    /// Memory that is its own, in bytes: what it allocated, without the guest's that it maps.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        status_kib(self.pid(), "RssAnon:").map(|kib| kib << 10)
    }

    /// Ends it, and tells how it had ended if it had before. Where it has hung up it may be about to end by itself.
    pub(super) fn end(self, hung_up: bool) -> String {
        let words = self.last_words;
        self.process.end(hung_up, || words.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The process of a worker, in a group of its own where there are any. Ended when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Option<Group>,
}

impl Process {
    /// Starts it, with this end of the channel to it.
    pub(super) fn start(room: &Room) -> Result<(Process, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().context("no sockets for a worker")?;
        ours.set_write_timeout(Some(SEND_TIMEOUT)).context("no time limit on a worker's socket")?;
        let child = Command::new("/proc/self/exe")
            .arg("worker")
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("a worker cannot be started")?;
        let mut process = Process { child, group: None };
        // It does nothing yet: it waits to be told what to look at.
        process.group = groups::join(process.pid(), room).context("a worker gets no group")?;
        Ok((process, ours))
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it writes to standard error, once.
    pub(super) fn errors(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Ends it, and tells how it had ended if it had before. Where it has hung up it may be about to end by itself.
    pub(super) fn end(mut self, hung_up: bool, last_words: impl FnOnce() -> String) -> String {
        let mut ended = self.child.try_wait().ok().flatten();
        for _ in 0..LAST_BREATHS {
            if ended.is_some() || !hung_up {
                break;
            }
            std::thread::sleep(LAST_BREATH);
            ended = self.child.try_wait().ok().flatten();
        }
        let status = self.kill();
        let ran_out = ended.and_then(|_| self.group.as_ref()?.ran_out());
        match status {
            Ok(_) if ended.is_none() => "ended by the supervisor".to_owned(),
            Ok(status) => ran_out.unwrap_or_else(|| End::of(status, &last_words()).to_string()),
            Err(error) => format!("how it ended is not known: {error}"),
        }
    }

    fn kill(&mut self) -> std::io::Result<ExitStatus> {
        self.group.iter().for_each(Group::kill);
        // What has ended cannot be killed.
        let _ = self.child.kill();
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Before its group, which is dropped after this.
        let _ = self.kill();
    }
}

/// A thread that passes on what a worker says.
fn listen(id: WorkerId, stream: UnixStream, events: SyncSender<Event>) -> Result<()> {
    let work = move || {
        let mut channel = Channel::new(stream);
        loop {
            let reply = channel.receive::<Reply>();
            let is_last = !matches!(reply, Ok(Some(_)));
            let event = match reply {
                Ok(Some(Reply::Learned(len))) => {
                    let Ok(profile) = channel.receive_bytes(len) else { continue };
                    Event::Learned(id, profile)
                }
                Ok(Some(Reply::Unpacked(len))) => kernels::heard(id, channel.reader(), len),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Event::Worker(id, None),
                reply => Event::Worker(id, reply.map_err(|error| error.to_string()).transpose()),
            };
            if events.send(event).is_err() || is_last {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("worker".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(work).map(drop).context("no thread for a worker")
}

/// A thread that repeats what a worker writes to standard error, escaped and bounded.
fn repeat(vm: String, errors: impl Read + Send + 'static, last_words: LastWords) -> Result<()> {
    let work = move || {
        let mut errors = BufReader::new(errors);
        for _ in 0..MAX_ERROR_LINES {
            let mut line = Vec::new();
            match errors.by_ref().take(MAX_ERROR_BYTES).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let line = escape(String::from_utf8_lossy(&line).trim_end());
                    tracing::warn!(vm, "{line}");
                    *last_words.lock().unwrap_or_else(PoisonError::into_inner) = line;
                }
            }
        }
        // Read on, so that it does not block; what it says is no longer of interest.
        let _ = std::io::copy(&mut errors, &mut std::io::sink());
    };
    let thread = std::thread::Builder::new().name("worker-errors".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(work).map(drop).context("no thread for a worker")
}

/// `utime` and `stime` of proc_pid_stat(5), in hundredths of a second.
fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// A line of proc_pid_status(5) in KiB.
pub(super) fn status_kib(pid: u32, key: &str) -> Option<u64> {
    proc_kib(&format!("{pid}/status"), key)
}

/// A line of a file in /proc in KiB.
pub(super) fn proc_kib(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_costs_what_it_spends() {
        let started = cpu_time(std::process::id()).unwrap();
        let mut sum = 0u64;
        while cpu_time(std::process::id()).unwrap() < started + Duration::from_millis(30) {
            sum = std::hint::black_box((0..100_000u64).fold(sum, u64::wrapping_add));
        }
        assert!(status_kib(std::process::id(), "RssAnon:").unwrap() > 100);
        assert!(cpu_time(u32::MAX).is_none());
    }
}
