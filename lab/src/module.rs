//! The lab's own kernel modules, compiled for a kernel of the matrix: one hides itself and a process, one attacks the kernel.
//!
//! Without kbuild: its tools belong to the compiler that built the kernel, which a test machine does not have. The flags are
//! those of `arch/x86/Makefile` that change the ABI, and the headers' own configuration decides everything else.

use crate::folder;
use crate::kernels::{Kernel, run};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules: `lab/module/NAME.c`, loaded as `lynceus_lab_NAME`.
pub const ALL: [&str; 2] = ["hide", "attack"];

const FLAGS: &[&str] = &[
    "-D__KERNEL__",
    "-DCC_USING_FENTRY",
    "-DMODULE",
    "-std=gnu11",
    "-fms-extensions",
    "-fshort-wchar",
    "-funsigned-char",
    "-fno-strict-aliasing",
    "-fno-common",
    "-fno-PIE",
    "-fno-delete-null-pointer-checks",
    "-fno-asynchronous-unwind-tables",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-m64",
    "-mcmodel=kernel",
    "-mno-red-zone",
    "-mno-sse",
    "-mno-sse2",
    "-mno-mmx",
    "-mno-3dnow",
    "-mno-avx",
    "-mno-80387",
    "-mno-fp-ret-in-387",
    "-mpreferred-stack-boundary=3",
    "-mskip-rax-setup",
    "-O2",
    "-w",
    "-c",
];

/// Compiles a module for a kernel, once for each version of its source.
pub fn build(kernel: &Kernel, name: &str) -> Result<PathBuf> {
    let source = source(name);
    let text = std::fs::read(&source).with_context(|| source.display().to_string())?;
    let digest = blake3::hash(&text).to_hex();
    let kept = format!("modules/{}-{}", kernel.release, digest.get(..16).unwrap_or_default());
    let file = format!("{name}.ko");
    let folder = folder::once(&kept, |folder| compile(kernel, name, &folder.join(&file), &[]))?;
    Ok(folder.join(file))
}

fn source(name: &str) -> PathBuf {
    folder::workspace().join(format!("lab/module/{name}.c"))
}

/// Writes an ELF file with the debug information of everything in the kernel's headers that the module knows of, in that
/// version of DWARF.
pub fn debug_types(kernel: &Kernel, dwarf: u8, out: &Path) -> Result<()> {
    let object = out.with_extension("o");
    let version = format!("-gdwarf-{dwarf}");
    // Without this the compiler leaves out the types that no variable has.
    let flags = [&version, "-fno-eliminate-unused-debug-types"];
    compile(kernel, "hide", &object, &flags)?;
    let mut ld = Command::new("ld");
    run(ld.args(["--unresolved-symbols=ignore-all", "-e", "0", "-o"]).arg(out).arg(&object))
}

fn compile(kernel: &Kernel, name: &str, out: &Path, flags: &[&str]) -> Result<()> {
    let own = kernel.headers.join(format!("linux-headers-{}", kernel.release));
    let base = kernel.release.trim_end_matches("-cloud-amd64");
    let common = kernel.headers.join(format!("linux-headers-{base}-common"));
    let include = Command::new("gcc").arg("-print-file-name=include").output().context("cannot start gcc")?;
    let mut gcc = Command::new("gcc");
    gcc.args(["-nostdinc", "-isystem"]).arg(String::from_utf8_lossy(&include.stdout).trim());
    for folder in [
        common.join("arch/x86/include"),
        own.join("arch/x86/include/generated"),
        common.join("include"),
        own.join("include"),
        common.join("arch/x86/include/uapi"),
        own.join("arch/x86/include/generated/uapi"),
        common.join("include/uapi"),
        own.join("include/generated/uapi"),
    ] {
        gcc.arg("-I").arg(folder);
    }
    for header in ["kconfig.h", "compiler_types.h"] {
        gcc.arg("-include").arg(common.join("include/linux").join(header));
    }
    gcc.arg(format!("-DKBUILD_MODFILE=\"{name}\"")).arg(format!("-DKBUILD_BASENAME=\"{name}\""));
    gcc.arg(format!("-DKBUILD_MODNAME=\"lynceus_lab_{name}\""));
    gcc.arg(format!("-D__KBUILD_MODNAME=kmod_lynceus_lab_{name}"));
    run(gcc.args(FLAGS).args(flags).arg("-o").arg(out).arg(source(name)))
}
