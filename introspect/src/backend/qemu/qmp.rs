//! A client of QEMU's control socket (QMP: docs/interop/qmp-spec.rst, QEMU 10).
//!
//! *Does*: connects, negotiates, runs one command at a time, drops events. Every wait has a deadline.
//! *Trusts*: QEMU, once the socket is known to be this VM's; even so, lines and nesting are bounded.
//! *Never*: keeps the socket longer than the caller does: QEMU serves one client at a time, and others want it too.
#![allow(unsafe_code)]

use super::process::Process;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// QEMU greets at once, unless another client holds the socket.
const GREETING_MS: u64 = 400;
/// Longest wait for an answer.
const ANSWER_MS: u64 = 3000;
/// Longest line taken. `info mtree -f` of a VM with hundreds of devices stays below 1 MiB.
const LINE_BYTES: usize = 8 << 20;

/// Why a control socket is of no use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QmpError {
    /// The command line names no socket.
    #[error("the VM was started without a QMP socket")]
    None,
    /// Connected, but not greeted.
    #[error("{}: another client holds the socket (libvirt does on its hosts), or QEMU hangs", .0.display())]
    Busy(PathBuf),
    /// No such socket, nobody listening, or no right to.
    #[error("{}: {why}", .path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The host's answer.
        why: String,
    },
    /// Somebody else listens there now.
    #[error("{}: the socket belongs to process {pid}, not to this VM", .path.display())]
    NotThisVm {
        /// The socket.
        path: PathBuf,
        /// Who listens.
        pid: i64,
    },
    /// QEMU did not answer a command in time.
    #[error("no answer to {0} in time")]
    Timeout(String),
    /// QEMU refused a command.
    #[error("{command}: {why}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        why: String,
    },
    /// The connection broke, or what came is not QMP.
    #[error("the connection failed: {0}")]
    Broken(String),
}

/// A negotiated connection.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: UnixStream,
    pending: Vec<u8>,
    commands: u64,
}

impl Qmp {
    /// Connects to the first of the VM's sockets that answers, and tells which.
    pub(super) fn connect_any(
        process: &Process,
        paths: &[PathBuf],
        uuid: Option<&str>,
    ) -> Result<(Qmp, usize), QmpError> {
        let mut error = QmpError::None;
        for (index, path) in paths.iter().take(4).enumerate() {
            match Qmp::connect(process, path, uuid) {
                Ok(qmp) => return Ok((qmp, index)),
                Err(why) => error = why,
            }
        }
        Err(error)
    }

    /// Connects to a socket as the VM's process sees it. Answers within 500 ms, unless the VM's identity must be asked for.
    pub(super) fn connect(process: &Process, path: &Path, uuid: Option<&str>) -> Result<Qmp, QmpError> {
        let unreachable = |why: io::Error| match why.raw_os_error() {
            Some(libc::EAGAIN) => QmpError::Busy(path.to_owned()),
            _ => QmpError::Unreachable { path: path.to_owned(), why: why.to_string() },
        };
        let stream = process.locate(path).and_then(|socket| connect_through(&socket)).map_err(unreachable)?;
        let mut qmp = Qmp { stream, pending: Vec::new(), commands: 0 };
        let greeting = qmp.line(Instant::now() + Duration::from_millis(GREETING_MS), "the greeting");
        let greeting = greeting.map_err(|error| match error {
            QmpError::Timeout(_) => QmpError::Busy(path.to_owned()),
            other => other,
        })?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Broken("not a QMP socket".to_owned()));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        let pid = listener(&qmp.stream);
        if pid != i64::from(process.pid()) && !qmp.has_uuid(uuid) {
            return Err(QmpError::NotThisVm { path: path.to_owned(), pid });
        }
        Ok(qmp)
    }

    /// A manager (libvirt) may have opened the socket for QEMU; then QEMU's word on the VM's UUID decides.
    fn has_uuid(&mut self, uuid: Option<&str>) -> bool {
        let Some(uuid) = uuid else { return false };
        let answer = self.execute("query-uuid", json!({})).unwrap_or_default();
        answer.get("UUID").and_then(Value::as_str).is_some_and(|text| text.eq_ignore_ascii_case(uuid))
    }

    /// Runs a command and returns its answer.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        // A late answer to a command that was given up must not be taken for this one's.
        self.commands = self.commands.wrapping_add(1);
        let mut line = json!({ "execute": command, "arguments": arguments, "id": self.commands }).to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes()).map_err(|error| QmpError::Broken(error.to_string()))?;
        let deadline = Instant::now() + Duration::from_millis(ANSWER_MS);
        loop {
            let mut answer = self.line(deadline, command)?;
            if answer.get("id").is_some_and(|id| id.as_u64() != Some(self.commands)) {
                continue;
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                let why = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), why });
            }
        }
    }

    /// Runs a command of the human monitor and returns its text.
    pub(super) fn human(&mut self, line: &str) -> Result<String, QmpError> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// QEMU's run state: `running`, `paused`, `prelaunch`, …
    pub(super) fn run_state(&mut self) -> Result<String, QmpError> {
        let answer = self.execute("query-status", json!({}))?;
        Ok(answer.get("status").and_then(Value::as_str).unwrap_or("unknown").to_owned())
    }

    /// The socket, for the watchdog.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn line(&mut self, deadline: Instant, what: &str) -> Result<Value, QmpError> {
        let mut searched = 0;
        loop {
            let fresh = self.pending.get(searched..).unwrap_or_default();
            if let Some(found) = memchr::memchr(b'\n', fresh) {
                let rest = self.pending.split_off(searched.saturating_add(found).saturating_add(1));
                let line = std::mem::replace(&mut self.pending, rest);
                return serde_json::from_slice(&line).map_err(|_| QmpError::Broken("not JSON".to_owned()));
            }
            searched = self.pending.len();
            if searched > LINE_BYTES {
                return Err(QmpError::Broken("an endless line".to_owned()));
            }
            self.more(deadline, what)?;
        }
    }

    fn more(&mut self, deadline: Instant, what: &str) -> Result<(), QmpError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(QmpError::Timeout(what.to_owned()));
        }
        let mut bytes = [0; 16384];
        let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut bytes));
        match read {
            Ok(0) => Err(QmpError::Broken("QEMU closed it".to_owned())),
            Ok(got) => {
                self.pending.extend(bytes.iter().take(got));
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
                _ => Err(QmpError::Broken(error.to_string())),
            },
        }
    }
}

