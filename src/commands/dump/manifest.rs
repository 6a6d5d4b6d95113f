//! What a dump is, in a file beside it: whose memory, when, of which kernel, and a digest of the file.
//!
//! *Does*: reads the finished file again from the disk, so that the digest is of what is there and not of what was meant.
//! *Trusts*: no string of the guest's; JSON escapes them. *Never*: calls a dump whole that lacks something, or of one instant that is not.

use crate::commands::ps::rfc3339;
use anyhow::{Context, Result};
use lynceus_introspect::backend::dump::write::WriteReport;
use lynceus_introspect::find;
use lynceus_introspect::target::Target;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes of the file that are digested at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// What a dump is.
#[derive(Serialize)]
pub(crate) struct Manifest {
    /// What the admin called the VM.
    target: String,
    uuid: Option<String>,
    /// How its memory was reached.
    source: String,
    started: Option<String>,
    finished: Option<String>,
    kernel: Option<Kernel>,
    /// Why the kernel is not known.
    no_kernel: Option<String>,
    written_by: &'static str,
    file: String,
    format: &'static str,
    file_bytes: u64,
    sha256: String,
    memory_bytes: u64,
    /// All of it was read while the guest stood still.
    consistent: bool,
    /// Guest-physical ranges that could not be read: start and length in bytes.
    unreadable: Vec<(u64, u64)>,
}

#[derive(Serialize)]
struct Kernel {
    release: String,
    banner: String,
    build_id: Option<String>,
}

/// A dump that was written.
pub(crate) struct Written<'a> {
    /// What the admin called the VM.
    pub(crate) name: &'a str,
    pub(crate) file: &'a Path,
    pub(crate) format: &'static str,
    pub(crate) report: &'a WriteReport,
    pub(crate) consistent: bool,
    pub(crate) started: SystemTime,
    pub(crate) finished: SystemTime,
}

/// Where a dump's manifest is.
pub(crate) fn path_of(dump: &Path) -> PathBuf {
    let mut name = dump.as_os_str().to_owned();
    name.push(".manifest.json");
    PathBuf::from(name)
}

/// Writes the manifest of a dump of `target` beside it, and returns it. Replaces one that is there: the dump was replaced as well.
pub(crate) fn write(target: &Target, dump: &Written<'_>) -> Result<Manifest> {
    let (kernel, no_kernel) = match find::attach_target(target, None) {
        Ok(found) => {
            let identity = found.guest.kernel().profile.identity.clone();
            let build_id = identity.build_id.map(|id| id.to_string());
            (Some(Kernel { release: identity.release, banner: identity.banner, build_id }), None)
        }
        Err(why) => (None, Some(why.to_string())),
    };
    let manifest = Manifest {
        target: dump.name.to_owned(),
        uuid: target.uuid().map(str::to_owned),
        source: target.describe(),
        started: rfc3339(dump.started),
        finished: rfc3339(dump.finished),
        kernel,
        no_kernel,
        written_by: concat!("lynceus ", env!("CARGO_PKG_VERSION")),
        file: dump.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        format: dump.format,
        file_bytes: dump.report.file_bytes,
        sha256: digest(dump.file).with_context(|| dump.file.display().to_string())?,
        memory_bytes: dump.report.memory_bytes,
        consistent: dump.consistent,
        unreadable: super::unreadable(dump.report),
    };
    let path = path_of(dump.file);
    save(&path, &manifest).with_context(|| path.display().to_string())?;
    Ok(manifest)
}

impl Manifest {
    /// The digest of the file.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }
}

fn digest(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            read => hash.update(chunk.get(..read).unwrap_or_default()),
        }
    }
}

fn save(path: &Path, manifest: &Manifest) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    serde_json::to_writer_pretty(&mut file, manifest)?;
    file.write_all(b"\n")?;
    Ok(file.sync_all()?)
}
