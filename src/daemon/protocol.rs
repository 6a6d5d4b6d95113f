//! What the supervisor, or who asks about connections, and a worker say to each other: JSON lines over a pair of sockets.
//!
//! *Does*: names every message, and reads lines of bounded length. *Trusts*: nothing that a worker says: whoever owns a guest may come to own
//! the worker that reads it. *Never*: lets either side have more than one question open.

use lynceus_firewall::Who;
use lynceus_introspect::ControlError;
use lynceus_introspect::linux::Connection;
use lynceus_introspect::processors::Processor;
use lynceus_policy::syntax;
use lynceus_scanners::Finding;
use lynceus_scanners::signatures::Summary;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The longest message: the evidence of a finding with some thousand pages.
const MAX_LINE_BYTES: u64 = 64 << 20;
/// A look tells so many findings, and counts the others.
pub(super) const MAX_FINDINGS: usize = 1000;
/// A look tells so many gaps, and counts the others.
pub(super) const MAX_GAPS_TOLD: usize = 8;
/// Modules that are compared with their files: no guest has loaded a third of it.
pub(super) const MAX_MODULES: usize = 1024;

/// The first line that a worker reads.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Begin {
    /// What to look at: `pid:N`, `xen:N`, or a dump's path.
    pub(super) target: String,
    /// What the VM is called.
    pub(super) vm: String,
    /// Where kernel profiles are kept.
    pub(super) profiles: Option<PathBuf>,
    /// Rule files and folders.
    pub(super) rules: Vec<PathBuf>,
    /// A list of hashes.
    pub(super) hashes: Option<PathBuf>,
    /// Looks at a moving guest before it is paused.
    pub(super) tries: u32,
    /// The longest pause; 0 never pauses.
    pub(super) pause_ms: u64,
    /// Read a Xen domain through a handle that could read others as well.
    pub(super) allow_unrestricted: bool,
    /// What the worker may allocate.
    pub(super) memory_bytes: u64,
    /// Kernels that are unpacked, by the digests of their files.
    pub(super) kernels: BTreeMap<String, PathBuf>,
    /// The modules that its guest has loaded, unpacked: what the block is called, and where it is.
    pub(super) modules: Option<(String, PathBuf)>,
    /// Only unpack this, and read no guest.
    pub(super) unpacks: Option<Unpacks>,
    /// Read the kernel's own file, to compare with: who answers questions about connections needs none.
    pub(super) compares: bool,
}

/// What a process unpacks for workers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unpacks {
    /// The kernel's file of this digest.
    Kernel(String),
    /// Files of modules.
    Modules(ModulesOf),
}

impl Unpacks {
    /// What it is called when it is unpacked.
    pub(super) fn key(&self) -> &str {
        match self {
            Unpacks::Kernel(digest) => digest,
            Unpacks::Modules(modules) => &modules.key,
        }
    }
}

/// Some modules of a kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct ModulesOf {
    /// What the block of their files is called.
    pub(super) key: String,
    /// Where the kernel's modules are.
    pub(super) folder: PathBuf,
    /// `uname -r`.
    pub(super) release: String,
    /// Their names.
    pub(super) names: BTreeSet<String>,
}

/// What the supervisor asks of a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// Run detectors, by name.
    Look(Vec<String>),
    /// Scan these parts for signatures.
    Scan(Vec<syntax::Scope>),
    /// Keep what shows a finding.
    Evidence(Box<Finding>),
    /// List the processes.
    Processes,
    /// Name the processes that hold a connection's socket.
    Who(Connection),
    /// The answer to [`Reply::Pause`] and [`Reply::Resume`]: why it failed, where it did.
    Paused(Option<String>),
    /// The answer to [`Reply::Registers`].
    Registers(Result<Vec<Processor>, ControlError>),
}

