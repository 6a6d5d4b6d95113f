//! The kernel log, from the printk ring buffer.
//!
//! *Trusts*: nothing. Ring sizes are clamped, every position is masked into its ring, every length is cut to its block.
//! *Never*: shows a record that the kernel's own reader would refuse: unfinished, overwritten or torn.
//!
//! Layout and reader: `kernel/printk/printk_ringbuffer.{h,c}` (Linux 5.10 to 7.2).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::record::{Record, Span};
use super::{Resolved, View};
use crate::{AccessError, GapReason, Gva, Partial};
use lynceus_profiles::{Field, Profile};

/// Largest descriptor ring read: 2^20 records.
const MAX_COUNT_BITS: u32 = 20;
/// Largest text ring read: 64 MiB (the kernel's own limit is `CONFIG_LOG_BUF_SHIFT` 25).
const MAX_SIZE_BITS: u32 = 26;
/// Unreadable records after which the ring is given up.
const MAX_FAILURES: u32 = 256;
/// The state of a descriptor that is complete and may be read.
const FINALIZED: u64 = 2;
/// State bits of a descriptor's state variable.
const STATE_SHIFT: u32 = 62;
const ID_MASK: u64 = (1 << STATE_SHIFT) - 1;
/// A block's own header: the id of its descriptor.
const BLOCK_HEADER_BYTES: u64 = 8;

/// One record of the kernel log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogRecord {
    /// Sequence number.
    pub sequence: u64,
    /// Time of the message: nanoseconds of the guest's monotonic clock.
    pub time_ns: u64,
    /// Severity, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Syslog facility, 0 for the kernel itself.
    pub facility: u8,
    /// The text as logged. May hold line ends and control characters: escape it before printing.
    pub text: String,
}

/// Members of the ring buffer.
#[derive(Clone, Debug)]
pub struct LogLayout {
    /// Link-time address of the pointer `prb`.
    ring_pointer: u64,
    ring: Span,
    count_bits: Field,
    descriptors: Field,
    infos: Field,
    head: Field,
    tail: Field,
    size_bits: Field,
    data: Field,
    descriptor_bytes: u32,
    descriptor: Span,
    state: Field,
    begin: Field,
    next: Field,
    info_bytes: u32,
    info: Span,
    sequence: Field,
    time: Field,
    text_len: Field,
    facility: Field,
    level: Field,
}

impl LogLayout {
    pub(crate) fn resolve(profile: &Profile) -> Resolved<Self> {
        let ring = |path| profile.field("printk_ringbuffer", path);
        let (count_bits, descriptors) = (ring("desc_ring.count_bits")?, ring("desc_ring.descs")?);
        let (infos, head) = (ring("desc_ring.infos")?, ring("desc_ring.head_id")?);
        let (tail, size_bits) = (ring("desc_ring.tail_id")?, ring("text_data_ring.size_bits")?);
        let data = ring("text_data_ring.data")?;
        let state = profile.field("prb_desc", "state_var")?;
        let begin = profile.field("prb_desc", "text_blk_lpos.begin")?;
        let next = profile.field("prb_desc", "text_blk_lpos.next")?;
        let info = |path| profile.field("printk_info", path);
        let (sequence, time, text_len) = (info("seq")?, info("ts_nsec")?, info("text_len")?);
        let (facility, level) = (info("facility")?, info("level")?);
        Ok(LogLayout {
            ring_pointer: profile.symbol("prb")?,
            ring: Span::of(&[count_bits, descriptors, infos, head, tail, size_bits, data]),
            count_bits,
            descriptors,
            infos,
            head,
            tail,
            size_bits,
            data,
            descriptor_bytes: profile.size_of("prb_desc")?,
            descriptor: Span::of(&[state, begin, next]),
            state,
            begin,
            next,
            info_bytes: profile.size_of("printk_info")?,
            info: Span::of(&[sequence, time, text_len, facility, level]),
            sequence,
            time,
            text_len,
            facility,
            level,
        })
    }
}

/// The rings as their header describes them, sizes checked.
struct Rings {
    descriptors: Gva,
    infos: Gva,
    data: Gva,
    index_mask: u64,
    text_bytes: u64,
    head: u64,
    tail: u64,
}

