//! Aligned tables. The last column is never padded, so that long command lines wrap as the terminal likes.

use super::escape_to;
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

/// Where a column's text sits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A column's heading and alignment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    heading: &'static str,
    align: Align,
}

impl Column {
    /// Text.
    pub(crate) const fn left(heading: &'static str) -> Column {
        Column { heading, align: Align::Left }
    }
    /// A number.
    pub(crate) const fn right(heading: &'static str) -> Column {
        Column { heading, align: Align::Right }
    }
}

/// Rows of escaped cells.
pub(crate) struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(columns: &'static [Column]) -> Table {
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row, escaping its cells.
    pub(crate) fn push(&mut self, cells: Vec<String>) {
        let safe = cells.iter().map(|cell| {
            let mut text = String::with_capacity(cell.len());
            escape_to(&mut text, cell);
            text
        });
        self.rows.push(safe.collect());
    }

    /// Writes heading and rows.
    pub(crate) fn write(&self, out: &mut dyn Write, colour: bool) -> io::Result<()> {
        let widths = self.widths();
        let heading: Vec<String> = self.columns.iter().map(|column| column.heading.to_owned()).collect();
        let line = self.line(&heading, &widths);
        if colour {
            writeln!(out, "\x1b[1m{line}\x1b[0m")?;
        } else {
            writeln!(out, "{line}")?;
        }
        self.rows.iter().try_for_each(|row| writeln!(out, "{}", self.line(row, &widths)))
    }

    fn widths(&self) -> Vec<usize> {
        let widest = |(index, column): (usize, &Column)| {
            let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.width());
            cells.chain([column.heading.width()]).max().unwrap_or(0)
        };
        self.columns.iter().enumerate().map(widest).collect()
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (index, ((cell, width), column)) in cells.iter().zip(widths).zip(self.columns).enumerate() {
            let padding = " ".repeat(width.saturating_sub(cell.width()));
            let last = index.saturating_add(1) == self.columns.len();
            match (column.align, last) {
                (Align::Right, _) => line.extend([padding.as_str(), cell]),
                (Align::Left, true) => line.push_str(cell),
                (Align::Left, false) => line.extend([cell, padding.as_str()]),
            }
            if !last {
                line.push_str("  ");
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_also_for_wide_characters_and_escapes() {
        const COLUMNS: &[Column] = &[Column::right("PID"), Column::left("COMM"), Column::left("PATH")];
        let mut table = Table::new(COLUMNS);
        table.push(vec!["1".into(), "init".into(), "/init".into()]);
        table.push(vec!["12345".into(), "漢\x1b".into(), "/x".into()]);
        let mut out = Vec::new();
        table.write(&mut out, false).unwrap();
        let expected = "  PID  COMM    PATH\n    1  init    /init\n12345  漢\\x1b  /x\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
