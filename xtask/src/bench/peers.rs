//! The peers, where this machine has them. Nothing of theirs is ours: they are found, run, and timed.
//!
//! - Volatility 3: `LYNCEUS_BENCH_VOL` (its `vol`), else `vol` on the PATH, else it is installed from PyPI.
//! - LibVMI: `LYNCEUS_BENCH_LIBVMI` (its `vmi-process-list`), else `vmi-process-list` on the PATH.
//!   With `LYNCEUS_BENCH_LIBVMI_SRC` (its source tree) a loop in process is timed as well.
//!
//! Both need a symbol file, which their users make from a 300 MB debug package. Here they get one that
//! `lynceus profile build` writes from the guest's own memory, so that nobody waits for a download.

use super::measure::{Measured, output, whole_process};
use lynceus_lab::volatility::Volatility;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The plugin that answers what each of our listings answers.
pub(crate) const PLUGINS: [(&str, &str); 6] = [
    ("ps", "linux.pslist"),
    ("maps", "linux.proc.Maps"),
    ("files", "linux.lsof"),
    ("sockets", "linux.sockstat"),
    ("modules", "linux.lsmod"),
    // One of the many that ours answers for.
    ("check", "linux.check_syscall"),
];
/// Our own few lines against LibVMI's public interface.
const LOOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench/libvmi_loop.c");

/// What this machine has.
pub(crate) struct Peers {
    volatility: Result<Volatility, String>,
    libvmi: Result<PathBuf, String>,
}

/// An image and the symbol file for it, `FOLDER/linux/NAME.json`.
pub(crate) struct Image<'a> {
    pub(crate) ram: &'a Path,
    pub(crate) symbols: &'a Path,
    pub(crate) isf: &'a Path,
}

impl Peers {
    /// Looks for them.
    pub(crate) fn find() -> Peers {
        let volatility = program("LYNCEUS_BENCH_VOL", "vol")
            .map(Volatility::at)
            .or_else(|_| Volatility::install().map_err(|error| format!("{error:#}")));
        Peers { volatility, libvmi: program("LYNCEUS_BENCH_LIBVMI", "vmi-process-list") }
    }

    /// A version for the report.
    pub(crate) fn volatility_version(&self) -> String {
        let Ok(vol) = &self.volatility else { return "not on this machine".to_owned() };
        let help = output(Command::new(vol.program()).arg("-h")).map(|(text, _)| text).unwrap_or_default();
        let help = String::from_utf8_lossy(&help).into_owned();
        let version = help.lines().find_map(|line| line.strip_prefix("Volatility 3 Framework "));
        version.unwrap_or("of unknown version").to_owned()
    }

    /// Lets Volatility build its cache of symbol files, which only its first run pays for.
    pub(crate) fn warm_up(&self, image: &Image<'_>) {
        // What goes wrong here goes wrong again where it is measured.
        let _ = self.volatility(1, "linux.pslist", image);
    }

    /// Volatility 3's plugin on an image.
    pub(crate) fn volatility(&self, runs: usize, plugin: &str, image: &Image<'_>) -> Measured {
        let vol = self.volatility.as_ref()?;
        whole_process(runs, false, || Ok(vol.command("quick", plugin, image.ram, image.symbols)))
    }

    /// LibVMI's process list on an image.
    pub(crate) fn libvmi(&self, runs: usize, image: &Image<'_>) -> Measured {
        let list = self.libvmi.as_ref()?;
        whole_process(runs, true, || {
            let mut command = Command::new(list);
            command.arg("-n").arg(image.ram).arg("-j").arg(image.isf);
            Ok(command)
        })
    }

    /// Nanoseconds of a process list (pid and name) in a loop of LibVMI, `warm` and `cold`.
    pub(crate) fn libvmi_loop(
        &self,
        image: &Image<'_>,
        folder: &Path,
    ) -> Result<BTreeMap<String, f64>, String> {
        let list = self.libvmi.as_ref()?;
        let source =
            std::env::var_os("LYNCEUS_BENCH_LIBVMI_SRC").ok_or("LYNCEUS_BENCH_LIBVMI_SRC is not set")?;
        let built = list.parent().and_then(Path::parent).ok_or("no build folder")?.join("libvmi");
        let program = folder.join("libvmi-loop");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-o"]).arg(&program).arg(LOOP).arg("-I").arg(Path::new(&source));
        cc.arg("-I").arg(Path::new(&source).join("libvmi")).arg("-L").arg(&built);
        cc.arg(format!("-Wl,-rpath,{}", built.display())).arg("-lvmi");
        output(&mut cc).map_err(|error| format!("the loop against LibVMI does not compile: {error}"))?;
        let (text, _) = output(Command::new(&program).arg(image.ram).arg(image.isf))?;
        Ok(figures(&String::from_utf8_lossy(&text)))
    }
}

/// Lines of a name, a tab and a number.
pub(crate) fn figures(text: &str) -> BTreeMap<String, f64> {
    let figure = |line: &str| {
        let (name, value) = line.split_once('\t')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(figure).collect()
}

/// A program named by `variable`, or found on the PATH as `name`.
fn program(variable: &str, name: &str) -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(variable).map(PathBuf::from) {
        return named.is_file().then_some(named).ok_or_else(|| format!("{variable} names no file"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| "not on this machine".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_name_and_number_are_figures() {
        let read = figures("warm\t12.5\nrunning 3 tests\ncold\tnone\nall maps\t7\n");
        assert_eq!(read, BTreeMap::from([("warm".to_owned(), 12.5), ("all maps".to_owned(), 7.0)]));
    }
}
