//! `lynceus top`: the appliance, live.
//!
//! *Does*: asks the appliance once a second and draws what it answers; ↑ and ↓ choose a VM, Enter shows its processes as a tree, Escape goes back, q ends.
//! *Never*: prints what a guest wrote without escaping it.

use super::appliance;
use super::screen::{Screen, table};
use crate::cli::SocketArgs;
use crate::daemon::{self, Answer, FoundRow, Process, Request, Status};
use crate::output::{Outcome, Output, escape};
use anyhow::{Result, bail};
use crossterm::event::{self, Event, KeyCode, KeyEventKind};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often the appliance is asked.
const EVERY: Duration = Duration::from_secs(1);

/// Draws until q.
pub(super) fn run(output: Output, args: &SocketArgs) -> Result<Outcome> {
    if output.is_json() || !std::io::stdout().is_terminal() {
        // Once, for who pipes it.
        return appliance::status(output, args);
    }
    let screen = Screen::enter()?;
    let mut view = View::default();
    loop {
        view.ask(&args.socket)?;
        let until = Instant::now() + EVERY;
        loop {
            view.draw(&screen)?;
            let wait = until.saturating_duration_since(Instant::now());
            if !event::poll(wait)? {
                break;
            }
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
                && view.press(key.code)
            {
                return Ok(Outcome::Clean);
            }
            if Instant::now() >= until || view.is_stale {
                break;
            }
        }
    }
}

#[derive(Default)]
struct View {
    status: Option<Status>,
    findings: Vec<FoundRow>,
    chosen: usize,
    /// The VM whose processes are shown, and what came of asking.
    opened: Option<(String, Result<Vec<Process>, String>)>,
    scrolled: usize,
    is_stale: bool,
}

impl View {
    fn ask(&mut self, socket: &std::path::Path) -> Result<()> {
        self.status = Some(appliance::ask_status(socket)?);
        let Answer::Findings(findings) = daemon::ask(socket, &Request::Findings)? else {
            bail!("the appliance answers something else");
        };
        self.findings = findings;
        if let Some((vm, processes)) = &mut self.opened {
            *processes = match daemon::ask(socket, &Request::Processes(vm.clone()))? {
                Answer::Processes(all) => Ok(all),
                Answer::Refused(why) => Err(why),
                other => Err(format!("the appliance answers something else: {other:?}")),
            };
        }
        self.is_stale = false;
        Ok(())
    }

    /// Whether to end.
    fn press(&mut self, key: KeyCode) -> bool {
        let vms = self.status.as_ref().map_or(0, |status| status.vms.len());
        let place = if self.opened.is_some() { &mut self.scrolled } else { &mut self.chosen };
        match key {
            KeyCode::Char('q') => return true,
            KeyCode::Up => *place = place.saturating_sub(1),
            KeyCode::Down => *place += 1,
            KeyCode::PageUp => *place = place.saturating_sub(20),
            KeyCode::PageDown => *place += 20,
            KeyCode::Esc | KeyCode::Left => self.opened = None,
            KeyCode::Enter | KeyCode::Right if self.opened.is_none() => {
                let chosen = self.status.as_ref().and_then(|status| status.vms.get(self.chosen));
                self.opened = chosen.map(|vm| (vm.vm.clone(), Ok(Vec::new())));
                (self.scrolled, self.is_stale) = (0, true);
            }
            _ => {}
        }
        self.chosen = self.chosen.min(vms.saturating_sub(1));
        false
    }

    fn draw(&mut self, screen: &Screen) -> Result<()> {
        let lines = self.lines()?;
        match self.opened {
            Some(_) => self.scrolled = screen.draw(&lines, self.scrolled, "↑↓ scroll   Esc back   q end")?,
            None => drop(screen.draw(&lines, 0, "↑↓ choose   Enter processes   q end")?),
        }
        Ok(())
    }

    fn lines(&self) -> Result<Vec<String>> {
        if let Some((vm, processes)) = &self.opened {
            let mut lines = vec![format!("processes of {}", escape(vm)), String::new()];
            match processes {
                Ok(processes) => lines.extend(tree(processes)),
                Err(why) => lines.push(escape(why)),
            }
            return Ok(lines);
        }
        let Some(status) = &self.status else { return Ok(Vec::new()) };
        let alerts = &status.alerts;
        let mut lines = vec![
            format!(
                "lynceus {}  up {} s  {} VMs  {} findings  {} waiting for a person  {} alerts, {} suppressed",
                status.version,
                status.uptime_s,
                status.vms.len(),
                self.findings.len(),
                status.waiting,
                alerts.raised,
                alerts.suppressed
            ),
            String::new(),
        ];
        lines.extend(status.troubles().iter().map(|why| format!("WRONG {}", escape(why))));
        let mut vms = table(&status.vms)?;
        if let Some(chosen) = vms.get_mut(self.chosen + 1) {
            *chosen = format!("▶ {chosen}");
        }
        let indented =
            vms.into_iter().map(|line| if line.starts_with('▶') { line } else { format!("  {line}") });
        lines.extend(indented);
        lines.push(String::new());
        lines.extend(table(&self.findings)?);
        Ok(lines)
    }
}

/// The processes, each below its parent. What a parent says is the guest's word: one that is its own ancestor is shown all the same.
fn tree(processes: &[Process]) -> Vec<String> {
    let mut children = BTreeMap::<u32, Vec<&Process>>::new();
    let pids: BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
    for process in processes {
        let parent =
            if pids.contains(&process.ppid) && process.ppid != process.pid { process.ppid } else { 0 };
        children.entry(parent).or_default().push(process);
    }
    let mut lines = Vec::new();
    let mut stack: Vec<(&Process, usize)> =
        children.remove(&0).into_iter().flatten().rev().map(|p| (p, 0)).collect();
    loop {
        while let Some((process, depth)) = stack.pop() {
            let hidden = if process.hidden { "  HIDDEN" } else { "" };
            let uid = process.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string());
            let indent = "  ".repeat(depth.min(40));
            lines.push(format!("{:>7} {uid:>6}  {indent}{}{hidden}", process.pid, escape(&process.cmdline)));
            stack.extend(
                children.remove(&process.pid).into_iter().flatten().rev().map(|child| (child, depth + 1)),
            );
        }
        // What is left runs in a circle.
        let Some((_, rest)) = children.pop_first() else { return lines };
        stack.extend(rest.into_iter().rev().map(|process| (process, 0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_shows_every_process_once_whatever_the_parents_are_said_to_be() {
        let process = |pid: u32, ppid: u32| Process {
            pid,
            ppid,
            uid: Some(0),
            comm: String::new(),
            cmdline: format!("p{pid}"),
            hidden: pid == 3,
        };
        let lines = tree(&[
            process(1, 0),
            process(2, 1),
            process(3, 2),
            process(10, 11),
            process(11, 10),
            process(9, 9),
        ]);
        assert_eq!(lines.len(), 6);
        assert!(lines[2].ends_with("    p3  HIDDEN"), "{lines:?}");
        assert!(lines.iter().any(|line| line.ends_with("p11")));
    }
}
