//! A guest domain, asked over its console.

use crate::toolstack::{run, until, uptime, xenstore, xl};
use anyhow::{Context, Result, anyhow, bail, ensure};
use lynceus_lab::NotReady;
use lynceus_lab::scenery::{self, Scenery};
use lynceus_lab::truth::Truth;
use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// From creation to the scenery standing: five times what it takes on a busy machine.
const READY: Duration = Duration::from_secs(300);

/// A running domain.
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// The file of its kernel.
    pub(crate) kernel: String,
    pub(crate) id: u16,
    console: RefCell<BufReader<File>>,
}

impl Guest {
    /// Creates it and waits until everything in it stands.
    pub(crate) fn create(name: &str, kind: &str, kernel: &str) -> Result<Guest> {
        Guest::create_with(name, kind, kernel, "full", "")
    }

    /// The same with other scenery than everything, and with more lines of the toolstack's.
    pub(crate) fn create_with(
        name: &str,
        kind: &str,
        kernel: &str,
        scenery: &str,
        more: &str,
    ) -> Result<Guest> {
        // Where dom0 and all guests share one emulated processor, a guest that waits for a lock was never woken once.
        let config = format!(
            "name = \"{name}\"\ntype = \"{kind}\"\nkernel = \"/guests/{kernel}\"\nramdisk = \"/guests/{kernel}.initramfs\"\n\
             extra = \"quiet loglevel=0 panic=1 nopvspin lynceus.port=hvc0 lynceus.scenery={scenery}\"\nmemory = 256\nvcpus = 2\non_crash = \"preserve\"\non_reboot = \"restart\"\n{more}"
        );
        let path = format!("/etc/xen/{name}.cfg");
        fs::write(&path, config)?;
        println!("LAB {name}: created at {} s", uptime());
        xl(&["create", "-q", &path])?;
        let id: u16 = xl(&["domid", name])?.trim().parse().context("domid")?;
        let guest = Guest::connect(name.to_owned(), kind.to_owned(), format!("/guests/{kernel}"), id)?;
        guest.wait_ready()?;
        println!("LAB {name}: ready at {} s", uptime());
        Ok(guest)
    }

    /// The domain's console, whose other end was just made.
    pub(crate) fn connect(name: String, kind: String, kernel: String, id: u16) -> Result<Guest> {
        let tty = until("a console", || {
            xenstore(&format!("/local/domain/{id}/console/tty")).ok().filter(|tty| !tty.is_empty())
        })?;
        run(&["/bin/busybox", "stty", "-F", &tty, "raw", "-echo"])?;
        let console = BufReader::new(File::options().read(true).write(true).open(&tty)?);
        Ok(Guest { name, kind, kernel, id, console: RefCell::new(console) })
    }

    /// What its kernel and init say before they are ready goes over the same line.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let (mut seen, started) = (String::new(), Instant::now());
        for _ in 0..500 {
            let mut line = Vec::new();
            if !self.has_more(READY.saturating_sub(started.elapsed()))? {
                return Err(anyhow!("{}: {seen}", self.name).context(NotReady));
            }
            if self.console.borrow_mut().read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.trim() == "READY" {
                return Ok(());
            }
            seen.push_str(&line);
        }
        bail!("{}: not ready: {seen}", self.name)
    }

    /// Whether it says more within that time.
    fn has_more(&self, limit: Duration) -> Result<bool> {
        let console = self.console.borrow();
        if !console.buffer().is_empty() {
            return Ok(true);
        }
        let mut poll = libc::pollfd { fd: console.get_ref().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live structure.
        let ready = unsafe { libc::poll(&raw mut poll, 1, i32::try_from(limit.as_millis())?) };
        ensure!(ready >= 0, "poll: {}", std::io::Error::last_os_error());
        Ok(ready > 0)
    }

    /// Its own account of itself.
    pub(crate) fn truth(&self) -> Result<Truth> {
        // A PV kernel has no huge pages.
        let left_out = |what: &str| self.kind == "pv" && what.contains("anon_hugepage");
        scenery::whole(Scenery::Full, left_out, || Truth::parse(&self.ask("TRUTH")?))
            .with_context(|| self.name.clone())
    }

    /// Sends a command, returns the answer.
    pub(crate) fn ask(&self, line: &str) -> Result<Vec<u8>> {
        let mut console = self.console.borrow_mut();
        console.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut head = String::new();
        console.read_line(&mut head)?;
        let (word, len) =
            head.trim_end().split_once(' ').with_context(|| format!("the guest said {head:?}"))?;
        let mut bytes = vec![0; len.parse().with_context(|| format!("the guest said {head:?}"))?];
        console.read_exact(&mut bytes)?;
        if word != "OK" {
            bail!("{}: {line}: {}", self.name, String::from_utf8_lossy(&bytes));
        }
        Ok(bytes)
    }

    pub(crate) fn target(&self) -> String {
        format!("xen:{}", self.name)
    }
}
