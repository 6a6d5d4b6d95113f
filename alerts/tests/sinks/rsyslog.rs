//! A real rsyslog, by TCP and by TLS with certificates on both sides.

use crate::world::{PATIENCE, alert, config, log, stats, told, trusted, until, until_state};
use anyhow::{Context, Result, ensure};
use lynceus_alerts::{Alert, Pipeline, SinkConfig, SinkKind, SinkState, TlsConfig};
use lynceus_lab::siem::{Authority, Pair, Rsyslog};
use std::path::Path;
use std::process::Command;

/// What has arrived: the numbers of the alerts, which are whole and have what they were sent with.
fn received(rsyslog: &Rsyslog) -> Result<Vec<u32>> {
    let text = rsyslog.received();
    let whole = text.lines().map(|line| {
        let (head, message) = line.split_once("] ").context("structured data")?;
        ensure!(head.starts_with("detection [lynceus@32473 id="), "{line}");
        let alert: Alert = serde_json::from_str(message)?;
        ensure!(alert.sequence.is_some(), "{line}");
        let number = alert.summary().split(' ').nth(1).context("a number")?;
        Ok(number.parse()?)
    });
    whole.collect()
}

fn sink(scheme: &str, port: u16, tls: TlsConfig) -> SinkConfig {
    let mut sink = SinkConfig::new("siem", SinkKind::Syslog);
    sink.address = Some(format!("{scheme}://127.0.0.1:{port}"));
    sink.tls = tls;
    sink.down_after_s = 0;
    sink
}

/// Without what came twice: at least once is what syslog gives.
fn distinct(mut numbers: Vec<u32>) -> Vec<u32> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[test]
fn by_tcp_everything_arrives_whole_and_in_order() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rsyslog = Rsyslog::start(folder.path(), 0, None)?;
    let mut sink = sink("tcp", rsyslog.port, TlsConfig::default());
    sink.min_severity = lynceus_scanners::Severity::High;
    let pipeline = Pipeline::open(&config(folder.path(), vec![sink]))?;
    pipeline.raise_all((0..1000).map(alert).collect())?;
    until("everything arrived", || received(&rsyslog).is_ok_and(|all| all.len() >= 1000))?;
    ensure!(received(&rsyslog)?.into_iter().eq(0..1000));
    pipeline.close(PATIENCE);
    Ok(())
}

#[test]
fn by_tls_nothing_is_lost_while_the_receiver_is_killed_and_comes_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let server = authority.sign("server", "127.0.0.1", false)?;
    let client = authority.sign("client", "lynceus-host", false)?;
    let mut rsyslog = Rsyslog::start(folder.path(), 0, Some((&authority, &server)))?;
    let port = rsyslog.port;
    let mut siem = sink("tls", port, trusted(&authority, Some(&client)));
    siem.min_severity = lynceus_scanners::Severity::High;
    siem.down_after_s = 3600;
    let pipeline = Pipeline::open(&config(folder.path(), vec![siem]))?;
    for round in 0..3 {
        pipeline.raise_all((round * 500..round * 500 + 250).map(alert).collect())?;
        until("some arrived", || received(&rsyslog).is_ok_and(|all| all.len() > round as usize * 500))?;
        // What it has read and not written is its own loss, not ours: it ends in order. What it has not read is sent again.
        Command::new("kill").arg(rsyslog.child.id().to_string()).status()?;
        pipeline.raise_all((round * 500 + 250..round * 500 + 500).map(alert).collect())?;
        rsyslog.child.wait()?;
        rsyslog = Rsyslog::start(folder.path(), port, Some((&authority, &server)))?;
    }
    until("everything arrived", || received(&rsyslog).is_ok_and(|all| distinct(all).len() == 1500))?;
    ensure!(distinct(received(&rsyslog)?).into_iter().eq(0..1500));
    pipeline.close(PATIENCE);
    Ok(())
}

