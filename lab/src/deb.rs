//! The Debian package of a program that is built.
//!
//! *Does*: puts the program, its man pages and completions, the service and the examples where Debian has them, and has dpkg-deb pack them.

use crate::folder::workspace;
use crate::kernels::run;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Packs `program` as `version` to `out`.
pub fn pack(program: &Path, version: &str, out: &Path) -> Result<()> {
    let tree = tempfile::tempdir().context("no room for the package's files")?;
    fill(tree.path(), program)?;
    control(tree.path(), version)?;
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zxz", "-z1", "--build"])
        .arg(tree.path())
        .arg(out))
}

fn fill(tree: &Path, program: &Path) -> Result<()> {
    let installed = tree.join("usr/bin/lynceus");
    copy(program, &installed, 0o755)?;
    run(Command::new("strip").arg(&installed))?;
    let packaging = workspace().join("packaging");
    copy(&packaging.join("lynceus.service"), &tree.join("lib/systemd/system/lynceus.service"), 0o644)?;
    copy(&packaging.join("lynceus.toml"), &tree.join("etc/lynceus/lynceus.toml"), 0o640)?;
    let documents = tree.join("usr/share/doc/lynceus");
    for name in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        copy(&workspace().join(name), &documents.join(name), 0o644)?;
    }
    copy_all(&workspace().join("docs"), &documents.join("docs"))?;
    copy_all(&workspace().join("examples"), &documents.join("examples"))?;
    let pages = tree.join("usr/share/man/man1");
    run(Command::new(&installed).arg("man").arg(&pages))?;
    for page in fs::read_dir(&pages)? {
        run(Command::new("gzip").args(["-9", "-n"]).arg(page?.path()))?;
    }
    for (shell, place) in [
        ("bash", "usr/share/bash-completion/completions/lynceus"),
        ("zsh", "usr/share/zsh/vendor-completions/_lynceus"),
        ("fish", "usr/share/fish/vendor_completions.d/lynceus.fish"),
    ] {
        let script = Command::new(&installed).args(["completions", shell]).output()?;
        if !script.status.success() {
            bail!("lynceus completions {shell}: {}", script.status);
        }
        write(&tree.join(place), &script.stdout, 0o644)?;
    }
    Ok(())
}

fn control(tree: &Path, version: &str) -> Result<()> {
    let kib = kib(tree)?;
    let text = format!(
        "Package: lynceus\nVersion: {version}\nArchitecture: amd64\nMaintainer: {}\nInstalled-Size: {kib}\n\
         Depends: libc6 (>= 2.36), netbase, nftables (>= 1.0.6)\nSection: admin\nPriority: optional\n\
         Description: agentless security for virtual machines\n \
         Looks into the VMs of a Xen or QEMU/KVM host from outside, finds rootkits and\n \
         malware, and enforces a firewall on each VM's virtual network card. Nothing\n \
         runs inside the guest.\n",
        env!("CARGO_PKG_AUTHORS")
    );
    write(&tree.join("DEBIAN/control"), text.as_bytes(), 0o644)?;
    write(&tree.join("DEBIAN/conffiles"), b"/etc/lynceus/lynceus.toml\n", 0o644)?;
    for script in ["postinst", "prerm", "postrm"] {
        copy(&workspace().join("packaging").join(script), &tree.join("DEBIAN").join(script), 0o755)?;
    }
    Ok(())
}

pub(crate) fn kib(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() { kib(&entry.path())? } else { about.len().div_ceil(1024) };
    }
    Ok(sum)
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &to)?
        } else {
            copy(&entry.path(), &to, 0o644)?
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    write(to, &fs::read(from).with_context(|| from.display().to_string())?, mode)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let named = || path.display().to_string();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(named)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).with_context(named)?;
    }
    fs::write(path, bytes).with_context(named)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(named)
}
