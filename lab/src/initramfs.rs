//! The guest's initramfs: its PID 1 (ours), busybox, a few kernel modules, and the lab's own.
//!
//! Format: newc cpio (`Documentation/driver-api/early-userspace/buffer-format.rst`), not compressed: it is read once.

use crate::folder;
use crate::kernels::{Kernel, run};
use crate::module;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules to load, in this order; those that a kernel has built in are left out.
/// `x_tables` has a table of alternatives with a single entry; `qemu_fw_cfg` tells QEMU where the kernel keeps its vmcoreinfo,
/// which makedumpfile wants to find in a dump.
const MODULES: &[&str] = &["llc", "stp", "bridge", "dummy", "veth", "x_tables", "qemu_fw_cfg"];
/// The same for a guest with a network card of virtio's.
const CARD_MODULES: &[&str] = &[
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];
/// The same for a Xen domain.
const XEN_CARD_MODULES: &[&str] = &["xen-netfront"];
/// At hand in a guest with a card, and not loaded: it sends packets of the kernel's own.
const AT_HAND: &[&str] = &["configfs", "netconsole"];
const GUEST: &str = "lynceus-lab-guest";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// A kernel's initramfs, kept under the digest of what is in it.
pub fn build(kernel: &Kernel) -> Result<PathBuf> {
    build_with(kernel, &[])
}

/// The same, with what a network card needs.
pub fn build_with_card(kernel: &Kernel) -> Result<PathBuf> {
    build_with(kernel, CARD_MODULES)
}

/// The same, with what a Xen domain's network card needs.
pub(crate) fn build_with_xen_card(kernel: &Kernel) -> Result<PathBuf> {
    build_with(kernel, XEN_CARD_MODULES)
}

fn build_with(kernel: &Kernel, more: &[&str]) -> Result<PathBuf> {
    let archive = pack(kernel, &guest_program()?, more)?;
    let digest = blake3::hash(&archive).to_hex();
    let name = format!("initramfs/{}-{}", kernel.release, digest.get(..16).unwrap_or_default());
    let folder = folder::once(&name, |folder| Ok(fs::write(folder.join("initramfs"), &archive)?))?;
    Ok(folder.join("initramfs"))
}

/// The guest's PID 1, linked statically: it runs where no library is. Cargo knows whether it has to be built again.
pub(crate) fn guest_program() -> Result<PathBuf> {
    // Working trees may share the lab's folder, but cargo would take the program of one for that of another.
    let tree = blake3::hash(folder::workspace().as_os_str().as_encoded_bytes()).to_hex();
    let tree = tree.get(..8).unwrap_or_default();
    let target = folder::lab(&format!("guest/{tree}"))?;
    let lock = fs::File::create(folder::lab("locks")?.join(format!("guest-{tree}")))?;
    lock.lock()?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--package", GUEST, "--target", TRIPLE, "--target-dir"]);
    cargo.arg(&target).current_dir(folder::workspace());
    // What the tests' own cargo was told must not reach this one.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_ENCODED") || name.starts_with("CARGO_TARGET_DIR"))
        {
            cargo.env_remove(name);
        }
    }
    run(cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols"))?;
    Ok(target.join(TRIPLE).join("release").join(GUEST))
}

fn pack(kernel: &Kernel, guest: &Path, more: &[&str]) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let mut cpio = Cpio::default();
    for folder in ["bin", "dev", "modules", "proc", "run", "sys", "tmp"] {
        cpio.folder(folder);
    }
    cpio.device("dev/console", 5, 1);
    cpio.file("init", 0o755, &read(guest)?);
    cpio.file("bin/busybox", 0o755, &read(Path::new("/bin/busybox"))?);
    for name in module::ALL {
        cpio.file(&format!("{name}.ko"), 0o644, &read(&module::build(kernel, name)?)?);
    }
    let mut order = String::new();
    for name in MODULES.iter().chain(more) {
        if let Some(code) = find_module(&kernel.modules, name)? {
            cpio.file(&format!("modules/{name}.ko"), 0o644, &code);
            order.push_str(&format!("{name}.ko\n"));
        }
    }
    for name in AT_HAND.iter().filter(|_| more == CARD_MODULES) {
        if let Some(code) = find_module(&kernel.modules, name)? {
            cpio.file(&format!("modules/{name}.ko"), 0o644, &code);
        }
    }
    cpio.file("modules/order", 0o644, order.as_bytes());
    Ok(cpio.finish())
}

/// A module's code, unpacked; `None` where the kernel has it built in.
pub(crate) fn find_module(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
                continue;
            }
            let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            if file == format!("{name}.ko") {
                return Ok(Some(fs::read(&path)?));
            }
            if file == format!("{name}.ko.xz") {
                let mut code = Vec::new();
                let mut unpacked = lzma_rust2::XzReader::new(fs::File::open(&path)?, false);
                std::io::Read::read_to_end(&mut unpacked, &mut code)?;
                return Ok(Some(code));
            }
        }
    }
    Ok(None)
}

/// A newc archive under construction.
#[derive(Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | mode, content, (0, 0));
    }
    pub(crate) fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[], (0, 0));
    }
    pub(crate) fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, 0o020_600, &[], (major, minor));
    }
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }
    fn entry(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.inode += 1;
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        self.bytes.extend(b"070701");
        for word in [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0] {
            self.bytes.extend(format!("{word:08x}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Cpio;

    #[test]
    fn an_archive_is_what_cpio_makes() {
        let mut cpio = Cpio::default();
        cpio.folder("bin");
        cpio.file("bin/x", 0o755, b"hello");
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"07070100000001000041ed"));
        let file = bytes.windows(5).position(|part| part == b"hello").unwrap();
        assert_eq!(&bytes[file + 5..file + 8], [0; 3]);
    }
}
