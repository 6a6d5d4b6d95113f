//! Evidence of real findings: kept in small files, seen again with no VM, refused when it was changed.

use anyhow::{Context, Result, ensure};
use lynceus_lab::attacks::ATTACKS;
use lynceus_lab::{Guest, KernelVersion, Paging, Spec, kernels};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn lynceus(args: &[&str], profiles: &Path) -> Result<(i32, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lynceus"));
    let Output { status, stdout, stderr } = command.args(args).env("LYNCEUS_PROFILES", profiles).output()?;
    let text = String::from_utf8([stdout, stderr].concat())?;
    Ok((status.code().context("killed")?, text))
}

fn is_seen_again_without_its_vm(name: &str) -> Result<()> {
    let kernel = KernelVersion::V6_12;
    let vmlinuz = kernels::fetch(kernel)?.vmlinuz.display().to_string();
    let folder = tempfile::tempdir()?;
    let [here, elsewhere, kept] = ["here", "elsewhere", "kept"].map(|name| folder.path().join(name));
    let guest = Guest::boot(&Spec::everyday(kernel, Paging::Five))?;
    let attack = ATTACKS.iter().find(|attack| attack.name == name).context("no such attack")?;
    guest.attack(attack)?;
    let target = format!("pid:{}", guest.pid());
    let (code, text) = lynceus(&["check", &target, "--evidence", &kept.display().to_string()], &here)?;
    ensure!(code == 1, "{code}: {text}");
    drop(guest);
    let files: Vec<_> = fs::read_dir(&kept)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    ensure!(!files.is_empty(), "no evidence: {text}");
    for file in files {
        let path = file.display().to_string();
        let bytes = fs::read(&file)?;
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        println!("{name}: {} bytes, {lines} lines", bytes.len());
        ensure!(bytes.len() < 2 << 20, "{} bytes are not small", bytes.len());
        // On another machine, which knows nothing of that kernel but its file.
        let (code, text) = lynceus(&["replay", &path, "--kernel", &vmlinuz], &elsewhere)?;
        ensure!(code == 1 && text.contains("ALERT"), "{code}: {text}");
        let (code, text) = lynceus(&["replay", &path], &elsewhere)?;
        ensure!(code == 2 && text.contains("--kernel"), "{code}: {text}");
        // A bit of a page.
        let mut changed = bytes.clone();
        let at = changed.len() / 2;
        changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
        fs::write(&file, &changed)?;
        let (code, text) = lynceus(&["replay", &path, "--kernel", &vmlinuz], &elsewhere)?;
        ensure!(code == 2, "{code}: {text}");
        // Another kernel's file.
        fs::write(&file, &bytes)?;
        let other = kernels::fetch(KernelVersion::V6_1)?.vmlinuz.display().to_string();
        let (code, text) = lynceus(&["replay", &path, "--kernel", &other], &elsewhere)?;
        ensure!(code == 2 && text.contains("another kernel"), "{code}: {text}");
    }
    Ok(())
}

/// A finding of each of these attacks.
macro_rules! of_attacks {
    ($($test:ident: $attack:literal,)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            is_seen_again_without_its_vm($attack)
        })*
    };
}

of_attacks! {
    of_a_byte_of_the_kernels_code: "byte inside of a function",
    of_a_table_of_operations: "listing of sockets",
    of_a_hook_of_packets: "sight of packets",
    of_an_executable: "executable in shared memory",
    of_an_interrupt_table: "interrupt table of one's own",
}
