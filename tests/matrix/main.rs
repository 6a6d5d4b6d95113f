//! Every kernel of the matrix, in both paging modes, live and from every format of dump: what we see equals what the
//! guest says of itself, with nothing missing and nothing extra.
//!
//! Each guest boots, tells its truth over a serial port and is stopped; then the same moment is read from the running
//! QEMU process and from each kind of dump of it. What cannot be equal is named where it is left out.

#[allow(dead_code, reason = "shared with the tests of dump files, which use all of it")]
#[path = "../../introspect/tests/dump/fixture.rs"]
mod fixture;

use anyhow::{Context, Result, ensure};
use fixture::Compression;
use lynceus_introspect::backend::dump::write::{Existing, WriteFormat, write_file};
use lynceus_introspect::find;
use lynceus_introspect::target::Target;
use lynceus_lab::images;
use lynceus_lab::truth::Truth;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A guest that told the truth about itself and was stopped right after.
fn stopped(spec: &Spec) -> Result<(Guest, Truth)> {
    let guest = Guest::boot(spec)?;
    // Once to warm what the account itself changes: caches, descriptors, log lines.
    guest.truth()?;
    let truth = guest.truth()?;
    guest.stop()?;
    Ok((guest, truth))
}

/// Attaches to a target with nothing but its memory, and holds all that is seen against the truth.
fn hold(target: &str, truth: &Truth) -> Result<()> {
    let opened = Target::open(target)?;
    let attached = find::attach_target(&opened, None)?;
    let doubts = &attached.evidence.failed;
    ensure!(doubts.is_empty(), "{target}: doubts {doubts:?}");
    let equal = lynceus_lab_compare::hold(&attached.guest, truth).with_context(|| opened.describe())?;
    println!("{}: {equal} facts equal", opened.describe());
    Ok(())
}

/// The guest's RAM in every format, written to `folder` while it stands still.
fn dumps(guest: &Guest, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![guest.ram_file()];
    let formats = guest.dump_formats()?;
    let known = |wanted| formats.iter().any(|format| format == wanted);
    ensure!(known("elf") && known("kdump-zlib"), "QEMU writes {formats:?}");
    for format in &formats {
        files.push(folder.join(format));
        guest.dump(&folder.join(format), format)?;
    }
    let live = Target::open(&format!("pid:{}", guest.pid()))?;
    let qemus = Target::open(&folder.join("elf").display().to_string())?;
    for (name, format, source) in
        [("ours.lime", WriteFormat::Lime, &live), ("ours.elf", WriteFormat::Elf, &qemus)]
    {
        files.push(folder.join(name));
        write_file(&*source.memory(), &folder.join(name), format, Existing::Keep, &mut |_, _| ())?;
    }
    // makedumpfile takes no ELF core that has its section headers in front, as QEMU's do; ours it takes.
    for (name, option) in
        [("makedumpfile-zlib", "-c"), ("makedumpfile-lzo", "-l"), ("makedumpfile-elf", "-E")]
    {
        files.push(folder.join(name));
        let mut command = Command::new("makedumpfile");
        command.args([option, "-d", "0"]).arg(folder.join("ours.elf")).arg(folder.join(name));
        let output = command.env("TMPDIR", folder).output().context("cannot start makedumpfile")?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    }
    Ok(files)
}

fn live_and_dumps(spec: &Spec) -> Result<()> {
    let (guest, truth) = stopped(spec)?;
    hold(&format!("pid:{}", guest.pid()), &truth)?;
    let folder = tempfile::tempdir_in(guest.ram_file().parent().context("no folder")?)?;
    for file in dumps(&guest, folder.path())? {
        hold(&file.display().to_string(), &truth)?;
    }
    Ok(())
}

/// A test for each kernel and paging mode: with one CPU live and from dumps, with two live.
macro_rules! matrix {
    ($($name:ident: $kernel:ident $paging:ident,)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn one_cpu_live_and_from_dumps() -> Result<()> {
                live_and_dumps(&Spec::new(KernelVersion::$kernel, Paging::$paging))
            }

            #[test]
            fn two_cpus_live() -> Result<()> {
                let (guest, truth) =
                    stopped(&Spec { vcpus: 2, ..Spec::new(KernelVersion::$kernel, Paging::$paging) })?;
                hold(&format!("pid:{}", guest.pid()), &truth)
            }
        })*
    };
}

matrix! {
    linux_5_10_four_levels: V5_10 Four,
    linux_5_10_five_levels: V5_10 Five,
    linux_6_1_four_levels: V6_1 Four,
    linux_6_1_five_levels: V6_1 Five,
    linux_6_12_four_levels: V6_12 Four,
    linux_6_12_five_levels: V6_12 Five,
    linux_7_x_four_levels: V7 Four,
    linux_7_x_five_levels: V7 Five,
}

fn every_symbol(kernel: KernelVersion, paging: Paging) -> Result<()> {
    let guest = Guest::boot(&Spec::new(kernel, paging))?;
    let told = guest.kallsyms()?;
    guest.stop()?;
    let attached = find::attach_target(&Target::open(&format!("pid:{}", guest.pid()))?, None)?;
    println!("{} symbols equal", lynceus_lab_compare::hold_symbols(&attached.guest, &told)?);
    Ok(())
}

#[test]
fn every_symbol_of_5_10() -> Result<()> {
    every_symbol(KernelVersion::V5_10, Paging::Four)
}

#[test]
fn every_symbol_of_6_1() -> Result<()> {
    every_symbol(KernelVersion::V6_1, Paging::Five)
}

#[test]
fn every_symbol_of_6_12() -> Result<()> {
    every_symbol(KernelVersion::V6_12, Paging::Four)
}

#[test]
fn every_symbol_of_7_x() -> Result<()> {
    every_symbol(KernelVersion::V7, Paging::Five)
}

/// Formats that no tool of Debian 12 writes, as their own tools do.
#[test]
fn formats_without_a_tool_here() -> Result<()> {
    let spec = Spec { vcpus: 2, ..Spec::new(KernelVersion::V6_12, Paging::Four) };
    let frozen = images::frozen(&spec)?;
    let ram = vec![(0, std::fs::read(&frozen.ram)?)];
    for (name, bytes) in [
        ("AVML", fixture::avml(&ram)),
        ("kdump-snappy", fixture::kdump(&ram, Compression::Snappy)),
        ("kdump-zstd", fixture::kdump(&ram, Compression::Zstd)),
    ] {
        let file = fixture::file(&bytes);
        hold(&file.path().display().to_string(), &frozen.truth).context(name)?;
    }
    Ok(())
}

#[test]
fn ram_above_the_pci_hole() -> Result<()> {
    let (guest, truth) =
        stopped(&Spec { memory_mib: 4096, vcpus: 2, ..Spec::new(KernelVersion::V6_1, Paging::Five) })?;
    hold(&format!("pid:{}", guest.pid()), &truth)?;
    // The file behind the RAM has no hole in it: where the upper part belongs has to be found out.
    hold(&guest.ram_file().display().to_string(), &truth)
}
