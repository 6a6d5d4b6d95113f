//! The process that reads a VM's memory to answer questions about connections: a worker, which locks itself down before it reads the first
//! byte of the guest.
//!
//! *Does*: starts it, asks it one thing at a time, ends it. *Trusts*: its word on its own VM's processes, which is the guest's word too. *Never*:
//! reads a guest itself; waits longer than [`PATIENCE`] for an answer.

use super::config::Workers;
use super::groups::Room;
use super::process::Process;
use super::protocol::{Begin, Channel, Reply, Request};
use super::worker::TIME_TO_ATTACH;
use crate::output::escape;
use crate::sandbox::Limits;
use anyhow::{Context, Result, bail, ensure};
use lynceus_firewall::Who;
use lynceus_introspect::linux::Connection;
use lynceus_profiles::store::ProfileStore;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// A look ends by itself before this.
const PATIENCE: Duration = Duration::from_millis(500);
/// So much of its last words is read.
const MAX_ERROR_BYTES: u64 = 64 << 10;

/// A process that looks into one VM until this is dropped.
pub(crate) struct Looker {
    /// None once it has ended.
    process: Option<Process>,
    channel: Channel,
}

impl Looker {
    /// Starts it; with the release of the kernel that it found.
    pub(crate) fn start(vm: &str) -> Result<(Looker, String)> {
        ensure!(!vm.contains('/') && !Path::new(vm).is_file(), "{vm} is a file of that name, not a VM");
        let room = Room::of(Limits::default().memory_bytes, &Workers::default(), vm);
        let (process, ours) = Process::start(&room)?;
        let mut looker = Looker { process: Some(process), channel: Channel::new(ours) };
        looker.channel.wait_at_most(TIME_TO_ATTACH)?;
        let release = looker.begin(vm)?;
        looker.channel.wait_at_most(PATIENCE)?;
        Ok((looker, release))
    }

    fn begin(&mut self, vm: &str) -> Result<String> {
        let folder = ProfileStore::default_directory();
        self.channel.send(&Begin {
            target: vm.to_owned(),
            vm: vm.to_owned(),
            profiles: Some(folder.clone()),
            memory_bytes: Limits::default().memory_bytes,
            ..Begin::default()
        })?;
        loop {
            match self.hear()? {
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
    pub(crate) fn who(&mut self, connection: &Connection) -> Result<Who> {
        self.channel.send(&Request::Who(*connection))?;
        match self.hear()? {
            Reply::Who(who) => Ok(who),
            _ => bail!("it answered what was not asked"),
        }
    }

    /// What it says next. Where it has hung up, how it ended.
    fn hear(&mut self) -> Result<Reply> {
        match self.channel.receive()? {
            Some(reply) => Ok(reply),
            None => {
                let mut process = self.process.take().context("it has ended")?;
                let errors = process.errors();
                bail!(process.end(true, || {
                    let mut words = Vec::new();
                    // What could not be read is not told.
                    let _ = errors.map(|errors| errors.take(MAX_ERROR_BYTES).read_to_end(&mut words));
                    String::from_utf8_lossy(&words).into_owned()
                }))
            }
        }
    }
}
