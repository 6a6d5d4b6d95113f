//! Metrics for Prometheus, and the health for whoever balances or restarts, over HTTP on a local port.
//!
//! *Does*: answers `GET /metrics` and `GET /health`. *Never*: changes anything, or tells what a guest wrote but the names of VMs.

use super::Event;
use super::control::{Answer, Asked, Request};
use super::status::{Status, VmRow};
use anyhow::{Context, Result, anyhow};
use lynceus_alerts::SinkStats;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, channel};
use std::time::Duration;

/// The supervisor answers at once, or does not work.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers in a thread of its own.
pub(super) fn serve(address: SocketAddr, events: SyncSender<Event>) -> Result<()> {
    let server =
        tiny_http::Server::http(address).map_err(|error| anyhow!("metrics at {address}: {error}"))?;
    let work = move || {
        for request in server.incoming_requests() {
            let (code, text) = match (request.method(), request.url()) {
                (tiny_http::Method::Get, "/metrics") => status(&events).map_or_else(
                    || (503, "the appliance does not answer\n".to_owned()),
                    |status| (200, text(&status)),
                ),
                (tiny_http::Method::Get, "/health") => match status(&events) {
                    Some(status) if status.is_well() => (200, "well\n".to_owned()),
                    Some(status) => {
                        let troubles: Vec<String> = status.troubles().into_iter().collect();
                        (503, format!("{}\n", troubles.join("\n")))
                    }
                    None => (503, "the appliance does not answer\n".to_owned()),
                },
                _ => (404, "GET /metrics or /health\n".to_owned()),
            };
            let response = tiny_http::Response::from_string(text).with_status_code(code);
            let _ = request.respond(response);
        }
    };
    std::thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(work)
        .map(drop)
        .context("no thread for the metrics")
}

fn status(events: &SyncSender<Event>) -> Option<Status> {
    let (sender, receiver) = channel();
    events.send(Event::Control(Asked { request: Request::Status, by: "metrics".to_owned() }, sender)).ok()?;
    match receiver.recv_timeout(TIMEOUT) {
        Ok(Answer::Status(status)) => Some(*status),
        _ => None,
    }
}

