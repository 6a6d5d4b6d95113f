//! Guests frozen right after they told the truth about themselves: RAM and truth of one moment, made once for all tests.

use crate::folder;
use crate::guest::{Guest, Spec};
use crate::kernels::run;
use crate::truth::Truth;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A frozen guest.
#[derive(Debug)]
pub struct Frozen {
    /// Its RAM, byte for byte, the PCI hole taken out.
    pub ram: PathBuf,
    /// What it said of itself.
    pub truth: Truth,
}

/// RAM and truth of a guest.
pub fn frozen(spec: &Spec) -> Result<Frozen> {
    let Spec { kernel, paging, memory_mib, vcpus, scenery, .. } = spec;
    let sources = crate::initramfs::build(&crate::kernels::fetch(*kernel)?)?;
    let stamp = sources
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .unwrap_or_default()
        .to_owned();
    let name = format!("images/{stamp}-{paging}-{memory_mib}-{vcpus}-{}", scenery.word());
    let folder = folder::once(&name, |folder| freeze(spec, folder))?;
    let truth = fs::read(folder.join("truth")).context("no truth")?;
    Ok(Frozen { ram: folder.join("ram"), truth: Truth::parse(&truth)? })
}

/// So often it is tried; a worker of the kernel is born now and then.
const TRIES: usize = 20;

fn freeze(spec: &Spec, folder: &Path) -> Result<()> {
    let guest = Guest::boot(spec)?;
    // Once to warm what the capture itself changes: caches, descriptors, log lines.
    guest.truth()?;
    let mut truth = guest.truth_bytes()?;
    for _ in 0..TRIES {
        guest.stop()?;
        run(Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .arg(guest.ram_file())
            .arg(folder.join("ram")))?;
        guest.cont()?;
        // Whoever was born between the account and the stop is in the next account.
        let next = guest.truth_bytes()?;
        if Truth::parse(&next)?.pids() == Truth::parse(&truth)?.pids() {
            return Ok(fs::write(folder.join("truth"), truth)?);
        }
        truth = next;
    }
    bail!("{}: processes come and go all the time", spec.name)
}
