//! `lynceus dmesg`: the kernel log.

use crate::output::{Column, Row};
use lynceus_introspect::linux::LogRecord;
use serde::Serialize;

/// Names of the levels (`linux/kern_levels.h`).
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

/// One record.
#[derive(Serialize)]
pub(super) struct LogRow {
    sequence: u64,
    time_ns: u64,
    level: &'static str,
    facility: u8,
    text: String,
}

impl From<LogRecord> for LogRow {
    fn from(record: LogRecord) -> LogRow {
        LogRow {
            sequence: record.sequence,
            time_ns: record.time_ns,
            level: LEVELS.get(usize::from(record.level)).copied().unwrap_or("unknown"),
            facility: record.facility,
            text: record.text,
        }
    }
}

impl Row for LogRow {
    const COLUMNS: &'static [Column] =
        &[Column::right("SECONDS"), Column::left("LEVEL"), Column::left("TEXT")];
    fn cells(&self) -> Vec<String> {
        let (seconds, micros) = (self.time_ns / 1_000_000_000, self.time_ns % 1_000_000_000 / 1000);
        vec![format!("{seconds}.{micros:06}"), self.level.to_owned(), self.text.clone()]
    }
}
