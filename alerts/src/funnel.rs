//! Between whoever raises alerts and the spool: the same is told once and then now and then, and one VM cannot drown the others.
//!
//! *Does*: counts repeats by id and tells them at growing intervals; lets through so many new alerts a second of each VM and severity; counts
//! what it does not let through and tells that too.
//! *Trusts*: nothing of what a guest does: what is remembered of a VM is bounded, and so is the number of VMs.
//! *Never*: looks at a clock (time is passed in, and may even go back), or drops anything without counting it. A flood of low alerts
//! takes nothing from critical ones.

#[cfg(test)]
#[path = "funnel_tests.rs"]
mod tests;

use crate::alert::{About, Alert, Health};
use crate::config::FunnelConfig;
use lynceus_scanners::Severity;
use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

/// Different alerts that are remembered of one VM.
pub const MAX_KNOWN: usize = 1024;
/// VMs of which something is remembered.
pub const MAX_VMS: usize = 4096;
/// What was suppressed is told at once and then at this interval.
/// Told by one call of [`Funnel::due`]; the others are due at the next.
const MAX_DUE: usize = 1024;
const REPORT_EVERY_MS: u64 = 60_000;
/// An alert that was not raised for so long is forgotten.
const FORGET_AFTER_MS: u64 = 24 * 3_600_000;
const SEVERITIES: [Severity; 4] = [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];

/// The state of all VMs.
pub struct Funnel {
    config: FunnelConfig,
    vms: HashMap<Option<String>, Vm>,
    totals: Totals,
}

/// What has come so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// Raised.
    pub raised: u64,
    /// Repeats of what was told already.
    pub repeated: u64,
    /// Not let through, but counted.
    pub suppressed: u64,
}

#[derive(Default)]
struct Vm {
    /// One for each severity.
    buckets: [Bucket; 4],
    known: HashMap<String, Known>,
    /// Not let through and not told yet, for each severity.
    suppressed: [u64; 4],
    reported: Option<u64>,
    /// By the clock of the alerts, for the report.
    last_ms: u64,
    touched: u64,
}

/// An alert that was told.
struct Known {
    alert: Alert,
    /// Its count when it was last told; none where it could not be.
    told: Option<u64>,
    /// Its count when it could not be told.
    refused: Option<u64>,
    told_at: u64,
    told_severity: Severity,
    told_state: String,
    /// How often repeats were told.
    step: usize,
    touched: u64,
}

/// Tokens in thousandths; none before the first alert.
#[derive(Default)]
struct Bucket {
    tokens: Option<u64>,
    filled_at: u64,
}

impl Funnel {
    /// Nothing is known yet.
    pub fn new(config: FunnelConfig) -> Funnel {
        Funnel { config, vms: HashMap::new(), totals: Totals::default() }
    }
    /// Other intervals and rates from now on.
    pub fn reconfigure(&mut self, config: FunnelConfig) {
        self.config = config;
    }
    /// What has come so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }
    /// An alert was raised at `now`, in milliseconds of a clock that need not be that of the alert. What is to be told is added to `told`.
    pub fn offer(&mut self, alert: Alert, now: u64, told: &mut Vec<Alert>) {
        self.totals.raised += alert.count;
        self.make_room(&alert.vm, now, told);
        let vm = self.vms.entry(alert.vm.clone()).or_default();
        (vm.touched, vm.last_ms) = (now, alert.time_ms);
        match vm.known.get_mut(&alert.id) {
            Some(known) => {
                self.totals.repeated += alert.count;
                known.repeat(alert, now);
                if known.is_due(now, &self.config)
                    && vm.buckets[index(known.alert.severity())].take(now, &self.config)
                {
                    told.push(known.tell(now));
                }
            }
            None if vm.buckets[index(alert.severity())].take(now, &self.config) => {
                vm.forget_one(told);
                let mut known = Known::new(alert, now);
                told.push(known.tell(now));
                vm.known.insert(known.alert.id.clone(), known);
            }
            None => {
                self.totals.suppressed += alert.count;
                vm.suppressed[index(alert.severity())] += alert.count;
            }
        }
    }
    /// What is to be told by now though nothing was raised.
    pub fn due(&mut self, now: u64, told: &mut Vec<Alert>) {
        for (name, vm) in &mut self.vms {
            let Vm { buckets, known, .. } = vm;
            for known in known.values_mut().filter(|known| known.is_due(now, &self.config)) {
                if told.len() < MAX_DUE && buckets[index(known.alert.severity())].take(now, &self.config) {
                    told.push(known.tell(now));
                }
            }
            known.retain(|_, known| known.is_untold() || now.saturating_sub(known.touched) < FORGET_AFTER_MS);
            if vm.reported.is_none_or(|at| now.saturating_sub(at) >= REPORT_EVERY_MS) {
                told.extend(vm.report(name.as_deref(), now));
            }
        }
        told.sort_by_key(|alert| alert.last_seen_ms);
        self.vms.retain(|_, vm| !vm.known.is_empty() || now.saturating_sub(vm.touched) < FORGET_AFTER_MS);
    }
    /// Everything that was counted and not told, whatever the limits: the end has come.
    pub fn flush(&mut self, now: u64, told: &mut Vec<Alert>) {
        for (name, vm) in &mut self.vms {
            vm.flush(name.as_deref(), now, told);
        }
        told.sort_by_key(|alert| alert.last_seen_ms);
    }
    /// An alert that was to be told could not be: it will be due again. False where that was said before.
    pub fn take_back(&mut self, alert: &Alert) -> bool {
        let known = self.vms.get_mut(&alert.vm).and_then(|vm| vm.known.get_mut(&alert.id));
        known.is_none_or(|known| {
            known.told = None;
            known.refused.replace(alert.count) != Some(alert.count)
        })
    }
    fn make_room(&mut self, vm: &Option<String>, now: u64, told: &mut Vec<Alert>) {
        if self.vms.len() < MAX_VMS || self.vms.contains_key(vm) {
            return;
        }
        let quietest = self.vms.iter().min_by_key(|(_, vm)| vm.touched).map(|(name, _)| name.clone());
        if let Some((name, mut vm)) = quietest.and_then(|name| self.vms.remove_entry(&name)) {
            vm.flush(name.as_deref(), now, told);
        }
    }
}

