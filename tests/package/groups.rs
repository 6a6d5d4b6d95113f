//! Control groups of workers, as systemd and a kernel with cgroup v2 give them.

use crate::host::Host;
use anyhow::{Context, Result, ensure};

const SERVICE: &str = "/sys/fs/cgroup/system.slice/lynceus.service";

/// How many groups of workers there are.
pub(crate) fn count(host: &Host) -> Result<usize> {
    Ok(host.sh(&format!("ls {SERVICE}"))?.lines().filter(|name| name.starts_with("worker-")).count())
}

pub(crate) fn workers_have_groups(host: &Host) -> Result<()> {
    let worker = host.watched()?["worker_pid"].as_u64().context("no worker")?;
    let group = format!("{SERVICE}/worker-{worker}");
    let read =
        |file: &str| Ok::<_, anyhow::Error>(host.sh(&format!("cat {group}/{file}"))?.trim().to_owned());
    ensure!(read("cgroup.procs")? == worker.to_string());
    let bytes: u64 = read("memory.max")?.parse()?;
    ensure!(bytes > 1024 << 20 && bytes < 1100 << 20, "{bytes}");
    for (file, value) in
        [("memory.swap.max", "0"), ("pids.max", "16"), ("cpu.max", "200000 100000"), ("cpu.weight", "100")]
    {
        ensure!(read(file)? == value, "{file}: {}", read(file)?);
    }
    let supervisor = host.sh(&format!("cat {SERVICE}/supervisor/cgroup.procs"))?;
    let main = host.show("MainPID")?;
    ensure!(supervisor.lines().any(|pid| pid == main), "{supervisor}");
    // No group but its own: not even to look whether there could be one.
    let outside =
        host.sh(&format!("nsenter -t {main} -m mkdir /sys/fs/cgroup/other 2>&1 || echo REFUSED"))?;
    ensure!(outside.contains("Read-only file system") && outside.contains("REFUSED"), "{outside}");
    one_that_wants_more_is_killed(host, worker, &group)
}

/// The kernel ends it; it is told of, and the next one works.
fn one_that_wants_more_is_killed(host: &Host, worker: u64, group: &str) -> Result<()> {
    host.sh(&format!("echo 1M > {group}/memory.max"))?;
    let told = |state: &str, text: &str| {
        let all = host.alerts("health")?;
        let is_it = |alert: &serde_json::Value| {
            alert["component"] == "worker"
                && alert["vm"] == "victim"
                && alert["state"] == state
                && alert["summary"].as_str().is_some_and(|summary| summary.contains(text))
        };
        Ok(all.into_iter().find(is_it))
    };
    host.until("the alert", || told("failed", "it ran out of its memory"))?;
    host.until("it to work again", || told("recovered", ""))?;
    let next = host.watched()?["worker_pid"].as_u64().context("no worker")?;
    ensure!(next != worker && count(host)? == 1, "{next} and {worker}: {}", count(host)?);
    host.sh(&format!("test ! -e {group}")).map(drop)
}
