//! What people and programs read: tables, JSON Lines, escapes and exit codes.

mod escape;
mod table;

pub(crate) use escape::{escape, escape_to};
pub(crate) use table::{Column, Table};

use anyhow::Result;
use lynceus_introspect::Partial;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Exit code of a failed command. The others are in [`Outcome`].
pub(crate) const EXIT_ERROR: u8 = 2;

/// How a look ended, as an exit code. Findings outrank gaps: somebody must act on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// All of it was read and nothing is wrong: 0.
    Clean,
    /// Something is wrong in the guest: 1.
    Findings,
    /// Nothing wrong was seen, but not all of it could be read: 3.
    Incomplete,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        ExitCode::from(match outcome {
            Outcome::Clean => 0,
            Outcome::Findings => 1,
            Outcome::Incomplete => 3,
        })
    }
}

impl Outcome {
    /// The outcome that matters more of the two.
    pub(crate) fn and(self, other: Outcome) -> Outcome {
        use Outcome::{Clean, Findings, Incomplete};
        match (self, other) {
            (Findings, _) | (_, Findings) => Findings,
            (Incomplete, _) | (_, Incomplete) => Incomplete,
            (Clean, Clean) => Clean,
        }
    }
}

/// One line of a listing: what `--json` prints is the struct itself, what a person sees is its cells.
pub(crate) trait Row: Serialize {
    /// The table's columns.
    const COLUMNS: &'static [Column];
    /// One cell a column, not yet escaped.
    fn cells(&self) -> Vec<String>;
}

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    /// JSON Lines when `json`; colour on a terminal only, and not when `NO_COLOR` is set.
    pub(crate) fn new(json: bool) -> Output {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output { json, colour: !json && !no_colour && std::io::stdout().is_terminal() }
    }

    /// Whether JSON was asked for.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// `text` in bold, where there is colour.
    pub(crate) fn bold(self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// `text` in red, where there is colour.
    pub(crate) fn red(self, text: &str) -> String {
        if self.colour { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints the rows on standard output, and on standard error how many there are and what could not be read.
    pub(crate) fn listing<R: Row>(self, noun: &str, look: &Partial<R>) -> Result<Outcome> {
        self.rows(&look.items)?;
        self.coverage(noun, look)
    }

    /// The rows alone.
    pub(crate) fn rows<R: Row>(self, rows: &[R]) -> Result<()> {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        if self.json {
            for row in rows {
                serde_json::to_writer(&mut out, row)?;
                out.write_all(b"\n")?;
            }
        } else {
            let mut table = Table::new(R::COLUMNS);
            rows.iter().for_each(|row| table.push(row.cells()));
            table.write(&mut out, self.colour)?;
        }
        out.flush()?;
        Ok(())
    }

    /// One JSON object, or nothing when a person reads.
    pub(crate) fn json_line<T: Serialize>(self, value: &T) -> Result<()> {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, value)?;
        out.write_all(b"\n")?;
        Ok(())
    }

    /// Says on standard error how much of the look could be read.
    pub(crate) fn coverage<T>(self, noun: &str, look: &Partial<T>) -> Result<Outcome> {
        let count = look.items.len();
        let gaps = (look.gaps.len() as u64).saturating_add(look.more_gaps);
        let mut err = std::io::stderr().lock();
        if self.json {
            for gap in &look.gaps {
                let line =
                    GapLine { gap: gap.what, address: gap.at.map(|at| at.0), reason: gap.reason.to_string() };
                writeln!(err, "{}", serde_json::to_string(&line)?)?;
            }
            writeln!(
                err,
                "{}",
                serde_json::to_string(&Coverage { listed: noun, count, gaps, complete: gaps == 0 })?
            )?;
        } else if gaps == 0 {
            writeln!(err, "{count} {noun}, nothing left unread")?;
        } else {
            for gap in look.gaps.iter().take(10) {
                let at = gap.at.map(|at| format!(" at {at}")).unwrap_or_default();
                writeln!(err, "gap: {}{at}: {}", gap.what, escape(&gap.reason.to_string()))?;
            }
            if gaps > 10 {
                writeln!(err, "gap: … and {} more (--json lists them)", gaps.saturating_sub(10))?;
            }
            writeln!(err, "{count} {noun}, INCOMPLETE: {gaps} things could not be read")?;
        }
        Ok(if gaps == 0 { Outcome::Clean } else { Outcome::Incomplete })
    }
}

#[derive(Serialize)]
struct GapLine {
    gap: &'static str,
    address: Option<u64>,
    reason: String,
}

#[derive(Serialize)]
struct Coverage<'a> {
    listed: &'a str,
    count: usize,
    gaps: u64,
    complete: bool,
}

/// Whether the reader of our output went away: `lynceus ps | head` is no failure.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_outrank_gaps() {
        assert_eq!(Outcome::Clean.and(Outcome::Incomplete), Outcome::Incomplete);
        assert_eq!(Outcome::Incomplete.and(Outcome::Findings), Outcome::Findings);
        assert_eq!(Outcome::Clean.and(Outcome::Clean), Outcome::Clean);
    }

    #[test]
    fn a_closed_pipe_is_recognised_through_serde_json() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::from(serde_json::Error::io(closed))));
        assert!(!is_broken_pipe(&anyhow::anyhow!("something else")));
    }
}
