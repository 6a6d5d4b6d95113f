//! A real journald, in a `/run` of its own.

use crate::world::{PATIENCE, alert, config, until};
use anyhow::{Context, Result, ensure};
use lynceus_alerts::{Alert, Pipeline, SinkConfig, SinkKind};
use lynceus_lab::packages;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// What journald finds as its own: it must leave the host's kernel log and audit alone.
const SETTLE: &str = "mount -t tmpfs lynceus-test /run \
    && mkdir -p /run/systemd/journal /run/log/journal /run/systemd/journald.conf.d \
    && printf '[Journal]\\nStorage=volatile\\nAudit=no\\nReadKMsg=no\\nForwardToWall=no\\n' > /run/systemd/journald.conf.d/test.conf \
    && exec /lib/systemd/systemd-journald";

struct Journal(Child);

impl Journal {
    fn start() -> Result<Journal> {
        packages::ensure(packages::ALL)?;
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", SETTLE])
            .stderr(Stdio::null())
            .spawn()
            .context("unshare")?;
        let journal = Journal(child);
        until("journald listens", || journal.run("systemd/journal/socket").exists())?;
        Ok(journal)
    }
    /// A path in its own `/run`.
    fn run(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/{path}", self.0.id()))
    }
    fn entries(&self) -> Result<Vec<Value>> {
        let out = Command::new("journalctl")
            .arg("-D")
            .arg(self.run("log/journal"))
            .args(["--all", "-o", "json", "SYSLOG_IDENTIFIER=lynceus"])
            .output()
            .context("journalctl")?;
        let text = String::from_utf8(out.stdout)?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A field as text: journalctl prints one with control characters as a list of bytes.
fn text(entry: &Value, name: &str) -> Result<String> {
    match &entry[name] {
        Value::String(text) => Ok(text.clone()),
        Value::Array(bytes) => {
            let bytes = bytes.iter().map(|byte| Ok(u8::try_from(byte.as_u64().context("a byte")?)?));
            Ok(String::from_utf8(bytes.collect::<Result<_>>()?)?)
        }
        other => anyhow::bail!("{name} is {other}"),
    }
}

#[test]
fn a_real_journal_keeps_every_field_as_it_was() -> Result<()> {
    let journal = Journal::start()?;
    let folder = tempfile::tempdir()?;
    let mut sink = SinkConfig::new("journal", SinkKind::Journald);
    sink.address = Some(journal.run("systemd/journal/socket").display().to_string());
    let pipeline = Pipeline::open(&config(folder.path(), vec![sink]))?;
    let mut alerts: Vec<Alert> = (0..20).map(alert).collect();
    alerts[7].vm = Some("a\nPRIORITY=7\n".to_owned());
    pipeline.raise_all(alerts.clone())?;
    until("everything arrived", || journal.entries().is_ok_and(|all| all.len() == 20))?;
    for (alert, entry) in alerts.iter().zip(journal.entries()?) {
        ensure!(text(&entry, "LYNCEUS_ID")? == alert.id && text(&entry, "PRIORITY")? == "3", "{entry:#}");
        ensure!(text(&entry, "MESSAGE")? == alert.summary(), "{entry:#}");
        ensure!(Some(text(&entry, "LYNCEUS_VM")?) == alert.vm, "{entry:#}");
        let whole: Alert = serde_json::from_str(&text(&entry, "LYNCEUS_ALERT")?)?;
        ensure!(whole.id == alert.id && whole.sequence.is_some());
    }
    pipeline.close(PATIENCE);
    Ok(())
}
