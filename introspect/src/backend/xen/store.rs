//! XenStore: what the toolstack calls its domains, and which interfaces they have.
//!
//! *Trusts*: nobody: a guest may write some of its own nodes. Answers are limited in length and number.
//! *Never*: writes.
//!
//! Protocol: Xen `xen/include/public/io/xs_wire.h`, `docs/misc/xenstore.txt`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// `XENSTORE_PAYLOAD_MAX`.
const MAX_PAYLOAD: u32 = 4096;
const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;
/// Longest wait for an answer on a socket.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection.
pub(super) struct XenStore {
    connection: Box<dyn ReadWrite>,
}

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

impl XenStore {
    /// Connects through the kernel, or through the daemon's socket.
    pub(super) fn connect() -> io::Result<XenStore> {
        XenStore::connect_with(Some(PATIENCE))
    }

    /// The same for whoever waits for events, which may be long in coming.
    pub(super) fn connect_patiently() -> io::Result<XenStore> {
        XenStore::connect_with(None)
    }

    fn connect_with(patience: Option<Duration>) -> io::Result<XenStore> {
        if let Ok(device) = File::options().read(true).write(true).open("/dev/xen/xenbus") {
            return Ok(XenStore { connection: Box::new(device) });
        }
        let socket = UnixStream::connect("/run/xenstored/socket")?;
        socket.set_read_timeout(patience)?;
        Ok(XenStore { connection: Box::new(socket) })
    }

    #[cfg(test)]
    pub(super) fn over(connection: impl Read + Write + Send + 'static) -> XenStore {
        XenStore { connection: Box::new(connection) }
    }

    /// A node's value as text; `None` where there is no such node.
    pub(super) fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        Ok(self.ask(READ, path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The names below a node.
    pub(super) fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        let bytes = self.ask(DIRECTORY, path)?.unwrap_or_default();
        let names = bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Asks for an event whenever something at `path` changes; the first comes at once.
    pub(super) fn watch(&mut self, path: &str) -> io::Result<()> {
        // The path, and the token by which events are told apart: the path again.
        self.ask(WATCH, &format!("{path}\0{path}")).map(drop)
    }

    /// Waits for the next event.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        while self.receive()?.0 != WATCH_EVENT {}
        Ok(())
    }

    fn ask(&mut self, kind: u32, path: &str) -> io::Result<Option<Vec<u8>>> {
        let len = u32::try_from(path.len() + 1).ok().filter(|len| *len <= MAX_PAYLOAD);
        let len = len.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut message: Vec<u8> = [kind, 1, 0, len].iter().flat_map(|word| word.to_le_bytes()).collect();
        message.extend(path.bytes().chain([0]));
        self.connection.write_all(&message)?;
        loop {
            let (answer, bytes) = self.receive()?;
            match answer {
                // Of a watch that was set before: whoever waits will be told by the next one, which setting a watch causes.
                WATCH_EVENT => {}
                ERROR if bytes.starts_with(b"ENOENT") => return Ok(None),
                ERROR => {
                    let why = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
                    return Err(io::Error::other(format!("XenStore: {path}: {why}")));
                }
                answer if answer == kind => return Ok(Some(bytes)),
                answer => return Err(io::Error::other(format!("XenStore answered {kind} with {answer}"))),
            }
        }
    }

    fn receive(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut head = [0; 16];
        self.connection.read_exact(&mut head)?;
        let word = |at: usize| {
            head.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |part| u32::from_le_bytes(*part))
        };
        let len = word(12);
        if len > MAX_PAYLOAD {
            return Err(io::Error::other(format!("XenStore sends {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        self.connection.read_exact(&mut bytes)?;
        Ok((word(0), bytes))
    }
}
