//! What reading a domain costs, beside libxenforeignmemory.

use crate::checks::attach;
use crate::guest::Guest;
use anyhow::{Context, Result, bail, ensure};
use lynceus_introspect::backend::xen::Xen;
use lynceus_introspect::target::Target;
use lynceus_introspect::{Gpa, GpaRange, GuestMemory, Partial};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;
const BATCH: u64 = 1024;
const ROUNDS: usize = 5;

/// A process list whose memory is mapped already asks Xen for nothing.
pub(crate) fn a_warm_list_asks_nothing(guest: &Guest) -> Result<()> {
    let Target::Xen(xen) = Target::open(&guest.target())? else { bail!("not a domain") };
    let memory: Arc<Xen> = xen.clone();
    let attached = lynceus_introspect::find::attach(memory)?;
    // Windows are mapped anew after a second: a try that falls into that moment does not count.
    for _ in 0..20 {
        drop(attached.guest.view().tasks());
        let (before, started) = (xen.windows_mapped(), Instant::now());
        let mut lists = 0;
        while started.elapsed() < Duration::from_millis(200) {
            let mut pids = Partial::default();
            attached.guest.view().pids(&mut pids);
            ensure!(pids.is_complete() && pids.items.len() > 40, "{:?}", pids.gaps);
            lists += 1;
        }
        if xen.windows_mapped() == before {
            println!("LAB {}: {lists} process lists without a hypercall", guest.name);
            return Ok(());
        }
    }
    bail!("every series of lists mapped something");
}

/// All RAM, mapped 1,024 frames at a time and copied: ours, and the same by Xen's own library. Of a PVH domain, as the benchmark tells it.
pub(crate) fn beside_the_library(guest: &Guest) -> Result<()> {
    if guest.kind != "pvh" {
        return Ok(());
    }
    let Target::Xen(xen) = Target::open(&guest.target())? else { bail!("not a domain") };
    let ranges = xen.ram().to_vec();
    let bytes: u64 = ranges.iter().map(|range| range.len_bytes).sum();
    let ours = median((0..ROUNDS).map(|_| read_all(&xen, &ranges)).collect::<Result<_>>()?);
    let list = ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {}", range.start.0 / PAGE, range.len_bytes / PAGE);
        text
    });
    let theirs = (0..ROUNDS).map(|_| by_library(guest.id, &list)).collect::<Result<Vec<_>>>();
    let theirs = median(theirs?);
    println!("FIGURE {} RAM bytes\t{bytes}", guest.kind);
    println!("FIGURE {} read, ours\t{}", guest.kind, ours.as_nanos());
    println!("FIGURE {} read, libxenforeignmemory\t{}", guest.kind, theirs.as_nanos());
    let attached = attach(guest)?;
    let started = Instant::now();
    drop(attached.guest.view().tasks());
    println!("FIGURE {} process list, cold windows\t{}", guest.kind, started.elapsed().as_nanos());
    let started = Instant::now();
    drop(attached.guest.view().tasks());
    println!("FIGURE {} process list, warm\t{}", guest.kind, started.elapsed().as_nanos());
    println!("LAB {}: all RAM read in {ours:.1?}, by libxenforeignmemory in {theirs:.1?}", guest.name);
    Ok(())
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn read_all(xen: &Xen, ranges: &[GpaRange]) -> Result<Duration> {
    let mut buf = vec![0; (BATCH * PAGE) as usize];
    let started = Instant::now();
    for range in ranges {
        let mut done = 0;
        while done < range.len_bytes {
            // Whole windows, as the library's batches are.
            let at = Gpa(range.start.0 + done);
            let left = (BATCH * PAGE - at.0 % (BATCH * PAGE)).min(range.len_bytes - done);
            let part = buf.get_mut(..left as usize).context("a window")?;
            xen.read(at, part)?;
            done += left;
        }
    }
    Ok(started.elapsed())
}

fn by_library(domain: u16, list: &str) -> Result<Duration> {
    let mut child = Command::new("/bin/foreign")
        .arg(domain.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("/bin/foreign")?;
    child.stdin.take().context("its input")?.write_all(list.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "/bin/foreign: {}", output.status);
    Ok(Duration::from_nanos(String::from_utf8(output.stdout)?.trim().parse()?))
}
