//! Harmless attacks: each does just what one detector must find, to itself, and then sleeps until it is ended.
//!
//! Started and ended by PID 1 when the host asks for it. An attack lives in a process group of its own, so that whatever it
//! starts ends with it.

mod executables;
mod hiding;
mod memory;
mod packets;
mod preload;
mod programs;
mod tracing;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::actors::{Held, stand};
use crate::{scenery, sys};

/// How the names of attacks begin.
pub(crate) const PREFIX: &str = "attack-";
/// Longest wait for an attack to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// The attacks that are on.
#[derive(Default)]
pub(crate) struct Running(HashMap<String, u32>);

impl Running {
    /// Starts an attack; what it could not do is an error.
    pub(crate) fn start(&mut self, name: &str) -> Result<String, String> {
        if !name.starts_with(PREFIX) || self.0.contains_key(name) {
            return Err(format!("{name}: no attack, or one that is on"));
        }
        let (pid, pipe) = scenery::start(name, &[], &[]).map_err(|error| error.to_string())?;
        self.0.insert(name.to_owned(), pid);
        let failed = scenery::wait_ready(name, pipe);
        if failed.is_empty() { Ok(String::new()) } else { Err(failed.join("\n")) }
    }

    /// Ends an attack, and waits until nothing of it is left.
    pub(crate) fn end(&mut self, name: &str) -> Result<String, String> {
        let pid = self.0.remove(name).ok_or_else(|| format!("{name} is not on"))?;
        // SAFETY: numbers only. The group is the attack's own.
        unsafe { libc::kill(-(pid as libc::pid_t), libc::SIGKILL) };
        let start = Instant::now();
        // SAFETY: signal 0 only asks whether the group has members.
        while unsafe { libc::kill(-(pid as libc::pid_t), 0) } == 0 {
            while sys::reap(false).is_some() {}
            if start.elapsed() > PATIENCE {
                return Err(format!("{name} does not end"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        undo(name).map_err(|error| error.to_string())?;
        Ok(String::new())
    }
}

/// Plays the attack called `name`.
pub(crate) fn run(name: &str, args: &[String]) -> ! {
    let second = args.first().map(String::as_str) == Some(SECOND);
    stand(match name {
        "attack-shm" => executables::shared_memory(second),
        "attack-deleted" => executables::deleted(second),
        "attack-memfd" => executables::memfd(second),
        "attack-masked" => executables::masked(),
        "attack-preload" => preload::in_environment(second, "LD_PRELOAD"),
        "attack-audit" => preload::in_environment(second, "LD_AUDIT"),
        "attack-rwx" => memory::writable(),
        "attack-late" => memory::written_first(),
        "attack-loader" => memory::program(),
        "attack-stack" => memory::stack(),
        "attack-patch" => memory::patched_code(),
        "attack-hollow" => memory::replaced_code(),
        "attack-int3" => memory::breakpoint(),
        "attack-tracer" => tracing::other(),
        "attack-parent" => tracing::child(),
        "attack-dispatch" => tracing::dispatch(),
        "attack-ld-so" => preload::for_everybody(),
        "attack-unlisted" => hiding::process(),
        "attack-covered" => hiding::program(second),
        "attack-overlaid" => hiding::program_alone(second),
        "attack-waiting" => packets::from_anywhere(second),
        "attack-capture" => packets::from_a_stranger(),
        "attack-xdp" => programs::at_device(second),
        "attack-perf" => programs::at_clock(second),
        "attack-bpf" => programs::writing(),
        "attack-orphan" => programs::alone(),
        _ => Err(std::io::Error::other("no such attack")),
    })
}

/// Takes away what outlives the processes of an attack.
fn undo(name: &str) -> std::io::Result<()> {
    match name {
        "attack-ld-so" => std::fs::remove_file(preload::FILE),
        "attack-covered" => hiding::uncover(),
        "attack-overlaid" => hiding::uncover_alone(),
        "attack-orphan" => programs::take_away(),
        _ => Ok(()),
    }
}

/// What an attack gives itself as its argument when it starts itself again.
const SECOND: &str = "again";

/// Puts a copy of this program at `path` and becomes it, which plays the second act of the attack of this name.
fn again(path: &str, name: &str) -> std::io::Result<Held> {
    use std::os::unix::process::CommandExt;
    std::fs::copy("/init", path)?;
    Err(std::process::Command::new(path).arg0(name).arg(SECOND).exec())
}
