//! Plants the scenery: starts every actor and waits until each has said that it stands.
//!
//! An actor gets the write end of a pipe as descriptor [`READY_FD`]. It writes a line for everything it could not
//! plant and closes the descriptor when it is done; so end of file on the pipe means "ready", however many
//! processes the actor made.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::{boot, sys};

/// The descriptor on which an actor reports. Below 64, so that it does not enlarge anyone's descriptor table.
pub(crate) const READY_FD: i32 = 20;
/// Longest wait for one actor.
const PATIENCE_MS: i32 = 20_000;
/// Where the actors' executables are (hard links to `/init`).
const STAGE: &str = "/lab";

/// What no ordinary system runs. Left out where the kernel's command line says `lynceus.scenery=everyday`.
const ODDITIES: &[&str] = &["lab-deleted", "lab-memfd", "lab-rwx"];

/// Name, arguments and environment of an actor.
type Actor = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

/// All actors. `lab-long` gets its 8 KB argument in [`start`].
const ACTORS: &[Actor] = &[
    ("lab-plain", &["--alpha one", "--beta=two words"], &[("LAB_SECRET", "s3cr3t")]),
    ("lab-user", &[], &[]),
    ("lab-session", &[], &[]),
    ("lab-caps", &[], &[]),
    ("lab-threads", &[], &[]),
    ("lab-zombie", &[], &[]),
    ("lab-deleted", &[], &[]),
    ("lab-upgraded", &[], &[]),
    ("lab-memfd", &[], &[]),
    ("lab-rwx", &[], &[]),
    ("lab-long", &[], &[]),
    (
        "lab-title",
        &["first-argument", "second-argument"],
        &[("LAB_PADDING", "room for a title longer than the arguments were")],
    ),
    ("lab-net", &[], &[]),
    ("lab-files", &[], &[]),
    ("lab-maps", &[], &[]),
    ("lab-bpf", &[], &[]),
    ("lab-userns", &[], &[]),
    ("lab-chroot", &[], &[]),
    ("lab-runtime", &[], &[]),
    ("intruder", &[], &[]),
];

/// Starts all actors, then waits for all of them.
pub(crate) fn plant(notes: &mut Vec<String>) {
    boot::note(notes, "stage", fs::create_dir_all(STAGE));
    let mut waiting = Vec::new();
    let everyday = sys::kernel_option("lynceus.scenery").as_deref() == Some("everyday");
    for &(name, args, env) in ACTORS.iter().filter(|(name, ..)| !everyday || !ODDITIES.contains(name)) {
        let long;
        let args = if name == "lab-long" {
            long = "L".repeat(8192);
            &[long.as_str(), "end"][..]
        } else {
            args
        };
        match start(name, args, env) {
            Ok((_, pipe)) => waiting.push((name, pipe)),
            Err(error) => notes.push(format!("{name}: {error}")),
        }
    }
    for (name, pipe) in waiting {
        notes.extend(wait_ready(name, pipe));
    }
}

/// Starts one actor under `name`, in a process group of its own; the pipe ends when it is ready.
pub(crate) fn start(name: &str, args: &[&str], env: &[(&str, &str)]) -> io::Result<(u32, OwnedFd)> {
    let path = format!("{STAGE}/{name}");
    if !fs::exists(&path)? {
        fs::hard_link("/init", &path)?;
    }
    let (ours, theirs) = sys::pipe()?;
    let mut command = Command::new(&path);
    command.arg0(name).args(args).process_group(0).env_clear().env("PATH", "/bin").envs(env.iter().copied());
    let child = spawn_reporting(command.stdin(Stdio::null()), theirs.as_raw_fd())?;
    Ok((child.id(), ours))
}

/// Spawns `command` with `report` as its [`READY_FD`].
pub(crate) fn spawn_reporting(command: &mut Command, report: i32) -> io::Result<std::process::Child> {
    // SAFETY: between fork and exec the closure only makes the async-signal-safe call dup2.
    unsafe { command.pre_exec(move || sys::dup_to(report, READY_FD).map(drop)) };
    command.spawn()
}

/// What the actor could not plant, once it is ready.
pub(crate) fn wait_ready(name: &str, pipe: OwnedFd) -> Vec<String> {
    let mut pipe = fs::File::from(pipe);
    let mut text = Vec::new();
    loop {
        if !sys::readable(&pipe, PATIENCE_MS) {
            return vec![format!("{name}: not ready in time")];
        }
        let mut chunk = [0; 512];
        match pipe.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => text.extend_from_slice(chunk.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return vec![format!("{name}: {error}")],
        }
    }
    String::from_utf8_lossy(&text).lines().map(|line| format!("{name}: {line}")).collect()
}