/// What a worker answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// It is locked down, has found the kernel, and waits for requests.
    Ready(Box<Ready>),
    /// What a look or a scan found.
    Looked(Box<Looked>),
    /// What shows a finding: the lines of an evidence file. None where it does not show any more.
    Evidence(Option<String>),
    /// The guest's processes.
    Processes(Vec<Process>),
    /// Who is behind a connection.
    Who(Who),
    /// The guest moves too fast: pause it.
    Pause,
    /// And let it go on.
    Resume,
    /// Ask the hypervisor for the registers of the guest's processors.
    Registers,
    /// What was learned of the guest's kernel, for the profile store: to be kept under its digest, and not read.
    /// As many bytes follow.
    Learned(u64),
    /// What was to be unpacked is: as many bytes follow, and nothing after them.
    Unpacked(u64),
    /// The request could not be done.
    Failed(String),
}

/// What a worker knows of its guest once it is attached.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(super) struct Ready {
    /// The kernel's release.
    pub(super) release: String,
    /// Where its profile came from.
    pub(super) profile: String,
    /// The file that its code is compared with.
    pub(super) image: Option<String>,
    /// Its digest, where the worker had to read it by itself.
    pub(super) unshared: Option<String>,
    /// How many modules can be compared with their files.
    pub(super) modules: usize,
    /// Modules that the guest has loaded and of which there is no file.
    pub(super) lacks: Vec<String>,
    /// The layers of the lock-down that this host's kernel lacks.
    pub(super) missing_layers: Vec<String>,
    /// What people should know.
    pub(super) warnings: Vec<String>,
    /// How long it took.
    pub(super) took_ms: u64,
}

/// What came of a look.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(super) struct Looked {
    /// What was found, the first [`MAX_FINDINGS`] of it.
    pub(super) findings: Vec<Finding>,
    /// Findings beyond those.
    pub(super) more: u64,
    /// How much could not be read.
    pub(super) gaps: u64,
    /// The first of these.
    pub(super) told_gaps: Vec<String>,
    /// What a scan covered.
    pub(super) scanned: Option<Summary>,
    /// Modules that the guest has loaded and of which there is no file.
    pub(super) lacks: Vec<String>,
}

/// A process, as `lynceus top` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: u32,
    /// Its parent's.
    pub(crate) ppid: u32,
    /// Its user.
    pub(crate) uid: Option<u32>,
    /// Its name, as the guest wrote it.
    pub(crate) comm: String,
    /// Its command line.
    pub(crate) cmdline: String,
    /// It is on no list that the guest's own tools read.
    pub(crate) hidden: bool,
}

/// One end of the pair.
#[derive(Debug)]
pub(super) struct Channel {
    reader: BufReader<UnixStream>,
}

impl Channel {
    /// Speaks over a socket.
    pub(super) fn new(stream: UnixStream) -> Channel {
        Channel { reader: BufReader::new(stream) }
    }

    /// From here on nothing is waited for longer.
    pub(super) fn wait_at_most(&self, patience: Duration) -> io::Result<()> {
        self.reader.get_ref().set_read_timeout(Some(patience))
    }

    /// Sends a message.
    pub(super) fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        send(self.reader.get_mut(), message)
    }

    /// Sends bytes after a message that announced them.
    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// For bytes that a message announced.
    pub(super) fn writer(&mut self) -> &mut impl Write {
        self.reader.get_mut()
    }

    /// The same at the other end.
    pub(super) fn reader(&mut self) -> &mut impl Read {
        &mut self.reader
    }

    /// Bytes that a message announced.
    pub(super) fn receive_bytes(&mut self, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let got = self.reader.by_ref().take(len.min(MAX_LINE_BYTES)).read_to_end(&mut bytes)?;
        if got as u64 == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// The next message; none at the end.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = Vec::new();
        let got = self.reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        match line.last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
            Some(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message ends after {got} bytes")))
            }
        }
    }
}

/// Sends a message as a line.
pub(super) fn send<T: Serialize>(stream: &mut UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_as_they_were_sent_and_half_a_one_is_an_error() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, mut there) = (here, Channel::new(there));
        send(&mut here, &Request::Look(vec!["hidden_task".to_owned()])).unwrap();
        here.write_all(b"{\"scan\":[").unwrap();
        drop(here);
        let first = there.receive::<Request>().unwrap();
        assert!(matches!(first, Some(Request::Look(names)) if names == ["hidden_task"]));
        assert_eq!(there.receive::<Request>().unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(there.receive::<Request>().unwrap().is_none());
    }
}
