//! Sockets on this host: UDP and the journal's.

use crate::world::{PATIENCE, alert, config, until};
use anyhow::{Context, Result, ensure};
use lynceus_alerts::{Alert, Pipeline, SinkConfig, SinkKind};
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

#[test]
fn by_udp_each_alert_is_a_datagram() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut siem = SinkConfig::new("siem", SinkKind::Syslog);
    siem.address = Some(format!("udp://{}", socket.local_addr()?));
    let pipeline = Pipeline::open(&config(folder.path(), vec![siem]))?;
    pipeline.raise_all((0..5).map(alert).collect())?;
    for number in 0..5 {
        let mut buffer = [0; 65536];
        let len = socket.recv(&mut buffer)?;
        let message = std::str::from_utf8(&buffer[..len])?;
        ensure!(message.starts_with("<131>1 "), "{message}");
        let (_, text) = message.split_once("] ").context("structured data")?;
        ensure!(serde_json::from_str::<Alert>(text)?.summary() == alert(number).summary(), "{message}");
    }
    pipeline.close(PATIENCE);
    Ok(())
}

/// The fields of a datagram of the journal's native protocol, as its documentation describes them.
fn fields(mut bytes: &[u8]) -> Result<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').context("a name")?;
        let name = std::str::from_utf8(&bytes[..end])?;
        let len = u64::from_le_bytes(bytes[end + 1..end + 9].try_into()?) as usize;
        let value = std::str::from_utf8(&bytes[end + 9..end + 9 + len])?;
        ensure!(bytes[end + 9 + len] == b'\n');
        ensure!(fields.insert(name.to_owned(), value.to_owned()).is_none(), "{name} twice");
        bytes = &bytes[end + 10 + len..];
    }
    Ok(fields)
}

#[test]
fn the_journal_gets_fields_and_a_value_makes_no_other() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut journal = SinkConfig::new("journal", SinkKind::Journald);
    journal.address = Some(path.display().to_string());
    let pipeline = Pipeline::open(&config(folder.path(), vec![journal]))?;
    let mut hostile = alert(1);
    hostile.vm = Some("a\nPRIORITY=7\n".to_owned());
    pipeline.raise(hostile.clone())?;
    let mut buffer = [0; 65536];
    let len = socket.recv(&mut buffer)?;
    let fields = fields(&buffer[..len])?;
    ensure!(fields["PRIORITY"] == "3" && fields["LYNCEUS_ID"] == hostile.id, "{fields:?}");
    ensure!(Some(&fields["LYNCEUS_VM"]) == hostile.vm.as_ref() && fields["MESSAGE"] == hostile.summary());
    ensure!(serde_json::from_str::<Alert>(&fields["LYNCEUS_ALERT"])?.vm == hostile.vm);
    until("it is acknowledged", || pipeline.stats().sinks[0].lag == 0)?;
    pipeline.close(PATIENCE);
    Ok(())
}
