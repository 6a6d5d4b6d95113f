//! The guest's clocks: when it booted, what time it thinks it is, how long it has run.
//!
//! *Trusts*: nothing; a clock that the guest set to nonsense is reported as such nonsense.
//! *Never*: reads the host's clock or the time-stamp counter: the answer is that of the guest's last timer tick.
//!
//! Layouts: `include/linux/timekeeper_internal.h`, `kernel/time/timekeeping.c` (Linux 5.10 to 7.2).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::record::Span;
use super::{Resolved, View};
use crate::{GapReason, Gva};
use lynceus_profiles::{Field, Profile, ProfileError};

const NS_PER_S: i64 = 1_000_000_000;

/// The guest's clocks at its last timer tick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clocks {
    /// When it booted by its own wall clock: nanoseconds since 1970.
    pub boot_time_ns: i64,
    /// Its wall clock: nanoseconds since 1970.
    pub now_ns: i64,
    /// Time since boot without suspend (`CLOCK_MONOTONIC`), nanoseconds: what the kernel log and BPF count in.
    pub monotonic_ns: i64,
    /// Time since boot with suspend (`CLOCK_BOOTTIME`), nanoseconds: what process start times count in.
    pub uptime_ns: i64,
}

/// Where the core timekeeper is and its members.
#[derive(Clone, Debug)]
pub struct TimeLayout {
    /// Link-time address of the core `struct timekeeper`.
    timekeeper: u64,
    span: Span,
    seconds: Field,
    shift: Field,
    nanoseconds: Field,
    base: Field,
    real_offset: Field,
    boot_offset: Field,
}

impl TimeLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let keeper = |path| profile.field("timekeeper", path);
        let (seconds, shift, nanoseconds) =
            (keeper("xtime_sec")?, keeper("tkr_mono.shift")?, keeper("tkr_mono.xtime_nsec")?);
        let (base, real_offset, boot_offset) =
            (keeper("tkr_mono.base")?, keeper("offs_real")?, keeper("offs_boot")?);
        Ok(TimeLayout {
            timekeeper: timekeeper(profile)?,
            span: Span::of(&[seconds, shift, nanoseconds, base, real_offset, boot_offset]),
            seconds,
            shift,
            nanoseconds,
            base,
            real_offset,
            boot_offset,
        })
    }
}

/// `tk_core` is an unnamed structure: a sequence counter, then the timekeeper on the next multiple of 8.
/// Since 6.17 it is the first of an array of `struct tk_data`.
fn timekeeper(profile: &Profile) -> Result<u64, ProfileError> {
    if let Ok(offset) = profile.field("tk_data", "timekeeper") {
        let array = profile.symbol("timekeeper_data").or_else(|_| profile.symbol("tk_core"))?;
        return Ok(array.wrapping_add(u64::from(offset.offset)));
    }
    let counter = profile.size_of("seqcount_raw_spinlock").or_else(|_| profile.size_of("seqcount"))?;
    Ok(profile.symbol("tk_core")?.wrapping_add(u64::from(counter.next_multiple_of(8))))
}

impl View<'_> {
    /// The guest's clocks.
    pub fn clocks(&self) -> Result<Clocks, GapReason> {
        let layout = self.kernel().layouts.time.as_ref().map_err(Clone::clone)?;
        let keeper: Gva = self.kernel().slid(layout.timekeeper);
        let keeper = self.record(keeper, layout.span)?;
        let signed = |field| keeper.integer(field).map(u64::cast_signed);
        let shift = keeper.u32(layout.shift)?;
        let fraction = keeper.integer(layout.nanoseconds)?.checked_shr(shift).unwrap_or(0).cast_signed();
        let seconds = signed(layout.seconds)?;
        let (real, boot) = (signed(layout.real_offset)?, signed(layout.boot_offset)?);
        let monotonic_ns = signed(layout.base)?.saturating_add(fraction);
        Ok(Clocks {
            boot_time_ns: real.saturating_sub(boot),
            now_ns: seconds.saturating_mul(NS_PER_S).saturating_add(fraction),
            monotonic_ns,
            uptime_ns: monotonic_ns.saturating_add(boot),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::testing::{Bench, gva, number};

    #[test]
    fn clocks_add_up_and_nonsense_saturates() {
        let mut bench = Bench::new();
        bench.layouts().time = Ok(TimeLayout {
            timekeeper: gva(0x1000).0,
            span: Span::of(&[number(0, 48)]),
            seconds: number(0, 8),
            shift: number(8, 4),
            nanoseconds: number(16, 8),
            base: number(24, 8),
            real_offset: number(32, 8),
            boot_offset: number(40, 8),
        });
        bench.u64(0x1000, 1000).u32(0x1008, 4).u64(0x1010, 16 * 5).u64(0x1018, 300);
        bench.u64(0x1020, 2000).u64(0x1028, 50);
        let clocks = bench.look(|view| view.clocks());
        let wanted =
            Clocks { boot_time_ns: 1950, now_ns: 1_000_000_000_005, monotonic_ns: 305, uptime_ns: 355 };
        assert_eq!(clocks, Ok(wanted));
        bench.u64(0x1000, i64::MAX as u64).u32(0x1008, u32::MAX).u64(0x1020, i64::MIN as u64);
        assert_eq!(bench.look(|view| view.clocks()).map(|clocks| clocks.boot_time_ns), Ok(i64::MIN));
    }
}