impl Vm {
    /// Makes room for one more. What goes and was repeated since it was told is told.
    fn forget_one(&mut self, told: &mut Vec<Alert>) {
        if self.known.len() < MAX_KNOWN {
            return;
        }
        let oldest = self.known.iter().min_by_key(|(_, known)| known.touched).map(|(id, _)| id.clone());
        let gone = oldest.and_then(|id| self.known.remove(&id));
        told.extend(gone.filter(Known::is_untold).map(|known| known.alert));
    }
    fn flush(&mut self, name: Option<&str>, now: u64, told: &mut Vec<Alert>) {
        told.extend(self.known.values_mut().filter(|known| known.is_untold()).map(|known| known.tell(now)));
        told.extend(self.report(name, now));
    }
    fn report(&mut self, name: Option<&str>, now: u64) -> Option<Alert> {
        let counts = std::mem::take(&mut self.suppressed);
        let count: u64 = counts.iter().sum();
        let worst =
            SEVERITIES.iter().zip(counts).rev().find(|(_, count)| *count > 0).map(|(worst, _)| *worst)?;
        self.reported = Some(now);
        let list: Vec<String> = SEVERITIES
            .iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(severity, count)| format!("{count} {}", severity.name()))
            .collect();
        let about = About::Health(Health {
            component: "alerts".to_owned(),
            what: "rate limit".to_owned(),
            state: "suppressed".to_owned(),
            severity: worst.max(Severity::Medium),
            summary: format!("{count} alerts were not told because there were too many: {}", list.join(", ")),
        });
        let mut alert = Alert::about(name, about, UNIX_EPOCH + Duration::from_millis(self.last_ms));
        alert.count = count;
        Some(alert)
    }
}

impl Known {
    fn new(alert: Alert, now: u64) -> Known {
        let (told_severity, told_state) = (alert.severity(), alert.state().to_owned());
        Known {
            alert,
            told: None,
            refused: None,
            told_at: now,
            told_severity,
            told_state,
            step: 0,
            touched: now,
        }
    }
    /// The newest words, with the first time and the whole count.
    fn repeat(&mut self, alert: Alert, now: u64) {
        let (first_seen_ms, last_seen_ms, count) =
            (self.alert.first_seen_ms, self.alert.last_seen_ms, self.alert.count);
        let evidence = self.alert.evidence.take();
        self.alert = alert;
        self.alert.first_seen_ms = first_seen_ms.min(self.alert.first_seen_ms);
        self.alert.last_seen_ms = last_seen_ms.max(self.alert.last_seen_ms);
        self.alert.count += count;
        self.alert.evidence = self.alert.evidence.take().or(evidence);
        self.touched = now;
    }
    fn is_untold(&self) -> bool {
        self.told.is_none_or(|told| told < self.alert.count)
    }
    fn is_due(&self, now: u64, config: &FunnelConfig) -> bool {
        let seconds = config.repeat_s.get(self.step).or(config.repeat_s.last()).copied().unwrap_or(0);
        let late = now.saturating_sub(self.told_at) >= seconds.saturating_mul(1000);
        let changed =
            self.alert.severity() > self.told_severity || self.alert.state() != self.told_state.as_str();
        self.is_untold() && (late || changed || self.told.is_none())
    }
    fn tell(&mut self, now: u64) -> Alert {
        if self.told.is_some() {
            self.step += 1;
        }
        (self.told, self.told_at) = (Some(self.alert.count), now);
        (self.told_severity, self.told_state) = (self.alert.severity(), self.alert.state().to_owned());
        self.alert.clone()
    }
}

impl Bucket {
    fn take(&mut self, now: u64, config: &FunnelConfig) -> bool {
        let full = u64::from(config.burst) * 1000;
        let came = now.saturating_sub(self.filled_at).saturating_mul(config.per_second.into());
        let tokens = self.tokens.map_or(full, |tokens| tokens.saturating_add(came).min(full));
        self.filled_at = now;
        let taken = tokens >= 1000;
        self.tokens = Some(if taken { tokens - 1000 } else { tokens });
        taken
    }
}

fn index(severity: Severity) -> usize {
    severity as usize
}
