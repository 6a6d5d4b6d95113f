//! What a guest brings along beside its own initramfs: programs of this machine with their libraries, files, kernel modules.
//!
//! A Debian kernel in a guest has what the machine's own may lack: a test that needs it packs itself and what it runs, and runs there.
//! The kernel unpacks archives that follow one another, so the guest's own initramfs stays as it is.

use crate::initramfs::{Cpio, find_module};
use crate::kernels::Kernel;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where its modules are in the guest, with the list `order`.
const MODULES: &str = "luggage";

/// What a host of Debian's loads by itself when the firewall's rules ask for it, and a bridge.
pub const FIREWALL_MODULES: &[&str] = &[
    "bridge",
    "nf_tables",
    "nft_ct",
    "nft_limit",
    "nft_counter",
    "nft_objref",
    "nft_log",
    "nft_reject_inet",
    "nft_reject_bridge",
    "nft_meta_bridge",
    "nf_conntrack_bridge",
    "nfnetlink_log",
];

/// What is brought along. Everything has the same path in the guest as here.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Luggage {
    /// Programs; their shared libraries come with them.
    pub programs: Vec<PathBuf>,
    /// Files.
    pub files: Vec<PathBuf>,
    /// Kernel modules; those that they need come with them. One that the kernel has built in is none.
    pub modules: Vec<&'static str>,
}

impl Luggage {
    /// A Python with the modules that a script imports.
    pub fn python(&mut self, imports: &str) -> Result<()> {
        let python = Path::new("/usr/bin/python3");
        let list = format!(
            "import {imports}, encodings.ascii, encodings.idna, encodings.latin_1, sys\nfor m in list(sys.modules.values()):\n f = getattr(m, '__file__', None)\n if f: print(f)"
        );
        let output = Command::new(python).args(["-c", &list]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for path in String::from_utf8(output.stdout)?.lines().map(PathBuf::from) {
            let is_library = path.extension().is_some_and(|extension| extension == "so");
            if is_library { &mut self.programs } else { &mut self.files }.push(path);
        }
        self.programs.push(python.to_owned());
        Ok(())
    }

    /// The archive.
    pub(crate) fn pack(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut paths: BTreeSet<PathBuf> = self.files.iter().cloned().collect();
        let programs: BTreeSet<PathBuf> = self.programs.iter().cloned().collect();
        for program in &programs {
            paths.extend(needed_by(program, None)?);
        }
        let mut archive = Archive { cpio: Cpio::default(), folders: BTreeSet::new() };
        for path in paths.difference(&programs) {
            archive.add(path, &fs::read(path).with_context(|| path.display().to_string())?)?;
        }
        for program in &programs {
            archive.add(program, &stripped(program)?)?;
        }
        let mut order = String::new();
        for (name, code) in with_needed(&kernel.modules, &self.modules)? {
            archive.add(&Path::new("/").join(MODULES).join(format!("{name}.ko")), &code)?;
            order.push_str(&format!("{name}\n"));
        }
        archive.add(&Path::new("/").join(MODULES).join("order"), order.as_bytes())?;
        Ok(archive.cpio.finish())
    }
}

/// The shell command that loads the modules that are not there yet.
pub const LOAD: &str = "for name in $(cat /luggage/order); do test -e /sys/module/$name || insmod /luggage/$name.ko || exit 1; done";

struct Archive {
    cpio: Cpio,
    folders: BTreeSet<PathBuf>,
}

impl Archive {
    fn add(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.reverse();
        for folder in above.into_iter().skip(1) {
            if self.folders.insert(folder.to_owned()) {
                self.cpio.folder(name(folder)?);
            }
        }
        self.cpio.file(name(path)?, 0o755, content);
        Ok(())
    }
}

/// As an archive has it: from the root, without saying so.
fn name(path: &Path) -> Result<&str> {
    path.strip_prefix("/")?.to_str().with_context(|| format!("{}: not UTF-8", path.display()))
}

/// A program without what only a debugger reads.
pub(crate) fn stripped(program: &Path) -> Result<Vec<u8>> {
    let out = tempfile::NamedTempFile::new()?;
    let strip = Command::new("strip").arg("-o").arg(out.path()).arg(program).output()?;
    ensure!(strip.status.success(), "strip: {}", String::from_utf8_lossy(&strip.stderr));
    Ok(fs::read(out.path())?)
}

/// The shared libraries of a program, and who loads them; looked for in the folder `first` before this machine's.
pub(crate) fn needed_by(program: &Path, first: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut ldd = Command::new("ldd");
    if let Some(first) = first {
        ldd.env("LD_LIBRARY_PATH", first);
    }
    let output = ldd.arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && !text.contains("not found"), "ldd {}: {text}", program.display());
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).collect())
}

/// Modules in an order in which each comes behind those that it needs.
pub(crate) fn with_needed(folder: &Path, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for name in wanted {
        add_module(folder, name, &mut found, 0)?;
    }
    Ok(found)
}

fn add_module(folder: &Path, name: &str, found: &mut Vec<(String, Vec<u8>)>, depth: usize) -> Result<()> {
    if depth > 16 {
        bail!("the module {name} needs itself");
    }
    // Files are named with `-` or `_` as it comes; loaded modules with `_`.
    let loaded = name.replace('-', "_");
    if found.iter().any(|(known, _)| *known == loaded) {
        return Ok(());
    }
    let code = match find_module(folder, name)? {
        None => find_module(folder, &name.replace('_', "-"))?,
        code => code,
    };
    let Some(code) = code else { return Ok(()) };
    const KEY: &[u8] = b"\0depends=";
    let needs = code.windows(KEY.len()).position(|window| window == KEY).map(|at| at + KEY.len());
    let needs = needs.and_then(|at| code.get(at..)?.split(|byte| *byte == 0).next()).unwrap_or_default();
    let needs = String::from_utf8_lossy(needs).into_owned();
    for need in needs.split(',').filter(|need| !need.is_empty()) {
        add_module(folder, need, found, depth + 1)?;
    }
    found.push((loaded, code));
    Ok(())
}
