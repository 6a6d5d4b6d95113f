//! The terminal as a screen, for what is drawn again and again.
//!
//! *Never*: leaves the terminal in another state than it found it in, however it ends.

use crate::output::{Row, Table};
use anyhow::Result;
use crossterm::{cursor, execute, queue, terminal};
use std::io::Write;

/// The terminal, as it is while this lives.
pub(super) struct Screen;

impl Screen {
    pub(super) fn enter() -> Result<Screen> {
        terminal::enable_raw_mode()?;
        execute!(std::io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(Screen)
    }

    /// Draws lines from the top, behind so many that are skipped, and what keys there are in the last row. How many were skipped: those
    /// that are left fill the screen.
    pub(super) fn draw(&self, lines: &[String], skip: usize, keys: &str) -> Result<usize> {
        let (width, height) = terminal::size()?;
        let (width, last_row) = (usize::from(width), height.saturating_sub(1));
        let skip = skip.min(lines.len().saturating_sub(usize::from(last_row)));
        let mut out = std::io::stdout().lock();
        for row in 0..=last_row {
            let of_row = lines.get(skip + usize::from(row)).map_or("", String::as_str);
            let line = if row == last_row { keys } else { of_row };
            queue!(out, cursor::MoveTo(0, row))?;
            write!(out, "{}", line.chars().take(width).collect::<String>())?;
            queue!(out, terminal::Clear(terminal::ClearType::UntilNewLine))?;
        }
        out.flush()?;
        Ok(skip)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(std::io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// A table's lines.
pub(super) fn table<R: Row>(rows: &[R]) -> Result<Vec<String>> {
    let mut table = Table::new(R::COLUMNS);
    rows.iter().for_each(|row| table.push(row.cells()));
    let mut text = Vec::new();
    table.write(&mut text, false)?;
    Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
}
