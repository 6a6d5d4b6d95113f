//! Running QEMU/KVM guests, however they were started: by hand, by libvirt or by another manager.
//!
//! *Does*: lists them ([`list`]), reads their RAM ([`Qemu`]), pauses them for a moment. RAM that QEMU shares (a file, a
//! memfd, huge pages) is mapped read-only; private RAM is copied out of the QEMU process. A free QMP socket tells the exact
//! layout and is let go at once; without one the layout follows from the command line.
//! *Trusts*: the host kernel and QEMU. Not command lines, which any user can write, and nothing that the guest wrote.
//! *Never*: writes to a guest or to QEMU's memory, reads devices or firmware, or returns bytes of another process that was
//! given the number of one that ended.
//!
//! Needs the right to trace the QEMU process (root, or `CAP_SYS_PTRACE` and `CAP_SYS_ADMIN`).

mod argv;
mod blocks;
mod discover;
mod layout;
mod maps;
mod pause;
mod place;
mod process;
mod qmp;
mod registers;
mod shared;

pub use discover::{Vm, VmState, list};
pub use place::{Place, place};
pub use qmp::QmpError;

use crate::memory::STEP_BYTES;
use crate::{Gpa, GpaRange, GuestMemory, ReadError};
use blocks::{Segment, Source};
use process::{Copy, Memory, Process};
use qmp::Qmp;
use std::time::Duration;

/// Longest a guest stays paused, whatever becomes of this process.
const LEASE: Duration = Duration::from_secs(5);

const ENDED: &str = "the VM has ended";

/// A running VM.
#[derive(Debug)]
pub struct Qemu {
    vm: Vm,
    process: Process,
    memory: Option<Memory>,
    segments: Vec<Segment>,
    ranges: Vec<GpaRange>,
    layout: LayoutFrom,
    lease: Duration,
    /// Nothing but reading is left: see [`Qemu::confine`].
    confined: bool,
}

/// How the place of RAM is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LayoutFrom {
    /// QEMU told.
    Qemu,
    /// From machine type and size, because QEMU could not be asked.
    CommandLine(QmpError),
}

/// A VM's RAM.
struct Found {
    segments: Vec<Segment>,
    layout: LayoutFrom,
    /// Where a part of it is private.
    memory: Option<Memory>,
}

/// Why a VM cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// The host refused, or the process is gone.
    #[error("process {pid}: {why} (looking into a VM takes root, or CAP_SYS_PTRACE and CAP_SYS_ADMIN)")]
    Host {
        /// The process.
        pid: u32,
        /// The host's answer.
        why: std::io::Error,
    },
    /// It ended.
    #[error("process {pid} has ended")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// Some other program.
    #[error("process {pid} is not QEMU")]
    NotQemu {
        /// The process.
        pid: u32,
    },
    /// Only QEMU itself can tell where such RAM is.
    #[error("process {pid} has {what}: a free QMP socket is needed to look into it")]
    Unsupported {
        /// The process.
        pid: u32,
        /// What is in the way.
        what: String,
    },
    /// No mapping fits.
    #[error("process {pid} maps no RAM of {len_bytes} bytes where it should")]
    NoRam {
        /// The process.
        pid: u32,
        /// Length of the RAM looked for.
        len_bytes: u64,
    },
    /// The control socket failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

impl Qemu {
    /// Opens the VM of a process. Its control socket, if free, is used for some milliseconds. All rights are needed here and
    /// none for reading, so that a worker can open and then lock itself down.
    pub fn open(pid: u32) -> Result<Qemu, QemuError> {
        let process = Process::open(pid).map_err(|why| match why.raw_os_error() {
            Some(libc::ESRCH) => QemuError::Gone { pid },
            _ => QemuError::Host { pid, why },
        })?;
        let (vm, found) = match Qemu::find_ram(&process) {
            // Whatever it failed at: that it ended is the reason.
            Err(_) if !process.is_alive() => return Err(QemuError::Gone { pid }),
            found => found?,
        };
        let Found { segments, layout, memory } = found;
        let ranges = merge(&segments);
        Ok(Qemu { vm, process, memory, ranges, segments, layout, lease: LEASE, confined: false })
    }

    fn find_ram(process: &Process) -> Result<(Vm, Found), QemuError> {
        let (mut vm, config) = discover::describe(process)?;
        let told = Qmp::connect_any(process, &vm.qmp_sockets, vm.uuid.as_deref())
            .map_err(QemuError::from)
            .and_then(|(mut qmp, index)| {
                // The free one is tried first from here on: to find out that another is held takes a while.
                vm.qmp_sockets.swap(0, index);
                blocks::told(process, &mut qmp)
            });
        let (segments, layout) = match told {
            Ok(segments) => (segments, LayoutFrom::Qemu),
            Err(QemuError::Qmp(why)) => (blocks::derived(process, &config)?, LayoutFrom::CommandLine(why)),
            Err(other) => return Err(other),
        };
        let private = segments.iter().any(|segment| matches!(segment.source, Source::Process { .. }));
        let memory = private.then(|| process.memory()).transpose();
        let memory = memory.map_err(|why| QemuError::Host { pid: process.pid(), why })?;
        Ok((vm, Found { segments, layout, memory }))
    }

