//! Debian's own kernels, downloaded once.
//!
//! Each suite's package lists are read with apt's own tools into folders of ours, so that neither the machine's sources nor its
//! installed packages matter; the mirror is the one that the machine uses. Packages are unpacked, never installed.

use crate::folder;
use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const FALLBACK_MIRROR: &str = "http://deb.debian.org/debian";

/// A kernel of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum KernelVersion {
    /// Debian 11.
    V5_10,
    /// Debian 12.
    V6_1,
    /// Debian 13.
    V6_12,
    /// The newest of sid.
    V7,
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Which.
    pub version: KernelVersion,
    /// `uname -r`.
    pub release: String,
    /// The compressed kernel.
    pub vmlinuz: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// `usr/src`, with the headers.
    pub headers: PathBuf,
}

impl KernelVersion {
    /// The matrix.
    pub const ALL: [KernelVersion; 4] =
        [KernelVersion::V5_10, KernelVersion::V6_1, KernelVersion::V6_12, KernelVersion::V7];

    pub(crate) fn suite(self) -> &'static str {
        match self {
            KernelVersion::V5_10 => "bullseye",
            KernelVersion::V6_1 => "bookworm",
            KernelVersion::V6_12 => "trixie",
            KernelVersion::V7 => "sid",
        }
    }

    /// How the names of the packages with the kernel begin: sid splits image and modules.
    fn images(self) -> &'static [(&'static str, &'static str)] {
        match self {
            KernelVersion::V5_10 => &[("linux-image-5.10.", "-cloud-amd64-unsigned")],
            KernelVersion::V6_1 => &[("linux-image-6.1.", "-cloud-amd64-unsigned")],
            KernelVersion::V6_12 => &[("linux-image-6.12.", "-cloud-amd64-unsigned")],
            KernelVersion::V7 => &[("linux-binary-7.", "-cloud-amd64"), ("linux-modules-7.", "-cloud-amd64")],
        }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KernelVersion::V5_10 => "5.10",
            KernelVersion::V6_1 => "6.1",
            KernelVersion::V6_12 => "6.12",
            KernelVersion::V7 => "7.x",
        })
    }
}

/// Downloads the whole matrix.
pub fn fetch_all() -> Result<()> {
    KernelVersion::ALL.into_iter().try_for_each(|version| fetch(version).map(drop))
}

/// Downloads a kernel with its headers, or finds it.
pub fn fetch(version: KernelVersion) -> Result<Kernel> {
    let folder = folder::once(&format!("kernels/{version}"), |folder| {
        println!("downloading Debian's kernel {version}");
        download(version, folder).with_context(|| format!("cannot download the kernel {version}"))
    })?;
    find(version, &folder)
}

fn download(version: KernelVersion, folder: &Path) -> Result<()> {
    let apt = Apt::new(version.suite(), &folder.join("apt"))?;
    let names = apt.names()?;
    let mut packages = Vec::new();
    for (start, end) in version.images() {
        let fits = |name: &&String| name.starts_with(start) && name.ends_with(end) && !name.contains("-rt-");
        let newest = names.iter().filter(fits).max_by_key(|name| numbers(name));
        packages.push(
            newest.with_context(|| format!("no package {start}*{end} in {}", version.suite()))?.clone(),
        );
    }
    let (start, end) = version.images().first().copied().context("no image")?;
    let kind = start.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let release = packages.first().and_then(|name| name.strip_prefix(kind)).context("no release")?;
    let release = release.strip_suffix("-unsigned").unwrap_or(release).to_owned();
    let _ = end;
    packages.push(format!("linux-headers-{release}"));
    packages.push(format!("linux-headers-{}-common", release.trim_end_matches("-cloud-amd64")));
    let debs = folder.join("debs");
    fs::create_dir_all(&debs)?;
    apt.download(&packages, &debs)?;
    for deb in fs::read_dir(&debs)? {
        run(Command::new("dpkg").arg("-x").arg(deb?.path()).arg(folder))?;
    }
    fs::remove_dir_all(&debs)?;
    fs::remove_dir_all(folder.join("apt"))?;
    fs::write(folder.join("release"), release)?;
    Ok(())
}

/// The numbers in a package's name, to tell the newest.
pub(crate) fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn find(version: KernelVersion, folder: &Path) -> Result<Kernel> {
    let release = fs::read_to_string(folder.join("release"))?;
    // Since the merge of / and /usr packages differ in where they put things.
    let first = |choices: [PathBuf; 2]| choices.into_iter().find(|path| path.exists());
    let modules =
        first([folder.join("lib/modules").join(&release), folder.join("usr/lib/modules").join(&release)]);
    let modules = modules.with_context(|| format!("{}: no modules of {release}", folder.display()))?;
    let vmlinuz = first([folder.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")]);
    let vmlinuz = vmlinuz.with_context(|| format!("{}: no vmlinuz of {release}", folder.display()))?;
    Ok(Kernel { version, release, vmlinuz, modules, headers: folder.join("usr/src") })
}

/// apt's tools with everything of their own in one folder.
pub(crate) struct Apt {
    options: Vec<String>,
}

impl Apt {
    pub(crate) fn new(suite: &str, folder: &Path) -> Result<Apt> {
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(name))?;
        }
        fs::write(folder.join("status"), "")?;
        let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror());
        fs::write(folder.join("sources.list"), source)?;
        let path = |name: &str| folder.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", path("sources.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={}", path("lists")),
            format!("Dir::Cache={}", path("cache")),
            format!("Dir::State::status={}", path("status")),
            "APT::Architecture=amd64".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // A mirror's copy of sid's Release file may be some days old: its signature counts.
            "Acquire::Check-Valid-Until=false".to_owned(),
            // Our folders belong to whoever runs the tests.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let apt =
            Apt { options: options.iter().flat_map(|option| ["-o".to_owned(), option.clone()]).collect() };
        run(apt.command("apt-get").arg("-q").arg("update"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// Names of the packages that begin with `linux-`.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let output = self.command("apt-cache").args(["pkgnames", "linux-"]).output()?;
        if !output.status.success() {
            bail!("apt-cache pkgnames: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    pub(crate) fn download(&self, packages: &[String], into: &Path) -> Result<()> {
        run(self.command("apt-get").arg("-q").arg("download").args(packages).current_dir(into))
    }
}

/// The Debian mirror that this machine uses.
pub(crate) fn mirror() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(
        fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .filter_map(|file| Some(file.ok()?.path())),
    );
    let text: String = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let lines = text.lines().filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
    let mut words = lines.flat_map(str::split_whitespace);
    let is_mirror = |word: &&str| word.contains("://") && word.trim_end_matches('/').ends_with("/debian");
    words.find(is_mirror).unwrap_or(FALLBACK_MIRROR).to_owned()
}

/// Runs a program whose output matters only when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{shown}: {}\n{}", output.status, String::from_utf8_lossy(&text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn the_newest_package_is_told_by_its_numbers() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-10-cloud-amd64",
        ];
        assert_eq!(names.iter().max_by_key(|name| numbers(name)), Some(&names[1]));
    }
}
