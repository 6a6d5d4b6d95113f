//! The process that reads a VM's memory to answer questions about connections: a worker, which locks itself down before it reads the first
//! byte of the guest.
//!
//! *Does*: starts it, asks it one thing at a time, ends it. *Trusts*: its word on its own VM's processes, which is the guest's word too. *Never*:
//! reads a guest itself; waits longer than [`PATIENCE`] for an answer.

use crate::daemon::protocol::{Begin, Channel, Reply, Request};
use crate::daemon::worker::TIME_TO_ATTACH;
use crate::output::escape;
use crate::sandbox::{End, Limits};
use anyhow::{Context, Result, bail, ensure};
use lynceus_firewall::Who;
use lynceus_introspect::linux::Connection;
use lynceus_profiles::store::ProfileStore;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A look ends by itself before this.
const PATIENCE: Duration = Duration::from_millis(500);
/// So much of its last words is read.
const MAX_ERROR_BYTES: u64 = 64 << 10;
/// Looks at a moving guest before it is given up: it is never paused for a connection.
const TRIES: u32 = 4;

/// A process that looks into one VM until this is dropped.
pub(super) struct Looker {
    child: Child,
    channel: Channel,
}

impl Looker {
    /// Starts it; with the release of the kernel that it found.
    pub(super) fn start(vm: &str) -> Result<(Looker, String)> {
        ensure!(!vm.contains('/') && !Path::new(vm).is_file(), "{vm} is a file of that name, not a VM");
        let (ours, theirs) = UnixStream::pair().context("no sockets for a worker")?;
        for limit in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            limit(&ours, Some(TIME_TO_ATTACH)).context("no time limit on a worker's socket")?;
        }
        let timer = ours.try_clone().context("no second handle of a socket")?;
        let child = Command::new("/proc/self/exe")
            .arg("worker")
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("a worker cannot be started")?;
        let mut looker = Looker { child, channel: Channel::new(ours) };
        match looker.begin(vm) {
            Ok(release) => {
                timer.set_read_timeout(Some(PATIENCE)).context("no time limit on a worker's socket")?;
                Ok((looker, release))
            }
            Err(error) => {
                let how = looker.end();
                Err(error.context(how))
            }
        }
    }

    fn begin(&mut self, vm: &str) -> Result<String> {
        let folder = ProfileStore::default_directory();
        self.channel.send(&Begin {
            target: vm.to_owned(),
            vm: vm.to_owned(),
            profiles: Some(folder.clone()),
            rules: Vec::new(),
            hashes: None,
            tries: TRIES,
            pause_ms: 0,
            allow_unrestricted: false,
            memory_bytes: Limits::default().memory_bytes,
            kernels: BTreeMap::new(),
            unpacks: None,
            compares: false,
        })?;
        loop {
            match self.channel.receive::<Reply>()?.context("it is gone")? {
                Reply::Learned(len) => {
                    let profile = self.channel.receive_bytes(len)?;
                    // Without it the next one takes longer to find the kernel.
                    let _ = ProfileStore::open(&folder).and_then(|store| store.keep_for(vm, &profile));
                }
                Reply::Ready(ready) => return Ok(escape(&ready.release)),
                Reply::Failed(why) => bail!("{}", escape(&why)),
                _ => bail!("it answered what was not asked"),
            }
        }
    }

    /// The processes that hold a connection's socket. After an error it is of no more use: an answer may come late.
    pub(super) fn who(&mut self, connection: &Connection) -> Result<Who> {
        self.channel.send(&Request::Who(*connection))?;
        match self.channel.receive::<Reply>()? {
            Some(Reply::Who(who)) => Ok(who),
            _ => bail!("{}", self.end()),
        }
    }

    /// Ends it; how it had ended, if it had before.
    fn end(&mut self) -> String {
        let _ = self.child.kill();
        let Ok(status) = self.child.wait() else { return "how it ended is not known".to_owned() };
        let mut words = Vec::new();
        if let Some(errors) = self.child.stderr.take() {
            let _ = errors.take(MAX_ERROR_BYTES).read_to_end(&mut words);
        }
        End::of(status, &String::from_utf8_lossy(&words)).to_string()
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