/// Name, type, help and value of a metric of each VM or sink.
type Metric<T> = (&'static str, &'static str, &'static str, fn(&T) -> f64);

/// Prometheus' text format, version 0.0.4.
pub(super) fn text(status: &Status) -> String {
    let mut text = Text::default();
    text.one("lynceus_up_seconds", "gauge", "Since the appliance was started", status.uptime_s as f64);
    text.one("lynceus_memory_bytes", "gauge", "What the supervisor allocated", status.memory_bytes as f64);
    text.one(
        "lynceus_kernels_bytes",
        "gauge",
        "Files of kernels and modules, unpacked, which workers share",
        status.kernels_bytes as f64,
    );
    text.one(
        "lynceus_troubles",
        "gauge",
        "What is wrong, of the host and of its VMs",
        status.troubles().len() as f64,
    );
    text.one("lynceus_responses_waiting", "gauge", "Findings that wait for a person", status.waiting as f64);
    text.head("lynceus_looks_total", "counter", "Looks at a VM, by kind");
    for vm in &status.vms {
        for (kind, count) in &vm.looks {
            text.line("lynceus_looks_total", &[("vm", &vm.vm), ("kind", kind)], *count as f64);
        }
    }
    let of_vm: [Metric<VmRow>; 8] = [
        ("lynceus_vm_watched", "gauge", "Whether a worker looks at the VM", |vm| {
            f64::from(u8::from(vm.kernel.is_some()))
        }),
        ("lynceus_looks_incomplete_total", "counter", "Looks that could not read everything", |vm| {
            vm.incomplete as f64
        }),
        ("lynceus_looks_late_total", "counter", "Looks that came after their deadline", |vm| vm.late as f64),
        ("lynceus_worker_failures_total", "counter", "Workers that failed", |vm| vm.failures as f64),
        ("lynceus_worker_cpu_seconds_total", "counter", "CPU time of a VM's workers", |vm| {
            vm.cpu_ms as f64 / 1e3
        }),
        ("lynceus_worker_memory_bytes", "gauge", "What a VM's worker allocated", |vm| {
            vm.memory_bytes.unwrap_or(0) as f64
        }),
        ("lynceus_findings", "gauge", "Different findings since the VM was seen", |vm| vm.findings as f64),
        ("lynceus_last_look_age_seconds", "gauge", "Since the last look at a VM", |vm| {
            vm.last_look_ms.map_or(f64::NAN, |ms| ms as f64 / 1e3)
        }),
    ];
    for (name, kind, help, value) in of_vm {
        text.head(name, kind, help);
        status.vms.iter().for_each(|vm| text.line(name, &[("vm", &vm.vm)], value(vm)));
    }
    alerts(&mut text, status);
    text.0
}

fn alerts(text: &mut Text, status: &Status) {
    let alerts = &status.alerts;
    text.one("lynceus_spool_bytes", "gauge", "Bytes of the spool on disk", alerts.spool_bytes as f64);
    for (name, help, value) in [
        ("lynceus_alerts_raised_total", "Alerts raised", alerts.raised),
        ("lynceus_alerts_written_total", "Alerts written to the spool", alerts.written),
        ("lynceus_alerts_repeated_total", "Repeats of what had been told", alerts.repeated),
        (
            "lynceus_alerts_suppressed_total",
            "Counted and not told because there were too many",
            alerts.suppressed,
        ),
        ("lynceus_alerts_refused_total", "Could not be kept: the spool or the disk was full", alerts.refused),
    ] {
        text.one(name, "counter", help, value as f64);
    }
    let of_sink: [Metric<SinkStats>; 4] = [
        ("lynceus_sink_down", "gauge", "Whether a sink does not take alerts", |sink| {
            f64::from(u8::from(sink.is_down()))
        }),
        ("lynceus_sink_delivered_total", "counter", "Alerts that a sink took", |sink| sink.delivered as f64),
        ("lynceus_sink_failed_total", "counter", "Tries that failed", |sink| sink.failed as f64),
        ("lynceus_sink_lag", "gauge", "Alerts that wait for a sink, at most", |sink| sink.lag as f64),
    ];
    for (name, kind, help, value) in of_sink {
        text.head(name, kind, help);
        alerts.sinks.iter().for_each(|sink| text.line(name, &[("sink", &sink.name)], value(sink)));
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value)));
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.collect::<Vec<_>>().join(","));
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }
}

/// As label values are escaped; names of VMs are anyone's to give.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Every metric that the dashboard draws is one, and every one is drawn, but the uptime.
    #[test]
    fn the_dashboard_draws_the_metrics() {
        let dashboard: serde_json::Value =
            serde_json::from_str(include_str!("../../examples/grafana/lynceus.json")).unwrap();
        let targets =
            dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array());
        let drawn: BTreeSet<String> = targets
            .flatten()
            .flat_map(|target| {
                target["expr"].as_str().unwrap().split(|c: char| !c.is_alphanumeric() && c != '_')
            })
            .filter(|word| word.starts_with("lynceus_"))
            .map(str::to_owned)
            .collect();
        let status = Status {
            version: String::new(),
            uptime_s: 0,
            memory_bytes: 0,
            kernels_bytes: 0,
            no_groups: None,
            trouble: BTreeMap::new(),
            vms: Vec::new(),
            guards: false,
            waiting: 0,
            alerts: lynceus_alerts::Stats::default(),
        };
        let text = text(&status);
        let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let told: BTreeSet<String> =
            told.filter(|name| *name != "lynceus_up_seconds").map(str::to_owned).collect();
        assert_eq!(drawn, told);
    }

    #[test]
    fn a_name_with_quotes_stays_one_label() {
        let mut text = Text::default();
        text.line("x", &[("vm", "a\"b\\c\nd")], 1.0);
        assert_eq!(text.0, "x{vm=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
