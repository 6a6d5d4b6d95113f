//! dom0's initramfs: its PID 1 (ours), the toolstack with its libraries, the firewall's programs, and the guests' kernels.

use super::{Part, Programs, starting_with};
use crate::initramfs::{self, Cpio};
use crate::kernels::{self, KernelVersion, run};
use crate::luggage::{FIREWALL_MODULES, needed_by, stripped, with_needed};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kernel modules of dom0 beside the firewall's: what the toolstack wants.
const MODULES: &[&str] = &[
    "xen-privcmd",
    "xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-netback",
    // Which libcrc32c, and so nf_tables, asks for without naming it.
    "crc32c_generic",
];
/// Of xen-utils, by where dom0's program expects them.
const TOOLS: &str = "usr/lib/xen-4.17/bin";
const PROGRAMS: &[&str] = &["xl", "xenstored", "xenconsoled", "xen-init-dom0", "libxl-save-helper"];
/// XenStore's tools, which the scripts for network cards call.
const STORE: &[&str] = &["read", "write", "exists", "rm", "list"];
/// This machine's programs, which they and the firewall call.
const HOSTS: &[&str] = &["/bin/bash", "/usr/bin/flock", "/usr/sbin/ip", "/usr/sbin/nft"];
const FOLDERS: &[&str] = &[
    "bin",
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "etc",
    "etc/xen",
    "etc/xen/scripts",
    "guests",
    "lib",
    "lib/x86_64-linux-gnu",
    "lib64",
    "modules",
    "usr",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib/xen-4.17",
    TOOLS,
    "var",
    "var/lib",
    "var/lib/xen",
    "var/log",
    "var/log/xen",
    "var/lock",
];

/// The archive.
pub(super) fn pack(given: &Programs, unpacked: &Path, parts: &[Part], folder: &Path) -> Result<Vec<u8>> {
    let root = unpacked.join("root");
    let mut cpio = Cpio::default();
    FOLDERS.iter().for_each(|folder| cpio.folder(folder));
    cpio.device("dev/console", 5, 1);
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let init = format!(
        "#!/bin/busybox sh\nexport PATH={path}\nexec /bin/dom0 --ignored --exact --nocapture {}\n",
        given.test
    );
    cpio.file("init", 0o755, init.as_bytes());
    add(&mut cpio, "bin/busybox", Path::new("/bin/busybox"))?;
    add_programs(&mut cpio, given, &root, folder)?;
    add(&mut cpio, "etc/xen/xl.conf", &root.join("etc/xen/xl.conf"))?;
    // nft looks protocols up by name.
    add(&mut cpio, "etc/protocols", Path::new("/etc/protocols"))?;
    for script in fs::read_dir(root.join("etc/xen/scripts"))? {
        let script = script?;
        let name = script.file_name();
        add(&mut cpio, &format!("etc/xen/scripts/{}", name.to_string_lossy()), &script.path())?;
    }
    add_modules(&mut cpio, &root)?;
    add_guests(&mut cpio, parts)?;
    Ok(cpio.finish())
}

fn add(cpio: &mut Cpio, name: &str, path: &Path) -> Result<()> {
    let content = fs::read(path).with_context(|| path.display().to_string())?;
    cpio.file(name, 0o755, &content);
    Ok(())
}

fn add_programs(cpio: &mut Cpio, given: &Programs, root: &Path, folder: &Path) -> Result<()> {
    let foreign = folder.join("foreign");
    compile_foreign(&given.foreign, root, &foreign)?;
    let mut programs: Vec<(String, PathBuf)> =
        PROGRAMS.iter().map(|name| (format!("{TOOLS}/{name}"), root.join(TOOLS).join(name))).collect();
    for name in STORE.iter().map(|name| format!("usr/bin/xenstore-{name}")) {
        let path = root.join(&name);
        programs.push((name, path));
    }
    for path in HOSTS {
        programs.push((path.trim_start_matches('/').to_owned(), PathBuf::from(path)));
    }
    programs.push(("bin/foreign".to_owned(), foreign));
    programs.push(("bin/dom0".to_owned(), given.init.clone()));
    programs.push(("bin/lynceus".to_owned(), given.lynceus.clone()));
    let mut libraries = BTreeSet::from([PathBuf::from("/usr/lib/x86_64-linux-gnu/libgcc_s.so.1")]);
    for (name, path) in &programs {
        cpio.file(name, 0o755, &stripped(path)?);
        libraries.extend(needed_by(path, Some(&root.join("usr/lib/x86_64-linux-gnu")))?);
    }
    for library in libraries {
        let name = library.file_name().and_then(|name| name.to_str()).context("a library without a name")?;
        add(cpio, &format!("lib/x86_64-linux-gnu/{name}"), &library)?;
    }
    add(cpio, "lib64/ld-linux-x86-64.so.2", Path::new("/lib64/ld-linux-x86-64.so.2"))
}

fn add_modules(cpio: &mut Cpio, root: &Path) -> Result<()> {
    let mut order = String::new();
    let folder = starting_with(&root.join("lib/modules"), "6.")?;
    for (name, code) in with_needed(&folder, &[MODULES, FIREWALL_MODULES].concat())? {
        cpio.file(&format!("modules/{name}.ko"), 0o644, &code);
        order.push_str(&format!("{name}\n"));
    }
    cpio.file("modules/order", 0o644, order.as_bytes());
    Ok(())
}

fn add_guests(cpio: &mut Cpio, parts: &[Part]) -> Result<()> {
    let plan: Vec<String> = parts.iter().map(Part::to_string).collect();
    cpio.file("guests/plan", 0o644, plan.join("\n").as_bytes());
    let versions: BTreeSet<KernelVersion> = parts.iter().flat_map(Part::kernels).collect();
    for version in versions {
        let kernel = kernels::fetch(version)?;
        add(cpio, &format!("guests/{version}"), &kernel.vmlinuz)?;
        add(cpio, &format!("guests/{version}.initramfs"), &initramfs::build_with_xen_card(&kernel)?)?;
    }
    Ok(())
}

/// The program that reads a domain through Xen's own library.
fn compile_foreign(source: &Path, root: &Path, out: &Path) -> Result<()> {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-I"]).arg(root.join("usr/include")).arg("-o").arg(out);
    gcc.arg(source);
    // Its own libraries are found when it runs.
    gcc.arg(libraries.join("libxenforeignmemory.so.1")).args(["-Wl,--allow-shlib-undefined"]);
    run(&mut gcc)
}
