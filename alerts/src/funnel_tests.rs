use super::*;
use crate::tests::{all_kinds, finding};
use proptest::prelude::*;
use std::time::SystemTime;

const MINUTE: u64 = 60_000;

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn alert(vm: &str, pid: u32, severity: Severity, ms: u64) -> Alert {
    let mut finding = finding(pid);
    finding.severity = severity;
    Alert::new(vm, finding, at(ms))
}

fn offer(funnel: &mut Funnel, alert: Alert, now: u64) -> Vec<u64> {
    let mut told = Vec::new();
    funnel.offer(alert, now, &mut told);
    told.iter().map(|alert| alert.count).collect()
}

#[test]
fn repeats_are_told_at_growing_intervals() {
    let mut funnel = Funnel::new(FunnelConfig::default());
    let mut told = Vec::new();
    for second in 0..2 * 3600 {
        let before = told.len();
        let raised = alert("a", 1, Severity::High, second * 1000);
        funnel.offer(raised, second * 1000, &mut told);
        if told.len() > before {
            let last = told.last().unwrap();
            assert_eq!((last.first_seen_ms, last.last_seen_ms), (0, second * 1000));
        }
    }
    let counts: Vec<u64> = told.iter().map(|alert| alert.count).collect();
    assert_eq!(counts, [1, 61, 661, 4261]);
}

#[test]
fn repeats_are_told_even_when_they_have_ended() {
    let mut funnel = Funnel::new(FunnelConfig::default());
    assert_eq!(offer(&mut funnel, alert("a", 1, Severity::High, 0), 0), [1]);
    assert!(offer(&mut funnel, alert("a", 1, Severity::High, 1), 1).is_empty());
    let mut told = Vec::new();
    funnel.due(MINUTE - 1, &mut told);
    assert!(told.is_empty());
    funnel.due(MINUTE, &mut told);
    funnel.due(MINUTE * 60, &mut told);
    assert_eq!(told.iter().map(|alert| alert.count).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_worse_or_changed_alert_is_told_at_once() {
    let mut funnel = Funnel::new(FunnelConfig::default());
    assert_eq!(offer(&mut funnel, alert("a", 1, Severity::Low, 0), 0), [1]);
    assert_eq!(offer(&mut funnel, alert("a", 1, Severity::High, 1), 1), [2]);
    let health = |state: &str| {
        let Some(About::Health(health)) =
            all_kinds().into_iter().find(|about| matches!(about, About::Health(_)))
        else {
            unreachable!()
        };
        Alert::about(None, About::Health(Health { state: state.to_owned(), ..health }), at(0))
    };
    assert_eq!(offer(&mut funnel, health("down"), 2), [1]);
    assert!(offer(&mut funnel, health("down"), 3).is_empty());
    assert_eq!(offer(&mut funnel, health("up"), 4), [3]);
    assert_eq!(offer(&mut funnel, health("down"), 5), [4]);
}

#[test]
fn a_clock_that_jumps_back_stops_nothing() {
    let mut funnel = Funnel::new(FunnelConfig { per_second: 1, burst: 2, ..FunnelConfig::default() });
    let hour = 60 * MINUTE;
    assert_eq!(offer(&mut funnel, alert("a", 1, Severity::High, hour), hour), [1]);
    assert_eq!(offer(&mut funnel, alert("a", 2, Severity::High, 5), 5), [1]);
    assert!(offer(&mut funnel, alert("a", 3, Severity::High, 6), 6).is_empty());
    assert_eq!(offer(&mut funnel, alert("a", 3, Severity::High, 2000), 2000), [1]);
    let mut told = Vec::new();
    funnel.offer(alert("a", 1, Severity::High, 3000), 2 * hour, &mut told);
    assert_eq!((told[0].first_seen_ms, told[0].last_seen_ms, told[0].count), (3000, hour, 2));
}

#[test]
fn a_guest_that_makes_alerts_without_end_costs_bounded_memory() {
    let mut funnel = Funnel::new(FunnelConfig { per_second: 1_000_000, ..FunnelConfig::default() });
    let mut told = Vec::new();
    for number in 0..5000 {
        funnel.offer(alert("a", number, Severity::High, number.into()), number.into(), &mut told);
        funnel.offer(alert(&number.to_string(), 1, Severity::High, 0), number.into(), &mut told);
    }
    assert_eq!(funnel.vms.len(), MAX_VMS);
    assert!(funnel.vms.values().all(|vm| vm.known.len() <= MAX_KNOWN));
    assert_eq!(told.len(), 10_000);
}

#[test]
fn what_could_not_be_written_is_due_again() {
    let mut funnel = Funnel::new(FunnelConfig::default());
    let mut told = Vec::new();
    funnel.offer(alert("a", 1, Severity::High, 0), 0, &mut told);
    assert!(funnel.take_back(&told[0]));
    assert!(!funnel.take_back(&told[0]), "it is counted once");
    let mut again = Vec::new();
    funnel.due(1, &mut again);
    assert_eq!(again, told);
    funnel.due(2, &mut again);
    assert_eq!(again.len(), 1);
}

/// Told and suppressed, from what was told alone, as a SIEM sees it.
fn count(told: &[Alert]) -> u64 {
    let mut latest: HashMap<(String, u64), u64> = HashMap::new();
    let mut suppressed = 0;
    for alert in told {
        match &alert.about {
            About::Health(_) => suppressed += alert.count,
            _ => {
                latest.insert((alert.id.clone(), alert.first_seen_ms), alert.count);
            }
        }
    }
    latest.values().sum::<u64>() + suppressed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn everything_raised_is_told_or_counted(
        steps in prop::collection::vec((0u32..3, 0u32..40, 0usize..4, 0u64..90_000, any::<bool>()), 1..400),
        per_second in 1u32..5,
        burst in 1u32..20,
    ) {
        let mut funnel = Funnel::new(FunnelConfig { per_second, burst, ..FunnelConfig::default() });
        let (mut now, mut told) = (0, Vec::new());
        for (vm, pid, severity, wait, tick) in &steps {
            now += wait;
            funnel.offer(alert(&vm.to_string(), *pid, SEVERITIES[*severity], now), now, &mut told);
            if *tick {
                funnel.due(now, &mut told);
            }
        }
        let last = now + 25 * 60 * MINUTE;
        funnel.flush(last, &mut told);
        prop_assert_eq!(count(&told), steps.len() as u64);
        prop_assert_eq!(funnel.totals().raised, steps.len() as u64);
        let before = told.len();
        funnel.flush(last, &mut told);
        prop_assert_eq!(told.len(), before, "nothing is told twice");
    }
}
