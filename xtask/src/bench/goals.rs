//! What the figures are held against.

use super::measure::{Measured, Sample};
use super::{Figures, GuestFigures};
use std::cmp::Ordering;

/// One goal and how this run did, a value a kernel.
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    pub(crate) limit: Limit,
    pub(crate) values: Vec<Result<f64, String>>,
}

/// What a value must be.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// At most so much of a unit.
    AtMost(f64, &'static str),
    /// At least so many times.
    Times(f64),
}

impl Goal {
    /// Whether all values are there and good enough; `None` where one is missing and none falls short.
    pub(crate) fn met(&self) -> Option<bool> {
        let good = |value: &f64| match self.limit {
            Limit::AtMost(limit, _) => value.total_cmp(&limit) != Ordering::Greater,
            Limit::Times(limit) => value.total_cmp(&limit) != Ordering::Less,
        };
        if self.values.iter().flatten().any(|value| !good(value)) {
            return Some(false);
        }
        self.values.iter().all(Result::is_ok).then_some(true)
    }
}

/// Every goal.
pub(crate) fn goals(figures: &Figures) -> Vec<Goal> {
    let goal = |what, limit, value: &Value<'_>| Goal {
        what,
        limit,
        values: figures.guests.iter().map(value).collect(),
    };
    let (ms, mb) = (|most| Limit::AtMost(most, "ms"), |most| Limit::AtMost(most, "MB"));
    let mut goals = vec![
        goal("cold attach, no symbols: `info` on a running guest, whole process", ms(1000.0), &|g| {
            millis(&g.live.cold_info)
        }),
        goal("the same on a raw dump", ms(1000.0), &|g| millis(&g.raw.cold_info)),
        goal("attach with a cached profile, running guest", ms(20.0), &|g| g.live.cached_attach_ms.clone()),
        goal("attach with a cached profile, raw dump", ms(20.0), &|g| g.raw.cached_attach_ms.clone()),
    ];
    goals.extend([
        goal("`ps`, raw dump, whole process", ms(20.0), &|g| millis(listing(&g.raw.cached, "ps"))),
        goal("`ps`, ELF core, whole process", ms(20.0), &|g| millis(listing(&g.elf.cached, "ps"))),
        goal("`ps`, raw dump, peak memory", mb(32.0), &|g| megabytes(listing(&g.raw.cached, "ps"))),
        goal("`ps`, ELF core, peak memory", mb(32.0), &|g| megabytes(listing(&g.elf.cached, "ps"))),
        goal("`ps` faster than LibVMI's `vmi-process-list`", Limit::Times(50.0), &|g| {
            ratio(&g.libvmi, listing(&g.raw.cached, "ps"))
        }),
    ]);
    let against = [
        ("ps", "`ps` faster than Volatility 3's `linux.pslist`", 250.0),
        ("maps", "`maps` faster than `linux.proc.Maps`", 500.0),
        ("files", "`files` faster than `linux.lsof`", 500.0),
        ("sockets", "`sockets` faster than `linux.sockstat`", 500.0),
    ];
    goals.extend(against.map(|(name, what, least)| {
        goal(what, Limit::Times(least), &|g| {
            ratio(listing(&g.volatility, name), listing(&g.raw.cached, name))
        })
    }));
    goals.extend(in_loop(&goal));
    let peak = |(_, cold, cached): &(_, Measured, Measured)| Ok(megabytes(cold)?.max(megabytes(cached)?));
    let peaks: Result<Vec<f64>, String> = figures.large.iter().map(peak).collect();
    goals.push(Goal {
        what: "peak memory of any listing, cold or cached, guest of 4 GB",
        limit: mb(64.0),
        values: vec![peaks.map(|all| all.into_iter().fold(0.0, f64::max))],
    });
    let xen = |key| figures.xen.as_ref().map_err(Clone::clone).and_then(|found| figure(found, key));
    goals.push(Goal {
        what: "all RAM of a PVH guest of Xen's against libxenforeignmemory",
        limit: Limit::AtMost(2.0, "times"),
        values: vec![xen("pvh read, ours").and_then(|ours| Ok(ours / xen("pvh read, libxenforeignmemory")?))],
    });
    goals
}

/// Makes a goal out of what a kernel's figures say.
type MakeGoal<'a> = &'a dyn Fn(&'static str, Limit, &Value) -> Goal;
type Value<'a> = dyn Fn(&GuestFigures) -> Result<f64, String> + 'a;

fn in_loop(goal: MakeGoal<'_>) -> [Goal; 3] {
    let times = |g: &GuestFigures, theirs: &str, ours: &str| {
        let theirs = figure(g.libvmi_loop.as_ref().map_err(Clone::clone)?, theirs)?;
        Ok(theirs / figure(&g.inner, ours)?)
    };
    [
        goal("process list in a loop (pid, name), both warm: faster than LibVMI", Limit::Times(1.0), &|g| {
            times(g, "warm", "pid and name, warm")
        }),
        // In an earlier run side by side vmi-rs's cold list took 69.0 µs where LibVMI's took 96.7.
        goal(
            "the same, caches cold, ours with its pages validated: faster than LibVMI by as much as vmi-rs is",
            Limit::Times(1.4),
            &|g| times(g, "cold", "pid and name, cold and validated"),
        ),
        goal("gather of all RAM against `memcpy` of as much", Limit::AtMost(1.5, "times"), &|g| {
            Ok(figure(&g.inner, "gather of all RAM")? / figure(&g.inner, "memcpy of as much")?)
        }),
    ]
}

/// A figure that a benchmark in process printed.
pub(crate) fn figure(figures: &std::collections::BTreeMap<String, f64>, name: &str) -> Result<f64, String> {
    figures.get(name).copied().ok_or_else(|| format!("no figure `{name}`"))
}

/// A listing's figure.
pub(crate) fn listing<'a>(
    figures: &'a std::collections::BTreeMap<&'static str, Measured>,
    name: &str,
) -> &'a Measured {
    static MISSING: Measured = Err(String::new());
    figures.get(name).unwrap_or(&MISSING)
}

/// How many times longer `theirs` took than `ours`.
pub(crate) fn ratio(theirs: &Measured, ours: &Measured) -> Result<f64, String> {
    Ok(millis(theirs)? / millis(ours)?)
}

fn sample(measured: &Measured) -> Result<Sample, String> {
    measured.clone()
}

fn millis(measured: &Measured) -> Result<f64, String> {
    Ok(sample(measured)?.time.as_secs_f64() * 1e3)
}

fn megabytes(measured: &Measured) -> Result<f64, String> {
    Ok(sample(measured)?.peak_bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(limit: Limit, values: &[Result<f64, String>]) -> Option<bool> {
        Goal { what: "", limit, values: values.to_vec() }.met()
    }

    #[test]
    fn a_missing_value_is_neither_met_nor_missed() {
        let missing = Err("not on this machine".to_owned());
        assert_eq!(met(Limit::Times(50.0), &[Ok(50.0), Ok(90.0)]), Some(true));
        assert_eq!(met(Limit::Times(50.0), &[Ok(49.9), missing.clone()]), Some(false));
        assert_eq!(met(Limit::Times(50.0), &[Ok(50.0), missing]), None);
        assert_eq!(met(Limit::AtMost(20.0, "ms"), &[Ok(20.1)]), Some(false));
        assert_eq!(met(Limit::AtMost(20.0, "ms"), &[Ok(f64::NAN)]), Some(false));
    }
}
