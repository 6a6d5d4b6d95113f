//! Serves the host on the second serial port.
//!
//! Lines come in, `OK <len>\n<bytes>` or `ERR <len>\n<bytes>` go out, or where a long answer lies ([`crate::shared`]); before the first line
//! the guest sends `READY\n`.
//!
//! | line | answer |
//! |---|---|
//! | `TRUTH` | the records of [`crate::capture`] |
//! | `KALLSYMS` | `/proc/kallsyms` |
//! | `RUN <shell command>` | its output; `ERR` if it ends with another code than 0. Background jobs may live on. |
//! | `LOAD <path> [params]` | loads a kernel module |
//! | `ATTACK <name>` | starts an attack ([`crate::attacks`]), answers when it stands |
//! | `CEASE <name>` | ends it, answers when it is gone |
//! | `BUSY` | starts the load of an ordinary busy system ([`crate::load`]) |
//! | `FORK <seconds>` | starts witnesses and a storm, answers when the witnesses stand |
//! | `QUIT` | no answer: power off |

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::attacks::Running;
use crate::shared::{self, Shared};
use crate::{capture, load, storm, sys};

/// Unless the kernel's command line names another: `lynceus.port=hvc0` in a Xen domain, which has no serial ports.
const PORT: &str = "ttyS1";
/// Longest wait between two looks for orphans that ended.
const REAP_MS: i32 = 500;

/// Serves until `QUIT`; an error means that the port itself failed.
pub(crate) fn serve(notes: &[String]) -> io::Result<()> {
    let mut port = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(format!("/dev/{}", sys::kernel_option("lynceus.port").as_deref().unwrap_or(PORT)))?;
    raw_mode(&port)?;
    let mut attacks = Running::default();
    port.write_all(b"READY\n")?;
    loop {
        let line = read_line(&mut port)?;
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match verb {
            "TRUTH" => Ok(capture::capture(notes)),
            "KALLSYMS" => fs::read("/proc/kallsyms").map_err(|error| error.to_string().into_bytes()),
            "RUN" => run(rest),
            "LOAD" => load(rest),
            "ATTACK" => attacks.start(rest).map(String::into_bytes).map_err(String::into_bytes),
            "CEASE" => attacks.end(rest).map(String::into_bytes).map_err(String::into_bytes),
            "BUSY" => load::start().map(String::into_bytes).map_err(String::into_bytes),
            "FORK" => fork(rest),
            "QUIT" => return Ok(()),
            "" => continue,
            _ => Err(format!("unknown command {verb}").into_bytes()),
        };
        let (word, bytes) = match &answer {
            Ok(bytes) => ("OK", bytes),
            Err(bytes) => ("ERR", bytes),
        };
        if word == "OK" && shared::is_for(bytes) {
            let pages = Shared::new(bytes);
            pages.tell(bytes.len(), &mut port)?;
            read_line(&mut port)?;
            continue;
        }
        port.write_all(format!("{word} {}\n", bytes.len()).as_bytes())?;
        port.write_all(bytes)?;
    }
}

/// No echo, no translation, eight bits.
fn raw_mode(port: &File) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid termios, which the calls fill and read.
    unsafe {
        let mut mode: libc::termios = std::mem::zeroed();
        sys::check(libc::tcgetattr(port.as_raw_fd(), &mut mode))?;
        libc::cfmakeraw(&mut mode);
        mode.c_cflag |= libc::CLOCAL | libc::CREAD;
        mode.c_cflag = (mode.c_cflag & !(libc::CRTSCTS | libc::CBAUD)) | libc::B115200;
        sys::check(libc::tcsetattr(port.as_raw_fd(), libc::TCSANOW, &mode))?;
    }
    Ok(())
}

/// One line without its end. While waiting, PID 1 does its duty and reaps orphans.
fn read_line(port: &mut File) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        while sys::reap(false).is_some() {}
        if !sys::readable(port, REAP_MS) {
            continue;
        }
        let mut byte = [0];
        match port.read(&mut byte) {
            Ok(1) if byte == *b"\n" => return Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
            Ok(1) => line.extend(byte),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Output goes through a file, so that a background job that keeps it open does not hold the answer up.
fn run(line: &str) -> Result<Vec<u8>, Vec<u8>> {
    let path = "/run/lab-output";
    // A whole system has a shell of its own, and more programs.
    let is_small = Path::new("/bin/busybox").exists();
    let (shell, search): (&[&str], _) =
        if is_small { (&["/bin/busybox", "sh"], "/bin") } else { (&["/bin/sh"], "/usr/sbin:/usr/bin") };
    let status = File::create(path).and_then(|out| {
        let also = out.try_clone()?;
        Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", line])
            .env("PATH", search)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(also)
            .status()
    });
    let output = fs::read(path).unwrap_or_default();
    let _ = fs::remove_file(path);
    match status {
        Ok(status) if status.success() => Ok(output),
        Ok(_) => Err(output),
        Err(error) => Err(error.to_string().into_bytes()),
    }
}

fn load(rest: &str) -> Result<Vec<u8>, Vec<u8>> {
    let (path, params) = rest.split_once(' ').unwrap_or((rest, ""));
    sys::load_module(path, params).map(|()| Vec::new()).map_err(|error| error.to_string().into_bytes())
}

fn fork(rest: &str) -> Result<Vec<u8>, Vec<u8>> {
    let seconds = rest.trim().parse().map_err(|_| b"FORK wants seconds".to_vec())?;
    storm::start(seconds).map(String::into_bytes).map_err(String::into_bytes)
}