    /// The same, with another bound on the time that a guest stays paused, even if this process hangs. 5 s otherwise.
    #[must_use]
    pub fn with_pause_lease(mut self, lease: Duration) -> Qemu {
        self.lease = lease;
        self
    }

    /// Gives up what takes rights at every use: from here on private RAM is read through the descriptor that was opened, however
    /// long the copy, and the VM is not paused from here.
    pub fn confine(&mut self) {
        self.confined = true;
        for segment in &self.segments {
            if let Source::Shared { ram, .. } = &segment.source {
                ram.confine();
            }
        }
    }

    /// Whether it may be paused from here. Whether a control socket is free shows at the pause only.
    pub fn can_pause(&self) -> bool {
        !self.confined && !self.vm.qmp_sockets.is_empty()
    }

    /// What the command line says of the VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// How the place of RAM is known.
    pub fn layout(&self) -> &LayoutFrom {
        &self.layout
    }

    /// Whether all RAM is mapped here, so that a read takes no system call.
    pub fn is_mapped(&self) -> bool {
        self.segments.iter().all(|segment| matches!(segment.source, Source::Shared { .. }))
    }

    /// Whether the VM still runs. Once it does not, every read fails.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// QEMU's run state: `running`, `paused`, `prelaunch`, … Takes a free control socket.
    pub fn run_state(&self) -> Result<String, QmpError> {
        self.control()?.run_state()
    }

    fn control(&self) -> Result<Qmp, QmpError> {
        Qmp::connect_any(&self.process, &self.vm.qmp_sockets, self.vm.uuid.as_deref()).map(|(qmp, _)| qmp)
    }

    fn read_segments(&self, at: Gpa, buf: &mut [u8], once: bool) -> Result<(), ReadError> {
        let not_ram = ReadError::NotRam { at, len_bytes: buf.len() as u64 };
        let (mut at, mut rest) = (at, buf);
        let first = self.segments.partition_point(|segment| segment.gpa <= at.0).saturating_sub(1);
        let mut segments = self.segments.iter().skip(first);
        while !rest.is_empty() {
            let Some(segment) = segments.next() else { return Err(not_ram) };
            let Some(inside) = at.0.checked_sub(segment.gpa).filter(|inside| *inside < segment.len_bytes)
            else {
                return Err(not_ram);
            };
            let left = usize::try_from(segment.len_bytes.saturating_sub(inside)).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(left.min(rest.len()));
            self.read_segment(segment, at, now, once)?;
            at = Gpa(at.0.saturating_add(now.len() as u64));
            rest = later;
        }
        Ok(())
    }

    fn read_segment(&self, segment: &Segment, at: Gpa, buf: &mut [u8], once: bool) -> Result<(), ReadError> {
        let inside = at.0.saturating_sub(segment.gpa);
        let copied = match (&segment.source, &self.memory) {
            (Source::Shared { ram, offset }, _) => {
                let from = offset.saturating_add(inside);
                let copied = if once { ram.copy_out_once(from, buf) } else { ram.copy_out(from, buf) };
                copied.map_err(|error| error.to_string()).and_then(|()| {
                    if self.process.was_alive_lately() { Ok(()) } else { Err(ENDED.to_owned()) }
                })
            }
            (Source::Process { address }, Some(memory)) => {
                let how = if self.confined { Copy::ByDescriptor } else { Copy::Fastest };
                let copied = self.process.copy_out(memory, address.saturating_add(inside), buf, how);
                copied.map_err(|error| match error.raw_os_error() {
                    Some(libc::ESRCH) => ENDED.to_owned(),
                    _ => format!("the QEMU process: {error}"),
                })
            }
            (Source::Process { .. }, None) => Err("its memory is not open".to_owned()),
        };
        copied.map_err(|why| ReadError::Lost { at, why })
    }
}

impl GuestMemory for Qemu {
    fn read(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read_segments(at, buf, false)
    }

    fn read_once(&self, at: Gpa, buf: &mut [u8]) -> Result<(), ReadError> {
        self.read_segments(at, buf, true)
    }

    fn step_bytes(&self) -> usize {
        STEP_BYTES
    }

    fn ram(&self) -> &[GpaRange] {
        &self.ranges
    }
}

/// Ranges of segments in order, neighbours joined.
fn merge(segments: &[Segment]) -> Vec<GpaRange> {
    let mut ranges: Vec<GpaRange> = Vec::new();
    for segment in segments {
        match ranges.last_mut() {
            Some(last) if last.end().0 == segment.gpa => {
                last.len_bytes = last.len_bytes.saturating_add(segment.len_bytes);
            }
            _ => ranges.push(GpaRange { start: Gpa(segment.gpa), len_bytes: segment.len_bytes }),
        }
    }
    ranges
}
