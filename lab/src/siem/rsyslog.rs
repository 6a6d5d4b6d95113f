//! A real rsyslog, by TCP and by TLS with certificates on both sides.

use super::certificates::{Authority, Pair};
use crate::packages;
use crate::until_so;
use anyhow::{Context, Result};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// It listens within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running rsyslogd that writes what it gets to a file.
#[derive(Debug)]
pub struct Rsyslog {
    /// Its process.
    pub child: Child,
    folder: PathBuf,
    /// Where it listens.
    pub port: u16,
}

impl Rsyslog {
    /// Starts it on `port`, or on any. With a certificate it speaks TLS and wants one of `lynceus-host`.
    pub fn start(folder: &Path, port: u16, tls: Option<(&Authority, &Pair)>) -> Result<Rsyslog> {
        Rsyslog::start_by(Command::new("rsyslogd"), folder, port, tls)
    }

    /// The same with a command that starts it somewhere else: `ip netns exec NAME rsyslogd`.
    pub fn start_by(
        mut command: Command,
        folder: &Path,
        port: u16,
        tls: Option<(&Authority, &Pair)>,
    ) -> Result<Rsyslog> {
        packages::ensure(packages::ALL)?;
        let dir = folder.display();
        let (global, input) = match tls {
            None => (String::new(), String::new()),
            Some((authority, own)) => (
                format!(
                    r#"DefaultNetstreamDriverCAFile="{}" DefaultNetstreamDriverCertFile="{}" DefaultNetstreamDriverKeyFile="{}""#,
                    authority.ca.display(),
                    own.cert.display(),
                    own.key.display()
                ),
                r#"StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/name" PermittedPeer="lynceus-host""#
                    .to_owned(),
            ),
        };
        let file = folder.join("rsyslog.conf");
        let text = format!(
            r#"global(workDirectory="{dir}" maxMessageSize="64k" {global})
module(load="imtcp" {input})
template(name="raw" type="string" string="%msgid% %structured-data% %msg%\n")
input(type="imtcp" address="127.0.0.1" port="{port}" listenPortFileName="{dir}/port")
action(type="omfile" file="{dir}/received" template="raw")
"#
        );
        std::fs::write(&file, text)?;
        std::fs::remove_file(folder.join("port")).ok();
        let child = command
            .arg("-n")
            .arg("-f")
            .arg(&file)
            .arg("-iNONE")
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(folder.join("errors"))?)
            .spawn()
            .context("rsyslogd")?;
        let mut rsyslog = Rsyslog { child, folder: folder.to_owned(), port };
        rsyslog.wait()?;
        rsyslog.port = rsyslog.listens().context("a port")?;
        Ok(rsyslog)
    }
    fn wait(&self) -> Result<()> {
        until_so("rsyslogd to listen", PATIENCE, || Ok(self.listens().is_some()))
            .with_context(|| std::fs::read_to_string(self.folder.join("errors")).unwrap_or_default())
    }

    /// The port; a file tells it where rsyslog chose it.
    fn listens(&self) -> Option<u16> {
        if self.port != 0 {
            return TcpStream::connect(("127.0.0.1", self.port)).ok().map(|_| self.port);
        }
        std::fs::read_to_string(self.folder.join("port")).ok()?.trim().parse().ok()
    }

    /// What it has written: a line for each message, with its id, its structured data and its text.
    pub fn received(&self) -> String {
        std::fs::read_to_string(self.folder.join("received")).unwrap_or_default()
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