#[test]
fn an_expired_certificate_is_refused_and_told_once_and_its_renewal_too() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let server = authority.sign("server", "127.0.0.1", true)?;
    let client = authority.sign("client", "lynceus-host", false)?;
    let rsyslog = Rsyslog::start(folder.path(), 0, Some((&authority, &server)))?;
    let port = rsyslog.port;
    let siem = sink("tls", port, trusted(&authority, Some(&client)));
    let pipeline = Pipeline::open(&config(folder.path(), vec![siem, log(folder.path())]))?;
    pipeline.raise(alert(1))?;
    until_state(&pipeline, "siem", SinkState::Refused)?;
    until("it is tried several times", || stats(&pipeline, "siem").failed >= 3)?;
    let error = stats(&pipeline, "siem").last_error.unwrap_or_default();
    ensure!(error.contains("expired"), "{error}");
    ensure!(told(folder.path(), "siem").len() == 1, "{:?}", told(folder.path(), "siem"));
    drop(rsyslog);
    let renewed = authority.sign("server", "127.0.0.1", false)?;
    let _rsyslog = Rsyslog::start(folder.path(), port, Some((&authority, &renewed)))?;
    until_state(&pipeline, "siem", SinkState::Up)?;
    until("it is told", || told(folder.path(), "siem").len() == 2)?;
    let states: Vec<String> = told(folder.path(), "siem").into_iter().map(|(state, _)| state).collect();
    ensure!(states == ["refused", "back"], "{states:?}");
    pipeline.close(PATIENCE);
    Ok(())
}

/// A certificate that the receiver does not accept: nothing counts as delivered, whatever the receiver does to the connection.
fn is_not_accepted(client: impl FnOnce(&Authority, &Path) -> Result<Option<Pair>>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let server = authority.sign("server", "127.0.0.1", false)?;
    let client = client(&authority, folder.path())?;
    let rsyslog = Rsyslog::start(folder.path(), 0, Some((&authority, &server)))?;
    let siem = sink("tls", rsyslog.port, trusted(&authority, client.as_ref()));
    let pipeline = Pipeline::open(&config(folder.path(), vec![siem, log(folder.path())]))?;
    pipeline.raise_all((0..300).map(alert).collect())?;
    until("it is tried several times", || stats(&pipeline, "siem").failed >= 4)?;
    let stats = stats(&pipeline, "siem");
    ensure!((stats.delivered, received(&rsyslog)?.len()) == (0, 0), "{stats:?}");
    until("it is told", || !told(folder.path(), "siem").is_empty())?;
    ensure!(told(folder.path(), "siem").len() == 1, "{:?}", told(folder.path(), "siem"));
    pipeline.close(std::time::Duration::ZERO);
    Ok(())
}

#[test]
fn no_certificate_is_not_accepted() -> Result<()> {
    is_not_accepted(|_, _| Ok(None))
}

#[test]
fn a_foreign_certificate_is_not_accepted() -> Result<()> {
    is_not_accepted(|_, folder| {
        Authority::new(folder, "foreign")?.sign("client", "lynceus-host", false).map(Some)
    })
}

#[test]
fn an_expired_certificate_of_ours_is_not_accepted() -> Result<()> {
    is_not_accepted(|authority, _| authority.sign("client", "lynceus-host", true).map(Some))
}

#[test]
fn a_certificate_with_another_name_is_not_accepted() -> Result<()> {
    is_not_accepted(|authority, _| authority.sign("client", "somebody", false).map(Some))
}

#[test]
fn a_receiver_with_a_foreign_certificate_is_not_trusted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let foreign = Authority::new(folder.path(), "foreign")?;
    let server = foreign.sign("server", "127.0.0.1", false)?;
    let rsyslog = Rsyslog::start(folder.path(), 0, Some((&foreign, &server)))?;
    let siem = sink("tls", rsyslog.port, trusted(&authority, None));
    let pipeline = Pipeline::open(&config(folder.path(), vec![siem, log(folder.path())]))?;
    pipeline.raise(alert(1))?;
    until_state(&pipeline, "siem", SinkState::Refused)?;
    let error = stats(&pipeline, "siem").last_error.unwrap_or_default();
    ensure!(error.contains("UnknownIssuer"), "{error}");
    pipeline.close(std::time::Duration::ZERO);
    Ok(())
}