/// Connects without waiting (`EAGAIN` if others queue already) to a socket held by an `O_PATH` descriptor: its path may be
/// in another mount namespace, or too long for a socket address.
fn connect_through(socket: &OwnedFd) -> io::Result<UnixStream> {
    // SAFETY: no pointers; checked below.
    let fd = unsafe {
        libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: sockaddr_un is plain data, for which zeros are valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    address.sun_path.iter_mut().zip(path.bytes()).for_each(|(to, byte)| *to = byte.cast_signed());
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: a terminated path (the last byte stays zero) in an address of the size told.
    if unsafe { libc::connect(fd, (&raw const address).cast(), size) } != 0 {
        return Err(io::Error::last_os_error());
    }
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(Duration::from_millis(ANSWER_MS)))?;
    Ok(stream)
}

/// The process that listens at the other end; -1 if the kernel does not say.
fn listener(stream: &UnixStream) -> i64 {
    let mut peer = libc::ucred { pid: -1, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    let (at, fd) = ((&raw mut peer).cast(), stream.as_raw_fd());
    // SAFETY: `peer` is a ucred of the size told.
    let failed = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, at, &raw mut size) } != 0;
    if failed { -1 } else { i64::from(peer.pid) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A server of one client that says `lines`, one for each line that it hears after the first.
    fn serve(lines: &'static [&'static str]) -> (tempfile::TempDir, PathBuf, std::thread::JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s".repeat(90)).join("socket");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let short = std::fs::File::open(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/socket", short.as_raw_fd())).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = [0; 4096];
            for line in lines {
                stream.write_all(line.as_bytes()).unwrap();
                if line.ends_with('\n') && !matches!(stream.read(&mut heard), Ok(1..)) {
                    return;
                }
            }
        });
        (dir, path, thread)
    }

    fn this() -> Process {
        Process::open(std::process::id()).unwrap()
    }

    const HELLO: &str = "{\"QMP\": {}}\n";
    const OK: &str = "{\"return\": {}}\n";

    #[test]
    fn skips_events_and_reports_refusals() {
        let (_dir, path, thread) = serve(&[
            HELLO,
            OK,
            "{\"event\": \"STOP\"}\n{\"ret",
            "urn\": {\"status\": \"paused\"}}\n",
            "{\"error\": {\"desc\": \"no\"}}\n",
            "x\n",
        ]);
        let mut qmp = Qmp::connect(&this(), &path, None).unwrap();
        assert_eq!(qmp.run_state().unwrap(), "paused");
        assert_eq!(
            qmp.execute("a", json!({})),
            Err(QmpError::Refused { command: "a".into(), why: "no".into() })
        );
        assert!(matches!(qmp.execute("a", json!({})), Err(QmpError::Broken(_))));
        drop(qmp);
        thread.join().unwrap();
    }

    #[test]
    fn no_greeting_is_busy_and_a_closed_socket_unreachable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(Qmp::connect(&this(), &path, None).unwrap_err(), QmpError::Busy(path.clone()));
        drop(listener);
        assert!(matches!(Qmp::connect(&this(), &path, None), Err(QmpError::Unreachable { .. })));
        assert_eq!(Qmp::connect_any(&this(), &[], None).unwrap_err(), QmpError::None);
    }
}