impl View<'_> {
    /// The kernel log, oldest record first: what `/dev/kmsg` would give.
    pub fn kernel_log(&self) -> Partial<LogRecord> {
        let layout = match &self.kernel().layouts.log {
            Ok(layout) => layout,
            Err(missing) => return Partial::unavailable("kernel log", missing.clone()),
        };
        let mut log = Partial::default();
        let at = self.kernel().slid(layout.ring_pointer);
        let rings = self.rings(layout, at);
        let Some(rings) = log.ok("kernel log", at, rings) else { return log };
        // The tail never lags further behind than one whole ring.
        let count = rings.head.wrapping_sub(rings.tail) & ID_MASK;
        if count > rings.index_mask {
            log.gap("kernel log", at, GapReason::Inconsistent("more records than the ring holds"));
        }
        let mut failures = 0u32;
        for back in 0..=count.min(rings.index_mask) {
            let id = rings.tail.wrapping_add(back) & ID_MASK;
            let record = self.log_record(layout, &rings, id);
            match log.ok("kernel log record", rings.data, record) {
                Some(record) => log.items.extend(record),
                None => failures = failures.saturating_add(1),
            }
            if failures >= MAX_FAILURES {
                log.gap("kernel log", at, GapReason::Limit(u64::from(MAX_FAILURES)));
                break;
            }
        }
        log
    }

    fn rings(&self, layout: &LogLayout, at: Gva) -> Result<Rings, GapReason> {
        let header = self.record(self.pointer(at)?, layout.ring)?;
        let (count_bits, size_bits) = (header.u32(layout.count_bits)?, header.u32(layout.size_bits)?);
        if count_bits > MAX_COUNT_BITS {
            return Err(GapReason::Limit(1 << MAX_COUNT_BITS));
        }
        if size_bits > MAX_SIZE_BITS {
            return Err(GapReason::Limit(1 << MAX_SIZE_BITS));
        }
        Ok(Rings {
            descriptors: header.pointer(layout.descriptors)?,
            infos: header.pointer(layout.infos)?,
            data: header.pointer(layout.data)?,
            index_mask: (1u64 << count_bits).saturating_sub(1),
            text_bytes: 1u64 << size_bits,
            head: header.integer(layout.head)? & ID_MASK,
            tail: header.integer(layout.tail)? & ID_MASK,
        })
    }

    /// `None` for a record that the kernel's reader skips.
    fn log_record(&self, layout: &LogLayout, rings: &Rings, id: u64) -> Result<Option<LogRecord>, GapReason> {
        let index = (id & rings.index_mask) as u32;
        let slot = rings.descriptors.field(index.wrapping_mul(layout.descriptor_bytes));
        let descriptor = self.record(slot, layout.descriptor)?;
        let state = descriptor.integer(layout.state)?;
        if state & ID_MASK != id || state >> STATE_SHIFT != FINALIZED {
            return Ok(None);
        }
        let info = self.record(rings.infos.field(index.wrapping_mul(layout.info_bytes)), layout.info)?;
        let text = self.log_text(layout, rings, id, &descriptor, info.u16(layout.text_len)?)?;
        let Some(text) = text else { return Ok(None) };
        Ok(Some(LogRecord {
            sequence: info.integer(layout.sequence)?,
            time_ns: info.integer(layout.time)?,
            level: (info.integer(layout.level)? & 7) as u8,
            facility: (info.integer(layout.facility)? & 0xff) as u8,
            text,
        }))
    }

    /// `get_data` and `copy_data` of the kernel's reader; `None` where the text has been overwritten.
    fn log_text(
        &self,
        layout: &LogLayout,
        rings: &Rings,
        id: u64,
        descriptor: &Record<'_, '_>,
        text_len: u16,
    ) -> Result<Option<String>, GapReason> {
        const EMPTY_LINE: u64 = 3;
        let (begin, next) = (descriptor.integer(layout.begin)?, descriptor.integer(layout.next)?);
        if begin & 1 == 1 && next & 1 == 1 {
            return Ok((begin == EMPTY_LINE && next == EMPTY_LINE).then(String::new));
        }
        let Some((at, bytes)) = rings.block(begin, next) else {
            return Err(GapReason::Inconsistent("a log record's block has no valid place"));
        };
        if self.u64(at)? != id {
            return Ok(None);
        }
        let room = bytes.saturating_sub(BLOCK_HEADER_BYTES).min(u64::from(text_len));
        self.log_bytes(at.field(8), room).map(Some).map_err(GapReason::from)
    }

    fn log_bytes(&self, at: Gva, len_bytes: u64) -> Result<String, AccessError> {
        let mut text = vec![0; usize::try_from(len_bytes).unwrap_or(0)];
        self.space().read(at, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Rings {
    /// Where a block is and its length with its header: it lies between its positions, or, where those are in
    /// different turns of the ring, at the ring's start.
    fn block(&self, begin: u64, next: u64) -> Option<(Gva, u64)> {
        let mask = self.text_bytes.wrapping_sub(1);
        let turn = |position: u64| position & !mask;
        let last = next.wrapping_sub(1);
        let (offset, bytes) = if turn(begin) == turn(last) {
            (begin & mask, next.wrapping_sub(begin))
        } else if turn(begin.wrapping_add(self.text_bytes)) == turn(last) {
            (0, next & mask)
        } else {
            return None;
        };
        let fits = offset.checked_add(bytes)? <= self.text_bytes && bytes > BLOCK_HEADER_BYTES;
        let aligned = offset % BLOCK_HEADER_BYTES == 0;
        (fits && aligned).then_some(Gva(self.data.0.wrapping_add(offset))).map(|at| (at, bytes))
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests;
